"""What happens to a session, in the past tense, and what it asks for, in the imperative.

`inbound.life` receives events and yields commands; `edge.session` is the one place that performs them. Three commands
are answered by the yield itself (`Wait` with the next event, `Admit`, `Probe`); the others return nothing.

These are not frozen, unlike all other data here: nobody keeps one, a session makes a dozen, and a frozen one takes four
times as long to make (measured: 5 % of a session's processor time for all of them).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postern_sidecar.inbound.filters import Filter
    from postern_sidecar.logline import Record
    from postern_sidecar.names import Address, Endpoint, HostName


# Events


@dataclass(slots=True)
class ClientSent:
    data: bytes


@dataclass(slots=True)
class BackendSent:
    data: bytes


@dataclass(slots=True)
class ConnectFailed:
    """`reason` is one of docs/logging.md's: backend_refused, backend_unreachable, no_descriptors, ..."""

    reason: str


@dataclass(slots=True)
class Named:
    host_name: HostName


@dataclass(slots=True)
class HealthKnown:
    up: bool


class Happened(enum.Enum):
    """Events that say no more than their name."""

    CLIENT_CLOSED = enum.auto()  # EOF or reset
    BACKEND_CLOSED = enum.auto()
    CONNECTED = enum.auto()
    TIMED_OUT = enum.auto()


Event = ClientSent | BackendSent | ConnectFailed | Named | HealthKnown | Happened


# Commands


class Do(enum.Enum):
    """Commands that say no more than their name."""

    WAIT = enum.auto()  # answered by the next event
    STOP_TIMER = enum.auto()
    PAUSE_CLIENT = enum.auto()  # read no more of it: what it may send early is bounded
    SHUT_CLIENT = enum.auto()  # our side is done; reading goes on, so that the last reply is not lost to a reset
    CLOSE_BACKEND = enum.auto()
    ASK_HEALTH = enum.auto()  # answered by HealthKnown, later
    PROBE = enum.auto()  # this is a probe, not a client; answered by whether there is room for one


@dataclass(slots=True)
class StartTimer:
    """TIMED_OUT in `seconds`. A session has one timer; starting it again moves it."""

    seconds: float


@dataclass(slots=True)
class SendClient:
    data: bytes


@dataclass(slots=True)
class SendBackend:
    data: bytes


@dataclass(slots=True)
class LookUp:
    """Answered by Named, later."""

    address: Address


@dataclass(slots=True)
class Admit:
    """Count the client against its limits; answered by the `LimitHit`, or None if it may come in."""

    address: Address


@dataclass(slots=True)
class Connect:
    """Answered by CONNECTED or ConnectFailed, later. `source`: connect from there (IP_TRANSPARENT)."""

    to: Endpoint
    source: Endpoint | None = None


@dataclass(slots=True)
class Log:
    record: Record


@dataclass(slots=True)
class CountRule:
    rule: str
    action: str
    error: bool = False


Command = Do | StartTimer | SendClient | SendBackend | LookUp | Admit | Connect | Log | CountRule


# How a life ends: the value that its generator returns


class Outcome(enum.Enum):
    """The `outcome` of `postern_inbound_connections_total`, for what did not become a session of the mail server."""

    EMPTY = "empty"  # a peer of requiredFrom that closed without a byte
    PROBE = "probe"
    PROXY_FAILED = "proxy_failed"
    REFUSED = "refused"  # 5xx: others, early talker, rule
    DEFERRED = "deferred"  # 4xx: rule, rule error, untrusted header
    LIMITED = "limited"
    BACKEND_FAILED = "backend_failed"
    CLIENT_GONE = "client_gone"


@dataclass(slots=True)
class Ended:
    outcome: Outcome
    reason: str = ""


@dataclass(slots=True)
class Spliced:
    """The session is handed over: pass these on, then everything, through `filter` if there is one."""

    to_backend: bytes = b""
    to_client: bytes = b""
    filter: Filter | None = None
    early: bytes = b""  # what the client sent already and the filter has yet to see
    client_closed: bool = False  # it had closed its side already


End = Ended | Spliced
