"""Kubernetes Events (events.k8s.io/v1) about pods that were skipped or evicted, and policies whose state has changed.

Exempt from the Lease: the replica that saw it says it. An Event is about the pod's controller owner, else about the
policy, and stands only in an enabled namespace with a known policy. Anyone in the cluster can post a forged review, so
what a review says can neither choose the text (it is fixed by the reason) nor cause many writes: one Event an owner and
reason in ten minutes, twenty owners a policy in that time, tables and queue bounded. Posting never waits: `skipped` and
`transition` put into a queue that `run` empties; full, they drop and count. An Event that cannot be written is gone.
Raises nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from . import paths
from .kube import KubeError, TooManyRequests
from .model import API_VERSION, KIND, Key
from .reasons import Accepted, Eviction, Outdated, Programmed, Skip

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .kube import Kube, Object
    from .model import Owner, PolicyRecord
    from .review import Facts

log = logging.getLogger(__name__)

AGAIN = 600.0
"""Seconds until the same owner hears the same reason again."""
OWNERS = 20
"""Different owners that hear of one policy in that time: a Deployment has a few; hundreds are forged."""
TABLE = 4096
QUEUE = 256
TIMEOUT = 5.0
PAUSE = 30.0
"""Seconds at most that the API server's Retry-After is heeded."""

_K = TypeVar("_K")
_V = TypeVar("_V")
Reason = Skip | Accepted | Programmed | Outdated | Eviction
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)
_KIND = re.compile(r"[A-Z][A-Za-z0-9]{0,62}", re.ASCII)
_VERSION = re.compile(r"(?:[a-z0-9][-a-z0-9.]{0,252}/)?v[a-z0-9]{1,30}", re.ASCII)
_UID = re.compile(r"[-0-9A-Za-z]{1,64}", re.ASCII)
_GOOD: set[Reason] = {Accepted.ACCEPTED, Programmed.PROGRAMMED, Programmed.PENDING, Outdated.UP_TO_DATE}
_GOOD |= {Skip.OPTED_OUT, Skip.NO_POLICY, Eviction.EVICTED}
_WITHOUT_A_POLICY = (Skip.NO_POLICY, Skip.INTERNAL_ERROR)

