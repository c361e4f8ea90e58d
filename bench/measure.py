"""The four measurements, each of one way at a time.

A failed session fails its client, and that the whole run: nothing here measures how fast something is refused.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import quantiles
from typing import TYPE_CHECKING

from lab import trees
from lab.namespaces import POD
from lab.program import Program

from . import gauges
from .hops import RULES
from .machine import most_sessions
from .results import HAPROXY, POSTERN, Cost, Latency, Memory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab.host import Address
    from lab.program import Process

    from .ground import Ground, Way

LONG = 300.0  # seconds, for a client to end: reached only where something hangs
AT_ONCE = 50  # sessions in flight
MESSAGE = 4096  # octets


@dataclass(frozen=True)
class Sizes:
    sessions: int
    octets: int  # of the large message
    rate: int  # sessions a second, for the latencies
    latencies: int  # sessions that are timed
    idle: int


def warm_up(ground: Ground, way: Way) -> None:
    """So that what is made at first use has been made."""
    _done(ground.load("-c", "10", "200", _spelled(way.entry)))


def sessions(ground: Ground, way: Way, sizes: Sizes) -> Cost:
    """smtp-source, a new session for each message, `AT_ONCE` at a time."""
    load = f"smtp-source -s {AT_ONCE} -m {sizes.sessions} -l {MESSAGE} -f a@example.net -t b@example.org"
    script = f"date +%s.%N; {load} {_spelled(way.entry)}; date +%s.%N"
    program = Program(argv=["sh", "-ec", script], host="outside", trees=[trees.tree("postfix")])
    before = _used(way)
    client = ground.lab.run(program, timeout=LONG)
    began, ended = (float(line) for line in client.log.lines)
    return Cost(sizes.sessions, ended - began, _used(way) - before)


def bulk(ground: Ground, way: Way, sizes: Sizes) -> Cost:
    """One session with one large message, without the first balancer, which would be the bottleneck."""
    before = _used(way)
    client = _done(ground.load_past_the_balancer("-s", str(sizes.octets), "1", _spelled(way.address)))
    wall = float(client.log.lines[-1].removeprefix("seconds "))
    return Cost(sizes.octets, wall, _used(way) - before)


def latency(ground: Ground, way: Way, sizes: Sizes) -> Latency:
    """Open loop: sessions start when they are due, whatever became of those before."""
    client = _done(ground.load("-r", str(sizes.rate), str(sizes.latencies), _spelled(way.entry)))
    times = [[float(number) / 1000 for number in line.split()] for line in client.log.lines[:-1]]
    banner, session = (quantiles(column, n=100, method="inclusive") for column in zip(*times, strict=True))
    return Latency(banner[49], banner[98], session[49], session[98])


def memory(ground: Ground, sizes: Sizes) -> Mapping[str, Memory]:
    """Each freshly started, after a few sessions; then with all the idle ones."""
    haproxy, postern, ruled = (POD, 701), (POD, 702), (POD, 703)
    with_rules = ground.postern(ruled, rules=RULES)
    _a_few(ground, ruled)
    rules = gauges.resident(with_rules)
    with_rules.kill()
    return {
        HAPROXY: _memory(ground, ground.haproxy(haproxy), haproxy, sizes),
        POSTERN: _memory(ground, ground.postern(postern), postern, sizes, with_rules=rules),
    }


def _memory(
    ground: Ground, process: Process, address: Address, sizes: Sizes, *, with_rules: int | None = None
) -> Memory:
    count = min(sizes.idle, most_sessions())
    _a_few(ground, address)
    at_rest = gauges.resident(process)
    client = ground.load_past_the_balancer("-i", "-c", "100", str(count), _spelled(address))
    client.log.wait_for("ready", timeout=LONG)
    idle = gauges.resident(process)
    client.kill()
    process.kill()
    return Memory(at_rest, idle, count, with_rules)


def _a_few(ground: Ground, address: Address) -> None:
    _done(ground.load_past_the_balancer("20", _spelled(address)))


def _used(way: Way) -> float:
    """The processor time so far; a process is given the time to clear up after its last session."""
    if way.process is None:
        return 0.0
    used = -1.0
    while (now := gauges.cpu_seconds(way.process)) - used > 0.001:
        used = now
        time.sleep(0.05)
    return now


def _done(client: Process) -> Process:
    if client.wait(LONG) != 0:
        raise AssertionError(f"the load failed:\n{client.log}")
    return client


def _spelled(address: Address) -> str:
    return f"{address[0]}:{address[1]}"
