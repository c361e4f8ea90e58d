"""Hostile and careless clients where a header is required, with real mail servers behind: what each hears, and that
the mail server hears nothing of it. Headers in pieces, and 10,000 clients that never finish one."""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lab.namespaces import BALANCER, POD
from lab.policies import LOCAL, listener, through, v1, v2
from lab.snippets import snippet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.conversation import Conversation
    from lab.laboratory import Lab
    from lab.mailserver import MailServer

pytestmark = pytest.mark.real

CLIENT = "192.0.2.10"
PORTS = {"Defer421": 25, "Refuse503": 26, "Close": 27}
NOT_NOW = b"421 4.3.2 mail.example.org service not available, try again later\r\n"
NOT_SENT = "503 Command refused, required Proxy negotiation failed"


def mail_server(lab: Lab) -> MailServer:
    return lab.postfix(master=snippet("postfix-proxyv2"))


def three_ways(**fields: Any) -> list[dict[str, Any]]:
    """A listener for each `onFailure`."""
    return [
        listener(name=way.lower(), port=port, proxyProtocol={"onFailure": way}, **fields) for way, port in PORTS.items()
    ]


def swaks(lab: Lab, port: int, *header: str) -> list[str]:
    """A session of swaks from the load balancer's address: its transcript, what was sent (->) and heard (<-)."""
    session = f"--server {POD}:{port} --local-interface {BALANCER} --from a@b.example --to box@example.org --helo x"
    return lab.swaks(*session.split(), *header).log.lines


BAD_HEADERS = {  # what swaks writes behind "PROXY ", and the reason that the log gives
    "garbage": ("TCP4 256.0.2.1 192.0.2.2 1 25", "v1_syntax"),
    "the other family": ("TCP4 2001:db8::1 2001:db8::2 1 25", "v1_syntax"),
    "loopback": (f"TCP4 127.0.0.1 {BALANCER} 1 25", "source_not_allowed"),
    "the pod itself": (f"TCP4 {POD} {BALANCER} 1 25", "source_not_allowed"),
    "nobody": ("UNKNOWN", "unknown"),
}


@pytest.mark.parametrize(("header", "reason"), BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_swaks_with_a_bad_header(lab: Lab, header: str, reason: str) -> None:
    server = mail_server(lab)
    sidecar = lab.sidecar({"inbound": three_ways()})
    deferred = swaks(lab, 25, "--proxy", header)
    assert any(line.startswith("<** 421 4.3.2 ") for line in deferred)
    refused = swaks(lab, 26, "--proxy", header)
    assert "<-  220 mail.example.org ESMTP" in refused
    assert f"<** {NOT_SENT}" in refused
    assert "<-  221 mail.example.org closing connection" in refused
    closed = swaks(lab, 27, "--proxy", header)
    assert not [line for line in closed if line.startswith("<")]
    for port in PORTS.values():
        sidecar.log.wait_for(rf" proxy_failed H=\[{BALANCER}\]:\d+ I=\[{POD}\]:{port} PRX={BALANCER} R={reason} ")
    assert sidecar.metric("postern_inbound_header_failures_total", reason=reason) == 3
    assert not server.log.matches("connect from")


@pytest.mark.parametrize(
    "header",
    [
        "--proxy-version 1 --proxy-family TCP4",
        "--proxy-version 2 --proxy-family AF_INET --proxy-protocol STREAM",
    ],
    ids=["v1", "v2"],
)
def test_swaks_with_a_good_header(lab: Lab, header: str) -> None:
    server = mail_server(lab)
    lab.sidecar({"inbound": three_ways()})
    addresses = f"--proxy-source {CLIENT} --proxy-source-port 4711 --proxy-dest {BALANCER} --proxy-dest-port 25"
    for port in PORTS.values():
        transcript = swaks(lab, port, *header.split(), *addresses.split())
        assert any(line.startswith("<-  250 2.0.0 Ok: queued") for line in transcript)
    server.log.wait_for(rf"smtpd\[\d+\]: connect from unknown\[{CLIENT}\]", times=3)


def test_the_conversation_of_2014(lab: Lab) -> None:
    """No header for three seconds, then the banner, 503 to all but QUIT, 221: the example at the end of that text."""
    server = mail_server(lab)
    sidecar = lab.sidecar({"inbound": three_ways()})
    with lab.outside.talk((POD, 26), source=BALANCER) as client:
        began = time.monotonic()
        assert client.line() == "220 mail.example.org ESMTP"
        assert 2.9 < time.monotonic() - began < 6
        for command in ("EHLO localhost", "MAIL FROM:<a@b.example>", "STARTTLS", "XCLIENT ADDR=127.0.0.1"):
            client.send(f"{command}\r\n")
            assert client.line() == NOT_SENT
        client.send("QUIT\r\n")
        assert client.line() == "221 mail.example.org closing connection"
        assert client.rest() == b""
    sidecar.log.wait_for(rf' proxy_failed H=\[{BALANCER}\]:\d+ .* R=timeout C="503 Command refused, ')
    assert not server.log.matches("connect from")


def drip(clients: list[Conversation], data: bytes) -> list[float]:
    """One octet a second to each, until each has heard something or an end: when that was."""
    began = time.monotonic()
    heard: dict[Conversation, float] = {}
    for octet in data:
        for client in clients:
            if client not in heard:
                with contextlib.suppress(OSError):
                    client.send(bytes([octet]))
        with selectors.DefaultSelector() as readable:
            for client in clients:
                if client not in heard:
                    readable.register(client.sock, selectors.EVENT_READ, client)
            if not readable.get_map():
                break
            until = time.monotonic() + 1
            while readable.get_map() and (left := until - time.monotonic()) > 0:
                for key, _ in readable.select(left):
                    heard[key.data] = time.monotonic() - began
                    readable.unregister(key.fileobj)
    return [heard[client] for client in clients]


def test_an_octet_a_second_is_not_in_time(lab: Lab) -> None:
    """The time for a header is one for all of it, not one for each octet."""
    server = mail_server(lab)
    sidecar = lab.sidecar({"inbound": three_ways()})
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(lab.outside.talk((POD, port), source=BALANCER)) for port in PORTS.values()]
        assert all(2.5 < moment < 5 for moment in drip(clients, v1(CLIENT)))
        deferred, refused, closed = clients
        assert deferred.rest() == NOT_NOW
        assert refused.line() == "220 mail.example.org ESMTP"
        assert closed.rest() == b""
        refused.send("QUIT\r\n")
        assert refused.line().startswith("221 ")
    assert sidecar.metric("postern_inbound_header_failures_total", reason="timeout") == 3
    assert not server.log.matches("connect from")


