"""What TLVs say, and under which names; no value of a load balancer becomes more than printable, bounded text."""

from __future__ import annotations

import hashlib

import pytest

from postern_sidecar.proxyproto import tlv
from postern_sidecar.proxyproto.chain import split
from postern_sidecar.proxyproto.header import Command, Family, Header, Transport
from postern_sidecar.proxyproto.reader import HeaderReader
from postern_sidecar.proxyproto.tls import ClientTLS
from postern_sidecar.proxyproto.tlv import TLVs
from postern_sidecar.proxyproto.writer import encode

NOBODY = Header(2, Command.PROXY, Family.UNSPEC, Transport.UNSPEC)


def one(kind: int, value: bytes = b"") -> bytes:
    return bytes([kind]) + len(value).to_bytes(2) + value


def ssl(*subs: bytes, client: int = 0x07, verify: int = 0) -> bytes:
    return one(0x20, bytes([client]) + verify.to_bytes(4) + b"".join(subs))


def received(*chain: bytes) -> Header:
    """The header as the reader gives it, so that nothing is tested here that the reader refuses."""
    found = HeaderReader().feed(
        encode(Header(2, NOBODY.command, NOBODY.family, NOBODY.transport, tlvs=b"".join(chain)))
    )
    assert found is not None
    return found[0]


VPCE = b"\x01vpce-08d2bf15fac5001c9"

READ = [
    ("nothing", [], TLVs()),
    ("alpn", [one(1, b"smtp")], TLVs(alpn=b"smtp")),
    ("authority", [one(2, b"mx.example")], TLVs(authority=b"mx.example")),
    ("authority, empty", [one(2)], TLVs(authority=b"")),
    ("authority of 255", [one(2, b"a" * 255)], TLVs(authority=b"a" * 255)),
    ("authority of 256 is dropped", [one(2, b"a" * 256), one(1, b"smtp")], TLVs(alpn=b"smtp")),
    ("noop", [one(4, b"padding"), one(4)], TLVs()),
    ("unique id", [one(5, bytes(range(128)))], TLVs(unique_id=bytes(range(128)))),
    ("netns", [one(0x30, b"ns1")], TLVs(netns=b"ns1")),
    ("twice is dropped", [one(2, b"a.example"), one(1, b"smtp"), one(2, b"b.example")], TLVs(alpn=b"smtp")),
    ("twice the same is dropped too", [one(0x30, b"ns1")] * 2, TLVs()),
    ("aws", [one(0xEA, VPCE)], TLVs(aws_vpce_id=VPCE[1:])),
    ("aws, empty id", [one(0xEA, b"\x01")], TLVs(aws_vpce_id=b"")),
    ("aws, another subtype", [one(0xEA, b"\x02vpce")], TLVs(other=((0xEA, b"\x02vpce"),))),
    ("aws, not an id", [one(0xEA, b"\x01vpce\n")], TLVs(other=((0xEA, b"\x01vpce\n"),))),
    ("aws, nothing in it", [one(0xEA)], TLVs(other=((0xEA, b""),))),
    (
        "aws, two subtypes",
        [one(0xEA, b"\x02x"), one(0xEA, VPCE)],
        TLVs(aws_vpce_id=VPCE[1:], other=((0xEA, b"\x02x"),)),
    ),
    ("aws, twice", [one(0xEA, VPCE), one(0xEA, VPCE)], TLVs()),
    ("azure: little endian", [one(0xEE, b"\x01\x78\x56\x34\x12")], TLVs(azure_link_id=0x12345678)),
    ("azure, another subtype", [one(0xEE, b"\x02\0\0\0\1")], TLVs(other=((0xEE, b"\x02\0\0\0\1"),))),
    ("azure, too long", [one(0xEE, b"\x01\0\0\0\0\0")], TLVs(other=((0xEE, b"\x01\0\0\0\0\0"),))),
    ("azure, nothing in it", [one(0xEE)], TLVs(other=((0xEE, b""),))),
    ("gcp: big endian", [one(0xE0, bytes(range(8)))], TLVs(gcp_psc_id=0x0001020304050607)),
    ("gcp, too short", [one(0xE0, bytes(7))], TLVs(other=((0xE0, bytes(7)),))),
    ("unknown", [one(0xE1, b"x"), one(0x06), one(0xE1, b"y")], TLVs(other=((0xE1, b"x"), (0xE1, b"y"), (0x06, b"")))),
    ("ssl, bare", [ssl()], TLVs(client_tls=ClientTLS(7, 0))),
    (
        "ssl, all of it",
        [ssl(*(one(kind, b"%x" % kind) for kind in range(0x21, 0x29)), client=1, verify=0x01020304)],
        TLVs(client_tls=ClientTLS(1, 0x01020304, b"21", b"22", b"23", b"24", b"25", b"26", b"27", b"28")),
    ),
    (
        "ssl: a nested 0x02 is not AUTHORITY",
        [one(2, b"mx.example"), ssl(one(2, b"evil.example"), one(1, b"evil"), one(0xEA, VPCE))],
        TLVs(authority=b"mx.example", client_tls=ClientTLS(7, 0)),
    ),
    ("a 0x22 outside ssl is not a common name", [one(0x22, b"cn")], TLVs(other=((0x22, b"cn"),))),
    (
        "ssl, a sub-TLV twice",
        [ssl(one(0x22, b"a"), one(0x21, b"TLSv1.3"), one(0x22, b"b"))],
        TLVs(client_tls=ClientTLS(7, 0, version=b"TLSv1.3")),
    ),
    ("ssl, nothing in it", [one(0x20)], TLVs()),
    ("ssl of 4 octets", [one(0x20, bytes(4)), one(1, b"smtp")], TLVs(alpn=b"smtp")),
    ("ssl, stray octets", [one(0x20, bytes(5) + b"\x21\0")], TLVs()),
    ("ssl, sub-TLV past its end", [one(0x20, bytes(5) + b"\x22\0\x05abcd"), one(1, b"smtp")], TLVs(alpn=b"smtp")),
    ("ssl twice", [ssl(), ssl()], TLVs()),
]


