"""The scalars of a policy that are more than strings: durations, addresses, networks. Each raises ValueError that
says what is wrong and what would be right; `str()` gives the text back as the file had it."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import ClassVar

from postern_sidecar.names import Address, IPNetwork, unmapped

from .problems import shown

_DURATION = re.compile(r"(?:[0-9]+(?:ms|s|m|h))+", re.ASCII)
_PART = re.compile(r"([0-9]+)(ms|s|m|h)", re.ASCII)
_MAPPED = IPv6Network("::ffff:0:0/96")
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Scalar:
    """Compared by meaning, not by spelling: `3000ms` is the default `3s`."""

    __slots__ = ("_value", "text")
    EXPECTED: ClassVar[str]
    """What to write, for a value that is not even text."""
    _value: object
    text: str

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)


class Duration(Scalar):
    """`([0-9]+(ms|s|m|h))+`, at most 24 hours; `seconds` is what it comes to."""

    __slots__ = ("seconds",)
    EXPECTED = "a duration such as 3s, 500ms or 1m30s"

    def __init__(self, text: str) -> None:
        if len(text) > 32 or not _DURATION.fullmatch(text):
            raise ValueError(f"{shown(text)} is not a duration; write one like 3s, 500ms or 1m30s")
        self.text = text
        self.seconds = sum(int(number) * _UNIT[unit] for number, unit in _PART.findall(text))
        if self.seconds > 86400:
            raise ValueError(f"{shown(text)} is longer than a day; the longest duration is 24h")
        self._value = self.seconds


class IPAddress(Scalar):
    """An IPv4 or IPv6 address without a zone."""

    __slots__ = ("address",)
    EXPECTED = "an IP address such as 127.0.0.1 or ::1"

    def __init__(self, text: str) -> None:
        try:
            address = ip_address(text)
        except ValueError:
            raise ValueError(f"{shown(text)} is not an IP address; write one like 127.0.0.1 or ::1") from None
        if "%" in text:
            raise ValueError(f"{shown(text)} has a zone; write the address without it")
        self.text = text
        self.address: Address = unmapped(address)
        self._value = self.address


def _network(text: str) -> IPNetwork:
    if "/" not in text:
        return ip_network(IPAddress(text).address)
    address, _, prefix = text.partition("/")
    try:
        if not (prefix.isascii() and prefix.isdigit()) or "%" in address:  # ipaddress would take a netmask, and a zone
            raise ValueError
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a network; write one like 10.0.0.0/8 or fd00::/8") from None
    if network.network_address != ip_address(address):
        raise ValueError(f"{shown(text)} has host bits set; the network is {network}")
    return _unmapped_network(network)


def _unmapped_network(network: IPNetwork) -> IPNetwork:
    """Addresses are unmapped before any match: a network inside ::ffff:0:0/96 would never match as it is written."""
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network


class Network(Scalar):
    """A CIDR network, or an address as a network of one."""

    __slots__ = ("networks",)
    EXPECTED = "a network such as 10.0.0.0/8 or fd00::/8, or an address"

    def __init__(self, text: str) -> None:
        self.text = text
        self.networks: tuple[IPNetwork, ...] = (_network(text),)
        self._value = self.networks


class Sources(Network):
    """A network, or `*`: both whole families."""

    __slots__ = ()
    EXPECTED = "a network such as 10.0.0.0/8 or fd00::/8, an address, or *"

    def __init__(self, text: str) -> None:
        if text == "*":
            self.text = text
            self.networks = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
            self._value = "*"
        else:
            super().__init__(text)
