"""Where mail for a domain goes: its route, its MX hosts, or itself (RFC 5321 5.1, RFC 7505).

    next_hop(domain)              asks MX; -> NextHop, or NoNextHop and why
    groups(exchangers)            hosts of one preference together
    cut_at_own(hosts, is_own)     hosts whose addresses are known, cut where one of them is ours

Decides which hosts count and whether the DNS vouches for their names. Their addresses and TLSA records are `host`'s
business; what security a host needs is `outbound.levels`'. Row numbers are those of the decision table of RFC 7672's
DNS stage that tests/sidecar/unit/lookup cites. Nothing here raises.
"""

from __future__ import annotations

from ipaddress import ip_address
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from postern_sidecar.answers import MX, Kind, Question, State
from postern_sidecar.names import unmapped

from .asking import said
from .hosts import Exchanger, Fault, NextHop, NoNextHop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from postern_sidecar.answers import Answer
    from postern_sidecar.config.scalars import HostPort, Pattern
    from postern_sidecar.names import Address, Domain

    from .asking import Asking
    from .hosts import HostFacts

MAX_EXCHANGERS: Final = 30
"""MX hosts of a domain that are looked at; the least preferred beyond are ignored. A transaction tries ten addresses,
and a domain with more than this many dead hosts is nobody's mail. Exim: hosts_max_try_hardlimit 50; Postfix:
smtp_mx_address_limit 5."""


def next_hop(
    target: Domain | Address, *, via: HostPort | None = None, own: Sequence[Pattern] = ()
) -> Asking[NextHop | NoNextHop]:
    """`target`: the recipient's domain, or an address literal's address. `via`: the route for it, if there is one; it
    is believed, and never cut. `own`: `spec.outbound.ownNames`."""
    if via is not None:
        return NextHop(target, target, True, (Exchanger(via.host, 0, via.port),), routed=True)  # row 7
    if not isinstance(target, str):
        return NextHop(target, target, False, (Exchanger(target),), implicit=True)  # row 6; RFC 5321 4.1.3
    (answer,) = yield (Question(target, Kind.MX),)
    if not answer.usable:  # row 1: never as if there were no MX
        return NoNextHop(Fault.BOGUS if answer.state is State.BOGUS else Fault.FAILED, said(answer))
    if answer.state is State.ABSENT:  # row 2: `host` follows the aliases of the domain once more, for its addresses
        implicit = NextHop(target, answer.name, answer.denied, (Exchanger(target),), implicit=True)
        return NoNextHop(Fault.LOOP, target) if _is_own(target, own) else implicit
    return _explicit(target, answer, own)


def _explicit(domain: Domain, answer: Answer, own: Sequence[Pattern]) -> NextHop | NoNextHop:
    listed = [record for record in answer.records if isinstance(record, MX)]
    named = [record for record in listed if record.exchange]
    if not named:  # row 3. Beside others, "." is a host that has no address
        return NoNextHop(Fault.NULL_MX, domain)
    limit = min((mx.preference for mx in named if _is_own(mx.exchange, own)), default=1 << 16)
    best = {mx.exchange: mx.preference for mx in sorted(named, reverse=True)}  # of a host listed twice
    ranked = sorted((preference, name) for name, preference in best.items() if preference < limit)
    if not ranked:
        return NoNextHop(Fault.LOOP, domain)
    exchangers = tuple(Exchanger(_host(name), preference) for preference, name in ranked[:MAX_EXCHANGERS])
    return NextHop(domain, answer.name, answer.state is State.SECURE, exchangers)


def _host(exchange: Domain) -> Domain | Address:
    """Row 6. An address is no name of a host (RFC 1035 3.3.9), but some publish one, and everybody delivers."""
    if not exchange[-1].isdigit():
        return exchange  # as nearly all are: a name has no colon
    try:
        return unmapped(ip_address(exchange))
    except ValueError:
        return exchange


def _is_own(name: Domain, own: Iterable[Pattern]) -> bool:
    return any(pattern.fits(name) is not None for pattern in own)


def groups(exchangers: Iterable[Exchanger]) -> list[list[Exchanger]]:
    """Those of one preference together, the preferred first; in which order within one is chance (RFC 5321 5.1), which
    is not here. A leg looks up one group at a time, whole: only then does it know whether one of them is ourselves."""
    ranked = sorted(exchangers, key=attrgetter("preference"))
    return [list(group) for _, group in groupby(ranked, key=attrgetter("preference"))]


def cut_at_own(
    hosts: Iterable[tuple[Exchanger, HostFacts]], is_own: Callable[[Address], bool]
) -> list[tuple[Exchanger, HostFacts]]:
    """RFC 5321 5.1: where one of the hosts is ourselves, it goes, and so does every host of the same or a worse
    preference; the rest stay in their order. Nothing left at the first group: `Fault.LOOP`."""
    known = list(hosts)
    own = (exchanger.preference for exchanger, facts in known if any(map(is_own, facts.addresses)))
    limit = min(own, default=1 << 16)
    return [(exchanger, facts) for exchanger, facts in known if exchanger.preference < limit]
