"""A connection to a next hop: commands out, replies in, in clear text or over TLS, and a message between them.

One user at a time: `say`, `secure` and `drain` wait, everything else returns at once. What comes to nothing is told as
data (`Lost`), and stays: `lost` has the first reason, and later calls return it, behind the replies that had come.

What the peer can make us keep is bounded. A reply has at most MAX_LINES lines of MAX_LINE octets (`replies`); of what
it says unasked, AHEAD replies and UNREAD octets are kept. Of what it does not read, little more than HIGH_WATER waits
here, as long as the user calls `drain` between two writes.

uvloop aborts the process when a closed transport is written to: every write asks first.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import time
from typing import TYPE_CHECKING, Final, cast

from postern_sidecar.outbound.commands import Lost
from postern_sidecar.replies import Reply, ReplyError, ReplyReader

from .tls import Engine, TLSError

if TYPE_CHECKING:
    from collections.abc import Callable

    from postern_sidecar.outbound.plan import Handshake, Plan

    from .deadlines import Deadlines

AHEAD: Final = 64  # replies that nobody has asked for
UNREAD: Final = 65_536  # octets that came while nobody waited for any
OWED: Final = 65_536  # octets of TLS's own answers over the life of a connection
HIGH_WATER: Final = 262_144
LOW_WATER: Final = 65_536
LINGER: Final = 5.0  # seconds for a last word to go out
DETAIL: Final = 200
_SLICE: Final = 4096  # how much is parsed before the bounds are looked at
_QUIT: Final = b"QUIT\r\n"


class _For(enum.Enum):
    """What is waited for."""

    NOTHING = enum.auto()
    REPLIES = enum.auto()
    HANDSHAKE = enum.auto()
    ROOM = enum.auto()


class Channel(asyncio.Protocol):
    """`lost`: why nothing more goes over it. `on_idle`: called once, when the peer speaks or goes while set.
    `on_closed`: called once, when its socket is no more."""

    __slots__ = (
        "_deadlines",
        "_engine",
        "_for",
        "_full",
        "_on_closed",
        "_owed",
        "_patient",
        "_reader",
        "_replies",
        "_seconds",
        "_size",
        "_spoken",
        "_transport",
        "_unread",
        "_waiter",
        "_wanted",
        "lost",
        "on_idle",
    )

    def __init__(self, deadlines: Deadlines, on_closed: Callable[[], None] | None = None) -> None:
        self._deadlines = deadlines
        self._on_closed = on_closed
        self._transport: asyncio.Transport
        self._engine: Engine | None = None
        self._reader = ReplyReader()
        self._replies: list[Reply] = []
        self._spoken = False  # something was asked of it in clear
        self._waiter: asyncio.Future[None] | None = None
        self._for = _For.NOTHING
        self._wanted = 0
        self._seconds = 0.0
        self._patient = True
        self._unread = 0
        self._owed = 0
        self._full = False
        self._size = 0  # of what waits to be written, when it was last looked at
        self.lost: Lost | None = None
        self.on_idle: Callable[[Channel], None] | None = None

    # What the user does

    @property
    def pending_reply(self) -> bool:
        """The peer has said something that nobody has asked for, or has gone: an early 552, say."""
        return bool(self._replies) or self.lost is not None

    async def say(self, data: bytes, replies: int, seconds: float) -> list[Reply] | Lost:
        """Write `data` at once, then wait for `replies` replies, each within `seconds`."""
        self._spoken = True
        if data:
            self.write(data)
        if len(self._replies) < replies and self.lost is None:
            self._wanted, self._seconds = replies, seconds
            await self._wait(_For.REPLIES, seconds)
        came, self._replies = self._replies[:replies], self._replies[replies:]
        self._unread = 0
        if len(came) == replies:
            return came
        lost = self.lost
        assert lost is not None  # noqa: S101 - else the wait is not over
        return Lost(lost.reason, lost.detail, tuple(came))

    async def secure(self, plan: Plan, seconds: float) -> Handshake | Lost:
        """TLS, all of it within `seconds`. What stands behind the reply to STARTTLS was put there by somebody else
        (RFC 3207 6)."""
        if self._replies or self._reader.partial:
            if self._spoken:
                return self._lose("starttls_injection", "bytes behind the reply to STARTTLS")
            return self._lose("tls_failed", "it speaks SMTP in clear")
        if self.lost is not None:
            return self.lost
        try:
            self._engine = engine = Engine(plan)
            self._for = _For.HANDSHAKE
            engine.handshake(b"")
        except TLSError as error:
            return self._lose("tls_failed", str(error))
        self._send(engine.outgoing())
        lost = await self._wait(_For.HANDSHAKE, seconds)
        return engine.result(time.time()) if lost is None else lost

    def write(self, data: bytes) -> None:
        """Of the message: `drain` before the next."""
        if self.lost is not None:
            return
        if self._engine is not None:
            try:
                data = self._engine.encrypt(data)
            except TLSError as error:
                self._lose("connection_lost", str(error))
                return
        self._send(data)

    async def drain(self, seconds: float, *, patient: bool = True) -> Lost | None:
        """Wait until the peer has read most of it: within `seconds`, or where `patient`, as long as it takes something
        within them. Or until it says something (`pending_reply`), which may mean that it reads no more."""
        if self._full and not self.pending_reply:
            self._seconds, self._patient = seconds, patient
            self._size = self._transport.get_write_buffer_size()
            await self._wait(_For.ROOM, seconds)
        return self.lost

    def close(self, quit: bool = False) -> None:  # noqa: A002 - SMTP's word
        """With `quit` it says so first. What it has not read by then is not delivered, or not for long."""
        self.on_idle = None
        sound = self.lost is None
        if quit and sound:
            self.write(_QUIT)
            if self._engine is not None:
                self._send(self._engine.farewell())
        self._give_up("connection_lost", "closed here")
        self._hang_up(linger=quit and sound)

    # What the loop does

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if self.lost is not None:
            return
        engine = self._engine
        if engine is None:
            self._received(data)
            return
        try:
            if self._for is _For.HANDSHAKE:
                if not self._shaken(engine, data):
                    return
                data = b""
            said, ended = engine.decrypt(data)
        except TLSError as error:
            self._send(engine.outgoing())  # our alert
            self._lose("tls_failed" if self._for is _For.HANDSHAKE else "connection_lost", str(error))
            return
        if said:
            self._received(said)
        if ended:
            self._lose("connection_lost", "closed by the peer")
        elif owed := engine.owed():
            self._answer(owed)

    def _shaken(self, engine: Engine, data: bytes) -> bool:
        done = engine.handshake(data)
        self._send(engine.outgoing())
        if done:
            self._reader = ReplyReader()
            self._wake()
        return done

    def _answer(self, owed: bytes) -> None:
        """TLS's own answers. A peer that makes us give many, and perhaps reads none, wants memory and nothing else."""
        self._owed += len(owed)
        if self._owed > OWED:
            self._lose("connection_lost", "it asks for TLS messages without end")
        else:
            self._send(owed)

    def _received(self, data: bytes) -> None:
        """What the peer says, decrypted."""
        waiting = self._for is _For.REPLIES
        if not waiting:
            self._unread += len(data)
        came = len(self._replies)
        try:
            if len(data) <= _SLICE:
                self._replies += self._reader.feed(data)
            else:
                self._feed(data)
            if self._unread > UNREAD:
                raise ReplyError("it talks unasked")
        except ReplyError as error:
            self._replies += error.replies
            self._lose("bad_reply", str(error))
        if waiting and len(self._replies) >= self._wanted:
            self._wake()
        elif waiting and len(self._replies) > came and self.lost is None:
            self._deadlines.set(self, self._seconds)
        elif self._for is _For.ROOM and self._replies:
            self._wake()
        if self.on_idle is not None:
            self._disturbed()

    def _feed(self, data: bytes) -> None:
        """Raises ReplyError."""
        most = (self._wanted if self._for is _For.REPLIES else 0) + AHEAD
        for start in range(0, len(data), _SLICE):
            self._replies += self._reader.feed(data[start : start + _SLICE])
            if len(self._replies) > most:
                raise ReplyError("more replies than commands")

    def eof_received(self) -> bool:
        self._lose("connection_lost", "closed by the peer")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose("connection_lost", getattr(exc, "strerror", None) or "closed by the peer")
        self._deadlines.unset(self)
        self.closed()

    def closed(self) -> None:
        """For good, or it never was open."""
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is not None:
            on_closed()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._for is _For.ROOM:
            self._wake()

    def overdue(self) -> None:
        """The limit of a wait, or of a farewell."""
        match self._for:
            case _For.REPLIES:
                self._lose("reply_timeout", f"no reply within {self._seconds:g} s")
            case _For.HANDSHAKE:
                self._lose("tls_timeout")
            case _For.ROOM:
                size = self._transport.get_write_buffer_size()
                if self._patient and size < self._size:
                    self._size = size
                    self._deadlines.set(self, self._seconds)
                else:
                    least = "nothing" if self._patient else "too little"
                    self._lose("reply_timeout", f"{least} of the message taken within {self._seconds:g} s")
            case _For.NOTHING:
                self._transport.abort()

    # Inside

    def _send(self, data: bytes) -> None:
        if data and not self._transport.is_closing():
            self._transport.write(data)

    async def _wait(self, what: _For, seconds: float) -> Lost | None:
        self._for = what
        self._waiter = asyncio.get_running_loop().create_future()
        self._deadlines.set(self, seconds)
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._for = _For.NOTHING
            if self.lost is None:
                self._deadlines.unset(self)
        return self.lost

    def _wake(self) -> None:
        self._for = _For.NOTHING
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _give_up(self, reason: str, detail: str) -> Lost:
        if self.lost is None:
            if self._for is _For.HANDSHAKE and reason == "connection_lost":
                reason = "tls_failed"
            self.lost = Lost(reason, detail[:DETAIL])
            self._wake()
        return self.lost

    def _lose(self, reason: str, detail: str = "") -> Lost:
        lost = self._give_up(reason, detail)
        self._hang_up(linger=reason == "tls_failed")  # for our alert
        if self.on_idle is not None:
            self._disturbed()
        return lost

    def _hang_up(self, *, linger: bool) -> None:
        if self._transport.is_closing():
            return
        if linger:
            self._deadlines.set(self, LINGER)
            self._transport.close()
        else:
            self._deadlines.unset(self)
            self._transport.abort()

    def _disturbed(self) -> None:
        on_idle, self.on_idle = self.on_idle, None
        if on_idle is not None:
            on_idle(self)
