"""A connection from the client's own address: IP_TRANSPARENT (ip(7), and IPV6_TRANSPARENT in linux/in6.h)."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from postern_sidecar.names import Endpoint

IP_TRANSPARENT = 19
IPV6_TRANSPARENT = 75


async def transparent_socket(loop: asyncio.AbstractEventLoop, source: Endpoint, to: Endpoint) -> socket.socket:
    """A connected socket whose own address is the client's. Raises OSError: EPERM without NET_RAW."""
    try:
        return await _connected_from(loop, source, source.port, to)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
            raise
    return await _connected_from(loop, source, 0, to)  # the port is the lesser part of an identity


async def _connected_from(loop: asyncio.AbstractEventLoop, source: Endpoint, port: int, to: Endpoint) -> socket.socket:
    ipv6 = isinstance(source.address, IPv6Address)
    sock = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(source.address), port))
        await loop.sock_connect(sock, (str(to.address), to.port))
    except BaseException:
        sock.close()
        raise
    return sock
