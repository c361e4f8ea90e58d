"""A wire between the relay and a destination that a test can stop at any octet.

    async with Wire(lab, ("198.51.100.1", 25), ("198.51.100.200", 25), back=rb"354 .*\\r\\n") as wire:
        ...
        await wire.held.wait()      # the destination's answer to the final dot has come, and waits here

A place is a number of octets or a pattern; what comes up to its end passes, nothing behind it does. `toward` the
destination, `back` from it. Of a connection that is cut, what waits here is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from .host import Address
    from .laboratory import Lab

Place = int | bytes | None


class Wire:
    """`toward`, `back`: where it holds up, from the first octet of a connection; `held`: it does. `sent`, `heard`: what
    has passed of the first connection."""

    def __init__(self, lab: Lab, at: Address, to: Address, *, toward: Place = None, back: Place = None) -> None:
        self.toward, self.back = toward, back
        self.held = asyncio.Event()
        self._news = asyncio.Condition()
        self.connections: list[tuple[bytearray, bytearray]] = []
        self._lab = lab
        self._at, self._to = at, to
        self._pumps: set[asyncio.Task[None]] = set()
        self._opened = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, sock=self._lab.outside.listen(self._at))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self.cut()

    @property
    def sent(self) -> bytes:
        return bytes(self.connections[0][0])

    @property
    def heard(self) -> bytes:
        return bytes(self.connections[0][1])

    def open(self) -> None:
        """Nothing is held up any more."""
        self.toward = self.back = None
        self._opened.set()

    async def hears(self, pattern: bytes) -> None:
        """Returns when that has come back through it, on its first connection."""
        async with self._news:
            await self._news.wait_for(lambda: self.connections and re.search(pattern, self.heard))

    async def cut(self) -> None:
        """The connections there are end; what was held up never arrives."""
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        task.add_done_callback(self._pumps.discard)
        passed = bytearray(), bytearray()
        self.connections.append(passed)
        far_reader, far_writer = await self._lab.outside.open_connection(self._to)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer, "toward", passed[0]))
                group.create_task(self._pump(far_reader, writer, "back", passed[1]))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in (writer, far_writer):
                each.transport.abort()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str, passed: bytearray
    ) -> None:
        waiting = b""
        while True:
            data = await reader.read(65536)
            waiting += data
            room = _room(getattr(self, direction), bytes(passed), waiting)
            passed += waiting[:room]
            writer.write(waiting[:room])
            waiting = waiting[room:]
            if waiting:
                self.held.set()
                await self._opened.wait()
                passed += waiting
                writer.write(waiting)
                waiting = b""
            await writer.drain()
            await self._tell()
            if not data:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return


def _room(place: Place, passed: bytes, waiting: bytes) -> int:
    """How many of the octets that wait may pass."""
    if place is None:
        return len(waiting)
    if isinstance(place, bytes):
        match = re.search(place, passed + waiting)
        place = match.end() if match else len(passed) + len(waiting)
    return max(0, min(len(waiting), place - len(passed)))
