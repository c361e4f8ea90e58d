"""The results as a table that is Markdown and reads as text, as verdicts on the targets, and as data for JSON."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .results import HAPROXY, NOTHING, POSTERN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .results import Results, Round

    Figure = Callable[[Round, str], float]

WAYS = (NOTHING, HAPROXY, POSTERN)
HEADS = ("", *WAYS, "Postern : HAProxy")
MEBI, MEGA, KILO = 1 << 20, 1e6, 1e3

# Title, figure of a way in a round, how it is written.
ROWS: tuple[tuple[str, Figure, str], ...] = (
    ("sessions/s", lambda each, way: each.sessions[way].rate, ",.0f"),
    ("its core was busy", lambda each, way: each.sessions[way].busy, ".0%"),
    ("CPU a session, us", lambda each, way: each.sessions[way].cpu / each.sessions[way].units * 1e6, ".0f"),
    ("sessions/s of one core", lambda each, way: each.sessions[way].one_core, ",.0f"),
    ("bulk MB/s", lambda each, way: each.bulk[way].rate / MEGA, ",.0f"),
    ("bulk MB/s of one core", lambda each, way: each.bulk[way].one_core / MEGA, ",.0f"),
    ("banner after, ms, p50", lambda each, way: each.latency[way].banner_p50, ".2f"),
    ("banner after, ms, p99", lambda each, way: each.latency[way].banner_p99, ".2f"),
    ("session, ms, p50", lambda each, way: each.latency[way].session_p50, ".2f"),
    ("session, ms, p99", lambda each, way: each.latency[way].session_p99, ".2f"),
    ("added until the banner, p99", lambda each, way: added(each, way, "banner_p99"), ".2f"),
    ("added to a session, p50", lambda each, way: added(each, way, "session_p50"), ".2f"),
    ("added to a session, p99", lambda each, way: added(each, way, "session_p99"), ".2f"),
)


@dataclass(frozen=True)
class Verdict:
    """A target of the project, and where this run stands."""

    what: str
    target: str
    got: str
    met: bool

    def __str__(self) -> str:
        return f"{'met    ' if self.met else 'NOT MET'}  {self.what}: {self.got} (target: {self.target})"


def added(each: Round, way: str, figure: str) -> float:
    """What a way adds to nothing in between, in the same round."""
    value: float = getattr(each.latency[way], figure) - getattr(each.latency[NOTHING], figure)
    return value


def text(results: Results) -> str:
    run, sizes = results.run, f"{len(results.rounds)} paired round{'s' if len(results.rounds) > 1 else ''}"
    head = f"{run.date}, {run.versions}, Linux {run.kernel}, {run.cores} cores, median of {sizes}"
    lines = [head, "", *table(results), "", *map(str, verdicts(results))]
    return "\n".join(lines)


def table(results: Results) -> list[str]:
    return aligned([HEADS, *(_row(results, *row) for row in ROWS), *_memory_rows(results)])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown; the first row is the heads."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(_padded(row, widths)) + " |" for row in rows]
    rule = "|" + "|".join([":" + "-" * (widths[0] + 1), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return [lines[0], rule, *lines[1:]]


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = zip(row, widths, strict=True)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]


def _row(results: Results, title: str, figure: Figure, form: str) -> tuple[str, ...]:
    cells = [_cell(results.middle(lambda each: figure(each, way)), form) for way in WAYS]  # noqa: B023
    return (title, *cells, _cell(ratio(results, figure), ".2f"))


def _cell(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def ratio(results: Results, figure: Figure) -> float:
    def in_round(each: Round) -> float:
        below = figure(each, HAPROXY)
        return figure(each, POSTERN) / below if below > 0 else float("nan")

    return results.middle(in_round)


def _memory_rows(results: Results) -> list[tuple[str, ...]]:
    haproxy, postern = results.memory[HAPROXY], results.memory[POSTERN]
    ruled = "" if postern.with_rules is None else f"{postern.with_rules / MEBI:.1f}"
    return [
        ("RSS at rest, MiB", "", f"{haproxy.at_rest / MEBI:.1f}", f"{postern.at_rest / MEBI:.1f}", ""),
        ("RSS with rules, MiB", "", "", ruled, ""),
        (
            f"RSS an idle session, kB ({postern.sessions:,})",
            "",
            f"{haproxy.per_session / KILO:.1f}",
            f"{postern.per_session / KILO:.1f}",
            f"{postern.per_session / haproxy.per_session:.2f}",
        ),
    ]


def verdicts(results: Results) -> list[Verdict]:
    memory = results.memory[POSTERN]
    one_core = ratio(results, lambda each, way: each.sessions[way].one_core)
    bulk = ratio(results, lambda each, way: each.bulk[way].rate)
    kilos, mebis = memory.per_session / KILO, memory.at_rest / MEBI
    return [
        Verdict("sessions/s of one core", "at least HAProxy's", f"{one_core:.2f} of HAProxy's", one_core >= 1),
        Verdict("bulk", "at least HAProxy's", f"{bulk:.2f} of HAProxy's", bulk >= 1),
        _late(results, "added until the banner, p99", "banner_p99"),
        _late(results, "added to a whole session, p99", "session_p99"),
        Verdict("memory of an idle session", "at most 6 kB", f"{kilos:.1f} kB", kilos <= 6),
        Verdict("memory at rest", "at most 32 MiB", f"{mebis:.1f} MiB", mebis <= 32),
    ]


def _late(results: Results, what: str, figure: str) -> Verdict:
    haproxy, postern = (results.middle(lambda each: added(each, way, figure)) for way in (HAPROXY, POSTERN))  # noqa: B023
    return Verdict(what, "at most 1 ms", f"{postern:.2f} ms, HAProxy's {haproxy:.2f}", postern <= 1)


def data(results: Results) -> dict[str, Any]:
    """Every figure of every round, and the verdicts."""
    return {
        "run": dataclasses.asdict(results.run),
        "rounds": [dataclasses.asdict(each) for each in results.rounds],
        "memory": {way: dataclasses.asdict(memory) for way, memory in results.memory.items()},
        "targets": [dataclasses.asdict(verdict) for verdict in verdicts(results)],
    }
