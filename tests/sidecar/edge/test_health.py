"""What probes are told: from a hand-over of our own, at most one in ten seconds, shared by all who ask."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from playbook import listener
from postern_sidecar.edge import health
from postern_sidecar.edge.health import FRESH, Health

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass
class Backend:
    """A server that greets every connection with `greeting`; `heard` is what each of them said."""

    greeting: bytes | None = b"220 mx ESMTP\r\n"
    port: int = 0
    heard: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    now: float = 1000.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.greeting is None:
            await reader.read()
        else:
            writer.write(self.greeting)
            self.heard.put_nowait(await reader.read())
        writer.close()

    def health(self, protocol: str = "SMTP", **fields: object) -> Health:
        listening = listener(protocol, "ProxyV1", backend={"port": self.port}, **fields)
        return Health(lambda: listening, lambda: self.now)


@asynccontextmanager
async def backend(greeting: bytes | None = b"220 mx ESMTP\r\n") -> AsyncIterator[Backend]:
    state = Backend(greeting)
    async with await asyncio.start_server(state.serve, "127.0.0.1", 0) as server:
        state.port = server.sockets[0].getsockname()[1]
        yield state


@pytest.mark.parametrize(
    ("protocol", "greeting", "up"),
    [
        ("SMTP", b"220 mx ESMTP\r\n", True),
        ("SMTP", b"220-mx\r\n220 ESMTP\r\n", True),
        ("SMTP", b"421 4.3.2 later\r\n", False),
        ("SMTP", b"554 no\r\n", False),
        ("SMTP", b"220", False),  # and the end
        ("SMTP", b"x" * 100_000, False),  # no line at all
        ("IMAP", b"* OK ready\r\n", True),
        ("POP3", b"+OK ready\r\n", True),
        ("POP3", b"-ERR no\r\n", False),
        ("ManageSieve", b'"IMPLEMENTATION" "x"\r\n', True),
    ],
)
async def test_a_greeting_is_the_proof(protocol: str, greeting: bytes, up: bool) -> None:
    state = Backend(greeting)

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(greeting)
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        state.port = server.sockets[0].getsockname()[1]
        assert await state.health(protocol).up() is up


async def test_it_is_asked_as_ourselves_and_politely() -> None:
    async with backend() as server:
        assert await server.health().up()
        header, quit_, rest = (await server.heard.get()).split(b"\r\n")
    assert header.startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")
    assert (quit_, rest) == (b"QUIT", b"")


async def test_all_who_ask_share_one_answer_for_its_time() -> None:
    connections = 0

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(b"220 mx\r\n")
        await reader.read()
        writer.close()

    state = Backend()
    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        state.port = server.sockets[0].getsockname()[1]
        known = state.health()
        assert await asyncio.gather(*(known.up() for _ in range(50))) == [True] * 50
        state.now += FRESH - 0.1
        assert await known.up()
        assert connections == 1
        state.now += 0.1
        assert await known.up()
        assert connections == 2
        known.proved()  # a session says as much
        state.now += FRESH - 0.1
        assert await known.up()
        assert connections == 2


async def test_down_is_remembered_for_its_time_too_unless_a_session_proves_the_contrary() -> None:
    async with backend(b"421 4.3.2 later\r\n") as server:
        known = server.health()
        assert not await known.up()
        server.greeting = b"220 mx ESMTP\r\n"
        assert not await known.up()
        server.now += FRESH
        assert await known.up()
    server.now += FRESH
    assert not await known.up()
    known.proved()
    assert await known.up()


async def test_a_server_that_says_nothing_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PATIENCE", 0.1)
    async with backend(None) as server:
        assert not await server.health().up()


async def test_where_we_cannot_speak_a_connection_is_enough() -> None:
    async with backend(None) as server:
        assert await server.health(tlsOnConnect=True).up()
