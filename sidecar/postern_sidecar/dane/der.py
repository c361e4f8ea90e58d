"""Where the parts of a certificate lie, read from its DER without judging it (RFC 5280 4.1).

DANE-EE(3) compares octets; a certificate with an odd serial number or extension that a strict parser refuses still has
octets and a key. Raises ValueError for what is no certificate.
"""

from __future__ import annotations

_SEQUENCE = 0x30
_VERSION = 0xA0  # [0], absent in version 1
_BEFORE_KEY = 5  # serialNumber, signature, issuer, validity, subject


def subject_public_key_info(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo as it stands in the certificate: what selector 1 means (RFC 6698 2.1.2)."""
    start, end = _content(certificate, 0, len(certificate), _SEQUENCE)
    if end != len(certificate):
        raise ValueError("octets behind the certificate")
    at, end = _content(certificate, start, end, _SEQUENCE)
    if certificate[at : at + 1] == bytes([_VERSION]):
        at = _content(certificate, at, end)[1]
    for _ in range(_BEFORE_KEY):
        at = _content(certificate, at, end)[1]
    return certificate[at : _content(certificate, at, end, _SEQUENCE)[1]]


def _content(data: bytes, at: int, limit: int, tag: int | None = None) -> tuple[int, int]:
    """Where the content of the element at `at` begins and ends."""
    if at + 2 > limit or (tag is not None and data[at] != tag):
        raise ValueError("is not a certificate")
    first = data[at + 1]
    size = first & 0x7F if first & 0x80 else 0
    if size > 4 or first == 0x80:
        raise ValueError("a length that DER does not have")
    start = at + 2 + size
    end = start + (int.from_bytes(data[at + 2 : start]) if size else first)
    if end > limit:
        raise ValueError("is cut off")
    return start, end
