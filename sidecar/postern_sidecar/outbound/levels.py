"""What security a host must reach before mail goes over a connection to it: the one place that decides it.

    wants_dane(next_hop, exchanger, settings, today) -> DaneWish      before the host is looked up
    plan(next_hop, exchanger, facts, settings, today) -> Plan | Refusal      after

Sources: contracts sections 1 (patterns) and 5 (levels), RFC 7672 2.2 (which destinations have DANE), 3.2 (reference
identifiers), 6 (unusable records). docs/delivery.md has it as a table. Row numbers are those of the decision table of
RFC 7672's DNS stage that the tests cite. Nothing here raises; what stands against DANE gets a `Blame`, and the blame
alone says what becomes of the host.

Where the sources are silent, the stronger reading holds:

- A skip and unusable records never make a host weaker than `withoutDane`: a skip with level Opportunistic under
  `withoutDane: Verify` verifies.
- Nor does half-dane: under Verify an insecure MX answer means verify, whatever TLSA records the host has. They say that
  the host is who it says, not that the mail was meant for it.
- At verify a name counts only if nobody could have forged it: the recipient's domain, and the MX host's name where the
  MX answer is secure (Postfix's `secure`, not its `verify`). Most MX answers are insecure and most certificates name
  only the MX host, so `withoutDane: Verify` is for routes and for destinations that one has an understanding with. An
  address has no name to verify.
- `require: ["*"]` holds for address literals too, which never have DANE.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final, NamedTuple

from postern_sidecar.config.model import OCSP, SkipLevel, WithoutDane
from postern_sidecar.dane.records import select
from postern_sidecar.lookup.hosts import TLSAState
from postern_sidecar.names import ROOT

from .plan import Level, Plan, Staple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    from postern_sidecar.config.model import Skip
    from postern_sidecar.config.scalars import Pattern
    from postern_sidecar.dane.records import Selection
    from postern_sidecar.lookup.hosts import Exchanger, HostFacts, NextHop
    from postern_sidecar.names import Address, Domain

    from .settings import Settings


class Want(enum.Enum):
    REQUIRE = "require"
    TRY = "try"
    SKIP = "skip"
    OFF = "off"  # no pattern of `try` fits


@dataclass(frozen=True, slots=True)
class DaneWish:
    """What the policy says of DANE for a host. `level`: of a skip, at least; `reason`: the skip's."""

    want: Want
    level: Level = Level.MAY
    reason: str = ""

    @property
    def asks(self) -> bool:
        """Whether TLSA records are looked up: `lookup.host`'s `dane_wanted`."""
        return self.want in (Want.REQUIRE, Want.TRY)


class Blame(enum.Enum):
    """Who stands in the way of DANE, and so what becomes of the host: under `require` it is not used, whoever does."""

    CONFIGURATION = "configuration"  # the policy wants what cannot be
    UNAVAILABLE = "unavailable"  # the destination offers nothing to authenticate it by, as it may
    DESTINATION = "destination"  # it offers DANE, and got it wrong
    DNS = "dns"  # nobody can say what it offers


@dataclass(frozen=True, slots=True)
class Refusal:
    """The host must not be used. `reason`: one of docs/logging.md's; `code`: enhanced, of the 451 if it was the last
    host; `message`: for the log."""

    blame: Blame
    reason: str
    message: str
    code: str = "4.7.5"


_SKIP: Final = {SkipLevel.ENCRYPT: Level.ENCRYPT, SkipLevel.OPPORTUNISTIC: Level.MAY}
_WITHOUT: Final = {
    WithoutDane.OPPORTUNISTIC: Level.MAY,
    WithoutDane.ENCRYPT: Level.ENCRYPT,
    WithoutDane.VERIFY: Level.VERIFY,
}
_STRENGTH: Final = (Level.MAY, Level.ENCRYPT, Level.VERIFY)
_FLOOR: Final = {Blame.UNAVAILABLE: Level.MAY, Blame.DESTINATION: Level.ENCRYPT}
"""What a host must reach at least, whatever `withoutDane` says; with the other two it must not be used at all."""


