"""Who writes: the holder of one Lease (coordination.k8s.io), renewed every second, lost after ten, taken after fifteen.

The client's own elector is unfit: cancelled or cut off from the API server it leaves the work running, so that two
write. Here the work is cancelled, and has ended, before the Lease is given up, and before anybody else may take it: the
holder counts from before it asked, the others from after they saw its renewal, each by its own monotonic clock. No
clock of another machine is looked at. A Lease that is deleted is as if still held by whom we saw there, until its time
is over; only who comes fresh to a deleted Lease may be a leader beside the old one, for as long as that takes to notice
(one renewal). `lead` raises what the work raises, and StuckWork; troubles with the API server are waited out.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from . import paths
from .kube import Conflict, KubeError, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .kube import Kube, Object
    from .model import Key

log = logging.getLogger(__name__)

RELEASE_WITHIN: Final = 1.0
"""Seconds for giving the Lease up: a roll-out hands over in two, and an API server that is gone is not waited for."""
MOST_TRANSITIONS: Final = 2**31 - 1
PATIENCE: Final = 4
"""Times our own duration: longer no Lease is honoured that a stranger wrote."""


class StuckWork(RuntimeError):  # noqa: N818 - it is the work that is wrong
    """The work did not end though it was cancelled, and another replica may write by now: end the process."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds. `duration` - `deadline` is what the work has to end in."""

    duration: float = 15.0
    deadline: float = 10.0
    retry: float = 1.0

    @property
    def call(self) -> float:
        """Of one call to the API server: one that hangs leaves time for another."""
        return self.deadline / 2


@dataclass(frozen=True, slots=True)
class Seen:
    """The Lease as it was last seen (None: not there). `since`: when its holder's sign of life was first seen, by our
    clock; `duration` is the holder's."""

    lease: Object | None
    holder: str
    duration: float
    since: float


class Action(enum.Enum):
    WAIT = "wait"
    CREATE = "create"
    TAKE = "take"


def observe(before: Seen | None, lease: Object | None, now: float, times: Times) -> Seen:
    """What is known after the API server has shown `lease`. `now` is after its answer."""
    if lease is None:
        return Seen(None, before.holder, before.duration, before.since) if before else Seen(None, "", 0.0, now)
    spec = _spec(lease)
    alive = before is None or before.lease is None or _spec(before.lease) != spec
    since = now if before is None or alive else before.since
    theirs = float(spec.get("leaseDurationSeconds") or 0)
    duration = min(max(theirs, times.duration), PATIENCE * times.duration)
    return Seen(lease, str(spec.get("holderIdentity") or ""), duration, since)


def decide(seen: Seen, identity: str, now: float) -> Action:
    """A Lease under our own name is from before a restart: nobody else has that name."""
    if seen.holder not in ("", identity) and now - seen.since < seen.duration:
        return Action.WAIT
    return Action.CREATE if seen.lease is None else Action.TAKE


def held(lease: Object | None, key: Key, identity: str, times: Times, at: datetime) -> Object:
    """The Lease to write: taken, or renewed where it is ours."""
    spec = dict(_spec(lease))
    if lease is None:
        spec.update(acquireTime=_text(at), leaseTransitions=0)
    elif spec.get("holderIdentity") != identity:
        count = int(spec.get("leaseTransitions") or 0) + 1
        spec.update(acquireTime=_text(at), leaseTransitions=count if count <= MOST_TRANSITIONS else 0)
    # The API server takes whole seconds from 1; shorter times are for tests.
    spec.update(holderIdentity=identity, renewTime=_text(at), leaseDurationSeconds=max(1, round(times.duration)))
    return {**(lease or _empty(key)), "spec": spec}


def released(lease: Object, at: datetime) -> Object:
    return {**lease, "spec": {**_spec(lease), "holderIdentity": "", "renewTime": _text(at), "leaseDurationSeconds": 1}}


