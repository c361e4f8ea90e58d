"""The DANE laboratory itself: its zones are what their names say, as an independent resolver sees them, and an
independent client, Postfix, delivers with DANE in it and refuses what does not match.

A case of the delivery table that fails where these pass has found a fault of the relay. Postfix runs the whole table in
`test_dane_peers`.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Literal

import dns.flags
import dns.rcode
import pytest

from dane.build import POLICIES, ZONES
from dane.case import A, Case, Server, delivered, tlsa
from dane.shapes import SHAPES
from dane_cases import BY_NAME, CASES
from lab.danelab import DaneLab, Seen
from lab.destinations import Behaviour, Identity, postfix_tls
from lab.servers import postfix
from lab.servers.sidecar import manifest
from postern_sidecar.config import load

if TYPE_CHECKING:
    from lab.laboratory import Lab
    from lab.mailserver import MailServer

pytestmark = pytest.mark.real

INSECURE = {"insecure.example", "unsigned.net", "unknown.example", "loose.example"}
BOGUS = {"bogus.example", "expired.example", "future.example", "stripped.example", "broken-ds.example"}
BOGUS |= {"missing.example"}
FAILED = {"lame.example", "silent.example", "dead.example"}
DANE_CLIENT = """\
mynetworks = 127.0.0.0/8
smtp_tls_security_level = dane
smtp_dns_support_level = dnssec
smtp_tls_loglevel = 1
"""


def state(zone: str) -> Seen:
    for seen, zones in ((Seen.INSECURE, INSECURE), (Seen.BOGUS, BOGUS), (Seen.FAILED, FAILED)):
        if zone in zones:
            return seen
    return Seen.SECURE


def test_it_starts_within_five_seconds(dane_lab: DaneLab) -> None:
    print(f"the laboratory started in {dane_lab.seconds:.2f} s")
    assert dane_lab.seconds < 5


def test_there_are_enough_cases_and_each_cites_its_source() -> None:
    assert len(CASES) >= 120
    assert len(BY_NAME) == len(CASES)
    assert [case.name for case in CASES if not re.search(r"RFC \d+|Exim", case.rfc)] == []


def test_cases_are_whole() -> None:
    for case in CASES:
        expect = case.expect
        assert (expect.outcome == "delivered") == (expect.level is not None) == (expect.at is not None), case.name
        assert expect.code[0] == {"delivered": "2", "deferred": "4", "bounced": "5"}[expect.outcome], case.name
        assert all(1 <= number <= len(case.servers) for number in expect.untouched), case.name
        assert case.zone in ZONES
        assert case.policy in POLICIES
    assert {server.shape for case in CASES for server in case.servers} >= {*SHAPES}
    assert {case.policy for case in CASES} == {*POLICIES}
    assert {case.zone for case in CASES} >= {*ZONES} - {"loose.example", "silent.example"}  # these serve single hosts


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("resolver", ["Embedded", "Servers"])
def test_a_sidecar_accepts_the_policy(dane_lab: DaneLab, policy: str, resolver: Literal["Embedded", "Servers"]) -> None:
    load(json.dumps(manifest({"outbound": dane_lab.outbound(policy, resolver)})).encode(), "policy.json")


@pytest.mark.parametrize("zone", [".", "example", "org", "net", *ZONES])
def test_a_zone_is_in_the_state_of_its_name(dane_lab: DaneLab, zone: str) -> None:
    assert dane_lab.seen(zone, "SOA") is state(zone)


@pytest.mark.parametrize(
    "name",
    [
        "_25._tcp.mx.tlsa-none.secure.example",  # NSEC: no such name
        "mx.tlsa-none.secure.example",  # NSEC: no such type
        "_tcp.mx.ee-1-1.secure.example",  # NSEC: an empty non-terminal
        "_25._tcp.mx.tlsa-none-nsec3.nsec3.org",
        "mx.tlsa-none-nsec3.nsec3.org",
        "tlsa-none-nsec3.nsec3.org",
        "mx.opt-out-zone.opt-out.net",
    ],
)
def test_a_denial_is_secure(dane_lab: DaneLab, name: str) -> None:
    assert dane_lab.seen(name, "TLSA") is Seen.SECURE
    assert not dane_lab.ask(name, "TLSA").answer


def test_an_opt_out_span_proves_nothing(dane_lab: DaneLab) -> None:
    assert not dane_lab.ask("unsigned.net", "DS").answer
    assert dane_lab.seen("unsigned.net", "DS") is Seen.INSECURE
    assert dane_lab.seen("nowhere.opt-out.net", "TLSA") is Seen.INSECURE


def owners(dane_lab: DaneLab) -> dict[tuple[str, str], Seen]:
    """Every RRset of every case but those at or below an alias, and what it must be: its zone's state, unless the case
    spoils it or has the liar speak."""
    expected: dict[tuple[str, str], Seen] = {}
    for case in CASES:
        for text in case.records:
            owner, kind = re.sub(r" \d+ (?=[A-Z])", " ", text).split(" ")[:2]
            name = owner.format(name=case.name).rstrip(".") if owner.endswith(".") else f"{owner}.{case.domain}"
            name = name.removeprefix("@.")
            zone = max((zone for zone in ZONES if name.endswith(f".{zone}")), key=len)
            changed = f"{owner} {kind}" in case.spoil
            changed |= any(answer.startswith(f"{owner} {kind} ") for answer in case.misanswer)
            if kind not in ("CNAME", "DNAME") and not owner.startswith("*") and not case.zones:
                expected[name, kind] = Seen.BOGUS if changed and zone not in INSECURE else state(zone)
    return expected


def test_each_record_of_each_case_is_as_its_zone_or_as_the_case_spoils_it(dane_lab: DaneLab) -> None:
    wrong = []
    expected = {key: seen for key, seen in owners(dane_lab).items() if seen is not Seen.FAILED}
    for (name, kind), seen in expected.items():
        found = dane_lab.seen(name, kind)
        broken = {Seen.BOGUS, Seen.FAILED}  # a liar's own failure is one with CD too
        if found is not seen and not {found, seen} <= broken:
            wrong.append((name, kind, found, seen))
    assert len(expected) > 500
    assert not wrong


@pytest.mark.parametrize(
    ("name", "kind", "seen"),
    [
        ("old.domain-alias.secure.example", "MX", Seen.SECURE),
        ("lists.old.domain-dname.secure.example", "MX", Seen.SECURE),
        ("any.w.domain-wildcard.secure.example", "MX", Seen.SECURE),
        ("any.w.domain-wildcard-nsec3.nsec3.org", "MX", Seen.SECURE),
        ("mx.alias-to-secure-zone.secure.example", "A", Seen.SECURE),
        ("mx.alias-to-insecure-tlsa-at-original.secure.example", "A", Seen.INSECURE),
        ("mx.alias-to-insecure-tlsa-at-original.secure.example", "CNAME", Seen.SECURE),
        ("mx.alias-insecure-to-secure.insecure.example", "A", Seen.INSECURE),
        ("mx.alias-spoilt.secure.example", "A", Seen.BOGUS),
        ("old.domain-alias-insecure.insecure.example", "MX", Seen.INSECURE),
        ("_25._tcp.mx.tlsa-alias-to-secure-zone.secure.example", "TLSA", Seen.SECURE),
        ("_25._tcp.mx.tlsa-alias-to-insecure-zone.secure.example", "TLSA", Seen.INSECURE),
        ("_25._tcp.mx.tlsa-alias-to-bogus-zone.secure.example", "TLSA", Seen.BOGUS),
        ("_25._tcp.mx.tlsa-wildcard.secure.example", "TLSA", Seen.SECURE),
        ("_25._tcp.mx.tlsa-wildcard-alias.secure.example", "TLSA", Seen.SECURE),
        ("_25._tcp.mx.tlsa-zone-insecure.secure.example", "TLSA", Seen.INSECURE),
        ("_25._tcp.mx.tlsa-zone-expired.secure.example", "TLSA", Seen.BOGUS),
        ("_25._tcp.mx.tlsa-zone-lame.secure.example", "TLSA", Seen.FAILED),
    ],
)
def test_an_alias_a_wildcard_and_a_cut_have_the_state_that_their_case_needs(
    dane_lab: DaneLab, name: str, kind: str, seen: Seen
) -> None:
    assert dane_lab.seen(name, kind) is seen


def test_a_loop_of_aliases_is_no_answer(dane_lab: DaneLab) -> None:
    answer = dane_lab.ask("mx.alias-loop.secure.example", "A")
    assert answer.rcode() == dns.rcode.SERVFAIL or not answer.get_rrset(
        answer.answer, answer.question[0].name, dns.rdataclass.IN, dns.rdatatype.A
    )


def test_a_question_about_the_unsigned_host_would_have_failed(dane_lab: DaneLab) -> None:
    (case,) = [case for case in CASES if case.name == "host-insecure"]
    host = f"mx.{case.name}.loose.example"
    assert dane_lab.seen(host, "A") is Seen.INSECURE
    assert dane_lab.seen(f"_25._tcp.{host}", "TLSA") is Seen.FAILED


def test_a_changed_record_is_served_after_a_reload_and_still_secure(lab: Lab) -> None:
    case = Case(name="changing", rfc="", records=(A,), expect=delivered("may"))
    mine = DaneLab(lab, [case])
    host = f"mx.{case.domain}"
    before = mine.ask(host, "A")
    mine.world.replace(host, "A", "192.0.2.99", ttl=0)
    mine.world.add(f"late.{case.domain}", "A", "192.0.2.100")
    mine.names.reload()
    assert before.answer[0][0].to_text() == mine.setting.address(case, 1)
    mine.resolver.kill()
    mine.resolver = lab.unbound(mine.world)
    after = mine.ask(host, "A")
    assert after.answer[0][0].to_text() == "192.0.2.99"
    assert after.flags & dns.flags.AD
    assert mine.seen(f"late.{case.domain}", "A") is Seen.SECURE


def test_a_destination_does_what_it_is_told_from_one_session_to_the_next(lab: Lab) -> None:
    where = ("198.51.100.1", 25)
    sink = lab.sink({where: Behaviour(replies={"MAIL": ["451 4.7.1 later", "250 2.1.0 ok"]})})
    with lab.pod.talk(where) as client:
        client.expect(220)
        client.command("EHLO client.test", 250)
        client.command("MAIL FROM:<a@client.test>", 451)
        client.command("MAIL FROM:<a@client.test>", 250)
        client.command("RCPT TO:<b@sink.example>", 250)
        client.command("DATA", 354)
        client.send(b"Subject: x\r\n\r\n..stuffed\r\n.\r\n")
        client.expect(250)
        client.command("QUIT", 221)
    sink.update({where: Behaviour(replies={"banner": "554 5.3.2 gone\n!close"})})
    with lab.pod.talk(where) as client:
        client.expect(554)
    (message,) = sink.messages(to=where[0])
    assert (message.rcpt, message.tls, message.size) == (["b@sink.example"], None, 25)
    assert message.text == "Subject: x\r\n\r\n.stuffed\r\n"
    sink.log.wait_for('"event": "session"', times=2)
    assert [visit.end for visit in sink.visits(to=where[0])] == ["QUIT", "closed by the script"]
    assert sink.messages(recipient="nobody@sink.example") == []


@pytest.fixture(scope="module")
def client(dane_lab: DaneLab) -> MailServer:
    """Postfix in the pod, which delivers with DANE of its own."""
    return dane_lab.lab.postfix(master=postfix.service(2525), main=DANE_CLIENT)


def send(dane_lab: DaneLab, recipient: str) -> None:
    with dane_lab.lab.pod.talk(("127.0.0.1", 2525)) as talk:
        talk.deliver(recipient=recipient)


@pytest.mark.parametrize("name", ["ee-1-1", "ta-0-1", "alias-tlsa-at-target", "implicit-mx", "nsec3-zone"])
def test_postfix_verifies_and_delivers(dane_lab: DaneLab, client: MailServer, name: str) -> None:
    case = BY_NAME[name]
    recipient = dane_lab.setting.recipient(case)
    send(dane_lab, recipient)
    client.log.wait_for(rf"to=<{re.escape(recipient)}>.*status=sent")
    address = dane_lab.setting.address(case, 1)
    assert client.log.matches(rf"Verified TLS connection established to \S+\[{re.escape(address)}\]:25")
    messages = dane_lab.sink.messages(recipient=recipient)
    assert {(message.where, message.tls) for message in messages} == {(f"{address} 25", "TLSv1.3")}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ee-1-1-mismatch", "Server certificate not verified"),
        ("ta-wrong-name", "Server certificate not verified"),
        ("tlsa-spoilt", "TLSA lookup error"),
        ("tlsa-servfail", "TLSA lookup error"),
        ("starttls-missing", "TLS is required, but was not offered"),
        ("mx-bogus", "Host or domain name not found"),
    ],
)
def test_postfix_defers(dane_lab: DaneLab, client: MailServer, name: str, why: str) -> None:
    case = BY_NAME[name]
    recipient = dane_lab.setting.recipient(case)
    send(dane_lab, recipient)
    client.log.wait_for(rf"to=<{re.escape(recipient)}>.*status=deferred \(.*{why}")
    assert dane_lab.sink.messages(recipient=recipient) == []


def test_postfix_delivers_in_the_open_where_there_is_no_dane(dane_lab: DaneLab, client: MailServer) -> None:
    case = BY_NAME["insecure-clear"]
    recipient = dane_lab.setting.recipient(case)
    send(dane_lab, recipient)
    client.log.wait_for(rf"to=<{re.escape(recipient)}>.*status=sent")
    assert {message.tls for message in dane_lab.sink.messages(recipient=recipient)} == {None}


def test_a_real_server_is_a_destination_too(lab: Lab) -> None:
    """The sink is our own: here nothing is."""
    case = Case(
        name="real",
        rfc="",
        records=("@ MX 10 mx", "mx A {a1}", *tlsa("2 1 1 int")),
        servers=(Server(listening=False),),
        expect=delivered("dane"),
    )
    mine = DaneLab(lab, [case])
    address = mine.setting.address(case, 1)
    host = f"mx.{case.domain}"
    identity = Identity.of(*SHAPES["chain"](host, case.domain).sent)
    main, files = postfix_tls(identity, host=host, domain=case.domain)
    destination = lab.postfix(master=postfix.service(25, address), main=main, files=files, host="outside")
    client = lab.postfix(master=postfix.service(2525), main=DANE_CLIENT)
    send(mine, f"user@{case.domain}")
    client.log.wait_for("status=sent")
    assert client.log.matches(rf"Verified TLS connection established to \S+\[{re.escape(address)}\]:25")
    assert destination.log.matches(r"TLS connection established from \S+\[10\.0\.9\.12\]")
    (message,) = destination.received()
    assert message["Delivered-To"] == f"user@{case.domain}"
