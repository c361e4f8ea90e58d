"""What the operator knows of the cluster, as data: names that are a contract, and records of policies and pods.

A record is made at the edge from what the API server sent (`records`), and nothing above reads a raw object but
injection, whose business the pod's own text is. Times are seconds since the epoch. Raises nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from collections.abc import Mapping

    from postern_sidecar.config import Policy, Problem
    from postern_sidecar.config.model import LabelSelector

GROUP = "postern.dev"
API_VERSION = "postern.dev/v1alpha1"
KIND = "MailProxyPolicy"
PLURAL = "mailproxypolicies"
FIELD_MANAGER = "postern-operator"

INJECT = "postern.dev/inject"  # label: of a namespace `enabled`, of a pod `disabled`
POLICY = "postern.dev/policy"  # label of an injected pod: output only
CONFIG_HASH = "postern.dev/config-hash"  # annotation of an injected pod: the poke, `<hash>.<n>`
STATUS = "postern.dev/status"  # annotation of an injected pod: a Stamp as JSON
POLICY_UID = "postern.dev/policy-uid"  # annotation of a ConfigMap
MANAGED_BY = "app.kubernetes.io/managed-by"
POSTERN = "postern"  # the value of MANAGED_BY; also the sidecar's container

CONTAINER = "postern"
INIT_CONTAINER = "postern-init"
VOLUME_CONFIG = "postern-config"
VOLUME_RUN = "postern-run"
VOLUME_CREDENTIALS = "postern-credentials"
VOLUME_EMPTY = "postern-empty"  # over the ServiceAccount's token
POLICY_JSON = "policy.json"
INJECTION_JSON = "injection.json"
UNPRIVILEGED_PORTS = "net.ipv4.ip_unprivileged_port_start"


def config_map_name(policy: str) -> str:
    return f"postern-{policy}"


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """An object's place."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Owner:
    """The controller owner of a pod."""

    api_version: str
    kind: str
    name: str
    uid: str


class _Document(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """JSON that an older or a newer operator may read: unknown members are passed over."""


Port = Annotated[int, Meta(ge=1, le=65535)]
ListenerName = Annotated[str, Meta(max_length=12, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")]
SecretName = Annotated[str, Meta(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z")]


class Listener(_Document, frozen=True):
    name: ListenerName
    port: Port


class Injection(_Document, frozen=True):
    """`injection.json`: what the webhook needs of the last accepted policy. `hash` is policy.json's. Bounded as a
    policy is: a file that somebody else wrote must not make pods that the API server refuses."""

    policy: str
    uid: str
    hash: str
    listeners: Annotated[tuple[Listener, ...], Meta(max_length=16)] = ()
    transparent: bool = False
    outbound: bool = False
    submission_ports: Annotated[tuple[Port, ...], Meta(max_length=2)] = ()
    secrets: Annotated[tuple[SecretName, ...], Meta(max_length=256)] = ()  # of routes, sorted
    image: Annotated[str, Meta(max_length=512)] = ""
    resources: dict[str, Any] = {}
    hold_mail_server: bool = False


class Stamp(_Document, frozen=True):
    """The annotation `postern.dev/status`: who injected what. `spec_hash` is of the template that was used, so that an
    older image or template shows. The names are those that were added."""

    version: str
    policy_uid: str
    spec_hash: str
    init_containers: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    sysctl: bool = False
    hooks: tuple[str, ...] = ()  # containers that got the preStop hook of holdMailServer


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """A policy as the API server has it. `policy` is None where it does not decode; `problems` are errors only, and
    empty where it may be accepted. `selector` and `priority` are known where they decode, whatever else is wrong."""

    key: Key
    uid: str
    generation: int
    created: str  # RFC 3339, UTC, whole seconds: sorts as text
    selector: LabelSelector | None
    priority: int
    policy: Policy | None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    status: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rendered:
    """`policy_json` is the file that a sidecar reads; `hash` is its SHA-256."""

    policy_json: bytes
    hash: str
    injection: Injection


@dataclass(frozen=True, slots=True)
class ConfigMapRecord:
    """`ours`: it carries our label. `policy_json` and `injection` are None where they are missing or broken."""

    ours: bool
    policy_uid: str
    policy_json: bytes | None
    injection: Injection | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pod that a policy's selector matches, from a metadata LIST. `policy`: the label that injection wrote, or ""."""

    key: Key
    uid: str
    labels: Mapping[str, str]
    policy: str
    terminating: bool
    created: float
    owner: Owner | None


@dataclass(frozen=True, slots=True)
class PodRecord:
    """An injected pod, from the watch; as small as it can be: there may be thousands.

    `terminating`: it is being deleted, or has ended. `ip` is "" until there is one. `started`: its sidecar's startup
    probe has passed. `sysctl` is the first unprivileged port that the pod's sysctl names, 1024 without. `image` is the
    sidecar container's, "" without one: a label proves nothing.
    """

    key: Key
    uid: str
    policy: str
    labels: Mapping[str, str]
    poke: str
    stamp: Stamp | None
    ip: str
    started: bool
    terminating: bool
    sysctl: int
    transparent: bool
    secrets: tuple[str, ...]
    image: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a sidecar's /config said at `at`. `error` is its message about a configuration that it refused, and
    `refused` that one's hash; `failure` is why there was no answer, else ""."""

    at: float
    hash: str = ""
    version: str = ""
    error: str = ""
    refused: str = ""
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that one reconciliation of one policy looks at. `answers` and `since` are by pod UID; `since` is when a pod
    was first seen not to answer, or not to be current. `config_map` is what stands after this reconciliation's write.
    `spec_hash` is the one that a pod would be stamped with if it were injected now, "" where that is not known."""

    record: PolicyRecord
    rivals: tuple[PolicyRecord, ...]  # the namespace's other policies
    namespace_enabled: bool
    config_map: ConfigMapRecord | None
    candidates: tuple[Candidate, ...]
    injected: tuple[PodRecord, ...]  # of this policy, by label
    answers: Mapping[str, Answer]
    since: Mapping[str, float]
    now: float
    spec_hash: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """A Kubernetes Event to be posted: its type and its reason, which has a fixed text in `events`."""

    warning: bool
    reason: str
