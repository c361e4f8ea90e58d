"""docs/comparison.md says what Postern, Postfix and Exim do, row by row: as the facts have it that the tests with real
servers hold them to, and of every case in which they differ."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from dane.peers import EXIM_DIFFERS, POSTFIX_CRASHES, POSTFIX_DIFFERS, applicable, word
from dane.relays import wanted
from dane_cases import BY_NAME

PAGE = Path(__file__).resolve().parent.parent / "docs" / "comparison.md"


class Row(NamedTuple):
    situation: str
    postern: str
    postfix: str
    exim: str
    rfc: str
    cases: str

    @property
    def names(self) -> list[str]:
        return re.findall(r"`([^`]+)`", self.cases)


def first(cell: str) -> str:
    """The word that a cell begins with."""
    found = re.match(r"`([a-z-]+)`", cell)
    assert found, cell
    return found[1]


def rows() -> list[Row]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text().splitlines()]
    return [Row(*row) for row in cells if len(row) == len(Row._fields) and row[0] not in ("situation", "---")]


def test_each_case_in_which_they_differ_has_one_row() -> None:
    counted = Counter(name for row in rows() for name in row.names)
    assert set(counted) == {*POSTFIX_DIFFERS, *EXIM_DIFFERS, POSTFIX_CRASHES}
    assert set(counted.values()) == {1}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.names[0])
def test_a_row_has_what_each_does(row: Row) -> None:
    assert row.names
    for name in row.names:
        case = BY_NAME[name]
        expected = wanted(case.expect)
        postfix = "crash" if name == POSTFIX_CRASHES else word(POSTFIX_DIFFERS.get(name, expected))
        exim = word(EXIM_DIFFERS.get(name, expected))
        assert applicable(case)
        assert (first(row.postern), first(row.postfix), first(row.exim)) == (word(expected), postfix, exim), name
        assert ("next host" in row.postern) == (expected.at == 2), name


def test_a_row_names_the_rfc_that_its_cases_are_written_from() -> None:
    for row in rows():
        cited = set(re.findall(r"\b(\d{4})\b", row.rfc))
        known = set(re.findall(r"RFC (\d{4})", " ".join(BY_NAME[name].rfc for name in row.names)))
        assert cited & known, row


def test_a_difference_is_one() -> None:
    for name, seen in [*POSTFIX_DIFFERS.items(), *EXIM_DIFFERS.items()]:
        assert seen != wanted(BY_NAME[name].expect), name
