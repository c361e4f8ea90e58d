"""The figures of one run of the operator's bench. Seconds, octets, requests; None: not measured in this size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .results import Run


@dataclass(frozen=True)
class Sizes:
    namespaces: int
    policies: int
    pods: int
    large: int  # pods of the first policy
    repeats: int  # changes of the first policy
    changes: int  # of the small ones, `policies // 2` at once
    rest: float  # seconds without a change
    created: int  # pods, each way
    bare: int  # patches of a bare client, each time
    official: int  # of the official client


@dataclass(frozen=True)
class Start:
    """Since the process was started. `peak`: the most memory that it had until all statuses were right."""

    ready: float
    settled: float
    cpu: float
    resident: int
    peak: int


@dataclass(frozen=True)
class Change:
    """Of one policy; since the API server received it."""

    pods: int
    last_poke: float
    programmed: float
    rate: float  # pokes a second, from the first to the last
    cpu: float  # of the operator until Programmed=True
    reads: int  # requests of the operator that were no pokes


@dataclass(frozen=True)
class Tables:
    """After so many changes."""

    changes: int
    resident: int
    objects: int
    blocks: int
    tables: Mapping[str, int]


@dataclass(frozen=True)
class Rest:
    seconds: float
    cpu: float
    requests: int
    kinds: Mapping[str, int]


@dataclass(frozen=True)
class Creation:
    """Of pods, in milliseconds; `parallel` at a time."""

    parallel: int
    webhook: bool
    p50: float
    p99: float
    rate: float


@dataclass(frozen=True)
class Client:
    """Patches of a client that does nothing else, with the operator stopped."""

    rate: float
    cpu: float  # for each, of the client's process


@dataclass(frozen=True)
class Everything:
    """One policy has all pods."""

    changes: tuple[Change, ...]
    bare: tuple[Client, ...]  # before and after, as the operator's ServiceAccount
    official: Client  # likewise
    unchecked: Client  # a bare client as an administrator, whom the chart's admission policies leave alone
    peak: int

    @property
    def rate(self) -> float:
        return sum(change.rate for change in self.changes) / len(self.changes)

    @property
    def bare_rate(self) -> float:
        return sum(each.rate for each in self.bare) / len(self.bare)

    @property
    def ratio(self) -> float:
        return self.rate / self.bare_rate


@dataclass(frozen=True)
class ScaleResults:
    run: Run
    sizes: Sizes
    start: Start
    large: tuple[Change, ...]
    tables: tuple[Tables, ...]
    change_cpu: float  # of the operator, for each of the many changes
    rest: Rest
    creations: tuple[Creation, ...]
    everything: Everything
