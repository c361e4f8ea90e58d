"""The admin port over real sockets, on both event loops: what it answers, and what it puts up with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from postern_sidecar.edge import admin
from postern_sidecar.edge.bind import BindError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONFIG = {"hash": "3f9c", "loadedAt": "2026-11-22T09:25:06Z", "version": "0.1.0", "source": "file", "error": None}


class Page:
    def render(self) -> bytes:
        return b"postern_build_info 1.0\n"


@dataclass
class State:
    metrics: Page = field(default_factory=Page)
    alive: tuple[bool, str] = (True, "ok")
    scopes: list[str | None] = field(default_factory=list)
    drained: asyncio.Event = field(default_factory=asyncio.Event)
    waits: list[float] = field(default_factory=list)
    waiting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def healthy(self) -> tuple[bool, str]:
        return self.alive

    def ready(self, scope: str | None) -> tuple[bool, str]:
        self.scopes.append(scope)
        return scope is None, "ok" if scope is None else "the resolver does not validate"

    def config(self) -> dict[str, Any]:
        return CONFIG

    async def wait_drained(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.waiting.release()
        if seconds < 1:
            return self.drained.is_set()
        try:
            return await self.drained.wait()
        finally:
            self.left.set()


class Client:
    """HTTP as bytes: what the server sends is what the test sees."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def send_until_it_fails(self) -> None:
        while True:
            self.send(b"x" * 65_536)
            await self.writer.drain()

    async def answer(self, *, head: bool = False) -> tuple[int, dict[str, str], bytes]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
        body = b"" if head else await self.reader.readexactly(int(headers["content-length"]))
        return int(lines[0].split()[1]), headers, body

    async def ask(self, target: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        self.send(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return await self.answer(head=method == "HEAD")

    async def ended(self) -> bytes:
        """All that comes until the server closes."""
        return await self.reader.read()

    def leave(self) -> None:
        self.writer.close()


class Server:
    def __init__(self, state: State, port: int, stack: contextlib.AsyncExitStack) -> None:
        self.state = state
        self.port = port
        self._stack = stack

    async def client(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)

        async def close() -> None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        self._stack.push_async_callback(close)
        return Client(reader, writer)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    state = State()
    async with contextlib.AsyncExitStack() as stack:
        host, port = await stack.enter_async_context(admin.serve(state, ("127.0.0.1", 0)))
        assert host == "127.0.0.1"
        yield Server(state, port, stack)


@pytest.mark.parametrize(
    ("method", "target", "status", "body"),
    [
        ("GET", "/healthz", 200, b"ok\n"),
        ("GET", "/healthz?verbose", 200, b"ok\n"),
        ("GET", "/readyz", 200, b"ok\n"),
        ("GET", "/readyz?scope=outbound", 503, b"the resolver does not validate\n"),
        ("GET", "/readyz?scope=inbound", 400, b"the only scope is outbound\n"),
        ("GET", "/metrics", 200, b"postern_build_info 1.0\n"),
        ("GET", "/drained?timeout=0", 503, b"not drained after 0 s\n"),
        ("GET", "/drained?timeout=soon", 400, b"timeout is a number of seconds, 3600 at most\n"),
        ("GET", "/drained?timeout=-1", 400, b"timeout is a number of seconds, 3600 at most\n"),
        ("GET", "/drained?timeout=inf", 400, b"timeout is a number of seconds, 3600 at most\n"),
        ("GET", "/", 404, b"there are /healthz, /readyz, /metrics, /config and /drained\n"),
        ("GET", "/healthz/", 404, b"there are /healthz, /readyz, /metrics, /config and /drained\n"),
        ("POST", "/healthz", 405, b"GET or HEAD\n"),
        ("DELETE", "/nothing", 405, b"GET or HEAD\n"),
        ("HEAD", "/healthz", 200, b""),
    ],
)
async def test_answers(server: Server, method: str, target: str, status: int, body: bytes) -> None:
    client = await server.client()
    for _ in range(2):  # and the connection goes on
        answered, headers, text = await client.ask(target, method)
        assert (answered, text) == (status, body)
        assert headers["cache-control"] == "no-store"
        assert headers.get("allow") == ("GET, HEAD" if status == 405 else None)


async def test_config_is_the_contracts_json(server: Server) -> None:
    status, headers, body = await (await server.client()).ask("/config")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == CONFIG
    assert b'"error":null' in body


async def test_head_tells_the_length_of_what_get_would_send(server: Server) -> None:
    client = await server.client()
    _, head, _ = await client.ask("/metrics", "HEAD")
    _, got, body = await client.ask("/metrics")
    assert head == got
    assert int(head["content-length"]) == len(body)


async def test_not_alive(server: Server) -> None:
    server.state.alive = (False, "smtp is not bound")
    assert (await (await server.client()).ask("/healthz"))[::2] == (503, b"smtp is not bound\n")


async def test_requests_in_a_row_and_one_in_pieces(server: Server) -> None:
    client = await server.client()
    client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /config HTTP/1.1\r\nHost: x\r\n\r\nGET /rea")
    assert (await client.answer())[2] == b"ok\n"
    assert json.loads((await client.answer())[2]) == CONFIG
    client.send(b"dyz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe")
    client.send(b"llo")
    assert (await client.answer())[0] == 200


async def test_half_closed_behind_the_request(server: Server) -> None:
    client = await server.client()
    client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    client.writer.write_eof()
    assert (await client.ended()).endswith(b"\r\n\r\nok\n")


@pytest.mark.parametrize("request_line", [b"GET /healthz HTTP/1.0\r\n\r\n", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
async def test_who_wants_it_closed_gets_it_closed(server: Server, request_line: bytes) -> None:
    client = await server.client()
    client.send(request_line if b"1.0" in request_line else request_line + b"Connection: close\r\n\r\n")
    assert (await client.ended()).endswith(b"\r\n\r\nok\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"EHLO example.org\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 4000 + b"\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n" + b"x" * 10_000, b"413"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
    ],
)
async def test_what_is_no_request_ends_the_connection(server: Server, sent: bytes, status: bytes) -> None:
    client = await server.client()
    client.send(sent)
    line, _, rest = (await client.ended()).partition(b"\r\n")
    assert line.startswith(b"HTTP/1.1 " + status)
    assert b"Connection: close" in rest
    assert (await (await server.client()).ask("/healthz"))[0] == 200


async def test_what_comes_behind_a_refusal_is_bounded(server: Server) -> None:
    client = await server.client()
    client.send(b"nonsense\r\n\r\n")
    assert (await client.ended()).startswith(b"HTTP/1.1 400")
    with pytest.raises(OSError, match=r"."):
        await client.send_until_it_fails()


async def test_a_request_has_its_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "REQUEST_TIME", 0.01)
    client = await server.client()
    client.send(b"GET /healthz HTT")
    assert await client.ended() == b""


async def test_a_client_that_reads_nothing_has_its_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "REQUEST_TIME", 0.05)
    rendered = asyncio.Event()

    def render() -> bytes:
        rendered.set()
        return b"x" * (32 << 20)

    monkeypatch.setattr(server.state.metrics, "render", render)
    client = await server.client()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    client.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    await rendered.wait()
    tasks = [task for task in asyncio.all_tasks() if "_converse" in repr(task)]
    assert len(tasks) == 1
    await asyncio.wait(tasks, timeout=10)
    assert all(task.done() and not task.cancelled() and task.exception() is None for task in tasks)


async def test_a_bug_is_answered_and_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    told = loop.create_future()
    loop.set_exception_handler(lambda _, context: told.set_result(context["exception"]))

    def broken() -> dict[str, Any]:
        raise LookupError("secret")

    monkeypatch.setattr(server.state, "config", broken)
    client = await server.client()
    client.send(b"GET /config HTTP/1.1\r\nHost: x\r\n\r\n")
    said = await client.ended()
    assert said.startswith(b"HTTP/1.1 500")
    assert b"secret" not in said
    assert isinstance(await told, LookupError)


async def test_connections_are_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "MAX_CONNECTIONS", 3)
    clients = [await server.client() for _ in range(3)]
    for client in clients:
        assert (await client.ask("/healthz"))[0] == 200
    turned_away = await (await server.client()).ended()
    assert turned_away.startswith(b"HTTP/1.1 503")
    assert (await clients[0].ask("/healthz"))[0] == 200
    served = [task for task in asyncio.all_tasks() if "_converse" in repr(task)]
    assert len(served) == 3
    for client in clients:
        client.leave()
    await asyncio.wait(served, timeout=10)
    assert (await (await server.client()).ask("/healthz"))[0] == 200


