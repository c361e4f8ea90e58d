"""Eviction of pods that a policy selects and that started without a sidecar: value `evictUninjected`, the leader only.

Which ones and how rarely is decided by `eviction`; here it is asked for and done. A pod is read whole, and goes only
where its policy's configuration is delivered and a dry run of its successor comes back injected. `AT_ONCE` evictions
and `LOOKS` pods a round, a round a minute, none in a leader's first ten, so that one an owner in ten minutes holds over
a change of leaders; "never again" holds as far as this leader's memory goes. The PodDisruptionBudget is the API
server's business: 429, and another round tries again. `step` raises KubeError, `run` nothing but CancelledError.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Final, Protocol

from . import eviction, paths, records, select
from .eviction import Memory
from .kube import KubeError, NotFound
from .model import Key, config_map_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from .cache import Cache
    from .eviction import Bare
    from .kube import Kube, Object
    from .model import Candidate, Injection, Owner, PolicyRecord
    from .settings import Settings

log = logging.getLogger(__name__)

EVERY: Final = 60.0
"""Seconds between two rounds."""
ROUNDS: Final = 10
"""Between two evictions of one owner, and before a new leader's first."""
AT_ONCE: Final = 10
"""Evictions a round."""
LOOKS: Final = 40
"""Pods a round that are read."""


class Observer(Protocol):
    """Metrics: "evicted", "refused" (by a budget, or admission), "uninjected" (the dry run), "abandoned" (an owner)."""

    def eviction(self, result: str) -> None: ...


class Evictions:
    """`every`: seconds between two rounds. `notice` hears of each eviction. `clock` measures, `now` is the time of
    day."""

    def __init__(
        self,
        kube: Kube,
        cache: Cache,
        settings: Settings,
        *,
        observer: Observer,
        notice: Callable[[PolicyRecord, Owner], None],
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._kube, self._cache, self._settings = kube, cache, settings
        self._observer, self._notice = observer, notice
        self._every, self._clock, self._now, self._chance = every, clock, now, chance
        self._memory = Memory(every * ROUNDS)
        self._said = ""

    async def run(self) -> None:
        """For as long as this replica leads."""
        await asyncio.sleep(self._every * ROUNDS)
        while True:
            try:
                await self.step()
            except KubeError as problem:
                if str(problem) != self._said:
                    log.warning("eviction: %s", problem)
                self._said = str(problem)
            except Exception:
                log.exception("eviction: an internal error; tried again")
            await asyncio.sleep(self._every * (0.9 + 0.2 * self._chance()))

    async def step(self) -> None:
        """One round."""
        owners = eviction.owned([one for record in self._cache.policies() for one in await self._bare(record)])
        for pods in owners:
            if self._memory.hopeless(pods):
                self._observer.eviction("abandoned")
                log.warning(
                    "eviction: %s: a pod came without a sidecar again: no more of them are evicted", _of(pods[0])
                )
        everyone = {pods[0][2].uid: pods for pods in owners}
        evicted = looks = 0
        for some in self._memory.turns(owners, self._clock()):
            for one in some:
                if evicted == AT_ONCE or looks == LOOKS:
                    return
                looks += 1
                self._memory.looked(one[1])
                if await self._evicted(one):
                    self._memory.evicted(one[2].uid, everyone[one[2].uid], self._clock())
                    evicted += 1
                    break

    async def _bare(self, record: PolicyRecord) -> list[Bare]:
        query = select.query(record.selector)
        found: list[Bare] = []
        if query is None or not self._cache.namespace_enabled(record.key.namespace):
            return found
        policies = self._cache.policies_of(record.key.namespace)
        async for page in self._kube.pages(paths.pods(record.key.namespace), selector=query, metadata_only=True):
            for pod in map(records.candidate, page):
                owner = eviction.bare(pod, record, policies)
                if owner is not None:
                    found.append((record, pod, owner))
        return found

    async def _evicted(self, one: Bare) -> bool:
        record, pod, owner = one
        try:
            injection = await self._delivered(record)
            whole = await self._kube.get(paths.pod(pod.key))
        except NotFound:
            return False
        if injection is None or not eviction.evictable(pod, whole, injection, self._settings, self._now()):
            return False
        try:
            if not await self._comes_injected(whole, record):
                self._observer.eviction("uninjected")
                log.info("eviction: pod %s stays: its successor would have no sidecar either", pod.key)
                return False
            await self._evict(pod)
        except NotFound:
            return False
        except KubeError as problem:
            if not problem.status:  # no answer: nobody knows what became of it, and others will have none either
                raise
            self._observer.eviction("refused")
            log.info("eviction: pod %s stays: %s", pod.key, problem)
            return False
        self._observer.eviction("evicted")
        self._notice(record, owner)
        log.info("eviction: pod %s has no sidecar and is evicted; %s makes another", pod.key, _of(one))
        return True

    async def _delivered(self, record: PolicyRecord) -> Injection | None:
        """None where a new pod would wait for its configuration."""
        place = Key(record.key.namespace, config_map_name(record.key.name))
        found = records.config_map_record(await self._kube.get(paths.config_map(place)), self._settings.sidecar)
        return found.injection if found.ours and found.policy_json is not None else None

    async def _comes_injected(self, whole: Object, record: PolicyRecord) -> bool:
        """The webhook's own word."""
        body = eviction.successor(whole)
        made = await self._kube.create(paths.pods(record.key.namespace), body, dry_run=True)
        return eviction.injected(made, record)

    async def _evict(self, pod: Candidate) -> None:
        await self._kube.create(f"{paths.pod(pod.key)}/eviction", eviction.request(pod))


def _of(one: Bare) -> str:
    return f"{one[2].kind} {one[2].name}"
