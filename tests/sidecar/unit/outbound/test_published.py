"""`tlsa --verify`: what DNS publishes for a host, held against what its addresses show and against a file."""

from __future__ import annotations

from hashlib import sha256
from ipaddress import ip_address
from typing import Any

import pytest

from certificates import NOW, issue
from delivery_world import DeliveryWorld, Host
from dns_table import table
from postern_sidecar.config.model import Dane, Outbound
from postern_sidecar.dane.zonefile import Severity
from postern_sidecar.names import domain
from postern_sidecar.outbound import published
from postern_sidecar.outbound.commands import Drop, Lost, Secure
from postern_sidecar.outbound.published import findings, visit

HOST = domain("mx.example.org")
LEAF = issue("mx.example.org", dns=["mx.example.org"])
OTHER = issue("other.example", dns=["other.example"])
LOOKUP_FAILS = "the TLSA lookup fails, so mail with DANE is deferred: TLSA _25._tcp.mx.example.org"
RECORD = f"3 1 1 {sha256(LEAF.spki).hexdigest()}"
OTHERS = f"3 1 1 {sha256(OTHER.spki).hexdigest()}"
ADDRESSES = "mx.example.org A 192.0.2.1\nmx.example.org AAAA 2001:db8::1\n"
ZONE = f"{ADDRESSES}_25._tcp.mx.example.org TLSA {RECORD}"
V4, V6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
GOOD, NOBODY = Host(LEAF.path), Host(port=None)


def seen(zone: str = ZONE, port: int = 25, file: tuple[bytes, ...] = (), **how: Any) -> list[tuple[str, Severity, str]]:
    hosts = {V4: GOOD, V6: GOOD} | how.pop("hosts", {})
    world = DeliveryWorld(table(zone, **how), hosts, Outbound())
    found = world.perform(visit(world.around, HOST, port))
    assert world.mails == []
    digests = Dane().digests
    return [(about, each.severity, each.text) for about, each in findings(found, file, "new.pem", digests, NOW)]


def severities(found: list[tuple[str, Severity, str]]) -> list[tuple[str, Severity]]:
    return [(about, severity) for about, severity, _ in found]


def test_every_address_matches() -> None:
    assert severities(seen()) == [("2001:db8::1", Severity.OK), ("192.0.2.1", Severity.OK)]


def test_one_address_shows_another_certificate() -> None:
    found = seen(hosts={V4: Host(OTHER.path)})
    assert severities(found)[:2] == [("2001:db8::1", Severity.OK), ("192.0.2.1", Severity.ERROR)]
    assert found[1][2].startswith("mismatch: tlsa_mismatch: ")


def test_an_address_that_is_not_reached_from_here() -> None:
    """No error, as long as another is: who asks may have only one of the two families."""
    found = seen(hosts={V6: NOBODY})
    assert found[0] == ("2001:db8::1", Severity.NOTE, "connect_refused")
    assert severities(found)[1] == ("192.0.2.1", Severity.OK)
    nobody = seen(hosts={V6: NOBODY, V4: NOBODY})
    assert severities(nobody) == [("2001:db8::1", Severity.ERROR), ("192.0.2.1", Severity.ERROR)]


def test_an_address_without_tls_is_an_error_whatever_the_others_do() -> None:
    found = seen(hosts={V6: Host(keywords=()), V4: Host(tls=Lost("tls_failed", "\x1b[2J"))})
    assert found == [
        ("2001:db8::1", Severity.ERROR, "starttls_missing: not announced"),
        ("192.0.2.1", Severity.ERROR, r"tls_failed: \x1b[2J"),
    ]
    assert severities(seen(hosts={V6: Host(keywords=())}))[0] == ("2001:db8::1", Severity.ERROR)


@pytest.mark.parametrize(
    ("zone", "how", "says"),
    [
        (ADDRESSES, {}, "there are no TLSA records at _25._tcp.mx.example.org"),
        (ZONE, {"insecure": ["_25._tcp.mx.example.org"]}, "there are no TLSA records at _25._tcp.mx.example.org"),
        (ZONE, {"insecure": ["*"]}, "the addresses of mx.example.org are not signed"),
        (ZONE, {"failing": ["_25._tcp.mx.example.org"]}, LOOKUP_FAILS),
        (ZONE, {"bogus": ["_25._tcp.mx.example.org"]}, LOOKUP_FAILS),
    ],
)
def test_nothing_is_published(zone: str, how: dict[str, Any], says: str) -> None:
    (finding,) = seen(zone, **how)
    assert finding[:2] == ("DNS", Severity.ERROR)
    assert finding[2].startswith(says)