class TestDrained:
    async def test_it_answers_when_the_last_session_has_gone(self, server: Server) -> None:
        client = await server.client()
        client.send(b"GET /drained HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await server.state.waiting.acquire()
        assert server.state.waits == [600.0]
        assert (await (await server.client()).ask("/healthz"))[0] == 200
        server.state.drained.set()
        assert (await client.answer())[::2] == (200, b"drained\n")
        assert (await client.answer())[::2] == (200, b"ok\n")  # what came in the meantime is the next request

    @pytest.mark.parametrize(("asked", "waits"), [("30", 30.0), ("2.5", 2.5), ("3600", 3600.0), ("7200", 3600.0)])
    async def test_the_longest_wait(self, server: Server, asked: str, waits: float) -> None:
        server.state.drained.set()
        assert (await (await server.client()).ask(f"/drained?timeout={asked}"))[0] == 200
        assert server.state.waits == [waits]

    async def test_the_wait_ends_when_its_client_leaves(self, server: Server) -> None:
        client = await server.client()
        client.send(b"GET /drained HTTP/1.1\r\nHost: x\r\n\r\n")
        await server.state.waiting.acquire()
        client.leave()
        await asyncio.wait_for(server.state.left.wait(), 10)

    async def test_who_sends_too_much_meanwhile_has_left(self, server: Server) -> None:
        client = await server.client()
        client.send(b"GET /drained HTTP/1.1\r\nHost: x\r\n\r\n")
        await server.state.waiting.acquire()
        client.send(b"x" * 20_000)
        await asyncio.wait_for(server.state.left.wait(), 10)

    async def test_waiting_is_bounded_so_that_healthz_answers(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(admin, "MAX_WAITING", 2)
        for _ in range(2):
            (await server.client()).send(b"GET /drained HTTP/1.1\r\nHost: x\r\n\r\n")
            await server.state.waiting.acquire()
        assert (await (await server.client()).ask("/drained"))[0] == 503
        assert (await (await server.client()).ask("/healthz"))[0] == 200

    async def test_a_server_that_ends_does_not_wait_for_it(self) -> None:
        state = State()
        async with admin.serve(state, ("127.0.0.1", 0)) as (host, port):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET /drained HTTP/1.1\r\nHost: x\r\n\r\n")
            await state.waiting.acquire()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


class TestBinding:
    async def test_a_taken_port_names_the_option(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(BindError, match=f"^--admin: cannot listen on 127.0.0.1 port {port}: another process"):
                async with admin.serve(State(), ("127.0.0.1", port)):
                    pass

    async def test_ephemeral_ports_and_all_addresses(self) -> None:
        async with admin.serve(State(), None, ephemeral=True) as (_, port):
            assert port not in (0, 15925)
            for family in ("127.0.0.1", "::1") if socket.has_dualstack_ipv6() else ("127.0.0.1",):
                _, writer = await asyncio.open_connection(family, port)
                writer.close()
                await writer.wait_closed()

    async def test_afterwards_the_port_is_free(self) -> None:
        async with admin.serve(State(), ("127.0.0.1", 0)) as (_, port):
            pass
        async with admin.serve(State(), ("127.0.0.1", port)) as (_, again):
            assert again == port
