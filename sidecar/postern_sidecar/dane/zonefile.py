"""TLSA records as an administrator meets them: made from a certificate, written for a zone, compared with a server.

`review` says what RFC 7671 8 and RFC 7672 3 ask of a publisher: records that match nothing are right while keys are
rolled over, but one set of parameters must match now; which records break when the certificate is renewed; which times
count. It refuses to know how the records and the chain were come by. Raises ValueError for files.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from postern_sidecar.answers import TLSA
from postern_sidecar.config.model import Digest

from .certificate import HASHES, Certificate
from .chain import MAX_CERTIFICATES, authenticate
from .der import subject_public_key_info
from .records import CERT, DANE_EE, DANE_TA, FULL, SPKI, select
from .verdict import NotAuthenticated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from postern_sidecar.names import Domain

SOON = timedelta(days=14)
"""A renewal that did not happen by now will not: Let's Encrypt's tools renew 30 days before."""
_DIGESTS = (Digest.SHA2_512, Digest.SHA2_256)


class Severity(enum.Enum):
    OK = "ok"
    NOTE = "note"  # works, and worth knowing
    WARNING = "warning"  # works today
    ERROR = "error"  # mail with DANE does not arrive


@dataclass(frozen=True, slots=True)
class Finding:
    severity: Severity
    text: str


def certificates(pem: bytes) -> tuple[bytes, ...]:
    """DER of the certificates in a PEM file, in its order; keys and comments between them are passed over."""
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ValueError("is not PEM with a certificate in it (-----BEGIN CERTIFICATE-----)") from None
    return tuple(each.public_bytes(Encoding.DER) for each in found)


def record(certificate: bytes, usage: int = DANE_EE, selector: int = SPKI, matching: int = 1) -> TLSA:
    """The TLSA record of a certificate in DER (RFC 6698 2.1)."""
    if usage not in (DANE_TA, DANE_EE):
        raise ValueError("usage is 3 (DANE-EE) or 2 (DANE-TA): SMTP knows no other (RFC 7672 3.1.3)")
    if selector not in (CERT, SPKI):
        raise ValueError("selector is 1 (the key) or 0 (the whole certificate)")
    if matching != FULL and matching not in HASHES:
        raise ValueError("matching is 1 (SHA2-256), 2 (SHA2-512) or 0 (the thing itself)")
    data = certificate if selector == CERT else subject_public_key_info(certificate)
    return TLSA(usage, selector, matching, hashlib.new(HASHES[matching], data).digest() if matching else data)


def line(name: str, tlsa: TLSA) -> str:
    """For a zone file (RFC 6698 2.2)."""
    return f"{name.removesuffix('.')}. IN TLSA {tlsa}"


def review(
    published: Sequence[TLSA],
    shown: Sequence[bytes],
    references: Sequence[Domain],
    now: datetime,
    digests: Sequence[Digest] = _DIGESTS,
) -> list[Finding]:
    """What DNS publishes for a host, held against the chain that its server shows. The first finding is the verdict."""
    selection = select(published, digests)
    findings = [*_verdict(selection.considered, shown, references, now)]
    chain = [Certificate(der) for der in shown[:MAX_CERTIFICATES]]
    findings += (Finding(Severity.WARNING, f"{_short(record)}: {why}") for record, why in selection.dropped)
    findings += _agility(selection.usable, chain)
    for each in selection.considered:
        findings += _roll_over(each, chain, now)
    return findings


def _verdict(
    records: Sequence[TLSA], shown: Sequence[bytes], references: Sequence[Domain], now: datetime
) -> Iterator[Finding]:
    if not records:
        yield Finding(Severity.ERROR, "no usable TLSA record: senders use TLS and authenticate nobody")
        return
    try:
        match = authenticate(shown, records, references, now)
    except NotAuthenticated as error:
        yield Finding(Severity.ERROR, f"mismatch: {error}")
        return
    known_as = f", as {match.name}" if match.name else ""
    yield Finding(Severity.OK, f"match: {_short(match.record)} at depth {match.depth} ({match.subject}{known_as})")


def _agility(records: Iterable[TLSA], chain: Sequence[Certificate]) -> Iterator[Finding]:
    """RFC 7671 9: senders look at one digest of each (usage, selector); whoever publishes two publishes both of
    everything."""
    by_group: dict[tuple[int, int], dict[int, set[int]]] = {}
    for each in records:
        if each.matching != FULL:
            stands_for = {number for number, shown in enumerate(chain) if _matches(shown, each)}
            group = by_group.setdefault((each.usage, each.selector), {})
            group.setdefault(each.matching, set()).update(stands_for)
    for (usage, selector), stands_for_by_digest in by_group.items():
        if len({frozenset(numbers) for numbers in stands_for_by_digest.values()}) > 1:
            text = f"{usage} {selector} 1 and {usage} {selector} 2 stand for different certificates: some senders look"
            yield Finding(Severity.WARNING, f"{text} only at the one, others only at the other (RFC 7671 9)")


def _roll_over(tlsa: TLSA, chain: Sequence[Certificate], now: datetime) -> Iterator[Finding]:
    """What will become of a record's match, or why it has none."""
    about = [shown for shown in (chain[:1] if tlsa.usage == DANE_EE else chain[1:]) if _matches(shown, tlsa)]
    if not about:
        yield _idle(tlsa, chain)
        return
    if tlsa.selector == CERT and tlsa.usage == DANE_EE:
        yield Finding(
            Severity.WARNING,
            f"{_short(tlsa)} changes with every renewal of the certificate, even with the same key: publish the next "
            f"one before, or use {tlsa.usage} 1 1 and keep the key (RFC 7671 5.1, 8.1)",
        )
    elif tlsa.selector == CERT:
        yield Finding(
            Severity.NOTE,
            f"{_short(tlsa)} changes when the authority's certificate is replaced, even with the same key (RFC 7671 8)",
        )
    if tlsa.usage == DANE_TA:
        for shown in (chain[0], *about):
            yield from _expiry(shown, now, Severity.WARNING, "mail with DANE stops then")
    else:
        yield from _expiry(chain[0], now, Severity.NOTE, "senders with DANE-EE do not mind (RFC 7672 3.1.1)")


