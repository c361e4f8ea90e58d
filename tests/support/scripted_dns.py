"""A name server on loopback that does as a test says, over UDP and TCP on one port.

    async with serving({("mx.example.", "A"): Reply(["192.0.2.1"])}) as server:
        ... server.endpoint, server.asked ...

What the table lacks does not exist. What is wrong with an answer is in its `Reply`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from postern_sidecar.names import Endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

Key = tuple[str, str]


@dataclass(frozen=True)
class Reply:
    records: Sequence[str] = ()
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR
    ttl: int = 60
    ad: bool = True
    unchecked: Reply | None = None  # to a question with CD
    truncated: bool = False  # over UDP; whole over TCP
    before: Sequence[Callable[[bytes], bytes]] = ()  # datagrams that come first, each made of the right one
    silent: bool = False
    delay: float = 0.0
    tcp: Callable[[bytes], bytes] = field(default=lambda wire: len(wire).to_bytes(2, "big") + wire)  # what TCP sends
    recursion: bool = True


NOWHERE = Reply(rcode=dns.rcode.NXDOMAIN)
SILENCE = Reply(silent=True)


class Server(asyncio.DatagramProtocol):
    def __init__(self, table: Mapping[Key, Reply]) -> None:
        self.table = dict(table)
        self.asked: Counter[Key] = Counter()
        self.unchecked: Counter[Key] = Counter()
        self.over_tcp: Counter[Key] = Counter()
        self.heard = asyncio.Event()
        self.most = self._owed = 0  # answers that it owed at the same moment
        self.sources: set[int] = set()
        self.numbers: set[int] = set()
        self.endpoint: Endpoint
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query, key, reply = self._take(data)
        self.sources.add(addr[1])
        if reply.silent:
            return
        wire = self._wire(query, key, reply)
        if reply.truncated:
            whole = dns.message.from_wire(wire)
            short = dns.message.make_response(query, recursion_available=True)
            short.flags |= dns.flags.TC | (whole.flags & dns.flags.AD)
            wire = short.to_wire()
        datagrams = [*(make(wire) for make in reply.before), wire]
        self._owed += 1
        self.most = max(self.most, self._owed)
        asyncio.get_running_loop().call_later(reply.delay, self._send, datagrams, addr)

    def _send(self, datagrams: list[bytes], addr: Any) -> None:
        self._owed -= 1
        for datagram in datagrams:
            self.transport.sendto(datagram, addr)

    async def serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            size = int.from_bytes(await reader.readexactly(2), "big")
            query, key, reply = self._take(await reader.readexactly(size))
            self.over_tcp[key] += 1
            writer.write(reply.tcp(self._wire(query, key, reply)))
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def _take(self, data: bytes) -> tuple[dns.message.Message, Key, Reply]:
        query = dns.message.from_wire(data)
        self.numbers.add(query.id)
        self.heard.set()
        (question,) = query.question
        key = (question.name.to_text(), dns.rdatatype.to_text(question.rdtype))
        reply = self.table.get(key, NOWHERE)
        if query.flags & dns.flags.CD:
            self.unchecked[key] += 1
            return query, key, reply.unchecked or reply
        self.asked[key] += 1
        return query, key, reply

    @staticmethod
    def _wire(query: dns.message.Message, key: Key, reply: Reply) -> bytes:
        response: dns.message.Message = dns.message.make_response(query, recursion_available=reply.recursion)
        response.set_rcode(reply.rcode)
        if reply.ad:
            response.flags |= dns.flags.AD
        if reply.records:
            response.answer.append(dns.rrset.from_text(key[0], reply.ttl, "IN", key[1], *reply.records))
        else:
            soa = f"ns.example. root.example. 1 2 3 4 {reply.ttl}"
            response.authority.append(dns.rrset.from_text(key[0], reply.ttl, "IN", "SOA", soa))
        return response.to_wire(max_size=65535)


@contextlib.asynccontextmanager
async def serving(table: Mapping[Key, Reply]) -> AsyncIterator[Server]:
    loop = asyncio.get_running_loop()
    server = Server(table)
    stream, datagram = sockets()
    listener = await asyncio.start_server(server.serve_tcp, sock=stream)
    await loop.create_datagram_endpoint(lambda: server, sock=datagram)
    host, port = datagram.getsockname()
    server.endpoint = Endpoint(ip_address(host), port)
    try:
        yield server
    finally:
        server.transport.close()
        listener.close()
        await listener.wait_closed()


def sockets() -> tuple[socket.socket, socket.socket]:
    """The same port, for TCP (listening) and for UDP."""
    while True:
        stream, datagram = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        stream.bind(("127.0.0.1", 0))
        try:
            datagram.bind(stream.getsockname())
        except OSError:
            stream.close()
            datagram.close()
            continue
        stream.listen()
        for sock in (stream, datagram):
            sock.setblocking(False)
        return stream, datagram


def nobody() -> Endpoint:
    """An endpoint where nobody listens."""
    stream, datagram = sockets()
    host, port = datagram.getsockname()
    stream.close()
    datagram.close()
    return Endpoint(ip_address(host), port)
