"""The scalars of a policy that are more than strings: durations, addresses, networks. Each raises ValueError that
says what is wrong and what would be right; `str()` gives the text back as the file had it."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from postern_sidecar.names import Address, IPNetwork, unmapped

_DURATION = re.compile(r"(?:[0-9]+(?:ms|s|m|h))+", re.ASCII)
_PART = re.compile(r"([0-9]+)(ms|s|m|h)", re.ASCII)
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class _Scalar:
    """Compared by meaning, not by spelling: `3000ms` is the default `3s`."""

    __slots__ = ("_value", "text")
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


class Duration(_Scalar):
    """`([0-9]+(ms|s|m|h))+`, at most 24 hours; `seconds` is what it comes to."""

    __slots__ = ("seconds",)

    def __init__(self, text: str) -> None:
        if len(text) > 32 or not _DURATION.fullmatch(text):
            raise ValueError(f"{text!r} is not a duration; write one like 3s, 500ms or 1m30s")
        self.text = text
        self.seconds = sum(int(number) * _UNIT[unit] for number, unit in _PART.findall(text))
        if self.seconds > 86400:
            raise ValueError(f"{text!r} is longer than a day; the longest duration is 24h")
        self._value = self.seconds


class IPAddress(_Scalar):
    """An IPv4 or IPv6 address without a zone."""

    __slots__ = ("address",)

    def __init__(self, text: str) -> None:
        try:
            address = ip_address(text)
        except ValueError:
            raise ValueError(f"{text!r} is not an IP address; write one like 127.0.0.1 or ::1") from None
        if "%" in text:
            raise ValueError(f"{text!r} has a zone; write the address without it")
        self.text = text
        self.address: Address = unmapped(address)
        self._value = self.address


def _network(text: str) -> IPNetwork:
    if "/" not in text:
        return ip_network(IPAddress(text).address)
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network; write one like 10.0.0.0/8 or fd00::/8") from None
    if str(network.network_address) != str(ip_address(text.split("/")[0])):
        raise ValueError(f"{text!r} has host bits set; the network is {network}")
    return network


class Network(_Scalar):
    """A CIDR network, or an address as a network of one."""

    __slots__ = ("networks",)

    def __init__(self, text: str) -> None:
        self.text = text
        self.networks: tuple[IPNetwork, ...] = (_network(text),)
        self._value = self.networks


class Sources(Network):
    """A network, or `*`: both whole families."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        if text == "*":
            self.text = text
            self.networks = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
            self._value = "*"
        else:
            super().__init__(text)
