"""The log's way out: lines to a file descriptor that the event loop never waits for (contracts section 4).

Lines are kept for PACE and go out together, whole and in order. O_NONBLOCK is never set:
standard output is an open file that other processes may share, and the flag belongs to it, not to us. So a pipe, socket
or terminal is asked with poll(2) first and given at most PIPE_BUF bytes at a time: pipe(7) promises that so much either
fits or is not writable, and that it does not mix with what others write. A regular file takes everything at once.

While nobody reads, `BUFFER` bytes wait; what comes then is dropped whole and counted, until half of the buffer has
gone, and the line that `notice` makes says how many were lost, in their place. A reader that is gone (EPIPE) or a full
disk loses what was waiting, counted too; the log never ends a session. Raises nothing.

Waiting for writability is an epoll descriptor of our own that the loop reads: `loop.add_writer` would do on asyncio,
but libuv sets O_NONBLOCK on what it is given to watch.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

BUFFER: Final = 1 << 20
PACE: Final = 0.005  # seconds that lines are collected for: two system calls for all of them
_AGAIN: Final = 0.1  # seconds, where epoll does not take the descriptor


def _ignore(lines: int) -> None:
    del lines


class LogWriter:
    """`notice(n)` is a line that tells of n lost ones; `on_drop(n)` counts them."""

    def __init__(
        self,
        fd: int,
        loop: asyncio.AbstractEventLoop,
        notice: Callable[[int], bytes],
        on_drop: Callable[[int], None] = _ignore,
        pace: float = PACE,
    ) -> None:
        self._fd = fd
        self._loop = loop
        self._notice = notice
        self._on_drop = on_drop
        self._pace = pace
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._lost = 0  # since the last notice
        self._overflowed = False
        self._scheduled = False
        self._closed = False
        self._epoll: select.epoll | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._whole = stat.S_ISREG(os.fstat(fd).st_mode)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def write(self, line: bytes) -> None:
        """Take one line, with its LF. Never blocks."""
        if self._closed or self._overflowed or self._size + len(line) > BUFFER:
            self._overflowed = True
            self._drop(1)
            return
        self._lines.append(line)
        self._size += len(line)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_later(self._pace, self._flush)

    def close(self, seconds: float = 1.0) -> None:
        """Write what is left, and wait for the reader no longer than `seconds` in all."""
        self._closed = True
        self._stop_waiting()
        end = time.monotonic() + seconds
        while not self._push():
            left = end - time.monotonic()
            if left <= 0 or not self._poll.poll(left * 1000):
                break
        self._drop(len(self._lines))
        self._lines.clear()
        self._size = 0

    def _drop(self, lines: int) -> None:
        if lines:
            self._lost += lines
            self._on_drop(lines)

    def _flush(self) -> None:
        if self._closed:
            return
        if self._push():
            self._scheduled = False
            self._stop_waiting()
        else:
            self._wait()

    def _push(self) -> bool:
        """Write as long as the descriptor takes it; True: nothing is left."""
        while self._lines:
            if not self._whole and not self._poll.poll(0):
                return False
            chunk = self._next()
            try:
                written = os.write(self._fd, chunk)
            except BlockingIOError:  # another process has set O_NONBLOCK
                self._lines.appendleft(chunk)
                return False
            except OSError:
                self._drop(chunk.count(b"\n") + len(self._lines))
                self._lines.clear()
                self._size = 0
                return True
            if written < len(chunk):
                self._lines.appendleft(chunk[written:])
            self._size -= written
            self._tell()
        return True

    def _next(self) -> bytes:
        """The next lines that go out in one write, taken off the queue."""
        lines = self._lines
        if self._whole:
            chunk = b"".join(lines)
            lines.clear()
            return chunk
        chunk = lines.popleft()
        if len(chunk) > select.PIPE_BUF:
            lines.appendleft(chunk[select.PIPE_BUF :])
            return chunk[: select.PIPE_BUF]
        taken = [chunk]
        room = select.PIPE_BUF - len(chunk)
        while lines and len(lines[0]) <= room:
            room -= len(lines[0])
            taken.append(lines.popleft())
        return b"".join(taken)

    def _tell(self) -> None:
        """It flows again: what was lost is said where it is missing."""
        if self._lost and self._size <= BUFFER // 2:
            line = self._notice(self._lost)
            self._lost, self._overflowed = 0, False
            self._lines.append(line)
            self._size += len(line)

    def _wait(self) -> None:
        if self._epoll is not None:
            return
        epoll = select.epoll()
        try:
            epoll.register(self._fd, select.EPOLLOUT)
        except OSError:
            epoll.close()
            self._timer = self._loop.call_later(_AGAIN, self._flush)
            return
        self._epoll = epoll
        self._loop.add_reader(epoll.fileno(), self._flush)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._epoll is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None
