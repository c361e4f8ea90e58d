"""Checks of what the chart installed: API server, definition, operator, its Lease and its rights. Pure.

Each is named after what it makes sure of, and yields what is wrong. Raises nothing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..conditions.checks import listed
from . import definition
from .facts import Facts, Object, Unread
from .report import Check, Result, Verdict, unread
from .rights import MOST_NAMESPACES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OLDEST = (1, 33)
CRD = "CustomResourceDefinition/mailproxypolicies.postern.dev"
UPGRADE = (
    "helm upgrade with the chart of this version; see the value crds.enabled if somebody else installs definitions"
)

Verdicts = Iterator[Verdict]


def api_version(facts: Facts) -> Verdicts:
    """Native sidecars are stable from 1.33."""
    if isinstance(facts.server, Unread):
        yield Verdict(Result.ERROR, f"the API server cannot be asked: {facts.server.text}", "is it the right cluster?")
        return
    found = re.match(r"v?(\d{1,5})\.(\d{1,5})", facts.server)
    if found is None:
        yield Verdict(Result.WARNING, f"the API server does not say which version it is: {facts.server!r}")
    elif (int(found[1]), int(found[2])) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        yield Verdict(Result.ERROR, f"the API server is {facts.server}", f"Postern needs Kubernetes {wanted} or newer")
    else:
        yield Verdict(Result.OK, f"the API server is {facts.server}")


def crd_is_established(facts: Facts) -> Verdicts:
    """There is one, the API server serves it, and nothing is wrong with its names or its schema."""
    found = facts.definition
    if isinstance(found, Unread):
        yield unread("the definition of MailProxyPolicy", found, "get customresourcedefinitions")
    elif found is None:
        yield Verdict(Result.ERROR, "the definition of MailProxyPolicy is not installed", UPGRADE, (CRD,))
    else:
        yield from _conditions(found)


def crd_is_ours(facts: Facts) -> Verdicts:
    """It has the fields that this version knows, and no others."""
    version = definition.served(facts.definition if isinstance(facts.definition, dict) else {})
    if version is None:
        yield Verdict(Result.ERROR, f"the definition does not serve {definition.VERSION}", UPGRADE, (CRD,))
        return
    if "status" not in (version.get("subresources") or {}):
        yield Verdict(Result.ERROR, "the definition lacks the subresource status", UPGRADE, (CRD,))
    has, wanted = definition.fields_of_schema(version), definition.fields_of_model()
    missing, unknown = sorted(wanted - has), sorted(has - wanted)
    if missing:
        text = f"the definition is another version's: it lacks {listed(missing)}, which are lost on writing"
        yield Verdict(Result.ERROR, text, UPGRADE, (CRD,))
    if unknown:
        text = f"the definition is another version's: {facts.version} does not know {listed(unknown)}"
        yield Verdict(Result.WARNING, text, "check with the operator's own version, or upgrade the operator", (CRD,))


def release_is_found(facts: Facts) -> Verdicts:
    """There is one release of the chart, or it is said which."""
    found = facts.deployments
    if isinstance(found, Unread):
        yield unread("the operator's Deployment", found, "list deployments")
    elif not found:
        remedy = "helm install postern charts/postern; --release-namespace if it is only out of your sight"
        yield Verdict(Result.ERROR, "no Deployment of the operator was found", remedy)
    elif len(found) > 1:
        names = [f"Deployment/{each['metadata']['namespace']}/{each['metadata']['name']}" for each in found]
        text = f"{len(found)} operators are installed, and a pod is injected by one: {listed(names)}"
        yield Verdict(Result.ERROR, text, "uninstall all but one; --release-namespace looks at one", tuple(names))


def settings_are_readable(facts: Facts) -> Verdicts:
    """The operator's settings are there, and of a version that is known here."""
    problem = facts.release.problem if facts.release else ""
    if isinstance(problem, Unread):
        yield unread("the operator's settings", problem, "get its ConfigMap; the chart's defaults are taken")
    elif problem:
        remedy = "helm upgrade; or check with the operator's own version"
        yield Verdict(Result.ERROR, f"the operator's settings: {problem}", remedy)


