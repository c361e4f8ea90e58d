"""Real health checks of HAProxy: answered from the mail server's health, and never taken for clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from lab.namespaces import BALANCER, POD
from lab.policies import LOCAL, listener
from lab.servers import postfix
from lab.servers.balancers import Forward

if TYPE_CHECKING:
    from lab.laboratory import Lab
    from lab.mailserver import MailServer
    from lab.program import Process
    from lab.servers.sidecar import Sidecar

Version = Literal["v1", "v2"] | None

pytestmark = pytest.mark.real

CLIENT = "192.0.2.10"
PROXIED = postfix.service(2525, smtpd_upstream_proxy_protocol="haproxy")
SMTPCHK = "  option smtpchk EHLO balancer.example.org\n  option log-health-checks\n  timeout check 5s"
DOWN = r"Server port0/backend is DOWN"
UP = r"Server port0/backend is UP"
OF_A_SESSION = r" (connect|closed|refused|proxy_failed) |Warning"
STRICT = {"connectionsPerClient": 1, "ratePerClient": {"connections": 1, "per": "1h"}}


def mail_server(lab: Lab) -> MailServer:
    return lab.postfix(master=PROXIED)


def balancer(lab: Lab, *, send: Version = "v2", settings: str = SMTPCHK) -> Process:
    """Checks every 100 ms; two good ones are UP, three bad ones DOWN."""
    return lab.haproxy(Forward(bind=(BALANCER, 25), to=(POD, 25), send=send, check=True, settings=settings))


def nobody_noticed(sidecar: Sidecar) -> None:
    """No line, no limit, no connection: of all that was checked, only the counter of checks tells."""
    assert not sidecar.log.matches(OF_A_SESSION)
    assert sidecar.metric("postern_inbound_connections_total") == 0
    assert sidecar.metric("postern_inbound_limited_total") == 0
    assert sidecar.metric("postern_inbound_rule_hits_total") == 0
    assert sidecar.metric("postern_inbound_clients") == 0


def test_checks_follow_the_mail_server(lab: Lab) -> None:
    """UP, DOWN within the ten seconds that an answer is kept, and UP again with the first session."""
    server = mail_server(lab)
    rules = [{"name": "all", "when": "true", "action": "Log", "message": "somebody"}]
    sidecar = lab.sidecar({"inbound": [listener(limits=STRICT, rules=rules)]})
    haproxy = balancer(lab)
    haproxy.log.wait_for(r"Health check for server port0/backend succeeded, reason: Layer7 check passed, code: 221")
    assert sidecar.metric("postern_inbound_probes_total", result="up") >= 1
    nobody_noticed(sidecar)
    server.kill()
    haproxy.log.wait_for(DOWN)
    assert haproxy.log.matches(r"Health check for server port0/backend failed, reason: Layer7 wrong status, code: 421")
    assert sidecar.metric("postern_inbound_probes_total", result="down") >= 3
    nobody_noticed(sidecar)
    assert len(server.log.matches(r"smtpd\[\d+\]: connect from")) <= 2  # the sidecar's own, one in ten seconds
    assert not server.log.matches(BALANCER)

    server = mail_server(lab)
    with lab.outside.talk((POD, 25), source=CLIENT) as client:
        client.deliver()
    haproxy.log.wait_for(UP)
    with lab.outside.talk((BALANCER, 25), source="192.0.2.11") as client:
        client.deliver()
    assert sidecar.metric("postern_inbound_connections_total", outcome="handed_over") == 2
    assert not server.log.matches(BALANCER)


def test_a_mail_server_that_is_not_there_yet(lab: Lab) -> None:
    sidecar = lab.sidecar({"inbound": [listener()]})
    haproxy = balancer(lab)
    haproxy.log.wait_for(DOWN)
    nobody_noticed(sidecar)


def test_forwarded_checks_reach_the_mail_server_as_the_balancer(lab: Lab) -> None:
    server = mail_server(lab)
    sidecar = lab.sidecar({"inbound": [listener(limits=STRICT, proxyProtocol={"probes": "Forward"})]})
    haproxy = balancer(lab)
    server.log.wait_for(rf"disconnect from unknown\[{BALANCER}\] ehlo=1 quit=1", times=3)
    assert sidecar.metric("postern_inbound_probes_total", result="forwarded") >= 3
    server.kill()
    haproxy.log.wait_for(DOWN)
    assert sidecar.metric("postern_inbound_probes_total", result="down") >= 1
    nobody_noticed(sidecar)
    mail_server(lab)
    haproxy.log.wait_for(UP)
    with lab.outside.talk((BALANCER, 25), source=CLIENT) as client:
        client.deliver()


def test_with_probes_selected_the_log_has_them(lab: Lab) -> None:
    mail_server(lab)
    listening = listener(proxyProtocol={"probes": "Forward"})
    sidecar = lab.sidecar({"inbound": [listening], "logging": {"selectors": ["+proxy", "+probes"]}})
    balancer(lab)
    sidecar.log.wait_for(rf" connect H=\[{BALANCER}\]:\d+ .* PRX={BALANCER} V=2 HO=ProxyV2")


@pytest.mark.parametrize("send", [None, "v2"], ids=["plain", "with a header"])
def test_checks_of_the_connection_alone_leave_no_trace(lab: Lab, send: Version) -> None:
    """HAProxy ends these with a reset as soon as the connection stands; nothing has been asked of the mail server."""
    server = mail_server(lab)
    sidecar = lab.sidecar({"inbound": [listener()]})
    haproxy = balancer(lab, send=send, settings="  option log-health-checks")
    haproxy.log.wait_for(r"Health check for server port0/backend succeeded")
    with lab.outside.talk((POD, 25), source=CLIENT) as client:
        client.deliver()
    sidecar.log.wait_for(rf" closed H=\[{CLIENT}\]")
    assert all(CLIENT in line for line in sidecar.log.lines if "H=" in line)
    assert sidecar.metric("postern_inbound_header_failures_total") == 0
    assert not server.log.matches(BALANCER)


def test_a_connection_without_a_byte_is_empty(lab: Lab) -> None:
    server = mail_server(lab)
    sidecar = lab.sidecar({"inbound": [listener()]})
    for _ in range(3):
        with lab.outside.talk((POD, 25), source=BALANCER) as check:
            check.sock.shutdown(1)
            assert check.rest() == b""
    assert sidecar.metric("postern_inbound_connections_total", outcome="empty") == 3
    assert sidecar.metric("postern_inbound_connections_total") == 3
    assert not sidecar.log.matches(OF_A_SESSION)
    assert not server.log.matches("connect from")


def test_checks_in_version_1_are_sessions_of_the_balancer_itself(lab: Lab) -> None:
    """HAProxy's version 1 has no LOCAL: its checks name its own address, which is no client's. The rule of 2014 tells
    them from clients; limits per client do not hold for them."""
    server = mail_server(lab)
    clients = "proxy_session && proxy_host_address != '' && proxy_host_address != sender_host_address"
    rules = [{"name": "proxied", "when": clients, "action": "Log", "message": "from ${sender_host_address}"}]
    sidecar = lab.sidecar({"inbound": [listener(limits=STRICT, rules=rules)]})
    balancer(lab, send="v1")
    server.log.wait_for(rf"disconnect from unknown\[{BALANCER}\] ehlo=1 quit=1", times=3)
    with lab.outside.talk((BALANCER, 25), source=CLIENT) as client:
        client.deliver()
    assert sidecar.log.matches(rf" connect H=\[{BALANCER}\]:\d+ .* PRX={BALANCER} V=1 HO=ProxyV2$")
    assert [match[1] for match in sidecar.log.matches(r"Warning: (.*)")] == [f"from {CLIENT}"]
    assert sidecar.metric("postern_inbound_limited_total") == 0


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", LOCAL[:12] + b"\x21\0\0\0"], ids=["v1", "v2"])
def test_a_header_that_names_nobody(lab: Lab, header: bytes) -> None:
    server = mail_server(lab)
    taking = listener(name="peer", port=26, limits=STRICT, proxyProtocol={"unknown": "UsePeer"})
    sidecar = lab.sidecar({"inbound": [listener(), taking]})
    with lab.outside.talk((POD, 25), source=BALANCER) as client:
        client.send(header)
        assert client.expect(421).text.startswith("4.3.2")
    sidecar.log.wait_for(rf" proxy_failed H=\[{BALANCER}\]:\d+ .* R=unknown ")
    for _ in range(3):  # more than a client could: a load balancer is none
        with lab.outside.talk((POD, 26), source=BALANCER) as client:
            client.send(header)
            client.deliver()
    server.log.wait_for(rf" client=unknown\[{BALANCER}\]", times=3)


def test_a_check_hears_what_a_mail_server_would_say(lab: Lab) -> None:
    server = mail_server(lab)
    lab.sidecar({"inbound": [listener()]})
    with lab.outside.talk((POD, 25), source=BALANCER) as check:
        check.send(LOCAL)
        assert check.expect(220).text == "mail.example.org ESMTP"
        check.command("EHLO balancer.example.org", 250)
        check.command("NOOP", 250)
        check.command("MAIL FROM:<a@b.example>", 502)
        check.command("QUIT", 221)
        assert check.rest() == b""
    server.log.wait_for(r"disconnect from localhost\[127\.0\.0\.1\] quit=1 commands=1")
