"""One namespace's pods as its policies see them, and why a pod has no sidecar. Raises nothing.

Counted as the operator counts (`conditions.view`), but page by page, so that thousands of pods cost no memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import inject, select
from ..inject import Skipped
from ..model import STATUS
from ..reasons import Skip
from ..records import candidate, pod_record, seconds, stamp_of
from ..render import render
from .facts import Bare, Count, Survey

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from postern_sidecar.config.model import LabelSelector

    from ..model import Candidate, Injection, PolicyRecord
    from ..settings import Settings

LOOKED_AT = 20
"""Pods of a policy that have no sidecar and are read one by one; their number is counted further."""
SAMPLES = 5

Object = dict[str, Any]


@dataclass(slots=True)
class Counting:
    """Pods of one namespace; `policies` are its own."""

    policies: Sequence[PolicyRecord]
    settings: Settings
    counts: dict[str, Count] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    seen: int = 0
    _wanted: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counts = {record.key.name: Count() for record in self.policies}
        for record in self.policies:
            rendered = render(record)
            if rendered is not None:
                self._wanted[record.key.name] = inject.template_hash(rendered.injection, self.settings)

    def add(self, page: Iterable[Object]) -> None:
        """Of a metadata LIST."""
        for raw in page:
            self.seen += 1
            pod = candidate(raw)
            if not pod.terminating:
                if pod.policy:
                    self.used.add(pod.policy)
                self._add(pod, raw)

    def survey(self, name: str, bare: Iterable[Bare]) -> Survey:
        count = self.counts[name]
        return Survey(count.selected, count.injected, count.missing, count.outdated, tuple(bare), tuple(count.samples))

    def _add(self, pod: Candidate, raw: Object) -> None:
        winner = None if select.opted_out(pod.labels) else select.winner(self.policies, pod.labels)
        if winner is None:
            return
        name = winner.key.name
        count = self.counts[name]
        count.selected += 1
        if pod.policy != name:
            count.missing += 1
            if len(count.bare) < LOOKED_AT:
                count.bare.append(pod)
            return
        count.injected += 1
        if len(count.carriers) < SAMPLES:
            count.carriers.append(pod.key)
        stamp = stamp_of(str(((raw.get("metadata") or {}).get("annotations") or {}).get(STATUS, "")))
        wanted = self._wanted.get(name)
        if wanted is not None and (stamp is None or stamp.spec_hash != wanted):
            count.outdated += 1
            if len(count.samples) < SAMPLES:
                count.samples.append(pod.key)


def looked_at(
    raw: Object, record: PolicyRecord, delivered: Injection | None, settings: Settings, version: str
) -> Bare | None:
    """Why the pod has no sidecar of `record`, which wins it. None: it has ended. `delivered`: of its ConfigMap."""
    pod = pod_record(raw)
    if pod.terminating:
        return None
    if pod.policy not in ("", record.key.name):
        return Bare(pod.key, None, "", pod.policy)
    rendered = render(record)
    injection = rendered.injection if rendered is not None else delivered
    try:
        inject.exclude(raw)
        if injection is None:
            return Bare(pod.key, Skip.POLICY_INVALID, "the policy is invalid and was never accepted")
        inject.inject(raw, injection, settings, version)
    except Skipped as skipped:
        return Bare(pod.key, skipped.reason, skipped.message)
    except Exception as problem:  # what the webhook would answer, too
        return Bare(pod.key, Skip.INTERNAL_ERROR, f"injection breaks on it: {type(problem).__name__}")
    made = seconds(str((raw.get("metadata") or {}).get("creationTimestamp") or ""))
    if made < seconds(record.created):
        return Bare(pod.key, None, "it is older than the policy")
    return Bare(pod.key, None, "it would be injected today: it was made while the webhook was not called for it")


def labels_for(selector: LabelSelector | None) -> dict[str, str] | None:
    """Labels that the selector matches; None where that is too hard, or nothing is."""
    if selector is None:
        return None
    forbidden: dict[str, set[str]] = {}
    allowed: dict[str, list[str]] = {key: [value] for key, value in selector.match_labels.items()}
    present: list[str] = []
    for expression in selector.match_expressions:
        operator, key = expression.operator.value, expression.key
        if operator == "NotIn":
            forbidden.setdefault(key, set()).update(expression.values)
        elif operator == "In":
            values = allowed.get(key)
            kept = [value for value in expression.values if values is None or value in values]
            allowed[key] = kept
        elif operator == "Exists":
            present.append(key)
    for key in present:
        allowed.setdefault(key, ["postern-check"])
    labels: dict[str, str] = {}
    for key, values in allowed.items():
        fitting = [value for value in values if value not in forbidden.get(key, ())]
        if not fitting:
            return None
        labels[key] = fitting[0]
    return labels if select.selects(selector, labels) and not select.opted_out(labels) else None


def trial_pod(labels: Mapping[str, str], image: str) -> Object:
    """For a dry run; as the Pod Security Standard `restricted` and quotas want it."""
    container = {
        "name": "check",
        "image": image,
        "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "1m", "memory": "1Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "postern-check-", "labels": dict(labels)},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": security,
            "containers": [container],
        },
    }