@pytest.mark.parametrize("header", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("behind", ["postfix", "exim"])
def test_a_header_split_anywhere(lab: Lab, behind: str, header: Any) -> None:
    """Each client has an address of its own and its header cut at another octet; the server knows every one."""
    if behind == "postfix":
        server, seen = mail_server(lab), r"smtpd\[\d+\]: connect from unknown\[{}\]"
    else:
        settings = snippet("exim-proxyv2").replace("log_selector = ", "log_selector = +smtp_connection ")
        server, seen = lab.exim(main=settings), r"SMTP connection from \[{}\]"
    sidecar = lab.sidecar({"inbound": [listener()]})
    cuts = range(1, len(header("192.0.2.100")))
    with contextlib.ExitStack() as stack:
        clients = {}
        for cut in cuts:  # all first pieces are there before the first second one
            client = stack.enter_context(lab.outside.talk((POD, 25), source=BALANCER))
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.send(header(f"192.0.2.{100 + cut}")[:cut])
            clients[cut] = client
        for cut, client in clients.items():
            client.send(header(f"192.0.2.{100 + cut}")[cut:])
            client.expect(220)
            client.close()
            server.log.wait_for(seen.format(rf"192\.0\.2\.{100 + cut}"))
    assert sidecar.metric("postern_inbound_connections_total", outcome="handed_over") == len(cuts)


def test_a_header_octet_by_octet(lab: Lab) -> None:
    server = mail_server(lab)
    lab.sidecar({"inbound": [listener()]})
    with lab.outside.talk((POD, 25), source=BALANCER) as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in v2(CLIENT):
            client.send(bytes([octet]))
        client.deliver()
    server.log.wait_for(rf"client=unknown\[{CLIENT}\]")


PIPELINED = (
    "EHLO client.test\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<box@example.org>\r\nDATA\r\n"
    "Subject: early\r\n\r\nHello.\r\n.\r\nQUIT\r\n"
)


def test_commands_behind_the_header_are_a_synchronization_error(lab: Lab) -> None:
    server = mail_server(lab)
    sidecar = lab.sidecar({"inbound": [listener()]})
    with lab.outside.talk((POD, 25), source=BALANCER) as client:
        client.send(v2(CLIENT) + PIPELINED.encode())
        assert client.line() == "554 5.5.0 SMTP synchronization error"
        assert set(client.rest().split(b"\r\n")) <= {
            b"503 5.5.1 this session is refused",
            b"221 mail.example.org closing connection",
            b"",
        }
    sidecar.log.wait_for(rf" refused H=\[{CLIENT}\]:40211 PRX={BALANCER} R=early_talker ")
    assert not server.log.matches("connect from")


def test_where_they_are_allowed_the_mail_server_gets_them(lab: Lab) -> None:
    server = mail_server(lab)
    lab.sidecar({"inbound": [listener(earlyTalkers="Forward")]})
    with lab.outside.talk((POD, 25), source=BALANCER) as client:
        client.send(v2(CLIENT) + PIPELINED.encode())
        assert client.rest().startswith(b"220 mail.example.org")
    (message,) = server.received()
    assert message["Subject"] == "early"
    assert f"[{CLIENT}]" in message["Received"]


@pytest.mark.parametrize("header", [v1(CLIENT), v2(CLIENT), LOCAL], ids=["v1", "v2", "LOCAL"])
def test_a_second_header_is_a_command_like_any(lab: Lab, header: bytes) -> None:
    """Behind the first one a header is the client's own word: too early for the banner, and nothing to a server."""
    server = mail_server(lab)
    lab.sidecar({"inbound": [listener()]})
    with lab.outside.talk((POD, 25), source=BALANCER) as client:
        client.send(v2("192.0.2.66") + header)
        assert client.line() == "554 5.5.0 SMTP synchronization error"
    with through(lab.outside, "192.0.2.66") as client:
        client.expect(220)
        client.send(header.replace(b"\n", b"") + b"\r\n")
        assert client.reply().code in (500, 502)
        client.command("QUIT", 221)
    assert server.log.wait_for(r" connect from unknown\[(.*)\]")[1] == "192.0.2.66"
    assert not server.log.matches(CLIENT)


MANY = 10_000
ROOM = MANY + 2000


@pytest.fixture
def room_for_many() -> Iterator[None]:
    """Descriptors for all of them here and, inherited through the laboratory, in the sidecar."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, ROOM), max(hard, ROOM)))
    except (OSError, ValueError) as problem:
        most = Path("/proc/sys/fs/nr_open").read_text().strip()
        pytest.fail(f"needs RLIMIT_NOFILE {ROOM}; it is {hard}, fs.nr_open {most}, and it cannot be raised: {problem}")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


PER_CLIENT = 4096  # octets of the sidecar's memory for a client in the middle of its header; 2,923 were measured


@pytest.mark.usefixtures("room_for_many")
def test_ten_thousand_headers_that_never_end(lab: Lab) -> None:
    """Each costs little memory, nobody else waits for them, and when their time is over they are all gone."""
    server = mail_server(lab)
    proxy = {"timeout": "8s", "onFailure": "Close"}
    sidecar = lab.sidecar({"inbound": [listener(limits={"connections": 2 * MANY}, proxyProtocol=proxy)]})
    with through(lab.outside, "192.0.2.66") as client:  # what is imported and allocated once is there before
        client.deliver()
    rest = sidecar.metric("process_resident_memory_bytes")
    piece = v2(CLIENT)[:20]

    def crowd() -> list[socket.socket]:
        """Made in one go over there; a call for each would take longer than they live."""
        made = []
        for _ in range(MANY):
            sock = socket.socket()
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((BALANCER, 0))
            sock.connect((POD, 25))
            sock.sendall(piece)
            made.append(sock)
        return made

    before = time.monotonic()
    clients = lab.outside.call(crowd)
    try:
        began = time.monotonic()
        assert began - before < 8, "all of them at once: this machine is too slow for the test"
        with through(lab.outside, CLIENT) as client:
            client.deliver()
        assert time.monotonic() - began < 3
        assert sidecar.metric("process_open_fds") > MANY
        each = (sidecar.metric("process_resident_memory_bytes") - rest) / MANY
        assert each < PER_CLIENT, each
        for sock in clients:
            sock.settimeout(20)
            assert sock.recv(1) == b""
    finally:
        for sock in clients:
            sock.close()
    sidecar.log.wait_for(r" proxy_failed .* R=timeout", times=MANY)
    assert sidecar.metric("postern_inbound_header_failures_total", reason="timeout") == MANY
    assert sidecar.metric("postern_inbound_connections_total", outcome="proxy_failed") == MANY
    assert sidecar.metric("postern_inbound_connections_total", outcome="handed_over") == 2
    assert sidecar.metric("process_open_fds") < 100
    server.log.wait_for(r" connect from unknown\[192\.0\.2\.10\]")
    with through(lab.outside, CLIENT) as client:
        client.deliver()
