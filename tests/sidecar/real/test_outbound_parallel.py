"""A thousand submissions at once, to destinations that live, that are silent for as long as they like, and that are
dead: those that live are held up by none of the others, everybody gets the answer to their own message, and no
destination more transactions at a time than it may have."""

from __future__ import annotations

import asyncio
import hashlib
import resource
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

import pytest

from lab.signing import Chain
from lab.submitting import Mail
from lab.world import World
from next_hop import LEAF, server_tls

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

    from lab.laboratory import Lab
    from lab.submitting import Door

pytestmark = pytest.mark.real

PLACES = 20  # limits.perDestination
LIVE, SLOW, DEAD = (10, 70), (8, 25), (5, 20)  # domains, submissions to each
DOORS: tuple[Door, Door] = ("smtp", "lmtp")


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """A thousand submitters and their destinations are all in this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Destination:
    """Answers each message with the name of its recipient, `held` ones when they are let go. `most`: transactions at
    the same moment; `full`: as many as there may be are behind their final dot; `got`: subjects by recipient."""

    def __init__(self, lab: Lab, address: str, tls: ssl.SSLContext | None, *, held: bool = False) -> None:
        self.released = asyncio.Event()
        self.full = asyncio.Event()
        self.most = self._now = self._waiting = 0
        self.got: dict[str, str] = {}
        self._lab, self._address, self._tls = lab, address, tls
        self._tasks: set[asyncio.Task[None]] = set()
        if not held:
            self.released.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, sock=self._lab.outside.listen((self._address, 25)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._talk(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        recipient, secured = "", self._tls is None
        while line := (await reader.readline()).decode().rstrip("\r\n"):
            match line[:4]:
                case "EHLO":
                    writer.write(b"250 here\r\n" if secured else b"250-here\r\n250 STARTTLS\r\n")
                case "STAR":
                    writer.write(b"220 go\r\n")
                    assert self._tls is not None
                    await writer.start_tls(self._tls)
                    secured = True
                case "MAIL":
                    assert secured
                    self._now += 1
                    self.most = max(self.most, self._now)
                    writer.write(b"250 2.1.0 ok\r\n")
                case "RCPT":
                    recipient = line.partition("<")[2].partition(">")[0]
                    writer.write(b"250 2.1.5 ok\r\n")
                case "DATA":
                    writer.write(b"354 go\r\n")
                    await self._message(reader, recipient)
                    self._now -= 1
                    writer.write(f"250 2.0.0 taken for {recipient}\r\n".encode())
                case _:  # RSET, QUIT
                    writer.write(b"250 2.0.0 ok\r\n")

    async def _message(self, reader: asyncio.StreamReader, recipient: str) -> None:
        while (line := await reader.readline()) != b".\r\n":
            if line.startswith(b"Subject: "):
                self.got[recipient] = line.decode().rstrip("\r\n")
        self._waiting += 1
        if self._waiting == PLACES:
            self.full.set()
        await self.released.wait()
        self._waiting -= 1


class Crowd:
    """The submitters to one kind of destination, each with a message of its own."""

    def __init__(self, lab: Lab, kind: str, domains: int, each: int) -> None:
        self.mails = [
            Mail(lab, DOORS[number % 2], [to], f"Subject: for {to}\r\n\r\nHello.\r\n".encode(), patience=60)
            for number in range(each)
            for domain in range(domains)
            for to in [f"{number}@{kind}{domain}.example"]
        ]

    def start(self) -> asyncio.Future[list[dict[str, str]]]:
        return asyncio.gather(*(mail.submit() for mail in self.mails))

    @property
    def answers(self) -> dict[str, str]:
        return {recipient: answer for mail in self.mails for recipient, answer in mail.answers.items()}

    @property
    def taken(self) -> dict[str, str]:
        """What all of them should hear."""
        return {to: f"250 2.0.0 taken for {to}" for mail in self.mails for to in mail.recipients}


async def test_a_thousand_at_once(lab: Lab, tmp_path: Path) -> None:
    world = World()
    world.zone("bogus.example")
    world.spoil("bogus.example", "SOA")
    tls = server_tls(tmp_path)
    live: list[Destination] = []
    slow: list[Destination] = []
    for number in range(LIVE[0]):  # with DANE
        world.zone(f"live{number}.example")
        world.add(f"live{number}.example", "A", f"198.51.100.{number + 1}")
        world.add(f"_25._tcp.live{number}.example", "TLSA", f"3 1 1 {hashlib.sha256(LEAF.spki).hexdigest()}")
        live.append(Destination(lab, f"198.51.100.{number + 1}", tls))
    for number in range(SLOW[0]):
        world.zone(f"slow{number}.example", chain=Chain.UNSIGNED)
        world.add(f"slow{number}.example", "A", f"198.51.100.{number + 101}")
        slow.append(Destination(lab, f"198.51.100.{number + 101}", None, held=True))
    for number in range(DEAD[0]):  # nobody has the address, nobody says so
        world.zone(f"dead{number}.example", chain=Chain.UNSIGNED)
        world.add(f"dead{number}.example", "A", f"100.64.0.{number + 1}")
    lab.nsd(world)
    sidecar = lab.sidecar({"outbound": {"dns": world.embedded(bogus="bogus.example")}})
    sidecar.log.wait_for("self-test passed")
    async with AsyncExitStack() as stack, asyncio.timeout(100):
        for destination in (*live, *slow):
            await stack.enter_async_context(destination)
        crowds = [Crowd(lab, "slow", *SLOW), Crowd(lab, "dead", *DEAD), Crowd(lab, "live", *LIVE)]
        of_slow, of_dead, of_live = crowds
        assert sum(len(crowd.mails) for crowd in crowds) == 1000
        ends = [crowd.start() for crowd in crowds]
        await ends[2]
        assert of_live.answers == of_live.taken
        assert of_slow.answers == {}
        for destination in slow:
            await destination.full.wait()
            destination.released.set()
        await asyncio.gather(*ends)
        assert of_slow.answers == of_slow.taken
        assert len(of_dead.answers) == len(of_dead.mails)
        assert {answer[:9] for answer in of_dead.answers.values()} == {"451 4.4.1"}
    for destination in (*live, *slow):
        assert destination.most <= PLACES
        assert {to: f"Subject: for {to}" for to in destination.got} == destination.got
    assert sum(len(destination.got) for destination in (*live, *slow)) == LIVE[0] * LIVE[1] + SLOW[0] * SLOW[1]
    assert len(sidecar.log.matches(" => .* CV=dane")) == LIVE[0] * LIVE[1]
    assert sidecar.metric("postern_log_dropped_total") == 0
