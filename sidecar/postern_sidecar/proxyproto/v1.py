"""Version 1, one line of text (PP 2.1): is this a header, not one, or not yet?

`parse` is a function of all that has arrived. What it refuses it refuses at the first octet that no header can have
there, so its verdict does not depend on how the octets were cut; only the addresses wait for CRLF (PP 2.1: "must wait
for the CRLF before decoding"). Raises `HeaderError`.

The whole line is matched by one pattern. Receivers that split and convert have taken `4_000`, `+25`, tabs, a CR before
the CRLF and `TCPX4` for what they are not, and leading zeros for octal.
Accepted beyond the letter: the dotted tail of an IPv6 address (RFC 4291, 2.2, form 3), because HAProxy writes v4-mapped
addresses so. Stricter than the letter: a lone CR or LF refuses an UNKNOWN line as it does any other.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

from postern_sidecar.names import Address, Endpoint, unmapped

from .header import Command, Family, Header, HeaderError, Reason, Transport

START = b"PROXY"
MAX_LINE = 107  # PP 2.1: the longest line, CRLF included

_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rb"(" + _OCTET + rb"(?:\." + _OCTET + rb"){3})"
_IPV6 = rb"([0-9A-Fa-f:.]{2,45})"
_PORT = rb"(0|[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_LINE = re.compile(
    rb"PROXY (?:TCP4 %b %b %b %b|TCP6 %b %b %b %b|UNKNOWN(?: [^\r\n]*)?)\r\n"
    % (_IPV4, _IPV4, _PORT, _PORT, _IPV6, _IPV6, _PORT, _PORT)
)

_BEGINNINGS = (
    (b"PROXY TCP4 ", re.compile(rb"[0-9. ]*\r?")),
    (b"PROXY TCP6 ", re.compile(rb"[0-9A-Fa-f:. ]*\r?")),
    (b"PROXY UNKNOWN", re.compile(rb"(?: [^\r\n]*)?\r?")),
)

UNKNOWN = Header(1, Command.PROXY, Family.UNSPEC, Transport.UNSPEC)


def parse(data: bytes) -> tuple[Header, int] | None:
    """The header at the start of `data` and its size, or None if more is needed."""
    line = _LINE.match(data, 0, MAX_LINE)
    if line is None:
        _refuse_impossible(data)
        return None
    source4, destination4, sport4, dport4, source6, destination6, sport6, dport6 = line.groups()
    if source4 is not None:
        source = Endpoint(_ipv4(source4), int(sport4))
        destination = Endpoint(_ipv4(destination4), int(dport4))
        return Header(1, Command.PROXY, Family.INET, Transport.STREAM, source, destination), line.end()
    if source6 is not None:
        source = Endpoint(_ipv6(source6), int(sport6))
        destination = Endpoint(_ipv6(destination6), int(dport6))
        return Header(1, Command.PROXY, Family.INET6, Transport.STREAM, source, destination), line.end()
    return UNKNOWN, line.end()


def _ipv4(text: bytes) -> IPv4Address:
    return IPv4Address(bytes(map(int, text.split(b"."))))


def _ipv6(text: bytes) -> Address:
    try:
        return unmapped(IPv6Address(text.decode()))
    except ValueError:
        raise HeaderError(Reason.V1_SYNTAX, "TCP6 without IPv6 addresses") from None


def _refuse_impossible(data: bytes) -> None:
    """Raise unless `data`, which is not a whole line, may become one."""
    seen = data[:MAX_LINE]
    if not START.startswith(seen[:5]):
        raise HeaderError(Reason.NOT_A_HEADER, 'begins with "P", but not with "PROXY"')
    if b"\r\n" in seen:
        raise HeaderError(Reason.V1_SYNTAX, "the line is not what version 1 prescribes")
    if not any(_may_become(seen, head, rest) for head, rest in _BEGINNINGS):
        raise HeaderError(Reason.V1_SYNTAX, f"octet {len(seen)} or one before it cannot stand there")
    if len(seen) == MAX_LINE:
        raise HeaderError(Reason.V1_TOO_LONG, f"no CRLF within {MAX_LINE} octets")


def _may_become(seen: bytes, head: bytes, rest: re.Pattern[bytes]) -> bool:
    if len(seen) <= len(head):
        return head.startswith(seen)
    return seen.startswith(head) and rest.fullmatch(seen, len(head)) is not None
