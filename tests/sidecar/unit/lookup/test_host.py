"""What is known of a host. "Row" is one of reference/dane.md's section 1a, the DNS stage of RFC 7672."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from dns_table import Table, run, table
from postern_sidecar.answers import TLSA, Kind, Question
from postern_sidecar.lookup.host import KNOWN, MAX_ADDRESSES, host, tlsa_name
from postern_sidecar.lookup.hosts import Fault, HostFacts, TLSAState
from postern_sidecar.names import domain

NAME = domain("mx.example.org")
RECORD = TLSA(3, 1, 1, b"\xab\x12")
PLAIN = """
    mx.example.org           A     192.0.2.1
    mx.example.org           AAAA  2001:db8::1
    _25._tcp.mx.example.org  TLSA  3 1 1 ab12
"""
ALIAS = """
    mx.example.org           CNAME real.example
    real.example             A     192.0.2.1
"""
AT_EXPANDED = "_25._tcp.real.example TLSA 3 1 1 ab12\n"
AT_ORIGINAL = "_25._tcp.mx.example.org TLSA 3 1 1 cd34\n"


def known(dns: Table, port: int = 25, *, dane_wanted: bool = True) -> tuple[HostFacts, list[str]]:
    facts, asked = run(host(NAME, port, dane_wanted=dane_wanted), dns)
    assert facts.name == NAME
    return facts, [f"{question.kind.value} {question.name}" for question in asked]


ADDRESSES = ["AAAA mx.example.org", "A mx.example.org"]
TLSA_ORIGINAL, TLSA_EXPANDED = "TLSA _25._tcp.mx.example.org", "TLSA _25._tcp.real.example"


@pytest.mark.parametrize(
    ("how", "fault", "detail"), [("failing", Fault.FAILED, "SERVFAIL"), ("bogus", Fault.BOGUS, "SERVFAIL: bogus")]
)
def test_row_8_no_family_answers(how: str, fault: Fault, detail: str) -> None:
    facts, asked = known(table(PLAIN, **{how: ["mx.example.org"]}))
    assert facts == HostFacts(NAME, NAME, fault=fault, detail=f"AAAA mx.example.org: {detail}")
    assert asked == ADDRESSES


def test_row_8_one_family_has_none_and_the_other_fails() -> None:
    """What is missing might be there: not the same as "no address", which bounces."""
    facts, _ = known(table("mx.example.org AAAA 2001:db8::1", failing=["mx.example.org AAAA"]))
    assert facts == HostFacts(NAME, NAME, fault=Fault.FAILED, detail="AAAA mx.example.org: SERVFAIL")


@pytest.mark.parametrize("how", ["failing", "bogus"])
@pytest.mark.parametrize(("lost", "left"), [("A", "2001:db8::1"), ("AAAA", "192.0.2.1")])
def test_row_9_the_family_that_answers_is_used(how: str, lost: str, left: str) -> None:
    facts, asked = known(table(PLAIN, **{how: [f"mx.example.org {lost}"]}))
    assert facts == HostFacts(NAME, NAME, (ip_address(left),), True, NAME, TLSAState.SECURE, (RECORD,), 300)
    assert asked == [*ADDRESSES, TLSA_ORIGINAL]


@pytest.mark.parametrize(("insecure", "left"), [("A", "2001:db8::1"), ("AAAA", "192.0.2.1")])
def test_row_9_beside_a_secure_family_the_insecure_one_is_not_used(insecure: str, left: str) -> None:
    dns = table(PLAIN, insecure=[f"mx.example.org {insecure}"])
    facts, _ = known(dns)
    assert (facts.addresses, facts.secure, facts.tlsa) == ((ip_address(left),), True, TLSAState.SECURE)
    unwanted, _ = known(dns, dane_wanted=False)
    assert (len(unwanted.addresses), unwanted.secure, unwanted.tlsa) == (2, False, TLSAState.NOT_ASKED)


def test_row_10_no_address() -> None:
    nodata, _ = known(table("_25._tcp.mx.example.org TLSA 3 1 1 ab12"))
    assert (nodata.fault, nodata.addresses) == (Fault.NO_ADDRESS, ())
    nxdomain, asked = known(table(""))
    assert (nxdomain.fault, nxdomain.addresses) == (Fault.NO_SUCH_DOMAIN, ())
    assert asked == ADDRESSES
    dangling, _ = known(table("mx.example.org CNAME gone.example"))
    assert (dangling.fault, dangling.expanded) == (Fault.NO_SUCH_DOMAIN, "gone.example")


def test_row_11_secure_addresses() -> None:
    facts, asked = known(table(PLAIN))
    both = (ip_address("2001:db8::1"), ip_address("192.0.2.1"))
    assert facts == HostFacts(NAME, NAME, both, True, NAME, TLSAState.SECURE, (RECORD,), 300)
    assert asked == [*ADDRESSES, TLSA_ORIGINAL]


def test_row_12_insecure_addresses_are_not_asked_for_tlsa() -> None:
    """RFC 7672 2.2.2: many unsigned zones' servers fail on TLSA, and mail would stop."""
    for dns in (
        table(PLAIN).unsigned(),
        table(PLAIN, insecure=["mx.example.org"], failing=["_25._tcp.mx.example.org"]),
    ):
        facts, asked = known(dns)
        assert (facts.secure, facts.base, facts.tlsa, facts.records) == (False, None, TLSAState.NOT_ASKED, ())
        assert asked == ADDRESSES


