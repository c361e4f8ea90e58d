"""A connection between accept and splice: performs what `inbound.life` decides. `perform` tells all that it can do.

One `Session` drives one life. When the life ends in a `Spliced`, both transports get the lean protocols of
splice.py, and the session's own objects go; an idle session costs little more than its two transports.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
from typing import TYPE_CHECKING, Any, cast

from postern_sidecar.inbound.client import Client
from postern_sidecar.inbound.events import (
    Admit,
    BackendSent,
    ClientSent,
    Command,
    Connect,
    ConnectFailed,
    CountRule,
    Do,
    End,
    Ended,
    Event,
    Happened,
    HealthKnown,
    Log,
    LookUp,
    Named,
    Outcome,
    SendBackend,
    SendClient,
    Spliced,
    StartTimer,
)
from postern_sidecar.inbound.life import Life
from postern_sidecar.inbound.record import session_record
from postern_sidecar.names import Address, Endpoint, endpoint

from .splice import BackendHalf, ClientHalf, Splice
from .transparent import transparent_socket

if TYPE_CHECKING:
    from collections.abc import Generator

    from .listener import ListeningPort

NEVER = float("inf")

_REASONS = {
    errno.ECONNREFUSED: "backend_refused",
    errno.EMFILE: "no_descriptors",
    errno.ENFILE: "no_descriptors",
    errno.EPERM: "no_permission",
    errno.EADDRINUSE: "address_in_use",
    errno.ETIMEDOUT: "backend_timeout",
}

_text = functools.lru_cache(maxsize=64)(str)  # of the few backends' addresses


class Session:
    """Made when a connection was accepted; gone when it is spliced or closed."""

    __slots__ = (
        "admitted",
        "backend",
        "client",
        "connect_waits",
        "connected",
        "connecting",
        "deadline",
        "handover_began",
        "life",
        "lookup",
        "port",
        "run",
        "shut",
        "started",
    )

    def __init__(self, port: ListeningPort, transport: asyncio.Transport, peer: Endpoint) -> None:
        local = endpoint(transport.get_extra_info("sockname"))
        self.port = port
        self.client = transport
        self.backend: asyncio.Transport | None = None
        self.connected = False  # it has a descriptor for the mail server
        self.life = Life(port.listener, Client(peer, local, peer), port.next_id())
        self.started = port.clock()
        self.handover_began = self.started
        self.admitted: Address | None = None
        self.deadline = NEVER  # looked at by the port's sweep: a timer of the loop's own costs ten times as much
        self.connecting: asyncio.Task[None] | None = None
        self.lookup: asyncio.Task[None] | None = None
        self.shut = False  # our side is: the client has had its last word
        self.connect_waits = False  # the connect line, for the client's name
        self.run: Generator[Command, Any, End] | None = self.life.run()
        self.advance(None)

    def advance(self, event: Event | None) -> None:
        """Give the life its next event and do what it says, up to its next wait."""
        run = self.run
        if run is None:
            return
        try:
            command = run.send(event)
            while command is not Do.WAIT:
                command = run.send(self.perform(command))
        except StopIteration as stop:
            self.run = None
            self._end(stop.value)
        except Exception as bug:  # a bug of ours ends this session, not the others
            self.run = None
            self.port.internal_error(self.life.session, bug)
            self._close(Ended(Outcome.BACKEND_FAILED, "internal_error"))

    def perform(self, command: Command) -> object:
        """Every effect that a life has on the world."""
        match command:
            case SendClient(data):
                if data and not self.client.is_closing():
                    self.client.write(data)
            case SendBackend(data):
                if self.backend is not None and not self.backend.is_closing():
                    self.backend.write(data)
            case StartTimer(seconds):
                self.deadline = self.port.clock() + seconds
            case Connect():
                self._begin_to_connect(command)
            case Admit(address):
                hit = self.port.admit(address)
                self.admitted = address if hit is None else None
                return hit
            case Log(record):
                self.port.log(record)
            case CountRule():
                self.port.count_rule(command)
            case LookUp(address):
                self.lookup = self.port.loop.create_task(self._look_up(address))
            case _:
                return self._do(command)
        return None

    def _do(self, command: Command) -> object:
        match command:
            case Do.STOP_TIMER:
                self.deadline = NEVER
            case Do.PAUSE_CLIENT:
                self.client.pause_reading()
            case Do.SHUT_CLIENT:
                self.shut = True
                if not self.client.is_closing():
                    self.client.write_eof()
            case Do.CLOSE_BACKEND:
                self._close_backend()
            case Do.ASK_HEALTH:
                self.port.loop.create_task(self._ask_health())
            case Do.PROBE:
                return self.port.begin_probe()
        return None

    # What takes time

    def _begin_to_connect(self, command: Connect) -> None:
        self.handover_began = self.port.clock()
        self.connected = self.port.shared.room.connect()
        if self.connected:
            self.connecting = self.port.loop.create_task(self._connect(command))
        else:
            self.port.loop.call_soon(self.advance, ConnectFailed("no_descriptors"))

    async def _connect(self, command: Connect) -> None:
        loop, (address, port) = self.port.loop, command.to
        try:
            if command.source is None:
                await loop.create_connection(lambda: BackendSide(self), _text(address), port)
                return
            sock = await transparent_socket(loop, command.source, command.to)
            await loop.create_connection(lambda: BackendSide(self), sock=sock)
        except OSError as error:
            self.advance(ConnectFailed(_REASONS.get(error.errno or 0, "backend_unreachable")))

    async def _look_up(self, address: Address) -> None:
        host_name = await self.port.resolve(address)
        self.lookup = None
        if self.run is not None:
            self.advance(Named(host_name))
            return
        self.life.client.host_name = host_name
        self._log_connect_late()

    async def _ask_health(self) -> None:
        self.advance(HealthKnown(await self.port.health.up()))

    # How it ends

    def _end(self, end: End) -> None:
        if isinstance(end, Ended):
            self._close(end)
            return
        if self.backend is None or self.client.is_closing():
            self._close(Ended(Outcome.CLIENT_GONE))
            return
        self._splice(end, self.backend)

    def _splice(self, end: Spliced, backend: asyncio.Transport) -> None:
        port, timeouts = self.port, self.life.listener.inbound.timeouts
        splice = Splice(
            port.clock, self.life.listener.inbound.idle, timeouts.half_closed.seconds, end.filter, self._done
        )
        splice.client = ClientHalf(splice, self.client, backend)
        splice.backend = BackendHalf(splice, backend, self.client)
        self.connecting = None
        self.client.set_protocol(splice.client)
        backend.set_protocol(splice.backend)
        port.spliced(self, splice, port.clock() - self.handover_began)
        self._log_connect()
        if end.to_backend and not backend.is_closing():
            backend.write(end.to_backend)
        if end.to_client:
            splice.backend.octets += len(end.to_client)
            splice.head = end.to_client[:4]
            self.client.write(end.to_client)
        splice.client.octets += len(self.life.early)
        self.life.early = b""  # on its way by now; the life stays for the last log line
        if end.early:
            splice.apply(cast("Any", end.filter).from_client(end.early))
        if self.life.paused and not splice.backend.full:
            self.client.resume_reading()
        if end.client_closed:
            splice.client.eof_received()

    @property
    def _silent(self) -> bool:
        """A probe, and nobody wants to read of them."""
        return self.life.probe and not self.life.listener.log_probes

    def _log_connect(self) -> None:
        if self._silent:
            return
        if self.lookup is not None:
            self.connect_waits = True
        else:
            self._log("connect")

    def _log_connect_late(self) -> None:
        if self.connect_waits:
            self.connect_waits = False
            self._log("connect")

    def _log(self, event: str, **fields: object) -> None:
        life = self.life
        self.port.log(session_record(event, life.session, life.client, life.listener, fields))

    def _done(self, splice: Splice) -> None:
        """Both sides of a spliced session are gone."""
        self._log_connect_late()
        if self.lookup is not None:
            self.lookup.cancel()
        self.port.ended(self, splice)
        if self._silent:
            return
        self._log_closed(splice.client.octets, splice.backend.octets, splice.reason, splice.detail)

    def _log_closed(self, octets_in: int, octets_out: int, reason: str, detail: str = "") -> None:
        fields: dict[str, object] = {"bytes_in": octets_in, "bytes_out": octets_out}
        fields["duration"] = self.port.clock() - self.started
        if reason:
            fields["reason"] = reason
            fields["detail"] = detail
        self._log("closed", **fields)

    def _close(self, end: Ended) -> None:
        """A session that never was spliced."""
        self._close_backend()
        if self.lookup is not None:
            self.lookup.cancel()
        self.client.close()
        if end.outcome is Outcome.CLIENT_GONE and not self._silent:
            self._log_closed(0, 0, "client_gone")
        self.port.closed(self, end)

    def dismiss(self) -> None:
        """A drain's grace is over. One that is reading its last word can be told nothing more: it has seconds left."""
        if self.run is None or self.shut:
            return
        self.run.close()
        self.run = None
        reply = self.port.listener.speech.deferral("4.3.2", "shutting down, try again")
        if reply and not self.client.is_closing():
            self.client.write(reply)
        self._close(Ended(Outcome.DEFERRED, "shutdown"))

    def lost(self) -> None:
        """The client's socket is gone: what its life still waits for, a name or the mail server, is for nobody."""
        if self.run is not None:
            self.run.close()
            self.run = None
            self._close(Ended(Outcome.CLIENT_GONE))

    def _close_backend(self) -> None:
        if self.connecting is not None:
            self.connecting.cancel()
            self.connecting = None
        if self.backend is not None:
            self.backend.close()
            self.backend = None


class ClientSide(asyncio.Protocol):
    """The accepted socket, until the splice."""

    __slots__ = ("port", "session")

    def __init__(self, port: ListeningPort) -> None:
        self.port = port
        self.session: Session | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.session = self.port.accepted(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        if self.session is not None:
            self.session.advance(ClientSent(data))

    def eof_received(self) -> bool:
        if self.session is not None:
            self.session.advance(Happened.CLIENT_CLOSED)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self.session is not None:
            self.session.advance(Happened.CLIENT_CLOSED)
            self.session.lost()
        self.port.left(self.session)


class BackendSide(asyncio.Protocol):
    """The socket to the mail server, until the splice."""

    __slots__ = ("session",)

    def __init__(self, session: Session) -> None:
        self.session = session

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        session = self.session
        if session.run is None:
            transport.close()
            return
        session.backend = cast("asyncio.Transport", transport)
        # The accepted side has it from the listening socket.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        session.advance(Happened.CONNECTED)

    def data_received(self, data: bytes) -> None:
        self.session.advance(BackendSent(data))

    def eof_received(self) -> bool:
        self.session.advance(Happened.BACKEND_CLOSED)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.session.advance(Happened.BACKEND_CLOSED)
