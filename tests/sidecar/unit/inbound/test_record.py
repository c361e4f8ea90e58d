"""What a header carries reaches the log escaped once, by the log's own rule."""

from __future__ import annotations

import json

import pytest

from playbook import SENDER, TARGET, Playbook, listener
from postern_sidecar.inbound.events import ClientSent
from postern_sidecar.inbound.record import session_record
from postern_sidecar.logline import FIELD, Formatter
from postern_sidecar.proxyproto.writer import v2


@pytest.mark.parametrize(
    ("sent", "logged"),
    [
        (b"mx.example", "mx.example"),
        (b"a\r\nb", "a\\x0d\\x0ab"),
        (b"\\x41", "\\x5cx41"),
        ("mé".encode(), "m\\xc3\\xa9"),
        (b"\n" * 255, "\\x0a" * ((FIELD - 3) // 4) + "..."),
    ],
)
def test_a_tlv_is_escaped_once(sent: bytes, logged: str) -> None:
    header = v2(SENDER, TARGET)
    tlv = b"\x02" + len(sent).to_bytes(2, "big") + sent
    header = header[:14] + (len(header) - 16 + len(tlv)).to_bytes(2, "big") + header[16:] + tlv
    play = Playbook(listener())
    play(ClientSent(header))
    record = session_record("connect", "c0001", play.client, listener(), {})
    line = json.loads(Formatter("JSON", ["+proxy"]).line(record, 0.0))
    assert line["proxy_authority"] == logged
