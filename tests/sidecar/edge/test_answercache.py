"""Which DNS answers are kept, for how long, and how many."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from postern_sidecar.answers import Answer, Kind, Question, State
from postern_sidecar.edge.answercache import BRIEFLY, LONGEST, AnswerCache
from postern_sidecar.names import Domain


def question(number: int = 0) -> Question:
    return Question(Domain(f"mx{number}.example"), Kind.A)


def answer(number: int = 0, *, ttl: int = 60, records: int = 1) -> Answer:
    addresses = tuple(ip_address(f"192.0.2.{last}") for last in range(records))
    return Answer(question(number), State.SECURE, addresses, question(number).name, ttl)


def test_an_answer_is_kept_for_its_time_and_tells_what_is_left() -> None:
    cache = AnswerCache()
    assert cache.put(answer(), 100, 1000.0) == answer()
    assert cache.get(question(), 1000.0) == answer()
    assert cache.get(question(), 1010.5) == answer(ttl=49)
    assert cache.get(question(), 1059.9) == answer(ttl=0)
    assert cache.get(question(), 1060.0) is None
    assert (len(cache), cache.octets) == (0, 0)


def test_within_a_second_it_is_the_same_answer() -> None:
    cache = AnswerCache()
    cache.put(answer(), 100, 1000.0)
    assert cache.get(question(), 1010.2) is cache.get(question(), 1010.8)
    assert cache.get(question(), 1011.3) == answer(ttl=48)


def test_no_answer_is_kept_for_long() -> None:
    cache = AnswerCache()
    assert cache.put(answer(ttl=86400), 100, 0.0).ttl == LONGEST
    assert cache.get(question(), 0.0) == answer(ttl=LONGEST)
    assert cache.get(question(), LONGEST) is None


def test_an_absence_is_kept_too() -> None:
    cache = AnswerCache()
    absent = Answer(question(), State.ABSENT, ttl=30, denied=True)
    cache.put(absent, 100, 0.0)
    assert cache.get(question(), 10.0) == replace(absent, ttl=20)
    assert cache.get(question(), 30.0) is None


def test_without_a_time_to_live_nothing_is_kept() -> None:
    cache = AnswerCache()
    assert cache.put(answer(ttl=0), 100, 0.0) == answer(ttl=0)
    assert cache.get(question(), 0.0) is None


@pytest.mark.parametrize("state", [State.FAILED, State.BOGUS])
def test_a_failure_is_kept_briefly(state: State) -> None:
    cache = AnswerCache()
    failure = Answer(question(), state, detail="SERVFAIL")
    cache.put(failure, 100, 0.0)
    assert cache.get(question(), BRIEFLY - 0.1) == failure
    assert cache.get(question(), BRIEFLY) is None


def test_with_checking_disabled_it_is_another_question() -> None:
    cache = AnswerCache()
    cache.put(answer(), 100, 0.0)
    assert cache.get(question()._replace(checking_disabled=True), 0.0) is None


def test_of_too_many_the_one_unused_for_longest_goes() -> None:
    cache = AnswerCache(answers=2)
    for number in range(2):
        cache.put(answer(number), 100, 0.0)
    assert cache.get(question(0), 1.0)
    cache.put(answer(2), 100, 2.0)
    assert [cache.get(question(number), 3.0) is None for number in range(3)] == [False, True, False]


def test_large_answers_take_the_room_of_many() -> None:
    cache = AnswerCache(octets=10_000)
    for number in range(10):
        cache.put(answer(number), 100, 0.0)
    assert len(cache) == 10
    cache.put(answer(10, records=40), 4000, 0.0)
    assert len(cache) < 3
    assert cache.get(question(10), 0.0)


def test_an_answer_larger_than_all_room_is_not_kept() -> None:
    cache = AnswerCache(octets=10_000)
    cache.put(answer(), 65535, 0.0)
    assert (len(cache), cache.octets) == (0, 0)


def test_a_new_answer_takes_the_old_ones_place() -> None:
    cache = AnswerCache()
    cache.put(answer(ttl=60), 100, 0.0)
    before = cache.octets
    cache.put(answer(ttl=90), 100, 50.0)
    assert cache.octets == before
    assert cache.get(question(), 70.0) == answer(ttl=70)


def test_clear() -> None:
    cache = AnswerCache()
    cache.put(answer(), 100, 0.0)
    cache.clear()
    assert (cache.get(question(), 0.0), cache.octets) == (None, 0)
