"""File descriptors as a resource: how many sessions there is room for, and who is told when there is room again.

The soft limit is raised to the hard one. `RESERVE` descriptors stay for the admin port, DNS, logs and a reload, so
`/healthz` answers while sessions are out of them (contracts section 2). Of the rest, outbound is lent at most half, and
no more than it can ever need; inbound has what is left, which is all of it where the policy has no outbound.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING

from .bind import BindError

if TYPE_CHECKING:
    from collections.abc import Callable

RESERVE = 64
PER_SESSION = 2
PER_LISTENER = 2  # the socket, and the duplicate that is accepted on
UNDECIDED = 512
PER_QUESTION = 2  # DNS over UDP, and over TCP while that socket is still there
OUTBOUND_FIXED = 16  # the doors' sockets, twice in a reload; the embedded resolver's pipes, and its tests
_REMEDY = "raise it: ulimit -n 65536, LimitNOFILE= in a unit, or the container runtime's limit"


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
        self.limit = limit
        self.whole = self.capacity = limit - in_use - RESERVE  # with and without what is lent
        self.taken = 0
        self.waiting = 0  # sessions with one descriptor
        self.full = False
        self._on_full = on_full
        self._on_free = on_free
        if self.capacity < PER_SESSION:
            raise ValueError(
                f"the limit of {limit} open files leaves no room for sessions ({in_use} in use, {RESERVE} reserved); "
                f"{_REMEDY}"
            )

    def lend(self, descriptors: int) -> None:
        """To outbound. Sessions that are there keep theirs; until they fit what is left, `overdrawn`."""
        self.capacity = self.whole - descriptors
        self._look()

    @property
    def overdrawn(self) -> bool:
        return self.taken > self.capacity

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


class Share:
    """A part of what is lent: so many at once, for one purpose."""

    __slots__ = ("_room", "capacity", "taken")

    def __init__(self, room: Room) -> None:
        self._room = room
        self.capacity = 0
        self.taken = 0

    def take(self) -> bool:
        """False: there is none left. Who has one gives it back once."""
        if self.taken >= self.capacity or self._room.overdrawn:
            return False
        self.taken += 1
        return True

    def give(self) -> None:
        self.taken -= 1


class Lent:
    """What outbound has of a Room, and for what. It grows with a reload, and goes back when outbound has gone."""

    def __init__(self, room: Room) -> None:
        self.sessions = Share(room)
        self.next_hops = Share(room)
        self.questions = 0
        """To name servers, at once."""
        self._room = room
        self._all = 0

    def fit(self, sessions: int, idle: int, questions: int) -> None:
        """For so many at most; each session has a next hop. Raises BindError where that leaves nobody any."""
        wanted = OUTBOUND_FIXED + PER_QUESTION * questions + 2 * sessions + idle
        whole = max(self._all, min(wanted, self._room.whole // 2))
        dns = min(PER_QUESTION * questions, whole // 4)
        left = whole - OUTBOUND_FIXED - dns
        if left < 2:
            limit = self._room.limit
            raise BindError(f"spec.outbound: the limit of {limit} open files leaves no room for submissions; {_REMEDY}")
        self._all = whole
        self.questions = dns // PER_QUESTION
        self.sessions.capacity = min(sessions, left // 2)
        self.next_hops.capacity = left - self.sessions.capacity
        self._room.lend(whole)

    def give_back(self) -> None:
        """Nothing is open any more."""
        self._all = 0
        self._room.lend(0)
