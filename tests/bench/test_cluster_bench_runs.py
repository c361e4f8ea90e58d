"""The operator's bench works: a small run has every figure, and what it compares is what it says.

How fast anything is, no test asks: that depends on the machine.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bench.cluster_report import growth
from bench.cluster_results import Tables
from bench.cluster_world import spread

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[2]
FEW = Tables(200, 100 << 20, 50_000, 300_000, {"cache.Cache._pods": 5000, "queue.Schedule._heap": 10})


@pytest.mark.real
def test_a_quick_run_of_the_operator_measures_everything(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    run = subprocess.run(
        [sys.executable, "-m", "bench", "operator", "--quick", "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    results: dict[str, Any] = json.loads(file.read_text())["operator"]
    sizes = results["sizes"]
    assert results["start"]["settled"] >= results["start"]["ready"] > 0
    assert [change["pods"] for change in results["large"]] == [sizes["large"]]
    assert [change["pods"] for change in results["everything"]["changes"]] == [sizes["pods"]] * 2
    assert all(figure > 0 for change in results["large"] for figure in change.values())
    assert [table["changes"] for table in results["tables"]] == [sizes["changes"] // 5, sizes["changes"]]
    for tables in results["tables"]:
        assert tables["tables"]["cache.Cache._pods"] == sizes["pods"]
    assert results["rest"]["requests"] > 0
    assert [(each["parallel"], each["webhook"]) for each in results["creations"]] == [
        (1, True),
        (1, False),
        (20, True),
        (20, False),
    ]
    assert all(each["rate"] > 0 and each["cpu"] > 0 for each in results["everything"]["bare"])
    assert len(re.findall(r"^(?:met|NOT MET) ", run.stdout, re.MULTILINE)) == 6


@pytest.mark.real
def test_a_run_ends_by_itself() -> None:
    program = "from bench import cluster_scale, command; cluster_scale.LIMIT = 1.0; exit(command.main())"
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])}
    run = subprocess.run(
        [sys.executable, "-c", program, "operator", "--quick"],
        env={**os.environ, **paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (run.returncode, run.stdout) == (1, "")
    assert "not done after 1 s" in run.stderr


def test_policies_are_spread_over_the_namespaces() -> None:
    policies = spread(50, 200, 5000, 500)
    assert len({policy.namespace for policy in policies}) == 50
    assert sum(policy.pods for policy in policies) == 5000
    assert (policies[0].pods, policies[-1].pods, min(policy.pods for policy in policies)) == (500, 2, 2)
    assert len({policy.ip for policy in policies}) == len({policy.name for policy in policies}) == 200


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({}, []),
        ({"resident": 101 << 20}, []),
        ({"resident": 110 << 20}, ["RSS, MiB"]),
        ({"blocks": 400_000}, ["blocks, thousands"]),
        ({"tables": {"cache.Cache._pods": 5000, "queue.Schedule._heap": 800}}, ["queue.Schedule._heap"]),
        ({"tables": {"rollout.Rollouts._rollouts": 1000}}, ["rollout.Rollouts._rollouts"]),
    ],
)
def test_what_grows_is_named(changed: Mapping[str, Any], names: list[str]) -> None:
    assert [name for name, _, _ in growth(FEW, dataclasses.replace(FEW, changes=1000, **changed))] == names
