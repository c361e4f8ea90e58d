"""Policies for the laboratory's sidecar, and headers of a load balancer that the tests play themselves."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from .namespaces import BALANCER, BALANCER6, POD, POD6

if TYPE_CHECKING:
    from .conversation import Conversation
    from .host import Host

LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"  # version 2: no client, the load balancer asks for itself


def listener(handover: str = "ProxyV2", **fields: Any) -> dict[str, Any]:
    """Port 25 before a server on port 2525; the laboratory's load balancers must send headers. `fields` replace or
    extend, those of `backend` and `proxyProtocol` one by one."""
    return {
        "name": "smtp",
        "port": 25,
        **fields,
        "backend": {"port": 2525, "handover": handover, **fields.get("backend", {})},
        "proxyProtocol": {"requiredFrom": [f"{BALANCER}/32", f"{BALANCER6}/128"], **fields.get("proxyProtocol", {})},
    }


def v1(source: str, target: str | None = None, *, port: int = 40211) -> bytes:
    """A header of version 1: this client had connected to the load balancer, or to `target`."""
    six = ip_address(source).version == 6
    target = target or (BALANCER6 if six else BALANCER)
    return f"PROXY {'TCP6' if six else 'TCP4'} {source} {target} {port} 25\r\n".encode()


def v2(source: str, target: str | None = None, *, port: int = 40211, tlvs: bytes = b"") -> bytes:
    """The same in version 2."""
    client = ip_address(source)
    server = ip_address(target or (BALANCER6 if client.version == 6 else BALANCER))
    block = client.packed + server.packed + port.to_bytes(2, "big") + (25).to_bytes(2, "big") + tlvs
    kind = b"\x21\x21" if client.version == 6 else b"\x21\x11"
    return LOCAL[:12] + kind + len(block).to_bytes(2, "big") + block


def through(outside: Host, source: str, *, port: int = 25) -> Conversation:
    """A client of this address behind a load balancer that has sent its header, and nothing more yet."""
    six = ip_address(source).version == 6
    talk = outside.talk((POD6 if six else POD, port), source=BALANCER6 if six else BALANCER)
    talk.send(v2(source))
    return talk
