"""The bench of the inbound side: the same mail with nothing in between, with a second HAProxy, and with Postern.

    python -m bench [--quick] [--rounds 5] [--json FILE]

What is measured and how to read it: README.md beside this file. A run fails, and says where, if any session did not
reach the sink as that client's; a figure short of its target does not fail it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lab.namespaces import NotRootError
from lab.trees import TreeMissingError

from . import measure, report
from .ground import Ground, NoCompilerError
from .machine import Cores, share, take_priority
from .results import Results, Round, Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FULL = measure.Sizes(sessions=4000, octets=512 << 20, rate=500, latencies=2500, idle=10_000)
QUICK = measure.Sizes(sessions=400, octets=32 << 20, rate=500, latencies=250, idle=500)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    sizes = QUICK if options.quick else FULL
    rounds = options.rounds or (1 if options.quick else 5)
    try:
        results = _run(sizes, rounds, share())
    except (NotRootError, TreeMissingError, NoCompilerError) as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 2
    except AssertionError as failure:  # the laboratory's and the measurements' own: what went wrong, with the log
        print(f"\nbench: {failure}", file=sys.stderr)
        return 1
    print(report.text(results))
    if options.json is not None:
        options.json.write_text(json.dumps(report.data(results), indent=1) + "\n")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small round: proves that the bench works, no more")
    parser.add_argument("--rounds", type=int, metavar="N", help="paired rounds (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures of all rounds, too")
    return parser.parse_args(arguments)


def _run(sizes: measure.Sizes, rounds: int, cores: Cores) -> Results:
    take_priority()
    os.sched_setaffinity(0, cores.rest)  # and so everything that this process starts, but for what is measured
    with Ground(cores) as ground:
        run = Run(os.uname().release, len(cores.everything), _versions(ground), time.strftime("%Y-%m-%d"))
        with _saying("memory"):
            memory = measure.memory(ground, sizes)
        ways = ground.ways()
        with _saying("warming up"):
            for way in ways:
                measure.warm_up(ground, way)
        done: list[Round] = []
        for number in range(1, rounds + 1):
            with _saying(f"round {number} of {rounds}"):
                done.append(
                    Round(
                        sessions={way.name: measure.sessions(ground, way, sizes) for way in ways},
                        bulk={way.name: measure.bulk(ground, way, sizes) for way in ways},
                        latency={way.name: measure.latency(ground, way, sizes) for way in ways},
                    )
                )
    return Results(run, tuple(done), memory)


def _versions(ground: Ground) -> str:
    return f"Python {sys.version.split()[0]}, HAProxy {ground.haproxy_version}"


@contextlib.contextmanager
def _saying(what: str) -> Iterator[None]:
    began = time.monotonic()
    print(f"bench: {what} ...", end="", flush=True, file=sys.stderr)
    yield
    print(f" {time.monotonic() - began:.0f} s", file=sys.stderr)
