"""What the chart grants the operator's ServiceAccount, as one table; a test compares it with the rendered rules.

Raises nothing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..settings import CertificateMode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..settings import Settings


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """`namespace` "": cluster-wide. `resource` may name a subresource (pods/eviction). `name` "": any."""

    group: str
    resource: str
    namespace: str
    name: str
    verb: str


class Where(enum.Enum):
    CLUSTER = "cluster"
    POLICIES = "policies"  # wherever policies are: everywhere, or in each of watchNamespaces
    RELEASE = "release"


class When(enum.Enum):
    ALWAYS = "always"
    OWN_CERTIFICATES = "own certificates"
    EVICTING = "evicting"


@dataclass(frozen=True, slots=True)
class Rule:
    """`named`: which of the settings' names it is limited to."""

    group: str
    resource: str
    verbs: str
    where: Where
    named: str = ""
    when: When = When.ALWAYS


RULES = (
    Rule("", "namespaces", "get list watch", Where.CLUSTER),
    Rule("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "get patch", Where.CLUSTER, "configuration"),
    Rule("postern.dev", "mailproxypolicies", "get list watch", Where.POLICIES),
    Rule("postern.dev", "mailproxypolicies/status", "patch", Where.POLICIES),
    Rule("", "pods", "get list watch patch", Where.POLICIES),
    Rule("", "configmaps", "get list create patch delete", Where.POLICIES),
    Rule("events.k8s.io", "events", "create", Where.POLICIES),
    Rule("", "pods", "create", Where.POLICIES, when=When.EVICTING),
    Rule("", "pods/eviction", "create", Where.POLICIES, when=When.EVICTING),
    Rule("coordination.k8s.io", "leases", "get update", Where.RELEASE, "lease"),
    Rule("coordination.k8s.io", "leases", "create", Where.RELEASE),
    Rule("", "secrets", "get update", Where.RELEASE, "secret", When.OWN_CERTIFICATES),
    Rule("", "secrets", "create", Where.RELEASE, when=When.OWN_CERTIFICATES),
)

MOST_NAMESPACES = 20
"""Of watchNamespaces are asked about: sixteen questions each."""


def expected(settings: Settings) -> tuple[Right, ...]:
    return tuple(_expected(settings))


def _expected(settings: Settings) -> Iterator[Right]:
    names = {
        "": "",
        "configuration": settings.webhook.configuration,
        "lease": settings.lease,
        "secret": settings.webhook.secret,
    }
    for rule in RULES:
        if not _applies(rule.when, settings):
            continue
        for namespace in _namespaces(rule.where, settings):
            for verb in rule.verbs.split():
                yield Right(rule.group, rule.resource, namespace, names[rule.named], verb)


def _applies(when: When, settings: Settings) -> bool:
    match when:
        case When.ALWAYS:
            return True
        case When.EVICTING:
            return settings.evict_uninjected
        case When.OWN_CERTIFICATES:
            return settings.webhook.certificates is CertificateMode.OPERATOR


def _namespaces(where: Where, settings: Settings) -> tuple[str, ...]:
    match where:
        case Where.CLUSTER:
            return ("",)
        case Where.POLICIES:
            return settings.watch_namespaces[:MOST_NAMESPACES] or ("",)
        case Where.RELEASE:
            return (settings.namespace,)
