"""One policy's pods as its status counts them. Raises nothing.

selected: live, not terminating, matching, not opted out, and this policy wins. injected: of these, those that carry
this policy's sidecar. current: of these, those whose sidecar runs the delivered file. `sidecars` are all that carry it:
a pod keeps the policy that it was injected with until it is made again, whoever would win it now.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from postern_sidecar.config import config_hash

from ..select import opted_out, selects, winner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..model import Answer, Candidate, Inputs, PodRecord, PolicyRecord, Rendered

UNREACHABLE_AFTER = 30.0
"""Seconds without an answer: a container that restarts answers again sooner."""


@dataclass(frozen=True, slots=True)
class View:
    """Pods are in the order of their names. `lost`: how many of the matching pods each other policy wins, the policies
    in the order of their names. `target`: the hash that a current sidecar runs, "" where nothing is delivered."""

    inputs: Inputs
    rendered: Rendered | None
    target: str
    selected: tuple[Candidate, ...]
    injected: tuple[Candidate, ...]
    lost: tuple[tuple[PolicyRecord, int], ...]
    sidecars: tuple[PodRecord, ...]

    @property
    def record(self) -> PolicyRecord:
        return self.inputs.record

    @property
    def current(self) -> int:
        return sum(self.is_current(pod.uid) for pod in self.injected)

    @property
    def not_injected(self) -> tuple[Candidate, ...]:
        injected = {pod.uid for pod in self.injected}
        return tuple(pod for pod in self.selected if pod.uid not in injected)

    def is_current(self, uid: str) -> bool:
        """A sidecar that does not answer for a moment is still what it was."""
        answer = self.inputs.answers.get(uid)
        return answer is not None and answer.hash == self.target != "" and not self.is_silent(uid)

    def is_silent(self, uid: str) -> bool:
        """It has not answered for so long that somebody has to look."""
        answer = self.inputs.answers.get(uid)
        since = self.inputs.since.get(uid, self.inputs.now)
        return answer is not None and answer.failure != "" and self.inputs.now - since >= UNREACHABLE_AFTER


def view(inputs: Inputs, rendered: Rendered | None) -> View:
    record = inputs.record
    records = {pod.uid: pod for pod in inputs.injected}
    ended = {uid for uid, pod in records.items() if pod.terminating}
    live = [
        pod
        for pod in sorted(inputs.candidates, key=lambda pod: pod.key)
        if not pod.terminating and pod.uid not in ended and not opted_out(pod.labels)
    ]
    policies = (record, *inputs.rivals)
    matching = [(pod, winner(policies, pod.labels)) for pod in live if selects(record.selector, pod.labels)]
    selected = tuple(pod for pod, wins in matching if wins is record)
    winners = {wins.key: wins for _, wins in matching if wins is not None and wins is not record}
    lost = Counter(wins.key for _, wins in matching if wins is not None and wins is not record)
    return View(
        inputs=inputs,
        rendered=rendered,
        target=_target(inputs, rendered),
        selected=selected,
        injected=tuple(pod for pod in selected if _carries(pod, record, records)),
        lost=tuple((winners[key], lost[key]) for key in sorted(winners)),
        sidecars=sidecars(inputs),
    )


def sidecars(inputs: Inputs) -> tuple[PodRecord, ...]:
    """The live pods that carry this policy's sidecar, in the order of their names."""
    name = inputs.record.key.name
    carriers = (pod for pod in inputs.injected if pod.image and pod.policy == name and not pod.terminating)
    return tuple(sorted(carriers, key=lambda pod: pod.key))


def answered(view: View, uid: str) -> Answer | None:
    return view.inputs.answers.get(uid)


def _carries(pod: Candidate, record: PolicyRecord, records: Mapping[str, PodRecord]) -> bool:
    """By its label; and by its container, once the watch has brought the pod."""
    known = records.get(pod.uid)
    return pod.policy == record.key.name and (known is None or known.image != "")


def _target(inputs: Inputs, rendered: Rendered | None) -> str:
    """Of an invalid policy the last accepted file stays delivered."""
    if rendered is not None:
        return rendered.hash
    delivered = inputs.config_map
    if delivered is None or not delivered.ours or delivered.policy_json is None:
        return ""
    return config_hash(delivered.policy_json)
