"""`postern-sidecar check` over the table of cases: it foretells what a delivery would come to, with either resolver,
and sends nothing; it believes no resolver that does not validate. And `tlsa --verify`."""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dane.build import POLICIES
from lab import trees
from lab.program import Process, Program
from lab.servers.sidecar import SOURCES, manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dane.case import Case
    from lab.danelab import DaneLab

pytestmark = pytest.mark.real

SERVERS = {"resolver": "Servers", "servers": ["127.0.0.1:53"]}
OUTCOMES = {"delivered": "deliver", "deferred": "defer", "bounced": "bounce"}
GOOD = "ee-1-1.secure.example"
_files = itertools.count(1)


def sidecar(dane_lab: DaneLab, *arguments: str, outbound: Mapping[str, Any] | None = None) -> Program:
    """The command line in the pod. `outbound`: a policy's, default: that of the cases without one of their own."""
    file = dane_lab.lab.folder / f"check-{next(_files)}.json"
    chosen = dane_lab.setting.outbound("default", SERVERS) if outbound is None else outbound
    file.write_text(json.dumps(manifest({"outbound": chosen})))
    command, *rest = arguments
    return Program(
        argv=[sys.executable, "-m", "postern_sidecar", command, "--config", str(file), *rest],
        trees=[trees.tree("unbound")],
        env={"PYTHONPATH": str(SOURCES)},
        capabilities=[],
    )


def run(dane_lab: DaneLab, *arguments: str, outbound: Mapping[str, Any] | None = None) -> Process:
    return dane_lab.lab.run(sidecar(dane_lab, *arguments, outbound=outbound), timeout=110, check=False)


def reports(process: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.log.lines if line.startswith("{")]


def target(dane_lab: DaneLab, case: Case) -> str:
    return dane_lab.setting.recipient(case)


def expected(case: Case) -> tuple[str, str | None]:
    """Outcome and level; of a host that refuses the message itself, which `check` does not know, no level is said."""
    return OUTCOMES[case.expect.check or case.expect.outcome], case.expect.level


def commands(dane_lab: DaneLab) -> set[str]:
    """The verbs that any destination has heard."""
    return {command.split(" ")[0].upper() for visit in dane_lab.sink.visits() for command in visit.commands if command}


def disagreements(dane_lab: DaneLab, cases: Iterable[Case], outbound: Mapping[str, Any]) -> list[str]:
    cases = list(cases)
    process = run(dane_lab, "check", "--json", *(target(dane_lab, case) for case in cases), outbound=outbound)
    found = reports(process)
    assert len(found) == len(cases), str(process.log)
    assert process.status == (1 if any(report["outcome"] != "deliver" for report in found) else 0)
    wrong = []
    for case, report in zip(cases, found, strict=True):
        outcome, level = expected(case)
        if report["outcome"] != outcome or (not case.expect.check and report["level"] != level):
            wrong.append(f"{case.name}: expected {outcome} {level}, found {json.dumps(report)}")
    return wrong


def of(dane_lab: DaneLab, policy: str) -> list[Case]:
    return [case for case in dane_lab.setting.cases.values() if case.policy == policy]


@pytest.mark.parametrize("resolver", ["Servers", "Embedded"])
@pytest.mark.parametrize("policy", POLICIES)
def test_it_foretells_each_case(dane_lab: DaneLab, policy: str, resolver: str) -> None:
    dns = SERVERS if resolver == "Servers" else dane_lab.world.embedded()
    assert disagreements(dane_lab, of(dane_lab, policy), dane_lab.setting.outbound(policy, dns)) == []
    assert commands(dane_lab) <= {"EHLO", "HELO", "STARTTLS", "QUIT"}


def test_without_connecting_only_the_dns_decides(dane_lab: DaneLab) -> None:
    """Whatever is refused before anybody connects is refused here too; the rest would be delivered."""
    before = len(dane_lab.sink.visits())
    cases = of(dane_lab, "default")
    found = reports(run(dane_lab, "check", "--json", "--no-connect", *(target(dane_lab, case) for case in cases)))
    assert len(found) == len(cases)
    assert len(dane_lab.sink.visits()) == before
    for case, report in zip(cases, found, strict=True):
        outcome, level = expected(case)
        used = [host for host in report["hosts"] if host["required"]]
        assert not any(address["contact"] == "reached" for host in used for address in host["addresses"])
        if outcome == "deliver" and level is not None:
            assert report["outcome"] == "deliver", report
            assert ("may" if level == "clear" else level) in {host["required"] for host in used}
        if report["outcome"] != "deliver":
            assert report["outcome"] == outcome, report


def test_a_resolver_that_does_not_validate_is_not_believed(dane_lab: DaneLab) -> None:
    resolver = dane_lab.lab.unbound(dane_lab.world, port=54, anchor=False)
    outbound = dane_lab.setting.outbound("default", {**SERVERS, "servers": ["127.0.0.1:54"]})
    process = run(dane_lab, "check", "--json", GOOD, "null-mx.secure.example", outbound=outbound)
    assert process.status == 1
    assert [(each["outcome"], each["reason"]) for each in reports(process)] == [("defer", "dns_selftest")] * 2
    assert process.log.matches("^postern-sidecar: resolver 127.0.0.1 port 54: self-test failed, it is not used: SOA")
    resolver.stop()


def test_a_tree(dane_lab: DaneLab) -> None:
    process = run(dane_lab, "check", GOOD, f"user@{GOOD}")
    assert process.status == 0
    lines = process.log.lines
    half = len(lines) // 2
    assert lines[:half] == lines[half:]
    assert lines[:2] == [f"{GOOD}: deliver, level dane", "├─ MX secure"]
    assert lines[half - 1] == ""


def test_tlsa_verify(dane_lab: DaneLab) -> None:
    process = run(dane_lab, "tlsa", "--verify", f"mx.{GOOD}")
    assert process.status == 0, str(process.log)
    assert process.log.lines[0] == f"mx.{GOOD} port 25: TLSA at _25._tcp.mx.{GOOD}, secure"
    assert process.log.matches(r"^198\.51\.100\.\d+: ok: match: 3 1 1 ")
    process = run(dane_lab, "tlsa", "--verify", "implicit-mx-mismatch.secure.example")
    assert process.status == 1
    assert process.log.matches(r"^198\.51\.100\.\d+: error: mismatch: ")


PAGE = (Path(__file__).parents[3] / "docs" / "check.md").read_text()
EXAMPLES = re.findall(r"<!-- example: ([^\n]+) -->\n```\n(.*?)```\n", PAGE, re.DOTALL)


def comparable(text: str) -> str:
    """Keys are made anew for each laboratory, and its addresses are given out by the order of the cases."""
    return re.sub(r"198\.51\.100\.\d+", "ADDRESS", re.sub(r"\b[0-9a-f]{16,}\b", "DIGEST", text))


@pytest.mark.parametrize(("command", "output"), EXAMPLES)
def test_what_the_page_shows_is_what_it_prints(dane_lab: DaneLab, command: str, output: str) -> None:
    process = run(dane_lab, *command.split())
    assert comparable("".join(f"{line}\n" for line in process.log.lines)) == comparable(output)


def test_the_page_shows_both_commands() -> None:
    assert [command.split()[0] for command, _ in EXAMPLES] == ["check", "tlsa"]
