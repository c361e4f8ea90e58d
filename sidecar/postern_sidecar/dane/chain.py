"""Whether the certificates that a server showed are those that TLSA records name (RFC 6698, 7671, 7672 3).

DANE-EE(3) is looked at first and is a matter of octets: names, times, purposes and issuers do not count (RFC 7672
3.1.1); only a key below OpenSSL's security level 1 is refused, as OpenSSL does. DANE-TA(2) is a matter of `path`.

What a peer sends is hostile: certificates behind the first `MAX_CERTIFICATES` are not looked at, more than `MAX_OCTETS`
in all are refused (libssl's own limit of a certificate message, 100 KiB, ends the handshake before), a malformed one
behind the first is passed over, and `path.MAX_STEPS` and `MAX_PATHS` bound the arithmetic. Raises NotAuthenticated.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from .certificate import Certificate, name_key, require_strength
from .path import Search, judge
from .records import CERT, DANE_EE, DANE_TA, FULL, SPKI
from .verdict import Match, NotAuthenticated, Reason

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from postern_sidecar.answers import TLSA
    from postern_sidecar.names import Domain

MAX_CERTIFICATES = 100
MAX_OCTETS = 102_400
MAX_PATHS = 8
"""Ways to an anchor that are judged; cross-signing makes two or three."""


def authenticate(chain: Sequence[bytes], records: Sequence[TLSA], references: Sequence[Domain], now: datetime) -> Match:
    """`chain`: DER as the peer sent it, its own certificate first, the others in any order. `records`: what
    `records.select` considers. `references`: see `names`; of no account to DANE-EE. `now`: with a time zone."""
    if not chain:
        raise NotAuthenticated(Reason.MALFORMED, "no certificate")
    if (octets := sum(map(len, chain))) > MAX_OCTETS:
        raise NotAuthenticated(Reason.MALFORMED, f"{octets} octets of certificates")
    leaf, *others = map(Certificate, chain[:MAX_CERTIFICATES])
    require_strength(leaf.key, "the server's certificate")
    for record in records:
        if record.usage == DANE_EE and leaf.matches(record):
            return Match(record, 0, leaf.name, None)
    anchors = [record for record in records if record.usage == DANE_TA]
    if not anchors:
        raise NotAuthenticated(Reason.TLSA_MISMATCH, "no TLSA record matches the server's certificate")
    return _anchored(leaf, others, anchors, references, now)


def _anchored(
    leaf: Certificate,
    others: Iterable[Certificate],
    records: Sequence[TLSA],
    references: Sequence[Domain],
    now: datetime,
) -> Match:
    search = _search(others, records)
    if not search.anchors and not search.keys:
        detail = "no TLSA record matches the server's certificate or an authority that it sent"
        raise NotAuthenticated(Reason.TLSA_MISMATCH, detail)
    trouble: NotAuthenticated | None = None
    for path in itertools.islice(search.paths((leaf,)), MAX_PATHS):
        try:
            name = judge(path, references, now)
        except NotAuthenticated as error:
            trouble = trouble or error
        else:
            return Match(path.record, path.depth, leaf.name, name)
    detail = "no TLSA record matches an authority that issued the server's certificate"
    raise trouble or search.trouble or NotAuthenticated(Reason.TLSA_MISMATCH, detail)


def _search(others: Iterable[Certificate], records: Sequence[TLSA]) -> Search:
    candidates: dict[Hashable, list[Certificate]] = {}
    anchors: dict[Certificate, TLSA] = {}
    for issuer in dict.fromkeys((*_in_dns(records), *others)):
        try:
            name = name_key(issuer.subject.rdns)
            issuer.issuer, issuer.spki  # noqa: B018  # the search reads them
            record = next(filter(issuer.matches, records), None)
        except NotAuthenticated:
            continue
        candidates.setdefault(name, []).append(issuer)
        if record is not None:
            anchors[issuer] = record
    return Search(candidates, anchors, list(_bare_keys(records)))


def _in_dns(records: Iterable[TLSA]) -> list[Certificate]:
    """RFC 7671 5.2.2: servers need not send what stands in DNS."""
    return [Certificate(record.data) for record in records if (record.selector, record.matching) == (CERT, FULL)]


def _bare_keys(records: Iterable[TLSA]) -> Iterable[tuple[TLSA, PublicKeyTypes]]:
    for record in records:
        if (record.selector, record.matching) == (SPKI, FULL):
            with contextlib.suppress(ValueError, UnsupportedAlgorithm):
                yield record, load_der_public_key(record.data)
