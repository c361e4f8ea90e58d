"""What `check` finds behind an address: TLS as the API server would judge it, and open doors. Loopback only."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from cluster.process import free_port
from postern_operator import certs, rotation, signing
from postern_operator.checking import probing
from postern_operator.rotation import Lifetimes

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.real

NAME = "postern-webhook.s.svc"


def pair(age: timedelta = timedelta()) -> rotation.Pair:
    return signing.pair([NAME], datetime.now(UTC) - age, Lifetimes())


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext | None) -> AsyncIterator[int]:
    open_ = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_.add(writer)
        with contextlib.suppress(OSError):
            await reader.read()
        writer.transport.abort()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in open_:
            writer.transport.abort()


def context(served: rotation.Pair) -> ssl.SSLContext:
    made = certs.server_context()
    certs.load(made, served.chain_pem, served.leaf_key)
    return made


async def test_a_trusted_certificate() -> None:
    good = pair()
    async with serving(context(good)) as port:
        found = await probing.served("127.0.0.1", port, NAME, good.authorities)
    assert (found.error, found.expires) == ("", good.leaf.not_valid_after_utc)
    assert found.target == f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("name", "age", "trusted", "error"),
    [
        (NAME, timedelta(days=31), "own", "certificate has expired"),
        (NAME, timedelta(), "another", "certificate"),
        ("other.s.svc", timedelta(), "own", "Hostname mismatch"),
    ],
)
async def test_certificates_that_the_api_server_refuses(name: str, age: timedelta, trusted: str, error: str) -> None:
    served = pair(age)
    authorities = served.authorities if trusted == "own" else pair().authorities
    async with serving(context(served)) as port:
        found = await probing.served("127.0.0.1", port, name, authorities)
    assert found.error.startswith("its certificate is not what the API server trusts: ")
    assert error in found.error
    assert found.expires is None


async def test_nobody_there_or_nobody_who_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "TLS_TIME", 0.2)
    trusted = pair().authorities
    assert "Connect call failed" in (await probing.served("127.0.0.1", free_port(), NAME, trusted)).error
    async with serving(None) as port:
        found = await probing.served("127.0.0.1", port, NAME, trusted)
    assert found.error == "no answer within 0.2 s"


async def test_open_doors() -> None:
    async with serving(None) as port:
        assert await probing.answers("127.0.0.1", port)
    assert not await probing.answers("127.0.0.1", free_port())
