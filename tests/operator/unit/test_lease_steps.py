"""What the elector decides from what it has seen: who may take the Lease, and what is written then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from postern_operator.lease import Action, Seen, Times, decide, held, observe, released
from postern_operator.model import Key

TIMES = Times()
KEY = Key("postern-system", "postern-operator")
AT = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)


def lease(holder: str | None, renewed: str = "r1", duration: int | None = 15, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": KEY.name, "resourceVersion": "7", "labels": {"kept": "yes"}},
        "spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": duration, **spec},
    }


@pytest.mark.parametrize(
    ("seen", "now", "action"),
    [
        (Seen(None, "", 0.0, 0.0), 0.0, Action.CREATE),
        (Seen(lease(""), "", 15.0, 0.0), 0.0, Action.TAKE),
        (Seen(lease("me"), "me", 15.0, 0.0), 0.0, Action.TAKE),  # a restart, or a renewal
        (Seen(lease("other"), "other", 15.0, 100.0), 100.0, Action.WAIT),
        (Seen(lease("other"), "other", 15.0, 100.0), 114.9, Action.WAIT),
        (Seen(lease("other"), "other", 15.0, 100.0), 115.0, Action.TAKE),
        (Seen(None, "other", 15.0, 100.0), 114.9, Action.WAIT),  # deleted under a leader that has not noticed yet
        (Seen(None, "other", 15.0, 100.0), 115.0, Action.CREATE),
        (Seen(None, "me", 15.0, 100.0), 100.0, Action.CREATE),
    ],
)
def test_who_may_take_it(seen: Seen, now: float, action: Action) -> None:
    assert decide(seen, "me", now) is action


def test_a_sign_of_life_counts_from_when_it_is_seen_whatever_time_it_names() -> None:
    first = observe(None, lease("other", "1999-01-01T00:00:00.000000Z"), 100.0, TIMES)
    assert (first.holder, first.since, first.duration) == ("other", 100.0, 15.0)
    assert observe(first, lease("other", "1999-01-01T00:00:00.000000Z"), 107.0, TIMES).since == 100.0
    assert observe(first, lease("other", "2099-01-01T00:00:00.000000Z"), 107.0, TIMES).since == 107.0
    assert observe(first, lease("another", "1999-01-01T00:00:00.000000Z"), 107.0, TIMES).since == 107.0


def test_a_label_written_by_hand_is_no_sign_of_life() -> None:
    first = observe(None, lease("other"), 100.0, TIMES)
    touched = lease("other")
    touched["metadata"] = {"resourceVersion": "8"}
    again = observe(first, touched, 107.0, TIMES)
    assert again.since == 100.0
    assert again.lease == touched


def test_a_deleted_lease_is_held_until_its_time_is_over() -> None:
    first = observe(None, lease("other"), 100.0, TIMES)
    gone = observe(first, None, 107.0, TIMES)
    assert gone == Seen(None, "other", 15.0, 100.0)
    assert observe(gone, lease("other"), 109.0, TIMES).since == 109.0
    assert observe(None, None, 5.0, TIMES) == Seen(None, "", 0.0, 5.0)


@pytest.mark.parametrize(
    ("theirs", "honoured"), [(None, 15.0), (0, 15.0), (-3, 15.0), (1, 15.0), (30, 30.0), (60, 60.0), (2**31 - 1, 60.0)]
)
def test_a_strangers_duration_is_honoured_within_bounds(theirs: int | None, honoured: float) -> None:
    assert observe(None, lease("other", duration=theirs), 0.0, TIMES).duration == honoured


@pytest.mark.parametrize("spec", [None, {}, {"holderIdentity": None}])
def test_an_empty_lease_is_free(spec: dict[str, Any] | None) -> None:
    seen = observe(None, {"metadata": {}, "spec": spec}, 0.0, TIMES)
    assert decide(seen, "me", 0.0) is Action.TAKE


def test_the_first_lease() -> None:
    assert held(None, KEY, "me", TIMES, AT) == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"namespace": "postern-system", "name": "postern-operator"},
        "spec": {
            "holderIdentity": "me",
            "leaseDurationSeconds": 15,
            "acquireTime": "2026-03-04T05:06:07.000089Z",
            "renewTime": "2026-03-04T05:06:07.000089Z",
            "leaseTransitions": 0,
        },
    }


def test_a_renewal_keeps_all_but_the_time() -> None:
    ours = lease("me", acquireTime="then", leaseTransitions=4)
    assert held(ours, KEY, "me", TIMES, AT) == {
        **ours,
        "spec": {**ours["spec"], "renewTime": "2026-03-04T05:06:07.000089Z"},
    }


@pytest.mark.parametrize(("before", "after"), [(None, 1), (0, 1), (4, 5), (2**31 - 2, 2**31 - 1), (2**31 - 1, 0)])
def test_a_change_of_hands_is_counted_within_32_bits(before: int | None, after: int) -> None:
    spec = held(lease("other", leaseTransitions=before), KEY, "me", TIMES, AT)["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("me", after)
    assert spec["acquireTime"] == spec["renewTime"]


def test_a_released_lease_has_no_holder_and_keeps_its_count() -> None:
    spec = released(lease("me", leaseTransitions=4), AT)["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("", 1, 4)


def test_times_are_written_in_utc() -> None:
    there = AT.astimezone(timezone(timedelta(hours=9)))
    assert held(None, KEY, "me", TIMES, there)["spec"]["renewTime"] == "2026-03-04T05:06:07.000089Z"


def test_one_call_leaves_time_for_another_and_the_work_time_to_end() -> None:
    assert TIMES.call * 2 <= TIMES.deadline < TIMES.duration
    assert (TIMES.duration, TIMES.deadline, TIMES.retry) == (15.0, 10.0, 1.0)
