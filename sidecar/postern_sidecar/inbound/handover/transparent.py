"""Transparent: connect from the client's own address (IP_TRANSPARENT), for servers that know neither PROXY nor XCLIENT.

The routing rules that bring the answers back are in docs/backends.md. The server listens on 127.0.0.1 for IPv4 clients
and on `backend.address6` for IPv6 ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from postern_sidecar.names import Endpoint

from .base import Handover

if TYPE_CHECKING:
    from postern_sidecar.inbound.client import Client


_ADVICE = {
    "no_permission": (
        "handover Transparent needs the capability NET_RAW: run as uid 0 with it, or take another hand-over"
    ),
    "backend_timeout": "no answer found its way back: are the routing rules of Transparent set (docs/backends.md)?",
    "backend_refused": (
        "clients of one family reach backend.address, of the other backend.address6: does the server listen there?"
    ),
}


class Transparent(Handover):
    def backend(self, client: Client) -> Endpoint:
        backend = self.inbound.backend
        of_family = backend.address if client.sender.address.version == 4 else backend.address6
        return Endpoint(of_family.address, backend.port)

    def advice(self, reason: str) -> str:
        return _ADVICE.get(reason, "")

    def source(self, client: Client) -> Endpoint | None:
        return client.sender
