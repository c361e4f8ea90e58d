"""Durations, networks, sizes, dates, patterns, servers: what they come to, and that they compare by meaning."""

from __future__ import annotations

from datetime import date
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postern_sidecar.config.model import Inbound, Outbound, Route
from postern_sidecar.config.scalars import (
    Date,
    Duration,
    HostPort,
    IPAddress,
    Network,
    Pattern,
    Server,
    Size,
    Sources,
)
from postern_sidecar.config.source import _converted
from postern_sidecar.names import Domain, Endpoint, domain

if TYPE_CHECKING:
    from postern_sidecar.config.scalars import Scalar


@pytest.mark.parametrize(
    ("text", "seconds"), [("3s", 3), ("500ms", 0.5), ("1m30s", 90), ("24h", 86400), ("1h1m1s1ms", 3661.001), ("0s", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration(text).seconds == pytest.approx(seconds)
    assert str(Duration(text)) == text


@pytest.mark.parametrize("text", ["", "3", "s", "3S", "3 s", "-3s", "1.5s", "3s\n", "٣s", "24h1ms", "1" * 33 + "s"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        Duration(text)


def test_the_same_meaning_is_equal() -> None:
    assert {Duration("60s"), Duration("1m"), Duration("60000ms")} == {Duration("1m")}
    assert IPAddress("::ffff:127.0.0.1") == IPAddress("127.0.0.1")
    assert Network("192.0.2.1") == Network("192.0.2.1/32")
    assert Sources("*") != Sources("0.0.0.0/0")
    assert Duration("1m") != "1m"
    assert repr(Duration("1m")) == "Duration('1m')"


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.1", "10.0.0.1/32"),
        ("FD00::/8", "fd00::/8"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ("::/0", "::/0"),
    ],
)
def test_networks(text: str, network: str) -> None:
    assert Network(text).networks == (ip_network(network),)
    assert str(Sources(text)) == text


def test_idle_is_what_the_protocol_needs() -> None:
    least = {"name": "a", "port": 1, "backend": {"port": 2, "handover": "ProxyV2"}}
    assert _converted(least, Inbound).idle == 15 * 60
    assert _converted(least | {"protocol": "IMAP"}, Inbound).idle == 31 * 60
    assert _converted(least | {"protocol": "IMAP", "timeouts": {"idle": "5s"}}, Inbound).idle == 5


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("0", 0),
        ("52428800", 50 << 20),
        ("50Mi", 50 << 20),
        ("10k", 10_000),
        ("64Ki", 65536),
        ("1M", 10**6),
        ("1G", 10**9),
        ("1Gi", 1 << 30),
        ("00000000000000000001", 1),
    ],
)
def test_sizes(text: str, octets: int) -> None:
    assert Size(text).octets == octets
    assert str(Size(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "Mi", "50mi", "50MB", "50K", "50 Mi", "1.5Gi", "-1", "+1", "1e3", "1m", "1Ti", "٣", "1\n", "1" * 21, "0x10"],
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match=r"^'.*' is not a size; write one like 50Mi or 10M$"):
        Size(text)


@pytest.mark.parametrize(("text", "day"), [("2027-03-01", date(2027, 3, 1)), ("2028-02-29", date(2028, 2, 29))])
def test_dates(text: str, day: date) -> None:
    assert Date(text).day == day
    assert str(Date(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2027-02-29",
        "2027-3-1",
        "20270301",
        "2027-W09-1",  # date.fromisoformat reads it
        "2027-03-01T00:00:00Z",
        "2027-03-01\n",
        " 2027-03-01",
        "01.03.2027",
        "0000-01-01",
        "\u0662\u0660\u0662\u0667-\u0660\u0663-\u0660\u0661",
    ],
)
def test_no_dates(text: str) -> None:
    with pytest.raises(ValueError, match=r"^'.*' is not a date; write one like 2027-03-01$"):
        Date(text)


@pytest.mark.parametrize(
    ("text", "below", "name"),
    [
        ("*", True, ""),
        ("*.Example.ORG.", True, "example.org"),
        ("example.org", False, "example.org"),
        ("bücher.example", False, "xn--bcher-kva.example"),
        ("*.bücher.example", True, "xn--bcher-kva.example"),
        ("example。org", False, "example.org"),  # UTS 46
        ("_dmarc.example.org", False, "_dmarc.example.org"),
        ("org", False, "org"),
        (".".join(["a" * 49] * 5), False, ".".join(["a" * 49] * 5)),
    ],
)
def test_patterns(text: str, below: bool, name: str) -> None:
    assert (Pattern(text).below, Pattern(text).name) == (below, name)
    assert str(Pattern(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "*.",
        "*..",
        "**",
        "*.*",
        "*x.org",
        "a.*.org",
        "*.*.org",
        ".org",
        "a..org",
        "-a.org",
        "a-.org",
        "a b.org",
        "a.org\n",
        "192.0.2.1",
        "*.2.1",
        "[192.0.2.1]",
        "x@example.org",
        "example.org:25",
        "a" * 64,
        "a." * 127 + "org",
        "ä" * 1_000_000,
        "\u00ad",
        "\ud800.org",
        "\uff0a.org",
    ],
)
def test_no_patterns(text: str) -> None:
    with pytest.raises(ValueError, match=r"^'.*' is not a domain; write one like example.org, \*.example.org or \*$"):
        Pattern(text)


@pytest.mark.parametrize(
    ("pattern", "names", "others"),
    [
        ("*", ["example.org", "org", "a.b.c"], []),
        (
            "*.example.org",
            ["a.example.org", "b.a.example.org"],
            ["example.org", "aexample.org", "example.org.net", "org"],
        ),
        ("example.org", ["example.org", "EXAMPLE.org."], ["a.example.org", "org", "example.orga"]),
        ("*.bücher.example", ["a.xn--bcher-kva.example", "ä.bücher.example"], ["bücher.example"]),
    ],
)
def test_what_a_pattern_fits(pattern: str, names: list[str], others: list[str]) -> None:
    assert all(Pattern(pattern).fits(domain(name)) is not None for name in names)
    assert all(Pattern(pattern).fits(domain(name)) is None for name in others)


def test_the_most_specific_pattern_has_the_highest_number() -> None:
    name = domain("a.b.example.org")
    order = ["*", "*.org", "*.example.org", "*.b.example.org", "a.b.example.org"]
    found = [Pattern(text).fits(name) for text in order]
    assert None not in found
    assert all(low < high for low, high in pairwise(found))  # type: ignore[operator]
    longest = Domain("a." * 126 + "a")
    assert Pattern(longest).fits(longest) > Pattern(f"*.{longest[2:]}").fits(longest)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "address", "port", "given"),
    [
        ("10.0.0.53", "10.0.0.53", 53, False),
        ("10.0.0.53:53", "10.0.0.53", 53, True),
        ("10.0.0.53:65535", "10.0.0.53", 65535, True),
        ("fd00::53", "fd00::53", 53, False),
        ("[fd00::53]", "fd00::53", 53, False),
        ("[fd00::53]:853", "fd00::53", 853, True),
        ("::ffff:10.0.0.53", "10.0.0.53", 53, False),
    ],
)
def test_servers(text: str, address: str, port: int, given: bool) -> None:
    server = Server(text)
    assert (server.endpoint, server.given) == (Endpoint(ip_address(address), port), given)
    assert str(server) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ns.example.org",
        "10.0.0.53:",
        "10.0.0.53:0",
        "10.0.0.53:65536",
        "10.0.0.53:-1",
        "10.0.0.53:+5",
        "10.0.0.53:\u0665",
        "10.0.0.53:53:53",
        "10.0.0.53@53",
        "10.0.0/24",
        "fd00::53%eth0",
        "[fd00::53%eth0]:53",
        "[fd00::53",
        "fd00::53]:53",
        "[fd00::53]53",
        "[fd00::53]:",
        "[]:53",
        ":53",
        "10.0.0.53\n",
        " 10.0.0.53",
        "9" * 100_000,
    ],
)
def test_no_servers(text: str) -> None:
    with pytest.raises(ValueError, match=r"^'.*' is not a server; write one like 10.0.0.53:53 or \[fd00::53\]:53$"):
        Server(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("relay.example.org", Domain("relay.example.org"), 25),
        ("Relay.Example.ORG.:587", Domain("relay.example.org"), 587),
        ("[relay.example.org]:587", Domain("relay.example.org"), 587),  # as Postfix writes it
        ("relay", Domain("relay"), 25),
        ("bücher.example:465", Domain("xn--bcher-kva.example"), 465),
        ("192.0.2.1", ip_address("192.0.2.1"), 25),
        ("[192.0.2.1]:2525", ip_address("192.0.2.1"), 2525),
        ("2001:db8::1", ip_address("2001:db8::1"), 25),
        ("[2001:db8::1]:587", ip_address("2001:db8::1"), 587),
        ("[::ffff:192.0.2.1]", ip_address("192.0.2.1"), 25),
    ],
)
def test_relays(text: str, host: object, port: int) -> None:
    assert (HostPort(text).host, HostPort(text).port) == (host, port)
    assert str(HostPort(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        ":25",
        "*",
        "*.example.org",
        "relay.example.org:",
        "relay.example.org:0",
        "relay.example.org:65536",
        "relay.example.org:smtp",
        "relay.example.org:25:25",
        "smtp://relay.example.org",
        "relay.example.org/25",
        "user@relay.example.org",
        "192.0.2.300",
        "192.0.2",
        "[2001:db8::1]25",
        "[2001:db8::1",
        "fe80::1%eth0",
        "relay.example.org\n",
        "relay example.org",
        "ä" * 1_000_000,
    ],
)
def test_no_relays(text: str) -> None:
    remedy = r"write one like relay.example.org:587 or \[2001:db8::1\]:25$"
    with pytest.raises(ValueError, match=rf"^'.*' is not a relay; {remedy}"):
        HostPort(text)


