"""Connecting: that it works, and each way in which it does not."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from next_hop import Peer, next_hop
from postern_sidecar.edge.channel import HIGH_WATER, LOW_WATER, Channel
from postern_sidecar.edge.deadlines import Deadlines
from postern_sidecar.edge.dial import dial
from postern_sidecar.names import Endpoint
from postern_sidecar.outbound.commands import Lost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HERE = Endpoint(ip_address("192.0.2.1"), 25)


@pytest.fixture
async def deadlines() -> Deadlines:
    return Deadlines(asyncio.get_running_loop())


async def test_a_connection(deadlines: Deadlines) -> None:
    async def script(peer: Peer) -> None:
        await peer.gone()

    async with next_hop(script) as endpoint:
        channel = await dial(deadlines, endpoint, 5)
        assert isinstance(channel, Channel)
        sock = channel._transport.get_extra_info("socket")
        assert sock.getpeername() == (str(endpoint.address), endpoint.port)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert channel._transport.get_write_buffer_limits() == (LOW_WATER, HIGH_WATER)
        channel.close()


@pytest.mark.parametrize("closing", [1, 2])
async def test_a_connection_is_closed_once(deadlines: Deadlines, closing: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.gone()

    closed = asyncio.Queue[None]()
    async with next_hop(script) as endpoint:
        channel = await dial(deadlines, endpoint, 5, lambda: closed.put_nowait(None))
        assert isinstance(channel, Channel)
        assert closed.empty()
        for _ in range(closing):
            channel.close()
        await closed.get()
    assert channel._transport.get_extra_info("socket").fileno() == -1
    assert closed.empty()


async def test_one_that_never_was_is_closed_once(deadlines: Deadlines) -> None:
    closed = asyncio.Queue[None]()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        to = Endpoint(ip_address("127.0.0.1"), sock.getsockname()[1])
        assert isinstance(await dial(deadlines, to, 5, lambda: closed.put_nowait(None)), Lost)
    assert closed.qsize() == 1


async def test_one_that_is_given_up_is_closed_once(deadlines: Deadlines, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = asyncio.Queue[None]()
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", failing(asyncio.CancelledError()))
    with pytest.raises(asyncio.CancelledError):
        await dial(deadlines, HERE, 5, lambda: closed.put_nowait(None))
    assert closed.qsize() == 1


async def test_nobody_listens(deadlines: Deadlines) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        lost = await dial(deadlines, Endpoint(ip_address("127.0.0.1"), sock.getsockname()[1]), 5)
    assert isinstance(lost, Lost)
    assert lost.reason == "connect_refused"


def failing(error: BaseException) -> Callable[..., Awaitable[Any]]:
    async def create_connection(*_: object) -> None:
        raise error

    return create_connection


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ECONNREFUSED, "connect_refused"),
        (errno.ETIMEDOUT, "connect_timeout"),
        (errno.EMFILE, "no_descriptors"),
        (errno.ENFILE, "no_descriptors"),
        (errno.ENETUNREACH, "unreachable"),
        (errno.EHOSTUNREACH, "unreachable"),
        (errno.EACCES, "unreachable"),
        (errno.EADDRNOTAVAIL, "unreachable"),
    ],
)
async def test_what_the_kernel_says(
    number: int, reason: str, deadlines: Deadlines, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(number, os.strerror(number))
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", failing(error))
    assert await dial(deadlines, HERE, 5) == Lost(reason, os.strerror(number))


async def test_an_error_without_a_number(deadlines: Deadlines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", failing(OSError("all of them failed")))
    assert await dial(deadlines, HERE, 5) == Lost("unreachable", "all of them failed")


async def test_no_answer(deadlines: Deadlines, monkeypatch: pytest.MonkeyPatch) -> None:
    async def create_connection(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", create_connection)
    assert await dial(deadlines, HERE, 0.01) == Lost("connect_timeout", "no answer within 0.01 s")
