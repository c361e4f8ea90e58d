"""Nobody becomes 127.0.0.1: clients that send XCLIENT of their own, against a Postfix that would take it from them.

Postfix relays for 127.0.0.0/8 (`mynetworks`), so a client that has become 127.0.0.1 may send to anywhere: the accepted
recipient of another domain, logged with `client=localhost[127.0.0.1]`, is the proof of a break-in. The first tests show
that the attacks are real.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from lab.certificate import POSTFIX as TLS
from lab.namespaces import BALANCER, POD
from lab.servers import postfix

if TYPE_CHECKING:
    from lab.conversation import Conversation
    from lab.laboratory import Lab
    from lab.mailserver import MailServer
    from lab.servers.sidecar import Sidecar

pytestmark = pytest.mark.real

TRUSTED = "192.0.2.10"  # inside Postfix's smtpd_authorized_xclient_hosts, as a careless setting may have it
STRANGER = "198.51.100.7"
BECOME = b"XCLIENT NAME=localhost ADDR=127.0.0.1\r\n"
RELAY = b"EHLO evil\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<victim@elsewhere.example>\r\nQUIT\r\n"
BECAME = r"client=\S*\[127\.0\.0\.1\]"
DISCONNECTED = r"disconnect from"
BODY = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<box@example.org>\r\nDATA\r\nSubject: x\r\n\r\n"

ATTACKS = {
    "plain": BECOME,
    "lower case": BECOME.lower(),
    "pipelined": b"NOOP\r\n" * 20 + BECOME,
    "leading blank": b" " + BECOME,
    "leading tab": b"\t" + BECOME,
    "tab for blank": BECOME.replace(b" ", b"\t", 1),
    "two blanks": BECOME.replace(b" ", b"  ", 1),
    "twice": BECOME + BECOME,
    "bare LF": BECOME.replace(b"\r\n", b"\n"),
    "behind a bare LF": b"NOOP\n" + BECOME,
    "behind a bare CR": b"NOOP\r" + BECOME,
    "in a message, behind LF.LF": BODY + b"text\n.\n" + BECOME,
    "in a message, behind CRLF.LF": BODY + b"text\r\n.\n" + BECOME,
    "in a message, behind LF.CRLF": BODY + b"text\n.\r\n" + BECOME,
    "behind a message": BODY + b"text\r\n.\r\n" + BECOME,
    "as a chunk": b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<box@example.org>\r\nBDAT 5000\r\n" + BECOME,
    "as a chunk out of turn": b"BDAT %d LAST\r\n" % len(BECOME) + BECOME,
    "behind DATA that is refused": b"DATA\r\n" + BECOME,
    "behind AUTH that is refused": b"AUTH LOGIN\r\n" + BECOME,
    "behind a long line": b"NOOP " + b"x" * 5000 + b"\r\n" + BECOME,
    "behind NUL": b"NOOP\x00\r\n\x00" + BECOME,
    "XFORWARD": b"XFORWARD NAME=localhost ADDR=127.0.0.1\r\n",
}


def mail_server(
    lab: Lab, *, trusted: str = f"127.0.0.1, {TRUSTED}", forward: str = TRUSTED, address: str = "127.0.0.1"
) -> MailServer:
    settings = (
        f"{TLS}mynetworks = 127.0.0.0/8\ndefault_transport = discard\nsmtpd_authorized_xclient_hosts = {trusted}\n"
    )
    limits = "smtpd_hard_error_limit = 1000\nsmtpd_junk_command_limit = 1000\nsmtpd_error_sleep_time = 0\n"
    forwards = f"smtpd_authorized_xforward_hosts = {forward}\n"
    return lab.postfix(master=postfix.service(2525, address), main=settings + limits + forwards)


def sidecar(lab: Lab, handover: str = "XCLIENT", *, nameserver: bool = True, **backend: Any) -> Sidecar:
    listener: dict[str, Any] = {
        "name": "smtp",
        "port": 25,
        "backend": {"port": 2525, "handover": handover, **backend},
        "earlyTalkers": "Forward",
        "proxyProtocol": {"requiredFrom": [f"{BALANCER}/32"]},
    }
    if nameserver:
        lab.nameserver()
    return lab.sidecar({"inbound": [listener]})


def through(lab: Lab, source: str) -> Conversation:
    """A client behind the load balancer."""
    talk = lab.outside.talk((POD, 25), source=BALANCER)
    talk.send(f"PROXY TCP4 {source} {BALANCER} 40211 25\r\n")
    return talk


def assault(client: Conversation, attack: bytes) -> None:
    """Say hello, attack, and try to relay."""
    client.expect(220)
    client.command("EHLO evil", 250)
    client.send(attack)
    client.send(RELAY)
    client.sock.shutdown(socket.SHUT_WR)
    client.rest()


@pytest.mark.parametrize("attack", ["plain", "lower case", "pipelined", "bare LF", "behind a message", "XFORWARD"])
def test_the_attacks_are_real(lab: Lab, attack: str) -> None:
    """Without the sidecar, from an authorized address, Postfix takes the verb."""
    server = mail_server(lab, address=POD)
    with lab.outside.talk((POD, 2525), source=TRUSTED) as client:
        assault(client, ATTACKS[attack])
    server.log.wait_for(DISCONNECTED)
    if attack != "XFORWARD":
        assert server.log.matches(r"client=localhost\[127\.0\.0\.1\]")


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_guarded_client_stays_who_it_is(lab: Lab, attack: str) -> None:
    server = mail_server(lab)
    process = sidecar(lab, acknowledgeNoStartTLS=True)
    with through(lab, TRUSTED) as client:
        assault(client, ATTACKS[attack])
    process.log.wait_for(rf" closed H=\[{TRUSTED}\]")
    server.log.wait_for(rf"disconnect from unknown\[{TRUSTED}\]")
    assert not server.log.matches(BECAME)


@pytest.mark.parametrize("attack", ATTACKS)
def test_behind_plain_nobody_becomes_anybody_either(lab: Lab, attack: str) -> None:
    """Plain hides every client behind 127.0.0.1; what the guard keeps is that nobody chooses an address."""
    server = mail_server(lab)
    process = sidecar(lab, "Plain", acknowledgeClientHidden=True, acknowledgeNoStartTLS=True)
    with through(lab, STRANGER) as client:
        assault(client, ATTACKS[attack].replace(b"127.0.0.1", b"203.0.113.99"))
    process.log.wait_for(rf" closed H=\[{STRANGER}\]")
    server.log.wait_for(r"disconnect from localhost\[127\.0\.0\.1\]")
    assert not server.log.matches(r"203\.0\.113\.99")


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "behind STARTTLS"])
@pytest.mark.parametrize("attack", ["plain", "pipelined", "behind a message", "XFORWARD"])
def test_an_ordinary_client_needs_no_guard(lab: Lab, attack: str, tls: bool) -> None:
    """Postfix judges XCLIENT again by the new address: STARTTLS stays, and the verb is refused by Postfix itself."""
    server = mail_server(lab)
    process = sidecar(lab)
    with through(lab, STRANGER) as client:
        client.expect(220)
        announced = client.command("EHLO evil", 250).text
        assert "STARTTLS" in announced
        assert "XCLIENT" not in announced
        if tls:
            client.starttls()
        client.send(ATTACKS[attack])
        client.send(RELAY)
        assert b"550 5.7.0" in client.rest()
    process.log.wait_for(rf" closed H=\[{STRANGER}\]")
    server.log.wait_for(rf"disconnect from unknown\[{STRANGER}\]")
    assert not server.log.matches(BECAME)


def test_the_guard_takes_the_keywords_and_starttls_away(lab: Lab) -> None:
    mail_server(lab)
    sidecar(lab, acknowledgeNoStartTLS=True)
    with through(lab, TRUSTED) as client:
        client.expect(220)
        keywords = client.command("EHLO client.test", 250).text.split()
        assert not {"XCLIENT", "XFORWARD", "STARTTLS", "CHUNKING"} & set(keywords)
        assert "PIPELINING" in keywords
        assert client.command("STARTTLS", 502).text.startswith("5.5.1")


def test_a_guarded_session_still_delivers_mail(lab: Lab) -> None:
    server = mail_server(lab)
    sidecar(lab, acknowledgeNoStartTLS=True)
    with through(lab, TRUSTED) as client:
        client.deliver()
    (message,) = server.received()
    assert f"[{TRUSTED}]" in message["Received"]


@pytest.mark.parametrize("handover", ["XCLIENT", "Plain"])
def test_without_the_acknowledgement_it_is_a_421_that_recommends_proxy(lab: Lab, handover: str) -> None:
    mail_server(lab)
    hidden = {"acknowledgeClientHidden": True} if handover == "Plain" else {}
    process = sidecar(lab, handover, **hidden)
    with through(lab, TRUSTED) as client:
        assert client.reply()[:2] == (421, "4.3.5 mail.example.org mail server configuration error")
    process.log.wait_for(r"R=handover_refused .*ProxyV2")


def test_postfix_keeps_the_right_to_xforward_through_xclient(lab: Lab) -> None:
    """So with 127.0.0.1 in that list every client needs the guard, which docs/backends.md warns of."""
    mail_server(lab, trusted="127.0.0.1", forward="127.0.0.1")
    process = sidecar(lab)
    with through(lab, STRANGER) as client:
        client.expect(421)
    process.log.wait_for(r"R=handover_refused .*announces XCLIENT or XFORWARD")


def test_a_server_that_does_not_authorize_us_is_named_in_the_log(lab: Lab) -> None:
    mail_server(lab, trusted="192.0.2.200")
    process = sidecar(lab)
    with through(lab, STRANGER) as client:
        client.expect(421)
    process.log.wait_for(r"R=handover_refused .*smtpd_authorized_xclient_hosts")


def test_names_reach_postfix_as_reverse_dns_has_them(lab: Lab) -> None:
    """Verified, contradicted, absent and failed are four answers, and reject rules of Postfix tell them apart."""
    server = mail_server(lab)
    lab.nameserver(
        {"198.51.100.7": "good.example.net", "198.51.100.8": "liar.example.net"},
        hosts={"good.example.net": ["198.51.100.7"], "liar.example.net": ["203.0.113.1"]},
        failing=["198.51.100.9"],
    )
    sidecar(lab, nameserver=False)
    for source, name in (
        ("198.51.100.7", "good.example.net"),
        ("198.51.100.8", "unknown"),
        ("198.51.100.9", "unknown"),
        ("198.51.100.10", "unknown"),
    ):
        with through(lab, source) as client:
            client.deliver()
        server.log.wait_for(rf"client={name}\[{source}\]".replace(".", r"\."))