def operator_is_ready(facts: Facts) -> Verdicts:
    """As many pods are ready as the Deployment wants."""
    if isinstance(facts.pods, Unread):
        yield unread("the operator's pods", facts.pods, "list pods in the release's namespace")
        return
    live = [pod for pod in facts.pods if not pod["metadata"].get("deletionTimestamp")]
    ready = [pod for pod in live if _is_ready(pod)]
    wanted = (_deployment(facts).get("spec") or {}).get("replicas", 1)
    names = _pod_names([pod for pod in live if pod not in ready])
    where = facts.settings.namespace
    remedy = f"kubectl -n {where} describe pods -l app.kubernetes.io/component=operator"
    why = "".join(f"; {pod['metadata']['name']}: {_trouble(pod)}" for pod in live[:3] if pod not in ready)
    if wanted == 0:
        yield Verdict(Result.ERROR, "the operator's Deployment wants 0 replicas", "scale it up: the chart has two")
    elif not ready:
        yield Verdict(Result.ERROR, f"no pod of the operator is ready in namespace {where}{why}", remedy, names)
    elif len(ready) < wanted:
        yield Verdict(Result.WARNING, f"{len(ready)} of the operator's {wanted} pods are ready{why}", remedy, names)
    else:
        yield Verdict(Result.OK, f"{len(ready)} of the operator's {wanted} pods are ready in namespace {where}")


def versions_are_one(facts: Facts) -> Verdicts:
    """All replicas are of one image, and of this command's version."""
    pods = () if isinstance(facts.pods, Unread) else facts.pods
    images = sorted({image for pod in pods for image in _images(pod)})
    if len(images) > 1:
        text = f"the operator's pods have different images: {listed(images)}"
        yield Verdict(Result.WARNING, text, "wait for the end of the roll-out, or look why it hangs", _pod_names(pods))
    labels = _deployment(facts).get("metadata", {}).get("labels") or {}
    theirs = labels.get("app.kubernetes.io/version", "")
    if theirs and theirs != facts.version:
        text = f"the operator is version {theirs}, and this command {facts.version}"
        yield Verdict(Result.WARNING, text, f"check with version {theirs}, or upgrade the operator")


def lease_is_held(facts: Facts) -> Verdicts:
    """One replica writes: it holds the Lease and renews it."""
    place = f"{facts.settings.namespace}/{facts.settings.lease}"
    name = (f"Lease/{place}",)
    remedy = "nothing is written to policies, ConfigMaps and pods: look at the operator's pods and their logs"
    if isinstance(facts.lease, Unread):
        yield unread("the operator's Lease", facts.lease, "get leases in the release's namespace")
    elif facts.lease is None:
        yield Verdict(Result.ERROR, f"the Lease {place} does not exist: no replica leads", remedy, name)
    elif not facts.lease.holder:
        yield Verdict(Result.ERROR, f"nobody holds the Lease {place}", remedy, name)
    elif not facts.lease.renewed:
        text = f"the Lease {place} is stale: {facts.lease.holder} does not renew it"
        yield Verdict(Result.ERROR, text, remedy, name)
    elif not isinstance(facts.pods, Unread) and facts.lease.holder not in {
        pod["metadata"]["name"] for pod in facts.pods
    }:
        text = f"the Lease {place} is held by {facts.lease.holder}, which is no pod of this release"
        yield Verdict(Result.WARNING, text, "does another operator run with this release's settings?", name)


