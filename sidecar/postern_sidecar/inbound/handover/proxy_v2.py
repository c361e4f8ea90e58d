"""PROXY protocol version 2: binary, without TLVs, at most 52 octets: the best hand-over where a server takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from postern_sidecar.proxyproto import writer

from .base import Handover

if TYPE_CHECKING:
    from postern_sidecar.inbound.client import Client


class ProxyV2(Handover):
    def preamble(self, client: Client) -> bytes:
        return writer.v2(client.sender, client.target or client.local)
