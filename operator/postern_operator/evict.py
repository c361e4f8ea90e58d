"""Eviction of pods that a policy selects and that started without a sidecar: value `evictUninjected`, the leader only.

Narrow on purpose, because it ends somebody's pod: it has a controller that makes it anew (no Job: its work would be
lost), has been Ready for five minutes, gives no reason to be skipped, its policy's configuration is delivered, and a
dry run of its successor comes back injected by that policy. One pod an owner in ten rounds (of a minute), and none in a
leader's first ten, so that the rule holds over a change of leaders; `AT_ONCE` a round in all; never again for an owner
whose pod came without a sidecar after an eviction (as far as this leader's memory goes). The PodDisruptionBudget is the
API server's business: 429, and the next round tries again. `step` raises KubeError, `run` nothing but CancelledError.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from . import inject, paths, records, select
from .inject import Skipped
from .kube import KubeError, NotFound
from .model import CONTAINER, POLICY, Key, config_map_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .cache import Cache
    from .kube import Kube, Object
    from .model import Candidate, Injection, PolicyRecord
    from .settings import Settings

log = logging.getLogger(__name__)

EVERY: Final = 60.0
"""Seconds between two rounds."""
ROUNDS: Final = 10
"""Between two evictions of one owner, and before a new leader's first."""
READY_FOR: Final = 300.0
AT_ONCE: Final = 10
"""Evictions a round, and dry runs four times that."""
OWNERS: Final = 4096
"""Remembered; beyond it the oldest is forgotten."""
_NEVER: Final = ("Job", "Node")
"""Owners whose pods come back unfinished, or not at all."""


@dataclass(slots=True)
class _Past:
    """Of an owner. `bare`: UIDs of its pods without a sidecar, at that time. `hopeless`: another one came after."""

    at: float
    bare: frozenset[str]
    hopeless: bool = False


