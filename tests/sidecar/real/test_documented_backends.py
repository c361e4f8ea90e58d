"""docs/backends.md, word for word: each server with its snippet, behind the sidecar with its policy, behind HAProxy.

What is asserted is what the mail server itself says of the client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from lab.namespaces import BALANCER, BALANCER6, POD, POD6
from lab.servers import dovecot, postfix
from lab.servers.balancers import Forward
from lab.snippets import BACKENDS, all_snippets, snippet

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.laboratory import Lab
    from lab.mailserver import MailServer

pytestmark = pytest.mark.real

CLIENTS = {BALANCER: "192.0.2.10", BALANCER6: "2001:db8::10"}


@dataclass(frozen=True)
class Documented:
    """A server of the page: how it starts, and what it says of a client once a message is through."""

    settings: str
    start: Callable[[Lab, str], MailServer]
    says: str  # with {client}
    policy: str = ""
    received: bool = True  # its Received header names the client


SERVERS = [
    Documented(
        "postfix-proxyv2",
        lambda lab, text: lab.postfix(master=text),
        r"smtpd\[\d+\]: connect from client\.example\.net\[{client}\]$",
    ),
    Documented(
        "postfix-xclient",
        lambda lab, text: lab.postfix(master=text),
        r"smtpd\[\d+\]: \S+: client=client\.example\.net\[{client}\]$",
    ),
    Documented(
        "exim-proxyv2",
        lambda lab, text: lab.exim(main=text),
        r"<= \S+ H=client\.example\.net \(client\.test\) \[{client}\] .*PRX=",
    ),
    Documented(
        "opensmtpd-proxyv2",
        lambda lab, text: lab.opensmtpd(listen=text),
        r"smtp connected address=\[?(IPv6:)?{client}\]?",
    ),
    Documented(
        "aiosmtpd-proxyv2",
        lambda lab, text: lab.aiosmtpd(program=text),
        r"^message from {client} to ",
        received=False,
    ),
    Documented(
        "postfix-transparent",
        lambda lab, text: lab.postfix(master=text),
        r"smtpd\[\d+\]: connect from client\.example\.net\[{client}\]$",
        policy="transparent-policy",
    ),
]


@pytest.mark.parametrize("balancer", [BALANCER, BALANCER6])
@pytest.mark.parametrize("case", SERVERS, ids=lambda case: case.settings)
def test_the_server_knows_the_client(lab: Lab, case: Documented, balancer: str) -> None:
    transparent = case.settings == "postfix-transparent"
    if transparent:
        lab.route_transparent()
    lab.nameserver({CLIENTS[balancer]: "client.example.net"})
    server = case.start(lab, snippet(case.settings))
    lab.sidecar(text=snippet(case.policy or f"{case.settings}-policy"), net_raw=transparent)
    pod = POD6 if ":" in balancer else POD
    lab.haproxy(Forward(bind=(balancer, 25), to=(pod, 25), send="v2", check=True))
    with lab.outside.talk((balancer, 25), source=CLIENTS[balancer]) as client:
        client.deliver()
    server.log.wait_for(case.says.format(client=CLIENTS[balancer]))
    if case.received:
        (message,) = server.received()
        assert f"{CLIENTS[balancer]}]" in message["Received"]


def test_dovecot_knows_the_client(lab: Lab) -> None:
    server = lab.dovecot(listeners=snippet(f"dovecot-{dovecot.syntax()}"))
    lab.postfix(master=postfix.service(2526))
    lab.sidecar(text=snippet("dovecot-policy"))
    lab.haproxy(Forward(bind=(BALANCER, 587), to=(POD, 587)), Forward(bind=(BALANCER, 143), to=(POD, 143)))
    with lab.outside.talk((BALANCER, 587), source="192.0.2.10") as client:
        client.expect(220)
        client.command("EHLO client.test", 250)
        client.starttls()
        client.command("EHLO client.test", 250)
        client.command("AUTH PLAIN AGJveABzZWNyZXQ=", 235)
    server.log.wait_for(r"submission-login: .*Log(in|ged in): user=<box>.*rip=192\.0\.2\.10")
    with lab.outside.talk((BALANCER, 143), source="192.0.2.11") as client:
        assert "LOGINDISABLED" in client.line()
        client.send("a STARTTLS\r\n")
        assert client.line().startswith("a OK")
        client.handshake()
        client.send("b LOGIN box secret\r\n")
        server.log.wait_for(r"imap-login: .*Log(in|ged in): user=<box>.*rip=192\.0\.2\.11")


def test_every_snippet_of_the_page_is_run_here() -> None:
    run = {"transparent-rules", "dovecot-2.3", "dovecot-2.4", "dovecot-policy"}
    for case in SERVERS:
        run |= {case.settings, case.policy or f"{case.settings}-policy"}
    assert set(all_snippets(BACKENDS)) == run
