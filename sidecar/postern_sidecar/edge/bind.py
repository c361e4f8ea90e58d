"""Listening sockets, and what to do when there is none to be had."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postern_sidecar.names import Address

BACKLOG = 4096  # the kernel caps it at net.core.somaxconn


class BindError(Exception):
    """A port that cannot be listened on; the text names the field and the remedy."""


def listen(address: Address | None, port: int, where: str) -> socket.socket:
    """A listening socket; `address` None means all of both families (one dual-stack socket, IPv4 alone without IPv6).

    Keep-alive is set here and inherited by what is accepted. Raises BindError; `where` is the field to name in it.
    """
    ipv6 = (address is None and socket.has_dualstack_ipv6()) or isinstance(address, IPv6Address)
    host = str(address) if address is not None else ("::" if ipv6 else "0.0.0.0")  # noqa: S104 - what "all" means
    sock = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address is None else 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise BindError(f"{where}: cannot listen on {host} port {port}: {_remedy(error, host, port)}") from error
    return sock


def _remedy(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"another process has it (`ss -ltnp 'sport = :{port}'` names it), or another listener or --admin of "
                "this one; stop that one or choose another port"
            )
        case errno.EACCES:
            return (
                "no permission for ports under 1024; run as root, or allow it with the sysctl "
                f"net.ipv4.ip_unprivileged_port_start={port} (a pod: securityContext.sysctls), or choose a higher port"
            )
        case errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine; leave the address out to listen on all"
    return error.strerror or str(error)
