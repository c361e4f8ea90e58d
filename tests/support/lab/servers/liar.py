"""A name server that answers some questions wrongly, as a table says, and asks an honest one about the others.

    python liar.py TABLE.json          {"name. TYPE, in lower case": how}: see World.misanswer; read for each question

Also listens on the SILENT address, where it says nothing. UDP and TCP. Its log has an "asked" line for each question.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from pathlib import Path
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

LIAR = "192.0.2.54"
SILENT = "192.0.2.56"
TRUTH = "192.0.2.58"
DNSSEC = {dns.rdatatype.RRSIG, dns.rdatatype.NSEC, dns.rdatatype.NSEC3, dns.rdatatype.DS}


def lie(how: str, packet: bytes, truth: bytes) -> bytes:
    """`truth`: the honest answer to `packet`."""
    query = dns.message.from_wire(packet)
    if how == "garbage":
        return packet[:2] + b"\xff" * 40
    if how == "stripped":
        honest = dns.message.from_wire(truth)
        for section in (honest.answer, honest.authority):
            section[:] = [rrset for rrset in section if rrset.rdtype not in DNSSEC]
        return honest.to_wire()
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AA
    kind, _, data = how.partition(" ")
    if kind == "forged":
        (question,) = query.question
        response.answer.append(dns.rrset.from_text(question.name, 300, "IN", question.rdtype, data))
    else:
        response.set_rcode(dns.rcode.from_text(how))
    return response.to_wire()


async def ask_truth(packet: bytes) -> bytes:
    """Always by TCP: no answer is too long for it."""
    reader, writer = await asyncio.open_connection(TRUTH, 53)
    writer.write(struct.pack("!H", len(packet)) + packet)
    (length,) = struct.unpack("!H", await reader.readexactly(2))
    answer = await reader.readexactly(length)
    writer.close()
    return answer


async def answer(table: Path, packet: bytes, limit: int) -> bytes:
    (question,) = dns.message.from_wire(packet).question
    key = f"{question.name} {dns.rdatatype.to_text(question.rdtype)}".lower()
    print("asked", key, flush=True)
    truth = await ask_truth(packet)
    how = misanswers(table).get(key)
    result = truth if how is None else lie(how, packet, truth)
    if len(result) > limit:
        short = dns.message.make_response(dns.message.from_wire(packet))
        short.flags |= dns.flags.TC
        return short.to_wire()
    return result


def misanswers(table: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(table.read_text())
    return found


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, table: Path) -> None:
        self._table = table
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        task = asyncio.ensure_future(self._reply(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reply(self, packet: bytes, peer: tuple[str | object, int]) -> None:
        self._transport.sendto(await answer(self._table, packet, 1232), peer)


async def main() -> None:
    table = Path(sys.argv[1])

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                result = await answer(table, await reader.readexactly(length), 65535)
                writer.write(struct.pack("!H", len(result)) + result)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: Datagrams(table), (LIAR, 53))
    server = await asyncio.start_server(stream, LIAR, 53)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf, socket.create_server((SILENT, 53)):
        deaf.bind((SILENT, 53))
        print("ready", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
