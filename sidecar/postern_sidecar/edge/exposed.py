"""Whether the mail server can be reached past the sidecar: its backend port, tried on the pod's other addresses.

A server that listens on more than loopback takes anybody's PROXY header (Postfix has no trust list on that port), so an
open port is said in the log and in `postern_inbound_backend_exposed` (contracts section 2). It is looked for again and
again: in a cluster the sidecar starts before the mail server, when nothing is open yet.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from postern_sidecar.names import Address

EVERY = 60.0  # seconds between two looks
PATIENCE = 1.0
MOST = 16  # addresses that are tried


class Exposure:
    """What was found open of each listener's server, so that it is said once and not at each look."""

    def __init__(self) -> None:
        self._known: dict[str, list[Address]] = {}

    def news(self, listener: str, found: list[Address]) -> bool:
        """Whether `found` is worth a warning: something is open, and it was not so at the last look."""
        known = self._known.get(listener)
        self._known[listener] = found
        return bool(found) and found != known

    def forget(self) -> None:
        """After a reload everything is news."""
        self._known.clear()


async def exposed_addresses(port: int, own: Iterable[Address]) -> list[Address]:
    """The pod's addresses besides loopback on which something accepts connections at `port`."""
    candidates = sorted((a for a in own if not (a.is_loopback or a.is_link_local)), key=int)[:MOST]
    answers = await asyncio.gather(*(_accepts(address, port) for address in candidates))
    return [address for address, accepts in zip(candidates, answers, strict=True) if accepts]


async def _accepts(address: Address, port: int) -> bool:
    try:
        async with asyncio.timeout(PATIENCE):
            _, writer = await asyncio.open_connection(str(address), port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
