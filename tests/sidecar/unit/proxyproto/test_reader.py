"""The reader against tables: what is a header, what is not, and after which octet that is known.

No row is read only once: whole, octet by octet, in every two pieces, and with something behind it (h11's `tr`).
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from postern_sidecar.names import Endpoint, endpoint
from postern_sidecar.proxyproto import v1, v2
from postern_sidecar.proxyproto.crc32c import crc32c
from postern_sidecar.proxyproto.header import Command, Family, Header, HeaderError, Reason, Transport
from postern_sidecar.proxyproto.reader import HeaderReader
from proxy_checks import Outcome, check_answer, feed

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
FOUR = bytes.fromhex("c000020ac633641907d00019")  # 192.0.2.10:2000 198.51.100.25:25
SIX = bytes.fromhex("20010db8000000000000000000000001 20010db8000100000000000000000025 07d0 0019")
MAPPED = bytes.fromhex("00000000000000000000ffffc000020a 00000000000000000000ffffc6336419 07d0 0019")
AWS = bytes.fromhex("0d0a0d0a000d0a515549540a20110054030004bce5951f04004a") + bytes(74)

CLIENT4, SERVER4 = endpoint(("192.0.2.10", 2000)), endpoint(("198.51.100.25", 25))
CLIENT6, SERVER6 = endpoint(("2001:db8::1", 2000)), endpoint(("2001:db8:1::25", 25))


class Accepted(NamedTuple):
    name: str
    data: bytes
    header: Header


class Refused(NamedTuple):
    """`at`: the verdict comes with this many octets and not before; None: with the last."""

    name: str
    data: bytes
    reason: Reason
    at: int | None = None


def binary(octets: int, block: bytes = b"", length: int | None = None) -> bytes:
    """A version 2 header: octets 13 and 14 as one number, the length field true unless given."""
    size = len(block) if length is None else length
    return SIGNATURE + octets.to_bytes(2) + size.to_bytes(2) + block


def tlv(kind: int, value: bytes = b"") -> bytes:
    return bytes([kind]) + len(value).to_bytes(2) + value


def summed(data: bytes) -> bytes:
    """The header with its first empty checksum TLV filled in."""
    at = data.index(tlv(3, bytes(4))) + 3
    return data[:at] + crc32c(data).to_bytes(4) + data[at + 4 :]


def four(source: Endpoint = CLIENT4, destination: Endpoint = SERVER4) -> Header:
    return Header(1, Command.PROXY, Family.INET, Transport.STREAM, source, destination)


def six(source: Endpoint = CLIENT6, destination: Endpoint = SERVER6) -> Header:
    return Header(1, Command.PROXY, Family.INET6, Transport.STREAM, source, destination)


def two(family: Family, transport: Transport = Transport.STREAM, tlvs: bytes = b"") -> Header:
    ends = {Family.INET: (CLIENT4, SERVER4), Family.INET6: (CLIENT6, SERVER6)} if transport is Transport.STREAM else {}
    source, destination = ends.get(family, (None, None))
    return Header(2, Command.PROXY, family, transport, source, destination, tlvs)


UNKNOWN = Header(1, Command.PROXY, Family.UNSPEC, Transport.UNSPEC)
LOCAL = Header(2, Command.LOCAL, Family.UNSPEC, Transport.UNSPEC)
LONG4 = endpoint(("255.255.255.255", 65535))
LONG6 = b"ffff:" * 7 + b"ffff"
ALL_TLVS = tlv(1, b"smtp") + tlv(2, b"mx.example") + tlv(4) + tlv(5, bytes(128)) + tlv(0xF0, b"any")

V1_ACCEPTED = [
    Accepted("tcp4", b"PROXY TCP4 192.0.2.10 198.51.100.25 2000 25\r\n", four()),
    Accepted("tcp4, longest: 56", b"PROXY TCP4 " + b"255.255.255.255 " * 2 + b"65535 65535\r\n", four(LONG4, LONG4)),
    Accepted(
        "nought is legal",
        b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n",
        four(endpoint(("0.0.0.0", 0)), endpoint(("0.0.0.0", 0))),
    ),
    Accepted("tcp6", b"PROXY TCP6 2001:db8::1 2001:db8:1::25 2000 25\r\n", six()),
    Accepted("tcp6, upper case", b"PROXY TCP6 2001:DB8::1 2001:DB8:1::25 2000 25\r\n", six()),
    Accepted("tcp6, leading zeros in groups", b"PROXY TCP6 2001:0db8::0001 2001:db8:1:0:0:0:0:25 2000 25\r\n", six()),
    Accepted(
        "tcp6, longest of the specification: 104",
        b"PROXY TCP6 " + LONG6 + b" " + LONG6 + b" 65535 65535\r\n",
        six(endpoint((LONG6.decode(), 65535)), endpoint((LONG6.decode(), 65535))),
    ),
    Accepted("tcp6, unspecified", b"PROXY TCP6 :: :: 0 0\r\n", six(endpoint(("::", 0)), endpoint(("::", 0)))),
    Accepted(
        "tcp6, v4-mapped in hex is IPv4",
        b"PROXY TCP6 ::ffff:c000:20a ::ffff:c633:6419 2000 25\r\n",
        six(CLIENT4, SERVER4),
    ),
    Accepted(
        "tcp6, v4-mapped as HAProxy writes it",
        b"PROXY TCP6 ::ffff:192.0.2.10 2001:db8:1::25 2000 25\r\n",
        six(CLIENT4, SERVER6),
    ),
    Accepted(
        "tcp6, longest spelling of an address: 45",
        b"PROXY TCP6 0000:0000:0000:0000:0000:ffff:255.255.255.255 2001:db8:1::25 65535 25\r\n",
        six(LONG4, SERVER6),
    ),
    Accepted("unknown, short", b"PROXY UNKNOWN\r\n", UNKNOWN),
    Accepted("unknown, a space more", b"PROXY UNKNOWN \r\n", UNKNOWN),
    Accepted("unknown, longest: 107", b"PROXY UNKNOWN " + LONG6 + b" " + LONG6 + b" 65535 65535\r\n", UNKNOWN),
    Accepted("unknown, anything", b"PROXY UNKNOWN \0\xff\t TCP4 PROXY  \r\n", UNKNOWN),
]

V2_ACCEPTED = [
    Accepted("inet", binary(0x2111, FOUR), two(Family.INET)),
    Accepted("inet6", binary(0x2121, SIX), two(Family.INET6)),
    Accepted(
        "inet6, v4-mapped is IPv4",
        binary(0x2121, MAPPED),
        Header(2, Command.PROXY, Family.INET6, Transport.STREAM, CLIENT4, SERVER4),
    ),
    Accepted("inet, TLVs", binary(0x2111, FOUR + ALL_TLVS), two(Family.INET, tlvs=ALL_TLVS)),
    Accepted("inet6, TLVs", binary(0x2121, SIX + ALL_TLVS), two(Family.INET6, tlvs=ALL_TLVS)),
    Accepted(
        "inet, longest: 4096",
        binary(0x2111, FOUR + tlv(0xE1, bytes(4065))),
        two(Family.INET, tlvs=tlv(0xE1, bytes(4065))),
    ),
    Accepted("unspec", binary(0x2100), two(Family.UNSPEC, Transport.UNSPEC)),
    Accepted("unspec, TLVs", binary(0x2100, ALL_TLVS), two(Family.UNSPEC, Transport.UNSPEC, ALL_TLVS)),
    Accepted("unspec stream", binary(0x2101), two(Family.UNSPEC)),
    Accepted("unspec dgram", binary(0x2102), two(Family.UNSPEC, Transport.DGRAM)),
    Accepted("inet unspec", binary(0x2110, FOUR), two(Family.INET, Transport.UNSPEC)),
    Accepted("inet dgram", binary(0x2112, FOUR + tlv(4)), two(Family.INET, Transport.DGRAM, tlv(4))),
    Accepted("inet6 unspec", binary(0x2120, SIX), two(Family.INET6, Transport.UNSPEC)),
    Accepted("inet6 dgram", binary(0x2122, SIX), two(Family.INET6, Transport.DGRAM)),
    Accepted("unix unspec", binary(0x2130, bytes(216)), two(Family.UNIX, Transport.UNSPEC)),
    Accepted("unix stream", binary(0x2131, b"/a".ljust(216) + tlv(4)), two(Family.UNIX, tlvs=tlv(4))),
    Accepted("unix dgram", binary(0x2132, b"\xff" * 216), two(Family.UNIX, Transport.DGRAM)),
    Accepted("local", binary(0x2000), LOCAL),
    Accepted("local: the AWS health check", AWS, LOCAL),
    Accepted("local, inet, no block", binary(0x2011), LOCAL),
    Accepted("local, inet, half a block", binary(0x2011, FOUR[:5]), LOCAL),
    Accepted("local, inet, addresses", binary(0x2011, FOUR), LOCAL),
    Accepted("local, unix, short", binary(0x2031, b"/"), LOCAL),
    Accepted("local, no family of the specification", binary(0x20FF, b"whatever"), LOCAL),
    Accepted("local, garbage block", binary(0x2000, b"\xff\xff\xff\xff"), LOCAL),
    Accepted("local, unique id of any length", binary(0x2000, tlv(5, bytes(500))), LOCAL),
    Accepted("local, longest", binary(0x2000, bytes(4080)), LOCAL),
    Accepted("local, checksum", summed(binary(0x2000, tlv(3, bytes(4)) + tlv(4))), LOCAL),
    Accepted("local, checksum behind addresses", summed(binary(0x2021, SIX + tlv(3, bytes(4)))), LOCAL),
]

CHECKSUMS = [
    ("first", tlv(3, bytes(4)) + tlv(2, b"mx.example")),
    ("last", tlv(2, b"mx.example") + tlv(3, bytes(4))),
    ("alone", tlv(3, bytes(4))),
]
for where, chain in CHECKSUMS:
    data = summed(binary(0x2111, FOUR + chain))
    V2_ACCEPTED.append(Accepted(f"checksum {where}", data, two(Family.INET, tlvs=data[28:])))

NOT, SYNTAX = Reason.NOT_A_HEADER, Reason.V1_SYNTAX
LINE = b"PROXY TCP4 192.0.2.10 198.51.100.25 2000 25\r\n"


def line(what: str, text: bytes, at: int | None = None) -> Refused:
    return Refused(what, b"PROXY " + text, SYNTAX, at)


V1_REFUSED = [
    Refused("a client without a header", b"EHLO client.example\r\n", NOT, 1),
    Refused("a TLS ClientHello", b"\x16\x03\x01\x02\x00", NOT, 1),
    Refused("NUL", b"\0" * 12, NOT, 1),
    Refused("lower case", b"proxy TCP4", NOT, 1),
    Refused("second octet", b"PrOXY", NOT, 2),
    Refused("third octet", b"PR0XY", NOT, 3),
    Refused("fifth octet", b"PROXX", NOT, 5),
    Refused("cut short", b"PRO\r\n", NOT, 4),
    Refused("no space", b"PROXYTCP4", SYNTAX, 6),
    Refused("only PROXY", b"PROXY\r\n", SYNTAX, 6),
    Refused("tab for space", b"PROXY\tTCP4", SYNTAX, 6),
    line("two spaces", b" TCP4 1.2.3.4", 7),
    line("no keyword", b"\r\n", 7),
    line("lower-case keyword", b"tcp4 ", 7),
    line("TCPX4", b"TCPX4 192.0.2.10", 10),
    line("TCP5", b"TCP5 ", 10),
    line("TCP44", b"TCP44", 11),
    line("TCP4 and nothing", b"TCP4\r\n", 11),
    line("UDP4", b"UDP4 192.0.2.10 198.51.100.25 2000 25\r\n", 8),
    line("UNKNOWN4", b"UNKNOWN4", 14),
    line("unknown, LF", b"UNKNOWN\n", 14),
    line("unknown, lone CR", b"UNKNOWN\rx", 15),
    line("unknown, lone LF further on", b"UNKNOWN abc\n\r\n", 18),
    line("unknown, CR CR LF", b"UNKNOWN a\r\r\n", 17),
    line("LF alone", LINE[6:-2] + b"\n", 44),
    line("CR alone", LINE[6:-2] + b"\rE", 45),
    line("CR CR LF", LINE[6:-2] + b"\r\r\n", 45),
    line("NUL before CRLF", LINE[6:-2] + b"\0\r\n", 44),
    line("tab before CRLF", LINE[6:-2] + b"\t\r\n", 44),
    line("space before CRLF", LINE[6:-2] + b" \r\n"),
    line("tab between fields", b"TCP4 192.0.2.10\t198.51.100.25 2000 25\r\n", 22),
    line("two spaces between fields", b"TCP4 192.0.2.10  198.51.100.25 2000 25\r\n"),
    line("five fields", b"TCP4 192.0.2.10 198.51.100.25 2000\r\n"),
    line("seven fields", b"TCP4 192.0.2.10 198.51.100.25 2000 25 25\r\n"),
    line("no addresses", b"TCP4 \r\n"),
    line("octal octets", b"TCP4 192.000.002.010 198.51.100.25 2000 25\r\n"),
    line("one leading zero", b"TCP4 192.0.2.010 198.51.100.25 2000 25\r\n"),
    line("leading zero in the destination", b"TCP4 192.0.2.10 198.51.100.025 2000 25\r\n"),
    line("octet 256", b"TCP4 192.0.2.256 198.51.100.25 2000 25\r\n"),
    line("octet 260", b"TCP4 192.0.2.10 198.51.260.25 2000 25\r\n"),
    line("octet 300", b"TCP4 300.0.2.10 198.51.100.25 2000 25\r\n"),
    line("three octets", b"TCP4 192.0.10 198.51.100.25 2000 25\r\n"),
    line("five octets", b"TCP4 192.0.2.10.1 198.51.100.25 2000 25\r\n"),
    line("dot at the end", b"TCP4 192.0.2.10. 198.51.100.25 2000 25\r\n"),
    line("one number", b"TCP4 3221225994 198.51.100.25 2000 25\r\n"),
    line("hex octet", b"TCP4 0xc0.0.2.10 198.51.100.25 2000 25\r\n", 13),
    line("IPv6 in TCP4", b"TCP4 2001:db8::1 2001:db8:1::25 2000 25\r\n", 16),
    line("IPv4 in TCP6", b"TCP6 192.0.2.10 198.51.100.25 2000 25\r\n"),
    line("one of each in TCP6", b"TCP6 2001:db8::1 198.51.100.25 2000 25\r\n"),
    line("zone", b"TCP6 fe80::1%eth0 2001:db8:1::25 2000 25\r\n", 19),
    line("prefix length", b"TCP6 2001:db8::1/64 2001:db8:1::25 2000 25\r\n", 23),
    line("brackets", b"TCP6 [2001:db8::1] 2001:db8:1::25 2000 25\r\n", 12),
    line("two gaps", b"TCP6 2001::db8::1 2001:db8:1::25 2000 25\r\n"),
    line("three colons", b"TCP6 2001:::1 2001:db8:1::25 2000 25\r\n"),
    line("seven groups", b"TCP6 1:2:3:4:5:6:7 2001:db8:1::25 2000 25\r\n"),
    line("nine groups", b"TCP6 1:2:3:4:5:6:7:8:9 2001:db8:1::25 2000 25\r\n"),
    line("eight groups and a gap", b"TCP6 1:2:3:4::5:6:7:8 2001:db8:1::25 2000 25\r\n"),
    line("five hex digits", b"TCP6 02001:db8::1 2001:db8:1::25 2000 25\r\n"),
    line("colon in front", b"TCP6 :1:2:3:4:5:6:7 2001:db8:1::25 2000 25\r\n"),
    line("colon behind", b"TCP6 2001:db8::1: 2001:db8:1::25 2000 25\r\n"),
    line("not hex", b"TCP6 2001:db8::g", 22),
    line("octal in the dotted tail", b"TCP6 ::ffff:192.0.2.010 2001:db8:1::25 2000 25\r\n"),
    line("dotted, not the tail", b"TCP6 192.0.2.10::1 2001:db8:1::25 2000 25\r\n"),
    line("second address wrong", b"TCP6 2001:db8::1 2001:db8 2000 25\r\n"),
    line("port 65536", b"TCP4 192.0.2.10 198.51.100.25 65536 25\r\n"),
    line("port 70000", b"TCP4 192.0.2.10 198.51.100.25 70000 25\r\n"),
    line("port of six digits", b"TCP4 192.0.2.10 198.51.100.25 200000 25\r\n"),
    line("port, leading zero", b"TCP4 192.0.2.10 198.51.100.25 02000 25\r\n"),
    line("port 00", b"TCP4 192.0.2.10 198.51.100.25 2000 00\r\n"),
    line("port, underscore", b"TCP4 192.0.2.10 198.51.100.25 4_000 25\r\n", 38),
    line("port, plus", b"TCP4 192.0.2.10 198.51.100.25 +2000 25\r\n", 37),
    line("port, minus", b"TCP4 192.0.2.10 198.51.100.25 2000 -1\r\n", 42),
    line("port, hex", b"TCP6 2001:db8::1 2001:db8:1::25 2000 1f\r\n"),
    line("port, empty", b"TCP4 192.0.2.10 198.51.100.25  25\r\n"),
    line("port, Arabic digits", b"TCP4 192.0.2.10 198.51.100.25 \xd9\xa3 25\r\n", 37),
    Refused("108 octets", b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", Reason.V1_TOO_LONG, 107),
    Refused("107 octets without CRLF", b"PROXY UNKNOWN " + b"x" * 93, Reason.V1_TOO_LONG, 107),
    Refused("TCP4 that never ends", b"PROXY TCP4 " + b"1" * 200, Reason.V1_TOO_LONG, 107),
    Refused(
        "TCP6 of 108, each field right",
        b"PROXY TCP6 " + (b"0000:" * 5 + b"ffff:255.255.255.255 ") * 2 + b"1 2\r\n",
        Reason.V1_TOO_LONG,
        107,
    ),
]


def damaged_signature(octet: int) -> Refused:
    data = bytearray(binary(0x2111, FOUR))
    data[octet - 1] ^= 0x20
    return Refused(f"signature, octet {octet}", bytes(data), NOT, octet)


def checksummed(name: str, chain: bytes, octets: int = 0x2111) -> Refused:
    return Refused(f"checksum {name}", binary(octets, FOUR + chain), Reason.CRC32C)


V2_REFUSED = [
    *(damaged_signature(octet) for octet in range(1, 13)),
    Refused("version 0", binary(0x0111, FOUR), Reason.V2_VERSION, 13),
    Refused("version 1", binary(0x1111, FOUR), Reason.V2_VERSION, 13),
    Refused("version 3", binary(0x3111, FOUR), Reason.V2_VERSION, 13),
    Refused("version 3, command 2", binary(0x3211, FOUR), Reason.V2_VERSION, 13),
    Refused("command 2", binary(0x2211, FOUR), Reason.V2_COMMAND, 13),
    Refused("command 15", binary(0x2F11, FOUR), Reason.V2_COMMAND, 13),
    Refused("transport 3", binary(0x2113, FOUR), Reason.V2_FAMILY, 14),
    Refused("transport 3 of UNSPEC", binary(0x2103), Reason.V2_FAMILY, 14),
    Refused("family 4", binary(0x2141, FOUR), Reason.V2_FAMILY, 14),
    Refused("family 15", binary(0x21F1, FOUR), Reason.V2_FAMILY, 14),
    Refused("4097", binary(0x2111, FOUR + bytes(4069)), Reason.TOO_LONG, 16),
    Refused("length 0x1000", binary(0x2111, FOUR, 0x1000), Reason.TOO_LONG, 15),
    Refused("length 65535", binary(0x2111, FOUR, 0xFFFF), Reason.TOO_LONG, 15),
    Refused("local, 4097", binary(0x2000, bytes(4081)), Reason.TOO_LONG, 16),
    Refused("inet of 0", binary(0x2111), Reason.V2_TOO_SHORT, 16),
    Refused("inet of 11", binary(0x2111, FOUR[:11]), Reason.V2_TOO_SHORT, 16),
    Refused("inet dgram of 11", binary(0x2112, FOUR[:11]), Reason.V2_TOO_SHORT, 16),
    Refused("inet6 of 35", binary(0x2121, SIX[:35]), Reason.V2_TOO_SHORT, 16),
    Refused("inet6 of an inet block", binary(0x2121, FOUR), Reason.V2_TOO_SHORT, 16),
    Refused("unix of 215", binary(0x2131, bytes(215)), Reason.V2_TOO_SHORT, 16),
    Refused("one stray octet", binary(0x2111, FOUR + b"\4"), Reason.TLV),
    Refused("two stray octets", binary(0x2111, FOUR + tlv(4) + b"\4\0"), Reason.TLV),
    Refused("TLV past the end", binary(0x2111, FOUR + tlv(2, b"mx.example")[:-1]), Reason.TLV),
    Refused("TLV of 65535", binary(0x2121, SIX + b"\xe0\xff\xff"), Reason.TLV),
    Refused("malformed TLVs of UNSPEC", binary(0x2100, b"\1\0"), Reason.TLV),
    Refused("malformed TLVs of UNIX", binary(0x2131, bytes(216) + b"\1\0\1"), Reason.TLV),
    Refused("unique id of 129", binary(0x2111, FOUR + tlv(5, bytes(129))), Reason.UNIQUE_ID),
    Refused("second unique id of 129", binary(0x2111, FOUR + tlv(5) + tlv(5, bytes(129))), Reason.UNIQUE_ID),
    checksummed("wrong", tlv(3, b"\1\2\3\4")),
    checksummed("nought", tlv(3, bytes(4))),
    checksummed("of three octets", tlv(3, bytes(3))),
    checksummed("of five octets", tlv(3, bytes(5))),
    checksummed(
        "of five octets, right but for that",
        b"\3\0\5\0" + crc32c(binary(0x2111, FOUR + b"\3\0\5" + bytes(5))[:-1]).to_bytes(4),
    ),
    checksummed("empty", tlv(3)),
    checksummed("wrong in LOCAL, behind addresses", tlv(3, b"\1\2\3\4"), 0x2011),
    Refused("checksum twice", summed(binary(0x2111, FOUR + tlv(3, bytes(4)) * 2)), Reason.CRC32C),
    Refused("checksum of the AWS health check, one bit off", AWS[:19] + b"\xbd" + AWS[20:], Reason.CRC32C),
    Refused("the AWS health check, one bit off elsewhere", AWS[:-1] + b"\1", Reason.CRC32C),
]

ACCEPTED = [pytest.param(row, id=row.name) for row in V1_ACCEPTED + V2_ACCEPTED]
REFUSED = [pytest.param(row, id=row.name) for row in V1_REFUSED + V2_REFUSED]
BEHIND = [b"EHLO client.example\r\n", b"\r\n", b"\0", LINE, AWS, b"\x16\x03\x01"]


def octets(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def cuts(data: bytes) -> list[list[bytes]]:
    """Every way to cut it in two, the ends of long headers thinly."""
    return [[data[:at], data[at:]] for at in range(1, len(data)) if at < 300 or at % 97 == 0]


@pytest.mark.parametrize("row", ACCEPTED)
def test_header_is_accepted_however_it_is_cut(row: Accepted) -> None:
    size = len(row.data)
    assert feed([row.data]) == Outcome(row.header, b"", size)
    assert feed(octets(row.data)) == Outcome(row.header, b"", size), (
        "it must be complete with its last octet, not before"
    )
    for pieces in cuts(row.data):
        assert feed(pieces) == Outcome(row.header, b"", size)


@pytest.mark.parametrize("row", ACCEPTED)
@pytest.mark.parametrize("behind", BEHIND)
def test_octets_behind_the_header_are_kept_exact(row: Accepted, behind: bytes) -> None:
    stream = row.data + behind
    assert feed([stream])[:2] == (row.header, behind)
    assert feed(octets(stream))[:2] == (row.header, behind)
    for at in (len(row.data) - 1, len(row.data), len(row.data) + 1):
        assert feed([stream[:at], stream[at:]])[:2] == (row.header, behind)


@pytest.mark.parametrize("row", REFUSED)
def test_refusal_comes_with_the_first_wrong_octet_however_it_is_cut(row: Refused) -> None:
    at = len(row.data) if row.at is None else row.at
    assert feed([row.data]).answer is row.reason
    assert feed(octets(row.data)) == Outcome(row.reason, b"", at)
    assert feed([row.data[: at - 1]]).answer is Reason.INCOMPLETE or at == 1
    for pieces in cuts(row.data):
        assert feed(pieces).answer is row.reason


@pytest.mark.parametrize("row", REFUSED)
@pytest.mark.parametrize("behind", BEHIND)
def test_refusal_does_not_depend_on_what_is_behind(row: Refused, behind: bytes) -> None:
    assert feed([row.data + behind]).answer is row.reason


@pytest.mark.parametrize("row", ACCEPTED + REFUSED)
def test_the_recogniser_agrees_and_the_octets_come_back(row: Accepted | Refused) -> None:
    for data in (row.data, row.data + b"EHLO", row.data[:-1], row.data[:16], row.data[1:]):
        check_answer(data)


def test_the_checksum_that_aws_sends_is_the_real_one() -> None:
    assert AWS[19:23].hex() == "bce5951f"
    assert len(AWS) == 16 + 0x54


def test_length_limits_are_those_of_the_specification() -> None:
    sizes = {row.name: len(row.data) for row in V1_ACCEPTED + V2_ACCEPTED}
    assert sizes["tcp4, longest: 56"] == 56
    assert sizes["tcp6, longest of the specification: 104"] == 104
    assert sizes["unknown, longest: 107"] == 107
    assert sizes["inet, longest: 4096"] == 4096


@pytest.mark.parametrize("row", ACCEPTED)
def test_eof_inside_a_header_is_refused(row: Accepted) -> None:
    for at in (1, 5, len(row.data) // 2, len(row.data) - 1):
        assert feed([row.data[:at]]) == Outcome(Reason.INCOMPLETE, b"", at)


def test_untouched_until_the_first_octet() -> None:
    reader = HeaderReader()
    assert reader.untouched
    assert reader.feed(b"") is None
    assert reader.untouched
    reader.feed(b"P")
    assert not reader.untouched


def test_eof_before_any_octet_is_incomplete_and_untouched() -> None:
    reader = HeaderReader()
    with pytest.raises(HeaderError) as caught:
        reader.eof()
    assert caught.value.reason is Reason.INCOMPLETE
    assert reader.untouched


def test_refusal_is_not_untouched() -> None:
    reader = HeaderReader()
    with pytest.raises(HeaderError):
        reader.feed(b"E")
    assert not reader.untouched


def finished(how: bytes | None) -> HeaderReader:
    reader = HeaderReader()
    if how is None:
        with pytest.raises(HeaderError):
            reader.eof()
    elif how == LINE:
        assert reader.feed(how) is not None
    else:
        with pytest.raises(HeaderError):
            reader.feed(how)
    return reader


@pytest.mark.parametrize("how", [LINE, b"EHLO", b"PROXY!", SIGNATURE + b"1", None])
def test_reader_that_has_answered_is_dead(how: bytes | None) -> None:
    with pytest.raises(RuntimeError):
        finished(how).feed(LINE)
    with pytest.raises(RuntimeError):
        finished(how).feed(b"")
    with pytest.raises(RuntimeError):
        finished(how).eof()


@pytest.mark.parametrize(("first", "most"), [(b"PROXY UNKNOWN ", 106), (binary(0x2111, b"", 4080), 4095)])
def test_buffer_is_bounded(first: bytes, most: int) -> None:
    reader = HeaderReader()
    data = first + b"x" * (most - len(first))
    for octet in octets(data):
        assert reader.feed(octet) is None
    assert reader._buffer == data
    with pytest.raises(HeaderError):
        reader.feed(b"x" * 100_000)
    assert len(reader._buffer) == most


def test_refusal_says_what_was_wrong_without_quoting_the_peer() -> None:
    with pytest.raises(HeaderError, match=r"v1_syntax: the line is not what version 1 prescribes") as caught:
        HeaderReader().feed(b"PROXY TCP4 evil\r\n")
    assert caught.value.detail == "the line is not what version 1 prescribes"
    with pytest.raises(HeaderError, match="unique_id: 129 octets; at most 128"):
        HeaderReader().feed(binary(0x2111, FOUR + tlv(5, bytes(129))))


def test_constants_are_those_of_the_parsers() -> None:
    assert v2.SIGNATURE == SIGNATURE
    assert v1.MAX_LINE == 107
