"""What `check` says of a domain. That it foretells deliveries is shown row by row in test_delivery_table; here is what
it tells beside the outcome, that it goes on after it, and where it stops."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from ipaddress import ip_address
from typing import Any

import pytest

from certificates import issue
from delivery_playbook import reply
from delivery_world import CIPHER, VERSION, DeliveryWorld, Host
from dns_table import table
from postern_sidecar.config.model import Auth, Dane, Digest, Outbound, Route
from postern_sidecar.config.scalars import HostPort, Network, Pattern
from postern_sidecar.names import Domain, domain
from postern_sidecar.outbound import inquiry
from postern_sidecar.outbound.commands import Dial, Lost
from postern_sidecar.outbound.inquiry import parsed, written
from postern_sidecar.outbound.plan import Level
from postern_sidecar.outbound.report import Contact, Outcome, RecordReport, plain

DOMAIN = domain("example.org")
LEAF = issue("mx.example.net", dns=["mx.example.net"])
OTHER = issue("other.example", dns=["other.example"])
EE = f"3 1 1 {sha256(LEAF.spki).hexdigest()}"
WRONG = f"3 1 1 {'ab' * 32}"
FIRST, SECOND, BACKUP = map(ip_address, ("192.0.2.1", "192.0.2.2", "192.0.2.3"))
ZONE = f"""
    example.org              MX   10 mx.example.net
    example.org              MX   20 mx2.example.net
    mx.example.net           A    192.0.2.1
    mx.example.net           A    192.0.2.2
    mx2.example.net          A    192.0.2.3
    _25._tcp.mx.example.net  TLSA {EE}
    _25._tcp.mx.example.net  TLSA 1 1 1 {"cd" * 32}
