"""Who is connected: what a session knows of its client, and the names under which rules and logs see it.

The names are Exim's (design section 8). What is absent is "", 0 or false in rules and left out of logs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postern_sidecar.names import Endpoint, HostName
    from postern_sidecar.proxyproto.header import Header


@dataclass(slots=True)
class Client:
    """One session's identity.

    `peer` and `local` are the socket's own ends. `sender` is the real client, as far as it is known: the peer until a
    header has said otherwise. `received` is where the connection came in: the socket's own end, always.
    """

    peer: Endpoint
    local: Endpoint
    sender: Endpoint
    proxy_session: bool = False  # the peer is in requiredFrom: it must send a header
    proxy_failed: str = ""  # the reason, where it did not send one, or a bad one
    header: Header | None = None  # only a header that was accepted
    target: Endpoint | None = None  # what the client connected to, where a header named it
    host_name: HostName | None = None  # None: not asked

    @property
    def verified_name(self) -> str:
        """`sender_host_name`: the confirmed name, or ""."""
        return (self.host_name.name or "") if self.host_name is not None else ""
