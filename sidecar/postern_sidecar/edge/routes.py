"""`postern-sidecar routes`: the routing rules that hand-over Transparent needs, set once and for all of the pod.

They are those that docs/backends.md gives as `ip` commands: what leaves from loopback stays here, so that the server's
answers to foreign addresses come back to the sidecar. Said to the kernel by rtnetlink(7), so that an image needs
neither `ip` nor a shell. What is there already is left, so it may run again. Raises OSError, from `apply`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postern_sidecar.names import Address

TABLE = 123
PRIORITY = 32765
"""The first that `ip rule add` takes. Without one the kernel (seen: 6.18) adds the same rule again and again."""

# linux/netlink.h, linux/rtnetlink.h, linux/fib_rules.h
_NEW_ROUTE, _NEW_RULE, _ERROR = 24, 32, 2
_FLAGS = 0x1 | 0x4 | 0x200 | 0x400  # REQUEST, ACK, EXCL, CREATE
_TO_TABLE = 1  # what a rule does
_BOOT, _HOST, _LOCAL = 3, 254, 2  # a route's protocol, scope and type
_RULE_SOURCE, _RULE_INTERFACE, _RULE_PRIORITY, _ROUTE_INTERFACE = 2, 3, 6, 4
_HEADER = struct.Struct("=IHHII")
_PATIENCE = 5.0  # seconds; the kernel answers before `send` returns

_SOURCES = ((ip_address("127.0.0.1"), 8), (ip_address("::1"), 128))


def run() -> int:
    """The exit status: 0, or 1 with the reason on standard error."""
    try:
        apply()
    except PermissionError:
        print("routes: this needs the capability NET_ADMIN, in the pod's own network namespace", file=sys.stderr)
    except OSError as problem:
        print(f"routes: the kernel refused: {problem.strerror or problem}", file=sys.stderr)
    else:
        return 0
    return 1


def apply() -> None:
    """A pod without IPv6 gets IPv4's."""
    loopback = socket.if_nametoindex("lo")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_PATIENCE)
        for source, prefix in _SOURCES:
            try:
                _ask(kernel, _NEW_RULE, _rule(source, prefix))
                _ask(kernel, _NEW_ROUTE, _route(source, loopback))
            except OSError as problem:
                if source.version == 4 or not _is_without_ipv6(problem):
                    raise


def _is_without_ipv6(problem: OSError) -> bool:
    """Not compiled in or booted with ipv6.disable=1; or disable_ipv6=1 in the pod. No permission is EPERM."""
    return problem.errno in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES)


def _rule(source: Address, prefix: int) -> bytes:
    """`ip rule add from SOURCE/PREFIX iif lo table 123`"""
    header = struct.pack("=8BI", _family(source), 0, prefix, 0, TABLE, 0, 0, _TO_TABLE, 0)
    what = _attribute(_RULE_SOURCE, source.packed) + _attribute(_RULE_INTERFACE, b"lo\0")
    return header + what + _attribute(_RULE_PRIORITY, struct.pack("=I", PRIORITY))


def _route(source: Address, loopback: int) -> bytes:
    """`ip route add local default dev lo table 123`, of the source's family"""
    header = struct.pack("=8BI", _family(source), 0, 0, 0, TABLE, _BOOT, _HOST, _LOCAL, 0)
    return header + _attribute(_ROUTE_INTERFACE, struct.pack("=I", loopback))


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _ask(kernel: socket.socket, kind: int, body: bytes) -> None:
    """Raises OSError: what the kernel said, but that it is there already."""
    kernel.send(_HEADER.pack(_HEADER.size + len(body), kind, _FLAGS, 1, 0) + body)
    answer = kernel.recv(65536)
    _, answered, _, _, _ = _HEADER.unpack_from(answer)
    if answered != _ERROR:
        raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
    (status,) = struct.unpack_from("=i", answer, _HEADER.size)
    if status not in (0, -errno.EEXIST):
        raise OSError(-status, os.strerror(-status))
