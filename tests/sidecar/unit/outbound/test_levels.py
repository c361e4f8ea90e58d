"""What a host must reach. "Row" is one of reference/dane.md's section 1a; contracts sections 1 and 5 for the rest."""

from __future__ import annotations

from datetime import date
from ipaddress import ip_address

import pytest

from postern_sidecar.answers import TLSA
from postern_sidecar.config.model import (
    OCSP,
    Dane,
    Digest,
    Outbound,
    OutboundTLS,
    Skip,
    SkipLevel,
    TLSVersion,
    WithoutDane,
)
from postern_sidecar.config.scalars import Date, Pattern
from postern_sidecar.lookup.hosts import Exchanger, HostFacts, NextHop, TLSAState
from postern_sidecar.names import Address, Domain, domain
from postern_sidecar.outbound.levels import Blame, DaneWish, Refusal, Want, plan, wants_dane
from postern_sidecar.outbound.plan import Level, Plan, Staple
from postern_sidecar.outbound.settings import Settings

TODAY = date(2026, 11, 22)
DOMAIN, MX = domain("example.org"), domain("mx.example.net")
EE, EE512, TA = TLSA(3, 1, 1, b"\1" * 32), TLSA(3, 1, 2, b"\2" * 64), TLSA(2, 0, 1, b"\3" * 32)
UNUSABLE = TLSA(3, 1, 1, b"\4" * 31)


def patterns(*texts: str) -> tuple[Pattern, ...]:
    return tuple(map(Pattern, texts))


def skip(match: str, level: SkipLevel = SkipLevel.ENCRYPT, until: str = "2026-11-22") -> Skip:
    return Skip(match=Pattern(match), reason=f"ticket for {match}", until=Date(until), level=level)


def settings(
    *,
    attempt: tuple[str, ...] = ("*",),
    require: tuple[str, ...] = (),
    skips: tuple[Skip, ...] = (),
    without: WithoutDane = WithoutDane.OPPORTUNISTIC,
    ocsp: OCSP = OCSP.AUTO,
    digests: tuple[Digest, ...] = (Digest.SHA2_512, Digest.SHA2_256),
) -> Settings:
    dane = Dane(try_=patterns(*attempt), require=patterns(*require), skip=skips, digests=digests)
    tls = OutboundTLS(without_dane=without, min_version=TLSVersion.TLS_1_3, ocsp=ocsp, ca_bundle="PEM")
    return Settings(Outbound(dane=dane, tls=tls), "relay.example")


EXCHANGER = Exchanger(MX, 10)


def hop(*, secure: bool = True, expanded: Domain = DOMAIN) -> NextHop:
    return NextHop(DOMAIN, expanded, secure, (EXCHANGER,))


def implicit(*, secure: bool = True, expanded: Domain = DOMAIN) -> NextHop:
    return NextHop(DOMAIN, expanded, secure, (Exchanger(DOMAIN),), implicit=True)


def routed(via: Domain | Address = MX) -> NextHop:
    return NextHop(DOMAIN, DOMAIN, True, (Exchanger(via, 0, 587),), routed=True)


LITERAL = NextHop(
    ip_address("192.0.2.1"), ip_address("192.0.2.1"), False, (Exchanger(ip_address("192.0.2.1")),), implicit=True
)


def facts(
    *records: TLSA, tlsa: TLSAState | None = None, base: Domain = MX, name: Domain | Address = MX, detail: str = ""
) -> HostFacts:
    state = tlsa or (TLSAState.SECURE if records else TLSAState.NONE)
    known = base if records else None
    return HostFacts(name, base, (ip_address("192.0.2.1"),), True, known, state, records, 300, detail=detail)


def planned(next_hop: NextHop, known: HostFacts, policy: Settings) -> Plan:
    found = plan(next_hop, next_hop.exchangers[0], known, policy, TODAY)
    assert isinstance(found, Plan)
    assert found.min_version is TLSVersion.TLS_1_3
    return found


def refused(next_hop: NextHop, known: HostFacts, policy: Settings) -> Refusal:
    found = plan(next_hop, next_hop.exchangers[0], known, policy, TODAY)
    assert isinstance(found, Refusal)
    assert found.code == "4.7.5"
    return found


