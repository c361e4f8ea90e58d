"""The load balancer that stands in for HAProxy: it forwards connections, says who made them, and checks.

Its PROXY v2 headers are written here by hand from the specification (section 2.2), not by Postern's own writer. A
client on loopback has no address that is worth showing: `connect` says whom it stands for.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL = SIGNATURE + struct.pack("!BBH", 0x20, 0x00, 0)
PUBLIC = ("198.51.100.25", 25)  # what the clients believe they have connected to
INTERVAL = 0.1  # seconds between checks
CHECK_TIMEOUT = 1.0
PIECE = 65536


def proxied(client: str, port: int) -> bytes:
    """A header for TCP over IPv4 (command PROXY, family 0x11)."""
    addresses = IPv4Address(client).packed + IPv4Address(PUBLIC[0]).packed + struct.pack("!HH", port, PUBLIC[1])
    return SIGNATURE + struct.pack("!BBH", 0x21, 0x11, len(addresses)) + addresses


class Balancer:
    """Forwards to a port of 127.0.0.1; with `header` it says whose connection it is, and checks with LOCAL."""

    def __init__(self, to: int, *, header: bool) -> None:
        self._to = ("127.0.0.1", to)
        self._header = header
        self._clients: dict[tuple[str, int], str] = {}
        self._open: list[socket.socket] = []
        self._opening = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()
        self._checked = threading.Event()
        self._answer = ""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listening.getsockname()
        self._run(self._accept)
        if header:
            self._run(self._check)

    def connect(self, client: str, *, timeout: float) -> socket.socket:
        """A client's end of a connection to this balancer, which will claim that `client` made it."""
        sock = socket.socket()
        try:
            sock.settimeout(timeout)
            sock.bind(("127.0.0.1", 0))
            self._clients[sock.getsockname()] = client
            sock.connect(self.address)
        except BaseException:
            sock.close()
            raise
        return sock

    def stop(self) -> None:
        """Returns when no thread is left."""
        with self._opening:
            self._over.set()
            for sock in (self._listening, *self._open):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)  # wakes up who waits for it
        while self._threads:  # a thread starts others before it ends
            self._threads.pop(0).join()
        for sock in (self._listening, *self._open):
            sock.close()

    def _keep(self, sock: socket.socket) -> bool:
        """Whether the balancer still runs; `stop` closes what it keeps."""
        with self._opening:
            self._open.append(sock)
            return not self._over.is_set()

    def _run(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="balancer", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                client, name = self._listening.accept()
            except OSError:
                return
            if self._keep(client):
                self._run(self._carry, client, name)

    def _carry(self, client: socket.socket, name: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):
            server = socket.create_connection(self._to)
            if not self._keep(server):
                return
            if self._header:
                server.sendall(proxied(self._clients[name], name[1]))
            self._run(_pour, server, client)
            _pour(client, server)
            return
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def last_check(self, timeout: float) -> str:
        if not self._checked.wait(timeout):
            raise AssertionError(f"no health check has succeeded in {timeout:g} s")
        return f"Health check succeeded, {self._answer}"

    def _check(self) -> None:
        """As HAProxy's smtpchk: all three answers must be good."""
        while not self._over.wait(INTERVAL):
            answers = []
            with (
                contextlib.suppress(OSError),
                socket.create_connection(self._to, CHECK_TIMEOUT) as sock,
                sock.makefile("rb") as lines,
            ):
                sock.sendall(LOCAL)
                for words in (b"EHLO lb.example.net\r\n", b"QUIT\r\n", b""):
                    answers.append(lines.readline().decode("ascii", "backslashreplace").rstrip())
                    sock.sendall(words)
            if len(answers) == 3 and all(answer.startswith("2") for answer in answers):
                self._answer = ", ".join(answers)
                self._checked.set()


def _pour(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(PIECE):
            target.sendall(piece)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
