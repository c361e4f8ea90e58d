"""Plays a Service: one address in front of the replicas, each connection to the next of those that are ready."""

from __future__ import annotations

import asyncio
import contextlib
import threading

BLOCK = 1 << 16


class Service:
    """`url` for the API server. A connection goes to one replica; where none is ready it is refused with a reset, as
    kube-proxy does. `targets` may be replaced at any time, by any thread: open connections stay where they are."""

    def __init__(self) -> None:
        self.targets: tuple[int, ...] = ()
        self._turn = 0
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="service", daemon=True)
        self._thread.start()
        self._started.wait()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, limit=BLOCK)
        self.port: int = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._over.wait()
        server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._forward(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        targets = self.targets
        self._turn += 1
        try:
            if targets:
                with contextlib.suppress(OSError):
                    onward = await asyncio.open_connection("127.0.0.1", targets[self._turn % len(targets)], limit=BLOCK)
                    try:
                        await asyncio.gather(_copy(reader, onward[1]), _copy(onward[0], writer))
                    finally:
                        onward[1].transport.abort()
        finally:
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while block := await reader.read(BLOCK):
            writer.write(block)
            await writer.drain()
        writer.write_eof()