# Patterns


@pytest.mark.parametrize(
    ("policy", "want"),
    [
        (settings(), Want.TRY),
        (settings(attempt=()), Want.OFF),
        (settings(attempt=("example.org",)), Want.TRY),
        (settings(attempt=("mx.example.net",)), Want.TRY),
        (settings(attempt=("*.example.net", "other.example")), Want.TRY),
        (settings(attempt=("*.example.org",)), Want.OFF),
        (settings(attempt=(), require=("example.org",)), Want.REQUIRE),
        (settings(require=("*.example.net",)), Want.REQUIRE),
        (settings(skips=(skip("*"),)), Want.SKIP),
        (settings(attempt=("example.org",), skips=(skip("*"),)), Want.SKIP),
        (settings(attempt=(), skips=(skip("example.org"),)), Want.SKIP),
        (settings(require=("*",), skips=(skip("example.org"),)), Want.SKIP),
        (settings(require=("example.org",), skips=(skip("*"),)), Want.REQUIRE),
        (settings(require=("example.org",), skips=(skip("example.org"),)), Want.REQUIRE),
        (settings(require=("example.org",), skips=(skip("mx.example.net"),)), Want.REQUIRE),
        (settings(require=("*.net",), skips=(skip("*.example.net"),)), Want.SKIP),
        (settings(require=("*.example.net",), skips=(skip("*.net"),)), Want.REQUIRE),
        (settings(skips=(skip("other.example"),)), Want.TRY),
    ],
)
def test_require_beats_skip_unless_skip_is_more_specific_then_try(policy: Settings, want: Want) -> None:
    assert wants_dane(hop(), EXCHANGER, policy, TODAY).want is want


@pytest.mark.parametrize("kind", ["attempt", "require", "skips"])
def test_mx_hosts_are_matched_only_where_their_names_are_secure(kind: str) -> None:
    policy = {
        "attempt": settings(attempt=("mx.example.net",)),
        "require": settings(attempt=(), require=("mx.example.net",)),
        "skips": settings(attempt=(), skips=(skip("mx.example.net"),)),
    }[kind]
    assert wants_dane(hop(), EXCHANGER, policy, TODAY).want is not Want.OFF
    assert wants_dane(routed(), EXCHANGER, policy, TODAY).want is not Want.OFF
    assert wants_dane(hop(secure=False), EXCHANGER, policy, TODAY).want is Want.OFF


@pytest.mark.parametrize(
    ("today", "want"), [(date(2026, 11, 22), Want.SKIP), (date(2026, 11, 23), Want.TRY), (date(2027, 1, 1), Want.TRY)]
)
def test_a_skip_ends_with_its_day(today: date, want: Want) -> None:
    assert wants_dane(hop(), EXCHANGER, settings(skips=(skip("*"),)), today).want is want


def test_the_most_specific_skip_says_the_level_of_equal_ones_the_first() -> None:
    soft = SkipLevel.OPPORTUNISTIC
    policy = settings(skips=(skip("*", soft), skip("example.org"), skip("mx.example.net", soft), skip("*.org", soft)))
    assert wants_dane(hop(), EXCHANGER, policy, TODAY) == DaneWish(Want.SKIP, Level.ENCRYPT, "ticket for example.org")
    expired = settings(skips=(skip("*", soft), skip("example.org", until="2026-11-21")))
    assert wants_dane(hop(), EXCHANGER, expired, TODAY) == DaneWish(Want.SKIP, Level.MAY, "ticket for *")


def test_an_address_is_only_in_all() -> None:
    exchanger = LITERAL.exchangers[0]
    assert wants_dane(LITERAL, exchanger, settings(require=("*",)), TODAY).want is Want.REQUIRE
    named = settings(attempt=("*.org", "example.org"), require=("*.example", "org"))
    assert wants_dane(LITERAL, exchanger, named, TODAY).want is Want.OFF
    by_route = wants_dane(routed(ip_address("192.0.2.1")), exchanger, settings(require=("example.org",)), TODAY)
    assert by_route.want is Want.REQUIRE


def test_what_is_asked() -> None:
    assert [want for want in Want if DaneWish(want).asks] == [Want.REQUIRE, Want.TRY]


