"""Checks of the way from the API server to the webhook: configuration, Service, trust, certificates, a pod. Pure.

Each is named after what it makes sure of, and yields what is wrong. Raises nothing.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from postern_sidecar.config.model import LabelSelector

from .. import rotation, select
from ..conditions.checks import listed
from ..model import INJECT
from ..rotation import Broken
from ..settings import CertificateMode
from .cluster import no_release
from .facts import METADATA_NAME, Facts, Unread, bundle_of, first_webhook
from .report import Check, Result, Verdict, unread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from cryptography import x509

    Verdicts = Iterator[Verdict]

LOCKED_OUT = ("kube-system", "kube-node-lease", "kube-public")
NAME = "inject.postern.dev"
SOON = timedelta(hours=60)
QUARTER = 4
"""Of its life a certificate has less left than one in so many: renewal, when a third is left, does not work."""


def webhook_is_configured(facts: Facts) -> Verdicts:
    """The API server is told to ask it about new pods, and what if it does not answer."""
    found, name = facts.configuration, facts.settings.webhook.configuration
    objects = (_configuration(facts),)
    if isinstance(found, Unread):
        yield unread("the webhook configuration", found, "get mutatingwebhookconfigurations")
        return
    if found is None:
        text = f"MutatingWebhookConfiguration {name} does not exist: no pod is injected"
        yield Verdict(Result.ERROR, text, "helm upgrade makes it again", objects)
        return
    webhook = first_webhook(facts)
    if webhook is None or webhook.get("name") != NAME:
        text = f"MutatingWebhookConfiguration {name} has no webhook {NAME} in the first place"
        yield Verdict(Result.ERROR, text, "helm upgrade makes it again", objects)
        return
    if not any(_asks_about_pods(rule) for rule in webhook.get("rules") or ()):
        text = f"MutatingWebhookConfiguration {name} does not ask about the creation of pods"
        yield Verdict(Result.ERROR, text, "helm upgrade makes it again", objects)
    wanted, has = facts.settings.webhook.failure_policy.value, webhook.get("failurePolicy")
    if facts.settings_known and has != wanted:
        text = f"failurePolicy is {has}, and the operator's settings say {wanted}"
        yield Verdict(Result.WARNING, text, "set the chart's value webhook.failurePolicy, and helm upgrade", objects)


def nobody_is_locked_out(facts: Facts) -> Verdicts:
    """Namespaces that a cluster needs, and the operator's own, never wait for the webhook."""
    for namespace in dict.fromkeys((*LOCKED_OUT, facts.settings.namespace)):
        labels = {**facts.labels(namespace), METADATA_NAME: namespace, INJECT: "enabled"}
        if is_asked(facts, labels):
            text = f"the webhook's namespaceSelector does not exclude namespace {namespace}"
            remedy = "helm upgrade: a webhook that is away would keep the pods that bring it back from starting"
            yield Verdict(Result.ERROR, text, remedy, (_configuration(facts), f"Namespace/{namespace}"))


def enabled_namespaces_are_asked_about(facts: Facts) -> Verdicts:
    """The namespaceSelector takes in all enabled namespaces with policies."""
    for namespace in facts.places:
        labels = {METADATA_NAME: namespace, **facts.labels(namespace)}
        outside = namespace in (*LOCKED_OUT, facts.settings.namespace)
        if labels.get(INJECT) != "enabled" or (not outside and is_asked(facts, labels)):
            continue
        if outside:
            text = f"namespace {namespace} is enabled, and the webhook leaves it out always: its pods are not injected"
            remedy = "put mail servers into a namespace of their own"
        else:
            text = f"the webhook's namespaceSelector leaves out the enabled namespace {namespace}"
            remedy = "see the chart's values webhook.namespaceSelector and operator.watchNamespaces"
        yield Verdict(Result.ERROR, text, remedy, (f"Namespace/{namespace}",))


def service_has_endpoints(facts: Facts) -> Verdicts:
    """The API server finds the operator's pods."""
    client = (first_webhook(facts) or {}).get("clientConfig") or {}
    settings = facts.settings
    if client.get("url"):
        yield Verdict(Result.OK, f"the webhook is called by its address {client['url']}")
        return
    place = f"{settings.namespace}/{settings.webhook.service}"
    objects = (f"Service/{place}",)
    if isinstance(facts.service, Unread):
        yield unread("the webhook's Service", facts.service, "get services in the release's namespace")
        return
    if facts.service is None:
        yield Verdict(Result.ERROR, f"Service {place} of the webhook does not exist", "helm upgrade", objects)
        return
    service = client.get("service") or {}
    if client and (service.get("namespace"), service.get("name")) != (settings.namespace, settings.webhook.service):
        text = (
            f"the webhook configuration points to Service {service.get('namespace')}/{service.get('name')}, not {place}"
        )
        yield Verdict(Result.ERROR, text, "helm upgrade", (_configuration(facts), *objects))
    if isinstance(facts.endpoints, Unread):
        yield unread("the endpoints of the webhook's Service", facts.endpoints, "list endpointslices")
    elif not facts.endpoints:
        text = f"Service {place} of the webhook has no ready endpoint"
        remedy = f"are the operator's pods ready? kubectl -n {settings.namespace} get pods,endpointslices"
        yield Verdict(Result.ERROR, text, remedy, objects)


