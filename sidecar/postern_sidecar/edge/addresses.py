"""The addresses of this pod, as the kernel lists them: sources that nobody may claim, places to look for the backend.

Linux only (so is a sidecar): /proc/net/fib_trie for IPv4, /proc/net/if_inet6 for IPv6. Where neither can be read the
answer is empty; loopback stays forbidden as a source all the same.
"""

from __future__ import annotations

import contextlib
import re
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postern_sidecar.names import Address

_LOCAL = re.compile(r"\|-- (\d+\.\d+\.\d+\.\d+)\n\s+/32 host LOCAL")


def own_addresses(proc: Path = Path("/proc/net")) -> frozenset[Address]:
    """Every local unicast address, loopback included."""
    addresses: set[Address] = set()
    with contextlib.suppress(OSError):
        addresses |= {IPv4Address(text) for text in _LOCAL.findall((proc / "fib_trie").read_text("ascii"))}
    with contextlib.suppress(OSError):
        lines = (proc / "if_inet6").read_text("ascii").splitlines()
        addresses |= {IPv6Address(bytes.fromhex(line.split()[0])) for line in lines}
    return frozenset(addresses)
