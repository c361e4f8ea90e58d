"""The log writer against real pipes and files: whole lines in order, never waiting, and losses told and counted."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import functools
import os
import select
from typing import TYPE_CHECKING

import pytest
import uvloop

from postern_sidecar.edge import log
from postern_sidecar.edge.log import BUFFER

LogWriter = functools.partial(log.LogWriter, pace=0.0)  # the next iteration of the loop, not milliseconds later

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LINE = b"x" * 99 + b"\n"


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop = request.param()
    yield loop
    loop.close()


class Pipe:
    """A pipe as small as the kernel makes them; read only when the test says so."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(self.reader, False)

    def read(self) -> bytes:
        """All that is in it."""
        read = b""
        while True:
            try:
                data = os.read(self.reader, 1 << 20)
            except BlockingIOError:
                return read
            if not data:
                return read
            read += data

    def close_reader(self) -> None:
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close_reader()
    os.close(pipe.writer)


class Dropped:
    def __init__(self) -> None:
        self.lines = 0

    def __call__(self, lines: int) -> None:
        self.lines += lines


def notice(lines: int) -> bytes:
    return b"lost %d\n" % lines


def turn(loop: asyncio.AbstractEventLoop, turns: int = 1) -> None:
    """So many iterations of the loop, with the readiness that the kernel tells of by then."""

    async def turning() -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    loop.run_until_complete(turning())


def until(loop: asyncio.AbstractEventLoop, pipe: Pipe, done: Callable[[bytes], bool]) -> bytes:
    """Read, as a reader that has woken up, until the writer has said what is awaited."""
    read = b""

    async def reading() -> None:
        nonlocal read
        while not done(read):
            read += pipe.read()
            await asyncio.sleep(0)

    loop.run_until_complete(asyncio.wait_for(reading(), 20))
    return read


