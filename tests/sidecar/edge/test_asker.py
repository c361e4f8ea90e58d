"""Questions to a scripted name server on loopback: each way to fail, how long it takes, and what is asked only once."""

from __future__ import annotations

import asyncio
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING

import dns.rcode
import pytest

from postern_sidecar.answers import Answer, Kind, Question, State
from postern_sidecar.edge import asker as edge
from postern_sidecar.edge import dnsexchange
from postern_sidecar.edge.asker import Asker, Counts
from postern_sidecar.names import Domain, Endpoint
from scripted_dns import SILENCE, Reply, nobody, serving

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = Domain("mx.example.org")
KEY = ("mx.example.org.", "A")
A = Question(NAME, Kind.A)
GOOD = Reply(["192.0.2.1"])
SECURE = Answer(A, State.SECURE, (ip_address("192.0.2.1"),), NAME, 60)
SERVFAIL = Reply(rcode=dns.rcode.SERVFAIL)
SOON = 0.2


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "TRY", SOON)
    monkeypatch.setattr(edge, "PATIENCE", 3 * SOON)


async def ask(asker: Asker, *questions: Question) -> tuple[Answer, ...]:
    return await asker.ask(questions or (A,))


async def test_an_answer() -> None:
    async with serving({KEY: GOOD}) as server:
        assert await ask(Asker([server.endpoint])) == (SECURE,)


async def test_the_answers_come_in_the_order_of_the_questions() -> None:
    late = Reply(["192.0.2.2"], delay=0.05)
    async with serving({("late.example.", "A"): late, KEY: GOOD}) as server:
        asker = Asker([server.endpoint])
        other = Question(Domain("late.example"), Kind.A)
        nowhere = Question(Domain("nowhere.example"), Kind.TLSA)
        answers = await ask(asker, other, A, nowhere, A)
        assert [answer.question for answer in answers] == [other, A, nowhere, A]
        assert [answer.state for answer in answers] == [State.SECURE, State.SECURE, State.ABSENT, State.SECURE]
        assert server.asked[KEY] == 1


async def test_each_question_has_a_port_and_a_number_of_its_own() -> None:
    async with serving({}) as server:
        names = [Question(Domain(f"a{number}.example"), Kind.A) for number in range(40)]
        await ask(Asker([server.endpoint]), *names)
        assert len(server.sources) > 20
        assert len(server.numbers) > 20


async def test_a_long_answer_comes_over_tcp() -> None:
    addresses = [f"192.0.2.{last}" for last in range(200)]
    async with serving({KEY: Reply(addresses, truncated=True)}) as server:
        (answer,) = await ask(Asker([server.endpoint]))
        assert (len(answer.records), answer.state) == (200, State.SECURE)
        assert server.over_tcp[KEY] == 1


def other_number(wire: bytes) -> bytes:
    return bytes([wire[0] ^ 1]) + wire[1:]


def other_question(wire: bytes) -> bytes:
    return wire.replace(b"example", b"exemple")


STRAYS: list[Callable[[bytes], bytes]] = [other_number, other_question, lambda wire: wire[:0], lambda _: b"\xff" * 500]


@pytest.mark.parametrize("stray", STRAYS)
async def test_datagrams_that_are_no_answer_are_passed_over(stray: Callable[[bytes], bytes]) -> None:
    async with serving({KEY: Reply(["192.0.2.1"], before=[stray] * 5)}) as server:
        assert await ask(Asker([server.endpoint])) == (SECURE,)


async def test_a_flood_of_them_is_a_broken_server() -> None:
    async with serving({KEY: Reply(["192.0.2.1"], before=[other_number] * dnsexchange.STRAYS)}) as server:
        (answer,) = await ask(Asker([server.endpoint]))
        assert (answer.state, answer.detail) == (State.FAILED, "127.0.0.1: answers that fit no question")


def truncated(wire: bytes) -> bytes:
    return len(wire).to_bytes(2, "big") + wire[:2] + bytes([wire[2] | 2]) + wire[3:]


def foreign(wire: bytes) -> bytes:
    return len(wire).to_bytes(2, "big") + other_number(wire)


@pytest.mark.parametrize(
    ("tcp", "detail"),
    [
        (truncated, "truncated over TCP"),
        (foreign, "another question's answer over TCP"),
        (lambda wire: wire[:1], "127.0.0.1: closed before the whole answer"),
        (lambda wire: b"\xff\xff" + wire, "127.0.0.1: closed before the whole answer"),
        (lambda wire: len(wire[:40]).to_bytes(2, "big") + wire[:40], "malformed"),
    ],
)
async def test_what_can_be_wrong_over_tcp(tcp: Callable[[bytes], bytes], detail: str) -> None:
    async with serving({KEY: Reply(["192.0.2.1"], truncated=True, tcp=tcp)}) as server:
        (answer,) = await ask(Asker([server.endpoint]))
        assert (answer.state, answer.detail) == (State.FAILED, detail)