def _idle(tlsa: TLSA, chain: Sequence[Certificate]) -> Finding:
    """Records of the next key are published before it is used (RFC 7671 8.1)."""
    if tlsa.usage == DANE_EE and any(_matches(shown, tlsa) for shown in chain[1:]):
        return Finding(Severity.WARNING, f"{_short(tlsa)} is of an authority: that is usage 2 (RFC 7671 5.1)")
    if tlsa.usage == DANE_TA and chain and _matches(chain[0], tlsa):
        return Finding(Severity.WARNING, f"{_short(tlsa)} is of the server's own certificate: that is usage 3")
    if tlsa.usage == DANE_TA and tlsa.matching == FULL:
        return Finding(Severity.NOTE, f"{_short(tlsa)} is not sent by the server; senders may not look for it in DNS")
    if tlsa.usage == DANE_TA:
        why = "matches no authority that the server sends: a digest of one that is not sent never can (RFC 7671 5.2.1)"
        return Finding(Severity.NOTE, f"{_short(tlsa)} {why}; right for one to come")
    return Finding(Severity.NOTE, f"{_short(tlsa)} matches nothing now; right for a key to come (RFC 7671 8.1)")


def _expiry(certificate: Certificate, now: datetime, severity: Severity, so: str) -> Iterator[Finding]:
    """Only ahead: what is expired now is the verdict's."""
    try:
        until = certificate.parsed.not_valid_after_utc
    except NotAuthenticated:
        return
    if until <= now + SOON:
        when = "expired" if until < now else "expires"
        yield Finding(severity, f"{certificate.name} {when} on {until:%Y-%m-%d}: {so}")


def _matches(certificate: Certificate, tlsa: TLSA) -> bool:
    try:
        return certificate.matches(tlsa)
    except NotAuthenticated:
        return False


def _short(tlsa: TLSA) -> str:
    text = str(tlsa)
    return text if len(text) <= 24 else f"{text[:22]}..."
