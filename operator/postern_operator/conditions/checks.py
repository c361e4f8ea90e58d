"""The ordered checks behind each condition: the first violation gives its reason and its message.

A check makes sure of one thing and is named after the violation. Messages name at most five pods, say what to do, and
hold nothing that changes while nothing else does (no ages, no times): a status is written only when it differs.
What a sidecar said is bounded and printable. Raises nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..model import INJECT, config_map_name
from ..reasons import Accepted, Outdated, Programmed
from ..records import seconds
from .view import answered

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from postern_sidecar.config import Problem

    from ..model import Candidate, PodRecord
    from .view import View

MAX_NAMED = 5
MAX_QUOTED = 300  # characters of a sidecar's own message
MAX_MESSAGE = 2048

Reason = Accepted | Programmed | Outdated


@dataclass(frozen=True, slots=True)
class Finding:
    reason: Reason
    message: str


Check = Callable[["View"], Finding | None]


def evaluate(chain: Sequence[Check], view: View) -> Finding | None:
    """The first violation, or None."""
    return next((finding for check in chain if (finding := check(view)) is not None), None)


# Accepted


def policy_is_invalid(view: View) -> Finding | None:
    """The sidecar and the chart would take it."""
    problems = view.record.problems
    if view.rendered is not None and not problems:
        return None
    return Finding(Accepted.INVALID, listed_problems(problems) or "the policy cannot be read")


def every_pod_is_lost(view: View) -> Finding | None:
    """It wins a pod, if it selects any."""
    if view.selected or not view.lost:
        return None
    total = sum(count for _, count in view.lost)
    return Finding(
        Accepted.CONFLICTED,
        f"selects {total} pod{'' if total == 1 else 's'} and wins none: {_winners(view)}; the highest spec.priority "
        "wins, then the oldest policy, then the name: raise the priority, or narrow spec.selector",
    )


def accepted(view: View) -> Finding:
    parts = []
    if view.record.selector is None:
        parts.append("there is no spec.selector, so no pod is selected")
    if view.lost:
        total = sum(count for _, count in view.lost)
        won = len(view.selected)
        parts.append(f"wins {won} of the {won + total} pods that it selects: {_winners(view)}")
    if view.record.warnings:
        parts.append(listed_problems(view.record.warnings))
    return Finding(Accepted.ACCEPTED, "; ".join(parts) or "the policy is valid")


# Programmed


def policy_is_not_accepted(view: View) -> Finding | None:
    """What is delivered is this generation."""
    finding = evaluate(ACCEPTED, view)
    if finding is None:
        return None
    if finding.reason is Accepted.CONFLICTED:
        then = "its pods belong to other policies"
    elif view.target:
        then = "sidecars keep the last accepted configuration"
    else:
        then = "no configuration was accepted earlier, so pods are made without a sidecar"
    return Finding(Programmed.NOT_ACCEPTED, f"{then}; the condition Accepted says why")


def namespace_is_not_enabled(view: View) -> Finding | None:
    """The webhook is called for this namespace."""
    if view.inputs.namespace_enabled:
        return None
    namespace = view.record.key.namespace
    return Finding(
        Programmed.NAMESPACE_NOT_ENABLED,
        f"no pod of namespace {namespace} is injected: kubectl label namespace {namespace} {INJECT}=enabled",
    )


def config_map_is_foreign(view: View) -> Finding | None:
    """The ConfigMap is ours to write."""
    found = view.inputs.config_map
    if found is None or found.ours:
        return None
    name = config_map_name(view.record.key.name)
    message = f"ConfigMap {name} is not Postern's and is left alone: delete or rename it, or rename the policy"
    return Finding(Programmed.CONFIG_MAP_CONFLICT, message)


def sidecar_rejected(view: View) -> Finding | None:
    """No sidecar has refused the file that is delivered. What it refused before does not count."""
    said = [(pod, answer) for pod in view.sidecars if (answer := answered(view, pod.uid)) is not None]
    refusing = [(pod, answer.error) for pod, answer in said if answer.error and answer.refused == view.target]
    if not refusing:
        return None
    first, error = refusing[0]
    return Finding(
        Programmed.SIDECAR_REJECTED,
        f"{_count(refusing, 'sidecar')} refused the configuration and kept the one before: "
        f"{named([pod for pod, _ in refusing])}. {first.key.name} says: {quoted(error)}. A sidecar older than the "
        "operator may not know a field: delete such pods, so that their owners make them again",
    )


def restart_is_required(view: View) -> Finding | None:
    """Each pod was made with all that this configuration needs: what a pod has is fixed when it is made."""
    lacking = [(pod, lack) for pod in view.sidecars if (lack := _lacks(view, pod))]
    if not lacking:
        return None
    what = sorted({thing for _, lack in lacking for thing in lack})
    return Finding(
        Programmed.RESTART_REQUIRED,
        f"{_count(lacking, 'pod')} made before this configuration: {named([pod for pod, _ in lacking])}. Missing: "
        f"{listed(what)}. Restart their owners (kubectl rollout restart), or delete the pods",
    )


def pods_are_not_injected(view: View) -> Finding | None:
    """Every selected pod carries this policy's sidecar."""
    missing = view.not_injected
    if not missing:
        return None
    name = view.record.key.name
    others = [pod for pod in missing if pod.policy not in ("", name)]
    bare = [pod for pod in missing if pod.policy in ("", name)]
    parts = []
    if bare:
        parts.append(f"{_count(bare, 'pod')} without a sidecar: {named(bare)}{_older(view, bare)}")
    if others:
        theirs = sorted({pod.policy for pod in others})
        parts.append(
            f"{_count(others, 'pod')} with the sidecar of another policy ({listed(theirs)}) until made again: "
            f"{named(others)}"
        )
    remedy = (
        "Events of their owners say why, postern-operator check and postern-operator inject too; "
        "pods made before the policy, or while the webhook was away, have to be made again"
    )
    return Finding(Programmed.NOT_INJECTED, f"{'. '.join(parts)}. {remedy}")


