"""What the machine gives: which core belongs to what is measured, and how many sessions a process can hold."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DESCRIPTORS = 100_000  # far more than any program of the bench needs
OTHERS = 200  # descriptors of a hop that belong to no session


@dataclass(frozen=True)
class Cores:
    measured: int
    rest: frozenset[int]

    @property
    def everything(self) -> frozenset[int]:
        return self.rest | {self.measured}


def share() -> Cores:
    """The last core that this process may use for what is measured; with one core alone, both share it."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[-1], frozenset(allowed[:-1] or allowed))


def take_priority() -> None:
    """Before what else runs here, where that is allowed: all of the bench alike, so ratios do not move."""
    with contextlib.suppress(OSError):
        os.nice(-10)


def raise_limit() -> None:
    """As many open files as the system lets us have, for this process and what it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # above the hard limit only with CAP_SYS_RESOURCE
        hard_or_more = max(hard, DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_or_more, hard_or_more))
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_sessions() -> int:
    """That a process with two descriptors for each can hold."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (min(soft, DESCRIPTORS) - OTHERS) // 2


@contextlib.contextmanager
def saying(what: str) -> Iterator[None]:
    """What is done now, and how long it took, for whoever waits for it."""
    began = time.monotonic()
    print(f"bench: {what} ...", end="", flush=True, file=sys.stderr)
    yield
    print(f" {time.monotonic() - began:.0f} s", file=sys.stderr)
