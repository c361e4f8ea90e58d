"""What a delivery asks of the world. `outbound.leg` and `outbound.client` yield these; `edge.perform` is the one place
that performs them, and sends back what is written beside each.

Not frozen, as in `inbound.events`: nobody keeps one, and a delivery makes a dozen.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from postern_sidecar.answers import Question
    from postern_sidecar.logline import Record
    from postern_sidecar.names import Endpoint
    from postern_sidecar.replies import Reply

    from .link import Link
    from .plan import Plan, PoolKey

NO_DESCRIPTORS: Final = "no_descriptors"
"""Of `Lost.reason`: nobody was asked, it is our own want."""

T = TypeVar("T")
Work = Generator["Command", Any, T]
"""A piece of work: commands out, answers in, a result at the end."""


@dataclass(slots=True)
class Ask:
    """-> tuple[Answer, ...], in the order of the questions; FAILED is what is not known within `seconds`. Never
    raises."""

    questions: tuple[Question, ...]
    seconds: float


@dataclass(slots=True)
class Admit:
    """Wait for a place among the transactions to `destination` (limits.perDestination), at most `seconds`.
    -> bool: whether there was one. Each that was granted is followed by one Leave."""

    destination: str
    seconds: float


@dataclass(slots=True)
class Leave:
    """-> None"""

    destination: str


@dataclass(slots=True)
class TakePooled:
    """-> Link | None: an idle connection with this very key, no longer in the pool."""

    key: PoolKey


@dataclass(slots=True)
class Dial:
    """-> Link | Lost: a TCP connection. Own and forbidden addresses never come here (`outbound.forbidden`)."""

    to: Endpoint
    seconds: float


@dataclass(slots=True)
class Say:
    """Write `data` in one go, then read `replies` replies, each within `seconds`. -> list[Reply] | Lost.

    With Lost, `Lost.replies` has those that came before. Bytes behind the last reply stay for the next Say."""

    link: Link
    data: bytes
    replies: int
    seconds: float


@dataclass(slots=True)
class Secure:
    """TLS over the connection. Bytes of the peer behind its last reply make it Lost("starttls_injection") (RFC 3207 6,
    CVE-2011-0411). -> Handshake | Lost."""

    link: Link
    plan: Plan
    seconds: float


@dataclass(slots=True)
class Keep:
    """Give the connection to the pool, for `TakePooled` with its `link.key`. -> None"""

    link: Link


@dataclass(slots=True)
class Drop:
    """Close the connection; `quit` says QUIT first and waits for nothing. -> None"""

    link: Link
    quit: bool = False


@dataclass(slots=True)
class Log:
    """-> None"""

    record: Record


@dataclass(slots=True)
class Lost:
    """Not a command: the answer where a connection, or the attempt at one, came to nothing.

    `reason` is one of docs/logging.md's: connect_timeout, connect_refused, unreachable, no_descriptors, reply_timeout,
    connection_lost, bad_reply, starttls_injection, tls_timeout, tls_failed. `detail` is for the log: bounded, the
    peer's words in it not yet escaped. `replies`: whole replies that came before it was lost."""

    reason: str
    detail: str = ""
    replies: tuple[Reply, ...] = ()


Command = Ask | Admit | Leave | TakePooled | Dial | Say | Secure | Keep | Drop | Log
