"""Work by key: each key once, one at a time, the earliest first; what fails comes again later and later.

`Schedule` and `backoff` decide and know no clock; `Queue` runs them. A key that is added while it is worked on is
worked on once more. The queue is bounded: what finds no room is dropped and counted, and the next resync brings it
again. It accepts keys at all times, and works only while `run` runs: by the holder of the Lease. Raises nothing: what
the work raises is logged, and the key tried again.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
import time
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from .kube import KubeError, TooManyRequests

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

log = logging.getLogger(__name__)

FIRST: Final = 0.2
LONGEST: Final = 60.0
ROOM: Final = 16_384
"""Keys: policies. A cluster has hundreds."""
WORKERS: Final = 8
SPARE: Final = 4

K = TypeVar("K", bound="Hashable")


def backoff(failures: int, chance: float, retry_after: float = 0.0) -> float:
    """Seconds until the next try after so many failures in a row: 0.2, 0.4, ... 60, each up to a quarter longer by
    `chance` in [0, 1); never before the API server wants to be asked again."""
    wait = min(FIRST * 2.0 ** min(max(failures - 1, 0), 32), LONGEST)
    return max(wait, retry_after) * (1.0 + 0.25 * chance)


class Schedule(Generic[K]):
    """Which key is due when. Times are of any one clock."""

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._running: set[K] = set()
        self._failures: dict[K, int] = {}
        self._asked_later: dict[K, float] = {}  # not before then, says the API server

    def __len__(self) -> int:
        """Keys that wait, due or not."""
        return len(self._due)

    def overdue(self, now: float) -> int:
        return sum(due <= now for due in self._due.values())

    def add(self, key: K, due: float) -> bool:
        """The earlier time counts, but none that the API server has asked us not to come at. False: no room."""
        due = max(due, self._asked_later.get(key, due))
        before = self._due.get(key)
        if before is None and len(self._due) >= self._room:
            return False
        if before is None or due < before:
            self._due[key] = due
            if len(self._heap) > 2 * len(self._due) + SPARE:  # times that were moved forward leave old entries behind
                self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
                heapq.heapify(self._heap)
            heapq.heappush(self._heap, (due, next(self._order), key))
        return True

    def take(self, now: float) -> K | None:
        """A key that is due and not worked on; it is worked on from now on."""
        held = []
        found = None
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            due, _, key = entry
            if self._due.get(key) != due:
                continue
            if key in self._running:
                held.append(entry)
                continue
            found = key
            del self._due[key]
            self._running.add(key)
            self._asked_later.pop(key, None)
            break
        for entry in held:
            heapq.heappush(self._heap, entry)
        return found

    def next_due(self) -> float | None:
        """Of the keys that are not worked on."""
        return min((due for key, due in self._due.items() if key not in self._running), default=None)

    def done(self, key: K) -> None:
        self._running.discard(key)
        self._failures.pop(key, None)

    def failed(self, key: K, now: float, chance: float, retry_after: float = 0.0) -> float:
        """When it is tried again: not earlier, even if it has been added meanwhile; where the API server has said when,
        not even if it is added later."""
        self._running.discard(key)
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        due = now + backoff(failures, chance, retry_after)
        self._due.pop(key, None)
        if self.add(key, due) and retry_after:
            self._asked_later[key] = due
        return due

    def abandoned(self, key: K, now: float) -> None:
        """Its work was cancelled: it is due."""
        self._running.discard(key)
        self.add(key, now)


class Observer(Protocol):
    """What is counted: "done", "failed" of a key's work, "dropped" of a key."""

    def __call__(self, result: str, seconds: float) -> None: ...


def _nobody(result: str, seconds: float) -> None: ...


class Queue(Generic[K]):
    """Of one event loop."""

    def __init__(
        self,
        *,
        room: int = ROOM,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        observe: Observer = _nobody,
    ) -> None:
        self._schedule: Schedule[K] = Schedule(room)
        self._clock, self._chance, self._observe = clock, chance, observe
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._schedule)

    @property
    def overdue(self) -> int:
        """Keys that wait for a worker."""
        return self._schedule.overdue(self._clock())

    def add(self, key: K, after: float = 0.0) -> None:
        if not self._schedule.add(key, self._clock() + after):
            self._observe("dropped", 0.0)
        self._changed.set()

    async def run(self, work: Callable[[K], Awaitable[float | None]], workers: int = WORKERS) -> None:
        """Until it is cancelled; the work that runs then is cancelled and has ended. `work` returns the seconds after
        which it wants to look again, or None."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._worker(work))

    async def _worker(self, work: Callable[[K], Awaitable[float | None]]) -> None:
        while True:
            key = self._schedule.take(self._clock())
            if key is None:
                await self._wait()
                continue
            await self._one(key, work)
            self._changed.set()

    async def _wait(self) -> None:
        self._changed.clear()
        due = self._schedule.next_due()
        try:
            async with asyncio.timeout(None if due is None else max(due - self._clock(), 0.0)):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _one(self, key: K, work: Callable[[K], Awaitable[float | None]]) -> None:
        started = self._clock()
        try:
            again = await work(key)
        except KubeError as problem:
            self._again(key, started, problem.retry_after if isinstance(problem, TooManyRequests) else 0.0, problem)
        except asyncio.CancelledError:
            self._schedule.abandoned(key, self._clock())
            raise
        except Exception:
            # A fault of ours with one policy must not keep the others waiting; it is loud, and comes again.
            log.exception("%s: an internal error", key)
            self._again(key, started, LONGEST / 2, None)
        else:
            self._schedule.done(key)
            if again is not None:
                self._schedule.add(key, self._clock() + again)
            self._observe("done", self._clock() - started)

    def _again(self, key: K, started: float, retry_after: float, problem: KubeError | None) -> None:
        now = self._clock()
        due = self._schedule.failed(key, now, self._chance(), retry_after)
        self._observe("failed", now - started)
        if problem is not None:
            log.warning("%s: %s; tried again in %.1f s", key, problem, due - now)
