"""A resolver in the pod that asks an honest one and lies about what it said.

    python false_resolver.py PORT HONEST_PORT HOW

`no-ad`: never says that it validated; `turncoat`: from SIGUSR1 on. `ad`: says so of everything, and validates nothing.
`forgers`: it is honest itself, but before each of its datagrams come others: of another ID, from another port, and to
another question, each with a validated lie about an address, an exchanger or a TLSA record. UDP and TCP.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

ADDRESS = "127.0.0.1"
turned = asyncio.Event()
LIES = {"MX": "1 forged.example.", "A": "198.51.100.66", "AAAA": "2001:db8::66", "TLSA": ""}


async def ask(port: int, packet: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(ADDRESS, port)
    try:
        writer.write(len(packet).to_bytes(2, "big") + packet)
        return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    finally:
        writer.close()


async def answer(packet: bytes, honest: int, how: str) -> bytes:
    query = dns.message.from_wire(packet)
    if how == "ad":
        query.flags |= dns.flags.CD
    reply = bytearray(await ask(honest, query.to_wire()))
    if how == "no-ad" or (how == "turncoat" and turned.is_set()):
        reply[3] &= ~0x20
    if how == "ad":
        reply[3] |= 0x20
    return bytes(reply)


def forged(packet: bytes) -> bytes:
    """What somebody on the way would like to be believed: it is validated, and there is no DANE."""
    query = dns.message.from_wire(packet)
    reply = dns.message.make_response(query)
    reply.flags |= dns.flags.AD | dns.flags.RA
    (question,) = query.question
    kind = dns.rdatatype.to_text(question.rdtype)
    if LIES.get(kind):
        reply.answer.append(dns.rrset.from_text(question.name, 300, "IN", kind, LIES[kind]))
    return reply.to_wire()


def for_another_question(packet: bytes) -> bytes:
    query = dns.message.from_wire(packet)
    other = dns.message.make_query("other.example.", query.question[0].rdtype, id=query.id)
    return forged(other.to_wire())


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, honest: int, how: str) -> None:
        self.honest, self.how = honest, how
        self.elsewhere = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        task = asyncio.create_task(self.reply(data, addr))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def reply(self, packet: bytes, peer: tuple[str, int]) -> None:
        truth = await answer(packet, self.honest, self.how)
        if self.how == "forgers":
            lie = forged(packet)
            self.transport.sendto(bytes([lie[0] ^ 1]) + lie[1:], peer)
            self.elsewhere.sendto(lie, peer)
            self.transport.sendto(for_another_question(packet), peer)
        self.transport.sendto(truth, peer)


def turn() -> None:
    turned.set()
    print("turned", flush=True)


async def main(port: int, honest: int, how: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        packet = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        reply = await answer(packet, honest, how)
        writer.write(len(reply).to_bytes(2, "big") + reply)
        await writer.drain()
        writer.close()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, turn)
    await loop.create_datagram_endpoint(lambda: Datagrams(honest, how), local_addr=(ADDRESS, port))
    async with await asyncio.start_server(serve, ADDRESS, port) as server:
        print("ready", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
