"""Plain: no identity at all. A server that trusts 127.0.0.1 is an open relay behind it: `acknowledgeClientHidden`.

An SMTP server is asked with our own EHLO whether it announces XCLIENT or XFORWARD to us: then the client could send its
own and be anybody, so the session is guarded (contracts section 2). The probe goes over a session of its own kind: the
reply to EHLO leaves the server in its greeted state, so the client's own EHLO starts afresh.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from postern_sidecar.config.model import Protocol

from .base import Handover, Talk, Verdict, guarded_or_denied

if TYPE_CHECKING:
    from postern_sidecar.config.model import Inbound
    from postern_sidecar.inbound.client import Client


class Plain(Handover):
    def __init__(self, inbound: Inbound, hostname: str) -> None:
        super().__init__(inbound, hostname)
        self.talks = inbound.protocol is Protocol.SMTP and not inbound.tls_on_connect

    def talk(self, client: Client) -> Talk:
        del client
        banner = yield b""
        if banner.code != 220:
            return Verdict(banner)
        announced = yield f"EHLO {self.hostname}\r\n".encode()
        return guarded_or_denied(announced, bytes(banner), acknowledged=self.inbound.backend.acknowledge_no_start_tls)
