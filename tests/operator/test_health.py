"""The health port as it is asked: over sockets, with a webhook that really speaks TLS."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import pytest

import certificates
from postern_operator import certs
from postern_operator import health as health_module
from postern_operator.health import Health, Sources, serve
from postern_operator.metrics import Metrics

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.real


@dataclass
class World:
    """What the health port is told; a test changes it."""

    context: ssl.SSLContext = field(default_factory=certs.server_context)
    where: tuple[str, int] | None = None
    certificate: bytes = b""
    unfilled: tuple[str, ...] = ()
    trusted: bool = True
    ages: dict[str, float] = field(default_factory=dict)
    now: float = 0.0
    handshakes: int = 0
    issued: int = 0

    def sources(self) -> Sources:
        return Sources(
            webhook=lambda: self.where,
            certificate=lambda: self.certificate,
            unfilled=lambda: self.unfilled,
            trusted=lambda: self.trusted,
            watch_ages=lambda: self.ages,
        )

    def renew(self, *, served: bool = True) -> None:
        """Another certificate is current; the webhook has it, or not yet."""
        self.issued += 1
        pair = certificates.issue(f"postern-webhook {self.issued}")
        self.certificate = pair.der
        if served:
            certs.load(self.context, pair.pem, pair.key_pem)


@contextlib.asynccontextmanager
async def running(world: World) -> AsyncIterator[tuple[str, Health]]:
    def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        world.handshakes += 1
        writer.close()

    webhook = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=world.context)
    world.where = webhook.sockets[0].getsockname()[:2]
    world.renew()
    health = Health(world.sources(), clock=lambda: world.now)
    try:
        async with serve(health, Metrics("1"), "127.0.0.1", 0) as port:
            yield f"http://127.0.0.1:{port}", health
    finally:
        webhook.close()


async def asked(url: str, **headers: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, await answer.text()


async def raw(url: str, data: bytes, *, eof: bool = False) -> bytes:
    """What comes back until the server closes."""
    port = int(url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        if eof:
            writer.write_eof()
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                return await reader.read()
        return b""
    finally:
        writer.transport.abort()


async def test_a_replica_that_has_all_is_ready_live_and_counted() -> None:
    async with running(World()) as (url, _health):
        assert await asked(f"{url}/healthz") == (200, "alive\n")
        assert await asked(f"{url}/readyz") == (200, "ready\n")
        status, page = await asked(f"{url}/metrics")
        assert status == 200
        assert "postern_operator_leader 0.0" in page
        _status, page = await asked(f"{url}/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert page.endswith("# EOF\n")


async def test_what_is_missing_is_named_until_it_is_there_once() -> None:
    world = World(unfilled=("pods", "policies"), trusted=False)
    async with running(world) as (url, _health):
        status, text = await asked(f"{url}/readyz")
        assert status == 503
        assert text.splitlines() == [
            "not read yet: pods, policies (is the API server reachable?)",
            "the webhook configuration's caBundle does not hold our authority yet (the leader writes it)",
        ]
        world.unfilled, world.trusted = (), True
        assert (await asked(f"{url}/readyz"))[0] == 200
        # A watch that has to begin anew, an API server that is gone, a caBundle that somebody has emptied.
        world.unfilled, world.trusted = ("pods",), False
        world.ages = {"pods": 9999.0}
        assert (await asked(f"{url}/readyz"))[0] == 200


async def test_ready_needs_a_webhook_that_speaks_tls_with_the_current_certificate() -> None:
    world = World()
    async with running(world) as (url, _health):
        assert (await asked(f"{url}/readyz"))[0] == 200
        world.renew(served=False)
        world.now += 10
        assert await asked(f"{url}/readyz") == (
            503,
            "the webhook: it answers with another certificate than the current one\n",
        )
        world.renew()
        world.now += 10
        assert (await asked(f"{url}/readyz"))[0] == 200
        world.certificate = b""
        world.now += 10
        assert await asked(f"{url}/readyz") == (503, "the webhook: there is no certificate yet\n")
        world.where = None
        world.now += 10
        assert await asked(f"{url}/readyz") == (503, "the webhook: it does not listen yet\n")


async def test_a_webhook_that_is_gone_or_silent_is_no_webhook() -> None:
    world = World()
    async with running(world) as (url, _health):
        gone = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        world.where = gone.sockets[0].getsockname()[:2]
        status, text = await asked(f"{url}/readyz")
        assert status == 503
        assert text.startswith("the webhook: no TLS on port")
        gone.close()
        await gone.wait_closed()
        world.now += 10
        assert "no TLS on port" in (await asked(f"{url}/readyz"))[1]
        held: list[asyncio.StreamWriter] = []
        silent = await asyncio.start_server(lambda _reader, writer: held.append(writer), "127.0.0.1", 0)
        world.where = silent.sockets[0].getsockname()[:2]
        world.now += 10
        assert "no TLS answer on port" in (await asked(f"{url}/readyz"))[1]
        for writer in held:
            writer.transport.abort()
        silent.close()


async def test_one_connection_tells_for_all_who_ask_within_some_seconds() -> None:
    world = World()
    async with running(world) as (url, _health):
        await asyncio.gather(*(asked(f"{url}/readyz") for _ in range(20)))
        assert world.handshakes == 1
        world.now += health_module.PROBED_FOR
        await asked(f"{url}/readyz")
        assert world.handshakes == 2


async def test_a_stale_watch_and_a_loop_that_does_not_turn_end_the_life_of_a_replica() -> None:
    world = World(ages={"pods": 599.0})
    async with running(world) as (url, health):
        assert (await asked(f"{url}/healthz"))[0] == 200
        world.ages = {"pods": 601.0}
        assert await asked(f"{url}/healthz") == (503, "the watch of pods is 601 s behind\n")
        world.ages = {}
        world.now = 31.0
        assert await asked(f"{url}/healthz") == (503, "the event loop has not turned for 31 s\n")
        beating = asyncio.create_task(health.beat())
        await asyncio.sleep(0)
        assert (await asked(f"{url}/healthz"))[0] == 200
        beating.cancel()


async def test_only_these_pages_and_only_reading() -> None:
    async with running(World()) as (url, _health):
        assert (await asked(f"{url}/config"))[0] == 404
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{url}/healthz", data=b"x" * 100_000) as answer:
                assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
            async with session.head(f"{url}/healthz") as answer:
                assert (answer.status, answer.headers["Connection"]) == (200, "close")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", b"400"),
        (b"\x16\x03\x01 this is TLS\r\n\r\n", b"400"),
        (b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", b"405"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 500, b"200"),
    ],
    ids=["line", "field", "tls", "body", "pipelined"],
)
async def test_odd_and_huge_requests_get_one_answer_and_the_end(
    request_: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(World()) as (url, _health):
        answer = await raw(url, request_)
        assert answer.partition(b" ")[2].startswith(status)
        assert answer.count(b"HTTP/1.") == 1
        assert (await asked(f"{url}/healthz"))[0] == 200
    assert not caplog.records  # anyone can send these, at any rate


async def test_a_page_that_fails_is_logged_and_the_others_answer(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    async with running(world) as (url, _health):
        world.ages = {"pods": "many"}  # type: ignore[dict-item]
        assert await asked(f"{url}/healthz") == (500, "internal error\n")
        assert (await asked(f"{url}/metrics"))[0] == 200
    assert [record.name for record in caplog.records] == ["postern_operator.health"]


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
async def test_a_slow_client_is_cut_off(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "LIFE", 0.2)
    async with running(World()) as (url, _health):
        assert await raw(url, begun) == b""


async def test_connections_are_bounded_and_places_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "CONNECTIONS", 4)
    async with running(World()) as (url, _health):
        port = int(url.rpartition(":")[2])
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        assert await raw(url, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        reader, writer = held.pop()
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.read()).endswith(b"alive\n")
        writer.close()
        assert (await asked(f"{url}/healthz"))[0] == 200
        for _reader, other in held:
            other.transport.abort()


async def test_the_port_of_another_is_an_error() -> None:
    world = World()
    async with running(world) as (url, health):
        with pytest.raises(OSError, match="in use"):
            async with serve(health, Metrics("1"), "127.0.0.1", int(url.rpartition(":")[2])):
                pass
