"""What the watches have seen: policies with what injection needs of them, injected pods, enabled namespaces.

Events may come late and out of order (kopf handles objects side by side): an object's older version never replaces a
newer one, and what names another UID deletes nothing. A watch that starts anew lists all objects and tells of no
deletions: `gone` holds a live LIST against the cache. A policy that turned invalid keeps the injection that was
accepted last; after a restart of the operator that one is in its ConfigMap only, and the caller looks there. Does no
I/O, knows no clock. Raises nothing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .model import Key
from .render import render

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .model import Injection, PodRecord, PolicyRecord, Rendered


class Resource(enum.Enum):
    """What is watched."""

    POLICIES = "mailproxypolicies"
    PODS = "pods"
    NAMESPACES = "namespaces"


@dataclass(slots=True)
class _Seen:
    uid: str
    version: int
    mark: int  # of the cache's own clock, when it was last heard of


class Cache:
    """One event loop. `PodRecord`s are of injected pods only: thousands at most."""

    def __init__(self) -> None:
        self._mark = 0
        self._seen: dict[Resource, dict[Key, _Seen]] = {resource: {} for resource in Resource}
        self._policies: dict[str, dict[str, PolicyRecord]] = {}
        self._rendered: dict[Key, Rendered] = {}
        self._injections: dict[Key, Injection] = {}
        self._pods: dict[Key, PodRecord] = {}
        self._by_policy: dict[Key, dict[Key, PodRecord]] = {}

    # -- what is known -------------------------------------------------------------------------------------------------

    def policy(self, key: Key) -> PolicyRecord | None:
        return self._policies.get(key.namespace, {}).get(key.name)

    def policies(self) -> list[PolicyRecord]:
        return [record for names in self._policies.values() for record in names.values()]

    def policies_of(self, namespace: str) -> tuple[PolicyRecord, ...]:
        return tuple(self._policies.get(namespace, {}).values())

    def rendered(self, key: Key) -> Rendered | None:
        """Of the policy as it is now; None where it may not be accepted."""
        return self._rendered.get(key)

    def injection_of(self, key: Key) -> Injection | None:
        """Of the last accepted policy. None: the ConfigMap may know."""
        return self._injections.get(key)

    def namespace_enabled(self, namespace: str) -> bool:
        return Key("", namespace) in self._seen[Resource.NAMESPACES]

    def namespaces(self) -> list[str]:
        return [key.name for key in self._seen[Resource.NAMESPACES]]

    def pods_of(self, policy: Key) -> tuple[PodRecord, ...]:
        """Injected with this policy's sidecar, whatever has become of the policy since."""
        return tuple(self._by_policy.get(policy, {}).values())

    def pod(self, key: Key) -> PodRecord | None:
        return self._pods.get(key)

    def count(self, resource: Resource) -> int:
        return len(self._seen[resource])

    def is_news(self, resource: Resource, key: Key, uid: str, version: str) -> bool:
        """Worth to be read."""
        seen = self._seen[resource].get(key)
        return seen is None or _number(version) > seen.version or (_number(version) == seen.version and seen.uid != uid)

    # -- what happens --------------------------------------------------------------------------------------------------

    def put_policy(self, record: PolicyRecord, version: str) -> bool:
        """Is it new to us?"""
        key = record.key
        before = self.policy(key)
        if not self._newer(Resource.POLICIES, key, record.uid, version):
            return False
        self._policies.setdefault(key.namespace, {})[key.name] = record
        if before is None or before.uid != record.uid or before.generation != record.generation:
            rendered = render(record)
            if rendered is None:
                self._rendered.pop(key, None)
            else:
                self._rendered[key], self._injections[key] = rendered, rendered.injection
        return True

    def put_status(self, key: Key, uid: str, generation: int, status: Mapping[str, object], version: str) -> None:
        """As it was written, perhaps by us just now: then its watch event will be no news. Of another generation we
        know less than that version holds, and leave it to the watch."""
        record = self.policy(key)
        if record is None or (record.uid, record.generation) != (uid, generation):
            return
        if self._newer(Resource.POLICIES, key, uid, version):
            self._policies[key.namespace][key.name] = replace(record, status=status)

    def put_pod(self, record: PodRecord, version: str) -> bool:
        key = record.key
        if not self._newer(Resource.PODS, key, record.uid, version):
            return False
        self._forget_pod(key)
        self._pods[key] = record
        self._by_policy.setdefault(Key(key.namespace, record.policy), {})[key] = record
        return True

    def put_namespace(self, name: str, uid: str, version: str) -> bool:
        """An enabled one."""
        return self._newer(Resource.NAMESPACES, Key("", name), uid, version)

    def remember_injection(self, key: Key, injection: Injection) -> None:
        """As the ConfigMap of a policy has it; what the policy gave here is newer."""
        if self.policy(key) is not None:
            self._injections.setdefault(key, injection)

    def remove(self, resource: Resource, key: Key, uid: str) -> bool:
        """Was it there? Another object of that name stays."""
        seen = self._seen[resource].get(key)
        if seen is None or seen.uid != uid:
            return False
        del self._seen[resource][key]
        if resource is Resource.PODS:
            self._forget_pod(key)
        elif resource is Resource.POLICIES:
            names = self._policies[key.namespace]
            del names[key.name]
            if not names:
                del self._policies[key.namespace]
            self._rendered.pop(key, None)
            self._injections.pop(key, None)
        return True

    def mark(self) -> int:
        """To be taken before a LIST is asked for."""
        self._mark += 1
        return self._mark

    def gone(self, resource: Resource, present: Mapping[Key, str], mark: int) -> list[tuple[Key, str]]:
        """What is here, was last heard of before `mark`, and is not in the LIST (names with UIDs)."""
        return [
            (key, seen.uid)
            for key, seen in self._seen[resource].items()
            if seen.mark < mark and present.get(key) != seen.uid
        ]

    def missing(self, resource: Resource, present: Mapping[Key, str]) -> list[Key]:
        """What a LIST has and no watch has told of: a watch that is behind, or dead."""
        seen = self._seen[resource]
        return [key for key, uid in present.items() if key not in seen or seen[key].uid != uid]

    def _newer(self, resource: Resource, key: Key, uid: str, version: str) -> bool:
        number = _number(version)
        seen = self._seen[resource].get(key)
        if seen is not None:
            if number < seen.version:
                return False
            seen.mark = self._mark
            if number == seen.version and seen.uid == uid:
                return False
        self._seen[resource][key] = _Seen(uid, number, self._mark)
        return True

    def _forget_pod(self, key: Key) -> None:
        old = self._pods.pop(key, None)
        if old is None:
            return
        policy = Key(key.namespace, old.policy)
        pods = self._by_policy[policy]
        del pods[key]
        if not pods:
            del self._by_policy[policy]


def _number(version: str) -> int:
    """Resource versions are numbers that grow (KEP-5504); an odd one counts as newer than everything."""
    return int(version) if version.isascii() and version.isdecimal() and len(version) <= 20 else 1 << 80
