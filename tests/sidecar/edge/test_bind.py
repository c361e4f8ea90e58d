"""Listening sockets: which addresses they take, what they pass on, and what is said where there is none to be had."""

from __future__ import annotations

import errno
import os
import socket
from ipaddress import ip_address

import pytest

from postern_sidecar.edge import bind
from postern_sidecar.edge.bind import BindError, listen

needs_ipv6 = pytest.mark.parametrize("ipv6", [True, False], ids=["dual-stack", "IPv4 alone"])


@needs_ipv6
def test_all_addresses_are_those_of_every_family_there_is(ipv6: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not ipv6:
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listen(None, 0, "port") as sock:
        assert sock.family == (socket.AF_INET6 if ipv6 else socket.AF_INET)
        socket.create_connection(("127.0.0.1", sock.getsockname()[1])).close()


def test_an_ipv6_address_leaves_the_port_to_ipv4() -> None:
    with listen(ip_address("::"), 0, "port") as six:
        port = six.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        listen(ip_address("0.0.0.0"), port, "port").close()


def test_what_is_accepted_is_kept_alive() -> None:
    with listen(ip_address("127.0.0.1"), 0, "port") as sock, socket.create_connection(sock.getsockname()):
        sock.setblocking(True)
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_port_that_is_taken() -> None:
    with listen(ip_address("127.0.0.1"), 0, "port") as sock:
        port = sock.getsockname()[1]
        with pytest.raises(BindError, match=rf"^spec\.x: cannot listen on 127\.0\.0\.1 port {port}: another process"):
            listen(ip_address("127.0.0.1"), port, "spec.x")


def test_an_address_of_another_machine() -> None:
    with pytest.raises(BindError, match=r"192\.0\.2\.200 is not an address of this machine"):
        listen(ip_address("192.0.2.200"), 0, "port")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "ip_unprivileged_port_start=25"),
        (errno.EMFILE, os.strerror(errno.EMFILE)),
    ],
)
def test_each_failure_has_its_remedy(number: int, remedy: str) -> None:
    assert remedy in bind._remedy(OSError(number, os.strerror(number)), "::", 25)
