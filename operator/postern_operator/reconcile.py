"""One policy, level-based: gather, decide, apply; and the resyncs, which find what no watch tells.

The order in a pass: the ConfigMap first, because pods wait for it; then pokes and questions are started, which go on in
the background; then what the status says. A second pass over the same facts writes nothing. An invalid policy leaves
its ConfigMap as it was accepted last. A policy that is gone leaves its ConfigMap too, until no pod uses it. Raises
KubeError, which the queue turns into another try.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Final, Protocol

from postern_sidecar.config import config_hash

from . import apply, conditions, gather, inject
from .cache import Resource
from .kube import Conflict, KubeError, NotFound, TooManyRequests
from .model import Inputs, Key
from .reasons import Accepted, Outdated, Programmed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .cache import Cache
    from .gather import Delivered, Gathering
    from .kube import Kube
    from .model import PolicyRecord, Rendered
    from .queue import Queue
    from .rollout import Rollouts
    from .settings import Settings

log = logging.getLogger(__name__)

Reason = Accepted | Programmed | Outdated
EVERY: Final = 60.0
"""Seconds between two resyncs, and the longest that a policy is not looked at; a tenth more or less."""
GONE_AFTER: Final = 5.0
"""Seconds from a policy's end to the first look whether its ConfigMap is still used: it may be made again at once."""
FILL_EVERY: Final = 0.25
FILL_LOOKS: Final = 20
"""Looks at the caches between two LISTs while they fill: a LIST of thousands keeps the watches waiting."""
_REASONS: Final[Mapping[str, Reason]] = {
    reason.value: reason for kind in (Accepted, Programmed, Outdated) for reason in kind
}


class Telling(Protocol):
    """`events.Events`."""

    def transition(self, record: PolicyRecord, reason: Reason) -> None: ...


