"""What a delivery leaves in the log: one line a recipient, one a host that was of no use (design section 8)."""

from __future__ import annotations

import json

from delivery_playbook import DANE, PLAIN, STRANGER, Host, Playbook
from postern_sidecar.logline import Formatter, Record
from postern_sidecar.outbound.commands import Lost
from postern_sidecar.outbound.plan import Level

FIRST = "192.0.2.1"


def lines(play: Playbook, style: str) -> list[str]:
    write = Formatter(style, ["+proxy"]).line
    return [write(Record(event, "o1", fields), 0.0).decode().rstrip() for event, fields in play.records]


def test_a_delivery_reads_as_in_exim() -> None:
    play = Playbook(hosts={FIRST: Host(end="250 2.0.0 ok")})
    play.rcpt()
    play.now += 0.31
    play.start()
    play.finish()
    (line,) = lines(play, "Exim")
    assert line == (
        "1970-01-01 00:00:00.000 o1 => user@example.org H=mx.example.org [192.0.2.1]:25 "
        'X=TLS1.3:TLS_AES_256_GCM_SHA384 CV=dane DN="CN=mx.example.org" C="250 2.0.0 ok" D=0.310s'
    )


def test_a_delivery_in_json() -> None:
    play = Playbook(DANE)
    play.deliver()
    line = json.loads(lines(play, "JSON")[0])
    assert {
        "event": "delivery",
        "session": "o1",
        "outcome": "delivered",
        "recipient": "user@example.org",
        "host": "mx.example.org",
        "address": "192.0.2.1",
        "port": 25,
        "level": "dane",
        "tls_out_dane": "yes",
        "tls_out_tlsa_usage": 8,
        "tls_out_cipher": "TLS1.3:TLS_AES_256_GCM_SHA384",
        "reply": "250 2.0.0 queued",
        "duration": 0.0,
    }.items() <= line.items()
    assert "reason" not in line


def test_hosts_on_the_way_have_a_line_each() -> None:
    play = Playbook(
        PLAIN, {FIRST: Host(Lost("connect_refused", "Connection refused")), "192.0.2.2": Host(RCPT="450 x")}
    )
    play.rcpt()
    first, second, last = lines(play, "Exim")
    assert "attempt H=mx.example.org [192.0.2.1]:25 R=connect_refused " in first
    assert "attempt H=backup.example.org [192.0.2.2]:25 X=TLS1.3" in second
    assert "o1 == user@example.org H=backup.example.org [192.0.2.2]:25 X=TLS1.3" in last


def test_the_level_of_an_attempt_is_the_one_that_had_to_be_reached() -> None:
    play = Playbook(DANE, {FIRST: Host(TLS=STRANGER)})
    play.deliver()
    (failed,) = play.logged("attempt")
    assert (failed["level"], failed["reason"]) == (Level.DANE, "tlsa_mismatch")
    assert "verified" not in failed  # nothing was


def test_a_next_hops_control_octets_do_not_reach_the_log() -> None:
    play = Playbook(hosts={FIRST: Host(RCPT="550 5.1.1 \x1b[31m\x07", banner="220 mx")})
    play.rcpt()
    for style in ("Exim", "JSON"):
        (line,) = lines(play, style)
        assert line.isprintable()
    assert play.outcome["outcome"] == "bounced"


def test_a_domain_that_leads_nowhere_has_no_host() -> None:
    play = Playbook(target="nowhere.example")
    play.rcpt("user@nowhere.example")
    assert lines(play, "Exim")[0].partition(" o1 ")[2].startswith("attempt H=nowhere.example R=no_such_domain ")
    assert lines(play, "Exim")[1].partition(" o1 ")[2].startswith("** user@nowhere.example H=nowhere.example R=no_such")
