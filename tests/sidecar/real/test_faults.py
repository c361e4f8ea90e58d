"""The mail server dies, freezes or is read too slowly: sessions end or go on, and everybody is told what to do."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from lab.namespaces import BALANCER, POD
from lab.policies import listener, through
from lab.servers.balancers import Forward
from lab.snippets import snippet

if TYPE_CHECKING:
    from lab.laboratory import Lab
    from lab.mailserver import MailServer

pytestmark = pytest.mark.real

CLIENT = "192.0.2.10"
NOT_NOW = b"421 4.3.2 mail.example.org service not available, try again later\r\n"
SESSIONS = 20
PATIENT = "smtpd_junk_command_limit = 1000000\nsmtpd_hard_error_limit = 1000000\nsmtpd_soft_error_limit = 1000000\n"


def mail_server(lab: Lab) -> MailServer:
    return lab.postfix(master=snippet("postfix-proxyv2"), main=PATIENT)


def test_postfix_is_killed_under_twenty_sessions(lab: Lab) -> None:
    server = mail_server(lab)
    sidecar = lab.sidecar({"inbound": [listener()]})
    lab.haproxy(Forward(bind=(BALANCER, 25), to=(POD, 25)))
    with contextlib.ExitStack() as stack:
        clients = []
        for number in range(SESSIONS):
            client = stack.enter_context(lab.outside.talk((BALANCER, 25), source=f"198.51.100.{number + 1}"))
            client.expect(220)
            client.command("EHLO client.test", 250)
            clients.append(client)
        for client in clients[::2]:  # half of them in the middle of a message
            client.command("MAIL FROM:<sender@example.net>", 250)
            client.command("RCPT TO:<box@example.org>", 250)
            client.command("DATA", 354)
            client.send("Subject: never whole\r\n")
        assert sidecar.metric("postern_inbound_sessions") == SESSIONS
        server.kill()
        for client in clients:
            assert client.rest() == b""
    sidecar.log.wait_for(r" closed H=\[198\.51\.100\.\d+\]", times=SESSIONS)
    assert sidecar.metric("postern_inbound_sessions") == 0
    with lab.outside.talk((BALANCER, 25), source=CLIENT) as client:
        assert client.rest() == NOT_NOW
    sidecar.log.wait_for(rf' refused H=\[{CLIENT}\]:\d+ PRX={BALANCER} R=backend_refused C="421 4\.3\.2 ')
    assert sidecar.metric("postern_inbound_connections_total", outcome="backend_failed") == 1
    server = mail_server(lab)
    with lab.outside.talk((BALANCER, 25), source=CLIENT) as client:
        client.deliver()
    (message,) = server.received()
    assert f"[{CLIENT}]" in message["Received"]


def test_postfix_is_frozen_before_its_banner(lab: Lab) -> None:
    """The kernel still takes the connection, but nobody speaks; when it thaws, mail goes through again."""
    server = mail_server(lab)
    sidecar = lab.sidecar({"inbound": [listener(timeouts={"banner": "300ms"})]})
    server.process.signal(signal.SIGSTOP)
    with through(lab.outside, CLIENT) as client:
        assert client.rest() == NOT_NOW
    sidecar.log.wait_for(rf' refused H=\[{CLIENT}\]:\d+ PRX={BALANCER} R=backend_timeout C="421 4\.3\.2 ')
    server.process.signal(signal.SIGCONT)
    with through(lab.outside, CLIENT) as client:
        client.deliver()
    assert sidecar.metric("postern_inbound_connections_total", outcome="backend_failed") == 1


def test_a_frozen_server_with_a_full_queue(lab: Lab) -> None:
    """Nobody accepts and the kernel's queue is full, so a connection is not even made."""
    with lab.pod.listen(("127.0.0.1", 2525), backlog=0):
        sidecar = lab.sidecar({"inbound": [listener(timeouts={"backendConnect": "300ms", "banner": "400ms"})]})
        with lab.pod.connect(("127.0.0.1", 2525)):
            with through(lab.outside, CLIENT) as client:
                assert client.rest() == NOT_NOW
            sidecar.log.wait_for(rf" refused H=\[{CLIENT}\]:\d+ PRX={BALANCER} R=backend_timeout ")
    assert sidecar.metric("postern_inbound_handover_seconds_count") == 0


