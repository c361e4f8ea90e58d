"""The outbound results as tables, as verdicts on the targets, and as data for JSON."""

from __future__ import annotations

import dataclasses
from statistics import median
from typing import TYPE_CHECKING, Any

from .outbound_results import EXIM, FRESH, LMTP, POSTERN, POSTFIX, TUNED
from .report import MEBI, MEGA, Verdict, aligned

if TYPE_CHECKING:
    from .outbound_results import OutboundResults

HEADS = ("", "queues", "messages/s", "Postern :", "CPU a message, ms", ": Postern", "its core was busy", "handshakes")


def text(results: OutboundResults) -> str:
    run, sizes = results.run, f"{len(results.rounds)} paired round{'s' if len(results.rounds) > 1 else ''}"
    head = f"{run.date}, {run.versions}, Linux {run.kernel}, {run.cores} cores, median of {sizes}"
    tables = [*aligned([HEADS, *_small(results)]), "", *aligned(_others(results))]
    return "\n".join([head, "", *tables, "", *map(str, verdicts(results))])


def _small(results: OutboundResults) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name in results.rounds[0].small:
        queues = "no" if name.startswith(POSTERN) else "yes"
        faster, cheaper = (
            ("", "") if name == POSTERN else (f"{rate_ratio(results, name):.2f}", f"{cost_ratio(results, name):.2f}")
        )
        middle = {
            figure: results.middle(lambda each: getattr(each.small[name], figure))  # noqa: B023
            for figure in ("rate", "cost", "busy", "handshakes")
        }
        rows.append(
            (
                name,
                queues,
                f"{middle['rate']:,.0f}",
                faster,
                f"{middle['cost']:.2f}",
                cheaper,
                f"{middle['busy']:.0%}",
                f"{middle['handshakes']:,.0f}",
            )
        )
    return rows


def rate_ratio(results: OutboundResults, other: str, mine: str = POSTERN) -> float:
    """How many times as fast Postern is."""
    return results.middle(lambda each: each.small[mine].rate / each.small[other].rate)


def cost_ratio(results: OutboundResults, other: str) -> float:
    """How many times Postern's processor time the other takes."""
    return results.middle(lambda each: each.small[other].cost / each.small[POSTERN].cost)


def bulk_rate(results: OutboundResults, name: str) -> float:
    """Octets a second."""
    return results.middle(lambda each: each.large[name].rate) * results.octets


def _others(results: OutboundResults) -> list[tuple[str, ...]]:
    footprint = results.footprint
    large = f"messages of {results.octets / MEGA:.0f} MB: MB/s"
    handshakes = results.middle(lambda each: each.small[FRESH].handshakes / each.small[FRESH].wall)
    memory = (
        ("RSS just started, MiB", footprint.started),
        ("RSS at rest after deliveries, MiB", footprint.at_rest),
        ("more while a large message passes slowly, MiB", footprint.passing - footprint.before),
        ("Unbound's own RSS, MiB", footprint.unbound),
    )
    return [
        ("", POSTERN, POSTFIX, TUNED),
        ("first message, cold, ms", *(f"{median(results.first[name]):.0f}" for name in (POSTERN, POSTFIX, TUNED))),
        (large, *(f"{bulk_rate(results, name) / MEGA:,.0f}" for name in (POSTERN, POSTFIX, TUNED))),
        ("handshakes/s, a connection a message", f"{handshakes:,.0f}", "", ""),
        *((title, f"{octets / MEBI:.1f}", "", "") for title, octets in memory),
    ]


def verdicts(results: OutboundResults) -> list[Verdict]:
    footprint = results.footprint
    bulk = bulk_rate(results, POSTERN) / MEGA
    more, at_rest = (footprint.passing - footprint.before) / MEBI, footprint.at_rest / MEBI
    return [
        *(
            Verdict(
                f"messages/s against {other}",
                f"at least {least} times",
                f"{rate_ratio(results, other):.1f} times, LMTP door {rate_ratio(results, other, LMTP):.1f}",
                rate_ratio(results, other) >= least,
            )
            for other, least in ((POSTFIX, 4), (TUNED, 2), (EXIM, 12))
        ),
        Verdict("large messages", "at least 100 MB/s", f"{bulk:.0f} MB/s", bulk >= 100),
        Verdict("memory while a large message passes slowly", "at most 8 MiB more", f"{more:.1f} MiB", more <= 8),
        Verdict("memory at rest, inbound and outbound", "at most 56 MiB", f"{at_rest:.1f} MiB", at_rest <= 56),
    ]


def data(results: OutboundResults) -> dict[str, Any]:
    """Every figure of every round, and the verdicts."""
    return {**dataclasses.asdict(results), "targets": [dataclasses.asdict(each) for each in verdicts(results)]}