def wants_dane(next_hop: NextHop, exchanger: Exchanger, settings: Settings, today: date) -> DaneWish:
    """`require` beats `skip` unless skip is more specific; then `try` (contracts section 1). `today` is UTC's."""
    names = _names_matched(next_hop, exchanger)
    dane = settings.outbound.dane
    required = _specificity(dane.require, names)
    best: tuple[int, Skip] | None = None
    for skip in dane.skip:
        fits = _specificity((skip.match,), names)
        if fits is not None and today <= skip.until.day and (best is None or fits > best[0]):
            best = fits, skip
    if best is not None and (required is None or best[0] > required):
        return DaneWish(Want.SKIP, _SKIP[best[1].level], best[1].reason)
    if required is not None:
        return DaneWish(Want.REQUIRE)
    return DaneWish(Want.OFF if _specificity(dane.try_, names) is None else Want.TRY)


def _names_matched(next_hop: NextHop, exchanger: Exchanger) -> list[Domain]:
    """The mail domain; the MX host only where nobody could have forged its name. Of an address only `*` says something:
    the root is below every `*`, and below nothing else."""
    host = (exchanger.name,) if next_hop.secure else ()
    return [ROOT if isinstance(name, IPv4Address | IPv6Address) else name for name in (next_hop.domain, *host)]


def _specificity(patterns: Iterable[Pattern], names: list[Domain]) -> int | None:
    fits = (pattern.fits(name) for pattern in patterns for name in names)
    return max((fit for fit in fits if fit is not None), default=None)


def plan(next_hop: NextHop, exchanger: Exchanger, facts: HostFacts, settings: Settings, today: date) -> Plan | Refusal:
    """`facts`: the host's, looked up with what `wants_dane` said of it on the same day."""
    wish = wants_dane(next_hop, exchanger, settings, today)
    if wish.want is Want.SKIP:
        return _without_dane(next_hop, exchanger, settings, wish.level, f"skip: {wish.reason}")
    if wish.want is Want.OFF:
        return _without_dane(next_hop, exchanger, settings, Level.MAY, "not in dane.try")
    selection = select(facts.records, settings.outbound.dane.digests)
    against = _against(exchanger, facts, selection)
    if against is None and next_hop.secure:
        return _authenticated(next_hop, exchanger, facts, settings, selection)
    required = wish.want is Want.REQUIRE
    if against is None:
        if not required and settings.outbound.tls.without_dane is not WithoutDane.VERIFY:
            return _half_dane(exchanger, facts, settings, selection)
        against = _Against(Blame.UNAVAILABLE, "insecure_mx", f"the MX answer of {next_hop.domain} is not secure")
    if required or against.blame not in _FLOOR:
        return Refusal(
            against.blame, against.reason, f"DANE is required, and {against.why}" if required else against.why
        )
    return _without_dane(next_hop, exchanger, settings, _FLOOR[against.blame], against.why)


class _Against(NamedTuple):
    """What stands in the way of authenticating a host by its records."""

    blame: Blame
    reason: str
    why: str


def _against(exchanger: Exchanger, facts: HostFacts, selection: Selection) -> _Against | None:
    name = exchanger.name
    match facts.tlsa:
        case TLSAState.BOGUS:  # row 20
            return _Against(Blame.DNS, "tlsa_bogus", facts.detail)
        case TLSAState.FAILED:
            return _Against(Blame.DNS, "tlsa_failed", facts.detail)
        case TLSAState.NOT_ASKED if isinstance(name, str):  # rows 12, 15
            return _Against(Blame.UNAVAILABLE, "insecure_host", f"the addresses of {name} are not secure")
        case TLSAState.NOT_ASKED:  # row 6
            return _Against(Blame.UNAVAILABLE, "address_literal", f"{name} is an address and has no TLSA records")
        case TLSAState.NONE:  # rows 18, 19
            return _Against(Blame.UNAVAILABLE, "no_tlsa", f"{name} has no secure TLSA records")
        case TLSAState.SECURE if not selection.usable:  # row 17; RFC 7672 2.2: never in clear then
            return _Against(Blame.DESTINATION, "tlsa_unusable", f"no TLSA record of {name} is usable")
    return None  # row 16