async def test_a_server_that_is_down_costs_no_time() -> None:
    began = time.monotonic()
    (answer,) = await ask(Asker([nobody()]))
    assert (answer.state, answer.detail) == (State.FAILED, "127.0.0.1: Connection refused")
    assert time.monotonic() - began < edge.TRY


async def test_servers_of_the_other_family() -> None:
    (answer,) = await ask(Asker([Endpoint(ip_address("::1"), nobody().port)]))
    assert answer.detail == "::1: Connection refused"


@pytest.mark.parametrize("first", [SERVFAIL, Reply(rcode=dns.rcode.REFUSED), Reply(["192.0.2.1"], recursion=False)])
async def test_one_that_fails_is_followed_by_the_next(first: Reply) -> None:
    async with serving({KEY: first}) as bad, serving({KEY: GOOD}) as good:
        assert await ask(Asker([nobody(), bad.endpoint, good.endpoint])) == (SECURE,)
        assert bad.asked[KEY] == 1


@pytest.mark.usefixtures("soon")
async def test_one_that_is_silent_is_followed_by_the_next() -> None:
    async with serving({KEY: SILENCE}) as bad, serving({KEY: GOOD}) as good:
        assert await ask(Asker([bad.endpoint, good.endpoint])) == (SECURE,)


@pytest.mark.usefixtures("soon")
async def test_silence_ends_in_time_after_several_attempts() -> None:
    async with serving({KEY: SILENCE}) as server:
        began = time.monotonic()
        (answer,) = await ask(Asker([server.endpoint]))
        assert (answer.state, answer.detail) == (State.FAILED, f"no answer in {3 * SOON:g} s")
        assert 2.9 * SOON <= time.monotonic() - began < 2
        assert 2 <= server.asked[KEY] <= 4


@pytest.mark.parametrize("first", [SERVFAIL, GOOD])
async def test_what_failed_validation_is_bogus_and_no_other_server_is_asked(first: Reply) -> None:
    bogus = Reply(rcode=dns.rcode.SERVFAIL, unchecked=Reply(["192.0.2.66"], ad=False))
    async with serving({KEY: bogus}) as strict, serving({KEY: GOOD}) as gullible:
        (answer,) = await ask(Asker([strict.endpoint, gullible.endpoint]))
        assert (answer.state, answer.records) == (State.BOGUS, ())
        assert answer.detail == "SERVFAIL; not validated, there is an answer"
        assert (strict.unchecked[KEY], gullible.asked[KEY]) == (1, 0)


async def test_unanswered_both_ways_is_a_failure() -> None:
    async with serving({KEY: SERVFAIL}) as server:
        (answer,) = await ask(Asker([server.endpoint]))
        assert (answer.state, answer.detail) == (State.FAILED, "SERVFAIL")
        assert server.unchecked[KEY] == 1


@pytest.mark.usefixtures("soon")
async def test_silence_to_the_second_question_is_a_failure() -> None:
    async with serving({KEY: Reply(rcode=dns.rcode.SERVFAIL, unchecked=SILENCE)}) as server:
        (answer,) = await ask(Asker([server.endpoint]))
        assert (answer.state, answer.detail) == (State.FAILED, "SERVFAIL")


async def test_with_checking_disabled_there_is_no_second_question() -> None:
    async with serving({KEY: SERVFAIL}) as server:
        (answer,) = await ask(Asker([server.endpoint]), A._replace(checking_disabled=True))
        assert (answer.state, server.unchecked[KEY], server.asked[KEY]) == (State.FAILED, 1, 0)


async def test_a_name_that_cannot_be_asked_for() -> None:
    name = Domain("_25._tcp." + ".".join(["x" * 49] * 5))
    async with serving({}) as server:
        (answer,) = await ask(Asker([server.endpoint]), Question(name, Kind.TLSA))
        assert answer.state is State.FAILED


async def test_without_a_server() -> None:
    (answer,) = await ask(Asker())
    assert (answer.state, answer.detail) == (State.FAILED, "there is no resolver now")


async def test_what_is_kept_is_not_asked_again() -> None:
    clock = [1000.0]
    counts = Counts()
    async with serving({KEY: GOOD}) as server:
        asker = Asker([server.endpoint], counts=counts, now=lambda: clock[0])
        await ask(asker)
        clock[0] += 10
        (answer,) = await ask(asker)
        assert (answer.ttl, server.asked[KEY]) == (50, 1)
        assert (counts.cached, counts.lookups) == (1, {("A", "secure"): 1})
        clock[0] += 50
        await ask(asker)
        assert server.asked[KEY] == 2
        asker.forget()
        await ask(asker)
        assert server.asked[KEY] == 3


