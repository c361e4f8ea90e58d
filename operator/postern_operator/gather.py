"""What one reconciliation looks at: from the cache, and from the API server what no watch tells.

A policy's ConfigMap is read once and then believed until the resync's LIST shows another version. Selected pods come
from a metadata LIST with the policy's selector, after each change of it and every minute, and soon after injected pods
came or went; between two LISTs the watch of injected pods is newer than the LIST. Raises KubeError.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from . import paths, records, select
from .cache import Resource
from .kube import NotFound
from .model import MANAGED_BY, POLICY, POSTERN, Candidate, ConfigMapRecord, Key, config_map_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .cache import Cache
    from .kube import Kube, Object
    from .model import PodRecord, PolicyRecord
    from .settings import Settings

EVERY: Final = 60.0
"""Seconds between two LISTs of a policy's pods."""
LIVE: Final = "status.phase!=Succeeded,status.phase!=Failed"
"""Metadata does not say that a pod has ended: of a Job it stays, with no sidecar that anybody could miss."""
SOONEST: Final = 2.0
"""Seconds between two LISTs at least, however many pods come and go; of many pods, longer."""
PODS_A_SECOND: Final = 500
"""That one policy's LISTs may read over time, because pods come and go."""
INJECT_ENABLED: Final = "postern.dev/inject=enabled"


@dataclass(frozen=True, slots=True)
class Delivered:
    """A ConfigMap as it was read, or as our own write came back."""

    record: ConfigMapRecord
    uid: str
    version: str


@dataclass(slots=True)
class _Listed:
    policy: tuple[str, int]  # UID and generation
    until: float
    pods: tuple[Candidate, ...]
    soonest: float
    seen: frozenset[str] | None
    """What the watch knew when it began: the UIDs of injected pods; None: the namespace is not enabled."""


