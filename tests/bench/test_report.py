"""What the bench makes of its figures: paired ratios, medians, and the verdicts on the targets."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from bench.report import data, table, verdicts
from bench.results import HAPROXY, NOTHING, POSTERN, Cost, Latency, Memory, Results, Round, Run


def cost(rate: float, one_core: float) -> Cost:
    return Cost(1000, 1000 / rate, 1000 / one_core)


def a_round(
    *, sessions: float = 1.0, bulk: float = 1.0, banner: float = 1.0, added: float = 1.0, speed: float = 1.0
) -> Round:
    """Postern in relation to HAProxy; `speed` is the machine's, which changes from round to round."""
    below = cost(2000 * speed, 4000 * speed)
    nothing = Latency(0.2, 0.5, 0.5, 2.0 / speed)
    postern = replace(nothing, banner_p99=nothing.banner_p99 + banner, session_p99=nothing.session_p99 + added)
    return Round(
        sessions={NOTHING: Cost(1000, 0.4, 0.0), HAPROXY: below, POSTERN: cost(2000 * speed, sessions * 4000 * speed)},
        bulk={NOTHING: Cost(1000, 0.4, 0.0), HAPROXY: below, POSTERN: cost(bulk * 2000 * speed, 4000 * speed)},
        latency={NOTHING: nothing, HAPROXY: nothing, POSTERN: postern},
    )


def results(*rounds: Round, at_rest: int = 32 << 20, idle: int = 60_000_000) -> Results:
    memory = {HAPROXY: Memory(1 << 20, 5 << 20, 1000), POSTERN: Memory(at_rest, at_rest + idle, 10_000, 40 << 20)}
    return Results(Run("6.1", 2, "HAProxy 2.6", "2026-11-22"), rounds, memory)


def met(run: Results) -> list[bool]:
    return [verdict.met for verdict in verdicts(run)]


def test_targets_are_met_on_the_very_line() -> None:
    assert met(results(a_round())) == [True] * 6


@pytest.mark.parametrize(
    ("run", "missed"),
    [
        (results(a_round(sessions=0.99)), 0),
        (results(a_round(bulk=0.99)), 1),
        (results(a_round(banner=1.01)), 2),
        (results(a_round(added=1.01)), 3),
        (results(a_round(), idle=60_000_001), 4),
        (results(a_round(), at_rest=(32 << 20) + 1), 5),
    ],
)
def test_each_target_is_missed_alone(run: Results, missed: int) -> None:
    assert met(run) == [number != missed for number in range(6)]


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that is slower in one round changes no ratio; one round out of three changes no median."""
    run = results(a_round(sessions=0.5), a_round(sessions=0.5, speed=0.1), a_round(sessions=3.0, speed=0.1))
    assert "0.50 of HAProxy's" in str(verdicts(run)[0])


def test_table_is_aligned_markdown() -> None:
    lines = table(results(a_round(sessions=0.8)))
    assert len({len(line) for line in lines}) == 1
    (row,) = (line for line in lines if line.startswith("| sessions/s of one core "))
    assert row.split("|")[2:] == [" " * 9, "   4,000 ", "   3,200 ", "              0.80 ", ""]


def test_data_is_json_with_every_round() -> None:
    written = json.loads(json.dumps(data(results(a_round(), a_round()))))
    assert len(written["rounds"]) == 2
    assert written["rounds"][1]["sessions"][POSTERN]["units"] == 1000
    assert [target["met"] for target in written["targets"]] == [True] * 6