class Evictions:
    """`every`: seconds between two rounds. `clock` measures, `now` is the time of day."""

    def __init__(
        self,
        kube: Kube,
        cache: Cache,
        settings: Settings,
        *,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._kube, self._cache, self._settings = kube, cache, settings
        self._every, self._clock, self._now, self._chance = every, clock, now, chance
        self._past: OrderedDict[str, _Past] = OrderedDict()  # by the owner's UID
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
        left, looks = AT_ONCE, AT_ONCE * 4
        for record in self._cache.policies():
            if not self._cache.namespace_enabled(record.key.namespace):
                continue
            for pods in _by_owner(await self._bare(record)):
                if not self._may(pods):
                    continue
                if left == 0 or looks == 0:
                    return
                looks -= 1
                left -= await self._evicted(record, pods)

    async def _bare(self, record: PolicyRecord) -> list[Candidate]:
        """The pods that this policy wins and that have no sidecar."""
        query = select.query(record.selector)
        found: list[Candidate] = []
        if query is None:
            return found
        policies = self._cache.policies_of(record.key.namespace)
        async for page in self._kube.pages(paths.pods(record.key.namespace), selector=query, metadata_only=True):
            for pod in map(records.candidate, page):
                ours = not (pod.policy or pod.terminating or select.opted_out(pod.labels))
                if ours and select.winner(policies, pod.labels) is record:
                    found.append(pod)
        return found

    def _may(self, pods: list[Candidate]) -> bool:
        """By what is remembered of their owner."""
        assert pods[0].owner is not None  # noqa: S101 - for the type checker
        past = self._past.get(pods[0].owner.uid)
        if past is None:
            return True
        if not past.hopeless and any(pod.uid not in past.bare for pod in pods):
            past.hopeless = True
            log.warning("eviction: %s %s: a pod came without a sidecar again: no more of them are evicted", *_of(pods))
        return not past.hopeless and self._clock() - past.at >= self._every * ROUNDS

    async def _evicted(self, record: PolicyRecord, pods: list[Candidate]) -> bool:
        """The first of an owner's pods that may be."""
        injection = await self._delivered(record)
        if injection is None:
            return False
        for pod in pods:
            try:
                whole = await self._kube.get(paths.pod(pod.key))
                if not self._evictable(whole, pod, injection) or not await self._comes_injected(whole, record):
                    continue
                await self._kube.create(f"{paths.pod(pod.key)}/eviction", _eviction(pod))
            except NotFound:
                continue
            except KubeError as problem:  # a budget that is spent, a quota, another webhook
                log.info("eviction: pod %s stays: %s", pod.key, problem)
                return False
            self._remember(pods)
            log.info("eviction: pod %s has no sidecar and is evicted; %s %s makes another", pod.key, *_of(pods))
            return True
        return False

    async def _delivered(self, record: PolicyRecord) -> Injection | None:
        """None where a new pod would wait for its configuration."""
        place = Key(record.key.namespace, config_map_name(record.key.name))
        try:
            found = records.config_map_record(await self._kube.get(paths.config_map(place)), self._settings.sidecar)
        except NotFound:
            return None
        return found.injection if found.ours and found.policy_json is not None else None

    def _evictable(self, whole: Object, pod: Candidate, injection: Injection) -> bool:
        if (whole.get("metadata") or {}).get("uid") != pod.uid or not self._ready(whole):
            return False
        try:
            inject.inject(whole, injection, self._settings, "")
        except Skipped:
            return False
        return True

    def _ready(self, whole: Object) -> bool:
        for condition in (whole.get("status") or {}).get("conditions") or ():
            if (condition.get("type"), condition.get("status")) == ("Ready", "True"):
                since = records.seconds(condition.get("lastTransitionTime") or "")
                return 0.0 < since <= self._now() - READY_FOR
        return False

    async def _comes_injected(self, whole: Object, record: PolicyRecord) -> bool:
        """The webhook's own word."""
        made = await self._kube.create(paths.pods(record.key.namespace), _successor(whole), dry_run=True)
        labels = made["metadata"].get("labels") or {}
        containers = made["spec"].get("initContainers") or ()
        return labels.get(POLICY) == record.key.name and any(each["name"] == CONTAINER for each in containers)

    def _remember(self, pods: list[Candidate]) -> None:
        assert pods[0].owner is not None  # noqa: S101 - for the type checker
        self._past[pods[0].owner.uid] = _Past(self._clock(), frozenset(pod.uid for pod in pods))
        self._past.move_to_end(pods[0].owner.uid)
        while len(self._past) > OWNERS:
            self._past.popitem(last=False)


def _by_owner(pods: Iterable[Candidate]) -> list[list[Candidate]]:
    """Those that a controller makes anew, the oldest first."""
    found: dict[str, list[Candidate]] = {}
    for pod in sorted(pods, key=lambda each: (each.created, each.key)):
        if pod.owner is not None and pod.owner.uid and pod.owner.kind not in _NEVER:
            found.setdefault(pod.owner.uid, []).append(pod)
    return list(found.values())


def _of(pods: list[Candidate]) -> tuple[str, str]:
    """Its owner's kind and name."""
    owner = pods[0].owner
    return (owner.kind, owner.name) if owner else ("", "")


def _successor(whole: Object) -> Object:
    """What its controller would make, as far as admission cares: without a node, and without what only a running pod
    has."""
    metadata = whole["metadata"]
    kept = {key: metadata[key] for key in ("labels", "annotations") if key in metadata}
    spec = {key: value for key, value in whole["spec"].items() if key not in ("nodeName", "ephemeralContainers")}
    named = {"generateName": f"{metadata['name'][:50]}-", "namespace": metadata["namespace"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**kept, **named}, "spec": spec}


def _eviction(pod: Candidate) -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod.key.name, "namespace": pod.key.namespace},
        "deleteOptions": {"preconditions": {"uid": pod.uid}},
    }
