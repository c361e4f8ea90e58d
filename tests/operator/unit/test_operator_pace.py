"""When pods are poked and sidecars asked: bounded, with a back-off, and left to the kubelet in the end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postern_operator.conditions import ask_after, next_poke, poke_after, to_ask, to_poke
from postern_operator.model import Answer, Inputs, Key, PodRecord, PolicyRecord

NEW, OLD = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("previous", "after", "then"),
    [
        ("", 0.0, "1"),
        (f"{OLD}.0", 0.0, "1"),
        (f"{OLD}.5", 0.0, "1"),
        ("nonsense", 0.0, "1"),
        (f"{NEW}.0", 1.0, "1"),  # as injection writes it
        (NEW, 1.0, "1"),
        (f"{NEW}.x", 1.0, "1"),
        (f"{NEW}.1", 1.0, "2"),
        (f"{NEW}.2", 2.0, "3"),
        (f"{NEW}.3", 4.0, "4"),
        (f"{NEW}.4", 8.0, "5"),
        (f"{NEW}.5", None, ""),
        (f"{NEW}.999", None, ""),
    ],
)
def test_a_poke_counts_and_waits_twice_as_long_each_time(previous: str, after: float | None, then: str) -> None:
    assert poke_after(NEW, previous) == after
    if after is None:
        assert next_poke(NEW, previous, 1e9) is None
        return
    assert next_poke(NEW, previous, after) == f"{NEW}.{then}"
    if after:
        assert next_poke(NEW, previous, after - 0.01) is None


@given(st.text(max_size=80))
def test_there_are_five_pokes_at_most_whatever_stood_there(previous: str) -> None:
    values = []
    value: str | None = previous
    while value is not None:
        value = next_poke(NEW, value, 1e9)
        values.append(value)
        assert len(values) <= 6
    assert values[-2:] == [f"{NEW}.5", None]


def pod(name: str, **changes: object) -> PodRecord:
    fields: dict[str, object] = {
        "key": Key("mail", name),
        "uid": name,
        "policy": "edge",
        "labels": {},
        "poke": f"{OLD}.0",
        "stamp": None,
        "ip": "10.0.0.1",
        "started": True,
        "terminating": False,
        "sysctl": 25,
        "transparent": False,
        "secrets": (),
        "image": "r/p:1",
    }
    return PodRecord(**{**fields, **changes})  # type: ignore[arg-type]


def inputs(*pods: PodRecord, **answers: Answer) -> Inputs:
    record = PolicyRecord(Key("mail", "edge"), "u", 1, "", None, 0, None)
    return Inputs(record, (), True, None, (), pods, answers, {}, 0.0)


def test_those_that_do_not_run_the_file_are_poked() -> None:
    world = inputs(
        pod("runs"),
        pod("fresh"),
        pod("silent", poke=f"{NEW}.1"),
        pod("late", poke=f"{NEW}.2"),
        pod("waits", poke=f"{NEW}.3"),
        pod("given-up", poke=f"{NEW}.5"),
        pod("gone", terminating=True),
        pod("others", policy="other"),
        pod("bare", image=""),
        pod("starts"),
        runs=Answer(0.0, NEW),
        late=Answer(0.0, OLD),
    )
    since = {"late": 2.0, "waits": 3.9, "silent": 0.5}
    poked = [(found.key.name, value) for found, value in to_poke(world, NEW, since)]
    assert poked == [("fresh", f"{NEW}.1"), ("late", f"{NEW}.3"), ("starts", f"{NEW}.1")]


def test_a_poke_of_which_no_time_is_known_was_long_ago() -> None:
    assert [value for _, value in to_poke(inputs(pod("a", poke=f"{NEW}.4")), NEW, {})] == [f"{NEW}.5"]


def test_a_sidecar_that_has_not_started_is_poked_once() -> None:
    waiting = pod("a", started=False)
    assert [value for _, value in to_poke(inputs(waiting), NEW, {})] == [f"{NEW}.1"]
    assert to_poke(inputs(pod("a", started=False, poke=f"{NEW}.1")), NEW, {}) == ()


def test_without_a_file_nobody_is_poked() -> None:
    assert to_poke(inputs(pod("a")), "", {}) == ()


def test_those_that_can_answer_are_asked() -> None:
    world = inputs(
        pod("b"),
        pod("a"),
        pod("no-address", ip=""),
        pod("starts", started=False),
        pod("gone", terminating=True),
        pod("others", policy="other"),
        pod("bare", image=""),
    )
    assert [found.key.name for found in to_ask(world)] == ["a", "b"]


@pytest.mark.parametrize(
    ("current", "attempt", "seconds"),
    [
        (True, 0, 60.0),
        (True, 9, 60.0),
        (False, -1, 0.25),
        (False, 0, 0.25),
        (False, 1, 0.5),
        (False, 4, 4.0),
        (False, 7, 32.0),
        (False, 8, 60.0),
        (False, 10**9, 60.0),
    ],
)
def test_a_sidecar_is_asked_soon_after_a_change_and_every_minute_else(
    current: bool, attempt: int, seconds: float
) -> None:
    assert ask_after(current, attempt, 0.5) == pytest.approx(seconds)
    assert ask_after(current, attempt, 0.0) == pytest.approx(0.9 * seconds)
    assert ask_after(current, attempt, 0.999) < 1.1 * seconds