def test_a_session_outlives_a_frozen_server(lab: Lab) -> None:
    server = lab.exim(main=snippet("exim-proxyv2"))
    lab.sidecar({"inbound": [listener()]})
    with through(lab.outside, CLIENT) as client:
        client.expect(220)
        client.command("EHLO client.test", 250)
        server.process.signal(signal.SIGSTOP)
        with through(lab.outside, "192.0.2.11") as other:
            assert not readable(other.sock, 0.2)
            client.command("MAIL FROM:<sender@example.net>", 250)  # its own process is not frozen
            server.process.signal(signal.SIGCONT)
            other.expect(220)
        client.command("RCPT TO:<box@example.org>", 250)
        client.command("DATA", 354)
        client.command("Subject: x\r\n\r\nHello.\r\n.", 250)
    (message,) = server.received()
    assert f"[{CLIENT}]" in message["Received"]


def readable(sock: socket.socket, seconds: float) -> bool:
    return bool(select.select([sock], [], [], seconds)[0])


def writable(sock: socket.socket, seconds: float) -> bool:
    return bool(select.select([], [sock], [], seconds)[1])


HELLOS = 60_000
SMALL_BUFFERS = "cd /proc/sys/net/ipv4; echo 4096 32768 65536 | tee tcp_rmem > tcp_wmem"  # so that they fill at once
GREW = 4 << 20  # octets; what is in flight waits in the kernel's buffers, not in the sidecar


def test_a_client_that_asks_and_does_not_listen(lab: Lab) -> None:
    """It pipelines commands until nothing moves any more, both ways; then it reads, and not an octet is missing."""
    for host in ("pod", "outside"):
        lab.shell(SMALL_BUFFERS, host=host)
    mail_server(lab)
    sidecar = lab.sidecar({"inbound": [listener()]})
    with through(lab.outside, "192.0.2.11") as client:
        client.deliver()
    before = sidecar.metric("process_resident_memory_bytes")
    with through(lab.outside, CLIENT) as client:
        client.expect(220)
        reply = client.command("EHLO client.test", 250)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sock.setblocking(False)
        commands = memoryview(b"EHLO client.test\r\n" * HELLOS)
        sent = 0
        while sent < len(commands) and writable(client.sock, 0.3):
            sent += client.sock.send(commands[sent : sent + 65536])
        assert sent < len(commands), "everything fitted in between: the test needs more"
        assert sidecar.metric("process_resident_memory_bytes") - before < GREW
        with through(lab.outside, "192.0.2.11") as other:
            other.deliver()
        size = len(reply.text) + (reply.text.count("\n") + 1) * len("250-\r\n") - reply.text.count("\n")
        heard = drain(client.sock, commands[sent:], HELLOS * size)
        assert len(heard) == HELLOS * size
        assert heard.count(b"250 ") == HELLOS
        assert sidecar.metric("process_resident_memory_bytes") - before < GREW
        client.sock.settimeout(20)
        client.command("QUIT", 221)


def drain(sock: socket.socket, rest: memoryview, wanted: int) -> bytes:
    """Sends the rest while it reads all that was wanted."""
    heard = bytearray()
    while len(heard) < wanted:
        can_read, can_write, _ = select.select([sock], [sock] if rest else [], [], 20)
        assert can_read or can_write, f"nothing moves after {len(heard)} of {wanted}"
        if can_read:
            data = sock.recv(65536)
            assert data, "closed"
            heard += data
        if can_write:
            rest = rest[sock.send(rest[:65536]) :]
    return bytes(heard)


def test_a_server_that_reads_slowly(lab: Lab) -> None:
    """Frozen in the middle of a message: the client is not read either, and nothing piles up in between."""
    server = lab.aiosmtpd(program=READS_WHEN_TOLD)
    sidecar = lab.sidecar({"inbound": [listener("ProxyV1")]})
    with through(lab.outside, CLIENT) as client:
        client.expect(220)
        before = sidecar.metric("process_resident_memory_bytes")
        client.sock.setblocking(False)
        data, sent = memoryview(bytes(64 << 20)), 0
        server.process.signal(signal.SIGSTOP)
        while sent < len(data) and writable(client.sock, 0.3):
            sent += client.sock.send(data[sent : sent + 65536])
        assert sent < len(data)
        assert sidecar.metric("process_resident_memory_bytes") - before < GREW
        server.process.signal(signal.SIGCONT)
        client.sock.settimeout(20)
        client.sock.sendall(data[sent:])
        client.sock.shutdown(socket.SHUT_WR)
        assert client.line() == f"250 {len(data)} octets from {CLIENT}"


READS_WHEN_TOLD = """
import asyncio

async def serve(reader, writer):
    client = (await reader.readline()).split()[2].decode()
    writer.write(b"220 ready\\r\\n")
    octets = 0
    while data := await reader.read(65536):
        octets += len(data)
    writer.write(f"250 {octets} octets from {client}\\r\\n".encode())
    await writer.drain()
    writer.close()

async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", 2525) as server:
        await server.serve_forever()

asyncio.run(main())
"""
