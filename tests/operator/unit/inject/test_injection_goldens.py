"""Pods in and out, as files; each is injected twice. tests/support/injection_goldens.py writes them."""

from __future__ import annotations

import copy

import pytest

from injection_goldens import VERSION, golden, names, result
from postern_operator.inject import inject
from postern_operator.reasons import Skip

NOT_OF_A_POD = {Skip.NO_POLICY, Skip.POLICY_INVALID, Skip.INTERNAL_ERROR}


@pytest.mark.parametrize("name", names())
def test_what_comes_out(name: str) -> None:
    case = golden(name)
    assert result(case) == case.expected


@pytest.mark.parametrize("name", names())
def test_the_pod_that_was_given_is_left_alone(name: str) -> None:
    case = golden(name)
    before = copy.deepcopy(case.pod)
    result(case)
    assert case.pod == before


@pytest.mark.parametrize("name", [name for name in names() if not golden(name).skipped])
def test_twice_is_once(name: str) -> None:
    case = golden(name)
    once = case.expected["pod"]
    assert inject(once, case.injection, case.settings, VERSION).pod == once


def test_every_reason_that_a_pod_can_give_has_one() -> None:
    skipped = {golden(name).expected.get("skipped") for name in names()} - {None}
    assert skipped == {reason.value for reason in set(Skip) - NOT_OF_A_POD}


def test_there_are_enough() -> None:
    assert len(names()) >= 25
