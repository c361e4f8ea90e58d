"""Which TLSA records count (RFC 6698 2.1, RFC 7671 9, RFC 7672 3.1).

Usages 0 and 1 mean nothing in SMTP (RFC 7672 3.1.3); a record that cannot match whatever the server shows is unusable,
and unusable records count as if they were not there, except that their RRset makes TLS mandatory. Of the usable ones
digest agility keeps, for each (usage, selector), those of the strongest digest and every Full(0).

At most `MAX_RECORDS` usable records of an RRset are kept, as they come; a record beyond them is like one that does not
match: mail is deferred where only that one would, and nothing is trusted that should not be. A DNS message has room for
some 1,400; nobody publishes more than a dozen. Duplicates are dropped. Never raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from postern_sidecar.config.model import Digest

from .certificate import parsed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from postern_sidecar.answers import TLSA

DANE_TA, DANE_EE = 2, 3
CERT, SPKI = 0, 1
FULL = 0
MAX_RECORDS = 64
_MATCHING = {Digest.SHA2_256: 1, Digest.SHA2_512: 2}
_LENGTHS = {1: 32, 2: 64}


@dataclass(frozen=True, slots=True)
class Selection:
    """`considered`: what a certificate may match, in an order that does not depend on how DNS shuffled them: DANE-EE
    first, and OpenSSL's beyond that. `usable`: these, and those that a stronger digest outranks.
    `dropped`: the unusable, outranked and surplus ones, each with the reason, MAX_RECORDS of them at most. `usage`:
    tls_out_tlsa_usage, the OR of 1 << usage over `usable`."""

    considered: tuple[TLSA, ...]
    usable: tuple[TLSA, ...]
    dropped: tuple[tuple[TLSA, str], ...]
    usage: int


def select(records: Iterable[TLSA], digests: Sequence[Digest]) -> Selection:
    """`digests`: those that count, strongest first (RFC 7671 9); a record of another is unusable."""
    strength = {_MATCHING[digest]: -place for place, digest in enumerate(digests)}
    usable: dict[TLSA, None] = {}
    dropped: list[tuple[TLSA, str]] = []
    for record in records:
        if record in usable:
            continue
        if len(usable) == MAX_RECORDS:
            why = f"more than {MAX_RECORDS} usable records"
        elif not (why := _unusable(record, strength)):
            usable[record] = None
            continue
        if len(dropped) < MAX_RECORDS:
            dropped.append((record, why))
    order = sorted(usable, key=lambda each: (-each.usage, -each.selector, -strength.get(each.matching, -9), each.data))
    considered, outranked = _agile(order, strength)
    return Selection(
        considered=considered,
        usable=tuple(order),
        dropped=(*dropped, *((record, "a stronger digest is published") for record in outranked))[:MAX_RECORDS],
        usage=_bits(usable),
    )


def _agile(usable: Iterable[TLSA], strength: dict[int, int]) -> tuple[tuple[TLSA, ...], tuple[TLSA, ...]]:
    """The ones that count and the outranked ones. A record outranks another even if they name different certificates:
    whoever publishes a digest publishes it of everything (RFC 7671 9)."""
    best: dict[tuple[int, int], int] = {}
    for record in usable:
        if record.matching != FULL:
            group = record.usage, record.selector
            best[group] = max(strength[record.matching], best.get(group, strength[record.matching]))
    considered: list[TLSA] = []
    outranked: list[TLSA] = []
    for record in usable:
        counts = record.matching == FULL or strength[record.matching] == best[record.usage, record.selector]
        (considered if counts else outranked).append(record)
    return tuple(considered), tuple(outranked)


def _bits(records: Iterable[TLSA]) -> int:
    bits = 0
    for record in records:
        bits |= 1 << record.usage
    return bits


def _unusable(record: TLSA, strength: dict[int, int]) -> str:
    """Why, or ""."""
    if record.usage not in (DANE_TA, DANE_EE):
        return f"usage {record.usage} is not for SMTP" if record.usage < 2 else f"unknown usage {record.usage}"
    if record.selector not in (CERT, SPKI):
        return f"unknown selector {record.selector}"
    if record.matching == FULL:
        return _not_whole(record)
    if record.matching not in strength:
        return f"matching type {record.matching} is unknown or off"
    if len(record.data) != _LENGTHS[record.matching]:
        return f"a digest of {len(record.data)} octets"
    return ""


def _not_whole(record: TLSA) -> str:
    """A record of the thing itself that is not one can never match; OpenSSL and Postfix call it unusable."""
    try:
        if record.selector == CERT:
            parsed(record.data)
        else:
            load_der_public_key(record.data)
    except (ValueError, UnsupportedAlgorithm):
        return f"is not a whole {'certificate' if record.selector == CERT else 'public key'} in DER"
    return ""
