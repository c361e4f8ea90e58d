"""What a session's log lines say: the fields of a record, under Exim's names (docs/logging.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from postern_sidecar.logline import Record
from postern_sidecar.proxyproto import tlv

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .client import Client
    from .listener import Listener


def session_record(
    event: str, session: str, client: Client, listener: Listener, fields: Mapping[str, object]
) -> Record:
    """`fields` are the event's own. What is absent or empty is left out by the formatter."""
    known: dict[str, object] = {
        "listener": listener.inbound.name,
        "sender_host_name": client.verified_name,
        "sender_host_address": client.sender.address,
        "sender_host_port": client.sender.port,
        "received_ip_address": client.local.address,
        "received_port": client.local.port,
        "handover": listener.inbound.backend.handover.value,
    }
    if client.proxy_session:
        known["proxy_session"] = True
        known["proxy_host_address"] = client.peer.address
        known["proxy_host_port"] = client.peer.port
    if client.proxy_failed:
        known["proxy_failed"] = True
    if client.target is not None:
        known["proxy_target_address"] = client.target.address
        known["proxy_target_port"] = client.target.port
    if client.header is not None:
        known["header_version"] = client.header.version
        if client.header.tlvs:
            known |= tlv.named(client.header)
    known |= fields
    return Record(event, session, known)