def _authenticated(
    next_hop: NextHop, exchanger: Exchanger, facts: HostFacts, settings: Settings, selection: Selection
) -> Plan:
    """RFC 7672 3.2.2: the base domain, and the names by which a secure lookup came to it."""
    direct = next_hop.routed or next_hop.implicit  # 2.2.2: then the host is the next hop
    led_here = (exchanger.name,) if direct else (next_hop.domain, next_hop.expanded)
    references = _names(facts.base, *led_here)
    return _by_records(Level.DANE, references, facts, settings, selection)


def _half_dane(exchanger: Exchanger, facts: HostFacts, settings: Settings, selection: Selection) -> Plan:
    """Row 5. The next-hop domain is no reference identifier: who forged the MX answer has a certificate for his own."""
    found = _by_records(Level.ENCRYPT, _names(facts.base, exchanger.name), facts, settings, selection)
    return replace(found, half_dane=True, why="the MX answer is not secure")


def _by_records(
    level: Level, references: tuple[Domain, ...], facts: HostFacts, settings: Settings, selection: Selection
) -> Plan:
    return Plan(
        level,
        facts.base,  # RFC 7672 8.1
        tuple(sorted(set(selection.considered))),  # DNS rotates them, and the pool's key has them
        references,
        usage=selection.usage,
        staple=_staple(settings, level, selection.usage),
        min_version=settings.outbound.tls.min_version,
    )


def _without_dane(
    next_hop: NextHop, exchanger: Exchanger, settings: Settings, floor: Level, why: str
) -> Plan | Refusal:
    """At least `floor`, at least `withoutDane`."""
    tls = settings.outbound.tls
    level = max(floor, _WITHOUT[tls.without_dane], key=_STRENGTH.index)
    verify = level is Level.VERIFY
    references = _names(*_unforgeable(next_hop, exchanger)) if verify else ()
    if verify and not references:
        return Refusal(Blame.CONFIGURATION, "no_reference", f"{exchanger.name} is an address: no name to verify; {why}")
    return Plan(
        level,
        exchanger.name if isinstance(exchanger.name, str) else None,
        references=references,
        staple=_staple(settings, level, 0),
        min_version=tls.min_version,
        ca_bundle=tls.ca_bundle if verify else "",
        why=why,
    )


def _unforgeable(next_hop: NextHop, exchanger: Exchanger) -> tuple[Domain | Address, ...]:
    """The names that a certificate may have at verify. A route's relay is not the recipient's domain."""
    if next_hop.routed:
        return (exchanger.name,)
    return (next_hop.domain, next_hop.expanded, exchanger.name) if next_hop.secure else (next_hop.domain,)


def _names(*candidates: Domain | Address | None) -> tuple[Domain, ...]:
    return tuple(sorted({name for name in candidates if isinstance(name, str)}))


def _staple(settings: Settings, level: Level, usage: int) -> Staple:
    """Exim's rule: not where a DANE-EE record is in play, whose revocation is its removal (RFC 7672 4). It is judged
    only where the certificate counts, so only there it can be required (contracts section 5)."""
    ocsp = settings.outbound.tls.ocsp
    if ocsp is OCSP.OFF or usage not in (0, 1 << 2):
        return Staple.NOT_ASKED
    return Staple.REQUIRED if ocsp is OCSP.REQUIRE and level in (Level.DANE, Level.VERIFY) else Staple.ASKED
