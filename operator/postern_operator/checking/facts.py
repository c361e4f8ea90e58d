"""What `check` looks at, as data: read by `gathering`, judged by `checks`.

Each part is what it says, or None where the cluster has no such thing, or Unread with the reason. Raises nothing.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import rotation
from ..settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from cryptography import x509

    from ..model import Candidate, Key, PolicyRecord
    from ..reasons import Skip
    from .rights import Right

Object = dict[str, Any]

NAME = "app.kubernetes.io/name"
COMPONENT = "app.kubernetes.io/component"
INSTANCE = "app.kubernetes.io/instance"
RELEASE = f"{NAME}=postern,{COMPONENT}=operator"
"""Labels that the chart gives to all its objects; pods and Deployments of that kind are the operator's."""
METADATA_NAME = "kubernetes.io/metadata.name"


@dataclass(frozen=True, slots=True)
class Unread:
    """`forbidden`: who asks lacks the right, so nothing is known; else the API server did not answer as it should."""

    text: str
    forbidden: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """`deployment` is None where Deployments may not be read. `problem`: what is wrong with the settings, which are
    the chart's defaults then."""

    namespace: str
    deployment: Object | None
    settings: Settings
    problem: Unread | str = ""


@dataclass(frozen=True, slots=True)
class HeldLease:
    """`renewed`: its time is not over by our clock, or it was renewed while we looked."""

    holder: str
    renewed: bool


@dataclass(frozen=True, slots=True)
class Served:
    """What the webhook's server shows to a client that trusts the caBundle. `error` is "" where all is well; `expires`
    is None then, or where nothing was shown."""

    target: str
    error: str = ""
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class Bare:
    """A selected pod without this policy's sidecar, looked at. `skip`: what injection says of it today, None where it
    would inject it. `other`: the policy whose sidecar it carries, or ""."""

    key: Key
    skip: Skip | None
    message: str
    other: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """A policy's pods. `bare` are the first of those without its sidecar, looked at one by one, in all `missing`."""

    selected: int = 0
    injected: int = 0
    missing: int = 0
    outdated: int = 0
    bare: tuple[Bare, ...] = ()
    samples: tuple[Key, ...] = ()  # of outdated ones


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace with policies. `config_maps`: by the policy's name, whether it is ours. `used`: policies whose
    sidecars run here. `cut`: it has more pods than were looked at."""

    surveys: Mapping[str, Survey] | Unread
    config_maps: Mapping[str, bool] | Unread
    used: frozenset[str] = frozenset()
    cut: bool = False
    network_policies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """A pod that was created in a dry run. `winner` is the policy whose sidecar it should have got; `policy` whose it
    got, "" for none. `refusal`: why it was not admitted."""

    namespace: str
    winner: str
    policy: str = ""
    warnings: tuple[str, ...] = ()
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Open:
    """A backend that answered from here."""

    pod: Key
    policy: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Facts:
    now: datetime
    version: str  # ours
    server: str | Unread = ""
    definition: Object | Unread | None = None
    deployments: tuple[Object, ...] | Unread = ()
    release: Release | None = None
    pods: tuple[Object, ...] | Unread = ()  # the operator's
    lease: HeldLease | Unread | None = None
    rights: Mapping[Right, bool] | Unread = field(default_factory=dict)
    configuration: Object | Unread | None = None
    service: Object | Unread | None = None
    endpoints: int | Unread = 0  # ready ones
    secret: Mapping[str, bytes] | Unread | None = None
    served: Served | Unread | None = None
    namespaces: Mapping[str, Mapping[str, str]] | Unread = field(default_factory=dict)  # labels by name
    policies: tuple[PolicyRecord, ...] | Unread = ()
    cut: bool = False  # more policies, or namespaces with some, than were looked at
    places: Mapping[str, Place] = field(default_factory=dict)  # by namespace
    trials: tuple[Trial, ...] = ()
    connected: bool = False  # whether backends were tried
    tried: int = 0
    open: tuple[Open, ...] = ()

    @property
    def settings(self) -> Settings:
        return self.release.settings if self.release else Settings()

    @property
    def settings_known(self) -> bool:
        """Else they are names that the chart would give, and defaults."""
        return self.release is not None and not self.release.problem

    def known_policies(self) -> tuple[PolicyRecord, ...]:
        return () if isinstance(self.policies, Unread) else self.policies

    def labels(self, namespace: str) -> Mapping[str, str]:
        """Those of a namespace that could not be read are none."""
        return {} if isinstance(self.namespaces, Unread) else self.namespaces.get(namespace, {})


@dataclass(slots=True)
class Count:
    """A Survey in the making, page by page: of the pods only the first ones are kept."""

    selected: int = 0
    injected: int = 0
    outdated: int = 0
    missing: int = 0
    bare: list[Candidate] = field(default_factory=list)
    carriers: list[Key] = field(default_factory=list)
    samples: list[Key] = field(default_factory=list)


def first_webhook(facts: Facts) -> Mapping[str, Any] | None:
    found = facts.configuration
    webhooks = (found.get("webhooks") or ()) if isinstance(found, dict) else ()
    return webhooks[0] if webhooks else None


def bundle_of(webhook: Mapping[str, Any]) -> tuple[x509.Certificate, ...]:
    """The caBundle's certificates; none where it is missing or broken."""
    return rotation.bundle(octets((webhook.get("clientConfig") or {}).get("caBundle")))


def octets(value: object) -> bytes:
    """Of a Secret's or a caBundle's base64; b"" where it is none."""
    try:
        return base64.b64decode(value) if isinstance(value, str) else b""
    except binascii.Error:
        return b""
