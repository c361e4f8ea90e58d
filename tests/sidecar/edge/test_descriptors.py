"""How many sessions fit, counted in descriptors: none is promised that is not there, and none is kept from others."""

from __future__ import annotations

import pytest

from postern_sidecar.edge.bind import BindError
from postern_sidecar.edge.descriptors import OUTBOUND_FIXED, PER_SESSION, RESERVE, UNDECIDED, Lent, Room, Share


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


# What outbound is lent


def taken(share: Share) -> int:
    """All that there are."""
    number = 0
    while share.take():
        number += 1
    return number


def test_outbound_has_half_of_too_few() -> None:
    room = Said(180).room
    lent = Lent(room)
    lent.fit(2000, 512, 256)
    sessions, next_hops = taken(lent.sessions), taken(lent.next_hops)
    assert (sessions, next_hops, lent.questions) == (26, 26, 11)
    assert OUTBOUND_FIXED + sessions + next_hops + 2 * lent.questions == 90 == room.whole - room.capacity


def test_of_many_it_has_what_it_can_ever_need() -> None:
    room = Said(100_000).room
    lent = Lent(room)
    lent.fit(2000, 512, 256)
    assert (taken(lent.sessions), taken(lent.next_hops), lent.questions) == (2000, 2512, 256)
    assert room.whole - room.capacity == OUTBOUND_FIXED + 2000 + 2512 + 512


def test_what_is_given_is_there_for_the_next() -> None:
    lent = Lent(Said(180).room)
    lent.fit(1, 512, 256)
    assert lent.sessions.take()
    assert not lent.sessions.take()
    lent.sessions.give()
    assert lent.sessions.take()


def test_too_few_for_a_single_submission_is_said() -> None:
    room = Said(40).room
    with pytest.raises(BindError, match="ulimit -n"):
        Lent(room).fit(2000, 512, 256)
    assert room.capacity == room.whole


def test_outbound_that_comes_with_a_reload_waits_until_sessions_make_way() -> None:
    said = Said(180)
    while not said.room.full:
        said.room.enter()
        said.room.connect()
    lent = Lent(said.room)
    lent.fit(2000, 512, 256)
    assert not lent.sessions.take()
    while said.room.full:
        said.room.leave(connected=True)
    assert said.room.taken <= 90
    assert lent.sessions.take()


def test_what_is_lent_grows_and_goes_back() -> None:
    said = Said(10_000)
    lent = Lent(said.room)
    sizes = []
    for connections in (10, 1000, 10):
        lent.fit(connections, 512, 256)
        sizes.append(said.room.whole - said.room.capacity)
    assert sizes == [1060, 3040, 3040]  # those who were there before may still be there
    assert lent.sessions.capacity == 10
    lent.give_back()
    assert said.room.capacity == said.room.whole
    lent.fit(10, 512, 256)
    assert said.room.whole - said.room.capacity == 1060


def test_what_is_lent_stops_accepting_and_what_comes_back_resumes_it() -> None:
    said = Said(180)
    for _ in range(60):
        said.room.enter()
        said.room.connect()
    lent = Lent(said.room)
    lent.fit(2000, 512, 256)
    assert said.full == [True]
    lent.give_back()
    assert said.full == [True, False]
