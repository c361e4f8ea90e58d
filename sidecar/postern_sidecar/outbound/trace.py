"""The Received field that the relay puts before a message (RFC 5321 4.4, RFC 5322 3.6.7).

`helo` is the submitter's own word. It is written only where it is a domain name or an address literal, else the address
stands in its place (RFC 5321 4.4: Extended-Domain): nothing that it says ends a line or opens a comment.

Folded at 78 octets, except that a name is never broken. Knows no clock; raises nothing.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postern_sidecar.names import Address

FOLD = 78  # RFC 5322 2.1.1, without the CRLF
_NAME = re.compile(rb"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?|\[[A-Fa-f0-9.:IPv]{2,60}\]")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@lru_cache(maxsize=1)
def date(seconds: int) -> str:
    """RFC 5322 3.3, in UTC; `seconds` since 1970. Not strftime: its names are the locale's."""
    at = datetime.fromtimestamp(seconds, UTC)
    return f"{_DAYS[at.weekday()]}, {at.day} {_MONTHS[at.month - 1]} {at.year:04d} {at:%H:%M:%S} +0000"


@lru_cache(maxsize=64)
def _from(helo: bytes, peer: Address) -> tuple[str, str]:
    literal = f"[IPv6:{peer}]" if isinstance(peer, IPv6Address) else f"[{peer}]"
    return f"from {helo.decode('ascii') if _NAME.fullmatch(helo) else literal}", f"({literal})"


def received(peer: Address, helo: bytes, hostname: str, protocol: str, session: str, now: float) -> bytes:
    """One field with its CRLF. `protocol`: ESMTP, LMTP, SMTP, UTF8SMTP or UTF8LMTP (RFC 3848, 6531).

    `now`: seconds since 1970."""
    words = (*_from(helo, peer), f"by {hostname}", f"with {protocol} id {session};", date(int(now)))
    lines = ["Received:"]
    for word in words:
        if len(lines[-1]) + 1 + len(word) < FOLD:
            lines[-1] += f" {word}"
        else:
            lines.append(f"\t{word}")
    return "\r\n".join(lines).encode("ascii", "replace") + b"\r\n"
