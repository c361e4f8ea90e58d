"""`check` for people: what a report looks like, with and without what a terminal can do."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from postern_sidecar.outbound.plan import Level
from postern_sidecar.outbound.report import AddressReport, Contact, HostReport, Outcome, RecordReport, Report
from postern_sidecar.outbound.tree import Style, draw

FIRST, SECOND = ip_address("192.0.2.1"), ip_address("2001:db8::1")
CIPHER = "TLS1.3:TLS_AES_256_GCM_SHA384"
RECORD = f"3 1 1 {'ab' * 32}"
MX = HostReport(
    "mx.example.org",
    10,
    25,
    "secure",
    "secure",
    "secure",
    owner="_25._tcp.mx.example.org",
    required=Level.DANE,
    records=(
        RecordReport(RECORD, matched=True),
        RecordReport("1 1 1 ab", "usage 1 is not for SMTP"),
        RecordReport("2 0 0 ab"),
    ),
    addresses=(
        AddressReport(FIRST, 25, Contact.REACHED, Level.DANE, "dane", CIPHER, "CN=mx.example.org", RECORD),
        AddressReport(SECOND, 25, Contact.FAILED, reason="connect_refused"),
    ),
)
BACKUP = HostReport(
    "mx2.example.org", 20, 25, "secure", "failed", "not_asked", reason="dns_failed", why="A mx2.example.org: SERVFAIL"
)
REPORT = Report("example.org", Outcome.DELIVER, Level.DANE, way="mx", mx="secure", hosts=(MX, BACKUP))


def test_a_tree() -> None:
    assert list(draw(REPORT, Style(boxes=True))) == [
        "example.org: deliver, level dane",
        "├─ MX secure",
        "├─ mx.example.org preference 10",
        "│  ├─ addresses secure, TLSA secure at _25._tcp.mx.example.org",
        "│  │  ├─ 3 1 1 ababababababababababababab...  matched",
        "│  │  ├─ 1 1 1 ab  does not count: usage 1 is not for SMTP",
        "│  │  └─ 2 0 0 ab",
        "│  ├─ required: dane",
        "│  ├─ 192.0.2.1  dane  TLS1.3:TLS_AES_256_GCM_SHA384  CN=mx.example.org",
        "│  └─ 2001:db8::1  connect_refused",
        "└─ mx2.example.org preference 20",
        "   ├─ addresses failed, TLSA not asked",
        "   └─ not used: dns_failed: A mx2.example.org: SERVFAIL",
    ]


def test_without_lines_it_is_plain_ascii() -> None:
    drawn = list(draw(REPORT, Style()))
    assert "".join(drawn).isascii()
    assert drawn[1:4] == [
        "|- MX secure",
        "|- mx.example.org preference 10",
        "|  |- addresses secure, TLSA secure at _25._tcp.mx.example.org",
    ]
    assert drawn[-1] == "   `- not used: dns_failed: A mx2.example.org: SERVFAIL"


@pytest.mark.parametrize(
    ("outcome", "colour"), [(Outcome.DELIVER, "32"), (Outcome.DEFER, "33"), (Outcome.BOUNCE, "31")]
)
def test_colour(outcome: Outcome, colour: str) -> None:
    (line,) = draw(Report("example.org", outcome), Style(colour=True))
    assert line == f"\x1b[1mexample.org\x1b[0m: \x1b[{colour}m{outcome.value}\x1b[0m"
    assert list(draw(Report("example.org", outcome), Style())) == [f"example.org: {outcome.value}"]


def test_colours_say_how_much_it_is_worth() -> None:
    lines = list(draw(REPORT, Style(colour=True)))
    assert lines[0].endswith("level \x1b[32mdane\x1b[0m")
    assert "failed" in lines[11]
    assert "\x1b[31mfailed\x1b[0m" in lines[11]
    assert "not asked" in lines[11]
    assert "m" + "not asked" not in lines[11]
    assert "\x1b[33mmay\x1b[0m" in next(draw(Report("example.org", Outcome.DELIVER, Level.MAY), Style(colour=True)))


def test_what_is_not_delivered_says_why() -> None:
    report = Report("example.org", Outcome.BOUNCE, reason="null_mx", reply="556 5.1.10 no mail", mx="null")
    assert list(draw(report, Style())) == [
        "example.org: bounce",
        "|- null_mx",
        "|- 556 5.1.10 no mail",
        "`- MX null",
    ]


def test_a_route_and_a_port() -> None:
    addresses = (
        AddressReport(FIRST, 587),
        AddressReport(SECOND, 587, Contact.REACHED, Level.ENCRYPT, "half-dane", CIPHER, detail="a note"),
    )
    why = "skip: ticket 4711"
    host = HostReport(
        "relay.example.org",
        0,
        587,
        "not_asked",
        "insecure",
        "absent",
        required=Level.ENCRYPT,
        why=why,
        addresses=addresses,
    )
    report = Report(
        "example.org", Outcome.DELIVER, Level.ENCRYPT, detail=why, way="route", mx="not_asked", hosts=(host,)
    )
    assert list(draw(report, Style())) == [
        "example.org: deliver, level encrypt",
        "|- skip: ticket 4711",
        "|- by a route of the policy",
        "`- relay.example.org port 587",
        "   |- addresses insecure, TLSA absent",
        "   |- required: encrypt (skip: ticket 4711)",
        "   |- 192.0.2.1  not tried",
        "   `- 2001:db8::1  encrypt, half-dane  TLS1.3:TLS_AES_256_GCM_SHA384 (a note)",
    ]