def ca_bundle_is_the_secret_s(facts: Facts) -> Verdicts:
    """The API server trusts the authority that signs what the webhook serves."""
    webhook = first_webhook(facts) or {}
    trusted = bundle_of(webhook)
    objects = (_configuration(facts),)
    own = facts.settings.webhook.certificates is CertificateMode.OPERATOR
    who = "the operator writes it as soon as it leads" if own else "cert-manager's cainjector writes it"
    if not trusted:
        broken = "is broken" if (webhook.get("clientConfig") or {}).get("caBundle") else "is empty"
        yield Verdict(Result.ERROR, f"the webhook's caBundle {broken}", f"{who}: look at its log", objects)
        return
    if not own:
        return
    if isinstance(facts.secret, Unread):
        what = "whether the caBundle holds the Secret's authority"
        yield unread(what, facts.secret, "get secrets in the release's namespace")
        return
    pair = _pair(facts)
    if isinstance(pair, rotation.Pair) and rotation.bundle_differs(pair.authorities, trusted):
        if rotation.trusted((pair.leaf,), trusted):
            text, result = "the webhook's caBundle is not (yet) the Secret's list of authorities", Result.WARNING
        else:
            text, result = "the webhook's caBundle does not hold the authority of its certificate", Result.ERROR
        yield Verdict(result, text, f"{who}: look at its log", objects)


def certificates_are_in_date(facts: Facts) -> Verdicts:
    """The Secret is whole, and its certificates are renewed in time."""
    if isinstance(facts.secret, Unread):
        yield unread("the webhook's Secret", facts.secret, "get secrets in the release's namespace")
        return
    place = f"{facts.settings.namespace}/{facts.settings.webhook.secret}"
    objects, remedy = (f"Secret/{place}",), "the operator makes it anew as soon as it leads: look at its log"
    pair = _pair(facts)
    if pair is None:
        yield Verdict(Result.ERROR, f"Secret {place} with the webhook's certificate does not exist", remedy, objects)
    elif isinstance(pair, str):
        yield Verdict(Result.ERROR, f"Secret {place} with the webhook's certificate: {pair}", remedy, objects)
    else:
        yield from _dates(pair.leaf, "the webhook's certificate", facts.now, remedy, objects)
        yield from _dates(pair.authorities[0], "the webhook's authority", facts.now, remedy, objects)


def webhook_serves_what_is_trusted(facts: Facts) -> Verdicts:
    """A TLS client that trusts the caBundle, as the API server does, gets through."""
    found = facts.served
    if isinstance(found, Unread):
        yield unread("what the webhook serves", found, "get services in the release's namespace")
    elif found is not None and found.error:
        text = f"the webhook at {found.target} cannot be used: {found.error}"
        yield Verdict(Result.ERROR, text, "are the operator's pods ready, and does a NetworkPolicy let in its port?")
    elif found is not None and found.expires is not None:
        if found.expires <= facts.now:
            yield Verdict(Result.ERROR, f"the certificate that the webhook serves expired {found.expires:%F %H:%M} UTC")
        else:
            left = (found.expires - facts.now) // timedelta(hours=1)
            text = f"the webhook at {found.target} serves a trusted certificate, valid for {left} more hours"
            yield Verdict(Result.WARNING if found.expires - facts.now < SOON else Result.OK, text)


def pods_come_out_injected(facts: Facts) -> Verdicts:
    """In a dry run a pod with a policy's labels gets its sidecar."""
    for trial in facts.trials:
        objects = (f"MailProxyPolicy/{trial.namespace}/{trial.winner}",)
        if trial.refusal:
            yield _refused(trial.namespace, trial.refusal, objects)
        elif trial.policy == trial.winner:
            text = f"a pod in namespace {trial.namespace} comes out with the sidecar of policy {trial.winner}"
            yield Verdict(Result.OK, text)
        else:
            ours = [text for text in trial.warnings if text.startswith("postern:")]
            said = listed(ours) or (
                "the API server did not reach the webhook, does not trust it, or its matchConditions leave the pod out"
            )
            got = f"with the sidecar of policy {trial.policy}" if trial.policy else "without a sidecar"
            text = f"a pod in namespace {trial.namespace}, for policy {trial.winner}, comes out {got}: {said}"
            remedy = "see the other findings about the webhook, the operator's log, and the API server's"
            yield Verdict(Result.ERROR, text, remedy, objects)


