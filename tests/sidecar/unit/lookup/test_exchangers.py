"""Where mail for a domain goes. "Row" is one of reference/dane.md's section 1a, the DNS stage of RFC 7672."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from dns_table import Table, run, table
from postern_sidecar.answers import Kind, Question
from postern_sidecar.config.scalars import HostPort, Pattern
from postern_sidecar.lookup.exchangers import MAX_EXCHANGERS, cut_at_own, groups, next_hop
from postern_sidecar.lookup.hosts import Exchanger, Fault, HostFacts, NextHop, NoNextHop
from postern_sidecar.names import domain

DOMAIN = domain("example.org")
MX_QUESTION = [Question(DOMAIN, Kind.MX)]


def hop(dns: Table, *own: str) -> NextHop | NoNextHop:
    found, asked = run(next_hop(DOMAIN, own=[Pattern(name) for name in own]), dns)
    assert asked == MX_QUESTION
    return found


def exchangers(dns: Table, *own: str) -> list[tuple[int, str]]:
    found = hop(dns, *own)
    assert isinstance(found, NextHop)
    return [(exchanger.preference, str(exchanger.name)) for exchanger in found.exchangers]


TWO = table("""
    example.org  MX  20 b.example
    example.org  MX  10 a.example
""")


def test_row_1_no_answer_is_never_no_mx() -> None:
    zone = "example.org A 192.0.2.1"
    assert hop(table(zone, failing=["example.org MX"])) == NoNextHop(Fault.FAILED, "MX example.org: SERVFAIL")
    assert hop(table(zone, bogus=["example.org MX"])) == NoNextHop(Fault.BOGUS, "MX example.org: SERVFAIL: bogus")


@pytest.mark.parametrize("zone", ["example.org A 192.0.2.1", "other.example A 192.0.2.1"], ids=["NODATA", "NXDOMAIN"])
def test_row_2_without_mx_the_domain_is_its_own_host(zone: str) -> None:
    """RFC 5321 5.1; whether the domain has an address, or exists, its addresses say."""
    expected = NextHop(DOMAIN, DOMAIN, True, (Exchanger(DOMAIN),), implicit=True)
    assert hop(table(zone)) == expected
    insecure = hop(table(zone).unsigned())
    assert insecure == NextHop(DOMAIN, DOMAIN, False, (Exchanger(DOMAIN),), implicit=True)


@pytest.mark.parametrize("preference", [0, 10])
def test_row_3_a_null_mx_takes_no_mail(preference: int) -> None:
    """RFC 7505 3."""
    dns = table(f"example.org MX {preference} .\nexample.org A 192.0.2.1")
    assert hop(dns) == NoNextHop(Fault.NULL_MX, "example.org")
    assert hop(dns.unsigned()) == NoNextHop(Fault.NULL_MX, "example.org")


def test_row_3_a_null_mx_beside_others_is_no_host() -> None:
    """RFC 7505 3: it must not stand beside others; where it does, the others are meant."""
    assert exchangers(table("example.org MX 0 .\nexample.org MX 10 a.example")) == [(10, "a.example")]


def test_row_4_secure_in_order_of_preference() -> None:
    assert hop(TWO) == NextHop(
        DOMAIN, DOMAIN, True, (Exchanger(domain("a.example"), 10), Exchanger(domain("b.example"), 20))
    )


def test_row_5_insecure() -> None:
    found = hop(TWO.unsigned())
    assert isinstance(found, NextHop)
    assert not found.secure
    assert exchangers(TWO.unsigned()) == exchangers(TWO)


ALIAS = "example.org CNAME real.example\nreal.example MX 10 a.example"


@pytest.mark.parametrize("link", ["example.org", "real.example MX"])
def test_row_5_any_insecure_link_makes_it_insecure(link: str) -> None:
    """RFC 7672 2.2.1: "(or any CNAME leading to it)"."""
    secure, insecure = hop(table(ALIAS)), hop(table(ALIAS, insecure=[link]))
    assert isinstance(secure, NextHop)
    assert isinstance(insecure, NextHop)
    assert (secure.secure, insecure.secure) == (True, False)
    assert secure.domain == insecure.domain == "example.org"
    assert secure.expanded == insecure.expanded == "real.example"


def test_an_alias_without_mx_is_its_own_host() -> None:
    found = hop(table("example.org CNAME real.example\nreal.example A 192.0.2.1"))
    assert found == NextHop(DOMAIN, domain("real.example"), True, (Exchanger(DOMAIN),), implicit=True)


def test_row_6_an_exchange_that_is_an_address() -> None:
    found = hop(table("example.org MX 10 192.0.2.1"))
    assert found == NextHop(DOMAIN, DOMAIN, True, (Exchanger(ip_address("192.0.2.1"), 10),))


def test_row_6_an_exchange_that_ends_like_an_address() -> None:
    found = hop(table("example.org MX 10 mx.192.0.2.1"))
    assert found == NextHop(DOMAIN, DOMAIN, True, (Exchanger(domain("mx.192.0.2.1"), 10),))


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_row_6_an_address_literal_asks_nothing(address: str) -> None:
    literal = ip_address(address)
    expected = NextHop(literal, literal, False, (Exchanger(literal),), implicit=True)
    assert run(next_hop(literal), table("")) == (expected, [])


@pytest.mark.parametrize("via", ["relay.example:587", "relay.example", "192.0.2.1:2525", "[2001:db8::1]:587"])
def test_row_7_a_route_asks_nothing_and_is_believed(via: str) -> None:
    relay = HostPort(via)
    expected = NextHop(DOMAIN, DOMAIN, True, (Exchanger(relay.host, 0, relay.port),), routed=True)
    assert run(next_hop(DOMAIN, via=relay, own=[Pattern("*")]), table("")) == (expected, [])


def test_a_host_listed_twice_is_tried_once_at_its_best() -> None:
    dns = table("example.org MX 20 a.example\nexample.org MX 10 a.example\nexample.org MX 15 b.example")
    assert exchangers(dns) == [(10, "a.example"), (15, "b.example")]


def test_so_many_hosts_and_no_more() -> None:
    zone = "\n".join(f"example.org MX {number} mx{number}.example" for number in reversed(range(MAX_EXCHANGERS + 1)))
    assert exchangers(table(zone)) == [(number, f"mx{number}.example") for number in range(MAX_EXCHANGERS)]
    own = f"mx{MAX_EXCHANGERS}.example"
    assert len(exchangers(table(zone), own)) == MAX_EXCHANGERS


THREE = table("""
    example.org  MX  10 a.example
    example.org  MX  20 b.example
    example.org  MX  20 us.example
    example.org  MX  30 c.example
