"""Hand-overs that docs/backends.md names without a snippet of their own, and TLS from the first byte."""

from __future__ import annotations

import hashlib
import random
import ssl
from typing import TYPE_CHECKING

import pytest

from lab.certificate import CERTIFICATE, POSTFIX
from lab.namespaces import BALANCER, BALANCER6, POD
from lab.policies import listener, through, v1, v2
from lab.servers import dovecot, postfix
from lab.servers.balancers import Forward
from lab.snippets import snippet

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from lab.laboratory import Lab
    from lab.mailserver import MailServer

pytestmark = pytest.mark.real

CLIENTS = ["192.0.2.10", "2001:db8::10"]


@pytest.mark.parametrize("client", CLIENTS)
def test_version_1_to_postfix(lab: Lab, client: str) -> None:
    server = lab.postfix(
        master=snippet("postfix-proxyv2"), main="smtpd_client_port_logging = yes\nsmtpd_tls_loglevel = 1\n" + POSTFIX
    )
    lab.sidecar({"inbound": [listener("ProxyV1")]})
    with through(lab.outside, client) as talk:
        talk.expect(220)
        talk.command("EHLO client.test", 250)
        talk.starttls()
        talk.command("EHLO client.test", 250)
        talk.command("MAIL FROM:<sender@example.net>", 250)
        talk.command("RCPT TO:<box@example.org>", 250)
        talk.command("DATA", 354)
        talk.command("Subject: x\r\n\r\n.", 250)
    server.log.wait_for(rf"smtpd\[\d+\]: connect from unknown\[{client}\]:40211$")
    server.log.wait_for(rf"Anonymous TLS connection established from unknown\[{client}\]")
    (message,) = server.received()
    assert f"{client}]" in message["Received"]


@pytest.mark.parametrize("client", CLIENTS)
def test_version_1_to_exim(lab: Lab, client: str) -> None:
    server = lab.exim(main=snippet("exim-proxyv2"))
    lab.sidecar({"inbound": [listener("ProxyV1")]})
    with through(lab.outside, client) as talk:
        talk.deliver()
    server.log.wait_for(rf"<= \S+ H=\(client\.test\) \[{client}\] .*PRX=127\.0\.0\.1")


def test_dovecot_over_ipv6(lab: Lab) -> None:
    server = lab.dovecot(listeners=snippet(f"dovecot-{dovecot.syntax()}"))
    lab.sidecar(text=snippet("dovecot-policy"))
    with through(lab.outside, CLIENTS[1], port=143) as talk:
        assert talk.line().startswith("* OK")
        talk.send("a STARTTLS\r\n")
        assert talk.line().startswith("a OK")
        talk.handshake()
        talk.send("b LOGIN box secret\r\n")
        server.log.wait_for(rf"imap-login: .*Log(in|ged in): user=<box>.*rip={CLIENTS[1]}, lip={BALANCER6}")


def smtps(lab: Lab) -> MailServer:
    wrapped = postfix.service(4650, smtpd_upstream_proxy_protocol="haproxy", smtpd_tls_wrappermode="yes")
    settings = f"{POSTFIX}smtpd_tls_loglevel = 1\nmessage_size_limit = 0\nmailbox_size_limit = 0\n"
    server = lab.postfix(master=wrapped, main=settings + "virtual_mailbox_limit = 0\n")
    lab.sidecar({"inbound": [listener(port=465, tlsOnConnect=True, backend={"port": 4650})]})
    return server


class Tls:
    """A TLS client over memory, so that a test says which bytes go in one segment."""

    def __init__(self, sock: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out)

    def begin(self, before: bytes) -> None:
        """The ClientHello, behind `before` and in the same segment."""
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self.sock.sendall(before + self._out.read())

    def _until(self, step: Callable[[], bytes | None]) -> bytes:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                result = None
                self._flush()
                data = self.sock.recv(65536)
                assert data, "closed"
                self._in.write(data)
            else:
                self._flush()
                return result or b""

    def _flush(self) -> None:
        if data := self._out.read():
            self.sock.sendall(data)

    def certificate(self) -> str:
        """The server's, once the handshake is done."""
        self._until(self._tls.do_handshake)
        return ssl.DER_cert_to_PEM_cert(self._tls.getpeercert(binary_form=True) or b"")

    def read(self) -> bytes:
        return self._until(lambda: self._tls.read(65536))

    def write(self, data: bytes) -> None:
        self._tls.write(data)
        self._flush()


@pytest.mark.parametrize("header", [v1(CLIENTS[0]), v2(CLIENTS[0])], ids=["v1", "v2"])
@pytest.mark.parametrize("apart", [False, True], ids=["one segment", "header first"])
def test_tls_from_the_first_byte_passes_end_to_end(lab: Lab, header: bytes, apart: bool) -> None:
    server = smtps(lab)
    with lab.outside.connect((POD, 465), source=BALANCER) as sock:
        client = Tls(sock)
        if apart:
            sock.sendall(header)
        client.begin(b"" if apart else header)
        assert client.certificate() == server.process.read(CERTIFICATE)
        assert client.read().startswith(b"220 mail.example.org")
        client.write(b"QUIT\r\n")
        assert client.read().startswith(b"221")
    server.log.wait_for(rf"smtpd\[\d+\]: connect from unknown\[{CLIENTS[0]}\]")
    server.log.wait_for(rf"TLS connection established from unknown\[{CLIENTS[0]}\]")


def test_a_large_message_over_tls_from_the_first_byte_is_exact(lab: Lab) -> None:
    server = smtps(lab)
    lab.haproxy(Forward(bind=(BALANCER, 465), to=(POD, 465), send="v2", check=True))
    lines = random.Random(25).randbytes(4_000_000).hex()
    body = "\r\n".join(lines[at : at + 76] for at in range(0, len(lines), 76))
    with lab.outside.talk((BALANCER, 465), source=CLIENTS[0]) as client:
        client.handshake()
        client.expect(220)
        client.command("EHLO client.test", 250)
        client.command("MAIL FROM:<sender@example.net>", 250)
        client.command("RCPT TO:<box@example.org>", 250)
        client.command("DATA", 354)
        client.command(f"Subject: large\r\n\r\n{body}\r\n.", 250)
    (message,) = server.received()
    received = str(message.get_payload()).rstrip("\n").replace("\n", "\r\n")
    assert hashlib.sha256(received.encode()).digest() == hashlib.sha256(body.encode()).digest()
    assert f"[{CLIENTS[0]}]" in message["Received"]
