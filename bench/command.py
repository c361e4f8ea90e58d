"""The command line of the bench.

python -m bench [inbound | outbound | operator] [--quick] [--rounds 5] [--json FILE] [--disk FOLDER]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.binaries import BinaryMissingError
from cluster.control import ControlPlaneError
from lab.namespaces import NotRootError
from lab.trees import TreeMissingError

from . import cluster_report, cluster_scale, inbound, outbound, outbound_report, report
from .cluster_scale import TooBusyError
from .gauges import NoControlGroupsError
from .ground import NoCompilerError

if TYPE_CHECKING:
    from collections.abc import Sequence

SIDES = ("inbound", "outbound", "operator")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    rounds = options.rounds or (1 if options.quick else 5)
    found: dict[str, Any] = {}
    try:
        for side in [options.side] if options.side else SIDES:
            found[side] = _run(side, options, rounds)
    except (NotRootError, TreeMissingError, NoCompilerError, NoControlGroupsError, BinaryMissingError) as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 2
    except (
        AssertionError,
        ControlPlaneError,
        TooBusyError,
    ) as failure:  # of what is measured with: what went wrong, with the log
        print(f"\nbench: {failure}", file=sys.stderr)
        return 1
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _run(side: str, options: argparse.Namespace, rounds: int) -> dict[str, Any]:
    if side == "inbound":
        results = inbound.run(quick=options.quick, rounds=rounds)
        print(report.text(results), flush=True)
        return report.data(results)
    if side == "operator":
        scale = cluster_scale.run(quick=options.quick)
        print(cluster_report.text(scale), flush=True)
        return cluster_report.data(scale)
    deliveries = outbound.run(quick=options.quick, rounds=rounds, disk=options.disk)
    print(outbound_report.text(deliveries), flush=True)
    return outbound_report.data(deliveries)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="What Postern costs, and what else would.")
    parser.add_argument("side", nargs="?", choices=SIDES, help="one side alone")
    parser.add_argument("--quick", action="store_true", help="one small round: proves that the bench works, no more")
    parser.add_argument("--rounds", type=int, metavar="N", help="paired rounds (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures of all rounds, too")
    parser.add_argument("--disk", type=Path, metavar="FOLDER", help="for the mail servers' spools; a temporary folder")
    return parser.parse_args(arguments)
