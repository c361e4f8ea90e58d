"""The figures of a run, and what is made of them: medians over rounds, and ratios within a round.

The two hops of one round ran within seconds of each other on the same machine; those of different rounds did not. So a
ratio is taken in each round and the median is that of the ratios.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NOTHING, HAPROXY, POSTERN = "nothing", "HAProxy", "Postern"


@dataclass(frozen=True)
class Cost:
    """`units` (sessions, or octets) took `wall` seconds, and `cpu` seconds of what is measured; 0 for nothing."""

    units: int
    wall: float
    cpu: float

    @property
    def rate(self) -> float:
        return self.units / self.wall

    @property
    def one_core(self) -> float:
        """What a core would do if it did nothing else, and never waited for the rest of the bench."""
        return self.units / self.cpu if self.cpu else float("nan")

    @property
    def busy(self) -> float:
        """The part of the time for which it ran: near 1 the wall's rate is its own limit, else the bench's."""
        return self.cpu / self.wall


@dataclass(frozen=True)
class Latency:
    """Milliseconds from the moment when a session was due to start."""

    banner_p50: float
    banner_p99: float
    session_p50: float
    session_p99: float


@dataclass(frozen=True)
class Memory:
    """Octets of resident memory."""

    at_rest: int
    idle: int  # with `sessions` idle sessions
    sessions: int
    with_rules: int | None = None

    @property
    def per_session(self) -> float:
        return (self.idle - self.at_rest) / self.sessions


@dataclass(frozen=True)
class Round:
    """By the name of the way."""

    sessions: Mapping[str, Cost]
    bulk: Mapping[str, Cost]
    latency: Mapping[str, Latency]


@dataclass(frozen=True)
class Run:
    kernel: str
    cores: int
    versions: str
    date: str


@dataclass(frozen=True)
class Results:
    run: Run
    rounds: tuple[Round, ...]
    memory: Mapping[str, Memory]

    def middle(self, figure: Callable[[Round], float]) -> float:
        return median(figure(each) for each in self.rounds)
