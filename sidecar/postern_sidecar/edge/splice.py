"""Two sockets become one stream: bytes both ways with back-pressure, half-close, and the end of a session.

The hot path of the sidecar. `ClientHalf` and `BackendHalf` are the protocols of the two transports after the hand-over;
`Splice` is what they share. Nothing is kept here beyond what a transport has not yet taken: when one side reads slowly,
the other is not read.

uvloop aborts the process when a closed transport is written to: every write asks first.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from postern_sidecar.inbound.filters import Filter, Passed

LINGER: Final = 5.0  # seconds for a client to read the last reply


class Splice:
    """Both halves of a session. `on_end` is called once, when both transports are gone."""

    __slots__ = (
        "backend",
        "client",
        "clock",
        "deadline",
        "detail",
        "filter",
        "half_closed",
        "head",
        "held",
        "last",
        "on_end",
        "open",
        "quiet",
        "reason",
        "server_last",
        "shut",
    )

    def __init__(
        self,
        clock: Callable[[], float],
        idle: float,
        half_closed: float,
        stream_filter: Filter | None,
        on_end: Callable[[Splice], None],
    ) -> None:
        self.clock = clock
        self.last = clock()
        self.quiet = idle  # seconds without a byte that are one too many
        self.half_closed = half_closed
        self.deadline: float | None = None  # set once a last word was said
        self.filter = stream_filter
        self.shut = False  # the client's end has been passed on
        self.held = False  # the filter holds enough: the client is not read
        self.head = b""  # how the server's last words began
        self.server_last = True
        self.reason = ""  # why the sidecar ended the session, where it did
        self.detail = ""
        self.on_end = on_end
        self.open = 2
        self.client: ClientHalf
        self.backend: BackendHalf

    def overdue(self, now: float) -> bool:
        return now >= (self.last + self.quiet if self.deadline is None else self.deadline)

    def expire(self, reason: str = "idle") -> None:
        """Idle for too long, or a side that should have gone has not: end it without waiting for anybody."""
        if not self.reason:
            self.reason = reason if self.open == 2 and not self.halved else "half_closed"
        self.client.transport.abort()
        self.backend.transport.abort()

    def dismiss(self, text: bytes, reason: str) -> None:
        """End the session with a last word to the client, who gets the time to read it."""
        self.reason = reason
        self.deadline = self.clock() + LINGER
        self.backend.transport.close()
        self._say(text)
        client = self.client.transport
        if not client.is_closing():
            client.resume_reading()  # what it still sends and nobody reads would reset the connection
            client.write_eof()

    def _say(self, text: bytes) -> None:
        """To the client, which hears no more once the server's end has been passed on."""
        client = self.client.transport
        if text and not self.backend.eof and not client.is_closing():
            client.write(text)

    def halve(self) -> None:
        """One side has no more to say. With both it is over."""
        if self.finished:
            self.client.transport.close()
            self.backend.transport.close()
        self._less_patience()

    @property
    def finished(self) -> bool:
        return self.client.eof and self.backend.eof

    @property
    def halved(self) -> bool:
        return self.client.eof or self.backend.eof

    def _less_patience(self) -> None:
        """From now on the other side has the time for half-closed sessions between two signs of life."""
        self.quiet = min(self.quiet, self.half_closed)
        self.last = self.clock()

    def lost(self, other: asyncio.Transport) -> None:
        """A side is gone: what the other one has not read yet is still delivered, within the time for half-closed."""
        self.open -= 1
        if self.open == 0:
            self.on_end(self)
            del self.client, self.backend  # no cycle is left for the collector
            return
        if self.deadline is None and not other.is_closing():  # else it is still reading its last word
            other.close()
        self._less_patience()

    def apply(self, passed: Passed) -> None:
        """Do what the filter said."""
        client, backend = self.client.transport, self.backend.transport
        if passed.to_backend and not backend.is_closing():
            backend.write(passed.to_backend)
        if passed.end:
            self.detail = passed.detail
            self.dismiss(passed.to_client, passed.end)
            return
        self._say(passed.to_client)
        if passed.done:
            self.filter = None
        if passed.shut and not backend.is_closing() and not self.shut:
            self.shut = True
            backend.write_eof()
            self.halve()
        if passed.hold is not self.held and not client.is_closing():
            self.held = passed.hold
            if self.held:
                client.pause_reading()
            elif not self.backend.full:
                client.resume_reading()


class _Half(asyncio.Protocol):
    __slots__ = ("eof", "full", "octets", "other", "splice", "transport")

    def __init__(self, splice: Splice, transport: asyncio.Transport, other: asyncio.Transport) -> None:
        self.splice = splice
        self.transport = transport
        self.other = other
        self.octets = 0  # received from this side
        self.eof = False
        self.full = False  # it reads slowly, and enough waits for it

    def pause_writing(self) -> None:
        """This side reads slowly: do not read the other."""
        self.full = True
        if not self.other.is_closing():
            self.other.pause_reading()

    def resume_writing(self) -> None:
        self.full = False
        if not self.other.is_closing():
            self.other.resume_reading()

    def eof_received(self) -> bool:
        self.eof = True
        if self.splice.reason:
            self.transport.close()
        elif not self.other.is_closing():
            self._pass_eof()
        return True

    def _pass_eof(self) -> None:
        splice = self.splice
        if not splice.finished:  # else the close says it, with a system call less
            self.other.write_eof()
        splice.halve()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.splice.lost(self.other)


class ClientHalf(_Half):
    __slots__ = ()

    def _pass_eof(self) -> None:
        """A filter may hold back what still has to go before it."""
        splice = self.splice
        if splice.filter is not None:
            splice.apply(splice.filter.client_closed())
        else:
            splice.shut = True
            super()._pass_eof()

    def data_received(self, data: bytes) -> None:
        self.octets += len(data)
        splice = self.splice
        splice.last = splice.clock()
        splice.server_last = False
        if splice.reason:  # it talks on after its last reply: read, not kept, and not for long
            return
        if splice.filter is not None:
            splice.apply(splice.filter.from_client(data))
        elif not self.other.is_closing():
            self.other.write(data)


class BackendHalf(_Half):
    __slots__ = ()

    def resume_writing(self) -> None:
        if self.splice.held:
            self.full = False
        else:
            super().resume_writing()

    def data_received(self, data: bytes) -> None:
        self.octets += len(data)
        splice = self.splice
        splice.last = splice.clock()
        splice.server_last = True
        splice.head = data[:4]
        if splice.filter is not None:
            splice.apply(splice.filter.from_backend(data))
        elif not self.other.is_closing():
            self.other.write(data)
