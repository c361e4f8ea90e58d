"""The scalars of a policy that are more than strings: durations, networks, domain patterns. Each raises ValueError that
says what is wrong and what would be right; `str()` gives the text back as the file had it."""

from __future__ import annotations

import re
from datetime import date
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import ClassVar

from postern_sidecar.names import ROOT, Address, Domain, Endpoint, IPNetwork, domain, unmapped

from .problems import shown

_DURATION = re.compile(r"(?:[0-9]+(?:ms|s|m|h))+", re.ASCII)
_PART = re.compile(r"([0-9]+)(ms|s|m|h)", re.ASCII)
_SIZE = re.compile(r"([0-9]+)(k|M|G|Ki|Mi|Gi)?", re.ASCII)
_SIZE_UNIT = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)  # date.fromisoformat also knows weeks, 2027-W09-1
_BRACKETED = re.compile(r"\[([^\]]*)\](?::([0-9]*))?", re.ASCII)
_PREFIX = re.compile(r"0|[1-9][0-9]{0,2}", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_MAPPED = IPv6Network("::ffff:0:0/96")
_MAX_NAME = 254  # with its final dot; what is longer is not worth an IDNA table
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
        if not _PREFIX.fullmatch(prefix) or "%" in address:  # ipaddress would take a netmask, 08, and a zone
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


class Size(Scalar):
    """A Kubernetes quantity of octets: digits, and one of k M G Ki Mi Gi; `octets` is what it comes to."""

    __slots__ = ("octets",)
    EXPECTED = "a size such as 50Mi or 10M"

    def __init__(self, text: str) -> None:
        found = _SIZE.fullmatch(text) if len(text) <= 20 else None
        if found is None:
            raise ValueError(f"{shown(text)} is not a size; write one like 50Mi or 10M")
        self.text = text
        self.octets = int(found[1]) * _SIZE_UNIT[found[2] or ""]
        self._value = self.octets


class Date(Scalar):
    """A day of the calendar, YYYY-MM-DD."""

    __slots__ = ("day",)
    EXPECTED = "a date such as 2027-03-01, in quotes"

    def __init__(self, text: str) -> None:
        try:
            if not _DATE.fullmatch(text):
                raise ValueError
            self.day = date.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{shown(text)} is not a date; write one like 2027-03-01") from None
        self.text = text
        self._value = self.day


class Pattern(Scalar):
    """`*` for all domains, `*.example.org` for what is below it at any depth, else one domain exactly (contracts 1)."""

    __slots__ = ("below", "name")
    EXPECTED = "a domain such as example.org, *.example.org, or *"

    def __init__(self, text: str) -> None:
        self.text = text
        self.below = text == "*" or text.startswith("*.")
        try:
            self.name = ROOT if text == "*" else _host(text.removeprefix("*."))
        except ValueError:
            raise ValueError(f"{shown(text)} is not a domain; write one like example.org, *.example.org or *") from None
        self._value = (self.below, self.name)

    def fits(self, name: Domain) -> int | None:
        """How specific the match is, higher is more; None: no match."""
        if not self.below:
            return 1 << 16 if name == self.name else None
        if not self.name:
            return 0
        return len(self.name) if name.endswith(f".{self.name}") else None


def _host_port(text: str, default: int) -> tuple[str, int]:
    """`host[:port]`, `[v6]:port`, or a bare IPv6 address. Raises ValueError."""
    if text.count(":") > 1 and not text.startswith("["):
        return text, default
    bracketed = _BRACKETED.fullmatch(text)
    host, port = (bracketed[1], bracketed[2]) if bracketed else (text.partition(":")[0], text.partition(":")[2] or None)
    if port is None and not text.endswith(":"):
        return host, default
    if not port or not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise ValueError
    return host, int(port)


class Server(Scalar):
    """A name server: an address, and a port where it is not 53."""

    __slots__ = ("endpoint", "given")
    EXPECTED = "a server such as 10.0.0.53, 10.0.0.53:5353 or [fd00::53]:53"

    def __init__(self, text: str) -> None:
        try:
            host, port = _host_port(text, 0)
            address = ip_address(host)
            if "%" in host:
                raise ValueError
        except ValueError:
            raise ValueError(f"{shown(text)} is not a server; write one like 10.0.0.53:53 or [fd00::53]:53") from None
        self.text = text
        self.given = port != 0
        """Whether the port was; a forward over TLS has another default than 53."""
        self.endpoint = Endpoint(unmapped(address), port or 53)
        self._value = (self.endpoint, self.given)


class HostPort(Scalar):
    """A relay: a name or an address, and a port where it is not 25."""

    __slots__ = ("host", "port")
    EXPECTED = "a relay such as relay.example.org:587, 192.0.2.1:25 or [2001:db8::1]:25"

    def __init__(self, text: str) -> None:
        try:
            name, self.port = _host_port(text, 25)
            self.host: Address | Domain = _address_or_domain(name)
        except ValueError:
            remedy = "write one like relay.example.org:587 or [2001:db8::1]:25"
            raise ValueError(f"{shown(text)} is not a relay; {remedy}") from None
        self.text = text
        self._value = (self.host, self.port)


def _address_or_domain(text: str) -> Address | Domain:
    try:
        return IPAddress(text).address
    except ValueError:
        return _host(text)


def _host(text: str) -> Domain:
    """A name that a host may have: not the root, and not an address with a typo. Raises ValueError."""
    name = domain(text[: _MAX_NAME + 1])
    if len(text) > _MAX_NAME or not name or name.rpartition(".")[2].isdigit():
        raise ValueError
    return name
