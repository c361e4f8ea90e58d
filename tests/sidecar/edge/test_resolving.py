"""Who is believed, and when: the self-test, its repetition, and what questions come to before it is passed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import dns.rcode
import pytest

from postern_sidecar.answers import Kind, Question, State
from postern_sidecar.config.model import DNS, ResolverKind, SelfTest
from postern_sidecar.config.scalars import Server
from postern_sidecar.edge import asker, resolving, unbound
from postern_sidecar.edge.resolving import Resolving
from postern_sidecar.lookup.selftest import Verdict
from postern_sidecar.names import Domain, Endpoint
from scripted_dns import Reply, nobody, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from scripted_dns import Key

    Says = Callable[[str], None]

QUESTION = Question(Domain("mx.example.org"), Kind.A)
KEY = ("mx.example.org.", "A")
ROOT = (".", "SOA")
BROKEN = ("broken.example.", "SOA")
SOA = ["ns.example. root.example. 1 2 3 4 60"]
WITHHELD = Reply(rcode=dns.rcode.SERVFAIL, unchecked=Reply(SOA))
DEAD = Reply(rcode=dns.rcode.SERVFAIL)
VALIDATES: dict[Key, Reply] = {ROOT: Reply(SOA), BROKEN: WITHHELD, KEY: Reply(["192.0.2.1"])}
BELIEVES_ALL: dict[Key, Reply] = {**VALIDATES, BROKEN: Reply(SOA), KEY: Reply(["192.0.2.66"])}
STRIPS: dict[Key, Reply] = {**VALIDATES, ROOT: Reply(SOA, ad=False), KEY: Reply(["192.0.2.66"], ad=False)}


class Scene:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.news = asyncio.Event()

    def say(self, text: str) -> None:
        self.said.append(text)
        self.news.set()

    async def until(self, lines: int) -> None:
        async with asyncio.timeout(20):
            while len(self.said) < lines:
                self.news.clear()
                await self.news.wait()


@asynccontextmanager
async def resolver(scene: Scene, *servers: Endpoint) -> AsyncIterator[Resolving]:
    dns = DNS(
        resolver=ResolverKind.SERVERS,
        servers=tuple(Server(f"{server.address}:{server.port}") for server in servers),
        self_test=SelfTest(bogus="broken.example"),
    )
    made = Resolving(dns, state_dir=None, on_event=scene.say, chance=lambda: 0.5)
    made.start()
    try:
        yield made
    finally:
        await made.close()


async def test_before_the_self_test_nothing_is_answered() -> None:
    scene = Scene()
    async with serving(VALIDATES) as server, resolver(scene, server.endpoint) as made:
        assert made.ready == (False, "the resolver has not passed its self-test yet")
        (answer,) = await made.ask((QUESTION,))
        assert (answer.state, answer.detail) == (State.FAILED, "the resolver has not passed its self-test yet")
        assert server.asked[KEY] == 0


async def test_one_that_validates_is_believed() -> None:
    scene = Scene()
    async with serving(VALIDATES) as server, resolver(scene, server.endpoint) as made:
        assert await made.tested(10)
        assert (made.ready, made.verdict, made.restarts) == ((True, "ok"), Verdict.PASSED, 0)
        (answer,) = await made.ask((QUESTION,))
        assert answer.state is State.SECURE
        assert scene.said == [f"resolver 127.0.0.1 port {server.endpoint.port}: self-test passed"]
        assert made.counts.lookups == {("A", "secure"): 1}  # the self-test's own questions are nobody's mail


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (BELIEVES_ALL, "SOA broken.example: secure, and must fail"),
        (STRIPS, "SOA .: insecure, and must be secure: does it validate DNSSEC?"),
        ({**VALIDATES, ROOT: DEAD}, "SOA .: SERVFAIL, and must be secure: does it run, and reach the name servers?"),
    ],
)
async def test_one_that_does_not_is_not_asked(table: dict[Key, Reply], why: str) -> None:
    scene = Scene()
    async with serving(table) as server, resolver(scene, server.endpoint) as made:
        assert not await made.tested(10)
        assert (made.ready, made.verdict) == ((False, f"self-test failed: {why}"), Verdict.FAILED)
        (answer,) = await made.ask((QUESTION,))
        assert (answer.state, answer.detail) == (State.FAILED, f"self-test failed: {why}")
        assert server.asked[KEY] == 0
        name = f"resolver 127.0.0.1 port {server.endpoint.port}"
        assert scene.said == [f"{name}: self-test failed, it is not used: {why}"]


async def test_a_broken_name_out_of_reach_proves_nothing_and_mail_goes_on() -> None:
    scene = Scene()
    async with serving({**VALIDATES, BROKEN: DEAD}) as server, resolver(scene, server.endpoint) as made:
        assert await made.tested(10)
        assert made.verdict is Verdict.UNPROVED
        assert "nobody could say whether a forged answer would fail (SOA broken.example: SERVFAIL)" in scene.said[0]


async def test_of_several_only_those_that_validate_are_asked() -> None:
    scene = Scene()
    async with serving(BELIEVES_ALL) as bad, serving(VALIDATES) as good:
        async with resolver(scene, bad.endpoint, nobody(), good.endpoint) as made:
            assert await made.tested(10)
            (answer,) = await made.ask((QUESTION,))
            assert answer.state is State.SECURE
            assert (bad.asked[KEY], good.asked[KEY]) == (0, 1)
            assert scene.said[0].count("it is not used") == 2


async def test_a_failed_test_is_repeated_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "RETRY", 0.01)
    scene = Scene()
    async with serving(STRIPS) as server, resolver(scene, server.endpoint) as made:
        await scene.until(2)  # said each time
        assert scene.said[0] == scene.said[1]
        server.table |= VALIDATES
        await scene.until(len(scene.said) + 1)
        async with asyncio.timeout(10):
            while not made.ready[0]:
                await scene.until(len(scene.said) + 1)
        assert made.verdict is Verdict.PASSED


async def test_a_passed_test_is_repeated_and_what_it_then_finds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "AGAIN", 0.05)
    scene = Scene()
    async with serving(VALIDATES) as server, resolver(scene, server.endpoint) as made:
        assert await made.tested(10)
        assert (await made.ask((QUESTION,)))[0].state is State.SECURE
        server.table |= BELIEVES_ALL
        await scene.until(2)
        assert server.asked[ROOT] > 1
        assert "self-test failed" in scene.said[1]
        assert not made.ready[0]
        assert (await made.ask((QUESTION,)))[0].state is State.FAILED


UNSIGNED = ("unsigned.example.", "A")


async def test_one_that_stops_validating_between_two_tests_is_not_believed() -> None:
    """All that it says looks unsigned, and mail would go where anybody sent it."""
    scene = Scene()
    async with serving(VALIDATES) as server, resolver(scene, server.endpoint) as made:
        assert await made.tested(10)
        server.table |= STRIPS
        (answer,) = await made.ask((QUESTION,))
        assert answer.state is State.FAILED
        assert answer.detail == "127.0.0.1 no longer validates: SOA .: insecure"
        await scene.until(2)
        assert "self-test failed" in scene.said[1]
        assert not made.ready[0]


async def test_a_denial_without_ad_is_doubted_too() -> None:
    scene = Scene()
    async with serving(VALIDATES) as server, resolver(scene, server.endpoint) as made:
        assert await made.tested(10)
        server.table |= {**STRIPS, KEY: Reply(ad=False)}
        (answer,) = await made.ask((QUESTION,))
        assert answer.state is State.FAILED


async def test_what_is_unsigned_is_believed_of_one_that_validates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks at once shares a look, and it counts for a while."""
    monkeypatch.setattr(resolving, "DOUBT", 1000.0)
    scene = Scene()
    async with serving({**VALIDATES, UNSIGNED: Reply(["192.0.2.2"], ad=False)}) as server:
        async with resolver(scene, server.endpoint) as made:
            assert await made.tested(10)
            before = server.asked[ROOT]
            question = Question(Domain("unsigned.example"), Kind.A)
            first = await asyncio.gather(*(made.ask((question,)) for _ in range(20)))
            assert {answer.state for (answer,) in [*first, await made.ask((question,))]} == {State.INSECURE}
            assert server.asked[ROOT] == before + 1
            await made.ask((QUESTION,))
            assert server.asked[ROOT] == before + 1


