"""Which network an address lies in: membership, and the value of the most specific network.

Both are asked for every accepted connection. `NetworkSet` merges its networks into ranges and finds the range by
bisection; `NetworkTable` keeps one dictionary a prefix length and looks from the longest to the shortest, so a look-up
costs at most as many probes as there are distinct lengths, however many networks there are.

Addresses are unmapped by the caller (`names.unmapped`). A network written inside ::ffff:0:0/96 is taken as the IPv4
network that it stands for, or it would never match. Raises nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from ipaddress import IPv4Address, IPv4Network, IPv6Network, collapse_addresses
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from postern_sidecar.names import Address, IPNetwork

T = TypeVar("T")

_MAPPED = IPv6Network("::ffff:0:0/96")


def _unmapped(network: IPNetwork) -> IPNetwork:
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network


class _Ranges:
    """Disjoint ranges of one family: `first[i]` to `last[i]`, ascending."""

    __slots__ = ("first", "last")

    def __init__(self, networks: Iterable[IPNetwork]) -> None:
        self.first = [int(network.network_address) for network in networks]
        self.last = [int(network.broadcast_address) for network in networks]


class NetworkSet:
    """`address in networks`."""

    __slots__ = ("_v4", "_v6")

    def __init__(self, networks: Iterable[IPNetwork] = ()) -> None:
        flat = [_unmapped(network) for network in networks]
        self._v4 = _Ranges(list(collapse_addresses(n for n in flat if isinstance(n, IPv4Network))))
        self._v6 = _Ranges(list(collapse_addresses(n for n in flat if isinstance(n, IPv6Network))))

    def __bool__(self) -> bool:
        return bool(self._v4.first or self._v6.first)

    def __contains__(self, address: Address) -> bool:
        ranges = self._v4 if type(address) is IPv4Address else self._v6
        first = ranges.first
        if not first:
            return False
        number = int(address)
        index = bisect_right(first, number)
        return index > 0 and number <= ranges.last[index - 1]


class NetworkTable(Generic[T]):
    """A value for each network; of two values for the same network the first one counts."""

    __slots__ = ("_v4", "_v6")

    def __init__(self, entries: Iterable[tuple[IPNetwork, T]] = ()) -> None:
        v4: dict[int, dict[int, T]] = {}
        v6: dict[int, dict[int, T]] = {}
        for network, value in ((_unmapped(network), value) for network, value in entries):
            shift = network.max_prefixlen - network.prefixlen
            level = (v4 if network.version == 4 else v6).setdefault(shift, {})
            level.setdefault(int(network.network_address) >> shift, value)
        self._v4 = sorted(v4.items())
        self._v6 = sorted(v6.items())

    def get(self, address: Address) -> T | None:
        """The value of the longest prefix that `address` matches, or None."""
        levels = self._v4 if type(address) is IPv4Address else self._v6
        if not levels:
            return None
        number = int(address)
        for shift, level in levels:
            value = level.get(number >> shift)
            if value is not None:
                return value
        return None
