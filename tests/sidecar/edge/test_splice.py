"""A splice over transports that obey uvloop's law: what is written after a close, or behind the own end, is a crash."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from postern_sidecar.edge.splice import LINGER, BackendHalf, ClientHalf, Splice
from postern_sidecar.inbound.filters import Passed, SignatureWatch
from postern_sidecar.inbound.guard import XclientGuard

if TYPE_CHECKING:
    from collections.abc import Callable

    from postern_sidecar.inbound.filters import Filter

ROOM = 65536


class Wire(asyncio.Transport):
    """One socket. It takes ROOM octets while `slow`, then wants no more."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.ended = self.closed = self.slow = False
        self.reading = True
        self.half: ClientHalf | BackendHalf

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed, "write after close"
        assert not self.ended, "write after write_eof"
        self.sent += data
        if self.slow and len(self.sent) > ROOM and not self.half.full:
            self.half.pause_writing()

    def drain(self) -> None:
        self.sent, self.slow = b"", False
        self.half.resume_writing()

    def write_eof(self) -> None:
        assert not self.closed
        self.ended = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


@dataclass
class Pair:
    filter: Filter | None = None
    now: float = 100.0
    client: Wire = field(default_factory=Wire)
    backend: Wire = field(default_factory=Wire)
    ends: list[Splice] = field(default_factory=list)

    def __post_init__(self) -> None:
        splice = self.splice = Splice(lambda: self.now, 900.0, 60.0, self.filter, self.ends.append)
        splice.client = self.client.half = ClientHalf(splice, self.client, self.backend)
        splice.backend = self.backend.half = BackendHalf(splice, self.backend, self.client)

    def from_client(self, data: bytes) -> None:
        self.client.half.data_received(data)

    def from_backend(self, data: bytes) -> None:
        self.backend.half.data_received(data)


def watch() -> SignatureWatch:
    return SignatureWatch(b"421 no\r\n", "somebody")


def guarded() -> Pair:
    """Behind the EHLO of a guarded session."""
    pair = Pair(XclientGuard())
    pair.from_client(b"EHLO x\r\n")
    pair.from_backend(b"250 mx\r\n")
    pair.client.sent = pair.backend.sent = b""
    return pair


@pytest.mark.parametrize("side", ["client", "backend"])
def test_whoever_reads_slowly_stops_the_other_and_nobody_else(side: str) -> None:
    pair = Pair()
    slow, fast = (pair.client, pair.backend) if side == "client" else (pair.backend, pair.client)
    slow.slow = True
    fast.half.data_received(bytes(ROOM + 1))
    assert (fast.reading, slow.reading) == (False, True)
    slow.drain()
    assert fast.reading


def test_a_guard_that_holds_no_more_does_not_overrule_a_slow_server() -> None:
    """Commands wait for their replies; then the message goes out at once, to a server that does not read it."""
    pair = guarded()
    pair.from_client(b"DATA\r\n")
    pair.from_client(b"body\r\n" * 20_000)
    assert not pair.client.reading  # the guard has enough
    pair.backend.slow = True
    pair.from_backend(b"354 go\r\n")
    assert not pair.splice.held
    assert not pair.client.reading  # now the server has
    pair.backend.drain()
    assert pair.client.reading


def test_a_slow_server_that_catches_up_does_not_overrule_the_guard() -> None:
    pair = guarded()
    pair.from_client(b"DATA\r\n")
    pair.backend.slow = True
    pair.from_backend(b"354 go\r\n")
    pair.from_client(b"body\r\n" * 20_000 + b".\r\n")
    assert not pair.client.reading
    pair.from_client(bytes(ROOM + 1))
    pair.backend.drain()
    assert not pair.client.reading


@pytest.mark.parametrize(
    ("stream_filter", "said"),
    [
        pytest.param(watch, b"PROXY TCP4 ", id="a header that nobody asked for"),
        pytest.param(XclientGuard, b"XCLIENT ADDR=127.0.0.1\r\n", id="the guard answers"),
        pytest.param(XclientGuard, b"NOOP\n", id="the guard ends it"),
        pytest.param(XclientGuard, b"x" * 20_000, id="a line too long"),
    ],
)
def test_behind_the_servers_end_the_client_is_told_nothing_more(
    stream_filter: Callable[[], Filter], said: bytes
) -> None:
    pair = Pair(stream_filter())
    pair.from_backend(b"221 bye\r\n")
    pair.backend.half.eof_received()
    assert pair.client.ended
    pair.from_client(said)
    assert pair.client.sent == b"221 bye\r\n"


@pytest.mark.parametrize("closed", [True, False])
def test_a_last_word_is_said_once_and_its_reader_is_read_to_the_end(closed: bool) -> None:
    pair = Pair()
    pair.backend.slow = True
    pair.from_client(bytes(ROOM + 1))
    assert not pair.client.reading
    pair.client.closed = closed
    pair.splice.dismiss(b"421 4.3.2 mx\r\n", "shutdown")
    assert pair.client.sent == (b"" if closed else b"421 4.3.2 mx\r\n")
    assert pair.backend.closed
    assert pair.client.reading is not closed  # what it still sends must not reset the connection
    assert not pair.splice.overdue(pair.now + LINGER - 0.1)
    assert pair.splice.overdue(pair.now + LINGER)


def test_both_ends_close_both_and_it_ends_once() -> None:
    pair = Pair()
    pair.client.half.eof_received()
    assert (pair.backend.ended, pair.backend.closed) == (True, False)
    pair.backend.half.eof_received()
    assert pair.client.closed
    assert pair.backend.closed
    pair.client.half.connection_lost(None)
    assert pair.ends == []
    pair.backend.half.connection_lost(None)
    assert pair.ends == [pair.splice]


def test_half_closed_has_less_patience_and_says_so() -> None:
    pair = Pair()
    assert not pair.splice.overdue(pair.now + 899)
    pair.client.half.eof_received()
    assert pair.splice.overdue(pair.now + 60)
    pair.splice.expire()
    assert pair.splice.reason == "half_closed"


def test_a_filter_that_is_done_is_out_of_the_way() -> None:
    pair = Pair(watch())
    pair.from_client(b"PRO")
    assert pair.backend.sent == b""
    pair.from_client(b"GRAM\r\n")
    assert pair.backend.sent == b"PROGRAM\r\n"
    assert pair.splice.filter is None


def test_an_empty_answer_changes_nothing() -> None:
    pair = Pair()
    pair.splice.apply(Passed())
    assert (pair.client.sent, pair.backend.sent, pair.client.reading) == (b"", b"", True)