def test_lines_of_one_iteration_go_out_in_one_write(
    loop: asyncio.AbstractEventLoop, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[bytes] = []
    real = os.write

    def write(fd: int, data: bytes) -> int:
        writes.append(data)
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    writer = LogWriter(pipe.writer, loop, notice)
    for n in range(10):
        writer.write(b"%d\n" % n)
    assert writes == []
    turn(loop, 3)
    assert writes == [b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"]
    pipe.read()
    writer.write(b"next\n")
    turn(loop, 3)
    assert writes[1:] == [b"next\n"]
    writer.close()


def test_a_pipe_that_nobody_reads(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    """The loop goes on, memory ends at the bound, and afterwards the reader has whole lines and knows what it lacks."""
    dropped = Dropped()
    writer = LogWriter(pipe.writer, loop, notice, dropped)
    written = 2 * BUFFER // len(LINE)
    for n in range(written):
        writer.write(b"%07d " % n + LINE[8:])
        if n % 1000 == 0:
            turn(loop)
    turn(loop, 10)
    kept = written - dropped.lines
    assert BUFFER - len(LINE) <= kept * len(LINE) <= BUFFER + 2 * 4096
    assert not os.get_blocking(pipe.reader)
    assert os.get_blocking(pipe.writer)  # libuv would have taken it away from everybody

    lines = until(loop, pipe, lambda read: b"lost" in read).splitlines(keepends=True)
    assert lines[-1] == b"lost %d\n" % dropped.lines
    assert [line[:8] for line in lines[:-1]] == [b"%07d " % n for n in range(kept)]
    assert all(len(line) == len(LINE) for line in lines[:-1])

    writer.write(b"again\n")
    assert until(loop, pipe, lambda read: read.endswith(b"again\n")) == b"again\n"
    assert dropped.lines == written - kept
    writer.close()


def test_the_notice_stands_where_the_lines_are_missing(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    dropped = Dropped()
    writer = LogWriter(pipe.writer, loop, notice, dropped)
    for _ in range(BUFFER // len(LINE) + 5):
        writer.write(LINE)
    assert dropped.lines == 5
    turn(loop, 3)
    writer.write(b"too early\n")  # room for it, but it would stand before the gap is told
    until(loop, pipe, lambda read: len(read) > BUFFER * 3 // 4)
    writer.write(b"behind\n")
    rest = until(loop, pipe, lambda read: b"behind" in read)
    assert rest.endswith(b"lost 6\nbehind\n")
    writer.close()


@pytest.mark.parametrize("size", [4095, 4096, 4097, 9000])
def test_long_lines_stay_whole(loop: asyncio.AbstractEventLoop, pipe: Pipe, size: int) -> None:
    writer = LogWriter(pipe.writer, loop, notice)
    sent = b"".join(bytes([65 + n]) * (size - 1) + b"\n" for n in range(3))
    for line in sent.splitlines(keepends=True):
        writer.write(line)
    assert until(loop, pipe, lambda read: len(read) == len(sent)) == sent
    writer.close()


def test_a_reader_that_is_gone_ends_nothing(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    dropped = Dropped()
    writer = LogWriter(pipe.writer, loop, notice, dropped)
    pipe.close_reader()
    for n in range(3):
        writer.write(LINE)
        writer.write(LINE)
        turn(loop, 3)
        assert dropped.lines == 2 * (n + 1)
    writer.close()
    assert dropped.lines == 6


def test_a_reader_that_leaves_while_lines_wait(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    dropped = Dropped()
    writer = LogWriter(pipe.writer, loop, notice, dropped)
    for _ in range(100):
        writer.write(LINE)
    turn(loop, 3)
    pipe.close_reader()
    turn(loop, 5)
    assert dropped.lines == 60  # 40 lines were in the pipe
    writer.close()


def test_a_file_gets_all_at_once(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        writer = LogWriter(file.fileno(), loop, notice)
        for _ in range(1000):
            writer.write(LINE)
        turn(loop, 3)
        assert path.read_bytes() == LINE * 1000
        writer.close()


def test_a_disk_that_was_full(loop: asyncio.AbstractEventLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    real, dropped = os.write, Dropped()

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space")

    with path.open("wb") as file:
        writer = LogWriter(file.fileno(), loop, notice, dropped)
        monkeypatch.setattr(os, "write", full)
        for n in range(3):
            writer.write(b"lost anyhow\n")
            turn(loop, 3)
            assert dropped.lines == n + 1
        monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:4]))  # and short writes
        writer.write(b"one line\n")
        writer.write(b"another\n")
        turn(loop, 3)
        assert path.read_bytes() == b"one line\nanother\nlost 3\n"
        writer.close()


def test_somebody_else_has_made_it_non_blocking(
    loop: asyncio.AbstractEventLoop, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    answers = iter([BlockingIOError(errno.EAGAIN, "again")])

    def write(fd: int, data: bytes) -> int:
        for error in answers:
            raise error
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    dropped = Dropped()
    writer = LogWriter(pipe.writer, loop, notice, dropped)
    writer.write(LINE)
    assert until(loop, pipe, bool) == LINE
    assert dropped.lines == 0
    writer.close()


def test_where_epoll_does_not_take_it(
    loop: asyncio.AbstractEventLoop, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = select.epoll

    class Picky:
        """Refuses to watch, as epoll does with regular files."""

        def register(self, *_: int) -> None:
            raise PermissionError(errno.EPERM, "no")

        def close(self) -> None:
            pass

    monkeypatch.setattr(log, "_AGAIN", 0.0)
    writer = LogWriter(pipe.writer, loop, notice)
    for _ in range(100):
        writer.write(LINE)
    monkeypatch.setattr(select, "epoll", Picky)
    turn(loop, 3)
    assert len(until(loop, pipe, lambda read: len(read) == 100 * len(LINE))) == 100 * len(LINE)
    monkeypatch.setattr(select, "epoll", real)
    writer.close()


class TestClose:
    def test_it_flushes(self, loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
        writer = LogWriter(pipe.writer, loop, notice)
        writer.write(b"last words\n")
        writer.close()
        assert pipe.read() == b"last words\n"

    def test_its_patience_is_bounded(self, loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
        dropped = Dropped()
        writer = LogWriter(pipe.writer, loop, notice, dropped)
        for _ in range(100):
            writer.write(LINE)
        turn(loop, 3)
        writer.close(0.01)
        assert pipe.read() == LINE * 40
        assert dropped.lines == 60

    def test_afterwards_lines_are_only_counted(self, loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
        dropped = Dropped()
        writer = LogWriter(pipe.writer, loop, notice, dropped)
        writer.write(LINE)
        writer.close()
        writer.write(LINE)
        turn(loop, 3)
        writer.close()
        assert (pipe.read(), dropped.lines) == (LINE, 1)

    def test_after_the_loop_has_closed(self, pipe: Pipe) -> None:
        loop = asyncio.new_event_loop()
        writer = LogWriter(pipe.writer, loop, notice)
        for _ in range(100):
            writer.write(LINE)
        turn(loop, 3)
        loop.close()
        assert pipe.read() == LINE * 40
        writer.close(0)
        assert pipe.read() == LINE * 40
