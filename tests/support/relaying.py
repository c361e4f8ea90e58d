"""Submission doors over scripted legs: what a next hop does is written beside its domain, and nothing is dialled."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, cast

from postern_sidecar.config.model import Outbound
from postern_sidecar.edge.descriptors import Lent, Room
from postern_sidecar.edge.perform import Held
from postern_sidecar.edge.submission import serve
from postern_sidecar.edge.transaction import Relay
from postern_sidecar.outbound.body import Fault
from postern_sidecar.outbound.commands import Lost
from postern_sidecar.outbound.link import Link
from postern_sidecar.outbound.settings import Settings
from postern_sidecar.replies import Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from postern_sidecar.edge.submission import Submission
    from postern_sidecar.logline import Record
    from postern_sidecar.outbound.envelope import Recipient, Sender
    from postern_sidecar.outbound.leg import Broken
    from postern_sidecar.outbound.transaction import NextHop

Steps = Generator[Awaitable[Any], Any, Any]

NOW = 1795377147.0
OK = Reply(250, (b"2.1.5 ok",))
GO = Reply(354, (b"go",))
QUEUED = Reply(250, (b"2.0.0 queued",))
PATIENCE = 5.0


def lent(limit: int = 1 << 20) -> Lent:
    """Descriptors for outbound, of so many that a process may have."""
    lent = Lent(Room(limit, 0, lambda: None, lambda: None))
    lent.fit(2256, 512, 256)
    return lent


class Gate:
    """Closed until `open`: a wait that the test ends."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.reached = asyncio.Event()

    def open(self) -> None:
        self._event.set()

    async def passed(self) -> None:
        self.reached.set()
        await self._event.wait()


@dataclass
class NextHopScript:
    """What a next hop does. `rcpt`: by recipient, else OK. Gates hold it up before its answer."""

    rcpt: dict[bytes, Reply] = field(default_factory=dict)
    start: Reply = GO
    final: Reply = QUEUED
    rcpt_gate: Gate | None = None
    start_gate: Gate | None = None
    drain_gate: Gate | None = None
    final_gate: Gate | None = None
    keeps: bool = True  # what it gets
    lost_at: int | None = None  # octets after which the connection is lost
    stalls_at: int | None = None  # octets after which it reads no more
    speaks_at: int | None = None  # octets after which it says something
    lost_after_354: bool = False  # the first connection is; the next is not
    bug: str = ""  # the step that raises


class Channel:
    def __init__(self, script: NextHopScript) -> None:
        self.script = script
        self.got = bytearray()
        self.size = 0
        self.writes = 0
        self.drained = 0
        self.seconds = 0.0
        self.patient = True
        self.lost: Lost | None = None

    @property
    def pending_reply(self) -> bool:
        at = self.script.speaks_at
        return self.lost is not None or (at is not None and self.size >= at)

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.size += len(data)
        if self.script.keeps:
            self.got += data
        if self.script.lost_at is not None and self.size >= self.script.lost_at:
            self.lost = Lost("connection_lost", "scripted")

    async def drain(self, seconds: float, *, patient: bool) -> Lost | None:
        self.seconds, self.patient = seconds, patient
        if self.script.drain_gate is not None:
            await self.script.drain_gate.passed()
        if self.script.stalls_at is not None and self.size >= self.script.stalls_at:
            self.lost = Lost("reply_timeout", "scripted")
        self.drained += 1
        return self.lost


class Leg:
    """`events`: what was asked of it, in order."""

    def __init__(self, script: NextHopScript, sender: Sender, target: NextHop, session: str) -> None:
        self.script = script
        self.sender = sender
        self.target = target
        self.session = session
        self.channel = Channel(script)
        self.link = Link(self.channel, cast("Any", None))
        self.recipients: list[Recipient] = []
        self.events: list[str] = []

    @property
    def message(self) -> bytes:
        return bytes(self.channel.got)

    def _did(self, step: str) -> None:
        self.events.append(step)
        if self.script.bug == step:
            raise RuntimeError("a bug in the script")

    def recipient(self, recipient: Recipient) -> Steps:
        self._did("rcpt")
        if self.script.rcpt_gate is not None:
            yield self.script.rcpt_gate.passed()
        reply = self.script.rcpt.get(recipient.path, OK)
        if reply.code == 250:
            self.recipients.append(recipient)
        return reply

    def start(self) -> Steps:
        self._did("start")
        if self.script.start_gate is not None:
            yield self.script.start_gate.passed()
        if self.script.lost_after_354 and self.events.count("start") == 1:
            self.channel.lost = Lost("connection_lost", "scripted")
        elif self.channel.lost is not None:
            self.link.channel = self.channel = Channel(self.script)
        return self.script.start

    def finish(self) -> Steps:
        self._did("finish")
        if self.script.final_gate is not None:
            yield self.script.final_gate.passed()
        return (self.script.final,) * len(self.recipients)

    def fail(self, why: Fault | Broken) -> Steps:
        self._did(f"fail {why.value}")
        yield from ()
        reply = why.reply if isinstance(why, Fault) else Reply(451, (b"4.4.2 " + why.value.encode(),))
        return (reply,) * len(self.recipients)

    def abandon(self) -> Steps:
        self._did("abandon")
        yield from ()


