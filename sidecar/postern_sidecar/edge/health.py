"""Whether a listener's backend is up, for the probes that the sidecar answers itself (contracts section 2, Probes).

A hand-over in the last FRESH seconds is proof. Else one is made with our own addresses, up to the greeting and QUIT, at
most every FRESH seconds; all who ask meanwhile share it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from postern_sidecar.config.model import Protocol
from postern_sidecar.inbound.client import Client
from postern_sidecar.names import endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from postern_sidecar.inbound.listener import Listener

FRESH = 10.0
PATIENCE = 5.0
_GREETINGS = {
    Protocol.SMTP: b"220",
    Protocol.IMAP: b"* ",
    Protocol.POP3: b"+OK",
    Protocol.MANAGESIEVE: b"",
    Protocol.OPAQUE: b"",
}
_BYES = {Protocol.SMTP: b"QUIT\r\n", Protocol.IMAP: b"a LOGOUT\r\n", Protocol.POP3: b"QUIT\r\n"}


class Health:
    """`now` is the event loop's clock."""

    __slots__ = ("_known", "_listener", "_now", "_tried", "_trying")

    def __init__(self, listener: Callable[[], Listener], now: Callable[[], float]) -> None:
        self._listener = listener
        self._now = now
        self._known = False
        self._tried = float("-inf")
        self._trying: asyncio.Task[bool] | None = None

    def proved(self) -> None:
        """A session was just handed over."""
        self._known = True
        self._tried = self._now()

    async def up(self) -> bool:
        if self._now() - self._tried < FRESH:
            return self._known
        if self._trying is None:
            self._trying = asyncio.create_task(self._try())
        return await asyncio.shield(self._trying)

    async def _try(self) -> bool:
        try:
            async with asyncio.timeout(PATIENCE):
                self._known = await self._hand_over()
        except (OSError, TimeoutError, ValueError):  # ValueError: 64 KiB without a line end
            self._known = False
        finally:
            self._tried = self._now()
            self._trying = None
        return self._known

    async def _hand_over(self) -> bool:
        listener = self._listener()
        backend = listener.inbound.backend
        reader, writer = await asyncio.open_connection(str(backend.address.address), backend.port)
        try:
            ours = endpoint(writer.get_extra_info("sockname")[:2])
            theirs = endpoint(writer.get_extra_info("peername")[:2])
            writer.write(listener.handover.preamble(Client(ours, theirs, ours)))
            if listener.speech.silent:
                return True
            greeting = await reader.readline()
            writer.write(_BYES.get(listener.inbound.protocol, b"LOGOUT\r\n"))
            return greeting.startswith(_GREETINGS[listener.inbound.protocol]) and greeting.endswith(b"\n")
        finally:
            writer.close()