# DANE


@pytest.mark.parametrize("require", [(), ("*",)], ids=["try", "require"])
@pytest.mark.parametrize("without", list(WithoutDane))
def test_row_16_usable_records_authenticate_whatever_else_is_set(
    require: tuple[str, ...], without: WithoutDane
) -> None:
    """Contracts section 5: "DANE overrides `withoutDane` only"."""
    assert planned(hop(), facts(EE), settings(require=require, without=without)) == Plan(
        Level.DANE, MX, (EE,), (DOMAIN, MX), usage=8, min_version=TLSVersion.TLS_1_3
    )


BASE, ALIAS = domain("real.example"), domain("alias.example")


@pytest.mark.parametrize(
    ("next_hop", "name", "base", "references"),
    [
        (hop(), MX, MX, {DOMAIN, MX}),
        (hop(expanded=ALIAS), MX, MX, {DOMAIN, ALIAS, MX}),
        (hop(), MX, BASE, {DOMAIN, BASE}),
        (implicit(), DOMAIN, DOMAIN, {DOMAIN}),
        (implicit(expanded=BASE), DOMAIN, BASE, {DOMAIN, BASE}),
        (implicit(expanded=BASE), DOMAIN, DOMAIN, {DOMAIN}),
        (routed(), MX, MX, {MX}),
        (routed(), MX, BASE, {MX, BASE}),
    ],
)
def test_reference_identifiers(next_hop: NextHop, name: Domain, base: Domain, references: set[Domain]) -> None:
    """RFC 7672 3.2.2, 2.2.2; the base is the server name of TLS too (8.1)."""
    found = planned(next_hop, facts(TA, name=name, base=base), settings())
    assert (found.references, found.sni) == (tuple(sorted(references)), base)


def test_digest_agility_and_usability_are_those_of_dane_records() -> None:
    weak = TLSA(3, 1, 1, b"\5" * 32)
    found = planned(hop(), facts(weak, EE512, UNUSABLE, TA), settings())
    assert found.records == (TA, EE512)
    assert found.usage == 12
    first = planned(hop(), facts(weak, EE512), settings(digests=(Digest.SHA2_256, Digest.SHA2_512)))
    assert first.records == (weak,)


def test_the_order_of_an_answer_makes_no_other_plan() -> None:
    """DNS rotates records, and the pool's key has the plan."""
    assert planned(hop(), facts(TA, EE), settings()) == planned(hop(), facts(EE, TA, EE), settings())


# Half of DANE


def test_row_5_half_dane() -> None:
    """Contracts section 5: authenticated against the MX host's names only, level encrypt."""
    half = Plan(
        Level.ENCRYPT,
        MX,
        (TA,),
        (MX,),
        half_dane=True,
        usage=4,
        staple=Staple.ASKED,
        min_version=TLSVersion.TLS_1_3,
        why="the MX answer is not secure",
    )
    for without in (WithoutDane.OPPORTUNISTIC, WithoutDane.ENCRYPT):
        assert planned(hop(secure=False, expanded=ALIAS), facts(TA), settings(without=without)) == half
    aliased = planned(hop(secure=False), facts(TA, base=BASE), settings())
    assert (aliased.references, aliased.sni) == ((MX, BASE), BASE)


def test_row_5_require_defers() -> None:
    found = refused(hop(secure=False), facts(EE), settings(require=("example.org",)))
    assert (found.blame, found.reason) == (Blame.UNAVAILABLE, "insecure_mx")
    assert found.message == "DANE is required, and the MX answer of example.org is not secure"


def test_row_5_verify_is_stronger() -> None:
    found = planned(hop(secure=False), facts(EE), settings(without=WithoutDane.VERIFY))
    assert (found.level, found.records, found.half_dane) == (Level.VERIFY, (), False)
    assert found.why == "the MX answer of example.org is not secure"


# No DANE

WITHOUT = {
    WithoutDane.OPPORTUNISTIC: Level.MAY,
    WithoutDane.ENCRYPT: Level.ENCRYPT,
    WithoutDane.VERIFY: Level.VERIFY,
}
NOTHING = [
    (hop(), facts(), "no_tlsa", "mx.example.net has no secure TLSA records"),
    (hop(), facts(tlsa=TLSAState.NOT_ASKED), "insecure_host", "the addresses of mx.example.net are not secure"),
    (hop(secure=False), facts(), "no_tlsa", "mx.example.net has no secure TLSA records"),
]


