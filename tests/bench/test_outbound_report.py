"""What the bench makes of its outbound figures: paired ratios, medians, and the verdicts on the targets."""

from __future__ import annotations

import json

import pytest
from bench.outbound_report import data, text, verdicts
from bench.outbound_results import (
    EXIM,
    FRESH,
    LMTP,
    POSTERN,
    POSTFIX,
    TUNED,
    Delivered,
    Footprint,
    OutboundResults,
    Round,
)
from bench.results import Run

MEBI = 1 << 20


def delivered(rate: float, cost: float = 1.0, handshakes: int = 0) -> Delivered:
    return Delivered(1000, 1000 / rate, cost, handshakes)


def a_round(*, postfix: float = 250, tuned: float = 500, exim: float = 80, bulk: float = 10, speed: float = 1) -> Round:
    """Messages a second beside Postern's 1,000; `speed` is the machine's, which changes from round to round."""
    rates = {POSTERN: 1000.0, LMTP: 900.0, FRESH: 300.0, POSTFIX: postfix, TUNED: tuned, EXIM: exim}
    return Round(
        small={name: delivered(rate * speed, 1000 / rate) for name, rate in rates.items()},
        large={name: delivered(bulk * speed) for name in (POSTERN, POSTFIX, TUNED)},
    )


def results(*rounds: Round, more: int = 8 * MEBI, at_rest: int = 56 * MEBI) -> OutboundResults:
    footprint = Footprint(at_rest - MEBI, at_rest, at_rest, at_rest + more, 15 * MEBI)
    first = dict.fromkeys((POSTERN, POSTFIX, TUNED), (20.0, 90.0, 30.0))
    run = Run("6.1", 2, "Postfix 3.7", "2026-11-22")
    return OutboundResults(run, rounds or (a_round(),), first, 10_000_000, footprint)


def met(run: OutboundResults) -> list[bool]:
    return [verdict.met for verdict in verdicts(run)]


def test_targets_are_met_on_the_very_line() -> None:
    assert met(results(a_round(exim=1000 / 12))) == [True] * 6


@pytest.mark.parametrize(
    ("run", "missed"),
    [
        (results(a_round(postfix=251)), 0),
        (results(a_round(tuned=501)), 1),
        (results(a_round(exim=84)), 2),
        (results(a_round(bulk=9.9)), 3),
        (results(more=8 * MEBI + 1), 4),
        (results(at_rest=56 * MEBI + 1), 5),
    ],
)
def test_each_target_is_missed_alone(run: OutboundResults, missed: int) -> None:
    assert met(run) == [number != missed for number in range(6)]


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that is slower in one round changes no ratio; one round out of three changes no median."""
    run = results(a_round(postfix=125), a_round(postfix=125, speed=0.1), a_round(postfix=900, speed=0.1))
    assert "8.0 times, LMTP door 7.2" in str(verdicts(run)[0])


def test_the_table_says_who_queues_and_what_it_costs() -> None:
    lines = text(results()).splitlines()
    (mine,) = (line for line in lines if line.startswith("| Postern  "))
    (other,) = (line for line in lines if line.startswith("| Postfix  "))
    assert [cell.strip() for cell in mine.split("|")[2:6]] == ["no", "1,000", "", "1.00"]
    assert [cell.strip() for cell in other.split("|")[2:7]] == ["yes", "250", "4.00", "4.00", "4.00"]
    (first,) = (line for line in lines if line.startswith("| first message"))
    assert first.split("|")[2].strip() == "30"


def test_data_is_json_with_every_round() -> None:
    written = json.loads(json.dumps(data(results(a_round(), a_round()))))
    assert len(written["rounds"]) == 2
    assert written["rounds"][1]["small"][POSTERN]["messages"] == 1000
    assert len(written["targets"]) == 6