class Reconciler:
    """Only the holder of the Lease may let it work."""

    def __init__(
        self,
        kube: Kube,
        cache: Cache,
        gathering: Gathering,
        rollouts: Rollouts,
        events: Telling,
        settings: Settings,
        *,
        every: float = EVERY,
        gone_after: float = GONE_AFTER,
        now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._kube, self._cache, self._gathering, self._rollouts = kube, cache, gathering, rollouts
        self._events, self._settings = events, settings
        self._every, self._gone_after, self._now, self._chance = every, gone_after, now, chance
        self._template: dict[Key, tuple[str, str]] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Seconds until it wants to look again; None: only when somebody says so."""
        record = self._cache.policy(key)
        if record is None:
            return await self._gone(key)
        rendered = self._cache.rendered(key)
        delivered = await self._deliver(record, rendered)
        inputs = self._inputs(record, rendered, delivered)
        turn = self._rollouts.proceed(inputs, self._target(inputs, rendered))
        if self._gathering.list_is_due(record):
            await self._gathering.list_pods(record)
        await self._report(record, self._inputs(record, rendered, delivered), rendered)
        longest = min(self._every * (0.9 + 0.2 * self._chance()), self._gathering.list_due(record))
        return longest if turn is None else min(turn, longest)

    async def _deliver(self, record: PolicyRecord, rendered: Rendered | None) -> Delivered | None:
        """The ConfigMap as it stands then. Nothing is written to a namespace that is not enabled: nor may it be."""
        key = record.key
        found = await self._gathering.config_map(key)
        if rendered is None or not self._cache.namespace_enabled(key.namespace):
            return found
        if found is not None and not (found.record.ours and apply.differs(found.record, record, rendered)):
            return found
        try:
            written = await apply.config_map(self._kube, record, rendered, found.version if found else "")
        except (Conflict, NotFound):
            self._gathering.forget_config_map(key)  # what we believed is not so
            raise
        log.info("%s: ConfigMap written, hash %.12s", key, rendered.hash)
        return self._gathering.remember(key, written)

    def _target(self, inputs: Inputs, rendered: Rendered | None) -> str:
        """The hash of the file that pods are to run; "" where there is nothing to hurry."""
        found = inputs.config_map
        if found is None or not found.ours or found.policy_json is None or not inputs.namespace_enabled:
            return ""
        if rendered is not None:
            return rendered.hash if found.policy_json == rendered.policy_json else ""
        return config_hash(found.policy_json)

    def _inputs(self, record: PolicyRecord, rendered: Rendered | None, delivered: Delivered | None) -> Inputs:
        key = record.key
        injected = self._cache.pods_of(key)
        return Inputs(
            record=record,
            rivals=tuple(other for other in self._cache.policies_of(key.namespace) if other.key != key),
            namespace_enabled=self._cache.namespace_enabled(key.namespace),
            config_map=delivered.record if delivered else None,
            candidates=self._gathering.candidates(record, injected),
            injected=injected,
            answers=self._rollouts.answers(key),
            since=self._rollouts.since(key),
            now=self._now(),
            spec_hash=self._spec_hash(key, rendered),
        )

    def _spec_hash(self, key: Key, rendered: Rendered | None) -> str:
        injection = rendered.injection if rendered else self._cache.injection_of(key)
        if injection is None:
            return ""
        known = self._template.get(key)
        if known is None or known[0] != injection.hash + injection.uid:
            known = injection.hash + injection.uid, inject.template_hash(injection, self._settings)
            self._template[key] = known
        return known[1]

    async def _report(self, record: PolicyRecord, inputs: Inputs, rendered: Rendered | None) -> None:
        judged = conditions.judge(inputs, rendered)
        if judged is None or conditions.unchanged(record.status, judged):
            return
        if self._rollouts.is_new(inputs) and conditions.unheard(record.status, judged):
            return  # the Lease has changed hands: what was said holds until the sidecars have been asked
        try:
            written = await apply.status(self._kube, record, judged.status())
        except (NotFound, Conflict):
            log.info("%s: gone, or made again, before its status was written", record.key)
            return
        metadata = written.get("metadata") or {}
        status = written.get("status") or {}
        generation, version = metadata.get("generation", 0), metadata.get("resourceVersion", "")
        self._cache.put_status(record.key, record.uid, generation, status, version)
        for notice in conditions.transitions(record.status, judged):
            log.info("%s: %s", record.key, notice.reason)
            self._events.transition(record, _REASONS[notice.reason])

    async def _gone(self, key: Key) -> float | None:
        """The policy is deleted: its ConfigMap goes when no pod uses it, and the policy has not been made again."""
        self._rollouts.forget(key)
        self._gathering.forget(key)
        self._template.pop(key, None)
        if await gather.exists(self._kube, key):
            return self._gone_after  # the watch will tell
        found = await self._gathering.config_map(key)
        self._gathering.forget(key)
        if found is None or not found.record.ours:
            return None
        if await gather.is_used(self._kube, key):
            return self._every
        try:
            await apply.delete_config_map(self._kube, key, found.uid, found.version)
        except NotFound:
            return None
        except Conflict:
            return self._gone_after
        log.info("%s: the policy is gone and no pod uses its ConfigMap: deleted", key)
        return None


class Resync:
    """What the watches do not tell. `namespaces`: those that are watched, "" for all."""

    def __init__(
        self,
        kube: Kube,
        cache: Cache,
        gathering: Gathering,
        queue: Queue[Key],
        namespaces: Sequence[str],
        *,
        every: float = EVERY,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._kube, self._cache, self._gathering, self._queue = kube, cache, gathering, queue
        self._namespaces = tuple(namespaces) or ("",)
        self._every, self._chance = every, chance
        self._behind: dict[Resource, set[Key]] = {}
        self._listed: dict[Resource, dict[Key, str]] = {}
        self._filled = asyncio.Event()
        self._said = ""

    @property
    def filled(self) -> bool:
        return self._filled.is_set()

    @property
    def unfilled(self) -> tuple[str, ...]:
        """Which caches still lack what there was at the first LIST."""
        if self.filled:
            return ()
        return tuple(resource.value for resource in Resource if self._behind.get(resource, True))

    async def until_filled(self) -> None:
        await self._filled.wait()

    async def hold(self) -> None:
        """The cache against live LISTs: quickly until it holds all that there was, then now and then. Each replica."""
        while True:
            wait = 0.0
            try:
                missing = [await self._compared(resource) for resource in Resource]
            except KubeError as problem:
                wait = self._trouble(problem)
                missing = [1]
            else:
                self._said = ""
            if not self.filled and not any(missing):
                self._filled.set()
                counts = ", ".join(f"{self._cache.count(resource)} {resource.value}" for resource in Resource)
                log.info("the caches are filled: %s", counts)
            await asyncio.sleep(max(wait, self._pause() if self.filled else FILL_EVERY))
            if not self.filled:
                await self._awaited()

    async def _awaited(self) -> None:
        """Until the watches have told of all that the LISTs had, or for so long that some of it may be gone again."""
        for _ in range(FILL_LOOKS):
            if not any(self._cache.missing(resource, present) for resource, present in self._listed.items()):
                break
            await asyncio.sleep(FILL_EVERY)
        self._listed.clear()

    async def lead(self) -> None:
        """All policies at once, then ConfigMaps now and then. The leader only."""
        for record in self._cache.policies():
            self._queue.add(record.key)
        while True:
            wait = 0.0
            try:
                await self._config_maps()
            except KubeError as problem:
                wait = self._trouble(problem)
            await asyncio.sleep(max(wait, self._pause()))

    async def _compared(self, resource: Resource) -> int:
        """How many objects no watch has told of, of those that the first LIST had or, later, of all."""
        mark = self._cache.mark()
        present = await gather.live(self._kube, resource, self._namespaces)
        for key, uid in self._cache.gone(resource, present, mark):
            if self._remove(resource, key, uid):
                log.info("resync: %s %s is gone, and no watch said so", resource.value, key)
        missing = set(self._cache.missing(resource, present))
        late = missing & self._behind.get(resource, missing)
        if not self.filled:
            self._behind[resource] = late
            self._listed[resource] = {key: present[key] for key in late}
            return len(late)
        late &= self._behind[resource]
        if late:
            log.warning("resync: the watch of %s has not told of %d objects for a minute", resource.value, len(late))
        self._behind[resource] = missing
        return len(missing)

    def _remove(self, resource: Resource, key: Key, uid: str) -> bool:
        pod = self._cache.pod(key) if resource is Resource.PODS else None
        if not self._cache.remove(resource, key, uid):
            return False
        match resource:
            case Resource.POLICIES:
                touch(self._queue, self._cache, key)
            case Resource.PODS if pod is not None:
                self._queue.add(Key(key.namespace, pod.policy))
            case Resource.NAMESPACES:
                touch_all(self._queue, self._cache.policies_of(key.name))
            case _:
                pass
        return True

    async def _config_maps(self) -> None:
        present = await gather.our_config_maps(self._kube, self._namespaces)
        for key in self._gathering.believed():
            uid, version = present.get(key, ("", ""))
            if self._gathering.doubt(key, uid, version):
                self._queue.add(key)
        for key in present:
            if self._cache.policy(key) is None:
                self._queue.add(key)

    def _trouble(self, problem: KubeError) -> float:
        """Seconds that the API server wants to be left alone."""
        trouble = str(problem)
        if trouble != self._said:
            log.warning("resync: %s", trouble)
        self._said = trouble
        return problem.retry_after if isinstance(problem, TooManyRequests) else 0.0

    def _pause(self) -> float:
        return self._every * (0.9 + 0.2 * self._chance())


def touch(queue: Queue[Key], cache: Cache, key: Key) -> None:
    """A policy has come, changed or gone: its rivals win or lose pods by that."""
    if cache.policy(key) is None:
        queue.add(key, GONE_AFTER)
    else:
        queue.add(key)
    for record in cache.policies_of(key.namespace):
        if record.key != key:
            queue.add(record.key, 0.1)


def touch_all(queue: Queue[Key], records: Iterable[PolicyRecord]) -> None:
    for record in records:
        queue.add(record.key)
