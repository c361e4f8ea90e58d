"""What a hand-over sends, octet by octet, and that the general writer is the reader's inverse."""

from __future__ import annotations

import pytest

from postern_sidecar.names import Endpoint, endpoint
from postern_sidecar.proxyproto import writer
from postern_sidecar.proxyproto.crc32c import crc32c
from postern_sidecar.proxyproto.header import Command, Family, Header, Transport
from proxy_checks import check_answer

CLIENT4, SERVER4 = endpoint(("192.0.2.10", 40000)), endpoint(("198.51.100.25", 25))
CLIENT6, SERVER6 = endpoint(("2001:db8::1", 40000)), endpoint(("2001:db8:1::25", 25))
SIGNATURE = "0d0a0d0a000d0a515549540a"
MAPPED = "00000000000000000000ffff"

PAIRS = [
    pytest.param(
        CLIENT4,
        SERVER4,
        b"PROXY TCP4 192.0.2.10 198.51.100.25 40000 25\r\n",
        "2111000c c000020a c6336419 9c40 0019",
        id="IPv4",
    ),
    pytest.param(
        CLIENT6,
        SERVER6,
        b"PROXY TCP6 2001:db8::1 2001:db8:1::25 40000 25\r\n",
        "21210024 20010db8000000000000000000000001 20010db8000100000000000000000025 9c40 0019",
        id="IPv6",
    ),
    pytest.param(
        CLIENT4,
        SERVER6,
        b"PROXY TCP6 ::ffff:c000:20a 2001:db8:1::25 40000 25\r\n",
        f"21210024 {MAPPED}c000020a 20010db8000100000000000000000025 9c40 0019",
        id="IPv4 to IPv6",
    ),
    pytest.param(
        CLIENT6,
        SERVER4,
        b"PROXY TCP6 2001:db8::1 ::ffff:c633:6419 40000 25\r\n",
        f"21210024 20010db8000000000000000000000001 {MAPPED}c6336419 9c40 0019",
        id="IPv6 to IPv4",
    ),
]


@pytest.mark.parametrize(("source", "destination", "line", "octets"), PAIRS)
def test_handover_headers(source: Endpoint, destination: Endpoint, line: bytes, octets: str) -> None:
    assert writer.v1(source, destination) == line
    assert writer.v2(source, destination) == bytes.fromhex(SIGNATURE + octets)
    for header in (line, bytes.fromhex(SIGNATURE + octets)):
        answer = check_answer(header).answer
        assert isinstance(answer, Header)
        assert (answer.source, answer.destination, answer.tlvs) == (source, destination, b"")


def test_handover_headers_fit_the_smallest_receiver() -> None:
    long = endpoint(("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535))
    assert len(writer.v2(long, long)) == 52
    assert len(writer.v1(long, long)) == 104


def test_checksum_covers_the_whole_header() -> None:
    header = Header(2, Command.PROXY, Family.INET, Transport.STREAM, CLIENT4, SERVER4, b"\x04\0\1x")
    octets = writer.encode(header, crc32c=True)
    assert octets[14:16].hex() == "0017"
    assert octets[-7:-4].hex() == "030004"
    assert int.from_bytes(octets[-4:]) == crc32c(octets[:-4] + bytes(4))
    answer = check_answer(octets).answer
    assert isinstance(answer, Header)
    assert answer.tlvs == octets[28:]
    assert writer.encode(answer) == octets


def test_headers_without_endpoints() -> None:
    unix = Header(2, Command.PROXY, Family.UNIX, Transport.STREAM)
    assert writer.encode(unix) == bytes.fromhex(SIGNATURE + "213100d8") + bytes(216)
    assert writer.encode(unix, addresses=b"/run/x")[16:] == b"/run/x".ljust(216, b"\0")
    local = Header(2, Command.LOCAL, Family.UNSPEC, Transport.UNSPEC)
    assert writer.encode(local) == bytes.fromhex(SIGNATURE + "20000000")
    assert writer.encode(Header(1, Command.PROXY, Family.UNSPEC, Transport.UNSPEC)) == b"PROXY UNKNOWN\r\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0x00000000),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_crc32c_of_published_vectors(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected
