"""What every way of handing over has in common.

A hand-over never sends LOCAL or UNKNOWN on (Exim crashes on them, reference in docs/backends.md): it sends real
addresses, in one write. `Denied` and `Verdict` are data, not exceptions: a server's no is an ordinary outcome.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from postern_sidecar.names import Endpoint
from postern_sidecar.replies import Reply

if TYPE_CHECKING:
    from postern_sidecar.config.model import Inbound
    from postern_sidecar.inbound.client import Client


@dataclass(frozen=True, slots=True)
class Handed:
    """The server has the identity. `banner` is what the client gets to see first; `guarded`: it needs the guard."""

    banner: bytes
    guarded: bool


@dataclass(frozen=True, slots=True)
class Denied:
    """The server does not take the identity: its configuration's fault. `advice` names the remedy, for the log."""

    advice: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The server took the identity and refuses this client: its reply is the client's."""

    reply: Reply


Talk = Generator[bytes, Reply, Handed | Denied | Verdict]
"""A talk with an SMTP server: yields what to send (b"" to begin with: the banner comes first), receives replies."""


class Handover:
    """A way of handing over. Subclasses override what they need; the base hands nothing over."""

    talks = False  # whether the server is talked to before the client is let through
    needs_name = False  # whether reverse DNS of the client is part of the identity

    def __init__(self, inbound: Inbound, hostname: str) -> None:
        self.inbound = inbound
        self.hostname = hostname
        self._backend = Endpoint(inbound.backend.address.address, inbound.backend.port)

    def backend(self, client: Client) -> Endpoint:
        """Where the server listens, for this client."""
        del client
        return self._backend

    def source(self, client: Client) -> Endpoint | None:
        """Where to connect from, where that is the identity."""
        del client
        return None

    def advice(self, reason: str) -> str:
        """What to do about a connection that could not be made, for the log; "" where `reason` says it all."""
        del reason
        return ""

    def preamble(self, client: Client) -> bytes:
        """What the server reads before anything else, in one write."""
        del client
        return b""

    def talk(self, client: Client) -> Talk:
        """Only called where `talks`."""
        raise NotImplementedError(client)


def guarded_or_denied(announced: Reply, banner: bytes, *, acknowledged: bool) -> Handed | Denied:
    """Whether a server that answered our EHLO so needs the guard, and whether the policy allows it (contracts 2)."""
    guarded = not {b"XCLIENT", b"XFORWARD"}.isdisjoint(announced.keywords)
    if guarded and not acknowledged:
        return Denied(
            "the server announces XCLIENT or XFORWARD to clients; use handover ProxyV2 or take the clients' networks "
            "out of its authorized hosts, or accept a session without STARTTLS with backend.acknowledgeNoStartTLS: true"
        )
    return Handed(banner, guarded)
