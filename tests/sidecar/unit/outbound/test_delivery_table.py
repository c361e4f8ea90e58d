"""docs/delivery.md, row by row: the tables are read from the page, and each row has a scene here that proves it.

A row is delivered three times: as it stands; under `dane.require`; and with a sound MX host of a worse preference
beside it, which shows whether the next host is tried.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest

from certificates import EXPIRED, issue
from delivery_playbook import reply
from delivery_world import DeliveryWorld, Host, own_words
from dns_table import table
from postern_sidecar.answers import Kind
from postern_sidecar.config.model import OCSP, Auth, Dane, Outbound, OutboundTLS, Route, Skip, SkipLevel, WithoutDane
from postern_sidecar.config.scalars import Date, HostPort, Pattern
from postern_sidecar.names import Address, Domain, domain
from postern_sidecar.outbound.commands import Lost
from postern_sidecar.outbound.plan import Level
from postern_sidecar.outbound.replies import shown
from postern_sidecar.outbound.report import Outcome

if TYPE_CHECKING:
    from certificates import Certified
    from postern_sidecar.replies import Reply

PAGE = Path(__file__).parents[4] / "docs" / "delivery.md"
DOMAIN = domain("example.org")
FIRST, NEXT, THIRD = ip_address("192.0.2.1"), ip_address("192.0.2.2"), ip_address("192.0.2.3")


class Row(NamedTuple):
    name: str
    situation: str
    does: str
    level: str
    hears: str
    next_host: str
    required: str
    source: str


def rows() -> list[Row]:
    lines = (line for line in PAGE.read_text().splitlines() if line.startswith("| `"))
    return [Row(*(cell.strip().strip("`") for cell in line.strip("|").split("|"))) for line in lines]


# The cast

ROOT_CA = issue("Root", ca=True)
LEAF = issue("mx.example.net", by=ROOT_CA, dns=["mx.example.net"])
DOMAIN_LEAF = issue("example.org", by=ROOT_CA, dns=["example.org"])
OTHER_LEAF = issue("other.example", by=ROOT_CA, dns=["other.example"])
STRANGER = issue("stranger.example", dns=["mx.example.net", "example.org"])
NEXT_LEAF = issue("mx2.example.net", by=ROOT_CA, dns=["mx2.example.net", "example.org"])


def ee(certified: Certified) -> str:
    return f"TLSA 3 1 1 {sha256(certified.spki).hexdigest()}"


MX = "example.org MX 10 mx.example.net\n"
A = "mx.example.net A 192.0.2.1\n"
TLSA_NAME = "_25._tcp.mx.example.net"
EE = f"{TLSA_NAME} {ee(LEAF)}\n"
TA = f"{TLSA_NAME} TLSA 2 0 1 {sha256(ROOT_CA.der).hexdigest()}\n"
UNUSABLE = f"{TLSA_NAME} TLSA 3 1 1 abcd\n"
ALIAS = "mx.example.net CNAME real.example\nreal.example A 192.0.2.1\n"
AT_REAL = f"_25._tcp.real.example {ee(LEAF)}\n"
ROUTED = f"relay.example.net A 192.0.2.1\n_587._tcp.relay.example.net {ee(LEAF)}\n"
BESIDE = f"mx2.example.net A 192.0.2.2\n_25._tcp.mx2.example.net {ee(NEXT_LEAF)}\n"
THIRD_MX = f"example.org MX 15 mx3.example.net\nmx3.example.net A 192.0.2.3\n_25._tcp.mx3.example.net {ee(LEAF)}\n"


def policy(
    *,
    attempt: str = "*",
    skips: tuple[Skip, ...] = (),
    without: WithoutDane = WithoutDane.OPPORTUNISTIC,
    own_names: tuple[str, ...] = (),
    ocsp: OCSP = OCSP.AUTO,
    via: str = "",
    auth: Auth | None = None,
) -> Outbound:
    return Outbound(
        dane=Dane(try_=(Pattern(attempt),), skip=skips),
        tls=OutboundTLS(without_dane=without, ocsp=ocsp),
        own_names=tuple(map(Pattern, own_names)),
        routes=(Route(domains=(Pattern("example.org"),), via=HostPort(via), auth=auth),) if via else (),
    )


def skip(level: SkipLevel = SkipLevel.ENCRYPT, until: str = "2026-11-22") -> Skip:
    return Skip(match=Pattern("example.org"), reason="ticket 4711", until=Date(until), level=level)


def required(outbound: Outbound) -> Outbound:
    return msgspec.structs.replace(outbound, dane=msgspec.structs.replace(outbound.dane, require=(Pattern("*"),)))


@dataclass(frozen=True)
class Scene:
    """`mx`: where the domain's MX records are, for the next host's."""

    zone: str = MX + A + EE
    insecure: tuple[str, ...] = ()
    bogus: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()
    outbound: Outbound = field(default_factory=policy)
    host: Host = field(default_factory=lambda: Host(LEAF.path))
    target: Domain | Address = DOMAIN
    mx: str = "example.org"
    own: frozenset[Address] = frozenset()
    ready: bool = True
    eight_bit: bool = False
    smtputf8: bool = False

    def play(self, *, beside: bool = False) -> tuple[DeliveryWorld, Reply]:
        world = self.world(beside=beside)
        return world, world.deliver(self.target, eight_bit=self.eight_bit, smtputf8=self.smtputf8)

    def world(self, *, beside: bool = False) -> DeliveryWorld:
        zone = self.zone + (f"{self.mx} MX 20 mx2.example.net\n{BESIDE}" if beside else "")
        dns = table(zone, insecure=self.insecure, bogus=self.bogus, failing=self.failing)
        hosts = {FIRST: self.host, NEXT: Host(NEXT_LEAF.path), THIRD: Host(port=None)}
        return DeliveryWorld(dns, hosts, self.outbound, self.own, self.ready)


def says(**replies: str | Lost) -> Host:
    answers = {verb: reply(said) if isinstance(said, str) else said for verb, said in replies.items()}
    return Host(LEAF.path, answers)


PLAIN = MX + A
NO_STARTTLS = Host(LEAF.path, keywords=(b"PIPELINING",))
NO_TLS = Host(LEAF.path, tls=Lost("tls_failed", "no shared cipher"))
VERIFY = policy(without=WithoutDane.VERIFY)
LOST = Lost("connection_lost")

SCENES = {
    # The DNS
    "resolver_unproved": Scene(ready=False),
    "mx_failed": Scene(failing=("example.org MX",), zone=MX + A + EE + "example.org A 192.0.2.1\n"),
    "mx_bogus": Scene(bogus=("example.org MX",), zone=MX + A + EE + "example.org A 192.0.2.1\n"),
    "null_mx": Scene("example.org MX 0 .\nexample.org A 192.0.2.1\n"),
    "no_such_domain": Scene(""),
    "no_mx_no_address": Scene("www.example.org A 192.0.2.1\n"),
    "implicit_mx": Scene(f"example.org A 192.0.2.1\n_25._tcp.example.org {ee(LEAF)}\n"),
    "implicit_mx_insecure": Scene("example.org A 192.0.2.1\n", insecure=("*",)),
    "own_name": Scene(outbound=policy(own_names=("mx.example.net",))),
    "own_address": Scene(own=frozenset((FIRST,))),
    "loopback_address": Scene(MX + "mx.example.net A 127.0.0.1\n" + EE),
    "host_without_address": Scene(MX + EE),
    "host_missing": Scene(MX),
    "address_failed": Scene(failing=("mx.example.net A", "mx.example.net AAAA")),
    "address_half_failed": Scene(MX + EE, failing=("mx.example.net AAAA",)),
    "one_family_failed": Scene(failing=("mx.example.net AAAA",)),
    "one_family_insecure": Scene(MX + A + EE + "mx.example.net AAAA 2001:db8::1\n", insecure=("mx.example.net AAAA",)),
    "endless_alias": Scene(MX + "mx.example.net CNAME mx.example.net\n"),
    "mx_alias_secure": Scene("example.org CNAME real.org\nreal.org MX 10 mx.example.net\n" + A + EE, mx="real.org"),
    "mx_insecure_host_insecure": Scene(insecure=("example.org", "mx.example.net"), failing=(TLSA_NAME,)),
    "mx_insecure": Scene(insecure=("example.org",)),
    "host_insecure": Scene(insecure=("mx.example.net",), failing=(TLSA_NAME,)),
    "alias_expanded": Scene(MX + ALIAS + AT_REAL + UNUSABLE),
    "alias_original": Scene(MX + ALIAS + EE),
    "alias_expanded_failed": Scene(MX + ALIAS + AT_REAL + EE, failing=("_25._tcp.real.example",)),
    "alias_to_insecure": Scene(MX + ALIAS + EE, insecure=("real.example",)),
    "alias_insecure": Scene(MX + ALIAS + EE + AT_REAL, insecure=("mx.example.net",)),
    "tlsa_usable": Scene(),
    "tlsa_partly_usable": Scene(MX + A + UNUSABLE + EE),
    "tlsa_unusable": Scene(MX + A + UNUSABLE),
    "tlsa_none": Scene(PLAIN),
    "tlsa_insecure": Scene(insecure=(TLSA_NAME,)),
    "tlsa_failed": Scene(failing=(TLSA_NAME,)),
    "tlsa_bogus": Scene(bogus=(TLSA_NAME,)),
    "tlsa_alias": Scene(PLAIN + f"{TLSA_NAME} CNAME tlsa.example\ntlsa.example {ee(LEAF)}\n"),
    "mx_is_address": Scene("example.org MX 10 192.0.2.1\n"),
    "address_literal": Scene("", target=FIRST),
    # The policy
    "route": Scene(ROUTED, outbound=policy(via="relay.example.net:587"), host=Host(LEAF.path, port=587)),
    "route_tlsa_failed": Scene(
        ROUTED, failing=("_587._tcp.relay.example.net",), outbound=policy(via="relay.example.net:587")
    ),
    "route_without_address": Scene("", outbound=policy(via="relay.example.net:587")),
    "route_auth": Scene(
        "relay.example.net A 192.0.2.1\n",
        outbound=policy(via="relay.example.net:587", auth=Auth(secret_name="relay")),  # noqa: S106
        host=Host(LEAF.path, port=587),
    ),
    "not_tried": Scene(outbound=policy(attempt="other.example")),
    "skip": Scene(failing=(TLSA_NAME,), outbound=policy(skips=(skip(),))),
    "skip_opportunistic": Scene(failing=(TLSA_NAME,), outbound=policy(skips=(skip(SkipLevel.OPPORTUNISTIC),))),
    "skip_over": Scene(outbound=policy(skips=(skip(until="2026-11-21"),))),
    "without_encrypt": Scene(PLAIN, outbound=policy(without=WithoutDane.ENCRYPT)),
    "without_verify": Scene(PLAIN, outbound=VERIFY),
    "without_verify_unusable": Scene(MX + A + UNUSABLE, outbound=VERIFY),
    "without_verify_insecure_mx": Scene(insecure=("example.org",), outbound=VERIFY, host=Host(DOMAIN_LEAF.path)),
    "verify_an_address": Scene("", target=FIRST, outbound=VERIFY),
    # The connection
    "not_connected": Scene(host=Host(port=None)),
    "dane_banner_554": Scene(host=says(BANNER="554 5.7.1 go away")),
    "dane_ehlo_refused": Scene(host=says(EHLO="550 5.7.1 go away")),
    "dane_no_starttls": Scene(host=NO_STARTTLS),
    "dane_starttls_454": Scene(host=says(STARTTLS="454 4.7.0 not now")),
    "dane_starttls_502": Scene(host=says(STARTTLS="502 5.5.1 what?")),
    "dane_injection": Scene(host=replace(NO_TLS, tls=Lost("starttls_injection"))),
    "dane_handshake_failed": Scene(host=NO_TLS),
    "dane_mismatch": Scene(host=Host(STRANGER.path)),
    "dane_ee_any_name": Scene(
        host=Host(issue("other.example", dns=["other.example"], key=LEAF.key, valid=EXPIRED).path)
    ),
    "dane_ta": Scene(PLAIN + TA),
    "dane_ta_domain": Scene(PLAIN + TA, host=Host(DOMAIN_LEAF.path)),
    "dane_ta_wrong_name": Scene(PLAIN + TA, host=Host(OTHER_LEAF.path)),
    "dane_ta_expired": Scene(
        PLAIN + TA, host=Host(issue("late", by=ROOT_CA, dns=["mx.example.net"], valid=EXPIRED).path)
    ),
    "half_dane_mismatch": Scene(insecure=("example.org",), host=Host(STRANGER.path)),
    "half_dane_domain_name": Scene(PLAIN + TA, insecure=("example.org",), host=Host(DOMAIN_LEAF.path)),
    "dane_ta_no_staple": Scene(PLAIN + TA),
    "dane_ta_staple_required": Scene(PLAIN + TA, outbound=policy(ocsp=OCSP.REQUIRE)),
    "dane_ee_staple_required": Scene(outbound=policy(ocsp=OCSP.REQUIRE)),
    "encrypt_no_starttls": Scene(PLAIN + UNUSABLE, host=NO_STARTTLS),
    "encrypt_handshake_failed": Scene(PLAIN + UNUSABLE, host=NO_TLS),
    "verify_wrong_name": Scene(PLAIN, outbound=VERIFY, host=Host(OTHER_LEAF.path)),
    "verify_forgeable_name": Scene(PLAIN, insecure=("example.org",), outbound=VERIFY),
    "verify_untrusted": Scene(PLAIN, outbound=VERIFY, host=Host(LEAF.path, trust="self-signed certificate")),
    "may_banner_554": Scene(PLAIN, host=says(BANNER="554 5.7.1 go away")),
    "may_ehlo_421": Scene(PLAIN, host=says(EHLO="421 4.3.2 later")),
    "may_no_starttls": Scene(PLAIN, host=NO_STARTTLS),
    "may_starttls_refused": Scene(PLAIN, host=says(STARTTLS="454 4.7.0 not now")),
    "may_handshake_failed": Scene(PLAIN, host=NO_TLS),
    "may_any_certificate": Scene(PLAIN, host=Host(STRANGER.path)),
    "mismatch_then_not_connected": Scene(THIRD_MX + MX + A + EE, host=Host(STRANGER.path)),
    # The answers
    "mail_550": Scene(host=says(MAIL="550 5.7.1 not from you")),
    "mail_451": Scene(host=says(MAIL="451 4.7.1 not now")),
    "rcpt_550": Scene(host=says(RCPT="550 5.1.1 no such user")),
    "rcpt_450": Scene(host=says(RCPT="450 4.2.0 greylisted")),
    "rcpt_421": Scene(host=says(RCPT="421 4.3.2 later")),
    "no_8bitmime": Scene(host=Host(LEAF.path, keywords=(b"STARTTLS", b"SMTPUTF8")), eight_bit=True),
    "no_smtputf8": Scene(host=Host(LEAF.path, keywords=(b"STARTTLS", b"8BITMIME")), smtputf8=True),
    "data_451": Scene(host=says(DATA="451 4.3.0 no")),
    "data_250": Scene(host=says(DATA="250 2.0.0 sure")),
    "dot_452": Scene(host=says(DOT="452 4.3.1 full")),
    "dot_554": Scene(host=says(DOT="554 5.7.1 spam")),
    "dot_421": Scene(host=says(DOT="421 4.3.2 later")),
    "dot_354": Scene(host=says(DOT="354 more")),
    "lost_before_data": Scene(host=says(DATA=LOST)),
    "lost_after_dot": Scene(host=says(DOT=LOST)),
}

ROWS = rows()


def test_each_row_has_a_scene_and_each_scene_a_row() -> None:
    assert [row.name for row in ROWS] == list(SCENES)


def heard(answer: Reply, address: Address = FIRST) -> str:
    if answer == own_words(address):
        return "own"
    return f"{answer.code} {answer.enhanced.decode()}"


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
class TestRow:
    def test_as_it_stands(self, row: Row) -> None:
        world, answer = SCENES[row.name].play()
        assert heard(answer) == row.hears
        assert world.mails == ([] if row.level == "-" else [(FIRST, row.level)])
        if "TLSA is not asked for" in row.does:
            assert Kind.TLSA not in {question.kind for question in world.asked}
        if row.does == "nothing is looked up":
            assert world.asked == []

    def test_required(self, row: Row) -> None:
        """And never over anything less than DANE, unless a skip is more specific."""
        scene = SCENES[row.name]
        world, answer = replace(scene, outbound=required(scene.outbound)).play()
        assert heard(answer) == row.required
        assert row.name.startswith("skip") or {level for _, level in world.mails} <= {"dane"}

    def test_next_host(self, row: Row) -> None:
        assert row.next_host in ("yes", "no", "-")
        if row.next_host == "-":
            return
        world, answer = SCENES[row.name].play(beside=True)
        if row.next_host == "yes":
            assert heard(answer, NEXT) == "own"
        else:
            assert heard(answer) == row.hears
            assert NEXT not in world.dialled

    @pytest.mark.parametrize("beside", [False, True])
    def test_check_foretells_it(self, row: Row, beside: bool) -> None:
        """As far as a delivery gets without MAIL; what the message is, nobody knows then."""
        scene = replace(SCENES[row.name], eight_bit=False, smtputf8=False)
        world = scene.world(beside=beside)
        report = world.check(scene.target)
        delivery, answer = scene.play(beside=beside)
        assert world.mails == []
        if delivery.mails:
            level = delivery.mails[0][1]
            assert report.outcome is Outcome.DELIVER
            assert report.level is (Level.ENCRYPT if level == "half-dane" else Level(level))
            assert level != "half-dane" or level in {each.verified for host in report.hosts for each in host.addresses}
        else:
            assert report.outcome is (Outcome.DEFER if answer.code < 500 else Outcome.BOUNCE)
            assert report.level is None
            assert report.reply == shown(answer).decode()