@pytest.mark.parametrize("without", list(WithoutDane))
@pytest.mark.parametrize(("next_hop", "known", "reason", "why"), NOTHING)
def test_rows_12_15_18_19_nothing_to_authenticate_by(
    next_hop: NextHop, known: HostFacts, reason: str, why: str, without: WithoutDane
) -> None:
    found = planned(next_hop, known, settings(without=without))
    assert (found.level, found.records, found.sni, found.why) == (WITHOUT[without], (), MX, why)
    refusal = refused(next_hop, known, settings(require=("*",), without=without))
    assert refusal == Refusal(Blame.UNAVAILABLE, reason, f"DANE is required, and {why}")


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize(
    ("without", "level"),
    [
        (WithoutDane.OPPORTUNISTIC, Level.ENCRYPT),
        (WithoutDane.ENCRYPT, Level.ENCRYPT),
        (WithoutDane.VERIFY, Level.VERIFY),
    ],
)
def test_row_17_all_unusable_is_never_clear(without: WithoutDane, level: Level, secure: bool) -> None:
    """RFC 7672 2.2; contracts section 5: never clear "with any secure TLSA RRset"."""
    found = planned(hop(secure=secure), facts(UNUSABLE), settings(without=without))
    assert (found.level, found.records, found.usage) == (level, (), 0)
    assert found.why == "no TLSA record of mx.example.net is usable"
    refusal = refused(hop(secure=secure), facts(UNUSABLE), settings(require=("*",), without=without))
    assert (refusal.blame, refusal.reason) == (Blame.DESTINATION, "tlsa_unusable")


@pytest.mark.parametrize("policy", [settings(), settings(require=("*",)), settings(without=WithoutDane.VERIFY)])
@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize(("tlsa", "reason"), [(TLSAState.BOGUS, "tlsa_bogus"), (TLSAState.FAILED, "tlsa_failed")])
def test_row_20_no_answer_means_the_host_is_not_used(
    policy: Settings, secure: bool, tlsa: TLSAState, reason: str
) -> None:
    found = refused(hop(secure=secure), facts(tlsa=tlsa, detail="TLSA _25._tcp.mx.example.net: SERVFAIL"), policy)
    assert (found.blame, found.reason) == (Blame.DNS, reason)
    assert found.message.endswith("TLSA _25._tcp.mx.example.net: SERVFAIL")


@pytest.mark.parametrize("without", list(WithoutDane))
def test_off_is_without_dane(without: WithoutDane) -> None:
    found = planned(hop(), facts(tlsa=TLSAState.NOT_ASKED), settings(attempt=(), without=without))
    assert (found.level, found.why) == (WITHOUT[without], "not in dane.try")


@pytest.mark.parametrize(
    ("level", "without", "reached"),
    [
        (SkipLevel.ENCRYPT, WithoutDane.OPPORTUNISTIC, Level.ENCRYPT),
        (SkipLevel.ENCRYPT, WithoutDane.ENCRYPT, Level.ENCRYPT),
        (SkipLevel.ENCRYPT, WithoutDane.VERIFY, Level.VERIFY),
        (SkipLevel.OPPORTUNISTIC, WithoutDane.OPPORTUNISTIC, Level.MAY),
        (SkipLevel.OPPORTUNISTIC, WithoutDane.ENCRYPT, Level.ENCRYPT),
        (SkipLevel.OPPORTUNISTIC, WithoutDane.VERIFY, Level.VERIFY),
    ],
)
def test_a_skip_is_never_weaker_than_without_dane(level: SkipLevel, without: WithoutDane, reached: Level) -> None:
    policy = settings(skips=(skip("example.org", level),), without=without)
    found = planned(hop(), facts(tlsa=TLSAState.NOT_ASKED), policy)
    assert (found.level, found.why) == (reached, "skip: ticket for example.org")


# Verify

VERIFY = settings(without=WithoutDane.VERIFY)