async def test_an_answer_that_is_kept_does_not_wait_for_the_loop() -> None:
    async with serving({KEY: GOOD}) as server:
        asker = Asker([server.endpoint], now=lambda: 1000.0)
        await ask(asker)
        with pytest.raises(StopIteration) as end:
            asker.ask((A, A)).send(None)
        assert end.value.value == (SECURE, SECURE)


async def test_a_thousand_who_want_to_know_the_same_are_one_question() -> None:
    async with serving({KEY: Reply(["192.0.2.1"], delay=0.05, ttl=0)}) as server:
        asker = Asker([server.endpoint])
        answers = await asyncio.gather(*(ask(asker) for _ in range(1000)))
        assert {answer.state for (answer,) in answers} == {State.SECURE}
        assert server.asked[KEY] == 1
        await ask(asker)  # a TTL of 0 is for those who asked meanwhile
        assert server.asked[KEY] == 2


async def test_one_who_gives_up_does_not_take_the_answer_from_the_others() -> None:
    async with serving({KEY: Reply(["192.0.2.1"], delay=0.1)}) as server:
        asker = Asker([server.endpoint])
        first, second = asyncio.ensure_future(ask(asker)), asyncio.ensure_future(ask(asker))
        await server.heard.wait()
        first.cancel()
        assert await second == (SECURE,)
        assert server.asked[KEY] == 1


async def test_a_dead_domain_is_asked_for_once_in_a_while() -> None:
    clock = [1000.0]
    async with serving({KEY: SERVFAIL}) as server:
        asker = Asker([server.endpoint], now=lambda: clock[0])
        for _ in range(100):
            await ask(asker)
        assert server.asked[KEY] == 1
        clock[0] += 3
        await ask(asker)
        assert server.asked[KEY] == 2


async def test_what_was_under_way_when_all_was_forgotten_is_not_kept() -> None:
    async with serving({KEY: Reply(["192.0.2.1"], delay=0.05)}) as server:
        asker = Asker([server.endpoint])
        waiting = asyncio.ensure_future(ask(asker))
        await server.heard.wait()
        asker.forget()
        assert await waiting == (SECURE,)
        await ask(asker)
        assert server.asked[KEY] == 2


def different(count: int) -> list[Question]:
    return [Question(Domain(f"a{number}.example"), Kind.A) for number in range(count)]


async def test_so_many_at_once_so_many_wait_and_the_rest_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "AT_ONCE", 2)
    monkeypatch.setattr(edge, "WAITING", 3)
    table = {(f"a{number}.example.", "A"): Reply(["192.0.2.1"], delay=0.02) for number in range(8)}
    async with serving(table) as server:
        asker = Asker([server.endpoint])
        answers = await ask(asker, *different(8))
        assert [answer.state for answer in answers[:5]] == [State.SECURE] * 5
        assert [answer.detail for answer in answers[5:]] == ["too many questions at once"] * 3
        assert server.most == 2
        (again,) = await ask(asker, different(8)[7])
        assert again.state is State.SECURE


async def test_fewer_at_once_where_descriptors_are_few() -> None:
    table = {(f"a{number}.example.", "A"): Reply(["192.0.2.1"], delay=0.02) for number in range(4)}
    async with serving(table) as server:
        answers = await ask(Asker([server.endpoint], at_once=1), *different(4))
        assert {answer.state for answer in answers} == {State.SECURE}
        assert server.most == 1


@pytest.mark.usefixtures("soon")
async def test_the_wait_for_a_turn_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "AT_ONCE", 1)
    async with serving({(f"a{number}.example.", "A"): SILENCE for number in range(5)}) as server:
        began = time.monotonic()
        answers = await ask(Asker([server.endpoint]), *different(5))
        assert {answer.detail for answer in answers} == {f"no answer in {3 * SOON:g} s"}
        assert time.monotonic() - began < 2


async def test_closing_answers_those_who_wait() -> None:
    async with serving({KEY: SILENCE}) as server:
        asker = Asker([server.endpoint])
        waiting = asyncio.ensure_future(ask(asker))
        await server.heard.wait()
        await asker.close()
        ((answer,), (later,)) = await waiting, await ask(asker)
        assert (answer.state, answer.detail) == (State.FAILED, "there is no resolver any more")
        assert later.state is State.FAILED


async def test_what_is_counted() -> None:
    counts = Counts()
    tlsa = Question(Domain("_25._tcp.mx.example.org"), Kind.TLSA)
    async with serving({KEY: GOOD}) as server:
        await ask(Asker([server.endpoint], counts=counts), A, tlsa)
        await ask(Asker([nobody()], counts=counts))
    assert counts.lookups == {("A", "secure"): 1, ("TLSA", "absent"): 1, ("A", "failed"): 1}
    assert sum(counts.buckets) == 3
    assert counts.seconds < 3
