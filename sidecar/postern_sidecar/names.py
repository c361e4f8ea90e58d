"""Endpoints, domain names and the names of addresses: the words that every layer shares.

Addresses are `ipaddress` objects, always unmapped: an IPv4 client of a dual-stack socket is an IPv4 client
(contracts: "v4-mapped peers and header addresses are unmapped before any match").
"""

from __future__ import annotations

import enum
import functools
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple, NewType

Address = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


Domain = NewType("Domain", str)
"""A domain name as it is compared: lower-case A-labels without the final dot; "" is the root. Made by `domain`."""
ROOT = Domain("")
_MAX_DOMAIN = 253
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)  # underscores: _25._tcp, and hosts in the wild


def domain(text: str) -> Domain:
    """The name that `text` means; U-labels become A-labels (RFC 5890 2.3.2.1, UTS 46). Raises ValueError."""
    if not text.isascii():
        import idna  # its tables take memory, and most names never need them

        text = idna.encode(text, uts46=True).decode("ascii")  # IDNAError is a ValueError
    name = text.removesuffix(".").lower()
    if not name and text == ".":
        return ROOT
    if len(name) > _MAX_DOMAIN or not all(map(_LABEL.fullmatch, name.split("."))):
        raise ValueError("is not a domain name")
    return Domain(name)


class Endpoint(NamedTuple):
    """An address and a port, 0..65535; port 0 is legal in a PROXY header."""

    address: Address
    port: int


def unmapped(address: Address) -> Address:
    """The IPv4 address inside ::ffff:0:0/96, else the address itself without its zone."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.scope_id is not None:
            return IPv6Address(int(address))
    return address


@functools.lru_cache(maxsize=4096)
def _address(text: str) -> Address:
    """Load balancers and our own addresses come again and again, and parsing one takes longer than a log line."""
    return unmapped(ip_address(text))


def endpoint(name: tuple[str, int] | tuple[str, int, int, int]) -> Endpoint:
    """The endpoint that a socket's own name (`getpeername`, `getsockname`) stands for. Raises ValueError."""
    return Endpoint(_address(name[0]), name[1])


class NameStatus(enum.Enum):
    """What reverse DNS said of an address. Absence, contradiction and failure are three different things."""

    VERIFIED = "verified"  # a PTR whose name leads back to the address
    MISMATCH = "mismatch"  # a PTR whose name does not
    ABSENT = "absent"  # NXDOMAIN, or no PTR
    FAILED = "failed"  # time-out or SERVFAIL: try again later


@dataclass(frozen=True, slots=True)
class HostName:
    """The reverse DNS of a client. `name` is set only where VERIFIED; `pointer` is the unconfirmed PTR, if any."""

    status: NameStatus
    name: str | None = None
    pointer: str | None = None