class Gathering:
    """`every`: seconds between two LISTs of a policy's pods."""

    def __init__(
        self,
        kube: Kube,
        cache: Cache,
        settings: Settings,
        *,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._kube, self._cache, self._settings = kube, cache, settings
        self._every, self._clock, self._chance = every, clock, chance
        self._config_maps: dict[Key, Delivered] = {}
        self._listed: dict[Key, _Listed] = {}

    async def config_map(self, key: Key) -> Delivered | None:
        """Of the policy `key`."""
        known = self._config_maps.get(key)
        if known is not None:
            return known
        try:
            return self.remember(key, await self._kube.get(paths.delivered(key)))
        except NotFound:
            return None

    def remember(self, key: Key, raw: Object) -> Delivered:
        metadata = raw.get("metadata") or {}
        record = records.config_map_record(raw, self._settings.sidecar)
        delivered = Delivered(record, metadata.get("uid", ""), metadata.get("resourceVersion", ""))
        if record.ours:  # another's may go at any time, and no LIST of ours shows it
            self._config_maps[key] = delivered
            if record.injection is not None:
                self._cache.remember_injection(key, record.injection)
        return delivered

    def doubt(self, key: Key, uid: str, version: str) -> bool:
        """The resync has seen the ConfigMap like this ("" and "": not at all). Is that news?"""
        known = self._config_maps.get(key)
        if known is None or (known.uid, known.version) == (uid, version):
            return False
        del self._config_maps[key]
        return True

    def believed(self) -> list[Key]:
        """Whose ConfigMaps are not read again."""
        return list(self._config_maps)

    def forget_config_map(self, key: Key) -> None:
        self._config_maps.pop(key, None)

    def forget(self, key: Key) -> None:
        self._config_maps.pop(key, None)
        self._listed.pop(key, None)

    def list_is_due(self, record: PolicyRecord) -> bool:
        return self.list_due(record) <= 0.0

    def list_due(self, record: PolicyRecord) -> float:
        """Seconds until the pods are to be listed; 0: now."""
        listed = self._listed.get(record.key)
        if listed is None or listed.policy != (record.uid, record.generation):
            return 0.0
        due = listed.until if listed.seen == self._seen(record.key) else min(listed.soonest, listed.until)
        return max(due - self._clock(), 0.0)

    async def list_pods(self, record: PolicyRecord) -> None:
        seen = self._seen(record.key)
        query = select.query(record.selector)
        found: list[Candidate] = []
        if query is not None:
            path = paths.pods(record.key.namespace)
            async for page in self._kube.pages(path, selector=query, fields=LIVE, metadata_only=True):
                found += map(records.candidate, page)
        now = self._clock()
        until = now + self._every * (0.9 + 0.2 * self._chance())
        soonest = now + max(SOONEST, len(found) / PODS_A_SECOND)
        self._listed[record.key] = _Listed((record.uid, record.generation), until, tuple(found), soonest, seen)

    def _seen(self, key: Key) -> frozenset[str] | None:
        if not self._cache.namespace_enabled(key.namespace):
            return None
        return frozenset(pod.uid for pod in self._cache.pods_of(key))

    def candidates(self, record: PolicyRecord, injected: Iterable[PodRecord]) -> tuple[Candidate, ...]:
        """The last LIST, with what the watch has told since."""
        listed = self._listed.get(record.key)
        return merged(listed.pods if listed else (), injected, record)


def merged(listed: Iterable[Candidate], injected: Iterable[PodRecord], record: PolicyRecord) -> tuple[Candidate, ...]:
    """Of the pods that carry this policy's label the watch knows best: those that it does not have are gone."""
    watched = {pod.uid: pod for pod in injected}
    found: list[Candidate] = []
    for pod in listed:
        newer = watched.pop(pod.uid, None)
        if newer is not None:
            found.append(replace(pod, labels=newer.labels, policy=newer.policy, terminating=newer.terminating))
        elif pod.policy != record.key.name:
            found.append(pod)
    found += (_from_watch(pod) for pod in watched.values() if select.selects(record.selector, pod.labels))
    return tuple(found)


async def live(kube: Kube, resource: Resource, namespaces: Iterable[str]) -> dict[Key, str]:
    """Names and UIDs of what the watch of `resource` should have told of. `namespaces`: "" for all."""
    found: dict[Key, str] = {}
    for namespace in namespaces if resource is not Resource.NAMESPACES else ("",):
        path, selector = _collection(resource, namespace)
        async for page in kube.pages(path, selector=selector, metadata_only=True):
            for item in page:
                metadata = item.get("metadata") or {}
                found[records.key_of(metadata)] = metadata.get("uid", "")
    return found


async def our_config_maps(kube: Kube, namespaces: Iterable[str]) -> Mapping[Key, tuple[str, str]]:
    """UID and version by the policy's key, as the label has them: whose policy is gone, too."""
    found: dict[Key, tuple[str, str]] = {}
    prefix = config_map_name("")
    for namespace in namespaces:
        path = paths.config_maps(namespace)
        async for page in kube.pages(path, selector=f"{MANAGED_BY}={POSTERN}", metadata_only=True):
            for item in page:
                metadata = item.get("metadata") or {}
                key = records.key_of(metadata)
                if key.name.startswith(prefix):
                    policy = Key(key.namespace, key.name.removeprefix(prefix))
                    found[policy] = metadata.get("uid", ""), metadata.get("resourceVersion", "")
    return found


async def exists(kube: Kube, key: Key) -> bool:
    """The policy, live."""
    try:
        await kube.get(paths.policy(key))
    except NotFound:
        return False
    return True


async def is_used(kube: Kube, key: Key) -> bool:
    """Is there a pod that was injected with the policy `key`? Asked live."""
    async for page in kube.pages(paths.pods(key.namespace), selector=f"{POLICY}={key.name}", metadata_only=True):
        if page:
            return True
    return False


def _collection(resource: Resource, namespace: str) -> tuple[str, str]:
    match resource:
        case Resource.POLICIES:
            return paths.policies(namespace), ""
        case Resource.PODS:
            return paths.pods(namespace), POLICY
        case Resource.NAMESPACES:
            return paths.namespaces(), INJECT_ENABLED


def _from_watch(pod: PodRecord) -> Candidate:
    return Candidate(
        key=pod.key,
        uid=pod.uid,
        labels=pod.labels,
        policy=pod.policy,
        terminating=pod.terminating,
        created=0.0,
        owner=None,
    )
