"""One listening port at work: accepting, counting, and what its sessions share.

A reload replaces `listener` and `limiter`; running sessions keep what they started with. When descriptors run out,
accepting stops and what waits stays in the kernel's queue; it resumes when there is room again (descriptors.py).
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from postern_sidecar.inbound.events import CountRule, Ended, Happened, Outcome
from postern_sidecar.inbound.limits import Limiter, LimitHit
from postern_sidecar.inbound.limits import text as limit_text
from postern_sidecar.logline import Record
from postern_sidecar.names import Address, Endpoint, HostName, endpoint

from .bind import BACKLOG
from .drain import press
from .health import Health
from .session import ClientSide, Session

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

    from postern_sidecar.inbound.listener import Listener

    from .descriptors import Room
    from .metrics import Metrics
    from .resolver import ReverseResolver
    from .splice import Splice

PROBES_AT_ONCE = 100
TURNED_AWAY_LINGER = 1.0  # seconds; one that came over limits.connections gets to read why
TURNED_AWAY_AT_ONCE = 256
_UNTRUSTED = "header_from_untrusted_source"
_PROBED = {  # what a probe heard that was to be forwarded and was not; others carry it as their reason
    Outcome.CLIENT_GONE: "closed",
    Outcome.BACKEND_FAILED: "down",
    Outcome.REFUSED: "down",
    Outcome.DEFERRED: "down",
}


def internal_error(bug: BaseException, session: str = "", **fields: object) -> Record:
    """A bug of ours, for the log: where it was and what it was."""
    where = "".join(traceback.format_exception(bug)[-2:])
    return Record("internal_error", session, {**fields, "message": where})


@dataclass(slots=True)
class Shared:
    """What all ports of a sidecar have in common."""

    loop: asyncio.AbstractEventLoop
    room: Room
    metrics: Metrics
    resolver: ReverseResolver
    write: Callable[[Record], None]  # one log line
    next_id: Callable[[], str]
    on_idle: Callable[[], None]  # a port has no session any more


class ListeningPort:
    def __init__(self, shared: Shared, listener: Listener, limiter: Limiter, sock: socket.socket) -> None:
        self.shared = shared
        self.listener = listener
        self.limiter = limiter
        self.sock = sock
        self.loop = shared.loop
        self.clock = shared.loop.time
        self.next_id = shared.next_id
        self.log = shared.write
        self.open = 0  # accepted sockets that are still there
        self.probes = 0
        self.sessions: set[Session] = set()  # before the splice
        self.splices: set[Splice] = set()
        self.closing = False
        self._server: asyncio.Server | None = None
        self._know(listener)

    def _know(self, listener: Listener) -> None:
        """What is counted and known of a listener and its backend."""
        self.counts = self.shared.metrics.listener(listener.inbound.name, listener.inbound.backend.handover.value)
        self.health = Health(lambda: self.listener, self.clock)

    def present(self) -> None:
        """Show up in metrics, under the name that the policy gives by now."""
        self.shared.metrics.watch(self.listener.inbound.name, lambda: len(self.splices), lambda: self.limiter)

    @property
    def bound(self) -> Endpoint:
        return endpoint(self.sock.getsockname()[:2])

    @property
    def quiet(self) -> bool:
        """No session of a client: probes do not hold a drain up."""
        return len(self.splices) + len(self.sessions) <= self.probes

    def replace(self, listener: Listener) -> None:
        """After a reload: for new connections, with the counts of the running ones."""
        limiter = Limiter(listener.inbound.limits, listener.required)
        limiter.adopt(self.limiter)
        self.listener, self.limiter = listener, limiter
        self._know(listener)

    # Accepting

    @property
    def accepting(self) -> bool:
        return self._server is not None

    async def resume(self) -> None:
        """Accept on a duplicate of the socket: closing that one leaves the kernel's queue as it is.

        Not where the room is full again by now; and uvloop's `create_server` does not wait for anything with `sock`."""
        if self._server is None and not self.closing and not self.shared.room.full:
            sock = self.sock.dup()
            sock.setblocking(False)
            self._server = await self.loop.create_server(lambda: ClientSide(self), sock=sock, backlog=BACKLOG)

    def pause(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def reopen(self, sock: socket.socket) -> None:
        """Listen again after `close`, on another socket."""
        self.sock, self.closing = sock, False
        await self.resume()

    def close(self) -> None:
        """Stop listening for good; sessions go on."""
        if not self.closing:
            self.closing = True
            self.pause()
            self.sock.close()

    def accepted(self, transport: asyncio.Transport) -> Session | None:
        """A session for a new connection, or None: turned away."""
        self.open += 1
        self.shared.room.enter()
        peername = transport.get_extra_info("peername")
        if peername is None:  # reset while it was in the queue, as HAProxy ends its checks
            transport.abort()
            return None
        peer = endpoint(peername)
        hit = self.limiter.accept()
        if hit is not None:
            self._turn_away(transport, peer, hit)
            return None
        session = Session(self, transport, peer)
        if session.run is not None:
            self.sessions.add(session)
        return session

    def _turn_away(self, transport: asyncio.Transport, peer: Endpoint, hit: LimitHit) -> None:
        """Too many at once: said and logged before anything is known but the peer."""
        inbound = self.listener.inbound
        reply = self.listener.speech.deferral("4.7.0", limit_text(hit, peer.address))
        self.counts.outcome(Outcome.LIMITED)
        self.counts.limit(hit.kind.value)
        fields = {
            "listener": inbound.name,
            "sender_host_address": peer.address,
            "sender_host_port": peer.port,
            "reason": hit.kind.value,
            "reply": reply.decode("ascii").rstrip(),
        }
        self.log(Record("refused", self.next_id(), fields))
        if not reply or self.open > inbound.limits.connections + TURNED_AWAY_AT_ONCE:
            transport.close()
            return
        transport.write(reply)
        transport.write_eof()
        self.loop.call_later(TURNED_AWAY_LINGER, transport.abort)

    def left(self, session: Session | None) -> None:
        """An accepted socket is gone; `session` None: it had been turned away."""
        if session is not None:
            self.limiter.close()
        self.open -= 1
        self.shared.room.leave(connected=session is not None and session.connected)
        if self.quiet:
            self.shared.on_idle()

    # What sessions ask for

    def admit(self, address: Address) -> LimitHit | None:
        hit = self.limiter.admit(address, self.clock())
        if hit is not None:
            self.counts.limit(hit.kind.value)
        return hit

    def begin_probe(self) -> bool:
        self.probes += 1
        return self.probes <= PROBES_AT_ONCE

    async def resolve(self, address: Address) -> HostName:
        return await self.shared.resolver.name_of(address)

    def count_rule(self, command: CountRule) -> None:
        self.counts.rule(command.rule, command.action, error=command.error)

    def spliced(self, session: Session, splice: Splice, took: float) -> None:
        self.sessions.discard(session)
        self.splices.add(splice)
        self.health.proved()
        if session.life.probe:
            self.counts.probe("forwarded")
        else:
            self.counts.handed_over(took)

    def ended(self, session: Session, splice: Splice) -> None:
        """A spliced session is over."""
        self.splices.discard(splice)
        self.counts.octets(splice.client.octets, splice.backend.octets)
        if splice.reason == _UNTRUSTED:
            self.counts.header_failure(_UNTRUSTED)
        self._release(session)
        self.left(session)

    def closed(self, session: Session, end: Ended) -> None:
        """A session ended before the splice; its socket follows (`left`)."""
        self.sessions.discard(session)
        self._release(session)
        if session.life.probe:
            self.counts.probe(_PROBED.get(end.outcome) or end.reason)
            return
        self.counts.outcome(end.outcome)
        if end.outcome is Outcome.PROXY_FAILED or end.reason == _UNTRUSTED:
            self.counts.header_failure(end.reason)

    def _release(self, session: Session) -> None:
        if session.life.probe:
            self.probes -= 1
        if session.admitted is not None:
            self.limiter.release(session.admitted)
            session.admitted = None

    def internal_error(self, session: str, bug: Exception) -> None:
        self.log(internal_error(bug, session, listener=self.listener.inbound.name))

    # What time does

    def sweep_sessions(self, now: float) -> None:
        """Those on their way in: their waits are a few seconds."""
        for session in [session for session in self.sessions if session.deadline <= now]:
            session.advance(Happened.TIMED_OUT)

    def sweep_splices(self, now: float) -> None:
        """Those that are handed over: theirs are minutes, and there are thousands of them."""
        for splice in [splice for splice in self.splices if splice.overdue(now)]:
            splice.expire()

    def press(self, now: float, since: float) -> None:
        """The grace of a drain is over (drain.py)."""
        for session in list(self.sessions):
            session.dismiss()
        for splice in list(self.splices):
            press(splice, self.listener.speech, now, since)
