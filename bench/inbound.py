"""The bench of the inbound side: the same mail with nothing in between, with a second HAProxy, and with Postern.

What is measured and how to read it: README.md beside this file. A run fails, and says where, if any session did not
reach the sink as that client's; a figure short of its target does not fail it.
"""

from __future__ import annotations

import os
import sys
import time

from . import measure
from .ground import Ground
from .machine import saying, share, take_priority
from .results import Results, Round, Run

FULL = measure.Sizes(sessions=4000, octets=512 << 20, rate=500, latencies=2500, idle=10_000)
QUICK = measure.Sizes(sessions=400, octets=32 << 20, rate=500, latencies=250, idle=500)


def run(*, quick: bool, rounds: int) -> Results:
    cores = share()
    sizes = QUICK if quick else FULL
    take_priority()
    os.sched_setaffinity(0, cores.rest)  # and so everything that this process starts, but for what is measured
    with Ground(cores) as ground:
        now = Run(os.uname().release, len(cores.everything), _versions(ground), time.strftime("%Y-%m-%d"))
        with saying("memory"):
            memory = measure.memory(ground, sizes)
        ways = ground.ways()
        with saying("warming up"):
            for way in ways:
                measure.warm_up(ground, way)
        done: list[Round] = []
        for number in range(1, rounds + 1):
            with saying(f"round {number} of {rounds}"):
                done.append(
                    Round(
                        sessions={way.name: measure.sessions(ground, way, sizes) for way in ways},
                        bulk={way.name: measure.bulk(ground, way, sizes) for way in ways},
                        latency={way.name: measure.latency(ground, way, sizes) for way in ways},
                    )
                )
    return Results(now, tuple(done), memory)


def _versions(ground: Ground) -> str:
    return f"Python {sys.version.split()[0]}, HAProxy {ground.haproxy_version}"
