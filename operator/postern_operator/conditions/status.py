"""The status of a policy, and the Events that its changes are worth.

Written are our own three conditions, whatever else stands there belongs to others. A condition keeps its
`lastTransitionTime` while its status is the same. A status that a newer generation has already got is left alone: the
cache is behind. The texts of Events are `events`'. Raises nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..model import Notice
from ..reasons import Accepted, Condition, Outdated, Programmed
from . import checks
from .checks import Check, Finding, clipped, evaluate
from .view import View, view

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..model import Inputs, Rendered

Fields = dict[str, Any]
_OURS = tuple(kind.value for kind in Condition)
_FIELDS = ("type", "status", "reason", "message", "observedGeneration", "lastTransitionTime")

_QUIET = (Programmed.NOT_ACCEPTED.value, Programmed.PENDING.value)
"""Not told: what another condition tells, and what passes by itself."""
_GOOD = (Accepted.ACCEPTED.value, Programmed.PROGRAMMED.value, Outdated.UP_TO_DATE.value)


@dataclass(frozen=True, slots=True)
class Judgement:
    """`conditions` are ours, in the order of `reasons.Condition`. `config_hash` is "" where nothing is delivered."""

    conditions: tuple[Mapping[str, Any], ...]
    config_hash: str
    selected: int
    injected: int
    current: int

    def status(self) -> Fields:
        """The body of a server-side apply's `status`: what is left out is taken away there."""
        pods = {"selected": self.selected, "injected": self.injected, "current": self.current}
        status: Fields = {"conditions": [dict(condition) for condition in self.conditions], "pods": pods}
        if self.config_hash:
            status["configHash"] = self.config_hash
        return status


def judge(inputs: Inputs, rendered: Rendered | None) -> Judgement | None:
    """`rendered`: what `render.render` made of the policy. None: a newer generation has been judged already, so this
    one must not be written."""
    record = inputs.record
    before = _conditions(record.status)
    if any(_generation(condition) > record.generation for condition in before.values()):
        return None
    seen = view(inputs, rendered)
    conditions = tuple(
        _condition(kind, decided, seen, before.get(kind.value, {})) for kind, decided in _decided(seen).items()
    )
    return Judgement(conditions, seen.target, len(seen.selected), len(seen.injected), seen.current)


def unchanged(old: Mapping[str, Any], new: Judgement) -> bool:
    """Nothing has to be written over `old`, the status as it was read."""
    status = new.status()
    mine = [
        {field: value for field, value in condition.items() if field in _FIELDS}
        for condition in sorted(_conditions(old).values(), key=_order)
    ]
    same = [
        mine == status["conditions"],
        old.get("pods") == status["pods"],
        old.get("configHash", "") == new.config_hash,
    ]
    return all(same)


def unheard(old: Mapping[str, Any], new: Judgement) -> bool:
    """`old` says of the same generation and the same file that all sidecars run it; `new`, that some are pending. Where
    not every sidecar has been asked, that is no news of them."""
    before = _conditions(old).get(Condition.PROGRAMMED.value, {})
    now = next(one for one in new.conditions if one["type"] == Condition.PROGRAMMED.value)
    return (
        before.get("status") == "True"
        and now["reason"] == Programmed.PENDING.value
        and _generation(before) == now["observedGeneration"]
        and old.get("configHash") == new.config_hash
    )


def transitions(old: Mapping[str, Any], new: Judgement) -> tuple[Notice, ...]:
    """One for each condition whose status or reason is another than in `old`."""
    before = _conditions(old)
    return tuple(notice for condition in new.conditions for notice in _told(before, condition))


def _decided(seen: View) -> dict[Condition, tuple[bool, Finding]]:
    """For each condition whether it is True, and why."""
    return {
        Condition.ACCEPTED: _chain(checks.ACCEPTED, checks.accepted, seen, holds=True),
        Condition.PROGRAMMED: _chain(checks.PROGRAMMED, checks.programmed, seen, holds=True),
        Condition.SIDECARS_OUTDATED: _chain(checks.OUTDATED, checks.up_to_date, seen, holds=False),
    }


def _chain(
    chain: Sequence[Check], otherwise: Callable[[View], Finding], seen: View, *, holds: bool
) -> tuple[bool, Finding]:
    """`holds`: what the condition is where no check is violated."""
    finding = evaluate(chain, seen)
    return (holds, otherwise(seen)) if finding is None else (not holds, finding)


def _condition(kind: Condition, decided: tuple[bool, Finding], seen: View, before: Mapping[str, Any]) -> Fields:
    holds, finding = decided
    status = "True" if holds else "False"
    since = before.get("lastTransitionTime")
    kept = before.get("status") == status and isinstance(since, str) and since != ""
    return {
        "type": kind.value,
        "status": status,
        "reason": finding.reason.value,
        "message": clipped(finding.message),
        "observedGeneration": seen.record.generation,
        "lastTransitionTime": since if kept else _timestamp(seen.inputs.now),
    }


def _told(before: Mapping[str, Mapping[str, Any]], condition: Mapping[str, Any]) -> tuple[Notice, ...]:
    reason, old = condition["reason"], before.get(condition["type"])
    if old is None and reason == Outdated.UP_TO_DATE.value:
        return ()  # no news of a new policy
    if reason in _QUIET or (old is not None and old.get("reason") == reason):
        return ()
    return (Notice(reason not in _GOOD, reason),)


def _conditions(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Ours, by type."""
    found = status.get("conditions")
    every = [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
    return {item["type"]: item for item in every if item.get("type") in _OURS}


def _order(condition: Mapping[str, Any]) -> int:
    return _OURS.index(condition["type"])


def _generation(condition: Mapping[str, Any]) -> int:
    value = condition.get("observedGeneration")
    return value if isinstance(value, int) else 0


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
