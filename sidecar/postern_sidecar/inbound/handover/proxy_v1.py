"""PROXY protocol version 1: one line of text, for servers that read no version 2 (Haraka)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from postern_sidecar.proxyproto import writer

from .base import Handover

if TYPE_CHECKING:
    from postern_sidecar.inbound.client import Client


class ProxyV1(Handover):
    def preamble(self, client: Client) -> bytes:
        return writer.v1(client.sender, client.target or client.local)
