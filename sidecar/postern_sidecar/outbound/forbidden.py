"""May this address be dialled? (contracts section 5: "Trace and loops")

Mail to x@[127.0.0.1], or an MX that points at the pod, would enter the pod's own server from loopback, as trusted. So
loopback, unspecified, multicast, link-local and own addresses are refused, unless `outbound.allowAddresses` has them;
`outbound.ownAddresses` of the policy count as own. Link-local needs a zone, which no DNS answer has, or leads to the
node's own services (169.254.169.254).

An IPv6 address that stands for an IPv4 one is judged as both: v4-mapped (RFC 4291 2.5.5.2), v4-compatible (2.5.5.1),
NAT64's well-known prefix (RFC 6052 2.1) and 6to4 (RFC 3056 2), whatever the kernel would make of it. Local-use NAT64
prefixes (RFC 8215) cannot be recognised. Raises nothing.
"""

from __future__ import annotations

import functools
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Final

from postern_sidecar.names import unmapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from postern_sidecar.config.model import Outbound
    from postern_sidecar.config.scalars import Network
    from postern_sidecar.names import Address, IPNetwork

KNOWN: Final = 1024
_THIS_HOST: Final = IPv4Network("0.0.0.0/8")  # RFC 1122 3.2.1.3; Linux takes 0.0.0.0 for itself
_BROADCAST: Final = IPv4Address("255.255.255.255")
_COMPATIBLE: Final = IPv6Network("::/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")


class Forbidden:
    """`why` of an address: None, if it may be dialled, else what it is, for logs and `check`. The last answers, KNOWN
    at most, are kept."""

    __slots__ = ("_allowed", "_own", "_own_networks", "why")

    def __init__(self, outbound: Outbound, own: frozenset[Address] = frozenset()) -> None:
        """`own`: the pod's addresses."""
        self._own = frozenset(map(unmapped, own))
        self._own_networks = _networks(outbound.own_addresses)
        self._allowed = _networks(outbound.allow_addresses)
        self.why: Callable[[Address], str | None] = functools.lru_cache(maxsize=KNOWN)(self._why)

    def _why(self, address: Address) -> str | None:
        meanings = _meanings(address)
        if any(_among(meaning, self._allowed) for meaning in meanings):
            return None
        return next((reason for meaning in meanings if (reason := self._reason(meaning)) is not None), None)

    def _reason(self, address: Address) -> str | None:
        if address in self._own or _among(address, self._own_networks):
            return "own address"
        if address.is_unspecified or (isinstance(address, IPv4Address) and address in _THIS_HOST):
            return "unspecified address"
        if address.is_loopback:
            return "loopback address"
        if address.is_multicast or address == _BROADCAST:
            return "multicast address"
        return "link-local address" if address.is_link_local else None


def _networks(listed: tuple[Network, ...]) -> tuple[IPNetwork, ...]:
    return tuple(network for one in listed for network in one.networks)


def _among(address: Address, networks: tuple[IPNetwork, ...]) -> bool:
    return any(address in network for network in networks)


def _meanings(address: Address) -> tuple[Address, ...]:
    """The address and the IPv4 address in it, if any. ::/96 is 0.0.0.0/8's too: :: and ::1 are judged as they are."""
    address = unmapped(address)
    if isinstance(address, IPv4Address):
        return (address,)
    inner = _inner(address)
    return (address,) if inner is None else (address, inner)


def _inner(address: IPv6Address) -> IPv4Address | None:
    if address in _NAT64 or address in _COMPATIBLE:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour
