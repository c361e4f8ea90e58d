"""How far one host is known: its addresses, and the TLSA records that count for it (RFC 7672 2.2.2, 2.2.3).

    host(name, port) -> HostFacts      asks A and AAAA at once, then CNAME where only the alias is signed, then TLSA

Decides which TLSA records count, and whose failure means that the host must not be used; what the records are worth
and whether the host is used at all is `dane.records`' and `outbound.levels`' business. Row numbers are those of the
decision table of RFC 7672's DNS stage that tests/sidecar/unit/lookup cites. Nothing here raises.

Where only one family's addresses are secure (row 9), only those are used while DANE is wanted: an address that nobody
vouches for would be a second, weaker way to the same host. With DANE unwanted all are.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Final

from postern_sidecar.answers import TLSA, Kind, Question, State
from postern_sidecar.names import domain as domain_name
from postern_sidecar.names import unmapped

from .asking import said
from .hosts import Fault, HostFacts, TLSAState

if TYPE_CHECKING:
    from postern_sidecar.answers import Answer
    from postern_sidecar.names import Address, Domain

    from .asking import Asking


KNOWN: Final = 1024  # names of TLSA records that are kept
MAX_ADDRESSES: Final = 64
"""Of a host, as they take turns; the others are as if they were not there. A transaction tries ten, and each is looked
at on its way: thirty hosts with 512 of them would hold everybody's mail up for half a second, message by message."""

_STATE = {State.BOGUS: TLSAState.BOGUS, State.FAILED: TLSAState.FAILED}
_FAULT = {State.BOGUS: Fault.BOGUS, State.FAILED: Fault.FAILED}


def host(name: Domain | Address, port: int = 25, *, dane_wanted: bool = True) -> Asking[HostFacts]:
    """`port` is the one that is dialled, and stands in the TLSA records' name. Without `dane_wanted`, and for an
    address, TLSA is not asked for."""
    if not isinstance(name, str):
        return HostFacts(name, name, (name,))  # row 6
    families = yield (Question(name, Kind.AAAA), Question(name, Kind.A))
    found = [answer for answer in families if answer.records]
    if not found:
        return _unreachable(name, families)
    secure = [answer for answer in found if answer.authentic]
    if dane_wanted and secure:  # rows 8, 9, 11, 13
        found = secure
    expanded, addresses = found[0].name, _turns([answer.records for answer in found])
    ttl = min(answer.ttl for answer in found)
    known = HostFacts(name, expanded, addresses, len(secure) == len(found), tlsa_ttl=ttl)
    if not dane_wanted:
        return known
    if known.secure:
        candidates = list(dict.fromkeys((expanded, name)))
        return (yield from _tlsa(known, candidates, port))
    if expanded == name:  # row 12: SHOULD NOT ask; unsigned zones' servers fail on TLSA
        return known
    (alias,) = yield (Question(name, Kind.CNAME),)
    if not alias.usable:
        return replace(known, tlsa=_STATE[alias.state], detail=said(alias))
    known = replace(known, tlsa_ttl=min(known.tlsa_ttl, alias.ttl))
    return (yield from _tlsa(known, [name], port)) if alias.state is State.SECURE else known  # rows 14, 15


def _tlsa(known: HostFacts, candidates: list[Domain], port: int) -> Asking[HostFacts]:
    """The first candidate that has secure records; one that fails ends the search (row 20)."""
    for base in candidates:
        owner = tlsa_name(base, port)
        if owner is None:
            continue
        (answer,) = yield (Question(owner, Kind.TLSA),)
        if not answer.usable:
            return replace(known, tlsa=_STATE[answer.state], detail=said(answer))
        if answer.state is State.SECURE:  # row 21: the base is of the name that was asked, not of its alias' target
            records = tuple(record for record in answer.records if isinstance(record, TLSA))
            ttl = min(known.tlsa_ttl, answer.ttl)
            return replace(known, base=base, tlsa=TLSAState.SECURE, records=records, tlsa_ttl=ttl)
        known = replace(known, tlsa_ttl=min(known.tlsa_ttl, answer.ttl))  # rows 18, 19
    return replace(known, tlsa=TLSAState.NONE)


@functools.lru_cache(maxsize=KNOWN)
def tlsa_name(base: Domain, port: int) -> Domain | None:
    """RFC 6698 3. None: it would be too long to exist."""
    try:
        return domain_name(f"_{port}._tcp.{base}")
    except ValueError:
        return None


def _unreachable(name: Domain, families: tuple[Answer, ...]) -> HostFacts:
    """Row 8 where a family failed: what is missing might be there. Row 10 where both are answers."""
    failed = [answer for answer in families if not answer.usable]
    if failed:
        return HostFacts(name, name, fault=_FAULT[failed[0].state], detail=said(failed[0]))
    fault = Fault.NO_SUCH_DOMAIN if all(answer.nxdomain for answer in families) else Fault.NO_ADDRESS
    return HostFacts(name, families[0].name, fault=fault, detail=said(families[0]))


def _turns(families: list[tuple[object, ...]]) -> tuple[Address, ...]:
    """IPv6 first, then by turns (RFC 8305 4), none twice. ::ffff:127.0.0.1 is 127.0.0.1, and is dialled as little."""
    turns = (record for pair in zip_longest(*families) for record in pair)
    addresses = (unmapped(record) for record in turns if isinstance(record, IPv4Address | IPv6Address))
    return tuple(islice(dict.fromkeys(addresses), MAX_ADDRESSES))
