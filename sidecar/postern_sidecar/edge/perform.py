"""Performs what a delivery asks of the world: `_do` tells all that it can do, `outbound.commands` what is sent back.

Nothing leaks, however a piece of work ends. `Held` has the connections and the places that a delivery has and has not
given back; a work that fails or is cancelled gives back what it took itself. One that returns leaves what it still has
to whoever reads its result: connections go from one work to the next (envelope, message, final dot), and the last to
have them calls `release`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from postern_sidecar.answers import Answer, State
from postern_sidecar.outbound.commands import (
    Admit,
    Ask,
    Command,
    Dial,
    Drop,
    Keep,
    Leave,
    Log,
    Lost,
    Say,
    Secure,
    TakePooled,
    Work,
)
from postern_sidecar.outbound.link import Link

from .idle import channel_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from postern_sidecar.answers import Question
    from postern_sidecar.logline import Record
    from postern_sidecar.names import Endpoint
    from postern_sidecar.outbound.plan import Handshake

    from .admission import Admission
    from .channel import Channel
    from .idle import IdleLinks

T = TypeVar("T")

LOOKUP: Final = 15.0  # seconds; longer than `edge.resolving` takes for anything
NO_TIME: Final = "no time is left for an answer"
CONNECTED = "connected"
SECURED = "secured"


class Counts(Protocol):
    """What is counted; `reason` is `Lost.reason`."""

    def pool(self, *, hit: bool) -> None: ...

    def dialled(self, reason: str) -> None:
        """CONNECTED, or a reason."""

    def handshake(self, reason: str) -> None:
        """SECURED, or a reason."""


@dataclass(slots=True)
class Held:
    """What has to be given back."""

    links: set[Link] = field(default_factory=set)
    places: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Performer:
    """`ask` never raises; `dialler` is `edge.dial.dial` with its deadlines."""

    ask: Callable[[tuple[Question, ...]], Awaitable[tuple[Answer, ...]]]
    log: Callable[[Record], None]
    dialler: Callable[[Endpoint, float], Awaitable[Channel | Lost]]
    idle: IdleLinks
    admission: Admission
    counts: Counts

    async def perform(self, work: Work[T], held: Held | None = None) -> T:
        """`held`: the delivery's own, where several works share connections; then the caller releases it."""
        mine = Held() if held is None else held
        done = False
        try:
            command = next(work)
            while True:
                command = work.send(await self._do(command, mine))
        except StopIteration as stop:
            done = True
            result: T = stop.value
            return result
        finally:
            if not done:
                work.close()
                if held is None:
                    self.release(mine)

    def release(self, held: Held) -> None:
        """Give back whatever is still there."""
        for link in held.links:
            channel_of(link).close()
        held.links.clear()
        for destination in held.places.elements():
            self.admission.leave(destination)
        held.places.clear()

    def cut(self, held: Held) -> None:
        """Its connections are gone; whoever waits at one is told so, and gives it back."""
        for link in held.links:
            channel_of(link).close()

    async def _do(self, command: Command, held: Held) -> Any:
        """Every effect that a delivery has on the world."""
        match command:
            case Say(link, data, replies, seconds):
                held.links.add(link)
                return await channel_of(link).say(data, replies, seconds)
            case Ask():
                return await self._ask(command)
            case Dial(to, seconds):
                return await self._dial(to, seconds, held)
            case Secure(link):
                held.links.add(link)
                return await self._secure(command)
            case Admit(destination, seconds):
                admitted = await self.admission.admit(destination, seconds)
                held.places[destination] += admitted
                return admitted
            case _:
                return self._do_at_once(command, held)

    def _do_at_once(self, command: TakePooled | Keep | Drop | Leave | Log, held: Held) -> Link | None:
        match command:
            case TakePooled(key):
                link = self.idle.take(key)
                self.counts.pool(hit=link is not None)
                if link is not None:
                    held.links.add(link)
                return link
            case Keep(link):
                held.links.discard(link)
                self.idle.keep(link)
            case Drop(link, quit):
                held.links.discard(link)
                channel_of(link).close(quit)
            case Leave(destination):
                held.places[destination] -= 1
                self.admission.leave(destination)
            case Log(record):
                self.log(record)
        return None

    async def _ask(self, command: Ask) -> tuple[Answer, ...]:
        """The resolver has bounds of its own, and mostly they come first."""
        questions, seconds = command.questions, command.seconds
        if seconds >= LOOKUP:
            return await self.ask(questions)
        try:
            async with asyncio.timeout(seconds):
                return await self.ask(questions)
        except TimeoutError:
            return tuple(Answer(question, State.FAILED, detail=NO_TIME) for question in questions)

    async def _dial(self, to: Endpoint, seconds: float, held: Held) -> Link | Lost:
        channel = await self.dialler(to, seconds)
        if isinstance(channel, Lost):
            self.counts.dialled(channel.reason)
            return channel
        self.counts.dialled(CONNECTED)
        link = Link(channel, to)
        held.links.add(link)
        return link

    async def _secure(self, command: Secure) -> Handshake | Lost:
        handshake = await channel_of(command.link).secure(command.plan, command.seconds)
        self.counts.handshake(handshake.reason if isinstance(handshake, Lost) else SECURED)
        return handshake