def sidecars_are_unreachable(view: View) -> Finding | None:
    """Every started sidecar answers the operator."""
    silent = [pod for pod in view.sidecars if pod.started and view.is_silent(pod.uid)]
    if not silent:
        return None
    answer = answered(view, silent[0].uid)
    failure = quoted(answer.failure) if answer is not None else ""
    return Finding(
        Programmed.UNREACHABLE,
        f"{_count(silent, 'started sidecar')} not answering the operator for 30 s: {named(silent)}. "
        f"{silent[0].key.name}: {failure}. Does a NetworkPolicy of namespace {view.record.key.namespace} keep the "
        "operator from the sidecar's admin port (15925 by default)? Mail is not concerned",
    )


def sidecars_are_pending(view: View) -> Finding | None:
    """The file is delivered, and every started sidecar runs it. One that starts will read it then."""
    delivered = view.inputs.config_map
    if view.rendered is None or delivered is None or delivered.policy_json != view.rendered.policy_json:
        return Finding(Programmed.PENDING, f"ConfigMap {config_map_name(view.record.key.name)} is being written")
    pending = [pod for pod in view.sidecars if pod.started and not view.is_current(pod.uid)]
    if not pending:
        return None
    return Finding(
        Programmed.PENDING,
        f"{len(pending)} of {_count([pod for pod in view.sidecars if pod.started], 'started sidecar')} still to take "
        f"the configuration: {named(pending)}. The kubelet's own sync brings it within about two minutes",
    )


def programmed(view: View) -> Finding:
    started = sum(pod.started for pod in view.sidecars)
    if not view.sidecars:
        return Finding(Programmed.PROGRAMMED, "the configuration is ready; no pod is selected")
    waiting = len(view.sidecars) - started
    if not started:
        late = "1 sidecar has" if waiting == 1 else f"{waiting} sidecars have"
        return Finding(Programmed.PROGRAMMED, f"the configuration is ready; {late} not started yet")
    message = f"all {started} started sidecars run the configuration"
    if started == 1:
        message = "the started sidecar runs the configuration"
    return Finding(Programmed.PROGRAMMED, f"{message}; {waiting} not started yet" if waiting else message)


# SidecarsOutdated


def sidecars_are_older(view: View) -> Finding | None:
    """Every pod was injected with today's image and template."""
    wanted = view.inputs.spec_hash
    older = [pod for pod in view.sidecars if wanted and (pod.stamp is None or pod.stamp.spec_hash != wanted)]
    if not older:
        return None
    images = sorted({pod.image for pod in older})
    return Finding(
        Outdated.OLDER_SIDECARS,
        f"{_count(older, 'pod')} with an older image or template: {named(older)} (image {listed(images)}). They work "
        "on; restart their owners (kubectl rollout restart) for the new one",
    )


def up_to_date(_: View) -> Finding:
    return Finding(Outdated.UP_TO_DATE, "all sidecars are as they would be injected now")


ACCEPTED: tuple[Check, ...] = (policy_is_invalid, every_pod_is_lost)
PROGRAMMED: tuple[Check, ...] = (
    policy_is_not_accepted,
    namespace_is_not_enabled,
    config_map_is_foreign,
    sidecar_rejected,
    restart_is_required,
    pods_are_not_injected,
    sidecars_are_unreachable,
    sidecars_are_pending,
)
OUTDATED: tuple[Check, ...] = (sidecars_are_older,)


# Words


def listed(words: Sequence[str]) -> str:
    """At most five of them."""
    shown = ", ".join(words[:MAX_NAMED])
    more = len(words) - MAX_NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def named(pods: Iterable[Candidate | PodRecord]) -> str:
    return listed([pod.key.name for pod in pods])


def listed_problems(problems: Sequence[Problem]) -> str:
    shown = "; ".join(str(problem) for problem in problems[:MAX_NAMED])
    more = len(problems) - MAX_NAMED
    return f"{shown}; and {more} more" if more > 0 else shown


def quoted(text: str) -> str:
    """What a peer said: on one line, printable, bounded."""
    return clipped(" ".join(text[: 4 * MAX_QUOTED].split()), MAX_QUOTED)


def clipped(text: str, most: int = MAX_MESSAGE) -> str:
    """Printable, and at most so long."""
    safe = "".join(character if character.isprintable() else "?" for character in text[: most + 1])
    return safe if len(safe) <= most else f"{safe[: most - 3]}..."


def _lacks(view: View, pod: PodRecord) -> list[str]:
    if view.rendered is None:
        return []
    needed = view.rendered.injection
    ports = [*(listener.port for listener in needed.listeners), *needed.submission_ports]
    lowest = min(ports, default=pod.sysctl)
    lack = [f"the sysctl for port {lowest}"] if lowest < pod.sysctl else []
    if needed.transparent and not pod.transparent:
        lack.append("the init container of Transparent")
    return lack + [f"Secret {name}" for name in needed.secrets if name not in pod.secrets]


def _older(view: View, pods: Sequence[Candidate]) -> str:
    made = seconds(view.record.created)
    older = sum(pod.created < made for pod in pods)
    return f" ({older} made before the policy)" if older else ""


def _winners(view: View) -> str:
    return listed(
        [f"policy {policy.key.name} (priority {policy.priority}) takes {count}" for policy, count in view.lost]
    )


def _count(items: Sequence[object], noun: str) -> str:
    return f"{len(items)} {noun}" if len(items) == 1 else f"{len(items)} {noun}s"
