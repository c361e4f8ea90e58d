"""How many sessions fit, counted in descriptors: none is promised that is not there, and none is kept from others."""

from __future__ import annotations

import pytest

from postern_sidecar.edge.descriptors import PER_SESSION, RESERVE, UNDECIDED, Room


class Said:
    def __init__(self, capacity: int) -> None:
        self.full: list[bool] = []
        self.room = Room(10 + RESERVE + capacity, 10, lambda: self.full.append(True), lambda: self.full.append(False))

    def crowd(self, limit: int = 100_000) -> int:
        """Sessions come until there is no room: how many."""
        for number in range(limit):
            if self.room.full:
                return number
            self.room.enter()
        return limit


@pytest.mark.parametrize("capacity", [2, 3, 4, 5, 100, 2 * UNDECIDED])
def test_whoever_is_let_in_can_be_handed_over(capacity: int) -> None:
    said = Said(capacity)
    sessions = said.crowd()
    assert sessions == capacity // PER_SESSION
    assert all(said.room.connect() for _ in range(sessions))
    assert said.room.taken <= capacity
    assert said.full == [True]
    said.room.leave(connected=True)
    assert said.full == [True, False]


def test_clients_that_never_finish_a_header_take_one_each() -> None:
    said = Said(20_000)
    assert said.crowd() > 19_000
    assert said.room.taken + UNDECIDED <= 20_000
    assert [said.room.connect() for _ in range(UNDECIDED + 2)].count(False) == 1
    assert said.room.taken == 20_000


def test_all_of_it_comes_back() -> None:
    said = Said(10)
    for connects in (False, True, True):
        said.room.enter()
        if connects:
            assert said.room.connect()
    for connected in (True, False, True):
        said.room.leave(connected=connected)
    assert (said.room.taken, said.room.waiting) == (0, 0)


def test_no_room_for_a_single_session_is_said() -> None:
    with pytest.raises(ValueError, match="ulimit -n"):
        Said(1)
