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
PER_LISTENER = 2  # the socket, and the duplicate that is accepted on
UNDECIDED = 512


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
    """Descriptors for sessions. `on_full` is called when another session would no longer fit, `on_free` when it does.

    A session has one descriptor until it connects to the mail server, and for that a second one is kept free: but for
    UNDECIDED sessions only, or clients that never finish their header would take up twice what they use.
    """

    def __init__(self, limit: int, in_use: int, on_full: Callable[[], None], on_free: Callable[[], None]) -> None:
        self.capacity = limit - in_use - RESERVE
        self.taken = 0
        self.waiting = 0  # sessions with one descriptor
        self.full = False
        self._on_full = on_full
        self._on_free = on_free
        if self.capacity < PER_SESSION:
            raise ValueError(
                f"the limit of {limit} open files leaves no room for sessions ({in_use} in use, {RESERVE} reserved); "
                f"raise it: ulimit -n 65536, LimitNOFILE= in a unit, or the container runtime's limit"
            )

    def enter(self) -> None:
        """A connection was accepted."""
        self.taken += 1
        self.waiting += 1
        self._look()

    def connect(self) -> bool:
        """Take the second one, for the mail server. False: more than UNDECIDED wanted theirs at once."""
        if self.taken >= self.capacity:
            return False
        self.taken += 1
        self.waiting -= 1
        self._look()
        return True

    def leave(self, *, connected: bool) -> None:
        self.taken -= PER_SESSION if connected else 1
        self.waiting -= 0 if connected else 1
        self._look()

    def _look(self) -> None:
        full = self.taken + min(self.waiting, UNDECIDED) + PER_SESSION > self.capacity
        if full is not self.full:
            self.full = full
            (self._on_full if full else self._on_free)()
