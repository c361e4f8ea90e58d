"""The operator's figures as tables, as verdicts on the targets, and as data for JSON."""

from __future__ import annotations

import dataclasses
from statistics import median
from typing import TYPE_CHECKING, Any

from .report import MEBI, Verdict, aligned

if TYPE_CHECKING:
    from .cluster_results import Change, Client, Creation, ScaleResults, Tables

SLACK = 1.02
"""Up to so much more of anything after all changes than after the first fifth is not growth, but what is just done."""
SMALL = 50  # entries: likewise


def text(results: ScaleResults) -> str:
    run, sizes = results.run, results.sizes
    head = f"{run.date}, {run.versions}, Linux {run.kernel}, {run.cores} cores, "
    head += f"{sizes.pods:,} pods of {sizes.policies} policies in {sizes.namespaces} namespaces"
    parts = [_changes(results), _tables(results), _creations(results), _clients(results), _rest(results)]
    lines = [head]
    for part in parts:
        lines += ["", *part]
    return "\n".join([*lines, "", *map(str, verdicts(results))])


def _changes(results: ScaleResults) -> list[str]:
    heads = ("a change to a policy with", "last annotation, s", "Programmed, s", "annotations/s", "CPU, s", "a pod, ms")
    changes = [*results.large, *results.everything.changes]
    return aligned([heads, *map(_change, changes)])


def _change(change: Change) -> tuple[str, ...]:
    figures = (change.last_poke, change.programmed)
    each = change.cpu / change.pods * 1e3
    seconds = (f"{figure:.2f}" for figure in figures)
    return (f"{change.pods:,} pods", *seconds, f"{change.rate:.0f}", f"{change.cpu:.2f}", f"{each:.2f}")


def _tables(results: ScaleResults) -> list[str]:
    first, *_, last = results.tables
    rows = [
        ("after so many changes", *(f"{each.changes:,}" for each in (first, last))),
        ("RSS, MiB", *(f"{each.resident / MEBI:.1f}" for each in (first, last))),
        ("blocks of memory", *(f"{each.blocks:,}" for each in (first, last))),
        ("objects", *(f"{each.objects:,}" for each in (first, last))),
        ("entries of all tables", *(f"{sum(each.tables.values()):,}" for each in (first, last))),
    ]
    return aligned(rows)


def _creations(results: ScaleResults) -> list[str]:
    rows = [("pods created", "webhook", "p50, ms", "p99, ms", "pods/s"), *map(_creation, results.creations)]
    return aligned(rows)


def _creation(each: Creation) -> tuple[str, ...]:
    how = "one at a time" if each.parallel == 1 else f"{each.parallel} at a time"
    return (how, "yes" if each.webhook else "no", f"{each.p50:.1f}", f"{each.p99:.1f}", f"{each.rate:.0f}")


def _clients(results: ScaleResults) -> list[str]:
    every = results.everything
    rows = [("annotations by", "a second", "CPU of each, ms"), _client("a bare client, before", every.bare[0])]
    rows += [_client("a bare client, after", every.bare[-1]), _client("the official client, raw", every.official)]
    rows.append(_client("a bare client that no admission policy checks", every.unchecked))
    cpu = median(change.cpu / change.pods for change in every.changes)
    rows.append(("the operator, all that it does", f"{every.rate:.0f}", f"{cpu * 1e3:.2f}"))
    return aligned(rows)


def _client(name: str, client: Client) -> tuple[str, ...]:
    return (name, f"{client.rate:.0f}", f"{client.cpu * 1e3:.2f}")


def _rest(results: ScaleResults) -> list[str]:
    start, rest = results.start, results.rest
    what = ", ".join(f"{number} {kind}" for kind, number in rest.kinds.items())
    minute = rest.requests / rest.seconds * 60
    begun = f"start: ready {start.ready:.1f} s, all statuses right {start.settled:.1f} s, {start.cpu:.1f} s of CPU"
    return [
        f"{begun}; RSS {start.resident / MEBI:.0f} MiB, at most {start.peak / MEBI:.0f}",
        f"at rest: {rest.cpu / rest.seconds:.1%} of a core, {minute:.0f} requests a minute: {what}",
        f"each of the many changes: {results.change_cpu * 1e3:.0f} ms of CPU",
    ]


def verdicts(results: ScaleResults) -> list[Verdict]:
    start, every = results.start, results.everything
    last = median(change.last_poke for change in results.large)
    most = max(start.peak, every.peak, *(each.resident for each in results.tables)) / MEBI
    grown = growth(results.tables[0], results.tables[-1])
    got = ", ".join(f"{name} {before:,} -> {after:,}" for name, before, after in grown) or "nothing grew"
    pods = results.large[0].pods
    return [
        Verdict("start to ready", "at most 30 s", f"{start.ready:.1f} s", start.ready <= 30),
        Verdict("start to all statuses right", "at most 30 s", f"{start.settled:.1f} s", start.settled <= 30),
        Verdict("memory, at most", "at most 350 MiB", f"{most:.0f} MiB", most <= 350),
        Verdict(f"{results.tables[-1].changes:,} policy changes", "nothing grows", got, not grown),
        Verdict(f"last annotation of {pods} pods", "at most 2 s", f"{last:.2f} s", last <= 2),
        Verdict(
            f"annotations of {results.sizes.pods:,} pods",
            "at least 0.8 of a bare client's rate",
            f"{every.ratio:.2f} of it",
            every.ratio >= 0.8,
        ),
    ]


def growth(first: Tables, last: Tables) -> list[tuple[str, int, int]]:
    """What is larger in the end than the first fifth of the changes explains: memory, or a table."""
    found = [
        (f"{name}, {unit}", before // size, after // size)
        for name, unit, size, before, after in (
            ("RSS", "MiB", MEBI, first.resident, last.resident),
            ("blocks", "thousands", 1000, first.blocks, last.blocks),
        )
        if after > before * SLACK
    ]
    for name, after in last.tables.items():
        before = first.tables.get(name, 0)
        if after > before * SLACK + SMALL:
            found.append((name, before, after))
    return found


def data(results: ScaleResults) -> dict[str, Any]:
    """Every figure, and the verdicts."""
    return {**dataclasses.asdict(results), "targets": [dataclasses.asdict(verdict) for verdict in verdicts(results)]}
