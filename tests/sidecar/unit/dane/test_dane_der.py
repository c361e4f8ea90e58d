"""Where a certificate's key lies, read without judging the rest (RFC 5280 4.1)."""

from __future__ import annotations

import pytest

from certificates import issue, key, sequence
from postern_sidecar.dane.der import subject_public_key_info

FIVE = b"\x02\x01\x00" * 5  # serialNumber to subject, of no importance


@pytest.mark.parametrize("kind", ["EC", "RSA-1024", "RSA-2048", "Ed25519"])
def test_the_key_of_a_certificate(kind: str) -> None:
    made = issue(dns=["mx.example.org"] * 20, key=key(kind))
    assert subject_public_key_info(made.der) == made.spki


@pytest.mark.parametrize("version", [b"", b"\xa0\x03\x02\x01\x02"])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 70_000])
def test_lengths_of_every_form(version: bytes, size: int) -> None:
    spki = sequence(b"x" * size)
    assert subject_public_key_info(sequence(sequence(version, FIVE, spki, b"rest"), b"rest")) == spki


def test_cut_off_anywhere() -> None:
    whole = sequence(sequence(FIVE, sequence(b"key")))
    assert subject_public_key_info(whole) == sequence(b"key")
    for length in range(len(whole)):
        with pytest.raises(ValueError, match=r"certificate|cut off|DER"):
            subject_public_key_info(whole[:length])


@pytest.mark.parametrize(
    "certificate",
    [
        sequence(sequence(FIVE, b"\x30\x7f")),  # longer than what holds it
        sequence(sequence(b"\x02\x80" + bytes(128), FIVE[3:], b"\x30\x00")),  # the indefinite length is not DER
        sequence(sequence(b"\x02\x85\x00\x00\x00\x00\x01\x00", FIVE[3:], b"\x30\x00")),
        sequence(sequence(FIVE, b"\x31\x00")),
        sequence(b"\x31" + sequence(FIVE, b"\x30\x00")[1:]),
        sequence(sequence(FIVE, b"\x30\x00")) + b"\0",
        b"\x31" + sequence(sequence(FIVE, b"\x30\x00"))[1:],
    ],
)
def test_what_is_no_certificate(certificate: bytes) -> None:
    with pytest.raises(ValueError, match=r"certificate|cut off|DER"):
        subject_public_key_info(certificate)
