"""One submitted transaction at work: its recipients on their legs, and the message streamed to all of them.

A leg goes to one next hop (`outbound.leg`); what it wants of the world, `Performer` performs. Here is what several of
them share: recipients of different next hops are asked for at once, those of one in their order; every octet goes to
all legs before the next is read, so the slowest sets the pace and nothing piles up; one that stands still for `stall`
seconds is closed without the final dot, and the others go on.

A bug in a leg is its recipients' 451 and a line in the log, and nobody else's trouble. Nothing here is cancelled: when
the submitter has gone, legs are told so and end as they must.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from postern_sidecar.outbound.body import Body, Fault
from postern_sidecar.outbound.leg import Broken
from postern_sidecar.outbound.transaction import (
    MAX_LEGS,
    MAX_RECIPIENTS,
    OTHER_NEXT_HOP,
    TOO_MANY_NEXT_HOPS,
    TOO_MANY_RECIPIENTS,
    same_next_hop,
)
from postern_sidecar.replies import Reply

from .listener import internal_error
from .perform import Held

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Hashable

    from postern_sidecar.config.model import BareNewline
    from postern_sidecar.logline import Record
    from postern_sidecar.outbound.commands import Lost, Work
    from postern_sidecar.outbound.envelope import Recipient, Sender
    from postern_sidecar.outbound.link import Link
    from postern_sidecar.outbound.settings import Settings
    from postern_sidecar.outbound.transaction import NextHop

T = TypeVar("T")

INTERNAL_ERROR = Reply(451, (b"4.3.0 Internal error",))
LMTP_STALL = 30.0  # seconds (contracts section 5): others wait for it
SMTP_STALL = 180.0  # RFC 5321 4.5.3.2.5; there it holds up nobody but its own submitter


class Channel(Protocol):
    """Of `Link.channel`, what a message goes through."""

    lost: Lost | None

    @property
    def pending_reply(self) -> bool: ...
    def write(self, data: bytes) -> None: ...
    async def drain(self, seconds: float, *, patient: bool) -> Lost | None: ...


class Leg(Protocol):
    """`outbound.leg`, as far as it is used here. `start`: 354, or the answer for all its recipients, and then the leg
    is over; so it is after `finish`, `fail` and `abandon`."""

    @property
    def link(self) -> Link | None: ...
    def recipient(self, recipient: Recipient) -> Work[Reply]: ...
    def start(self) -> Work[Reply]: ...
    def finish(self) -> Work[tuple[Reply, ...]]: ...
    def fail(self, why: Fault | Broken) -> Work[tuple[Reply, ...]]: ...
    def abandon(self) -> Work[None]: ...


class Performer(Protocol):
    """Of `edge.perform`."""

    async def perform(self, work: Work[T], held: Held) -> T: ...
    def release(self, held: Held) -> None: ...
    def cut(self, held: Held) -> None: ...


@dataclass(slots=True)
class Relay:
    """What all transactions share. A reload replaces `settings` and `make_leg`, for new transactions. `background`:
    what legs still have to do when nobody waits for it. `lanes`: those that are not over."""

    settings: Settings
    performer: Performer
    make_leg: Callable[[Sender, NextHop, str], Leg]
    wall: Callable[[], float]
    next_id: Callable[[], str]
    write: Callable[[Record], None]
    background: set[asyncio.Task[None]] = field(default_factory=set)
    lanes: set[Lane] = field(default_factory=set)

    def behind(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.background.add(task)
        task.add_done_callback(self.background.discard)

    def cut(self) -> None:
        """Next hops are no longer waited for."""
        for lane in self.lanes:
            self.performer.cut(lane.held)


class Lane:
    """A leg, its recipients that were accepted (their numbers in the transaction), and what it came to."""

    __slots__ = ("accepted", "answers", "held", "leg", "live", "turn")

    def __init__(self, leg: Leg) -> None:
        self.leg = leg
        self.held = Held()
        self.turn = asyncio.Lock()
        self.accepted: list[int] = []
        self.live = True  # the leg is not over
        self.answers: tuple[Reply, ...] = ()

    @property
    def channel(self) -> Channel | None:
        link = self.leg.link
        return link.channel if link is not None else None  # type: ignore[return-value] # opaque below the edge


class Transaction:
    """From MAIL to the last answer. `many`: any mix of next hops (LMTP). One user at a time, but for `ask`."""

    def __init__(self, relay: Relay, sender: Sender, *, many: bool) -> None:
        self.session = relay.next_id()
        self.sender = sender
        self.settings = relay.settings
        self._make_leg = relay.make_leg  # one that goes by these settings
        self._relay = relay
        self._many = many
        self._lanes: dict[Hashable, Lane] = {}
        self._numbers = 0
        self._places = 0  # recipients that are accepted, or may yet be
        self._over = False

    @property
    def accepted(self) -> int:
        return sum(len(lane.accepted) for lane in self._lanes.values())

    # RCPT

    def enlist(self, recipient: Recipient) -> Lane | Reply:
        """The lane that it goes to, or why it goes to none."""
        if self._places >= MAX_RECIPIENTS:
            return TOO_MANY_RECIPIENTS
        key = same_next_hop(self.settings, recipient.domain)
        lane = self._lanes.get(key)
        if lane is None:
            if not self._many and self.accepted:
                return OTHER_NEXT_HOP
            if not self._many:
                self._clear()  # nobody was accepted there: the transaction has no next hop yet
            if len(self._lanes) >= MAX_LEGS:
                return TOO_MANY_NEXT_HOPS
            lane = self._lanes[key] = Lane(self._make_leg(self.sender, recipient.domain, self.session))
            self._relay.lanes.add(lane)
        self._places += 1
        return lane

    async def ask(self, lane: Lane, recipient: Recipient) -> Reply:
        """The next hop's answer to this recipient, after those that were asked before."""
        number = self._numbers
        self._numbers += 1
        async with lane.turn:
            reply = INTERNAL_ERROR
            if lane.live and not self._over:
                reply = await self._perform(lane, lane.leg.recipient(recipient), INTERNAL_ERROR)
        if reply.code // 100 == 2:
            lane.accepted.append(number)
        else:
            self._places -= 1
        return reply

    # DATA

    async def start(self) -> Reply | None:
        """None: the message may come. A reply: the answer to DATA, and the transaction is over."""
        for key, lane in list(self._lanes.items()):
            if not lane.accepted:
                del self._lanes[key]
                self._relay.behind(self._abandon(lane))
        await _at_once([self._start(lane) for lane in self._lanes.values()])
        if any(lane.live for lane in self._lanes.values()):
            return None
        answers = {answer for lane in self._lanes.values() for answer in lane.answers}
        return answers.pop() if len(answers) == 1 else None

    async def _start(self, lane: Lane) -> None:
        reply = INTERNAL_ERROR
        if lane.live:
            reply = await self._perform(lane, lane.leg.start(), INTERNAL_ERROR)
        if reply.code != 354:
            self._over_with(lane)
            lane.answers = (reply,) * len(lane.accepted)

    async def stream(
        self, read: Callable[[], Awaitable[bytes]], head: bytes, bare_newline: BareNewline
    ) -> tuple[Fault | None, bytes | None]:
        """Read the message and pass it on, `head` before it. What ended it where that was not its end, and what came
        behind the end: None where the end never came, and the submitter is not to be listened to any more."""
        body = Body(bare_newline, self.settings.outbound.limits.message_size.octets)
        feed = body.feed
        rest: bytes | None = None
        while rest is None and not body.exhausted:
            data = await read()
            if not data:
                body.eof()
                break
            fed = feed(data)
            if body.fault is not None:
                await self._fail(body.fault)
            elif fed.data or fed.ended:
                if head:
                    await self._start_again()
                await self._pass(head + fed.data if head else fed.data, last=fed.ended)
                head = b""
            if fed.ended:
                rest = fed.rest
        if body.fault is not None:
            await self._fail(body.fault)
        return body.fault, rest

    async def _start_again(self) -> None:
        """Before the first octet a session may still be lost: then the next host hears it all (contracts section 5)."""
        for lane in self._lanes.values():
            channel = lane.channel if lane.live else None
            if channel is not None and channel.lost is not None:
                await self._start(lane)

    async def _pass(self, data: bytes, *, last: bool) -> None:
        """To all legs, with the final dot at once where it is the last; else on when each has taken most of it."""
        if last:
            data += b".\r\n"
        lanes = [(lane, lane.channel) for lane in self._lanes.values() if lane.live]
        for lane, channel in lanes:
            if channel is None or channel.pending_reply:
                await self._break_off(lane, channel)
            else:
                channel.write(data)
        if last:
            return
        await _at_once([self._drain(lane) for lane, _ in lanes if lane.live])

    async def _drain(self, lane: Lane) -> None:
        channel = lane.channel
        if channel is None:
            return
        stall = LMTP_STALL if self._many else SMTP_STALL
        alone = len(self._lanes) == 1  # where others wait, a little now and then is as bad as nothing
        if await channel.drain(stall, patient=alone) is not None:
            await self._break_off(lane, channel)

    async def _break_off(self, lane: Lane, channel: Channel | None) -> None:
        """The next hop stopped reading, went, or said something in the middle of the message."""
        lost = channel.lost if channel is not None else None
        stalled = lost is not None and lost.reason == "reply_timeout"
        await self._end(lane, lane.leg.fail(Broken.STALLED if stalled else Broken.LOST))

    async def _fail(self, fault: Fault) -> None:
        for lane in self._lanes.values():
            if lane.live:
                await self._end(lane, lane.leg.fail(fault))

    async def finish(self, answer: Callable[[int, Reply], None]) -> None:
        """The final dot to all legs at once. `answer`: for each accepted recipient, its place among them in RCPT's
        order and its reply, as soon as it is known."""
        numbers = sorted(number for lane in self._lanes.values() for number in lane.accepted)
        places = {number: place for place, number in enumerate(numbers)}

        async def one(lane: Lane) -> None:
            if lane.live:
                await self._end(lane, lane.leg.finish())
            for number, reply in zip(lane.accepted, lane.answers, strict=True):
                answer(places[number], reply)

        await _at_once([one(lane) for lane in self._lanes.values()])
        self._lanes.clear()

    async def _end(self, lane: Lane, work: Work[tuple[Reply, ...]]) -> None:
        """`work` is the leg's last."""
        lane.answers = await self._perform(lane, work, ())
        if len(lane.answers) != len(lane.accepted):
            lane.answers = (INTERNAL_ERROR,) * len(lane.accepted)
        self._over_with(lane)

    async def _perform(self, lane: Lane, work: Work[T], otherwise: T) -> T:
        """The work's result, or `otherwise` where it ended in a bug, and the leg with it."""
        try:
            return await self._relay.performer.perform(work, lane.held)
        except Exception as bug:
            self._relay.write(internal_error(bug, self.session))
            self._over_with(lane)
            return otherwise
        except BaseException:  # the sidecar ends
            self._over_with(lane)
            raise

    def _over_with(self, lane: Lane) -> None:
        lane.live = False
        self._relay.lanes.discard(lane)
        self._relay.performer.release(lane.held)

    # RSET, QUIT, or the submitter has gone

    def abandon(self) -> None:
        """Nobody waits for it: an answer that is on its way from a next hop is still waited for, in the background."""
        self._over = True
        self._clear()

    def _clear(self) -> None:
        for lane in self._lanes.values():
            self._relay.behind(self._abandon(lane))
        self._lanes.clear()

    async def _abandon(self, lane: Lane) -> None:
        async with lane.turn:
            if lane.live:
                await self._perform(lane, lane.leg.abandon(), None)
                self._over_with(lane)


async def _at_once(work: list[Coroutine[None, None, None]]) -> None:
    """All of it, begun before any is waited for; one alone needs no task."""
    if len(work) == 1:
        await work[0]
    else:
        await asyncio.gather(*work)