@pytest.mark.parametrize("kind", [Size, Date, Pattern, Server, HostPort])
@given(
    st.text(alphabet=st.one_of(st.characters(), st.sampled_from("0123456789.:*-[]abxnMiäß。\u200d\u0661")), max_size=80)
)
@example("xn--.org")
@example("xn--a")
@example("\u0644\u200d1.org")
def test_hostile_text_is_refused_with_a_remedy_or_stays_as_it_was(kind: type[Scalar], text: str) -> None:
    try:
        value = kind(text)  # type: ignore[call-arg]
    except ValueError as problem:
        message, separator, remedy = str(problem).rpartition("; ")
        assert separator
        assert len(message) < 150
        assert remedy.startswith("write one like ")
    else:
        assert str(value) == text
        assert value == kind(text)  # type: ignore[call-arg]
        assert hash(value) == hash(kind(text))  # type: ignore[call-arg]


def test_new_scalars_compare_by_meaning() -> None:
    assert Size("50Mi") == Size("52428800")
    assert Pattern("*.Example.org") == Pattern("*.example.org.")
    assert Pattern("*.example.org") != Pattern("example.org")
    assert Server("[fd00::53]") == Server("fd00:0::53")
    assert Server("10.0.0.53") != Server("10.0.0.53:53")  # over TLS they are two
    assert HostPort("relay.example.org") == HostPort("RELAY.example.org:25")
    assert Date("2027-03-01") != Date("2027-03-02")


