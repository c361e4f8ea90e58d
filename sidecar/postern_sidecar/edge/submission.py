"""Both submission doors on the pod's loopback: opened, counted, and closed again.

Drain and close are two things: `drain` stops accepting, tells idle sessions 421 4.3.2, lets the others end their
transaction, and returns when the last has gone; `close` ends whatever is still there.
"""

from __future__ import annotations

import asyncio
import errno
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from postern_sidecar.logline import Record
from postern_sidecar.names import Endpoint, endpoint

from .bind import BACKLOG, BindError, listen
from .doors import Door, LMTPDoor
from .listener import TURNED_AWAY_AT_ONCE

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from postern_sidecar.config.model import Submission as Doors

    from .descriptors import Lent
    from .transaction import Relay

LOOPBACKS: Final = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


class House:
    """What the sessions of both doors share."""

    def __init__(self, relay: Relay, lent: Lent) -> None:
        self.loop = asyncio.get_running_loop()
        self.relay = relay
        self._room = lent.sessions
        self.draining = False
        self.sessions: set[Door] = set()
        self.turned_away: set[Door] = set()  # those who still get to read why
        self.empty = asyncio.Event()
        self.empty.set()

    @property
    def hostname(self) -> bytes:
        return self.relay.settings.hostname.encode("ascii", "replace")

    @property
    def limit(self) -> int:
        return self.relay.settings.outbound.limits.message_size.octets

    @property
    def keywords(self) -> bytes:
        """The answer to EHLO (RFC 5321 4.1.1.1). CHUNKING and BINARYMIME are not announced (contracts section 5)."""
        return (
            b"250-%s\r\n250-PIPELINING\r\n250-SIZE %d\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n"
            b"250 ENHANCEDSTATUSCODES\r\n" % (self.hostname, self.limit)
        )

    def enter(self, session: Door) -> bool:
        """Whether there is room."""
        if self.draining or len(self.sessions) >= self.relay.settings.outbound.limits.connections:
            return False
        if not self._room.take():
            return False
        self.sessions.add(session)
        self.empty.clear()
        return True

    def turn_away(self, session: Door) -> bool:
        """Whether one for whom there is no room may linger."""
        if len(self.turned_away) >= TURNED_AWAY_AT_ONCE or not self._room.take():
            return False
        self.turned_away.add(session)
        return True

    def leave(self, session: Door) -> None:
        for there in (self.turned_away, self.sessions):
            if session in there:
                there.remove(session)
                self._room.give()
        if not self.sessions:
            self.empty.set()


class Submission:
    """`addresses`: where each door listens, "smtp" and "lmtp". Made by `serve`."""

    def __init__(self, house: House, servers: Sequence[asyncio.Server], addresses: dict[str, list[Endpoint]]) -> None:
        self.house = house
        self.addresses = addresses
        self._servers = servers

    def socket(self, at: Endpoint) -> socket.socket | None:
        """Another descriptor of the one that listens there: who has connected already waits in it."""
        for server in self._servers:
            for sock in server.sockets:
                if endpoint(sock.getsockname()[:2]) == at:
                    return sock.dup()
        return None

    def stop(self) -> None:
        """Nobody is let in any more."""
        self.house.draining = True
        for server in self._servers:
            server.close()

    async def drain(self) -> None:
        """Returns when the last session has gone, and what legs had left to do is done. As long as that takes: whoever
        has less time calls `close`."""
        self.stop()
        for session in list(self.house.sessions):
            session.dismiss()
        await self.house.empty.wait()
        while self.house.relay.background:
            await asyncio.wait(self.house.relay.background)

    def close(self) -> None:
        """At once: a message whose end was not answered is not known to be delivered, and its submitter knows that."""
        self.stop()
        for session in [*self.house.sessions, *self.house.turned_away]:
            session.abort()


async def serve(
    relay: Relay,
    lent: Lent,
    where: Doors | None = None,
    *,
    ephemeral: bool = False,
    before: Submission | None = None,
) -> Submission:
    """Open both doors, on every loopback that there is: at the relay's ports, or those of `where`. Ports that `before`
    has are taken over from it; it has to be drained then. Raises BindError; a machine without IPv6 is a warning."""
    house = House(relay, lent)
    submission = where or relay.settings.outbound.submission
    doors = {"smtp": (Door, submission.port, "port"), "lmtp": (LMTPDoor, submission.lmtp_port, "lmtpPort")}
    bound: list[tuple[str, type[Door], socket.socket]] = []
    try:
        for name, (door, port, field) in doors.items():
            for address in LOOPBACKS:
                at = Endpoint(address, 0 if ephemeral else port)
                sock = before.socket(at) if before is not None else None
                sock = sock or _listen(relay, at, f"spec.outbound.submission.{field}")
                if sock is not None:
                    bound.append((name, door, sock))
    except BindError:
        for _, _, sock in bound:
            sock.close()
        raise
    addresses: dict[str, list[Endpoint]] = {name: [] for name in doors}
    servers = []
    for name, door, sock in bound:
        addresses[name].append(endpoint(sock.getsockname()[:2]))
        servers.append(await _serve(house, door, sock))
    return Submission(house, servers, addresses)


async def _serve(house: House, door: type[Door], sock: socket.socket) -> asyncio.Server:
    return await house.loop.create_server(lambda: door(house), sock=sock, backlog=BACKLOG)


def _listen(relay: Relay, at: Endpoint, where: str) -> socket.socket | None:
    """None: there is no IPv6 here. A port that somebody else has is no such case."""
    address = at.address
    try:
        return listen(address, at.port, where)
    except BindError as error:
        if address.version == 4 or not isinstance(error.__cause__, OSError) or not _absent(error.__cause__):
            raise
        relay.write(Record("warning", "", {"message": f"no IPv6 loopback: {error}"}))
        return None
    except OSError as error:  # no such address family at all
        if address.version == 4:
            raise
        relay.write(Record("warning", "", {"message": f"no IPv6 loopback: {where}: {error.strerror}"}))
        return None


def _absent(error: OSError) -> bool:
    return error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