TEXTS: dict[Reason, str] = {
    Skip.OPTED_OUT: "A pod has no sidecar: its label postern.dev/inject is disabled.",
    Skip.NO_POLICY: "A pod has no sidecar: no MailProxyPolicy of its namespace selects it.",
    Skip.POLICY_INVALID: "A pod has no sidecar: its MailProxyPolicy is invalid and never was accepted.",
    Skip.HOST_NETWORK: "A pod has no sidecar: it has hostNetwork, where its ports and sysctl would be the node's.",
    Skip.WINDOWS_POD: "A pod has no sidecar: it is for Windows nodes.",
    Skip.MIRROR_POD: "A pod has no sidecar: it is a static pod's mirror.",
    Skip.RESERVED_PORT: "A pod has no sidecar: it declares a port that the sidecar needs.",
    Skip.SYSCTL_CONFLICT: "A pod has no sidecar: its own ip_unprivileged_port_start is too high for the policy.",
    Skip.NAME_CONFLICT: "A pod has no sidecar: it has a container or volume with a name that is Postern's.",
    Skip.INTERNAL_ERROR: "A pod has no sidecar: an internal error; the operator's log says more.",
    Accepted.ACCEPTED: "The policy is accepted.",
    Accepted.INVALID: "The policy is invalid; its status says why. Pods keep the last accepted one.",
    Accepted.CONFLICTED: "The policy wins none of the pods that it selects; its status names the winner.",
    Programmed.PROGRAMMED: "All sidecars run the policy.",
    Programmed.NOT_ACCEPTED: "The policy is not accepted, so sidecars run the last accepted one.",
    Programmed.NAMESPACE_NOT_ENABLED: "The namespace lacks the label postern.dev/inject=enabled.",
    Programmed.CONFIG_MAP_CONFLICT: "A ConfigMap of the policy's name exists that is not Postern's.",
    Programmed.SIDECAR_REJECTED: "A sidecar refuses the policy; the status has its message.",
    Programmed.RESTART_REQUIRED: "Pods must be recreated for the policy to hold in them; the status names them.",
    Programmed.NOT_INJECTED: "The policy selects pods without a sidecar; the status names them.",
    Programmed.UNREACHABLE: "Sidecars do not answer the operator; the status names their pods.",
    Programmed.PENDING: "Sidecars are taking the policy over.",
    Outdated.UP_TO_DATE: "All sidecars are of this release.",
    Outdated.OLDER_SIDECARS: "Sidecars are of an older image or template until their pods are recreated.",
    Eviction.EVICTED: "A pod that should have a sidecar had none, and was evicted so that another one is made.",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Subject:
    api_version: str
    kind: str
    key: Key
    uid: str


@dataclass(frozen=True, slots=True)
class _Entry:
    subject: Subject
    reason: Reason


class Events:
    """`enabled`: of a namespace; `policies`: of a namespace, as the watch has seen them. `instance`: the pod's name.
    `count` hears "posted", "dropped" or "failed"."""

    def __init__(
        self,
        kube: Kube,
        *,
        enabled: Callable[[str], bool],
        policies: Callable[[str], Sequence[PolicyRecord]],
        instance: str,
        count: Callable[[str], None] = lambda _result: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kube, self._enabled, self._policies, self._instance = kube, enabled, policies, instance
        self._count, self._clock, self._now = count, clock, now
        self._queue: asyncio.Queue[_Entry] = asyncio.Queue(QUEUE)
        self._told: OrderedDict[tuple[Subject, Reason], float] = OrderedDict()
        self._budgets: OrderedDict[Key, list[float]] = OrderedDict()

    def skipped(self, facts: Facts) -> None:
        """A pod that the webhook let pass without a sidecar, or refused. Dry runs are nobody's business."""
        if facts.dry_run or not isinstance(facts.outcome, Skip) or not self._enabled(facts.namespace):
            return
        policy = self._policy(facts.namespace, facts.policy, any_of_them=facts.outcome in _WITHOUT_A_POLICY)
        if policy is None:
            return
        owner = _owner(facts.namespace, facts.owner)
        if facts.outcome is not Skip.NO_POLICY:
            self._post(owner or _subject(policy), facts.outcome, policy.key)
        elif owner is not None:  # no policy is concerned; what else runs in the namespace has a budget of its own
            self._post(owner, facts.outcome, Key(facts.namespace, ""))

    def transition(self, record: PolicyRecord, reason: Accepted | Programmed | Outdated) -> None:
        """A condition of the policy's status has changed; the caller knows that it has."""
        if self._enabled(record.key.namespace):
            self._post(_subject(record), reason, record.key)

    def evicted(self, record: PolicyRecord, owner: Owner) -> None:
        """A pod of this owner, which has the policy's sidecar when it is made again."""
        if self._enabled(record.key.namespace):
            self._post(_owner(record.key.namespace, owner) or _subject(record), Eviction.EVICTED, record.key)

    async def run(self) -> None:
        while True:
            entry = await self._queue.get()
            try:
                await self._kube.create(paths.events(entry.subject.key.namespace), self._event(entry), timeout=TIMEOUT)
            except TooManyRequests as busy:
                self._count("failed")
                await asyncio.sleep(min(busy.retry_after, PAUSE))
            except KubeError as problem:
                self._count("failed")
                log.info("event %s about %s: %s", entry.reason.value, entry.subject.key, problem)
            else:
                self._count("posted")

    def _policy(self, namespace: str, name: str, *, any_of_them: bool) -> PolicyRecord | None:
        """Where the lookup broke no policy is known to be the pod's: any of the namespace's hears of it."""
        known = self._policies(namespace)
        named = (each for each in known if each.key.name == name)
        return next(named, min(known, key=lambda each: each.key, default=None) if any_of_them else None)

    def _post(self, subject: Subject, reason: Reason, policy: Key) -> None:
        now = self._clock()
        told = self._told.get((subject, reason))
        if told is not None and now - told < AGAIN:
            return
        if not self._affordable(policy, now):
            self._count("dropped")
            return
        try:
            self._queue.put_nowait(_Entry(subject, reason))
        except asyncio.QueueFull:
            self._count("dropped")
            return
        _remember(self._told, (subject, reason), now)

    def _affordable(self, policy: Key, now: float) -> bool:
        spent = [at for at in self._budgets.get(policy, ()) if now - at < AGAIN]
        if len(spent) >= OWNERS:
            return False
        _remember(self._budgets, policy, [*spent, now])
        return True

    def _event(self, entry: _Entry) -> Object:
        subject, reason = entry.subject, entry.reason
        regarding = {
            "apiVersion": subject.api_version,
            "kind": subject.kind,
            "namespace": subject.key.namespace,
            "name": subject.key.name,
            "uid": subject.uid,
        }
        name = f"{subject.key.name[:230].rstrip('-.')}.{secrets.token_hex(8)}"
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"namespace": subject.key.namespace, "name": name},
            "eventTime": self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "postern.dev/operator",
            "reportingInstance": self._instance[:128] or "postern-operator",
            "action": _action(reason),
            "reason": reason.value,
            "regarding": regarding,
            "note": TEXTS[reason],
            "type": "Normal" if reason in _GOOD else "Warning",
        }


def _action(reason: Reason) -> str:
    match reason:
        case Skip():
            return "Inject"
        case Eviction():
            return "Evict"
    return "Reconcile"


def _subject(record: PolicyRecord) -> Subject:
    return Subject(API_VERSION, KIND, record.key, record.uid)


def _owner(namespace: str, owner: Owner | None) -> Subject | None:
    """None where it is none that an Event of this namespace could be about: no name of Kubernetes', or a node."""
    if owner is None or owner.kind == "Node":
        return None
    parts = ((_VERSION, owner.api_version), (_KIND, owner.kind), (_NAME, owner.name), (_UID, owner.uid))
    if not all(pattern.fullmatch(text) for pattern, text in parts):
        return None
    return Subject(owner.api_version, owner.kind, Key(namespace, owner.name), owner.uid)


def _remember(table: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    table[key] = value
    table.move_to_end(key)
    while len(table) > TABLE:
        table.popitem(last=False)