"""
MX_AND_A = "example.org MX 1 mx.example.net\nmx.example.net A 192.0.2.1"
GOOD = Host(LEAF.path)
HOSTS = {FIRST: GOOD, SECOND: GOOD, BACKUP: GOOD}


def world(zone: str = ZONE, outbound: Outbound | None = None, **how: Any) -> DeliveryWorld:
    hosts = HOSTS | how.pop("hosts", {})
    return DeliveryWorld(table(zone, **how), hosts, outbound or Outbound())


def test_every_host_and_address_is_visited_and_told() -> None:
    scene = world(hosts={SECOND: Host(OTHER.path)})
    report = scene.check(DOMAIN)
    assert (report.domain, report.outcome, report.level) == ("example.org", Outcome.DELIVER, Level.DANE)
    assert (report.reason, report.reply, report.way, report.mx) == ("", "", "mx", "secure")
    assert scene.dialled == [FIRST, SECOND, BACKUP]
    first, backup = report.hosts
    assert (first.name, first.preference, first.port) == ("mx.example.net", 10, 25)
    assert (first.mx, first.lookup, first.tlsa) == ("secure", "secure", "secure")
    assert (first.owner, first.required, first.why) == ("_25._tcp.mx.example.net", Level.DANE, "")
    assert first.records == (
        RecordReport(EE, matched=True),
        RecordReport(f"1 1 1 {'cd' * 32}", "usage 1 is not for SMTP"),
    )
    reached, failed = first.addresses
    assert (reached.contact, reached.level, reached.verified) == (Contact.REACHED, Level.DANE, "dane")
    assert (reached.cipher, reached.subject) == (f"{VERSION}:{CIPHER}", "CN=mx.example.net")
    assert (reached.matched, reached.reason) == (EE, "")
    assert (failed.contact, failed.level, failed.reason) == (Contact.FAILED, None, "tlsa_mismatch")
    assert (failed.subject, failed.matched) == ("CN=other.example", "")
    assert failed.detail == "no TLSA record matches the server's certificate"
    assert (backup.preference, backup.tlsa, backup.required) == (20, "absent", Level.MAY)
    assert backup.why == "mx2.example.net has no secure TLSA records"
    assert backup.addresses[0].level is Level.MAY


def test_the_first_that_would_take_it_decides() -> None:
    report = world(hosts={FIRST: Host(port=None), SECOND: Host(port=None)}).check(DOMAIN)
    assert (report.outcome, report.level) == (Outcome.DELIVER, Level.MAY)
    assert report.detail == "mx2.example.net has no secure TLSA records"
    assert [each.reason for each in report.hosts[0].addresses] == ["connect_refused"] * 2


def test_it_is_polite() -> None:
    scene = world()
    said = []
    performed = scene._performed

    def noting(command: Any) -> object:
        said.append((type(command).__name__, getattr(command, "data", None) or getattr(command, "quit", None)))
        return performed(command)

    scene._performed = noting  # type: ignore[method-assign]
    scene.check(DOMAIN)
    assert [what for name, what in said if name == "Say" and what] == [
        b"EHLO mail.example.com\r\n",
        b"STARTTLS\r\n",
        b"EHLO mail.example.com\r\n",
    ] * 3
    assert [what for name, what in said if name == "Drop"] == [True, True, True]


def test_in_clear_and_why() -> None:
    report = world(hosts={BACKUP: Host(tls=Lost("tls_failed", "no shared cipher"))}).check(DOMAIN)
    (address,) = report.hosts[1].addresses
    assert (address.level, address.verified, address.cipher) == (Level.CLEAR, "", "")
    assert address.detail == "in clear: tls_failed no shared cipher"
    report = world("example.org A 192.0.2.1", hosts={FIRST: Host(keywords=())}).check(DOMAIN)
    assert report.detail == "example.org has no secure TLSA records; in clear: STARTTLS is not announced"
    assert report.level is Level.CLEAR


def test_an_end_before_tls_has_no_cipher() -> None:
    refused = reply("554 5.7.1 \x1b[31mno\xff")
    report = world(hosts={FIRST: Host(says={"BANNER": refused}), SECOND: Host(tls=Lost("tls_failed", "alert"))}).check(
        DOMAIN
    )
    first, second = report.hosts[0].addresses
    assert (first.reason, first.detail) == ("banner_refused", r"554 5.7.1 \x1b[31mno\xc3\xbf")
    assert (first.cipher, first.subject, second.reason) == ("", "", "tls_failed")


def test_no_certificate_at_all() -> None:
    report = world(hosts={FIRST: Host()}).check(DOMAIN)
    assert report.hosts[0].addresses[0].reason == "certificate_malformed"


def test_hosts_that_are_not_used() -> None:
    zone = ZONE.replace("mx2.example.net          A    192.0.2.3", "example.org MX 30 mx3.example.net")
    scene = world(zone, failing=("_25._tcp.mx.example.net", "mx3.example.net"))
    report = scene.check(DOMAIN)
    assert (report.outcome, report.level) == (Outcome.DEFER, None)
    assert (report.reason, report.reply[:9]) == ("tlsa_failed", "451 4.7.5")
    assert scene.dialled == []
    first, second, third = report.hosts
    assert (first.required, first.reason) == (None, "tlsa_failed")
    assert first.why == "TLSA _25._tcp.mx.example.net: SERVFAIL"
    assert first.tlsa == "failed"
    assert [each.contact for each in first.addresses] == [Contact.NOT_TRIED, Contact.NOT_TRIED]
    assert (second.lookup, second.tlsa, second.reason) == ("absent", "not_asked", "no_such_domain")
    assert (third.lookup, third.reason) == ("failed", "dns_failed")


@pytest.mark.parametrize(
    ("zone", "how", "target", "way", "mx", "lookup"),
    [
        (MX_AND_A, {"insecure": "*"}, DOMAIN, "mx", "insecure", "insecure"),
        ("example.org A 192.0.2.1", {}, DOMAIN, "implicit", "absent", "secure"),
        ("example.org A 192.0.2.1", {"insecure": "*"}, DOMAIN, "implicit", "insecure", "insecure"),
        ("", {}, FIRST, "literal", "not_asked", "not_asked"),
        ("mx.example.net A 192.0.2.1", {}, domain("routed.example"), "route", "not_asked", "secure"),
        ("example.org MX 1 mx.example.net", {"bogus": ["mx.example.net"]}, DOMAIN, "mx", "secure", "bogus"),
        ("example.org MX 1 mx.example.net", {}, DOMAIN, "mx", "secure", "absent"),
    ],
)
def test_how_far_the_lookups_can_be_believed(
    zone: str, how: dict[str, Any], target: Domain, way: str, mx: str, lookup: str
) -> None:
    routes = (Route(domains=(Pattern("routed.example"),), via=HostPort("mx.example.net")),)
    report = world(zone, Outbound(routes=routes), **how).check(target)
    (host,) = report.hosts
    assert (report.way, report.mx, host.mx, host.lookup) == (way, mx, mx, lookup)


@pytest.mark.parametrize(
    ("zone", "how", "mx", "reason"),
    [
        ("example.org MX 0 .", {}, "null", "null_mx"),
        ("example.org MX 0 own.example", {}, "own", "mail_loop"),
        ("", {"failing": ["example.org MX"]}, "failed", "dns_failed"),
        ("", {"bogus": ["example.org MX"]}, "bogus", "dns_bogus"),
    ],
)
def test_there_is_no_host(zone: str, how: dict[str, Any], mx: str, reason: str) -> None:
    report = world(zone, Outbound(own_names=(Pattern("own.example"),)), **how).check(DOMAIN)
    assert (report.mx, report.reason, report.way, report.hosts) == (mx, reason, "", ())
    assert report.level is None


def test_before_the_self_test_nothing_is_asked() -> None:
    scene = world()
    scene.ready = False
    report = scene.check(DOMAIN)
    assert (report.outcome, report.reason, report.detail) == (Outcome.DEFER, "dns_selftest", "not proved")
    assert report.reply.startswith("451 4.7.5")
    assert (scene.asked, scene.dialled) == ([], [])


class TestWithoutConnecting:
    def test_the_dns_decides(self) -> None:
        scene = world()
        report = scene.check(DOMAIN, connect=False)
        assert scene.dialled == []
        assert (report.outcome, report.level, report.detail) == (Outcome.DELIVER, Level.DANE, "")
        assert [host.required for host in report.hosts] == [Level.DANE, Level.MAY]
        assert {each.contact for host in report.hosts for each in host.addresses} == {Contact.NOT_TRIED}
        assert not any(record.matched for host in report.hosts for record in host.records)

    def test_an_address_that_is_not_dialled(self) -> None:
        report = world("example.org A 127.0.0.1").check(DOMAIN, connect=False)
        assert (report.outcome, report.reason) == (Outcome.BOUNCE, "address_not_allowed")
        (address,) = report.hosts[0].addresses
        assert (address.contact, address.detail) == (Contact.FAILED, "loopback address")
        allowed = Outbound(allow_addresses=(Network("127.0.0.1"),))
        assert world("example.org A 127.0.0.1", allowed).check(DOMAIN, connect=False).outcome is Outcome.DELIVER

    def test_a_route_whose_password_may_not_be_sent(self) -> None:
        auth = Auth(secret_name="relay")  # noqa: S106
        route = Route(domains=(Pattern("*"),), via=HostPort("mx2.example.net:587"), auth=auth)
        report = world(ZONE, Outbound(routes=(route,))).check(DOMAIN, connect=False)
        assert (report.outcome, report.reason) == (Outcome.DEFER, "auth_level")


class TestBounds:
    def test_a_delivery_gives_up_and_the_rest_is_looked_at_for_the_report(self) -> None:
        """The outcome is a delivery's, whose lot are ten addresses."""
        zone = "example.org MX 1 mx.example.net\n" + "".join(f"mx.example.net A 192.0.2.{n}\n" for n in range(1, 13))
        hosts = {ip_address(f"192.0.2.{n}"): Host(port=None) for n in range(1, 12)}
        scene = world(zone, hosts=hosts | {ip_address("192.0.2.12"): GOOD})
        report = scene.check(DOMAIN)
        assert (report.outcome, report.reason) == (Outcome.DEFER, "connect_refused")
        assert len(scene.dialled) == 12
        assert report.hosts[0].addresses[11].contact is Contact.REACHED

    def test_how_much_more_is_looked_at(self) -> None:
        zone = "example.org MX 1 mx.example.net\n" + "".join(f"mx.example.net A 192.0.2.{n}\n" for n in range(1, 101))
        scene = world(zone, hosts={ip_address(f"192.0.2.{n}"): GOOD for n in range(1, 101)})
        report = scene.check(DOMAIN)
        assert len(scene.dialled) == 1 + inquiry.MORE
        assert len(report.hosts[0].addresses) == inquiry.SHOWN
        assert report.hosts[0].addresses[-1].contact is Contact.NOT_TRIED

    def test_the_time_of_a_delivery_and_some_for_the_rest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Hosts that let one wait: the delivery gives up in mid-way, and so does curiosity."""
        monkeypatch.setattr(inquiry, "MORE_SECONDS", 100.0)
        zone = "example.org MX 1 mx.example.net\n" + "".join(f"mx.example.net A 192.0.2.{n}\n" for n in range(1, 10))
        scene = world(zone, hosts={ip_address(f"192.0.2.{n}"): Host(port=None) for n in range(1, 10)})
        now, performed = [0.0], scene._performed

        def slowly(command: Any) -> object:
            now[0] += 50.0 if isinstance(command, Dial) else 0.0
            return performed(command)

        scene._performed = slowly  # type: ignore[method-assign]
        around = replace(scene.around, world=replace(scene.around.world, monotonic=lambda: now[0]))
        report = scene.perform(inquiry.inquire(around, DOMAIN))
        assert (report.outcome, len(scene.dialled)) == (Outcome.DEFER, 3 + 2)
        assert [each.contact for each in report.hosts[0].addresses] == [Contact.FAILED] * 5 + [Contact.NOT_TRIED] * 4

    def test_hosts_behind_ourselves_are_not_looked_at(self) -> None:
        scene = world()
        scene.own = frozenset((BACKUP,))
        report = scene.check(DOMAIN)
        assert report.hosts[1].lookup == report.hosts[1].tlsa == "not_asked"
        assert report.hosts[1].why.startswith("not looked at: ")

    def test_a_whole_certificate_in_dns_is_cut(self) -> None:
        zone = ZONE.replace(EE, f"3 0 0 {LEAF.der.hex()}")
        report = world(zone).check(DOMAIN)
        record = report.hosts[0].records[0]
        assert record.matched
        assert record.text == f"3 0 0 {LEAF.der.hex()}"[:253] + "..."
        assert report.hosts[0].addresses[0].matched == record.text

    def test_text_of_others_is_plain_and_bounded(self) -> None:
        assert plain("a\x1bé") == r"a\x1b\xc3\xa9"
        assert plain("\ud800") == r"\ud800"
        assert plain(b"\0") == r"\x00"
        assert len(plain("x" * 5000)) == 506


def test_digests_of_the_policy() -> None:
    outbound = Outbound(dane=Dane(digests=(Digest.SHA2_512,)))
    (first, _) = world(ZONE, outbound).check(DOMAIN).hosts
    assert first.records[0].why == "matching type 1 is unknown or off"
    assert first.required is Level.ENCRYPT


def test_as_json() -> None:
    scene = world(hosts={SECOND: Host(port=None)})
    report = json.loads(json.dumps(scene.check(DOMAIN).json()))
    assert list(report) == ["domain", "outcome", "level", "reason", "detail", "reply", "way", "mx", "hosts"]
    assert (report["outcome"], report["level"]) == ("deliver", "dane")
    first = report["hosts"][0]
    assert first["security"] == {"mx": "secure", "addresses": "secure", "tlsa": "secure"}
    assert first["tlsa"][0] == {"record": EE, "usable": True, "why": "", "matched": True}
    assert first["tlsa"][1]["usable"] is False
    assert first["addresses"][1] == {
        "address": "192.0.2.2",
        "port": 25,
        "contact": "failed",
        "level": None,
        "verified": "",
        "cipher": "",
        "subject": "",
        "matched": "",
        "reason": "connect_refused",
        "detail": "",
    }
    assert (first["required"], first["tlsa_name"]) == ("dane", "_25._tcp.mx.example.net")
    scene = replace(scene, ready=False)
    assert json.loads(json.dumps(scene.check(DOMAIN).json()))["level"] is None


class TestWhatAPersonWrites:
    @pytest.mark.parametrize(
        ("text", "meant"),
        [
            ("Example.ORG.", "example.org"),
            ("user@example.org", "example.org"),
            ('"a@b"@example.org', "example.org"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("user@bücher.example", "xn--bcher-kva.example"),
            ("[192.0.2.1]", "[192.0.2.1]"),
            ("user@[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        ],
    )
    def test_it_is_understood(self, text: str, meant: str) -> None:
        assert written(parsed(text)) == meant

    @pytest.mark.parametrize(
        "text", ["", "@", "a..b", "user@", ".", "[192.0.2.1", "exa mple.org", "[2001:db8::1]", "a" * 300]
    )
    def test_it_is_not(self, text: str) -> None:
        with pytest.raises(ValueError, match="is neither a domain name nor an address literal"):
            parsed(text)

    def test_brackets_are_missing(self) -> None:
        with pytest.raises(ValueError, match=r"is an address without its brackets; write \[192\.0\.2\.1\]"):
            parsed("192.0.2.1")
        with pytest.raises(ValueError, match=r"write \[IPv6:2001:db8::1\]"):
            parsed("user@2001:db8::1")
