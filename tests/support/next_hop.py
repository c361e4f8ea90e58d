"""Next hops of a few lines, on loopback: a script talks to each connection, and whatever it finds wrong fails the test.

async def script(peer: Peer) -> None:
    peer.say(b"220 mx\\r\\n")
    await peer.hear(b"EHLO me\\r\\n")

async with next_hop(script) as endpoint:
    ...
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING

from certificates import issue, pem_chain
from postern_sidecar.names import Endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from certificates import Certified

ROOT = issue("Root", ca=True)
LEAF = issue("mx.example.org", by=ROOT, dns=["mx.example.org"])


def server_tls(
    directory: Path,
    *chain: Certified,
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> ssl.SSLContext:
    """With LEAF and ROOT, or with the certificates given, whose first has the key."""
    chain = chain or (LEAF, ROOT)
    file = directory / "chain.pem"
    file.write_bytes(pem_chain(*chain) + chain[0].key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = newest
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # whatever a test's certificate is
    context.load_cert_chain(file)
    return context


class Peer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def hear(self, data: bytes) -> None:
        """Exactly this comes."""
        heard = await self.reader.readexactly(len(data))
        assert heard == data

    async def gone(self) -> None:
        """Nothing more comes."""
        with suppress(ConnectionError):
            assert await self.reader.read(100) == b""

    async def start_tls(self, context: ssl.SSLContext) -> None:
        await self.writer.start_tls(context)


@asynccontextmanager
async def next_hop(script: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[Endpoint]:
    """Ends when every script has ended."""
    tasks: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(Peer(reader, writer))
        finally:
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.get_running_loop().create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=1 << 16)
    address, port = server.sockets[0].getsockname()
    try:
        yield Endpoint(ip_address(address), port)
        await asyncio.gather(*tasks)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
