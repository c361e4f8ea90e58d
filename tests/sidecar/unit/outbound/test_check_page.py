"""docs/check.md names every field of a report, and every word that stands in one."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path

from postern_sidecar.dane.zonefile import SOON, Severity
from postern_sidecar.edge.check import AT_ONCE
from postern_sidecar.lookup.hosts import TLSAState
from postern_sidecar.outbound import inquiry
from postern_sidecar.outbound.plan import Level
from postern_sidecar.outbound.report import AddressReport, Contact, HostReport, Outcome, RecordReport, Report

PAGE = (Path(__file__).parents[4] / "docs" / "check.md").read_text()


def fields(heading: str) -> list[str]:
    """The words in backticks of a table's first column."""
    table = PAGE.partition(f"| {heading} | value |\n|---|---|\n")[2].partition("\n\n")[0]
    return [word for row in table.splitlines() for word in re.findall(r"`(\w+)`", row.split("|")[1])]


def test_every_field_has_its_row() -> None:
    host = HostReport("mx.example.org", 10, 25, "secure", "secure", "secure")
    assert fields("field") == list(Report("example.org", Outcome.DELIVER).json())
    assert fields("field of a host") == list(host.json())
    assert fields("field of an address") == list(AddressReport(ip_address("192.0.2.1"), 25).json())
    for word in (*RecordReport("3 1 1 ab").json(), *host.json()["security"]):  # type: ignore[misc]
        assert f"`{word}`" in PAGE


def test_every_word_is_there() -> None:
    words = [each.value for kind in (Outcome, Contact, Level, Severity) for each in kind]
    lookups = {"absent" if each is TLSAState.NONE else each.value for each in TLSAState} | {"insecure"}
    for word in (*words, *lookups, "mx", "implicit", "route", "literal", "null", "own", "half-dane"):
        assert f"`{word}`" in PAGE, word


def test_its_numbers_are_right() -> None:
    assert f"{inquiry.MORE} more at most" in PAGE
    assert f"{inquiry.SHOWN} of them at most" in PAGE
    assert f"Up to {AT_ONCE} are asked about at once" in PAGE
    assert f"within {SOON.days} days" in PAGE
