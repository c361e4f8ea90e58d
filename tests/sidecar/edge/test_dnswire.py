"""DNS messages: what is asked, and what each answer comes to, byte for byte."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postern_sidecar.answers import MX, SOA, TLSA, Answer, Kind, Question, State
from postern_sidecar.edge.dnswire import (
    ALIASES,
    OTHERS,
    RECORDS,
    NotTheAnswerError,
    TruncatedError,
    failed,
    query,
    read,
    servfail,
)
from postern_sidecar.names import ROOT, Domain

if TYPE_CHECKING:
    from collections.abc import Iterable

NUMBER = 4711
NAME = Domain("mx.example.org")
A = Question(NAME, Kind.A)
TLSA_NAME = Domain("_25._tcp.mx.example.org")
ADDRESS = "mx.example.org. 60 IN A 192.0.2.1"
SOA_TEXT = "example.org. 600 IN SOA ns.example.org. root.example.org. 1 2 3 4 30"


def rrset(text: str) -> dns.rrset.RRset:
    name, ttl, kin, kind, *data = text.split(" ", 4)
    return dns.rrset.from_text(name, int(ttl), kin, kind, *data)


def message(
    question: Question,
    answer: Iterable[str] = (),
    authority: Iterable[str] = (),
    *,
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
    ad: bool = True,
    ra: bool = True,
    ede: tuple[int, str] | None = None,
) -> dns.message.Message:
    made: dns.message.Message = dns.message.make_response(
        dns.message.from_wire(query(question, NUMBER)), recursion_available=ra
    )
    made.set_rcode(rcode)
    made.flags = (made.flags | dns.flags.AD) if ad else (made.flags & ~dns.flags.AD)
    made.answer = [rrset(text) for text in answer]
    made.authority = [rrset(text) for text in authority]
    if ede is not None:
        made.use_edns(0, options=[dns.edns.EDEOption(dns.edns.EDECode(ede[0]), ede[1])])
    return made


def answered(question: Question, *answer: str, **more: Any) -> Answer:
    return read(question, NUMBER, message(question, answer, **more).to_wire())


@pytest.mark.parametrize("disabled", [True, False])
def test_a_question(disabled: bool) -> None:
    asked = dns.message.from_wire(query(Question(TLSA_NAME, Kind.TLSA, disabled), NUMBER))
    (question,) = asked.question
    assert (asked.id, question.to_text()) == (NUMBER, "_25._tcp.mx.example.org. IN TLSA")
    flags = {dns.flags.RD, dns.flags.AD, *([dns.flags.CD] if disabled else [])}
    assert dns.flags.Flag(asked.flags) == dns.flags.Flag(sum(flags))
    assert (asked.edns, asked.payload, asked.ednsflags) == (0, 1232, 0)


def test_the_root_is_a_question_too() -> None:
    (question,) = dns.message.from_wire(query(Question(ROOT, Kind.SOA), NUMBER)).question
    assert question.to_text() == ". IN SOA"


def test_a_name_that_is_too_long_to_ask_for() -> None:
    name = Domain("_25._tcp." + ".".join(["x" * 49] * 5))
    with pytest.raises(ValueError, match="no name"):
        query(Question(name, Kind.TLSA), NUMBER)


RECORD = {
    Kind.A: (NAME, "192.0.2.1", ip_address("192.0.2.1")),
    Kind.AAAA: (NAME, "2001:db8::1", ip_address("2001:db8::1")),
    Kind.MX: (NAME, "10 mx.example.net.", MX(10, Domain("mx.example.net"))),
    Kind.CNAME: (NAME, "other.example.net.", Domain("other.example.net")),
    Kind.TLSA: (TLSA_NAME, f"3 1 1 {'ab' * 32}", TLSA(3, 1, 1, b"\xab" * 32)),
    Kind.SOA: (NAME, "ns.example.net. root.example.net. 1 2 3 4 5", SOA(Domain("ns.example.net"))),
}


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(("ad", "state"), [(True, State.SECURE), (False, State.INSECURE)])
def test_each_type(kind: Kind, ad: bool, state: State) -> None:
    name, text, record = RECORD[kind]
    question = Question(name, kind)
    wanted = Answer(question, state, (record,), name, 60)
    assert answered(question, f"{name}. 60 IN {kind.value} {text}", ad=ad) == wanted


def test_null_mx() -> None:
    question = Question(NAME, Kind.MX)
    assert answered(question, f"{NAME}. 60 IN MX 0 .").records == (MX(0, ROOT),)


def test_an_address_in_the_other_familys_clothes() -> None:
    question = Question(NAME, Kind.AAAA)
    assert answered(question, f"{NAME}. 60 IN AAAA ::ffff:127.0.0.1").records == (ip_address("127.0.0.1"),)


def test_with_checking_disabled_nothing_is_secure() -> None:
    question = A._replace(checking_disabled=True)
    assert answered(question, ADDRESS).state is State.INSECURE
    assert not answered(question, authority=[SOA_TEXT]).denied


@pytest.mark.parametrize("ad", [True, False])
@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, dns.rcode.NXDOMAIN])
def test_absence(ad: bool, rcode: dns.rcode.Rcode) -> None:
    wanted = Answer(A, State.ABSENT, name=NAME, ttl=30, denied=ad, nxdomain=rcode == dns.rcode.NXDOMAIN)
    assert answered(A, authority=[SOA_TEXT], rcode=rcode, ad=ad) == wanted


@pytest.mark.parametrize(("soa", "ttl"), [([SOA_TEXT.replace("600", "20", 1)], 20), ([SOA_TEXT], 30), ([], 0)])
def test_an_absence_is_kept_as_long_as_the_soa_says(soa: list[str], ttl: int) -> None:
    assert answered(A, authority=soa).ttl == ttl


ALIAS = ["mx.example.org. 40 IN CNAME a.example.net.", "a.example.net. 50 IN CNAME *.wild.example.net."]


def test_aliases_are_followed() -> None:
    found = answered(A, *ALIAS, "*.wild.example.net. 60 IN A 192.0.2.1")
    assert found == Answer(A, State.SECURE, (ip_address("192.0.2.1"),), Domain("*.wild.example.net"), 40)


def test_in_any_order_and_case() -> None:
    found = answered(A, "*.WILD.example.net. 60 IN A 192.0.2.1", ALIAS[1].upper(), ALIAS[0].upper())
    assert (found.state, found.name) == (State.SECURE, "*.wild.example.net")


def test_an_alias_that_leads_nowhere() -> None:
    found = answered(A, *ALIAS, authority=[SOA_TEXT], rcode=dns.rcode.NXDOMAIN)
    assert found == Answer(A, State.ABSENT, (), Domain("*.wild.example.net"), 30, True, True)


def test_an_alias_asked_for_itself_is_not_followed() -> None:
    found = answered(Question(NAME, Kind.CNAME), *ALIAS)
    assert (found.records, found.name) == ((Domain("a.example.net"),), NAME)


def chain(aliases: int) -> list[str]:
    names = [NAME, *(f"a{number}.example.net" for number in range(aliases))]
    return [f"{a}. 60 IN CNAME {b}." for a, b in pairwise(names)] + [f"{names[-1]}. 60 IN A 192.0.2.1"]


def test_as_many_aliases_as_resolvers_follow() -> None:
    assert answered(A, *chain(ALIASES)).state is State.SECURE
    assert answered(A, *chain(ALIASES + 1)) == failed(A, f"more than {ALIASES} aliases")


def test_aliases_in_a_circle() -> None:
    circle = ["mx.example.org. 60 IN CNAME a.example.org.", "a.example.org. 60 IN CNAME mx.example.org."]
    assert answered(A, *circle).state is State.FAILED


FOREIGN = [
    "mx.example.org. 60 IN AAAA 2001:db8::1",
    "other.example.org. 1 IN A 192.0.2.66",
    'mx.example.org. 1 IN TXT "x"',
    "example.org. 1 IN DNAME example.net.",
    "mx.example.org. 1 CH A mx.example.org. 1",
]


def test_records_of_others_are_ignored() -> None:
    found = answered(A, *FOREIGN, ADDRESS)
    assert found == Answer(A, State.SECURE, (ip_address("192.0.2.1"),), NAME, 60)


def test_the_same_record_twice_is_one() -> None:
    wire = bytearray(message(A, [ADDRESS]).to_wire())
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + b"\xc0\x00\x02\x01"
    at = bytes(wire).index(record)
    doubled = wire[:6] + b"\x00\x02" + wire[8:at] + record + wire[at:]
    assert read(A, NUMBER, bytes(doubled)).records == (ip_address("192.0.2.1"),)


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (["mx.example.org. 60 IN CNAME a.example.", "mx.example.org. 60 IN CNAME b.example."], "two aliases"),
        (["example.org. 60 IN DNAME example.net."], "DNAME without its CNAME"),
        (["mx.example.org. 60 IN CNAME a\\032b.example."], "malformed"),
        (["other.example.org. 60 IN A 192.0.2.66"], "records of other names"),
        (["other.example.org. 60 IN CNAME mx.example.org."], "records of other names"),
        ([*ALIAS, "a.wild.example.net. 60 IN A 192.0.2.66"], "records of other names"),
    ],
)
def test_what_cannot_be_followed(answer: list[str], detail: str) -> None:
    found = answered(A, *answer)
    assert found.state is State.FAILED
    assert detail in found.detail


def test_an_exchange_that_is_no_name_is_left_out() -> None:
    question = Question(NAME, Kind.MX)
    bad, good = f"{NAME}. 60 IN MX 5 a\\032b.example.", f"{NAME}. 60 IN MX 10 b.example."
    assert answered(question, bad, good).records == (MX(10, Domain("b.example")),)
    assert answered(question, bad).state is State.FAILED


def with_record(data: bytes, *, kind: int = 52, count: int = 1, length: int | None = None) -> bytes:
    """An answer to the TLSA question with `count` times this record."""
    question = Question(TLSA_NAME, Kind.TLSA)
    wire = query(question, NUMBER)
    record = b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(data) if length is None else length) + data
    asked = wire[12:-11]
    return struct.pack("!HHHHHH", NUMBER, 0x81A0, 1, count, 0, 0) + asked + record * count


TLSA_QUESTION = Question(TLSA_NAME, Kind.TLSA)


@pytest.mark.parametrize("data", [b"", b"\x03", b"\x03\x01"])
def test_a_tlsa_record_that_is_too_short_is_there_and_unusable(data: bytes) -> None:
    assert read(TLSA_QUESTION, NUMBER, with_record(data)).records == (TLSA(255, 255, 255, b""),)


def test_one_bad_tlsa_record_loses_no_other() -> None:
    good = b"\x03\x01\x01" + b"\xab" * 32
    one, other = with_record(b"\x03"), with_record(good)
    both = other[:6] + b"\x00\x02" + other[8:] + one[one.index(b"\xc0\x0c") :]
    assert read(TLSA_QUESTION, NUMBER, both).records == (TLSA(3, 1, 1, b"\xab" * 32), TLSA(255, 255, 255, b""))


def test_a_tlsa_record_of_three_octets() -> None:
    assert read(TLSA_QUESTION, NUMBER, with_record(b"\x03\x01\x01")).records == (TLSA(3, 1, 1, b""),)


def test_more_records_than_anybody_needs() -> None:
    most = [b"\x03\x01\x01" + bytes([number % 256]) for number in range(RECORDS)]
    assert read(TLSA_QUESTION, NUMBER, with_record(most[0], count=RECORDS)).state is State.SECURE
    too_many = read(TLSA_QUESTION, NUMBER, with_record(most[0], count=RECORDS + 1))
    assert too_many == failed(TLSA_QUESTION, "too many records")


def test_more_records_than_there_are_octets_for() -> None:
    wire = bytearray(with_record(b"\x03\x01\x01x"))
    wire[8:10] = (OTHERS + 1).to_bytes(2, "big")
    assert read(TLSA_QUESTION, NUMBER, bytes(wire)) == failed(TLSA_QUESTION, "too many records")
    wire[8:10] = OTHERS.to_bytes(2, "big")
    assert read(TLSA_QUESTION, NUMBER, bytes(wire)) == failed(TLSA_QUESTION, "malformed")


def test_a_time_to_live_with_its_highest_bit_is_none() -> None:
    wire = with_record(b"\x03\x01\x01x").replace(struct.pack("!I", 60), struct.pack("!I", 1 << 31))
    assert read(TLSA_QUESTION, NUMBER, wire).ttl == 0


def test_data_longer_than_its_record_says() -> None:
    assert read(TLSA_QUESTION, NUMBER, with_record(b"\x03\x01\x01x", length=500)).detail == "malformed"
    assert (
        read(A, NUMBER, message(A, [ADDRESS]).to_wire().replace(b"\x00\x04\xc0", b"\x00\x03\xc0")).detail == "malformed"
    )


@pytest.mark.parametrize(
    ("rcode", "text"),
    [
        (dns.rcode.SERVFAIL, "SERVFAIL"),
        (dns.rcode.REFUSED, "REFUSED"),
        (dns.rcode.NOTIMP, "NOTIMP"),
        (dns.rcode.FORMERR, "FORMERR"),
        (dns.rcode.BADVERS, "BADVERS"),
        (dns.rcode.YXDOMAIN, "RCODE 6"),
    ],
)
def test_an_error_is_no_absence(rcode: dns.rcode.Rcode, text: str) -> None:
    found = answered(A, rcode=rcode)
    assert found == failed(A, text)
    assert servfail(found) is (text == "SERVFAIL")


@pytest.mark.parametrize(
    ("ede", "text"),
    [
        ((7, "too old\n\u00e9"), "SERVFAIL, signature expired: too old???"),
        ((22, ""), "SERVFAIL, no reachable authority"),
        ((30, ""), "SERVFAIL, error 30"),
        ((6, "x" * 900), f"SERVFAIL, bogus: {'x' * 160}"),
    ],
)
def test_a_server_says_why(ede: tuple[int, str], text: str) -> None:
    found = answered(A, rcode=dns.rcode.SERVFAIL, ede=ede)
    assert found == failed(A, text)
    assert servfail(found)


def test_an_explanation_of_an_answer_changes_nothing() -> None:
    assert answered(A, ADDRESS, ede=(6, "x")).state is State.SECURE


def test_a_server_without_recursion_has_no_answer() -> None:
    """What it says of other zones is where to ask, which would look like an absence."""
    assert answered(A, authority=["org. 60 IN NS ns.example.org."], ra=False).state is State.FAILED


def test_truncated() -> None:
    wire = bytearray(message(A, [ADDRESS]).to_wire())
    wire[2] |= 0x02
    with pytest.raises(TruncatedError):
        read(A, NUMBER, bytes(wire))


OTHER = message(Question(Domain("other.example.org"), Kind.A), [ADDRESS]).to_wire()
GOOD = message(A, [ADDRESS]).to_wire()
NOT_OURS = {
    "nothing": b"",
    "too short": GOOD[:11],
    "its question cut off": GOOD[:14],
    "another name": OTHER,
    "another type": message(Question(NAME, Kind.AAAA), [ADDRESS]).to_wire(),
    "another class": GOOD.replace(b"org\x00\x00\x01\x00\x01", b"org\x00\x00\x01\x00\x03", 1),
    "another number": b"\x00\x01" + GOOD[2:],
    "a question": query(A, NUMBER),
    "another operation": GOOD[:2] + bytes([GOOD[2] | 0x20]) + GOOD[3:],
    "two questions": GOOD[:4] + b"\x00\x02" + GOOD[6:],
    "an answer without question": GOOD[:4] + b"\x00\x00" + GOOD[6:],
}


@pytest.mark.parametrize("wire", [pytest.param(wire, id=name) for name, wire in NOT_OURS.items()])
def test_not_the_answer(wire: bytes) -> None:
    with pytest.raises(NotTheAnswerError):
        read(A, NUMBER, wire)


def test_an_error_may_leave_the_question_out() -> None:
    assert read(A, NUMBER, struct.pack("!HHHHHH", NUMBER, 0x8181, 0, 0, 0, 0)) == failed(A, "FORMERR")


def test_every_shorter_message_is_no_answer() -> None:
    wire = message(A, [*ALIAS, "*.wild.example.net. 60 IN A 192.0.2.1"], [SOA_TEXT]).to_wire()
    question_ends = len(query(A, NUMBER)) - 11
    for size in range(question_ends, len(wire)):
        assert read(A, NUMBER, wire[:size]) == failed(A, "malformed"), size


@given(st.binary(max_size=300), st.integers(0, 3), st.integers(0, 3))
def test_garbage_behind_a_good_header_never_raises(rest: bytes, answers: int, others: int) -> None:
    asked = query(A, NUMBER)[12:-11]
    wire = struct.pack("!HHHHHH", NUMBER, 0x81A0, 1, answers, others, others) + asked + rest
    assert read(A, NUMBER, wire).state in (State.FAILED, State.ABSENT, State.SECURE)


@given(st.data())
def test_a_flipped_octet_never_raises(data: st.DataObject) -> None:
    wire = bytearray(message(A, [*ALIAS, "*.wild.example.net. 60 IN A 192.0.2.1"], [SOA_TEXT], ede=(6, "x")).to_wire())
    at = data.draw(st.integers(0, len(wire) - 1))
    wire[at] = data.draw(st.integers(0, 255))
    try:
        found = read(A, NUMBER, bytes(wire))
    except (NotTheAnswerError, TruncatedError):
        return
    assert bool(found.records) is (found.state in (State.SECURE, State.INSECURE))
