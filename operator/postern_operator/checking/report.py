"""Checks and what came of them: a list of entries, as text or as one JSON object, and the exit status.

A check that finds nothing is one entry that says so; one that finds something is an entry for each problem, at most
MOST of them. Whatever stands in an entry is bounded and printable: names and messages in a cluster are anybody's.
Raises nothing.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING

import msgspec

from ..conditions.checks import clipped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .facts import Facts, Unread

MOST = 20
"""Entries of one check; one more counts the rest."""
MOST_OBJECTS = 20
MOST_TEXT = 700


class Result(enum.Enum):
    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`remedy` is what to do. `objects`: Kind/namespace/name or Kind/name."""

    result: Result
    message: str
    remedy: str = ""
    objects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """`title` is the sentence that is true where `judge` yields nothing. `obstacle`: why it cannot be judged, or ""."""

    id: str
    category: str
    title: str
    judge: Callable[[Facts], Iterator[Verdict]]
    obstacle: Callable[[Facts], str] = lambda _facts: ""


class Entry(msgspec.Struct, frozen=True):
    id: str
    category: str
    result: Result
    message: str
    remedy: str = ""
    objects: tuple[str, ...] = ()


class _Report(msgspec.Struct, frozen=True):
    version: str
    result: Result
    checks: Sequence[Entry]


def evaluate(checks: Iterable[Check], facts: Facts) -> list[Entry]:
    return [entry for check in checks for entry in _entries(check, facts)]


def verdict(entries: Iterable[Entry]) -> Result:
    """The worst; what was skipped is no fault."""
    found = {entry.result for entry in entries}
    return next((each for each in (Result.ERROR, Result.WARNING) if each in found), Result.OK)


def status(entries: Iterable[Entry], *, strict: bool) -> int:
    """0 or 1. Warnings alone are 0, so that `helm test` does not fail over a policy without pods; with `strict`, 1."""
    worst = verdict(entries)
    return 1 if worst is Result.ERROR or (strict and worst is Result.WARNING) else 0


def as_json(entries: Sequence[Entry], version: str) -> str:
    report = _Report(version, verdict(entries), entries)
    return msgspec.json.format(msgspec.json.encode(report)).decode()


def as_text(entries: Sequence[Entry], *, ascii_only: bool = False) -> str:
    marks = _PLAIN if ascii_only else _MARKS
    lines: list[str] = []
    for category, part in groupby(entries, key=lambda entry: entry.category):
        lines.append(category)
        for entry in part:
            lines.append(f"  {marks[entry.result]} {entry.message}")
            if entry.remedy:
                lines.append(f"      {entry.remedy}")
        lines.append("")
    text = "\n".join([*lines, _summary(entries)])
    return text.encode("ascii", "replace").decode() if ascii_only else text


def unread(what: str, found: Unread, right: str) -> Verdict:
    """`right`: who has it can read it."""
    if found.forbidden:
        return Verdict(Result.SKIPPED, f"{what} cannot be judged: {found.text}", f"check as a user who may {right}")
    return Verdict(Result.ERROR, f"{what} could not be read: {found.text}", "check again when the API server is well")


_MARKS = {Result.OK: "✓", Result.WARNING: "!", Result.ERROR: "✗", Result.SKIPPED: "-"}
_PLAIN = {Result.OK: "[ok]", Result.WARNING: "[warning]", Result.ERROR: "[error]", Result.SKIPPED: "[skipped]"}


def _entries(check: Check, facts: Facts) -> Iterator[Entry]:
    obstacle = check.obstacle(facts)
    if obstacle:
        yield Entry(check.id, check.category, Result.SKIPPED, f"not judged whether {check.title}: {obstacle}")
        return
    verdicts = check.judge(facts)
    first = list(islice(verdicts, MOST))
    for each in first:
        objects = tuple(clipped(name, 520) for name in each.objects[:MOST_OBJECTS])
        message, remedy = clipped(each.message, MOST_TEXT), clipped(each.remedy, MOST_TEXT)
        yield Entry(check.id, check.category, each.result, message, remedy, objects)
    rest = Counter(each.result for each in verdicts)
    for result, count in rest.items():
        yield Entry(check.id, check.category, result, f"and {count} more of this kind")
    if not first:
        yield Entry(check.id, check.category, Result.OK, check.title)


def _summary(entries: Sequence[Entry]) -> str:
    count = Counter(entry.result for entry in entries)
    parts = [
        f"{count[result]} {name if count[result] == 1 else names}"
        for result, name, names in (
            (Result.ERROR, "error", "errors"),
            (Result.WARNING, "warning", "warnings"),
            (Result.SKIPPED, "check skipped", "checks skipped"),
        )
        if count[result]
    ]
    return f"Result: {', '.join(parts) or 'all is well'}"