async def test_of_several_the_one_that_stops_validating_is_left_out() -> None:
    scene = Scene()
    async with serving(VALIDATES) as first, serving(VALIDATES) as second:
        async with resolver(scene, first.endpoint, second.endpoint) as made:
            assert await made.tested(10)
            first.table |= STRIPS
            (answer,) = await made.ask((QUESTION,))
            assert answer.state is State.FAILED
            await scene.until(2)
            assert made.ready[0]
            (answer,) = await made.ask((QUESTION,))
            assert (answer.state, [str(record) for record in answer.records]) == (State.SECURE, ["192.0.2.1"])


async def test_one_that_does_not_answer_a_look_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is no reason to doubt what another has said."""
    monkeypatch.setattr(resolving, "TRY", 0.05)
    scene = Scene()
    unsigned = {UNSIGNED: Reply(["192.0.2.2"], ad=False)}
    async with serving({**VALIDATES, **unsigned}) as first, serving(VALIDATES) as second:
        async with resolver(scene, first.endpoint, second.endpoint) as made:
            assert await made.tested(10)
            second.table |= {ROOT: DEAD}
            (answer,) = await made.ask((Question(Domain("unsigned.example"), Kind.A),))
            assert answer.state is State.INSECURE
            await scene.until(2)
            assert made.ready[0]


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 3240.0), (0.5, 3600.0), (1.0, 3960.0)])
def test_the_hour_is_not_everybodys_hour(chance: float, seconds: float) -> None:
    assert resolving.pause(True, chance) == pytest.approx(seconds)
    assert resolving.pause(False, chance) == 30.0


async def test_closing_ends_the_questions_on_their_way() -> None:
    scene = Scene()
    silent = Reply(silent=True)
    async with serving({**VALIDATES, KEY: silent}) as server:
        async with resolver(scene, server.endpoint) as made:
            assert await made.tested(10)
            waiting = asyncio.ensure_future(made.ask((QUESTION,)))
            while not server.asked[KEY]:
                server.heard.clear()
                await server.heard.wait()
        ((answer,), (later,)) = await waiting, await made.ask((QUESTION,))
        assert (answer.state, later.detail) == (State.FAILED, "the resolver is closed")


class StandIn:
    """In place of Unbound: up and down as a test says."""

    def __init__(
        self, _: DNS, directory: Path | None, *, on_up: Callable[[Endpoint], None], on_down: Says, say: Says
    ) -> None:
        self.up, self.down, self.say = on_up, on_down, say
        self.directory = directory
        self.restarts = 0
        self.bug = asyncio.Event()

    async def run(self) -> None:
        await self.bug.wait()
        raise RuntimeError("a bug")


@asynccontextmanager
async def embedded(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, state: Path | None = None
) -> AsyncIterator[tuple[Resolving, StandIn]]:
    monkeypatch.setattr(resolving, "Unbound", StandIn)
    dns = DNS(self_test=SelfTest(bogus="broken.example"))
    made = Resolving(dns, state_dir=state, on_event=scene.say)
    made.start()
    child = made._unbound
    assert isinstance(child, StandIn)
    try:
        yield made, child
    finally:
        await made.close()


async def test_each_start_of_unbound_is_tested_before_it_is_believed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scene = Scene()
    async with serving(VALIDATES) as first, serving(VALIDATES) as second:
        async with embedded(scene, monkeypatch, tmp_path) as (made, child):
            assert child.directory == tmp_path / "unbound"
            child.up(first.endpoint)
            assert not made.ready[0]
            assert await made.tested(10)
            await made.ask((QUESTION,))
            child.down("was killed by signal 9")
            assert (made.ready, made.verdict) == ((False, "unbound was killed by signal 9"), None)
            assert (await made.ask((QUESTION,)))[0].detail == "unbound was killed by signal 9"
            child.restarts += 1
            child.up(second.endpoint)
            assert not made.ready[0]
            await scene.until(4)
            assert (made.ready, made.restarts) == ((True, "ok"), 1)
            await made.ask((QUESTION,))
            assert (first.asked[KEY], second.asked[KEY]) == (1, 1)
            assert [line.partition(" on ")[0] for line in scene.said[::2]] == ["unbound serves"] * 2


async def test_an_answer_of_one_that_failed_meanwhile_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    slow: dict[Key, Reply] = {**VALIDATES, KEY: Reply(["192.0.2.1"], delay=0.1)}
    async with serving(slow) as server, embedded(scene, monkeypatch) as (made, child):
        child.up(server.endpoint)
        assert await made.tested(10)
        waiting = asyncio.ensure_future(made.ask((QUESTION,)))
        while not server.asked[KEY]:
            server.heard.clear()
            await server.heard.wait()
        child.down("does not answer")
        assert (await waiting)[0].detail == "unbound does not answer"


async def test_what_a_test_found_of_one_that_is_gone_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    slow: dict[Key, Reply] = {**VALIDATES, ROOT: Reply(SOA, delay=0.1)}
    async with serving(slow) as server, embedded(scene, monkeypatch) as (made, child):
        child.up(server.endpoint)
        await server.heard.wait()
        child.down("does not answer")
        assert not await made.tested(0.3)
        assert (made.ready, made.verdict) == ((False, "unbound does not answer"), None)


async def test_a_bug_of_the_supervision_is_said_and_believes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    async with serving(VALIDATES) as server, embedded(scene, monkeypatch) as (made, child):
        child.up(server.endpoint)
        assert await made.tested(10)
        child.bug.set()
        await scene.until(3)
        assert not made.ready[0]
        assert "internal error" in scene.said[2]


def test_the_constants_are_those_of_the_contract() -> None:
    """Every 30 s while it fails, hourly while it does not; a question is over before a client of SMTP gives up."""
    assert (resolving.RETRY, resolving.AGAIN) == (30, 3600)
    assert asker.PATIENCE <= 10
    assert unbound.LONGEST_WAIT == 30