def test_row_13_expanded_name_before_original() -> None:
    facts, asked = known(table(ALIAS + AT_EXPANDED + AT_ORIGINAL))
    assert (facts.expanded, facts.base, facts.records) == ("real.example", "real.example", (RECORD,))
    assert asked == [*ADDRESSES, TLSA_EXPANDED]


@pytest.mark.parametrize("insecure", [[], ["_25._tcp.real.example"]], ids=["denied", "insecure"])
def test_row_13_then_the_original_name(insecure: list[str]) -> None:
    zone = ALIAS + AT_ORIGINAL + (AT_EXPANDED if insecure else "")
    facts, asked = known(table(zone, insecure=insecure))
    assert (facts.base, facts.tlsa, facts.records) == (NAME, TLSAState.SECURE, (TLSA(3, 1, 1, b"\xcd\x34"),))
    assert asked == [*ADDRESSES, TLSA_EXPANDED, TLSA_ORIGINAL]


@pytest.mark.parametrize(("how", "state"), [("failing", TLSAState.FAILED), ("bogus", TLSAState.BOGUS)])
def test_row_13_a_failure_at_the_expanded_name_ends_the_search(how: str, state: TLSAState) -> None:
    facts, asked = known(table(ALIAS + AT_EXPANDED + AT_ORIGINAL, **{how: ["_25._tcp.real.example"]}))
    assert (facts.tlsa, facts.records, facts.base) == (state, (), None)
    assert facts.detail.startswith(TLSA_EXPANDED)
    assert asked == [*ADDRESSES, TLSA_EXPANDED]


def test_row_14_a_secure_alias_of_an_insecure_host() -> None:
    facts, asked = known(table(ALIAS + AT_EXPANDED + AT_ORIGINAL, insecure=["real.example"]))
    assert (facts.secure, facts.expanded, facts.base) == (False, "real.example", NAME)
    assert (facts.tlsa, facts.records) == (TLSAState.SECURE, (TLSA(3, 1, 1, b"\xcd\x34"),))
    assert asked == [*ADDRESSES, "CNAME mx.example.org", TLSA_ORIGINAL]


def test_row_14_only_at_the_original_name() -> None:
    facts, asked = known(table(ALIAS + AT_EXPANDED, insecure=["real.example"]))
    assert (facts.tlsa, facts.records) == (TLSAState.NONE, ())
    assert asked == [*ADDRESSES, "CNAME mx.example.org", TLSA_ORIGINAL]


def answered_twice(dns: Table, alias: Table) -> tuple[HostFacts, list[Question]]:
    """What is known where the question for the alias itself is answered by another table."""
    asking = host(NAME)
    asked, questions = next(asking), list[Question]()
    while True:
        questions += asked
        answers = tuple((alias if question.kind is Kind.CNAME else dns).answer(question) for question in asked)
        try:
            asked = asking.send(answers)
        except StopIteration as done:
            return done.value, questions


