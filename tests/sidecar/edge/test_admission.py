"""Places at a destination: who gets one, in which order, and what is left of those who gave up."""

from __future__ import annotations

import asyncio

import pytest

from postern_sidecar.edge.admission import Admission

HERE, THERE = "example.org", "example.net"


async def turns() -> None:
    """Until everybody who can go on has."""
    for _ in range(5):
        await asyncio.sleep(0)


class Queue:
    """Those who want a place at HERE, by number, in the order in which they were let in."""

    def __init__(self, it: Admission) -> None:
        self.it = it
        self.let_in: list[int] = []
        self.tasks: list[asyncio.Task[bool]] = []

    async def join(self, number: int, seconds: float = 60) -> None:
        async def wait() -> bool:
            admitted = await self.it.admit(HERE, seconds)
            if admitted:
                self.let_in.append(number)
            return admitted

        self.tasks.append(asyncio.get_running_loop().create_task(wait()))
        await turns()


async def test_places_are_counted_for_each_destination() -> None:
    it = Admission(2)
    assert await it.admit(HERE, 1)
    assert await it.admit(HERE, 1)
    assert await it.admit(THERE, 1)
    assert not await it.admit(HERE, 0.01)
    it.leave(HERE)
    assert await it.admit(HERE, 1)


async def test_whoever_waited_longest_is_next() -> None:
    queue = Queue(Admission(1))
    for number in range(4):
        await queue.join(number)
    for number in range(4):
        assert queue.let_in == list(range(number + 1))
        queue.it.leave(HERE)
        await turns()
    assert len(queue.it) == 0


async def test_who_comes_later_does_not_pass() -> None:
    """The place was left, and the one who waits has not been told yet."""
    queue = Queue(Admission(1))
    await queue.join(0)
    await queue.join(1)
    queue.it.leave(HERE)
    assert not await queue.it.admit(HERE, 0)
    assert queue.let_in == [0, 1]
    queue.it.leave(HERE)


async def test_who_is_cancelled_leaves_no_hole() -> None:
    queue = Queue(Admission(1))
    for number in range(3):
        await queue.join(number)
    queue.tasks[1].cancel()
    await turns()
    queue.it.leave(HERE)
    await turns()
    assert queue.let_in == [0, 2]
    queue.it.leave(HERE)
    assert len(queue.it) == 0


async def test_who_is_cancelled_in_the_moment_of_his_turn_hands_it_on() -> None:
    queue = Queue(Admission(1))
    for number in range(3):
        await queue.join(number)
    queue.it.leave(HERE)
    queue.tasks[1].cancel()
    await turns()
    assert queue.let_in == [0, 2]
    queue.it.leave(HERE)
    assert len(queue.it) == 0


async def test_who_is_cancelled_in_the_moment_of_his_turn_and_is_alone() -> None:
    queue = Queue(Admission(1))
    await queue.join(0)
    await queue.join(1)
    queue.it.leave(HERE)
    queue.tasks[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await queue.tasks[1]
    assert len(queue.it) == 0
    assert await queue.it.admit(HERE, 0)


async def test_who_has_waited_long_enough_is_out_of_the_way() -> None:
    it = Admission(1)
    assert await it.admit(HERE, 1)
    assert not await it.admit(HERE, 0.01)
    it.leave(HERE)
    assert len(it) == 0


async def test_who_gives_up_and_is_not_awaited_yet_takes_no_place() -> None:
    queue = Queue(Admission(1))
    for number in range(3):
        await queue.join(number)
    queue.tasks[1].cancel()  # it has not run yet
    queue.it.leave(HERE)
    await turns()
    assert queue.let_in == [0, 2]
    queue.it.leave(HERE)


async def test_more_places_after_a_reload() -> None:
    queue = Queue(Admission(1))
    for number in range(4):
        await queue.join(number)
    queue.it.places = 2
    queue.it.leave(HERE)
    await turns()
    assert queue.let_in == [0, 1, 2]


async def test_a_place_that_a_reload_adds_is_for_those_who_wait() -> None:
    queue = Queue(Admission(1))
    await queue.join(0)
    await queue.join(1)
    queue.it.places = 2
    assert not await queue.it.admit(HERE, 0)
    queue.it.leave(HERE)
    await turns()
    assert queue.let_in == [0, 1]


async def test_fewer_places_after_a_reload() -> None:
    queue = Queue(Admission(3))
    for number in range(4):
        await queue.join(number)
    queue.it.places = 1
    queue.it.leave(HERE)
    await turns()
    assert queue.let_in == [0, 1, 2]
    queue.it.leave(HERE)
    queue.it.leave(HERE)
    await turns()
    assert queue.let_in == [0, 1, 2, 3]
    queue.it.leave(HERE)
    assert len(queue.it) == 0
