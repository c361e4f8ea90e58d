"""The tests' own DNS: it says what a validating resolver would."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from dns_table import Table, table
from postern_sidecar.answers import MX, SOA, TLSA, Answer, Kind, Question, State
from postern_sidecar.names import Domain, domain

ZONE = """
    .                  SOA   a.root
    example.org        MX    10 mx.example.org
    example.org        MX    20 .
    mx.example.org     A     192.0.2.1
    mx.example.org     60 A  192.0.2.2
    _25._tcp.mx.example.org TLSA 3 1 1 ab12
    _25._tcp.mx.example.org TLSA -
    alias.example.org  20 CNAME mx.example.org
    loop.example.org   CNAME loop.example.org
"""


def ask(dns: Table, name: str, kind: Kind, *, unchecked: bool = False) -> Answer:
    return dns.answer(Question(domain(name), kind, unchecked))


def test_records_are_secure_and_live_as_long_as_the_shortest() -> None:
    answer = ask(table(ZONE), "mx.example.org", Kind.A)
    assert answer.state is State.SECURE
    assert answer.records == (ip_address("192.0.2.1"), ip_address("192.0.2.2"))
    assert (answer.name, answer.ttl) == ("mx.example.org", 60)


@pytest.mark.parametrize(
    ("name", "kind", "records"),
    [
        ("example.org", Kind.MX, (MX(10, domain("mx.example.org")), MX(20, Domain("")))),
        ("_25._tcp.mx.example.org", Kind.TLSA, (TLSA(3, 1, 1, b"\xab\x12"), TLSA(255, 255, 255, b""))),
        ("alias.example.org", Kind.CNAME, (domain("mx.example.org"),)),
        (".", Kind.SOA, (SOA(domain("a.root")),)),
    ],
)
def test_types(name: str, kind: Kind, records: tuple[object, ...]) -> None:
    assert ask(table(ZONE), name, kind).records == records


def test_an_alias_is_followed_and_each_link_counts() -> None:
    answer = ask(table(ZONE), "alias.example.org", Kind.A)
    assert (answer.state, answer.name, answer.ttl) == (State.SECURE, "mx.example.org", 20)
    for link in ("alias.example.org", "alias.example.org CNAME", "mx.example.org", "mx.example.org A", "*"):
        assert ask(table(ZONE, insecure=[link]), "alias.example.org", Kind.A).state is State.INSECURE
        assert ask(table(ZONE, bogus=[link]), "alias.example.org", Kind.A).state is State.BOGUS
        assert ask(table(ZONE, failing=[link]), "alias.example.org", Kind.A).state is State.FAILED
    assert ask(table(ZONE, insecure=["mx.example.org AAAA"]), "alias.example.org", Kind.A).state is State.SECURE
    assert ask(table(ZONE), "loop.example.org", Kind.A).state is State.FAILED


def test_absence_is_denied_where_the_zone_is_signed() -> None:
    nodata, nxdomain = ask(table(ZONE), "example.org", Kind.A), ask(table(ZONE), "none.example.org", Kind.A)
    assert [(answer.state, answer.denied, answer.nxdomain) for answer in (nodata, nxdomain)] == [
        (State.ABSENT, True, False),
        (State.ABSENT, True, True),
    ]
    assert not ask(table(ZONE).unsigned(), "example.org", Kind.A).denied
    assert not ask(table(ZONE), "_tcp.mx.example.org", Kind.A).nxdomain


def test_without_checking_the_bogus_is_answered_and_nothing_is_secure() -> None:
    dns = table(ZONE, bogus=["mx.example.org"])
    assert ask(dns, "mx.example.org", Kind.A, unchecked=True).state is State.INSECURE
    assert ask(dns.unsigned(), "mx.example.org", Kind.A).state is State.INSECURE


@pytest.mark.parametrize("line", ["x MX mx", "x A mx", "x TLSA 3 1 1", "x TXT a"])
def test_a_line_that_is_no_record_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        table(line)
