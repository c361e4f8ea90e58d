"""Trust anchors as zone files have them: DS (RFC 4034 5.3, 4509, 6605) and DNSKEY (RFC 4034 2.2) lines.

`parse` takes one line, owner first, and gives its parts back in one spelling that can be put into another program's
configuration: names are A-labels with the final dot, numbers, hexadecimal or base64, and nothing else. An anchor that a
validator does not understand counts as none and leaves its zone insecure (RFC 4035 5.2), so an algorithm or a digest
that not every validator takes is refused here (RFC 8624 3.1, 3.3). Raises ValueError: what is wrong, what would be
right.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass

from postern_sidecar.names import Domain, domain

from .problems import shown

REMEDY = "write a DS or DNSKEY line as a zone file has it, such as . IN DS 20326 8 2 E06D44B8..."
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)
_LINE = re.compile(r"[!-~]+(?:[ \t]+[!-~]+)*", re.ASCII)
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+", re.ASCII)
_ALGORITHMS = {
    8: "RSASHA256",
    10: "RSASHA512",
    13: "ECDSAP256SHA256",
    14: "ECDSAP384SHA384",
    15: "ED25519",
    16: "ED448",
}
_KEY_OCTETS = {13: 64, 14: 96, 15: 32, 16: 57}
_LEAST_RSA_KEY = 64  # RFC 5702 2.1: 512 bits
_DIGEST_OCTETS = {2: 32, 4: 48}
_ZONE_KEY = (256, 257)  # the Zone Key bit, with or without SEP; not revoked (RFC 4034 2.1.1, RFC 5011 7)
_DS_FIELDS = _DNSKEY_FIELDS = 3


@dataclass(frozen=True, slots=True)
class TrustAnchor:
    """`str()` is the line to configure a validator with."""

    owner: Domain
    kind: str
    data: str

    def __str__(self) -> str:
        return f"{self.owner}. IN {self.kind} {self.data}"


def parse(text: str) -> TrustAnchor:
    words = text.split() if _LINE.fullmatch(text) else []
    try:
        owner = domain(words[0])
    except (IndexError, ValueError):
        raise ValueError(f"{shown(text)} does not begin with a zone's name; {REMEDY}") from None
    kind, fields = _after_ttl_and_class(words[1:])
    if kind == "DS" and len(fields) > _DS_FIELDS:
        return TrustAnchor(owner, kind, _ds(fields))
    if kind == "DNSKEY" and len(fields) > _DNSKEY_FIELDS:
        return TrustAnchor(owner, kind, _dnskey(fields))
    raise ValueError(f"{shown(text)} is no trust anchor; {REMEDY}")


def _after_ttl_and_class(words: list[str]) -> tuple[str, list[str]]:
    """Both may be left out, and stand in any order (RFC 1035 5.1)."""
    ttl = classed = False
    for index, word in enumerate(words):
        if word.upper() == "IN" and not classed:
            classed = True
        elif _NUMBER.fullmatch(word) and not ttl:
            ttl = True
        else:
            return word.upper(), words[index + 1 :]
    return "", []


def _ds(fields: list[str]) -> str:
    tag, algorithm, digest_type = _number(fields[0], "key tag", 65535), _algorithm(fields[1]), _number(fields[2])
    digest = "".join(fields[3:])
    if digest_type not in _DIGEST_OCTETS:
        raise ValueError(f"has digest type {digest_type}; take the DS record of type 2, SHA-256, or 4, SHA-384")
    octets = _DIGEST_OCTETS[digest_type]
    if not _HEX.fullmatch(digest) or len(digest) != 2 * octets:
        raise ValueError(f"{shown(digest)} is no digest of type {digest_type}; write {2 * octets} hexadecimal digits")
    return f"{tag} {algorithm} {digest_type} {digest.upper()}"


def _dnskey(fields: list[str]) -> str:
    flags, protocol, algorithm = (
        _number(fields[0], "flags", 65535),
        _number(fields[1], "protocol"),
        _algorithm(fields[2]),
    )
    if flags not in _ZONE_KEY:
        raise ValueError(f"has the flags {flags}; take the zone's DNSKEY with 257, its key-signing key")
    if protocol != 3:  # RFC 4034 2.1.2
        raise ValueError(f"has the protocol {protocol}; it is 3 in every DNSKEY")
    text = "".join(fields[3:])
    try:
        key = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise ValueError(f"{shown(text)} is no key; write it in base64, as the zone has it") from None
    right = len(key) == _KEY_OCTETS[algorithm] if algorithm in _KEY_OCTETS else len(key) > _LEAST_RSA_KEY
    if not right:
        raise ValueError(f"has a key of {len(key)} octets, too few or too many for {_ALGORITHMS[algorithm]}; {REMEDY}")
    return f"{flags} {protocol} {algorithm} {text}"


def _number(text: str, name: str = "digest type", most: int = 255) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > most:
        raise ValueError(f"{shown(text)} is no {name}; {REMEDY}")
    return int(text)


def _algorithm(text: str) -> int:
    number = {name: number for number, name in _ALGORITHMS.items()}.get(text.upper()) or _number(text, "algorithm")
    if number not in _ALGORITHMS:
        known = ", ".join(f"{number} ({name})" for number, name in _ALGORITHMS.items())
        raise ValueError(f"has algorithm {number}, which not every validator takes; known here: {known}")
    return number
