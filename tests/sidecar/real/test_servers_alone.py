"""The laboratory itself: each real server, fed by a real load balancer without Postern, knows the real client.

A test of the sidecar that fails where these pass has found a fault of the sidecar. The settings are the snippets of
docs/backends.md; they listen on the pod's loopback only, so the load balancer stands in the pod too.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from lab.namespaces import BALANCER, BALANCER6, POD, POD6
from lab.servers import dovecot, postfix
from lab.servers.balancers import Forward
from lab.snippets import snippet

if TYPE_CHECKING:
    from lab.laboratory import Lab

pytestmark = pytest.mark.real

CLIENT, CLIENT6 = "192.0.2.10", "2001:db8::10"
BACKEND = ("127.0.0.1", 2525)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_postfix_logs_the_client_that_haproxy_names(lab: Lab, version: Literal["v1", "v2"]) -> None:
    server = lab.postfix(master=snippet("postfix-proxyv2"), main="smtpd_client_port_logging = yes\n")
    lab.haproxy(Forward(bind=(POD, 25), to=BACKEND, send=version), host="pod")
    with lab.outside.talk((POD, 25), source=CLIENT) as client:
        client.deliver()
        port = client.address[1]
    server.log.wait_for(rf"smtpd\[\d+\]: connect from unknown\[{CLIENT}\]:{port}$")
    (message,) = server.received()
    assert f"(unknown [{CLIENT}])" in message["Received"]


def test_a_balancer_outside_reaches_the_pod_from_its_own_address_on_both_families(lab: Lab) -> None:
    proxied = postfix.service(2525, POD, smtpd_upstream_proxy_protocol="haproxy")
    direct = postfix.service(2526, POD) + postfix.service(2526, POD6)
    server = lab.postfix(master=proxied + direct)
    lab.haproxy(
        Forward(bind=(BALANCER, 25), to=(POD, 2525), send="v2"),
        Forward(bind=(BALANCER, 26), to=(POD, 2526), send=None),
        Forward(bind=(BALANCER6, 26), to=(POD6, 2526), send=None),
    )
    for to, source, seen in (
        ((BALANCER, 25), CLIENT, CLIENT),
        ((BALANCER, 26), CLIENT, BALANCER),
        ((BALANCER6, 26), CLIENT6, BALANCER6),
        ((POD6, 2526), CLIENT6, CLIENT6),
    ):
        with lab.outside.talk(to, source=source) as client:
            client.expect(220)
            client.command("QUIT", 221)
        server.log.wait_for(rf"disconnect from unknown\[{seen}\]")


def test_nginx_names_the_client_to_postfix(lab: Lab) -> None:
    server = lab.postfix(master=snippet("postfix-proxyv2"))
    lab.nginx(Forward(bind=(POD, 25), to=BACKEND, send="v1"), host="pod")
    with lab.outside.talk((POD, 25), source=CLIENT) as client:
        client.deliver()
    server.log.wait_for(rf"connect from unknown\[{CLIENT}\]")


def test_haproxy_checks_with_local_headers(lab: Lab) -> None:
    listener = lab.pod.listen((POD, 2525))
    lab.haproxy(Forward(bind=(BALANCER, 25), to=(POD, 2525), send="v2", check=True))
    with listener:
        probe, peer = listener.accept()
    with probe:
        probe.settimeout(10)
        header = probe.recv(16)
    assert peer[0] == BALANCER
    assert header[:13] == b"\r\n\r\n\0\r\nQUIT\n\x20"


def test_exim_logs_client_and_proxy(lab: Lab) -> None:
    server = lab.exim(main=snippet("exim-proxyv2"))
    lab.haproxy(Forward(bind=(POD, 25), to=BACKEND, send="v2"), host="pod")
    with lab.outside.talk((POD, 25), source=CLIENT) as client:
        client.deliver()
    server.log.wait_for(rf"<= sender@example\.net H=\(client\.test\) \[{CLIENT}\] .*PRX=127\.0\.0\.1")
    (message,) = server.received()
    assert f"[{CLIENT}]" in message["Received"]


def test_opensmtpd_logs_the_client(lab: Lab) -> None:
    server = lab.opensmtpd(listen=snippet("opensmtpd-proxyv2"))
    lab.haproxy(Forward(bind=(POD, 25), to=BACKEND, send="v2"), host="pod")
    with lab.outside.talk((POD, 25), source=CLIENT) as client:
        client.deliver()
    server.log.wait_for(rf"smtp connected address={CLIENT}")
    (message,) = server.received()
    assert f"[{CLIENT}]" in message["Received"]


def test_dovecot_logs_the_client_of_submission_and_imap(lab: Lab) -> None:
    server = lab.dovecot(listeners=snippet(f"dovecot-{dovecot.syntax()}"))
    relay = lab.postfix(master=postfix.service(2526))
    lab.haproxy(
        Forward(bind=(POD, 587), to=("127.0.0.1", 1587), send="v2"),
        Forward(bind=(POD, 143), to=("127.0.0.1", 1143), send="v2"),
        host="pod",
    )
    with lab.outside.talk((POD, 587), source=CLIENT) as client:
        client.expect(220)
        assert "AUTH" not in client.command("EHLO client.test", 250).text  # no password in clear text
        client.starttls()
        client.command("EHLO client.test", 250)
        client.command("AUTH PLAIN AGJveABzZWNyZXQ=", 235)
        client.command("MAIL FROM:<sender@example.net>", 250)
        client.command("RCPT TO:<box@example.org>", 250)
        client.command("DATA", 354)
        client.command("Subject: submitted\r\n\r\nHello.\r\n.", 250)
    server.log.wait_for(rf"submission-login: .*Log(in|ged in): user=<box>.*rip={CLIENT}")
    assert relay.received()[0]["Subject"] == "submitted"
    with lab.outside.talk((POD, 143), source=CLIENT) as client:
        assert "LOGINDISABLED" in client.line()
        client.send("a STARTTLS\r\n")
        assert client.line().startswith("a OK")
        client.handshake()
        client.send("b LOGIN box secret\r\n")
        server.log.wait_for(rf"imap-login: .*Log(in|ged in): user=<box>.*rip={CLIENT}")


def test_aiosmtpd_prints_the_client(lab: Lab) -> None:
    server = lab.aiosmtpd(program=snippet("aiosmtpd-proxyv2"))
    lab.haproxy(Forward(bind=(POD, 25), to=BACKEND, send="v2"), host="pod")
    with lab.outside.talk((POD, 25), source=CLIENT) as client:
        client.deliver()
    server.log.wait_for(rf"^message from {CLIENT} to \['box@example\.org'\]$")


def test_postfix_takes_xclient_from_loopback_and_from_nobody_else(lab: Lab) -> None:
    elsewhere = postfix.service(2526, POD, smtpd_authorized_xclient_hosts="127.0.0.1")
    server = lab.postfix(master=snippet("postfix-xclient") + elsewhere)
    with lab.pod.talk(BACKEND) as proxy:
        proxy.expect(220)
        assert "XCLIENT" in proxy.command("EHLO proxy.test", 250).text
        proxy.command(f"XCLIENT NAME=client.example.net ADDR={CLIENT}", 220)
        assert "XCLIENT" not in proxy.command("EHLO client.test", 250).text
        proxy.command("MAIL FROM:<sender@example.net>", 250)
    server.log.wait_for(rf"disconnect from client\.example\.net\[{CLIENT}\]")
    with lab.outside.talk((POD, 2526), source=CLIENT) as client:
        client.expect(220)
        client.command("EHLO client.test", 250)
        client.command("XCLIENT NAME=[UNAVAILABLE] ADDR=127.0.0.1", 550)


def test_swaks_sends_a_header_of_its_own(lab: Lab) -> None:
    server = lab.postfix(master=postfix.service(2525, POD, smtpd_upstream_proxy_protocol="haproxy"))
    header = f"--proxy-version 2 --proxy-family AF_INET --proxy-source {CLIENT} --proxy-source-port 4711"
    transcript = lab.swaks(
        *f"--server {POD}:2525 --to box@example.org --from sender@example.net --helo client.test".split(),
        *header.split(),
        *f"--proxy-protocol STREAM --proxy-dest {POD} --proxy-dest-port 25".split(),
    )
    assert transcript.status == 0, str(transcript.log)
    server.log.wait_for(rf"connect from unknown\[{CLIENT}\]")


def test_the_documented_rules_let_a_program_connect_from_any_address(lab: Lab) -> None:
    lab.route_transparent()
    server = lab.postfix(master=snippet("postfix-transparent"))
    lab.python(
        "import socket\n"
        "for family, level, option, client, server in (\n"
        f"    (socket.AF_INET, socket.IPPROTO_IP, 19, '{CLIENT}', '127.0.0.1'),\n"
        f"    (socket.AF_INET6, socket.IPPROTO_IPV6, 75, '{CLIENT6}', '::1')):\n"
        "    sock = socket.socket(family)\n"
        "    sock.setsockopt(level, option, 1)\n"
        "    sock.bind((client, 0))\n"
        "    sock.connect((server, 2525))\n"
        "    print(sock.recv(100))\n"
    ).wait()
    for client in (CLIENT, CLIENT6):
        server.log.wait_for(
            rf"disconnect from unknown\[{client}\]|lost connection after CONNECT from unknown\[{client}\]"
        )


def test_killing_a_server_ends_its_sessions(lab: Lab) -> None:
    server = lab.postfix(master=postfix.service(2525))
    with lab.pod.talk(BACKEND) as client:
        client.expect(220)
        server.kill()
        assert client.rest() == b""
    assert server.process.status == -signal.SIGKILL


def test_names_come_from_the_laboratorys_name_server(lab: Lab) -> None:
    lab.nameserver(
        {CLIENT: "client.example.net", "192.0.2.11": "liar.example.net"}, hosts={"client.example.net": [CLIENT]}
    )
    server = lab.postfix(master=postfix.service(2525, POD))
    for source, seen in ((CLIENT, "client.example.net"), ("192.0.2.11", "unknown"), ("192.0.2.12", "unknown")):
        with lab.outside.talk((POD, 2525), source=source) as client:
            client.expect(220)
        server.log.wait_for(rf" connect from {seen}\[{source}\]")


def test_nothing_survives_a_killed_test_run() -> None:
    program = (
        "import sys; from lab.laboratory import Lab; from lab.servers import postfix\n"
        "lab = Lab(); lab.postfix(master=postfix.service(2525))\n"
        "print(lab.folder, lab.pid, flush=True); sys.stdin.read()\n"
    )
    support = Path(__file__).resolve().parents[2] / "support"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(support)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as run:
        assert run.stdout is not None
        folder, pid = run.stdout.readline().decode().split()
        supervisor = os.pidfd_open(int(pid))
        assert Path(folder).is_dir()
        run.kill()
    try:
        ended, _, _ = select.select([supervisor], [], [], 10)
    finally:
        os.close(supervisor)
    assert ended
    assert not Path(folder).exists()