@pytest.mark.parametrize(
    ("next_hop", "references"),
    [
        (hop(), {DOMAIN, MX}),
        (hop(expanded=ALIAS), {DOMAIN, ALIAS, MX}),
        (hop(secure=False, expanded=ALIAS), {DOMAIN}),
        (implicit(), {DOMAIN}),
        (implicit(secure=False), {DOMAIN}),
        (routed(), {MX}),
    ],
)
def test_verify_believes_no_name_that_could_be_forged(next_hop: NextHop, references: set[Domain]) -> None:
    found = planned(next_hop, facts(name=next_hop.exchangers[0].name), VERIFY)
    assert (found.level, found.references) == (Level.VERIFY, tuple(sorted(references)))
    assert (found.sni, found.ca_bundle) == (next_hop.exchangers[0].name, "PEM")


def test_only_verify_has_the_ca_bundle() -> None:
    """It is in the pool's key, and would part connections that are the same."""
    assert planned(hop(), facts(EE), VERIFY).ca_bundle == planned(hop(), facts(), settings()).ca_bundle == ""


# Addresses


def test_row_6_an_address_has_no_dane_and_no_server_name() -> None:
    known = HostFacts(ip_address("192.0.2.1"), ip_address("192.0.2.1"), (ip_address("192.0.2.1"),))
    found = planned(LITERAL, known, settings())
    assert (found.level, found.sni, found.why) == (Level.MAY, None, "192.0.2.1 is an address and has no TLSA records")
    refusal = refused(LITERAL, known, settings(require=("*",)))
    assert (refusal.blame, refusal.reason) == (Blame.UNAVAILABLE, "address_literal")


@pytest.mark.parametrize("next_hop", [LITERAL, routed(ip_address("192.0.2.1"))], ids=["literal", "route"])
def test_an_address_has_no_name_to_verify(next_hop: NextHop) -> None:
    known = HostFacts(ip_address("192.0.2.1"), ip_address("192.0.2.1"), (ip_address("192.0.2.1"),))
    assert planned(next_hop, known, settings(without=WithoutDane.ENCRYPT)).level is Level.ENCRYPT
    found = refused(next_hop, known, VERIFY)
    assert (found.blame, found.reason) == (Blame.CONFIGURATION, "no_reference")


def test_row_6_an_exchange_that_is_an_address_can_show_the_domains_certificate() -> None:
    address = ip_address("192.0.2.1")
    next_hop = NextHop(DOMAIN, DOMAIN, True, (Exchanger(address, 10),))
    found = planned(next_hop, HostFacts(address, address, (address,)), VERIFY)
    assert (found.references, found.sni) == ((DOMAIN,), None)


# OCSP


@pytest.mark.parametrize(
    ("known", "without", "auto", "require"),
    [
        (facts(TA), WithoutDane.OPPORTUNISTIC, Staple.ASKED, Staple.REQUIRED),
        (facts(EE), WithoutDane.OPPORTUNISTIC, Staple.NOT_ASKED, Staple.NOT_ASKED),
        (facts(EE, TA), WithoutDane.OPPORTUNISTIC, Staple.NOT_ASKED, Staple.NOT_ASKED),
        (facts(), WithoutDane.VERIFY, Staple.ASKED, Staple.REQUIRED),
        (facts(), WithoutDane.ENCRYPT, Staple.ASKED, Staple.ASKED),
        (facts(), WithoutDane.OPPORTUNISTIC, Staple.ASKED, Staple.ASKED),
        (facts(UNUSABLE), WithoutDane.OPPORTUNISTIC, Staple.ASKED, Staple.ASKED),
    ],
)
def test_a_staple_is_asked_for_under_exims_rule(
    known: HostFacts, without: WithoutDane, auto: Staple, require: Staple
) -> None:
    """tls_out_tlsa_usage 0 or 4; required only where it is judged (contracts section 5)."""
    staples = [planned(hop(), known, settings(without=without, ocsp=ocsp)).staple for ocsp in OCSP]
    assert dict(zip(OCSP, staples, strict=True)) == {
        OCSP.AUTO: auto,
        OCSP.OFF: Staple.NOT_ASKED,
        OCSP.REQUIRE: require,
    }
