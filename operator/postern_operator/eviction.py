"""Which pods without a sidecar may be evicted, whose turn it is, and what is remembered of their owners.

Narrow, because an eviction ends somebody's pod: a policy of an enabled namespace wins it, a controller makes it anew
(no Job: its work would be lost), it has been Ready for five minutes and gives no reason to be skipped. One pod an owner
in ten minutes, and never again for an owner whose pod came without a sidecar after an eviction. Knows no API server and
no clock: whether the successor comes out of a dry run injected, and what budgets allow, the caller asks. Times come in
as arguments. Raises nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from . import inject, records, select
from .inject import Skipped
from .model import CONTAINER, POLICY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .model import Candidate, Injection, Owner, PolicyRecord
    from .settings import Settings

READY_FOR: Final = 300.0
OWNERS: Final = 4096
"""Remembered; beyond it the one that was seen last the longest ago is forgotten."""
PODS: Final = 4
"""Of an owner that are looked at in one round: some may not be Ready."""
_NEVER: Final = ("Job", "Node")
"""Owners whose pods come back unfinished, or not at all."""

Bare = tuple["PolicyRecord", "Candidate", "Owner"]
"""A pod without the sidecar of the policy that it should have, and the controller that makes it anew."""


def bare(pod: Candidate, record: PolicyRecord, policies: Iterable[PolicyRecord]) -> Owner | None:
    """The pod's owner, if it should have this policy's sidecar, has none, and is made anew when it goes."""
    if pod.owner is None or not pod.owner.uid or pod.owner.kind in _NEVER:
        return None
    if pod.policy or pod.terminating or select.opted_out(pod.labels):
        return None
    return pod.owner if select.winner(policies, pod.labels) is record else None


def evictable(pod: Candidate, whole: Mapping[str, Any], injection: Injection, settings: Settings, now: float) -> bool:
    """`whole`: the pod as it is now, read after `pod` was found to be bare. `now`: seconds since the epoch."""
    today = records.candidate(whole)
    if today.terminating or (today.uid, today.labels) != (pod.uid, pod.labels):
        return False
    if not _ready(whole, now):
        return False
    try:
        inject.inject(dict(whole), injection, settings, "")
    except Skipped:
        return False
    return True


def _ready(whole: Mapping[str, Any], now: float) -> bool:
    for condition in (whole.get("status") or {}).get("conditions") or ():
        if (condition.get("type"), condition.get("status")) == ("Ready", "True"):
            since = records.seconds(condition.get("lastTransitionTime") or "")
            return 0.0 < since <= now - READY_FOR
    return False


def successor(whole: Mapping[str, Any]) -> dict[str, Any]:
    """What its controller would make, as far as admission cares: without an owner (to name one may take rights that the
    operator lacks), a node, a status, and without what only a running pod has."""
    metadata = whole["metadata"]
    kept = {key: metadata[key] for key in ("labels", "annotations") if key in metadata}
    spec = {key: value for key, value in whole["spec"].items() if key not in ("nodeName", "ephemeralContainers")}
    named = {"generateName": f"{metadata['name'][:50]}-", "namespace": metadata["namespace"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**kept, **named}, "spec": spec}


def injected(made: Mapping[str, Any], record: PolicyRecord) -> bool:
    """Has what the dry run made this policy's sidecar?"""
    labels = made["metadata"].get("labels") or {}
    containers = made["spec"].get("initContainers") or ()
    return labels.get(POLICY) == record.key.name and any(each["name"] == CONTAINER for each in containers)


def request(pod: Candidate) -> dict[str, Any]:
    """The Eviction, of this pod and no other of its name."""
    return {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod.key.name, "namespace": pod.key.namespace},
        "deleteOptions": {"preconditions": {"uid": pod.uid}},
    }


# -- turns -------------------------------------------------------------------------------------------------------------


def owned(pods: Iterable[Bare]) -> list[list[Bare]]:
    """By owner, whichever policies its pods have; the oldest first."""
    found: dict[str, list[Bare]] = {}
    for one in sorted(pods, key=lambda each: (each[1].created, each[1].key)):
        found.setdefault(one[2].uid, []).append(one)
    return list(found.values())


@dataclass(slots=True)
class _Past:
    """Of an owner. `pods`: UIDs of those without a sidecar when one was evicted. `hopeless`: another one came after."""

    at: float
    pods: frozenset[str]
    hopeless: bool = False


class Memory:
    """Of owners: `pause` seconds between two evictions of one. Of pods: which were looked at, so that some that stay
    (a spent budget) do not keep others waiting for ever."""

    def __init__(self, pause: float, owners: int = OWNERS) -> None:
        self._pause, self._most = pause, owners
        self._past: OrderedDict[str, _Past] = OrderedDict()  # by the owner's UID
        self._looked: dict[str, int] = {}  # rounds, by the pod's UID
        self._round = 0

    def __len__(self) -> int:
        return len(self._past)

    def hopeless(self, pods: list[Bare]) -> bool:
        """Has an owner turned out so just now? `pods`: all of its bare ones."""
        uid = pods[0][2].uid
        past = self._past.get(uid)
        if past is None:
            return False
        self._past.move_to_end(uid)
        if past.hopeless or all(pod.uid in past.pods for _, pod, _ in pods):
            return False
        past.hopeless = True
        return True

    def may(self, owner: str, now: float) -> bool:
        past = self._past.get(owner)
        return past is None or (not past.hopeless and now - past.at >= self._pause)

    def turns(self, owners: list[list[Bare]], now: float) -> Iterator[list[Bare]]:
        """Owners one of whose pods may go, with `PODS` of theirs; those first that were looked at longest ago."""
        self._round += 1
        known = {pod.uid for pods in owners for _, pod, _ in pods}
        self._looked = {uid: at for uid, at in self._looked.items() if uid in known}
        turns = [sorted(pods, key=self._last) for pods in owners]
        for pods in sorted(turns, key=lambda each: self._last(each[-1])):
            if self.may(pods[0][2].uid, now):
                yield pods[:PODS]

    def looked(self, pod: Candidate) -> None:
        self._looked[pod.uid] = self._round

    def evicted(self, owner: str, pods: Iterable[Bare], now: float) -> None:
        """`pods`: all bare ones of this owner."""
        self._past[owner] = _Past(now, frozenset(pod.uid for _, pod, _ in pods))
        self._past.move_to_end(owner)
        while len(self._past) > self._most:
            self._past.popitem(last=False)

    def _last(self, one: Bare) -> int:
        return self._looked.get(one[1].uid, 0)