@pytest.mark.parametrize(("chain", "expected"), [pytest.param(*row[1:], id=row[0]) for row in READ])
def test_read(chain: list[bytes], expected: TLVs) -> None:
    assert tlv.read(received(*chain)) == expected


def test_checksum_is_the_readers_and_not_a_value() -> None:
    found = HeaderReader().feed(encode(received(one(1, b"smtp")), crc32c=True))
    assert found is not None
    assert tlv.read(found[0]) == TLVs(alpn=b"smtp")
    assert tlv.variables(found[0]) == {"proxy_tlv_alpn": "smtp"}


@pytest.mark.parametrize(
    ("client", "verify", "used", "verified"),
    [
        (0x00, 0, False, False),
        (0x01, 0, True, False),  # 0 without a certificate proves nothing
        (0x01, 1, True, False),
        (0x03, 0, True, True),
        (0x05, 0, True, True),
        (0x07, 0, True, True),
        (0x07, 1, True, False),
        (0x07, 0x01000000, True, False),
        (0x06, 0, False, False),
        (0xF8, 0, False, False),
    ],
)
def test_verified_needs_tls_a_certificate_and_success(client: int, verify: int, used: bool, verified: bool) -> None:
    values = tlv.variables(received(ssl(client=client, verify=verify)))
    assert values == {"proxy_tls": used, "proxy_tls_verified": verified}