def is_asked(facts: Facts, labels: Mapping[str, str]) -> bool:
    """About pods of a namespace with these labels."""
    webhook = first_webhook(facts)
    selector = (webhook or {}).get("namespaceSelector") or {}
    if webhook is None or not any(selector.values()):
        return webhook is not None  # to Kubernetes an empty one is everything
    try:
        return select.selects(msgspec.convert(selector, LabelSelector), labels)
    except msgspec.ValidationError:
        return True


def no_webhook(facts: Facts) -> str:
    return "" if first_webhook(facts) else "there is no webhook configuration to look at"


def no_own_certificates(facts: Facts) -> str:
    if facts.settings.webhook.certificates is CertificateMode.CERT_MANAGER:
        return "they are cert-manager's: kubectl get certificates"
    return no_release(facts)


def not_reached(facts: Facts) -> str:
    return no_webhook(facts) or ("" if facts.served else "its Service cannot be reached from outside the cluster")


def nothing_to_try(facts: Facts) -> str:
    return "" if facts.trials else "no enabled namespace has a valid policy with a selector"


CHECKS = (
    Check("webhook", "Webhook", "the API server asks the webhook about new pods", webhook_is_configured, no_release),
    Check(
        "webhook-lock-out",
        "Webhook",
        "it leaves out the namespaces that bring it back",
        nobody_is_locked_out,
        no_webhook,
    ),
    Check(
        "webhook-namespaces",
        "Webhook",
        "it is asked about all enabled namespaces with policies",
        enabled_namespaces_are_asked_about,
        no_webhook,
    ),
    Check("webhook-service", "Webhook", "its Service has ready endpoints", service_has_endpoints, no_release),
    Check("webhook-ca", "Webhook", "its caBundle holds its authority", ca_bundle_is_the_secret_s, no_webhook),
    Check("certificates", "Webhook", "its certificates are in date", certificates_are_in_date, no_own_certificates),
    Check(
        "webhook-tls", "Webhook", "it serves what the API server trusts", webhook_serves_what_is_trusted, not_reached
    ),
    Check("injection", "Webhook", "pods come out injected", pods_come_out_injected, nothing_to_try),
)


def _refused(namespace: str, refusal: str, objects: tuple[str, ...]) -> Verdict:
    if NAME in refusal:
        text = f"a pod in namespace {namespace} is refused, because the webhook failed: {refusal}"
        remedy = (
            "see the other findings about the webhook; with failurePolicy Ignore pods would start without a sidecar"
        )
        return Verdict(Result.ERROR, text, remedy, objects)
    text = f"whether a pod in namespace {namespace} is injected cannot be tried: {refusal}"
    if ": 403:" in refusal:
        return Verdict(Result.SKIPPED, text, "check as a user who may create pods there; it is a dry run", objects)
    return Verdict(Result.WARNING, text, "another admission control refuses it", objects)


def _dates(certificate: x509.Certificate, what: str, now: datetime, remedy: str, objects: tuple[str, ...]) -> Verdicts:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now >= end:
        yield Verdict(Result.ERROR, f"{what} expired {end:%F %H:%M} UTC", remedy, objects)
    elif now < start:
        text = f"{what} is not valid before {start:%F %H:%M} UTC"
        yield Verdict(Result.ERROR, text, f"are the clocks right? {remedy}", objects)
    elif end - now < max((end - start) / QUARTER, min(SOON, (end - start) / 2)):
        text = f"{what} expires {end:%F %H:%M} UTC, and should have been renewed"
        yield Verdict(Result.WARNING, text, "look at the log of the replica that holds the Lease", objects)


def _pair(facts: Facts) -> rotation.Pair | str | None:
    """Or what is wrong with it."""
    if facts.secret is None or isinstance(facts.secret, Unread):
        return None
    try:
        return rotation.read(facts.secret)
    except Broken as problem:
        return str(problem)


def _configuration(facts: Facts) -> str:
    return f"MutatingWebhookConfiguration/{facts.settings.webhook.configuration}"


def _asks_about_pods(rule: Mapping[str, Any]) -> bool:
    return "pods" in (rule.get("resources") or ()) and bool({"CREATE", "*"} & set(rule.get("operations") or ()))