def test_no_such_host() -> None:
    (finding,) = seen("")
    assert finding[2] == "mx.example.org has no address: no_such_domain; AAAA mx.example.org: absent"


class TestFile:
    """A certificate that is about to be installed."""

    def test_it_matches_already(self) -> None:
        found = seen(file=(LEAF.der,))
        assert severities(found)[-1] == ("new.pem", Severity.OK)

    def test_installing_it_would_break_mail(self) -> None:
        found = seen(file=(OTHER.der, LEAF.der))
        about = [each for each in found if each[0] == "new.pem"]
        assert about[0][1] is Severity.ERROR
        assert about[-1][1] is Severity.NOTE
        assert about[-1][2].endswith(f"_25._tcp.mx.example.org. IN TLSA {OTHERS}")

    def test_its_record_is_published_beside_the_old_one(self) -> None:
        """RFC 7671 8.1: the order of a roll-over."""
        zone = f"{ZONE}\n_25._tcp.mx.example.org TLSA {OTHERS}"
        found = seen(zone, file=(OTHER.der,))
        assert {severity for _, severity, _ in found} == {Severity.OK, Severity.NOTE}

    def test_nothing_is_published_yet(self) -> None:
        found = seen(ADDRESSES, file=(OTHER.der,))
        assert severities(found) == [("DNS", Severity.ERROR), ("new.pem", Severity.NOTE)]
        assert found[1][2].endswith(f"_25._tcp.mx.example.org. IN TLSA {OTHERS}")


def test_the_alias_of_a_host_has_its_records_where_it_leads() -> None:
    zone = f"mx.example.org CNAME real.example\nreal.example A 192.0.2.1\n_25._tcp.real.example TLSA {RECORD}"
    world = DeliveryWorld(table(zone), {V4: GOOD}, Outbound())
    asked_for: list[str | None] = []
    performed = world._performed

    def noting(command: Any) -> object:
        asked_for.extend([command.plan.sni] if isinstance(command, Secure) else [])
        return performed(command)

    world._performed = noting  # type: ignore[method-assign]
    found = world.perform(visit(world.around, HOST))
    assert asked_for == ["real.example"]
    assert found.owner == "_25._tcp.real.example"
    (finding,) = (each for _, each in findings(found, (), "", Dane().digests, NOW))
    assert finding.severity is Severity.OK


def test_a_name_too_long_for_records() -> None:
    world = DeliveryWorld(table(""), {}, Outbound())
    name = domain(".".join(["a" * 61] * 4))
    assert world.perform(visit(world.around, name)).owner == name


def test_tls_first_on_465() -> None:
    spoke: list[str] = []
    zone = f"mx.example.org A 192.0.2.1\n_465._tcp.mx.example.org TLSA {RECORD}"
    world = DeliveryWorld(table(zone), {V4: Host(LEAF.path, port=465)}, Outbound())
    performed = world._performed

    def noting(command: Any) -> object:
        spoke.append(type(command).__name__)
        return performed(command)

    world._performed = noting  # type: ignore[method-assign]
    found = world.perform(visit(world.around, HOST, 465))
    assert spoke == ["Ask", "Ask", "Dial", "Secure", "Say", "Say", "Drop"]
    assert found.visits[0].chain == LEAF.path


def test_it_is_polite_and_bounded() -> None:
    zone = "".join(f"mx.example.org A 192.0.2.{n}\n" for n in range(1, 41))
    world = DeliveryWorld(table(zone), {ip_address(f"192.0.2.{n}"): GOOD for n in range(1, 41)}, Outbound())
    dropped: list[Drop] = []
    performed = world._performed

    def noting(command: Any) -> object:
        dropped.extend([command] if isinstance(command, Drop) else [])
        return performed(command)

    world._performed = noting  # type: ignore[method-assign]
    found = world.perform(visit(world.around, HOST))
    assert len(world.dialled) == len(found.visits) == published.ADDRESSES
    assert all(command.quit for command in dropped)
    assert len(dropped) == published.ADDRESSES
