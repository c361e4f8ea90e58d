"""Checks of namespaces, policies, their ConfigMaps and their pods. Pure.

Each is named after what it makes sure of, and yields what is wrong. Raises nothing.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from postern_sidecar.config.model import HandoverKind

from ..conditions.checks import listed, listed_problems
from ..model import INJECT, config_map_name
from ..reasons import Condition, Programmed
from .facts import Bare, Facts, Survey, Unread
from .report import Check, Result, Verdict, unread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..model import PolicyRecord

    Verdicts = Iterator[Verdict]

ENFORCE = "pod-security.kubernetes.io/enforce"
TOLD_ELSEWHERE = (Programmed.NOT_ACCEPTED.value, Programmed.NAMESPACE_NOT_ENABLED.value)
RESTART = "kubectl rollout restart of their owners makes them again"


def namespaces_are_enabled(facts: Facts) -> Verdicts:
    """Somewhere pods are to be injected."""
    if isinstance(facts.namespaces, Unread):
        yield unread("which namespaces are enabled", facts.namespaces, "list namespaces")
        return
    enabled = sorted(name for name, labels in facts.namespaces.items() if labels.get(INJECT) == "enabled")
    if not enabled:
        text = f"no namespace has the label {INJECT}=enabled: no pod is injected"
        yield Verdict(Result.WARNING, text, f"kubectl label namespace NAME {INJECT}=enabled")
    else:
        yield Verdict(Result.OK, f"{_count(len(enabled), 'namespace')} enabled: {listed(enabled)}")


def namespaces_with_policies_are_enabled(facts: Facts) -> Verdicts:
    """A policy without pods that may be injected does nothing."""
    if isinstance(facts.policies, Unread):
        yield unread("policies", facts.policies, "list mailproxypolicies")
        return
    if facts.cut:
        yield Verdict(Result.SKIPPED, "there are more policies than are looked at", "--namespace looks at some")
    for namespace, policies in _by_namespace(facts).items():
        names = listed([each.key.name for each in policies])
        objects = (f"Namespace/{namespace}",)
        if facts.labels(namespace).get(INJECT) != "enabled" and not isinstance(facts.namespaces, Unread):
            text = f"namespace {namespace} has policies ({names}) and lacks the label {INJECT}=enabled"
            yield Verdict(Result.ERROR, text, f"kubectl label namespace {namespace} {INJECT}=enabled", objects)
        watched = facts.settings.watch_namespaces
        if watched and namespace not in watched:
            text = f"namespace {namespace} has policies ({names}), and the operator does not watch it"
            yield Verdict(Result.ERROR, text, "add it to the chart's value operator.watchNamespaces", objects)


def pod_security_lets_transparent_in(facts: Facts) -> Verdicts:
    """Its init container needs NET_ADMIN, which the standards `baseline` and `restricted` forbid."""
    for record in facts.known_policies():
        level = facts.labels(record.key.namespace).get(ENFORCE, "")
        if level in ("baseline", "restricted") and _is_transparent(record):
            namespace = record.key.namespace
            text = (
                f"{_policy(record)} hands over transparently, and namespace {namespace} enforces {level}: its pods are "
                "refused"
            )
            remedy = f"take ProxyV2 or XCLIENT; or kubectl label --overwrite namespace {namespace} {ENFORCE}=privileged"
            yield Verdict(Result.ERROR, text, remedy, _objects(record))


def policies_are_accepted(facts: Facts) -> Verdicts:
    """The operator has seen each, and takes it."""
    for record in facts.known_policies():
        accepted = _condition(record, Condition.ACCEPTED)
        if not accepted or accepted.get("observedGeneration", 0) < record.generation:
            seen = "has not looked at" if not accepted else "has not looked at the newest generation of"
            text = f"the operator {seen} {_policy(record)}"
            yield Verdict(Result.ERROR, text, "is it well, and does it hold the Lease? See above", _objects(record))
        if accepted and accepted.get("status") != "True":
            text = f"{_policy(record)} is not accepted: {_reason(accepted)}"
            yield Verdict(Result.ERROR, text, "change the policy; pods keep what was accepted last", _objects(record))
        elif record.problems:
            text = f"{_policy(record)} would not be accepted by this version: {listed_problems(record.problems)}"
            yield Verdict(Result.WARNING, text, "change the policy before the upgrade", _objects(record))


def policies_are_programmed(facts: Facts) -> Verdicts:
    """Every sidecar runs what the policy says."""
    for record in facts.known_policies():
        programmed = _condition(record, Condition.PROGRAMMED)
        if not programmed or programmed.get("status") == "True" or programmed.get("reason") in TOLD_ELSEWHERE:
            continue
        reason = programmed.get("reason")
        result = Result.WARNING if reason == Programmed.PENDING.value else Result.ERROR
        text = f"{_policy(record)} is not programmed: {_reason(programmed)}"
        yield Verdict(result, text, _remedy(facts, record, str(reason)), _objects(record))


def policies_select_pods(facts: Facts) -> Verdicts:
    """One that selects nothing does nothing."""
    for record, survey in _surveys(facts):
        if record.selector is None:
            text = f"{_policy(record)} has no selector, so it selects no pod"
            yield Verdict(Result.WARNING, text, "write spec.selector", _objects(record))
        elif not survey.selected and not facts.places[record.key.namespace].cut:
            text = f"{_policy(record)} selects no pod, or others with more priority win all that it selects"
            remedy = f"compare spec.selector with kubectl -n {record.key.namespace} get pods --show-labels"
            yield Verdict(Result.WARNING, text, remedy, _objects(record))


def config_maps_are_there(facts: Facts) -> Verdicts:
    """Each accepted policy of an enabled namespace has its own, and there are no others."""
    for namespace, place in facts.places.items():
        if isinstance(place.config_maps, Unread):
            yield unread(f"ConfigMaps of namespace {namespace}", place.config_maps, "list configmaps")
            continue
        policies = {each.key.name: each for each in _by_namespace(facts).get(namespace, ())}
        for name, record in policies.items():
            yield from _config_map(facts, record, place.config_maps.get(name))
        for name in sorted(place.config_maps.keys() - policies.keys()):
            if place.config_maps[name] and name not in place.used and not isinstance(place.surveys, Unread):
                text = f"ConfigMap {namespace}/{config_map_name(name)} is left over: neither policy nor pod is there"
                remedy = "the operator deletes it within minutes; if it does not: kubectl delete"
                objects = (f"ConfigMap/{namespace}/{config_map_name(name)}",)
                yield Verdict(Result.WARNING, text, remedy, objects)


def pods_are_injected(facts: Facts) -> Verdicts:
    """Every selected pod carries its policy's sidecar."""
    for namespace, place in facts.places.items():
        if isinstance(place.surveys, Unread):
            yield unread(f"pods of namespace {namespace}", place.surveys, "list pods")
        elif place.cut:
            yield Verdict(Result.SKIPPED, f"namespace {namespace} has more pods than are looked at")
    for record, survey in _surveys(facts):
        if survey.missing:
            yield from _missing(record, survey)


