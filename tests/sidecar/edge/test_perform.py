"""Each command and what is sent back for it, the pool on a running loop, and that nothing leaks."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from next_hop import Peer, next_hop, server_tls
from postern_sidecar.answers import Answer, Kind, Question, State
from postern_sidecar.edge.admission import Admission
from postern_sidecar.edge.channel import Channel
from postern_sidecar.edge.deadlines import Deadlines
from postern_sidecar.edge.dial import dial
from postern_sidecar.edge.idle import IdleLinks, channel_of
from postern_sidecar.edge.perform import Held, Performer
from postern_sidecar.logline import Record
from postern_sidecar.names import Domain
from postern_sidecar.outbound.commands import (
    Admit,
    Ask,
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
from postern_sidecar.outbound.plan import Handshake, Level, Plan, PoolKey
from postern_sidecar.outbound.pool import Pool
from postern_sidecar.replies import Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from postern_sidecar.names import Endpoint

PLAN = Plan(Level.MAY, Domain("mx.example.org"))
BANNER = Reply(220, (b"mx",))


@dataclass
class Counted:
    all: Counter[str] = field(default_factory=Counter)

    def pool(self, *, hit: bool) -> None:
        self.all["hit" if hit else "miss"] += 1

    def dialled(self, reason: str) -> None:
        self.all[f"dialled {reason}"] += 1

    def handshake(self, reason: str) -> None:
        self.all[f"handshake {reason}"] += 1


@dataclass
class Desk:
    """A performer and what it works with."""

    reuse: int = 100
    idle: float = 60.0
    counted: Counted = field(default_factory=Counted)
    logged: list[Record] = field(default_factory=list)
    dialled: list[Channel] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.deadlines = Deadlines(asyncio.get_running_loop())
        self.links = IdleLinks(Pool(self.reuse, self.idle))
        self.admission = Admission(1)
        self.performer = Performer(
            self._answer, self.logged.append, self._dial, self.links, self.admission, self.counted
        )

    async def _answer(self, questions: tuple[Question, ...]) -> tuple[Answer, ...]:
        return tuple(Answer(question, State.ABSENT) for question in questions)

    async def _dial(self, to: Endpoint, seconds: float) -> Channel | Lost:
        channel = await dial(self.deadlines, to, seconds)
        if isinstance(channel, Channel):
            self.dialled.append(channel)
        return channel

    def closed(self) -> bool:
        return all(channel.lost is not None for channel in self.dialled)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    desk.links.close()
    assert desk.closed()
    desk.deadlines.close()


def one(command: Any) -> Work[Any]:
    return (yield command)


def key(to: Endpoint) -> PoolKey:
    return PoolKey(to.address, to.port, False, True, PLAN, "me", "")


def connect(to: Endpoint) -> Work[Link]:
    """A connection whose banner has come."""
    link = yield Dial(to, 5)
    assert isinstance(link, Link)
    said = yield Say(link, b"", 1, 30)
    assert said == [BANNER]
    link.key = key(to)
    return link


def delivery(to: Endpoint, sleeping: asyncio.Event | None = None) -> Work[None]:
    """A place, a connection, and then the end: a reply that never comes, or a bug."""
    assert (yield Admit("example.org", 5))
    link = yield from connect(to)
    if sleeping is None:
        raise ZeroDivisionError
    sleeping.set()
    yield Say(link, b"NOOP\r\n", 1, 30)


async def greeting(peer: Peer) -> None:
    peer.say(b"220 mx\r\n")
    while await peer.reader.read(100):
        pass


class TestCommands:
    async def test_ask(self, desk: Desk) -> None:
        questions = (Question(Domain("example.org"), Kind.A), Question(Domain("example.org"), Kind.AAAA))
        answers = await desk.performer.perform(one(Ask(questions, 120)))
        assert [answer.question for answer in answers] == list(questions)

    async def test_an_answer_that_comes_too_late_is_a_failure(self, desk: Desk) -> None:
        async def silent(_: tuple[Question, ...]) -> tuple[Answer, ...]:
            await asyncio.Event().wait()
            raise AssertionError

        question = Question(Domain("example.org"), Kind.TLSA)
        performer = replace(desk.performer, ask=silent)
        (answer,) = await performer.perform(one(Ask((question,), 0.01)))
        assert (answer.question, answer.state) == (question, State.FAILED)

    async def test_log(self, desk: Desk) -> None:
        record = Record("delivery", "o1", {})
        assert await desk.performer.perform(one(Log(record))) is None
        assert desk.logged == [record]

    async def test_a_conversation_over_tls(self, desk: Desk, tmp_path: Path) -> None:
        context = server_tls(tmp_path)

        async def script(peer: Peer) -> None:
            peer.say(b"220 mx\r\n")
            await peer.hear(b"STARTTLS\r\n")
            peer.say(b"220 go\r\n")
            await peer.start_tls(context)
            await peer.hear(b"EHLO me\r\n")
            peer.say(b"250 mx\r\n")
            await peer.hear(b"QUIT\r\n")
            await peer.gone()

        def work(to: Endpoint) -> Work[str]:
            link = yield from connect(to)
            assert link.endpoint == to
            yield Say(link, b"STARTTLS\r\n", 1, 30)
            handshake = yield Secure(link, PLAN, 30)
            assert isinstance(handshake, Handshake)
            said = yield Say(link, b"EHLO me\r\n", 1, 30)
            assert said == [Reply(250, (b"mx",))]
            yield Drop(link, quit=True)
            return handshake.version

        async with next_hop(script) as endpoint:
            assert await desk.performer.perform(work(endpoint)) == "TLS1.3"
        assert desk.counted.all == {"dialled connected": 1, "handshake secured": 1}

    async def test_what_comes_to_nothing(self, desk: Desk) -> None:
        async def script(peer: Peer) -> None:
            await peer.reader.readexactly(1)

        def work(to: Endpoint) -> Work[Lost]:
            link = yield Dial(to, 5)
            lost: Lost = yield Secure(link, PLAN, 30)
            yield Drop(link)
            return lost

        async with next_hop(script) as endpoint:
            assert (await desk.performer.perform(work(endpoint))).reason == "tls_failed"
        lost = await desk.performer.perform(one(Dial(endpoint, 5)))
        assert lost.reason == "connect_refused"
        assert desk.counted.all == {
            "dialled connected": 1,
            "dialled connect_refused": 1,
            "handshake tls_failed": 1,
        }

    async def test_places(self, desk: Desk) -> None:
        def work() -> Work[list[bool]]:
            granted = [(yield Admit("example.org", 0.01)), (yield Admit("example.org", 0.01))]
            yield Leave("example.org")
            return granted

        held = Held()
        assert await desk.performer.perform(work(), held) == [True, False]
        assert len(desk.admission) == 0
        desk.performer.release(held)  # nothing is left to give back


class TestNothingLeaks:
    async def test_a_bug(self, desk: Desk) -> None:
        async with next_hop(greeting) as endpoint:
            with pytest.raises(ZeroDivisionError):
                await desk.performer.perform(delivery(endpoint))
            assert desk.closed()
        assert len(desk.admission) == 0

    @pytest.mark.parametrize("held", [None, Held()])
    async def test_cancelled(self, desk: Desk, held: Held | None) -> None:
        sleeping = asyncio.Event()
        async with next_hop(greeting) as endpoint:
            task = asyncio.get_running_loop().create_task(desk.performer.perform(delivery(endpoint, sleeping), held))
            await sleeping.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if held is not None:  # its owner's business
                assert not desk.closed()
                assert len(desk.admission) == 1
                desk.performer.release(held)
                desk.performer.release(held)
            assert desk.closed()
        assert len(desk.admission) == 0

    async def test_what_a_work_returns_is_its_readers(self, desk: Desk) -> None:
        held = Held()
        async with next_hop(greeting) as endpoint:
            link = await desk.performer.perform(connect(endpoint), held)
            assert held.links == {link}
            assert channel_of(link).lost is None
            await desk.performer.perform(one(Drop(link)), held)
            assert not held.links
            assert desk.closed()

    async def test_a_connection_of_an_earlier_work_is_closed_with_the_one_that_fails(self, desk: Desk) -> None:
        def work(link: Link) -> Work[None]:
            yield Say(link, b"NOOP\r\n", 1, 0.01)
            raise ZeroDivisionError

        async with next_hop(greeting) as endpoint:
            link = await desk.performer.perform(connect(endpoint))
            with pytest.raises(ZeroDivisionError):
                await desk.performer.perform(work(link))
            assert desk.closed()

    async def test_what_was_kept_or_given_back_is_no_longer_the_works(self, desk: Desk) -> None:
        def work(to: Endpoint) -> Work[None]:
            assert (yield Admit("example.org", 5))
            link = yield from connect(to)
            yield Keep(link)
            yield Leave("example.org")
            raise ZeroDivisionError

        async with next_hop(greeting) as endpoint:
            with pytest.raises(ZeroDivisionError):
                await desk.performer.perform(work(endpoint))
            assert len(desk.links) == 1
            assert not desk.closed()
            desk.links.close()

    async def test_a_work_that_is_cancelled_cleans_up_at_once(self, desk: Desk) -> None:
        sleeping, clean = asyncio.Event(), asyncio.Event()

        def tidy(work: Work[None]) -> Work[None]:
            try:
                yield from work
            finally:
                clean.set()

        async with next_hop(greeting) as endpoint:
            work = tidy(delivery(endpoint, sleeping))
            task = asyncio.get_running_loop().create_task(desk.performer.perform(work))
            await sleeping.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert clean.is_set()
            with pytest.raises(StopIteration):
                next(work)


class TestPool:
    async def test_kept_and_taken(self, desk: Desk) -> None:
        async with next_hop(greeting) as endpoint:
            link = await desk.performer.perform(connect(endpoint))
            await desk.performer.perform(one(Keep(link)))
            assert len(desk.links) == 1
            held = Held()
            assert await desk.performer.perform(one(TakePooled(key(endpoint))), held) is link
            assert held.links == {link}
            assert channel_of(link).on_idle is None
            assert await desk.performer.perform(one(TakePooled(key(endpoint))), held) is None
            assert desk.counted.all["hit"] == desk.counted.all["miss"] == 1
            desk.performer.release(held)

    @pytest.mark.parametrize("last", [b"", b"421 4.4.2 idle\r\n", b"4"])
    async def test_one_whose_peer_speaks_or_goes_is_dropped_at_once(self, desk: Desk, last: bytes) -> None:
        go = asyncio.Event()

        async def script(peer: Peer) -> None:
            peer.say(b"220 mx\r\n")
            await go.wait()
            peer.say(last)
            if last:
                await peer.gone()

        async with next_hop(script) as endpoint:
            link = await desk.performer.perform(connect(endpoint))
            await desk.performer.perform(one(Keep(link)))
            channel, told = channel_of(link), asyncio.Event()
            drop = channel.on_idle

            def dropped(channel: Channel) -> None:
                assert drop is not None
                drop(channel)
                told.set()

            channel.on_idle = dropped
            go.set()
            await told.wait()
            assert len(desk.links) == 0
            assert desk.closed()

    async def test_one_that_has_spoken_is_not_kept(self, desk: Desk) -> None:
        async def script(peer: Peer) -> None:
            peer.say(b"220 mx\r\n250 and more\r\n")
            await peer.gone()

        async with next_hop(script) as endpoint:
            link = await desk.performer.perform(connect(endpoint))
            await desk.performer.perform(one(Keep(link)))
            assert len(desk.links) == 0
            assert desk.closed()

    async def test_one_that_is_used_up_says_quit(self, desk: Desk) -> None:
        async def script(peer: Peer) -> None:
            peer.say(b"220 mx\r\n")
            await peer.hear(b"QUIT\r\n")
            await peer.gone()

        async with next_hop(script) as endpoint:
            link = await desk.performer.perform(connect(endpoint))
            link.used = desk.reuse
            await desk.performer.perform(one(Keep(link)))
            assert len(desk.links) == 0

    async def test_one_that_is_idle_for_too_long_says_quit(self) -> None:
        desk = Desk(idle=0.05)
        quits = 0

        async def script(peer: Peer) -> None:
            nonlocal quits
            peer.say(b"220 mx\r\n")
            await peer.hear(b"QUIT\r\n")
            await peer.gone()
            quits += 1

        async with next_hop(script) as endpoint:
            for _ in range(2):
                link = await desk.performer.perform(connect(endpoint))
                await desk.performer.perform(one(Keep(link)))
        assert quits == 2
        assert len(desk.links) == 0
        desk.links.close()
        desk.deadlines.close()

    async def test_at_the_end_all_say_quit(self, desk: Desk) -> None:
        async def script(peer: Peer) -> None:
            peer.say(b"220 mx\r\n")
            await peer.hear(b"QUIT\r\n")
            await peer.gone()

        async with next_hop(script) as endpoint:
            for _ in range(3):
                link = await desk.performer.perform(connect(endpoint))
                await desk.performer.perform(one(Keep(link)))
            assert len(desk.links) == 3
            desk.links.close()
            assert len(desk.links) == 0


async def test_what_is_cut_is_told_so_and_given_back_by_its_user(desk: Desk) -> None:
    async def silent(peer: Peer) -> None:
        assert await peer.reader.read() == b""

    held = Held()
    async with next_hop(silent) as to:
        link = await desk.performer.perform(one(Dial(to, 5.0)), held)
        waiting = asyncio.ensure_future(desk.performer.perform(one(Say(link, b"", 1, 60.0)), held))
        await asyncio.sleep(0)
        desk.performer.cut(held)
        assert await waiting == Lost("connection_lost", "closed here")
        assert held.links == {link}
        desk.performer.release(held)