class Performer:
    def __init__(self) -> None:
        self.released = 0

    async def perform(self, work: Steps, held: Held) -> Any:
        assert isinstance(held, Held)
        result = None
        while True:
            try:
                step = work.send(result)
            except StopIteration as stop:
                return stop.value
            result = await step

    def release(self, held: Held) -> None:
        assert isinstance(held, Held)
        self.released += 1

    def cut(self, held: Held) -> None:
        """No next hop is real here."""


@dataclass
class House:
    """The doors, and what came through them."""

    scripts: dict[str, NextHopScript]
    outbound: Outbound
    legs: list[Leg] = field(default_factory=list)
    lines: list[Record] = field(default_factory=list)
    performer: Performer = field(default_factory=Performer)
    open: Submission = field(init=False)
    relay: Relay = field(init=False)

    def make_leg(self, sender: Sender, target: NextHop, session: str) -> Leg:
        leg = Leg(self.scripts.setdefault(str(target), NextHopScript()), sender, target, session)
        self.legs.append(leg)
        return leg

    def leg(self, target: str) -> Leg:
        (leg,) = (leg for leg in self.legs if str(leg.target) == target)
        return leg

    def port(self, door: str) -> int:
        return self.open.addresses[door][0].port

    @asynccontextmanager
    async def smtp(self) -> AsyncIterator[Client]:
        async with connected(self.port("smtp")) as client:
            assert (await client.reply()).startswith(b"220 mail.example.net ESMTP")
            await client.ask(b"EHLO app.example.net")
            yield client

    @asynccontextmanager
    async def lmtp(self) -> AsyncIterator[Client]:
        async with connected(self.port("lmtp")) as client:
            assert (await client.reply()).startswith(b"220 mail.example.net LMTP")
            await client.ask(b"LHLO app.example.net")
            yield client

    async def settled(self) -> None:
        """Nothing is left to do behind the sessions."""
        async with asyncio.timeout(PATIENCE):
            await self.open.house.empty.wait()
            while self.relay.background:
                await asyncio.wait(self.relay.background)


class Client:
    """A submitter who speaks raw octets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self) -> bytes:
        """The next whole reply, b"" at the end."""
        async with asyncio.timeout(PATIENCE):
            lines = b""
            while True:
                line = await self.reader.readline()
                lines += line
                if not line or line[3:4] != b"-":
                    return lines

    async def ask(self, command: bytes) -> bytes:
        self.send(command + b"\r\n")
        return await self.reply()

    async def replies(self, number: int) -> list[bytes]:
        return [await self.reply() for _ in range(number)]

    async def codes(self, number: int) -> list[bytes]:
        """Code and enhanced code of the next replies."""
        return [b" ".join(reply.split()[:2]) for reply in await self.replies(number)]

    async def rest(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    async def begin(self, *recipients: bytes) -> list[bytes]:
        """MAIL, RCPTs and DATA in one go; the answers to all but MAIL."""
        commands = [b"RCPT TO:<" + recipient + b">\r\n" for recipient in recipients]
        self.send(b"MAIL FROM:<app@example.net>\r\n" + b"".join(commands) + b"DATA\r\n")
        assert (await self.reply()).startswith(b"250 2.1.0")
        return await self.codes(len(commands) + 1)

    def reset(self) -> None:
        """Go without a word: a reset, not an end that could still listen."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


@asynccontextmanager
async def house(outbound: Outbound | None = None, **scripts: NextHopScript) -> AsyncIterator[House]:
    """`scripts`: by the first label of their domain under .example."""
    by_domain = {f"{name}.example": script for name, script in scripts.items()}
    made = House(by_domain, outbound or Outbound())
    ids = count(1)
    settings = Settings(made.outbound, "mail.example.net")
    performer: Any = made.performer
    make_leg: Callable[..., Any] = made.make_leg
    made.relay = Relay(settings, performer, make_leg, lambda: NOW, lambda: f"o{next(ids):04x}", made.lines.append)
    made.open = await serve(made.relay, lent(), ephemeral=True)
    try:
        yield made
    finally:
        made.open.close()
        await made.settled()
