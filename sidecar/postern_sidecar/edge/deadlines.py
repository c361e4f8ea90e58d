"""Time limits of many connections with one timer: what waits says until when, and is told when it is too late.

A timer of the loop's own for each reply would cost more than the reply (issue 3 found ten times). Here a wait costs two
entries in a dictionary; the loop's timer runs to the earliest limit that was known when it was set, and all of them are
looked at then. As most waits end before, most look-ups find nothing. No limit is met early, and none later than GRAIN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

GRAIN: Final = 0.1  # seconds between two looks, at least


class Waiting(Protocol):
    def overdue(self) -> None:
        """The time is over."""


class Deadlines:
    """The limits of one event loop."""

    __slots__ = ("_limits", "_loop", "_next", "_timer", "clock")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._limits: dict[Waiting, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0
        self.clock: Callable[[], float] = loop.time

    def __len__(self) -> int:
        return len(self._limits)

    def set(self, waiting: Waiting, seconds: float) -> None:
        """From now on; in place of an older limit."""
        limit = self._limits[waiting] = self.clock() + seconds
        if self._timer is None:
            self._arm(limit)
        elif limit < self._next - GRAIN:
            self._timer.cancel()
            self._arm(limit)

    def unset(self, waiting: Waiting) -> None:
        self._limits.pop(waiting, None)

    def close(self) -> None:
        """At the end of the loop: nobody is told any more."""
        self._limits.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, limit: float) -> None:
        self._next = limit
        self._timer = self._loop.call_at(limit, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self.clock() + 0.001  # uvloop's timers count milliseconds
        late = [waiting for waiting, limit in self._limits.items() if limit <= now]
        for waiting in late:
            del self._limits[waiting]
        if self._limits:
            self._arm(max(min(self._limits.values()), now + GRAIN))
        for waiting in late:
            waiting.overdue()