@pytest.mark.parametrize(("how", "state"), [("failing", TLSAState.FAILED), ("bogus", TLSAState.BOGUS)])
def test_row_14_no_answer_on_the_alias(how: str, state: TLSAState) -> None:
    """RFC 7672 2.1.2: nobody can say whether there is DANE. The alias is in no chain here: only the question fails."""
    broken = table(ALIAS + AT_ORIGINAL, insecure=["real.example"], **{how: ["mx.example.org CNAME"]})
    whole = table(ALIAS + AT_ORIGINAL, insecure=["real.example"])
    facts, questions = answered_twice(whole, broken)
    assert (facts.tlsa, facts.records, questions[-1].kind) == (state, (), Kind.CNAME)
    assert facts.detail.startswith("CNAME mx.example.org: SERVFAIL")


def test_row_15_an_insecure_alias() -> None:
    facts, asked = known(table(ALIAS + AT_EXPANDED + AT_ORIGINAL, insecure=["mx.example.org"]))
    assert (facts.secure, facts.tlsa, facts.records) == (False, TLSAState.NOT_ASKED, ())
    assert asked == [*ADDRESSES, "CNAME mx.example.org"]


def test_rows_16_and_17_records_are_handed_on_whatever_they_are_worth() -> None:
    facts, _ = known(table("mx.example.org A 192.0.2.1\n_25._tcp.mx.example.org TLSA -\n" + AT_ORIGINAL))
    assert facts.records == (TLSA(255, 255, 255, b""), TLSA(3, 1, 1, b"\xcd\x34"))


@pytest.mark.parametrize(
    ("zone", "insecure"),
    [
        ("", []),
        ("x._25._tcp.mx.example.org A 192.0.2.1", []),
        ("", ["_25._tcp.mx.example.org"]),
        (AT_ORIGINAL, ["_25._tcp.mx.example.org"]),
    ],
    ids=["NXDOMAIN", "NODATA", "insecure denial", "insecure records"],
)
def test_rows_18_and_19_none_that_count(zone: str, insecure: list[str]) -> None:
    facts, asked = known(table(f"mx.example.org A 192.0.2.1\n{zone}", insecure=insecure))
    assert (facts.secure, facts.tlsa, facts.records, facts.base) == (True, TLSAState.NONE, (), None)
    assert asked == [*ADDRESSES, TLSA_ORIGINAL]


@pytest.mark.parametrize(("how", "state"), [("failing", TLSAState.FAILED), ("bogus", TLSAState.BOGUS)])
def test_row_20_no_answer(how: str, state: TLSAState) -> None:
    facts, _ = known(table(PLAIN, **{how: ["_25._tcp.mx.example.org"]}))
    assert (facts.tlsa, facts.records, facts.fault) == (state, (), None)
    assert facts.detail.startswith("TLSA _25._tcp.mx.example.org: SERVFAIL")


CHAIN = """
    mx.example.org           A     192.0.2.1
    _25._tcp.mx.example.org  CNAME tlsa.example
    tlsa.example             TLSA  3 1 1 ab12
"""


def test_row_21_the_base_is_the_name_asked_not_where_its_alias_leads() -> None:
    """RFC 7672 2.2.3."""
    facts, _ = known(table(CHAIN))
    assert (facts.base, facts.tlsa, facts.records) == (NAME, TLSAState.SECURE, (RECORD,))


@pytest.mark.parametrize("link", ["_25._tcp.mx.example.org", "tlsa.example"])
def test_row_21_any_insecure_link_makes_them_insecure(link: str) -> None:
    facts, _ = known(table(CHAIN, insecure=[link]))
    assert (facts.tlsa, facts.records) == (TLSAState.NONE, ())


def test_row_22_an_endless_alias_is_a_failure() -> None:
    facts, _ = known(table("mx.example.org CNAME mx.example.org"))
    assert facts.fault is Fault.FAILED
    tlsa, _ = known(table("mx.example.org A 192.0.2.1\n_25._tcp.mx.example.org CNAME _25._tcp.mx.example.org"))
    assert tlsa.tlsa is TLSAState.FAILED


def test_the_port_that_is_dialled_is_in_the_name() -> None:
    facts, asked = known(table(PLAIN + "_587._tcp.mx.example.org TLSA 2 0 1 ef56"), 587)
    assert (asked[-1], facts.records) == ("TLSA _587._tcp.mx.example.org", (TLSA(2, 0, 1, b"\xef\x56"),))