class Elector:
    """One replica's side. `lead` runs once at a time."""

    def __init__(
        self,
        kube: Kube,
        key: Key,
        identity: str,
        *,
        times: Times | None = None,
        clock: Callable[[], float] = time.monotonic,
        utc: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kube = kube
        self._key = key
        self._path = paths.lease(key)
        self._identity = identity
        self._times = times or Times()
        self._clock = clock
        self._utc = utc
        self._seen: Seen | None = None
        self._until: float | None = None  # ours until then
        self._trouble = ""

    @property
    def is_leader(self) -> bool:
        """Whether a write is allowed at this moment; false also while a renewal is overdue and nobody has noticed."""
        return self._until is not None and self._clock() < self._until

    @property
    def holder(self) -> str:
        """Who held the Lease when it was last looked at."""
        return self._seen.holder if self._seen else ""

    async def lead(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Campaigns, works while it leads, and campaigns again after a loss; returns when the work does. Cancelled, it
        ends the work, gives the Lease up and then ends."""
        while True:
            while not await self._campaign():  # noqa: ASYNC110 - the API server sets no Event
                await asyncio.sleep(self._times.retry)
            log.info("leading: this replica (%s) writes from now on", self._identity)
            if await self._work(work):
                return
            log.warning("the Lease %s is lost (held by %r): nothing is written by this replica", self._key, self.holder)

    async def _campaign(self) -> bool:
        """An attempt. Cancelled in the middle, it comes to its end all the same: what it has taken, perhaps unheard, is
        given up again."""
        attempt = asyncio.ensure_future(self._attempt())
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            await asyncio.wait({attempt}, timeout=RELEASE_WITHIN)
            attempt.cancel()
            await asyncio.wait({attempt})
            self._until = None
            await self._release()
            raise

    async def _work(self, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Whether the work ended by itself; else the Lease is lost. Either way it does not run any more."""
        task = asyncio.ensure_future(work())
        lost = False
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=self._pause())
                if not task.done() and not await self._attempt() and not self.is_leader:
                    lost = True
                    break
        finally:
            if lost:
                self._until = None
            await self._ended(task)
            if not lost:
                self._until = None
                await self._release()
        if lost:
            return False
        task.result()
        return True

    def _pause(self) -> float:
        """Until the next renewal, or the end of our time."""
        left = (self._until or 0.0) - self._clock()
        return max(0.0, min(self._times.retry, left))

    async def _ended(self, task: asyncio.Future[None]) -> None:
        """Cancels, and waits for as long as nobody else may write."""
        task.cancel()
        await asyncio.wait({task}, timeout=self._times.duration - self._times.deadline)
        if not task.done():
            self._until = None
            raise StuckWork(f"the leader's work still runs, {self._times.duration - self._times.deadline:g} s later")

    async def _attempt(self) -> bool:
        """Takes or renews the Lease, if that is possible now. Once it has been seen in other hands, it is not ours."""
        limit = self._times.call
        if self._until is not None:
            limit = min(limit, self._until - self._clock())
        try:
            async with asyncio.timeout(limit):
                if self._until is None:
                    await self._look()
                if await self._write():
                    return True
                await self._look()  # somebody else has written, or deleted it
                return await self._write()
        except TimeoutError:
            self._told("no answer in time")
        except KubeError as problem:
            self._told(str(problem))
        return False

    def _told(self, trouble: str) -> None:
        """A trouble is tried every second, and logged when it is new."""
        if trouble and trouble != self._trouble:
            log.warning("the Lease %s: %s", self._key, trouble)
        self._trouble = trouble

    async def _look(self) -> None:
        try:
            lease = await self._kube.get(self._path, timeout=self._times.call)
        except NotFound:
            lease = None
        self._seen = observe(self._seen, lease, self._clock(), self._times)
        if self._seen.holder != self._identity:
            self._until = None

    async def _write(self) -> bool:
        """False: it is not ours to take, or it has changed since."""
        seen = self._seen
        if seen is None or (action := decide(seen, self._identity, self._clock())) is Action.WAIT:
            return False
        asked = self._clock()
        lease = held(seen.lease, self._key, self._identity, self._times, self._utc())
        try:
            if action is Action.CREATE:
                place = paths.leases(self._key.namespace)
                lease = await self._kube.create(place, lease, timeout=self._times.call)
            else:
                lease = await self._kube.update(self._path, lease, timeout=self._times.call)
        except (Conflict, NotFound):
            return False
        self._seen = observe(self._seen, lease, self._clock(), self._times)
        self._until = asked + self._times.deadline
        self._told("")
        return True

    async def _release(self) -> None:
        """What nobody could be told, they find out when the Lease's time is over."""
        try:
            async with asyncio.timeout(RELEASE_WITHIN):
                for _ in range(2):  # the second time with what a Conflict has shown: our own renewal, unanswered
                    if self._seen is None or self._seen.lease is None or self._seen.holder != self._identity:
                        return
                    try:
                        await self._kube.update(self._path, released(self._seen.lease, self._utc()))
                    except Conflict:
                        await self._look()
                    else:
                        log.info("the Lease %s is released", self._key)
                        return
        except TimeoutError:
            log.warning("the Lease %s could not be released: no answer within %g s", self._key, RELEASE_WITHIN)
        except KubeError as problem:
            log.warning("the Lease %s could not be released: %s", self._key, problem)


def _spec(lease: Object | None) -> Object:
    return (lease or {}).get("spec") or {}


def _empty(key: Key) -> Object:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"namespace": key.namespace, "name": key.name},
    }


def _text(at: datetime) -> str:
    """RFC 3339 with microseconds, UTC: MicroTime."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
