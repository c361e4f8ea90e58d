"""The Received field: its shape, its folding, and a submitter that would write it for us."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.utils import parsedate_to_datetime
from ipaddress import ip_address

import pytest

from postern_sidecar.outbound.trace import date, received

NOW = 1795377147.9  # Sun, 22 Nov 2026 19:52:27


def field(helo: bytes = b"app.example.net", peer: str = "127.0.0.1", hostname: str = "mail.example.net") -> bytes:
    return received(ip_address(peer), helo, hostname, "ESMTP", "m01", NOW)


def test_as_written() -> None:
    assert field() == (
        b"Received: from app.example.net ([127.0.0.1]) by mail.example.net\r\n"
        b"\twith ESMTP id m01; Sun, 22 Nov 2026 19:52:27 +0000\r\n"
    )


def test_ipv6_has_its_tag() -> None:
    assert field(peer="::1").startswith(b"Received: from app.example.net ([IPv6:::1]) by mail.example.net\r\n")


@pytest.mark.parametrize("helo", [b"localhost", b"a_b.example", b"[127.0.0.1]", b"[IPv6:::1]", b"x" * 253])
def test_names_and_literals_stand(helo: bytes) -> None:
    assert b"from " + helo in field(helo).replace(b"\r\n\t", b" ")


@pytest.mark.parametrize(
    "helo",
    [
        b"",
        b"a b",
        b"a(b",
        b"a\r\nX-Evil: 1",
        b"a\nb",
        b"a\rb",
        b"a;b",
        b"a\xc3\xa9.example",
        b"x" * 254,
        b"-a",
        b"a\0b",
        b"[a b]",
        b"[127.0.0.1",
        b"a.example\n",
    ],
)
def test_anything_else_is_replaced_by_the_address(helo: bytes) -> None:
    assert field(helo).startswith(b"Received: from [127.0.0.1] ([127.0.0.1]) by mail.example.net\r\n")


@pytest.mark.parametrize("length", [1, 20, 60, 70, 253])
@pytest.mark.parametrize("host", [4, 50, 253])
def test_lines_are_folded_and_names_are_whole(length: int, host: int) -> None:
    wire = field(b"h" * length, hostname="m" * host)
    lines = wire.split(b"\r\n")
    assert lines.pop() == b""
    for line in lines:
        assert len(line) < 78 or line.startswith((b"\tfrom h", b"\tby m"))
    assert all(line.startswith(b"\t") for line in lines[1:])
    assert wire.count(b"\n") == wire.count(b"\r\n") == len(lines)


def test_a_parser_of_messages_reads_it_back() -> None:
    message = message_from_bytes(field() + b"\r\nbody\r\n", policy=policy.SMTP)
    assert message.keys() == ["Received"]
    when = parsedate_to_datetime(str(message["Received"]).rpartition(";")[2].strip())
    assert when.timestamp() == int(NOW)


def test_dates() -> None:
    assert date(0) == "Thu, 1 Jan 1970 00:00:00 +0000"
    assert date(1709164800) == "Thu, 29 Feb 2024 00:00:00 +0000"