def test_a_name_too_long_for_tlsa_has_none() -> None:
    long = domain(".".join(["a" * 61] * 4))
    zone = f"mx.example.org CNAME {long}\n{long} A 192.0.2.1\n{AT_ORIGINAL}"
    facts, asked = known(table(zone))
    assert (facts.expanded, facts.base, asked[2:]) == (long, NAME, [TLSA_ORIGINAL])
    alone, questions = run(host(long), table(zone))
    assert (alone.tlsa, len(questions)) == (TLSAState.NONE, 2)


def test_unwanted_nothing_more_is_asked() -> None:
    for zone in (PLAIN, ALIAS + AT_EXPANDED):
        for dns in (table(zone), table(zone).unsigned()):
            facts, asked = known(dns, dane_wanted=False)
            assert (facts.tlsa, facts.records, asked) == (TLSAState.NOT_ASKED, (), ADDRESSES)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_row_6_an_address_asks_nothing(address: str) -> None:
    literal = ip_address(address)
    assert run(host(literal), table("")) == (HostFacts(literal, literal, (literal,)), [])


def test_no_more_addresses_than_anybody_will_dial() -> None:
    """Of both families, as they take turns."""
    zone = "".join(f"mx.example.org A 192.0.2.{last}\nmx.example.org AAAA 2001:db8::{last}\n" for last in range(200))
    facts, _ = run(host(domain("mx.example.org")), table(zone))
    assert len(facts.addresses) == MAX_ADDRESSES
    assert sum(address.version == 6 for address in facts.addresses) == MAX_ADDRESSES / 2


def test_families_take_turns_and_ipv6_begins() -> None:
    """RFC 8305 4."""
    dns = table("""
        mx.example.org A    192.0.2.1
        mx.example.org A    192.0.2.2
        mx.example.org A    192.0.2.3
        mx.example.org AAAA 2001:db8::1
        mx.example.org AAAA 2001:db8::2
    """)
    facts, _ = known(dns)
    expected = ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.3"]
    assert list(map(str, facts.addresses)) == expected


def test_mapped_addresses_are_what_they_map_and_none_comes_twice() -> None:
    """::ffff:127.0.0.1 would pass for an address that may be dialled."""
    facts, _ = known(table("mx.example.org AAAA ::ffff:127.0.0.1\nmx.example.org A 127.0.0.1"))
    assert facts.addresses == (ip_address("127.0.0.1"),)


@pytest.mark.parametrize(
    ("zone", "ttl"),
    [
        ("mx.example.org 50 A 192.0.2.1\n_25._tcp.mx.example.org 60 TLSA 3 1 1 ab12", 50),
        ("mx.example.org 60 A 192.0.2.1\n_25._tcp.mx.example.org 50 TLSA 3 1 1 ab12", 50),
        ("mx.example.org 60 A 192.0.2.1\nmx.example.org 50 AAAA 2001:db8::1", 50),
        ("mx.example.org 400 A 192.0.2.1", 300),
        ("mx.example.org 50 CNAME real.example\nreal.example A 192.0.2.1", 50),
    ],
)
def test_it_may_be_believed_as_long_as_the_shortest_of_all_it_rests_on(zone: str, ttl: int) -> None:
    assert known(table(zone))[0].tlsa_ttl == ttl


def test_so_may_what_rests_on_an_alias() -> None:
    zone = "mx.example.org 400 CNAME real.example\nreal.example 350 A 192.0.2.1\n_25._tcp.mx.example.org 360 TLSA -"
    assert known(table(zone, insecure=["real.example"]))[0].tlsa_ttl == 350
    shorter = table(zone.replace(" 360 ", " 340 "), insecure=["real.example"])
    assert known(shorter)[0].tlsa_ttl == 340
    renewed = table(zone.replace(" 400 ", " 330 "))
    assert answered_twice(table(zone, insecure=["real.example"]), renewed)[0].tlsa_ttl == 330


def test_of_the_names_of_tlsa_records_only_the_last_are_kept() -> None:
    for number in range(KNOWN + 1):
        tlsa_name(domain(f"mx{number}.example"), 25)
    assert tlsa_name.cache_info().currsize == KNOWN