""")


@pytest.mark.parametrize(
    ("own", "left"),
    [
        ("us.example", [(10, "a.example")]),
        ("*.us.example", [(10, "a.example"), (20, "b.example"), (20, "us.example"), (30, "c.example")]),
        ("c.example", [(10, "a.example"), (20, "b.example"), (20, "us.example")]),
    ],
)
def test_own_names_cut_the_list_from_their_preference_on(own: str, left: list[tuple[int, str]]) -> None:
    """RFC 5321 5.1."""
    assert exchangers(THREE, own) == left


def test_nobody_before_us_is_a_loop() -> None:
    """RFC 5321 5.1; contracts section 5: 554 5.4.6."""
    assert hop(THREE, "nobody.example", "a.example") == NoNextHop(Fault.LOOP, "example.org")
    assert hop(table("example.org A 192.0.2.1"), "example.org") == NoNextHop(Fault.LOOP, "example.org")


def test_equal_preferences_are_looked_up_together() -> None:
    """RFC 5321 5.1: the order within one is chance, and whether it has ourselves, all of its hosts say."""
    a, b, us, c = (
        Exchanger(domain(name), preference)
        for preference, name in [(10, "a.example"), (20, "b.example"), (20, "us.example"), (30, "c.example")]
    )
    assert groups([c, a, b, us]) == [[a], [b, us], [c]]
    assert groups([]) == []


def facts(name: str, *addresses: str) -> HostFacts:
    return HostFacts(domain(name), domain(name), tuple(ip_address(address) for address in addresses))


def test_own_addresses_cut_like_own_names() -> None:
    """RFC 5321 5.1: "its names or addresses"."""
    ours = ip_address("192.0.2.9")
    hosts = [
        (Exchanger(domain("b.example"), 20), facts("b.example", "192.0.2.2")),
        (Exchanger(domain("a.example"), 10), facts("a.example", "192.0.2.1")),
        (Exchanger(domain("us.example"), 20), facts("us.example", "2001:db8::9", "192.0.2.9")),
        (Exchanger(domain("c.example"), 30), facts("c.example")),
    ]
    assert cut_at_own(hosts, lambda address: address == ours) == [hosts[1]]
    assert cut_at_own(hosts[2:], lambda address: address == ours) == []
    assert cut_at_own(hosts, lambda _: False) == hosts
