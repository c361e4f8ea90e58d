"""Places among the transactions to one destination: `limits.perDestination` at once, the others wait in their order.

A place that comes free goes to whoever has waited longest, hand to hand, so nobody who comes later is faster. Who gives
up, or is cancelled, leaves no hole: a place that was already his goes on. A destination with neither places taken nor
anybody waiting is forgotten; how many wait in all is bounded by `limits.connections`, since each is a submission.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Destination:
    taken: int = 0
    waiting: deque[asyncio.Future[bool]] = field(default_factory=deque)


class Admission:
    """`places`: at each destination; a reload may change it."""

    __slots__ = ("_destinations", "places")

    def __init__(self, places: int) -> None:
        self.places = places
        self._destinations: dict[str, _Destination] = {}

    def __len__(self) -> int:
        """How many destinations are known."""
        return len(self._destinations)

    async def admit(self, destination: str, seconds: float) -> bool:
        """Whether there was a place within `seconds`; then it is kept until `leave`."""
        there = self._destinations.setdefault(destination, _Destination())
        if there.taken < self.places and not there.waiting:
            there.taken += 1
            return True
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[bool] = loop.create_future()
        there.waiting.append(mine)
        timer = loop.call_later(seconds, _refuse, mine)
        try:
            admitted = await mine
        except asyncio.CancelledError:
            if not mine.cancelled() and mine.result():  # handed over in the same moment
                self.leave(destination)
            self._give_up(destination, there, mine)
            raise
        finally:
            timer.cancel()
        if not admitted:
            self._give_up(destination, there, mine)
        return admitted

    def leave(self, destination: str) -> None:
        """Once for each place."""
        there = self._destinations[destination]
        there.taken -= 1
        while there.waiting and there.taken < self.places:
            mine = there.waiting.popleft()
            if not mine.done():
                mine.set_result(True)
                there.taken += 1
        self._forget(destination, there)

    def _give_up(self, destination: str, there: _Destination, mine: asyncio.Future[bool]) -> None:
        if mine in there.waiting:
            there.waiting.remove(mine)
        self._forget(destination, there)

    def _forget(self, destination: str, there: _Destination) -> None:
        if not there.taken and not there.waiting and self._destinations.get(destination) is there:
            del self._destinations[destination]


def _refuse(mine: asyncio.Future[bool]) -> None:
    if not mine.done():
        mine.set_result(False)
