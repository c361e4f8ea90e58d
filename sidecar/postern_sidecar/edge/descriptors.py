"""File descriptors as a resource: how many sessions there is room for, and who is told when there is room again.

The soft limit is raised to the hard one. `RESERVE` descriptors stay for the admin port, DNS, logs and a reload, so
`/healthz` answers while the inbound side is out of them (contracts section 2).
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

RESERVE = 64
PER_SESSION = 2


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one; what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


def open_now() -> int:
    """How many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class Room:
    """Sessions that still fit. `on_full` is called when the last place went, `on_free` when there is one again."""

    def __init__(self, limit: int, in_use: int, on_full: Callable[[], None], on_free: Callable[[], None]) -> None:
        self.capacity = (limit - in_use - RESERVE) // PER_SESSION
        self.taken = 0
        self.full = False
        self._on_full = on_full
        self._on_free = on_free
        if self.capacity < 1:
            raise ValueError(
                f"the limit of {limit} open files leaves no room for sessions ({in_use} in use, {RESERVE} reserved); "
                f"raise it: ulimit -n 65536, LimitNOFILE= in a unit, or the container runtime's limit"
            )

    def take(self) -> None:
        self.taken += 1
        if self.taken >= self.capacity and not self.full:
            self.full = True
            self._on_full()

    def give(self) -> None:
        self.taken -= 1
        if self.full and self.taken < self.capacity:
            self.full = False
            self._on_free()
