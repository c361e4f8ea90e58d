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


class Transparent(Handover):
    def backend(self, client: Client) -> Endpoint:
        backend = self.inbound.backend
        of_family = backend.address if client.sender.address.version == 4 else backend.address6
        return Endpoint(of_family.address, backend.port)

    def source(self, client: Client) -> Endpoint | None:
        return client.sender
