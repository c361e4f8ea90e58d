"""The MailProxyPolicy as data: field names, types, defaults and bounds, and nothing that they imply together.

The manifest's camelCase is the struct's snake_case. Values are parsed here (durations, networks), so no consumer
parses again. What fields mean together is `config.checks`; reading a file with all its problems is `config.load`.
A default stands once, here; the CRD's schema is held to it by a test. A pattern carries the words that describe it to a
person (`description`), because nobody reads patterns at three in the morning.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from .scalars import Duration, IPAddress, Network, Sources


class Protocol(enum.Enum):
    SMTP = "SMTP"
    IMAP = "IMAP"
    POP3 = "POP3"
    MANAGESIEVE = "ManageSieve"
    OPAQUE = "Opaque"


class HandoverKind(enum.Enum):
    PROXY_V1 = "ProxyV1"
    PROXY_V2 = "ProxyV2"
    XCLIENT = "XCLIENT"
    TRANSPARENT = "Transparent"
    PLAIN = "Plain"


class EarlyTalkers(enum.Enum):
    REFUSE = "Refuse"
    FORWARD = "Forward"


class Others(enum.Enum):
    """What becomes of a peer outside `requiredFrom`."""

    DIRECT = "Direct"
    REFUSE = "Refuse"


class OnFailure(enum.Enum):
    DEFER_421 = "Defer421"
    REFUSE_503 = "Refuse503"
    CLOSE = "Close"


class Unknown(enum.Enum):
    """What becomes of a valid header that names no usable client: UNKNOWN, UNSPEC, UNIX, DGRAM."""

    REFUSE = "Refuse"
    USE_PEER = "UsePeer"


class Probes(enum.Enum):
    ANSWER = "Answer"
    FORWARD = "Forward"


class ReverseDNS(enum.Enum):
    AUTO = "Auto"
    ALWAYS = "Always"
    NEVER = "Never"


class Action(enum.Enum):
    LOG = "Log"
    REFUSE = "Refuse"
    DEFER = "Defer"


class LogFormat(enum.Enum):
    EXIM = "Exim"
    JSON = "JSON"


class Selector(enum.Enum):
    """The closed list of `logging.selectors`, written as in Exim's `log_selector`."""

    PROXY = "+proxy"  # TGT=, PRX=, V=, HO= on the lines of a session
    PROBES = "+probes"  # health checks too
    HOST_LOOKUP = "+host_lookup"  # H= with the verified name of every client