@pytest.mark.parametrize(
    ("via", "tls_on_connect", "implicit"),
    [
        ("relay.example:465", None, True),
        ("relay.example:587", None, False),
        ("relay.example:465", False, False),
        ("relay.example:4465", True, True),
    ],
)
def test_tls_from_the_first_byte(via: str, tls_on_connect: bool | None, implicit: bool) -> None:
    route = _converted({"domains": ["*"], "via": via, "tlsOnConnect": tls_on_connect}, Route)
    assert route.implicit_tls is implicit


def test_the_defaults_of_outbound() -> None:
    """As contracts sections 1 and 5 have them."""
    chosen = _converted({}, Outbound)
    assert (chosen.submission.port, chosen.submission.lmtp_port, chosen.submission.bare_newline) == (11025, 11024, None)
    assert ([str(pattern) for pattern in chosen.dane.try_], chosen.dane.require, chosen.dane.skip) == (["*"], (), ())
    assert [digest.value for digest in chosen.dane.digests] == ["SHA2-512", "SHA2-256"]
    tls = chosen.tls
    assert (tls.without_dane.value, tls.min_version.value, tls.ocsp.value) == ("Opportunistic", "1.2", "Auto")
    assert chosen.dns.resolver.value == "Embedded"
    assert (chosen.dns.self_test.secure, chosen.dns.self_test.bogus) == (".", "dnssec-failed.org")
    limits = chosen.limits
    assert (limits.per_destination, limits.message_size.octets, limits.reuse) == (20, 50 << 20, 100)
    assert (limits.idle.seconds, limits.final_timeout.seconds) == (5, 570)