ALL = {
    "proxy_authority": "mx.example",
    "proxy_tls": True,
    "proxy_tls_verified": True,
    "proxy_tls_version": "TLSv1.3",
    "proxy_tls_cipher": "TLS_AES_256_GCM_SHA384",
    "proxy_tls_cn": "client.example",
    "proxy_tls_sig_alg": "SHA256",
    "proxy_tls_key_alg": "RSA2048",
    "proxy_tls_group": "x25519",
    "proxy_tls_sig_scheme": "rsa_pss_rsae_sha256",
    "proxy_tls_client_cert_sha256": hashlib.sha256(b"DER").hexdigest(),
    "proxy_tlv_alpn": "smtp",
    "proxy_tlv_unique_id": "00ff5c",
    "proxy_tlv_netns": "ns1",
    "proxy_tlv_aws_vpce_id": "vpce-08d2bf15fac5001c9",
    "proxy_tlv_azure_link_id": 0xFFFFFFFF,
    "proxy_tlv_gcp_psc_id": "18446744073709551615",
}


def everything() -> Header:
    return received(
        one(2, b"mx.example"),
        ssl(
            one(0x21, b"TLSv1.3"),
            one(0x22, b"client.example"),
            one(0x23, b"TLS_AES_256_GCM_SHA384"),
            one(0x24, b"SHA256"),
            one(0x25, b"RSA2048"),
            one(0x26, b"x25519"),
            one(0x27, b"rsa_pss_rsae_sha256"),
            one(0x28, b"DER"),
        ),
        one(1, b"smtp"),
        one(5, b"\x00\xff\\"),
        one(0x30, b"ns1"),
        one(0xEA, VPCE),
        one(0xEE, b"\x01\xff\xff\xff\xff"),
        one(0xE0, b"\xff" * 8),
    )


def test_variables() -> None:
    assert tlv.variables(everything()) == ALL


def test_the_closed_list_has_every_name_with_its_type() -> None:
    assert {name: type(value) for name, value in ALL.items()} == tlv.VARIABLES


def test_variables_without_value_are_left_out() -> None:
    assert tlv.variables(NOBODY) == {}
    assert tlv.variables(received(one(5))) == {"proxy_tlv_unique_id": ""}


def test_unknown_types_by_number_and_never_in_place_of_a_name() -> None:
    values = tlv.variables(received(one(0xE1, b"\x01x"), one(0x06), one(0xE1, b"yz"), one(0xEA, b"\x09")))
    assert values == {"proxy_tlv_0xe1": "0178,797a", "proxy_tlv_0x06": "", "proxy_tlv_0xea": "09"}
    assert not values.keys() & tlv.VARIABLES.keys()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"plain ~!", "plain ~!"),
        (b"a\r\nb", "a\\x0d\\x0ab"),
        (b"\0\x1f\x7f\xff", "\\x00\\x1f\\x7f\\xff"),
        ("mé.example".encode(), "m\\xc3\\xa9.example"),
        (b"\\x41", "\\x5cx41"),
        (b"a" * 255, "a" * 255),
        (b"\n" * 255, "\\x0a" * 64),
        (b"a" + b"\n" * 200, "a" + "\\x0a" * 63),
        (b"ab" + b"\n" * 200, "ab" + "\\x0a" * 63),
        (b"abc" + b"\n" * 200, "abc" + "\\x0a" * 63),
        (b"abcd" + b"\n" * 200, "abcd" + "\\x0a" * 63),
    ],
)
def test_values_are_printable_and_bounded(value: bytes, text: str) -> None:
    assert tlv.variables(received(one(2, value))) == {"proxy_authority": text}
    assert len(text) <= tlv.MAX_VALUE


def test_long_values_are_cut() -> None:
    values = tlv.variables(
        received(one(0x30, b"n" * 1000), one(0xE1, b"x" * 1000), one(0xE1, b"y"), one(5, bytes(128)))
    )
    assert {name: len(str(value)) for name, value in values.items()} == {
        "proxy_tlv_netns": tlv.MAX_VALUE,
        "proxy_tlv_0xe1": tlv.MAX_VALUE,
        "proxy_tlv_unique_id": 256,
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\1", "1 stray octets"),
        (b"\1\0", "2 stray octets"),
        (b"\1\0\1", "TLV 0x01 runs 1 octets past the end"),
        (b"\4\0\0\xea\1\0", "TLV 0xea runs 256 octets past the end"),
    ],
)
def test_what_is_not_a_chain(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split(data)