class _Base(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    pass


Port = Annotated[int, Meta(ge=1, le=65535)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z"  # RFC 1123; `$` would let a line feed pass
_LABEL_WORDS = "lower-case letters, digits and inner hyphens"
ListenerName = Annotated[str, Meta(min_length=1, max_length=12, pattern=_LABEL, description=_LABEL_WORDS)]
RuleName = Annotated[str, Meta(min_length=1, max_length=63, pattern=_LABEL, description=_LABEL_WORDS)]


class Backend(_Base, frozen=True):
    """The mail server, on loopback unless `acknowledge_remote_backend`."""

    port: Port
    handover: HandoverKind
    address: IPAddress = IPAddress("127.0.0.1")
    address6: IPAddress = IPAddress("::1")
    acknowledge_client_hidden: bool = False
    acknowledge_remote_backend: bool = False
    acknowledge_no_start_tls: bool = msgspec.field(default=False, name="acknowledgeNoStartTLS")


class ProxyProtocol(_Base, frozen=True):
    required_from: Annotated[tuple[Sources, ...], Meta(max_length=256)] = ()
    others: Others = Others.DIRECT
    timeout: Duration = Duration("3s")
    on_failure: OnFailure = OnFailure.DEFER_421
    unknown: Unknown = Unknown.REFUSE
    probes: Probes = Probes.ANSWER
    allow_sources: Annotated[tuple[Network, ...], Meta(max_length=64)] = ()


class Rate(_Base, frozen=True):
    """At most `connections` in `per`, smoothed: Exim's `ratelimit = connections / per / per_conn / strict`."""

    connections: Count
    per: Duration


class ClientPrefix(_Base, frozen=True):
    ipv4: Annotated[int, Meta(ge=8, le=32)] = 32
    ipv6: Annotated[int, Meta(ge=16, le=128)] = 64


class Override(_Base, frozen=True):
    clients: Annotated[tuple[Network, ...], Meta(min_length=1, max_length=256)]
    connections_per_client: Count | None = None
    rate_per_client: Rate | None = None


class Limits(_Base, frozen=True):
    connections: Count = 1000
    connections_per_client: Count | None = None
    rate_per_client: Rate | None = None
    client_prefix: ClientPrefix = ClientPrefix()
    overrides: Annotated[tuple[Override, ...], Meta(max_length=256)] = ()


class Rule(_Base, frozen=True):
    name: RuleName
    when: Annotated[str, Meta(min_length=1, max_length=1024)]
    action: Action
    message: Annotated[str, Meta(max_length=400)] = ""


class Timeouts(_Base, frozen=True):
    idle: Duration | None = None  # None: 15m, 31m on IMAP (RFC 9051 5.4: at least 30 minutes)
    backend_connect: Duration = Duration("5s")
    banner: Duration = Duration("5m")
    half_closed: Duration = Duration("60s")


class Inbound(_Base, frozen=True):
    """One listener."""

    name: ListenerName
    port: Port
    backend: Backend
    address: IPAddress | None = None  # None: all addresses of both families
    protocol: Protocol = Protocol.SMTP
    tls_on_connect: bool = False
    early_talkers: EarlyTalkers = EarlyTalkers.REFUSE
    proxy_protocol: ProxyProtocol = ProxyProtocol()
    limits: Limits = Limits()
    reverse_dns: ReverseDNS = msgspec.field(default=ReverseDNS.AUTO, name="reverseDNS")
    rules: Annotated[tuple[Rule, ...], Meta(max_length=64)] = ()
    timeouts: Timeouts = Timeouts()

    @property
    def idle(self) -> float:
        """Seconds without a byte either way before the session is closed."""
        if self.timeouts.idle is not None:
            return self.timeouts.idle.seconds
        return 31 * 60.0 if self.protocol is Protocol.IMAP else 15 * 60.0


class Logging(_Base, frozen=True):
    format: LogFormat = LogFormat.EXIM
    selectors: Annotated[tuple[Selector, ...], Meta(max_length=16)] = (Selector.PROXY,)


class Operator(enum.Enum):
    """Kubernetes' own, of `LabelSelectorRequirement`."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelExpression(_Base, frozen=True):
    key: Annotated[str, Meta(min_length=1, max_length=317)]
    operator: Operator
    values: Annotated[tuple[str, ...], Meta(max_length=256)] = ()


class LabelSelector(_Base, frozen=True):
    match_labels: dict[str, str] = {}
    match_expressions: Annotated[tuple[LabelExpression, ...], Meta(max_length=64)] = ()


class Sidecar(_Base, frozen=True):
    """What injection needs; the sidecar itself never reads it."""

    resources: dict[str, Any] = {}
    image: Annotated[str, Meta(max_length=512)] = ""
    hold_mail_server: bool = False


class Spec(_Base, frozen=True):
    selector: LabelSelector | None = None
    hostname: Annotated[str, Meta(max_length=253)] | None = None
    priority: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] = 0
    inbound: Annotated[tuple[Inbound, ...], Meta(max_length=16)] = ()
    logging: Logging = Logging()
    sidecar: Sidecar = Sidecar()


class Policy(_Base, frozen=True):
    """One manifest. `metadata` and `status` are Kubernetes' own; of them only the name and namespace are read."""

    api_version: Literal["postern.dev/v1alpha1"]
    kind: Literal["MailProxyPolicy"]
    metadata: dict[str, Any]
    spec: Spec
    status: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return str(self.metadata.get("name", ""))

    @property
    def namespace(self) -> str:
        """ "" where the manifest leaves it to the cluster, or was never in one."""
        return str(self.metadata.get("namespace", ""))
