"""The work queue: what is due when, what waits for what, and the pace of what fails."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from postern_operator.kube import KubeError, TooManyRequests
from postern_operator.queue import FIRST, LONGEST, Queue, Schedule, backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0.2), (1, 0.2), (2, 0.4), (3, 0.8), (8, 25.6), (9, 51.2), (10, 60.0), (10**9, 60.0)]
)
def test_failures_are_tried_later_and_later(failures: int, seconds: float) -> None:
    assert backoff(failures, 0.0) == pytest.approx(seconds)


def test_chance_spreads_by_a_quarter_and_the_api_server_is_heeded() -> None:
    assert FIRST <= backoff(1, 0.999) < 1.25 * FIRST
    assert backoff(1, 0.0, retry_after=7.0) == 7.0
    assert backoff(20, 0.0, retry_after=7.0) == LONGEST


def test_a_key_is_there_once_and_the_earlier_time_counts() -> None:
    schedule: Schedule[str] = Schedule()
    assert schedule.add("a", 5.0)
    assert schedule.add("a", 3.0)
    assert schedule.add("a", 9.0)
    assert len(schedule) == 1
    assert schedule.next_due() == 3.0
    assert schedule.take(2.9) is None
    assert schedule.take(3.0) == "a"
    schedule.done("a")
    assert schedule.take(100.0) is None


def test_the_earliest_comes_first_and_equals_in_their_order() -> None:
    schedule: Schedule[str] = Schedule()
    for key, due in (("c", 2.0), ("a", 1.0), ("b", 1.0)):
        schedule.add(key, due)
    assert [schedule.take(5.0) for _ in range(4)] == ["a", "b", "c", None]


def test_a_key_that_is_worked_on_waits_and_then_comes_once_more() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", 0.0)
    assert schedule.take(0.0) == "a"
    schedule.add("a", 0.0)
    schedule.add("a", 0.0)
    assert schedule.take(1.0) is None
    assert schedule.next_due() is None  # or a worker would spin
    schedule.add("b", 0.5)
    assert schedule.take(1.0) == "b"
    schedule.done("a")
    assert schedule.take(1.0) == "a"
    schedule.done("a")
    assert schedule.take(1.0) is None


def test_what_fails_waits_even_where_it_was_added_meanwhile_and_success_forgets() -> None:
    schedule: Schedule[str] = Schedule()
    due = []
    for _ in range(3):
        schedule.add("a", 0.0)
        assert schedule.take(1000.0) == "a"
        schedule.add("a", 0.0)
        due.append(schedule.failed("a", 0.0, 0.0))
        assert schedule.next_due() == due[-1]
        assert schedule.take(due[-1] - 0.01) is None
    assert due == [0.2, 0.4, 0.8]
    assert schedule.take(1.0) == "a"
    schedule.done("a")
    schedule.add("a", 0.0)
    schedule.take(0.0)
    assert schedule.failed("a", 0.0, 0.0) == 0.2


def test_a_change_after_a_failure_does_not_wait() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", 0.0)
    schedule.take(0.0)
    for _ in range(10):
        schedule.failed("a", 0.0, 0.0)
    schedule.add("a", 1.0)
    assert schedule.take(1.0) == "a"


def test_a_change_after_a_refusal_waits_for_as_long_as_the_api_server_said() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", 0.0)
    schedule.take(0.0)
    schedule.failed("a", 0.0, 0.0, retry_after=7.0)
    schedule.add("a", 1.0)
    assert schedule.take(6.9) is None
    assert schedule.take(7.0) == "a"
    schedule.add("a", 7.0)
    schedule.done("a")
    assert schedule.take(7.0) == "a"


def test_work_that_was_cancelled_is_due() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", 0.0)
    schedule.take(0.0)
    schedule.abandoned("a", 3.0)
    assert schedule.overdue(3.0) == 1
    assert schedule.take(3.0) == "a"


def test_it_is_bounded_in_keys_and_in_times() -> None:
    schedule: Schedule[int] = Schedule(room=2)
    assert schedule.add(1, 9.0)
    assert schedule.add(2, 9.0)
    assert not schedule.add(3, 1.0)
    assert schedule.add(2, 8.0)
    for step in range(1000):  # each leaves an older entry behind
        assert schedule.add(1, 7.0 - step / 1000)
    assert len(schedule._heap) <= 9
    assert [schedule.take(9.0), schedule.take(9.0), schedule.take(9.0)] == [1, 2, None]


def test_old_times_do_not_pile_up_behind_few_keys() -> None:
    schedule: Schedule[int] = Schedule()
    schedule.add(1, 9.0)
    for step in range(1000):
        schedule.add(2, 8.0 - step / 1000)
    assert len(schedule._heap) <= 9
    assert [schedule.take(9.0), schedule.take(9.0), schedule.take(9.0)] == [2, 1, None]


class Work:
    """What the queue works on: counts, and fails where it is told to."""

    def __init__(self, queue: Queue[str], script: dict[str, list[BaseException | float | None]]) -> None:
        self.queue, self.script = queue, script
        self.seen: list[str] = []
        self.at_once = self.most = 0
        self.empty = asyncio.Event()

    async def __call__(self, key: str) -> float | None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        self.seen.append(key)
        step = self.script[key].pop(0) if self.script.get(key) else None
        if not any(self.script.values()):
            self.empty.set()
        if isinstance(step, BaseException):
            raise step
        return step


async def worked(queue: Queue[str], work: Callable[[str], Awaitable[float | None]], until: asyncio.Event) -> None:
    task = asyncio.create_task(queue.run(work, workers=2))
    async with asyncio.timeout(10):
        await until.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_failures_and_faults_come_again_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    busy = TooManyRequests("busy", 429)
    busy.retry_after = 0.001
    counted: list[str] = []
    clock = iter(range(0, 10**9, 100))  # every look is a hundred seconds later: nothing is waited for
    queue: Queue[str] = Queue(
        clock=lambda: float(next(clock)), chance=lambda: 0.0, observe=lambda result, _: counted.append(result)
    )
    work = Work(queue, {"a": [busy, KubeError("gone"), ValueError("a fault"), 0.5, None], "b": [None]})
    queue.add("a")
    queue.add("b", 5.0)
    await worked(queue, work, work.empty)
    assert sorted(work.seen) == ["a"] * 5 + ["b"]
    assert counted.count("failed") == 3
    assert "internal error" in caplog.text
    assert "busy" in caplog.text


async def test_what_finds_no_room_is_counted() -> None:
    counted: list[str] = []
    queue: Queue[str] = Queue(room=1, observe=lambda result, _: counted.append(result))
    queue.add("a")
    queue.add("b")
    assert (len(queue), queue.overdue, counted) == (1, 1, ["dropped"])


async def test_cancelled_work_has_ended_and_is_taken_up_again() -> None:
    queue: Queue[str] = Queue()
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work(_: str) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    queue.add("a")
    await worked(queue, work, begun)
    assert ended.is_set()
    again = asyncio.Event()

    async def second(_: str) -> None:
        again.set()

    await worked(queue, second, again)


async def test_one_key_is_never_worked_on_twice_at_once() -> None:
    queue: Queue[str] = Queue()
    work = Work(queue, {"a": [0.0] * 50 + [None]})
    queue.add("a")
    task = asyncio.create_task(queue.run(work, workers=4))
    async with asyncio.timeout(10):
        while not work.empty.is_set():
            queue.add("a")
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert work.most == 1


async def test_a_key_whose_time_comes_is_worked_on_though_nothing_happens() -> None:
    queue: Queue[str] = Queue()
    work = Work(queue, {"a": [None]})
    queue.add("a", 0.05)
    await worked(queue, work, work.empty)
    assert work.seen == ["a"]