def sidecars_are_up_to_date(facts: Facts) -> Verdicts:
    """Each is of the image and the template that a new pod would get."""
    for record, survey in _surveys(facts):
        if survey.outdated:
            names = tuple(f"Pod/{key.namespace}/{key.name}" for key in survey.samples)
            text = (
                f"{survey.outdated} of {_count(survey.injected, 'pod')} of {_policy(record)} have an older image or "
                f"template: {listed([key.name for key in survey.samples])}"
            )
            yield Verdict(Result.WARNING, text, f"they work on; {RESTART}", names)


def backends_are_closed(facts: Facts) -> Verdicts:
    """A mail server that believes a PROXY header must be reached through the sidecar only."""
    if not facts.tried:
        yield Verdict(Result.OK, "no running pod has a backend to try")
    for each in facts.open:
        text = (
            f"pod {each.pod} answers on its backend's port {each.port} from outside: whoever reaches it can claim to "
            "be any client"
        )
        remedy = "let the mail server listen on 127.0.0.1 only, or keep others off by a NetworkPolicy"
        yield Verdict(
            Result.WARNING, text, remedy, (f"Pod/{each.pod}", f"MailProxyPolicy/{each.pod.namespace}/{each.policy}")
        )


def no_policies(facts: Facts) -> str:
    return "" if facts.known_policies() else "no policy was found"


def no_places(facts: Facts) -> str:
    return "" if facts.places else "no policy was found"


def no_templates(facts: Facts) -> str:
    return no_policies(facts) or ("" if facts.settings_known else "the operator's settings are not known")


def not_connected(facts: Facts) -> str:
    return "" if facts.connected else "--connect-backends connects to them; in a pod of the cluster it is done anyway"


CHECKS = (
    Check("namespaces", "Namespaces", "namespaces are enabled", namespaces_are_enabled),
    Check(
        "namespaces-of-policies",
        "Namespaces",
        "all namespaces with policies are enabled",
        namespaces_with_policies_are_enabled,
    ),
    Check(
        "pod-security",
        "Namespaces",
        "no namespace refuses pods of Transparent policies",
        pod_security_lets_transparent_in,
        no_policies,
    ),
    Check("policies-accepted", "Policies", "all policies are accepted", policies_are_accepted, no_policies),
    Check("policies-programmed", "Policies", "all policies are programmed", policies_are_programmed, no_policies),
    Check("policies-select", "Policies", "all policies select pods", policies_select_pods, no_policies),
    Check("config-maps", "Policies", "all policies have their ConfigMaps", config_maps_are_there, no_places),
    Check("pods-injected", "Pods", "all selected pods have their sidecars", pods_are_injected, no_policies),
    Check("sidecars-current", "Pods", "all sidecars are up to date", sidecars_are_up_to_date, no_templates),
    Check("backends", "Pods", "no backend answers from outside its pod", backends_are_closed, not_connected),
)


