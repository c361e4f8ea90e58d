"""Many time limits, one timer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from postern_sidecar.edge.deadlines import GRAIN, Deadlines

if TYPE_CHECKING:
    from collections.abc import Callable


class Loop:
    """What a loop has of timers; its time is the test's."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self, when, callback))
        return self.timers[-1]

    def pass_to(self, when: float) -> None:
        while due := [timer for timer in self.timers if timer.when <= when]:
            timer = min(due, key=lambda timer: timer.when)
            self.timers.remove(timer)
            self.now = max(self.now, timer.when)
            timer.callback()
        self.now = when


class Timer:
    def __init__(self, loop: Loop, when: float, callback: Callable[[], None]) -> None:
        self.loop, self.when, self.callback = loop, when, callback

    def cancel(self) -> None:
        self.loop.timers.remove(self)


class Waiter:
    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.late: list[float] = []

    def overdue(self) -> None:
        self.late.append(self.loop.now)


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def deadlines(loop: Loop) -> Deadlines:
    fake: Any = loop
    return Deadlines(fake)


def test_each_is_told_once_not_early_and_not_much_later(loop: Loop, deadlines: Deadlines) -> None:
    waiters = [Waiter(loop) for _ in range(200)]
    for number, waiter in enumerate(waiters):
        deadlines.set(waiter, 1 + number / 50)
    assert len(loop.timers) == 1
    loop.pass_to(200)
    for number, waiter in enumerate(waiters):
        (late,) = waiter.late
        assert -0.002 <= late - (101 + number / 50) <= GRAIN + 0.002
    assert len(deadlines) == len(loop.timers) == 0


def test_who_waits_no_more_is_not_told(loop: Loop, deadlines: Deadlines) -> None:
    one, other = Waiter(loop), Waiter(loop)
    deadlines.set(one, 5)
    deadlines.set(other, 5)
    deadlines.unset(one)
    deadlines.unset(one)
    loop.pass_to(200)
    assert (one.late, other.late) == ([], [105.0])


def test_a_new_limit_stands_in_for_the_old(loop: Loop, deadlines: Deadlines) -> None:
    one = Waiter(loop)
    deadlines.set(one, 5)
    loop.pass_to(104)
    deadlines.set(one, 5)
    loop.pass_to(108.9)
    assert one.late == []
    loop.pass_to(110)
    assert one.late == [109.0]


def test_an_earlier_limit_is_not_kept_waiting_by_a_later_one(loop: Loop, deadlines: Deadlines) -> None:
    one, other = Waiter(loop), Waiter(loop)
    deadlines.set(one, 570)
    deadlines.set(other, 1)
    assert len(loop.timers) == 1
    loop.pass_to(101 + GRAIN)
    assert other.late == [101.0]
    assert one.late == []


def test_a_limit_costs_no_timer_while_one_runs(loop: Loop, deadlines: Deadlines) -> None:
    one = Waiter(loop)
    for _ in range(1000):
        deadlines.set(one, 30)
        deadlines.unset(one)
    (timer,) = loop.timers
    loop.pass_to(timer.when)
    assert loop.timers == []


def test_who_is_told_may_wait_again(loop: Loop, deadlines: Deadlines) -> None:
    class Again(Waiter):
        def overdue(self) -> None:
            super().overdue()
            if len(self.late) < 3:
                deadlines.set(self, 1)

    one = Again(loop)
    deadlines.set(one, 1)
    loop.pass_to(200)
    assert one.late == [101.0, 102.0, 103.0]


def test_the_end(loop: Loop, deadlines: Deadlines) -> None:
    one = Waiter(loop)
    deadlines.close()
    deadlines.set(one, 1)
    deadlines.close()
    loop.pass_to(200)
    assert one.late == []


async def test_a_real_loop() -> None:
    told = asyncio.Event()

    class One:
        def overdue(self) -> None:
            told.set()

    deadlines = Deadlines(asyncio.get_running_loop())
    deadlines.set(One(), 0.01)
    await told.wait()
