"""The outbound half: Postern's delivery with DANE beside Postfix's and Exim's, to one destination in a signed zone.

What is measured and how to read it: README.md beside this file. A run fails, and says where, if a message did not go
out with DANE; a figure short of its target does not fail it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from lab import trees
from lab.laboratory import Lab

from . import gauges
from .deliveries import AT_ONCE, Deliveries, Sizes
from .destination import Destination
from .ground import compiled
from .machine import raise_limit, saying, share, take_priority
from .outbound_results import (
    EXIM,
    EXIM_TMPFS,
    FRESH,
    POSTERN,
    POSTFIX,
    POSTFIX_TMPFS,
    TUNED,
    Footprint,
    OutboundResults,
    Round,
)
from .relays import Relays
from .results import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from .machine import Cores
    from .relays import Relay

FULL = Sizes(messages=3000, large=20, octets=10_000_000, slow=50 << 20, first=5)
QUICK = Sizes(messages=300, large=2, octets=10_000_000, slow=10 << 20, first=1)
SHARE = {POSTERN: 1, FRESH: 3, POSTFIX: 6, POSTFIX_TMPFS: 6, TUNED: 3, EXIM: 30, EXIM_TMPFS: 30}
"""One in so many of Postern's messages: the slow ones need not hold up the run."""


def run(*, quick: bool, rounds: int, disk: Path | None) -> OutboundResults:
    take_priority()
    raise_limit()
    cores = share()
    os.sched_setaffinity(0, cores.rest)  # and so everything that this process starts, but for what is measured
    with gauges.Groups() as groups, Lab() as lab:
        return _Bench(lab, groups, cores, disk or lab.folder, QUICK if quick else FULL).run(rounds)


class _Bench:
    def __init__(self, lab: Lab, groups: gauges.Groups, cores: Cores, disk: Path, sizes: Sizes) -> None:
        self._cores = cores
        self._disk = disk
        self._sizes = sizes
        self._destination = Destination(lab)
        self._relays = Relays(lab, groups, cores.measured, disk)
        self._deliveries = Deliveries(lab, self._destination, compiled("load", lab.folder))

    def run(self, rounds: int) -> OutboundResults:
        with saying("memory"):
            footprint = self._footprint()
        with saying("first messages"):
            first = self._first()
        relays = self._all()
        with saying("warming up"):
            for relay in relays.values():
                self._deliveries.small(relay, 2 * AT_ONCE)
        done = []
        for number in range(1, rounds + 1):
            with saying(f"round {number} of {rounds}"):
                done.append(self._round(relays))
        now = Run(os.uname().release, len(self._cores.everything), self._versions(), time.strftime("%Y-%m-%d"))
        return OutboundResults(now, tuple(done), first, self._sizes.octets, footprint)

    def _all(self) -> dict[str, Relay]:
        relays = [
            *self._relays.postern(POSTERN),
            self._relays.postern(FRESH, reuse=1)[0],
            self._relays.postfix(POSTFIX, disk=True),
            self._relays.postfix(POSTFIX_TMPFS),
            self._relays.postfix(TUNED, tuned=True),
            self._relays.exim(EXIM, disk=True),
            self._relays.exim(EXIM_TMPFS),
        ]
        return {relay.name: relay for relay in relays}

    def _round(self, relays: Mapping[str, Relay]) -> Round:
        sizes, deliveries = self._sizes, self._deliveries
        return Round(
            small={
                name: deliveries.small(relay, max(sizes.messages // SHARE.get(name, 1), AT_ONCE))
                for name, relay in relays.items()
            },
            large={
                name: deliveries.large(relays[name], sizes.large, sizes.octets) for name in (POSTERN, POSTFIX, TUNED)
            },
        )

    def _first(self) -> dict[str, tuple[float, ...]]:
        """Each time by one that has just been started."""
        makers: dict[str, Callable[[], Relay]] = {
            POSTERN: lambda: self._relays.postern(POSTERN)[0],
            POSTFIX: lambda: self._relays.postfix(POSTFIX, disk=True),
            TUNED: lambda: self._relays.postfix(TUNED, tuned=True),
        }
        times: dict[str, list[float]] = {name: [] for name in makers}
        for _ in range(self._sizes.first):
            for name, make in makers.items():
                relay = make()
                times[name].append(self._deliveries.first(relay) * 1e3)
                relay.end()
        return {name: tuple(each) for name, each in times.items()}

    def _footprint(self) -> Footprint:
        """With the resolver embedded, as it is by default."""
        smtp, lmtp = self._relays.postern(POSTERN, embedded=self._destination.world.embedded())
        started = gauges.resident(smtp.process)
        for door in (smtp, lmtp):
            self._deliveries.small(door, self._sizes.messages // 3)
        self._deliveries.settle()
        at_rest, unbound = gauges.resident(smtp.process), gauges.program_resident(smtp.process, "unbound")
        before, passing = self._deliveries.growth(smtp, self._sizes.slow)
        smtp.end()
        return Footprint(started, at_rest, before, passing, unbound)

    def _versions(self) -> str:
        names = ", ".join(f"{name.title()} {'.'.join(map(str, trees.version(name)))}" for name in ("postfix", "exim"))
        kind = subprocess.run(["stat", "-f", "-c", "%T", str(self._disk)], capture_output=True, text=True, check=True)
        return f"Python {sys.version.split()[0]}, {names}, spool on disk: {kind.stdout.strip()}"
