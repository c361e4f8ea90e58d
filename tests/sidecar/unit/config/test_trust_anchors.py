"""Trust anchors: the lines that zones have, the one spelling that comes out, and what no validator should be given."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postern_sidecar.config.trust_anchors import parse

SHA256 = "E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D"
SHA384 = SHA256 + SHA256[:32]
P256 = base64.b64encode(bytes(range(64))).decode()


def key(octets: int) -> str:
    return base64.b64encode(bytes(octets)).decode()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f". IN DS 20326 8 2 {SHA256}", f". IN DS 20326 8 2 {SHA256}"),
        (f". 172800 IN DS 20326 8 2 {SHA256.lower()}", f". IN DS 20326 8 2 {SHA256}"),
        (f". in 172800 ds 20326 RSASHA256 2 {SHA256}", f". IN DS 20326 8 2 {SHA256}"),
        (f". 172800 DS 020326 8 2 {SHA256}", f". IN DS 20326 8 2 {SHA256}"),
        (f"Corp.Example\tDS  1 13 2 {SHA256[:20]} {SHA256[20:]}", f"corp.example. IN DS 1 13 2 {SHA256}"),
        (f"bücher.example. IN DS 1 13 2 {SHA256}", None),  # a zone file has A-labels
        (f"corp.example. IN DS 1 16 4 {SHA384}", f"corp.example. IN DS 1 16 4 {SHA384}"),
        (f"corp.example. IN DNSKEY 257 3 13 {P256}", f"corp.example. IN DNSKEY 257 3 13 {P256}"),
        (
            f"corp.example. DNSKEY 256 3 ecdsap256sha256 {P256[:9]} {P256[9:]}",
            f"corp.example. IN DNSKEY 256 3 13 {P256}",
        ),
        *(
            (f"x. IN DNSKEY 257 3 {number} {key(octets)}", f"x. IN DNSKEY 257 3 {number} {key(octets)}")
            for number, octets in ((8, 65), (8, 513), (10, 260), (14, 96), (15, 32), (16, 57))
        ),
    ],
)
def test_lines(text: str, line: str | None) -> None:
    if line is None:
        with pytest.raises(ValueError, match="does not begin with a zone's name"):
            parse(text)
    else:
        assert str(parse(text)) == line
        assert parse(line) == parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with a zone's name"),
        ("a..b. IN DS 1 8 2 00", "does not begin with a zone's name"),
        (".", "is no trust anchor"),
        (". IN", "is no trust anchor"),
        (". IN DS 1 8 2", "is no trust anchor"),
        (f". IN IN DS 1 8 2 {SHA256}", "is no trust anchor"),
        (f". 1 2 DS 1 8 2 {SHA256}", "is no trust anchor"),
        (f". CH DS 1 8 2 {SHA256}", "is no trust anchor"),
        (". IN A 192.0.2.1 1 1 1", "is no trust anchor"),
        (". IN DNSKEY 257 3 8", "is no trust anchor"),
        (f"IN DS 1 8 2 {SHA256[:-2]}", "is no digest of type 2; write 64 hexadecimal digits"),
        (f". IN DS 65536 8 2 {SHA256}", "'65536' is no key tag"),
        (f". IN DS -1 8 2 {SHA256}", "'-1' is no key tag"),
        (f". IN DS 1 256 2 {SHA256}", "'256' is no algorithm"),
        (f". IN DS 1 NONE 2 {SHA256}", "'NONE' is no algorithm"),
        (
            f". IN DS 1 5 2 {SHA256}",
            "has algorithm 5, which not every validator takes; known here: 8 \\(RSASHA256\\), 10",
        ),
        (f". IN DS 1 8 x {SHA256}", "'x' is no digest type"),
        (f". IN DS 1 8 1 {SHA256[:40]}", "has digest type 1; take the DS record of type 2, SHA-256, or 4, SHA-384"),
        (f". IN DS 1 8 3 {SHA256}", "has digest type 3"),
        (f". IN DS 1 8 2 {SHA256}00", "is no digest of type 2; write 64 hexadecimal digits"),
        (f". IN DS 1 8 4 {SHA256}", "is no digest of type 4; write 96 hexadecimal digits"),
        (f". IN DS 1 8 2 {SHA256[:-1]}G", "is no digest of type 2"),
        (f". IN DNSKEY 0 3 13 {P256}", "has the flags 0; take the zone's DNSKEY with 257"),
        (f". IN DNSKEY 385 3 13 {P256}", "has the flags 385; take"),  # revoked
        (f". IN DNSKEY 257 2 13 {P256}", "has the protocol 2; it is 3 in every DNSKEY"),
        (f". IN DNSKEY 257 3 5 {P256}", "has algorithm 5"),
        (f". IN DNSKEY 257 3 13 {P256[:-1]}", "is no key; write it in base64"),
        (f". IN DNSKEY 257 3 13 {P256}!", "is no key"),
        (f". IN DNSKEY 257 3 13 {key(63)}", "has a key of 63 octets, too few or too many for ECDSAP256SHA256"),
        (f". IN DNSKEY 257 3 8 {key(64)}", "has a key of 64 octets"),
        (f". IN DS 1 8 2 {SHA256}\n", "does not begin"),
        (f'. IN DS 1 8 2 {SHA256}"\nserver: do-not-query-localhost: no', "does not begin"),
        (f". IN DS 1 8 2 {SHA256} ; a comment", "is no digest"),
        (f". IN DS 1 8 2 ( {SHA256} )", "is no digest"),
        (f'"." IN DS 1 8 2 {SHA256}', "does not begin"),
        (f". IN DS 1 8 2 \u00a0{SHA256}", "does not begin"),
    ],
)
def test_no_lines(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse(text)
    assert "; " in str(caught.value)


_WORDS = st.sampled_from(
    [
        ".",
        "a.",
        "IN",
        "DS",
        "DNSKEY",
        "1",
        "2",
        "3",
        "8",
        "13",
        "257",
        SHA256,
        P256,
        "\n",
        '"',
        "(",
        ";",
        "x",
        "\t",
        "\0",
    ]
)


@given(st.lists(_WORDS, max_size=9).map(" ".join) | st.text(max_size=40))
def test_what_comes_out_fits_into_a_quoted_line(text: str) -> None:
    try:
        line = str(parse(text))
    except ValueError as problem:
        assert "; " in str(problem)  # noqa: PT017
        assert len(str(problem)) < 300  # noqa: PT017
    else:
        assert set(line) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/=._- ")
