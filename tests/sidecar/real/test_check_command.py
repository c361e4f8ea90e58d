"""`postern-sidecar check` over the table of cases: it foretells what a delivery would come to, with either resolver, and
sends nothing. Then how it ends: exit codes, a resolver that does not validate, Ctrl-C. And `tlsa --verify`."""

from __future__ import annotations

import itertools
import json
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from dane.build import POLICIES
from dane_cases import BY_NAME
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


@pytest.mark.parametrize("policy", POLICIES)
def test_it_foretells_each_case(dane_lab: DaneLab, policy: str) -> None:
    cases = [case for case in dane_lab.setting.cases.values() if case.policy == policy]
    assert disagreements(dane_lab, cases, dane_lab.setting.outbound(policy, SERVERS)) == []
