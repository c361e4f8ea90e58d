"""Label selectors as Kubernetes means them, and one order over all policies of a namespace."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postern_operator.model import Key, PolicyRecord
from postern_operator.select import opted_out, ordered, query, rank, selects, winner
from postern_sidecar.config.model import LabelExpression, LabelSelector, Operator

if TYPE_CHECKING:
    import random

KEYS = ("app", "tier", "example.org/role")
VALUES = ("", "mail", "web", "edge")


def expression(key: str, operator: Operator, *values: str) -> LabelExpression:
    return LabelExpression(key=key, operator=operator, values=values)


def selector(*expressions: LabelExpression, **labels: str) -> LabelSelector:
    return LabelSelector(match_labels=labels, match_expressions=expressions)


def policy(name: str, selected: LabelSelector | None = None, priority: int = 0, created: str = "") -> PolicyRecord:
    return PolicyRecord(Key("mail", name), f"uid-{name}", 1, created, selected, priority, None)


MAIL = {"app": "mail"}


@pytest.mark.parametrize(
    ("chosen", "labels", "expected"),
    [
        (None, MAIL, False),
        (selector(), MAIL, False),  # in Kubernetes: everything
        (selector(app="mail"), MAIL, True),
        (selector(app="mail"), {"app": "web"}, False),
        (selector(app="mail"), {}, False),
        (selector(app="mail", tier="edge"), MAIL, False),
        (selector(app="mail", tier="edge"), {**MAIL, "tier": "edge"}, True),
        (selector(app=""), {"app": ""}, True),
        (selector(app=""), {}, False),
        (selector(expression("app", Operator.IN, "web", "mail")), MAIL, True),
        (selector(expression("app", Operator.IN, "web")), MAIL, False),
        (selector(expression("app", Operator.IN, "web")), {}, False),
        (selector(expression("app", Operator.NOT_IN, "web")), MAIL, True),
        (selector(expression("app", Operator.NOT_IN, "mail")), MAIL, False),
        (selector(expression("app", Operator.NOT_IN, "mail")), {}, True),  # a missing label is in no list
        (selector(expression("app", Operator.EXISTS)), MAIL, True),
        (selector(expression("app", Operator.EXISTS)), {"App": "mail"}, False),
        (selector(expression("app", Operator.DOES_NOT_EXIST)), MAIL, False),
        (selector(expression("app", Operator.DOES_NOT_EXIST)), {}, True),
        (selector(expression("tier", Operator.EXISTS), app="mail"), MAIL, False),  # both have to hold
        (selector(expression("tier", Operator.EXISTS), expression("app", Operator.EXISTS)), MAIL, False),
    ],
)
def test_a_selector_selects(chosen: LabelSelector | None, labels: dict[str, str], expected: bool) -> None:
    assert selects(chosen, labels) is expected


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (None, None),
        (selector(), None),
        (selector(tier="edge", app="mail"), "app=mail,tier=edge"),
        (selector(app=""), "app="),
        (selector(expression("app", Operator.IN, "web", "mail")), "app in (web,mail)"),
        (selector(expression("app", Operator.NOT_IN, "web")), "app notin (web)"),
        (selector(expression("app", Operator.EXISTS)), "app"),
        (selector(expression("app", Operator.DOES_NOT_EXIST)), "!app"),
        (selector(expression("tier", Operator.EXISTS), app="mail"), "app=mail,tier"),
    ],
)
def test_the_query_is_the_api_servers_syntax(chosen: LabelSelector | None, expected: str | None) -> None:
    assert query(chosen) == expected


def reference(text: str, labels: dict[str, str]) -> bool:
    """The grammar of `labelSelector`, read on its own: of apimachinery's labels package."""
    for term in re.split(r",(?![^(]*\))", text):
        if listed := re.fullmatch(r"(\S+) (in|notin) \((.*)\)", term):
            values = listed[3].split(",")
            if listed[2] == "in" and (listed[1] not in labels or labels[listed[1]] not in values):
                return False
            if listed[2] == "notin" and listed[1] in labels and labels[listed[1]] in values:
                return False
        elif "=" in term:
            key, _, value = term.partition("=")
            if key not in labels or labels[key] != value:
                return False
        elif (term.lstrip("!") in labels) is term.startswith("!"):
            return False
    return True


expressions = st.one_of(
    st.builds(
        LabelExpression,
        key=st.sampled_from(KEYS),
        operator=st.sampled_from([Operator.IN, Operator.NOT_IN]),
        values=st.lists(st.sampled_from(VALUES), min_size=1, max_size=3).map(tuple),
    ),
    st.builds(
        LabelExpression,
        key=st.sampled_from(KEYS),
        operator=st.sampled_from([Operator.EXISTS, Operator.DOES_NOT_EXIST]),
    ),
)
label_sets = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES))
selectors = st.builds(
    LabelSelector, match_labels=label_sets, match_expressions=st.lists(expressions, max_size=3).map(tuple)
)


@given(selectors, label_sets)
def test_what_is_selected_here_is_what_the_query_would_bring(chosen: LabelSelector, labels: dict[str, str]) -> None:
    text = query(chosen)
    assert selects(chosen, labels) is (text is not None and reference(text, labels))


def test_the_highest_priority_wins_then_the_oldest_then_the_name() -> None:
    anything = selector(app="mail")
    best_first = [
        policy("z-high", anything, priority=10, created="2026-11-22T10:00:00Z"),
        policy("z-old", anything, created="2026-11-20T10:00:00Z"),
        policy("a-new", anything, created="2026-11-21T10:00:00Z"),
        policy("b-new", anything, created="2026-11-21T10:00:00Z"),
        policy("low", anything, priority=-1, created="2026-01-01T00:00:00Z"),
    ]
    for order in itertools.permutations(best_first):
        assert ordered(order) == best_first
        assert winner(order, MAIL) is best_first[0]


def test_a_policy_that_does_not_select_the_pod_does_not_win_it() -> None:
    other = policy("other", selector(app="web"), priority=100)
    without = policy("without", None, priority=100)
    fits = policy("fits", selector(app="mail"))
    assert winner([other, without, fits], MAIL) is fits
    assert winner([other, without], MAIL) is None
    assert winner([], MAIL) is None


@given(
    st.lists(
        st.builds(
            policy,
            name=st.sampled_from("abcdef"),
            selected=selectors,
            priority=st.integers(-1, 1),
            created=st.sampled_from(["2026-11-20T10:00:00Z", "2026-11-21T10:00:00Z"]),
        ),
        unique_by=lambda one: one.key,
        max_size=6,
    ),
    label_sets,
    st.randoms(use_true_random=False),
)
def test_the_order_is_total(policies: list[PolicyRecord], labels: dict[str, str], chance: random.Random) -> None:
    shuffled = list(policies)
    chance.shuffle(shuffled)
    assert ordered(shuffled) == ordered(policies)
    assert len({rank(one) for one in policies}) == len(policies)
    first = next((one for one in ordered(policies) if selects(one.selector, labels)), None)
    assert winner(shuffled, labels) is first


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, False),
        ({"postern.dev/inject": "disabled"}, True),
        ({"postern.dev/inject": "enabled"}, False),
        ({"postern.dev/inject": "Disabled"}, False),
    ],
)
def test_a_pod_opts_out_by_its_label(labels: dict[str, str], expected: bool) -> None:
    assert opted_out(labels) is expected
