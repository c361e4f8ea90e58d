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

from .scalars import Date, Duration, HostPort, IPAddress, Network, Pattern, Server, Size, Sources


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
_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z"
_SUBDOMAIN_WORDS = "lower-case letters, digits, inner hyphens and dots"
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


class BareNewline(enum.Enum):
    REJECT = "Reject"
    NORMALIZE = "Normalize"


class SkipLevel(enum.Enum):
    ENCRYPT = "Encrypt"
    OPPORTUNISTIC = "Opportunistic"


class WithoutDane(enum.Enum):
    """What a destination without DANE must reach; DANE overrides it (contracts section 5)."""

    OPPORTUNISTIC = "Opportunistic"
    ENCRYPT = "Encrypt"
    VERIFY = "Verify"


class TLSVersion(enum.Enum):
    """No older ones: at security level 1 OpenSSL does not speak them (and RFC 8996 gave them up)."""

    TLS_1_2 = "1.2"
    TLS_1_3 = "1.3"


class OCSP(enum.Enum):
    AUTO = "Auto"
    OFF = "Off"
    REQUIRE = "Require"


class ResolverKind(enum.Enum):
    EMBEDDED = "Embedded"
    SERVERS = "Servers"


class Digest(enum.Enum):
    """A TLSA record's matching type, by the name of its hash (RFC 7218 2.3)."""

    SHA2_256 = "SHA2-256"
    SHA2_512 = "SHA2-512"


class Submission(_Base, frozen=True):
    """The doors, on 127.0.0.1 and ::1 only."""

    port: Port = 11025
    lmtp_port: Port = 11024
    bare_newline: BareNewline | None = None  # None: Reject by SMTP, Normalize by LMTP


class Skip(_Base, frozen=True):
    """A destination whose DANE is broken; after `until` (a UTC date, that day included) it counts no more."""

    match: Pattern
    reason: Annotated[str, Meta(min_length=1, max_length=256)]
    until: Date
    level: SkipLevel = SkipLevel.ENCRYPT


Patterns = Annotated[tuple[Pattern, ...], Meta(max_length=1024)]


class Dane(_Base, frozen=True):
    """Patterns match the mail domain, or the MX host where its name is secure or comes from a route."""

    try_: Patterns = msgspec.field(default=(Pattern("*"),), name="try")
    require: Patterns = ()
    skip: Annotated[tuple[Skip, ...], Meta(max_length=1024)] = ()
    digests: Annotated[tuple[Digest, ...], Meta(min_length=1, max_length=2)] = (Digest.SHA2_512, Digest.SHA2_256)


class OutboundTLS(_Base, frozen=True):
    without_dane: WithoutDane = WithoutDane.OPPORTUNISTIC
    min_version: TLSVersion = TLSVersion.TLS_1_2
    ocsp: OCSP = OCSP.AUTO
    ca_bundle: Annotated[str, Meta(max_length=65536)] = ""  # PEM, for verify; "": the system's


class RootHint(_Base, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=254)]
    addresses: Annotated[tuple[IPAddress, ...], Meta(min_length=1, max_length=16)]


class Stub(_Base, frozen=True):
    """A zone and the authoritative servers to ask for it. `insecure`: it is unsigned, whatever its parent says."""

    zone: Annotated[str, Meta(min_length=1, max_length=254)]
    servers: Annotated[tuple[Server, ...], Meta(min_length=1, max_length=16)]
    insecure: bool = False


class Forward(_Base, frozen=True):
    """A zone and the recursive servers to ask for it. `tls_name`: over TLS, to a server of that name."""

    zone: Annotated[str, Meta(min_length=1, max_length=254)]
    servers: Annotated[tuple[Server, ...], Meta(min_length=1, max_length=16)]
    insecure: bool = False
    tls_name: Annotated[str, Meta(max_length=253)] = ""


class SelfTest(_Base, frozen=True):
    """A name that must come back secure, and one that must fail."""

    secure: Annotated[str, Meta(min_length=1, max_length=254)] = "."
    bogus: Annotated[str, Meta(min_length=1, max_length=254)] = "dnssec-failed.org"


class DNS(_Base, frozen=True):
    resolver: ResolverKind = ResolverKind.EMBEDDED
    servers: Annotated[tuple[Server, ...], Meta(max_length=8)] = ()
    acknowledge_trusted_path: bool = False
    trust_anchors: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=2048)], ...], Meta(max_length=64)] = ()
    root_hints: Annotated[tuple[RootHint, ...], Meta(max_length=26)] = ()
    stubs: Annotated[tuple[Stub, ...], Meta(max_length=64)] = ()
    forwards: Annotated[tuple[Forward, ...], Meta(max_length=64)] = ()
    self_test: SelfTest = SelfTest()


class Auth(_Base, frozen=True):
    """A Secret with `username` and `password`."""

    secret_name: Annotated[str, Meta(min_length=1, max_length=253, pattern=_SUBDOMAIN, description=_SUBDOMAIN_WORDS)]


class Route(_Base, frozen=True):
    """No MX lookup: mail for these domains goes to `via`."""

    domains: Annotated[tuple[Pattern, ...], Meta(min_length=1, max_length=1024)]
    via: HostPort
    tls_on_connect: bool | None = None  # None: where the port is 465
    auth: Auth | None = None

    @property
    def implicit_tls(self) -> bool:
        return self.via.port == 465 if self.tls_on_connect is None else self.tls_on_connect


class OutboundLimits(_Base, frozen=True):
    connections: Count = 2000  # open submission sessions, both doors together
    per_destination: Annotated[int, Meta(ge=1, le=10_000)] = 20
    message_size: Size = Size("50Mi")
    reuse: Count = 100  # messages over one connection
    idle: Duration = Duration("5s")
    final_timeout: Duration = Duration("570s")


class Outbound(_Base, frozen=True):
    submission: Submission = Submission()
    dane: Dane = Dane()
    tls: OutboundTLS = OutboundTLS()
    dns: DNS = DNS()
    routes: Annotated[tuple[Route, ...], Meta(max_length=256)] = ()
    limits: OutboundLimits = OutboundLimits()
    own_names: Annotated[tuple[Pattern, ...], Meta(max_length=64)] = ()
    own_addresses: Annotated[tuple[Network, ...], Meta(max_length=64)] = ()
    allow_addresses: Annotated[tuple[Network, ...], Meta(max_length=64)] = ()


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
    match_labels: Annotated[dict[str, str], Meta(max_length=64)] = {}
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
    outbound: Outbound | None = None
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