def _missing(record: PolicyRecord, survey: Survey) -> Verdicts:
    """By their reasons."""
    groups: dict[tuple[str, str], list[Bare]] = defaultdict(list)
    for bare in survey.bare:
        groups[_why(bare)].append(bare)
    for (why, remedy), pods in groups.items():
        names = [each.key.name for each in pods]
        text = f"{_count(len(pods), 'pod')} of {_policy(record)} without its sidecar: {listed(names)}: {why}"
        objects = tuple(f"Pod/{each.key.namespace}/{each.key.name}" for each in pods)
        yield Verdict(Result.ERROR, text, remedy, objects)
    rest = survey.missing - len(survey.bare)
    if rest > 0:
        text = f"{_count(rest, 'more pod')} of {_policy(record)} without its sidecar, not looked at one by one"
        # Of those that were looked at some may have ended, as Jobs' pods do: where all had, so may the rest.
        yield Verdict(Result.ERROR if survey.bare else Result.WARNING, text, RESTART, _objects(record))


def _why(bare: Bare) -> tuple[str, str]:
    if bare.skip is not None:
        return f"{bare.skip.value}: {bare.message}", f"change the pod's template; {RESTART}"
    if bare.other:
        return f"made with the sidecar of policy {bare.other}, which it keeps", RESTART
    return bare.message, RESTART


def _config_map(facts: Facts, record: PolicyRecord, ours: bool | None) -> Verdicts:
    namespace, name = record.key.namespace, config_map_name(record.key.name)
    objects = (f"ConfigMap/{namespace}/{name}", *_objects(record))
    enabled = facts.labels(namespace).get(INJECT) == "enabled"
    if ours is False:
        text = f"ConfigMap {namespace}/{name} is not Postern's: {_policy(record)} is not delivered"
        yield Verdict(Result.ERROR, text, "delete or rename it, or rename the policy", objects)
    elif ours is None and enabled and not record.problems:
        text = f"ConfigMap {namespace}/{name} of {_policy(record)} is missing: its new pods wait for it"
        yield Verdict(Result.ERROR, text, "the operator writes it within a minute; else look at its log", objects)


def _remedy(facts: Facts, record: PolicyRecord, reason: str) -> str:
    if reason == Programmed.UNREACHABLE.value:
        place = facts.places.get(record.key.namespace)
        found = listed(place.network_policies) if place and place.network_policies else ""
        which = (
            f"NetworkPolicies with ingress rules are {found}" if found else "no NetworkPolicy with ingress was found"
        )
        port = facts.settings.sidecar.admin_port
        return f"the operator must reach port {port} of the pods from namespace {facts.settings.namespace}; {which}"
    if reason == Programmed.PENDING.value:
        return "wait for two minutes, and check again"
    return f"kubectl -n {record.key.namespace} describe mpp {record.key.name}"


def _surveys(facts: Facts) -> Iterator[tuple[PolicyRecord, Survey]]:
    for record in facts.known_policies():
        place = facts.places.get(record.key.namespace)
        if place is not None and not isinstance(place.surveys, Unread):
            yield record, place.surveys.get(record.key.name, Survey())


def _by_namespace(facts: Facts) -> dict[str, list[PolicyRecord]]:
    found: dict[str, list[PolicyRecord]] = defaultdict(list)
    for record in facts.known_policies():
        found[record.key.namespace].append(record)
    return found


def _condition(record: PolicyRecord, kind: Condition) -> Mapping[str, Any]:
    conditions = record.status.get("conditions") or ()
    return next((each for each in conditions if each.get("type") == kind.value), {})


def _reason(condition: Mapping[str, Any]) -> str:
    return f"{condition.get('reason')}: {condition.get('message')}"


def _is_transparent(record: PolicyRecord) -> bool:
    inbound = record.policy.spec.inbound if record.policy else ()
    return any(each.backend.handover is HandoverKind.TRANSPARENT for each in inbound)


def _policy(record: PolicyRecord) -> str:
    return f"policy {record.key}"


def _objects(record: PolicyRecord) -> tuple[str, ...]:
    return (f"MailProxyPolicy/{record.key}",)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