def operator_has_its_rights(facts: Facts) -> Verdicts:
    """Its ServiceAccount may do each thing that the chart grants."""
    if isinstance(facts.rights, Unread):
        yield unread("the operator's rights", facts.rights, "create subjectaccessreviews")
        return
    missing: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for right, allowed in facts.rights.items():
        if not allowed:
            missing[right.group, right.resource, right.namespace, right.name].append(right.verb)
    settings = facts.settings
    account = f"{settings.namespace}/{settings.service_account}"
    for (group, resource, namespace, name), verbs in sorted(missing.items()):
        what = f"{resource}.{group}" if group else resource
        place = f" in namespace {namespace}" if namespace else ""
        text = f"ServiceAccount {account} may not {', '.join(verbs)} {what}{f' {name}' if name else ''}{place}"
        remedy = "helm upgrade brings the chart's roles back; where rbac.create is false, grant it"
        yield Verdict(Result.ERROR, text, remedy, (f"ServiceAccount/{account}",))
    if len(settings.watch_namespaces) > MOST_NAMESPACES:
        text = (
            f"rights in the first {MOST_NAMESPACES} of {len(settings.watch_namespaces)} watched namespaces are judged"
        )
        yield Verdict(Result.SKIPPED, text)


def no_release(facts: Facts) -> str:
    return "" if facts.release else "which release it is, is not known"


def no_definition(facts: Facts) -> str:
    return "" if isinstance(facts.definition, dict) else "there is no definition to look at"


CHECKS = (
    Check("api-version", "Kubernetes", "the API server is new enough", api_version),
    Check("crd-established", "Definition", "MailProxyPolicy is defined and served", crd_is_established),
    Check(
        "crd-version", "Definition", "the definition has the fields that this version knows", crd_is_ours, no_definition
    ),
    Check("release", "Operator", "one release of the chart is installed", release_is_found),
    Check("operator-settings", "Operator", "the operator's settings are readable", settings_are_readable, no_release),
    Check("operator-ready", "Operator", "the operator's pods are ready", operator_is_ready, no_release),
    Check(
        "operator-version",
        "Operator",
        "the operator's pods are one version, and this command's",
        versions_are_one,
        no_release,
    ),
    Check("lease", "Operator", "a replica holds the Lease and renews it", lease_is_held, no_release),
    Check(
        "rights",
        "Operator",
        "the operator's ServiceAccount has the chart's rights",
        operator_has_its_rights,
        no_release,
    ),
)


def _deployment(facts: Facts) -> Object:
    return (facts.release.deployment if facts.release else None) or {}


def _conditions(found: Object) -> Verdicts:
    conditions = {each["type"]: each for each in (found.get("status") or {}).get("conditions") or ()}
    for kind, wanted in (("Established", "True"), ("NamesAccepted", "True"), ("NonStructuralSchema", "False")):
        state = conditions.get(kind, {"status": "False"})
        if state["status"] != wanted:
            text = f"the definition's condition {kind} is {state['status']}: {state.get('message', 'not set')}"
            yield Verdict(Result.ERROR, text, "kubectl describe crd mailproxypolicies.postern.dev", (CRD,))
    if found["metadata"].get("deletionTimestamp"):
        text = "the definition is being deleted, and with it every policy"
        yield Verdict(Result.ERROR, text, "wait for its end, and install it again", (CRD,))


def _is_ready(pod: Mapping[str, Object]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _trouble(pod: Mapping[str, Object]) -> str:
    status = pod.get("status") or {}
    for each in status.get("containerStatuses") or ():
        waiting = (each.get("state") or {}).get("waiting") or {}
        if waiting.get("reason"):
            return str(waiting["reason"])
    return str(status.get("reason") or status.get("phase") or "unknown")


def _images(pod: Mapping[str, Object]) -> Iterator[str]:
    for container in (pod.get("spec") or {}).get("containers") or ():
        if container.get("name") == "operator":
            yield str(container.get("image"))


def _pod_names(pods: Sequence[Mapping[str, Object]]) -> tuple[str, ...]:
    return tuple(f"Pod/{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in pods)
