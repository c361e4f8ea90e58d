"""What the operator counts, and how Prometheus reads it: `postern_operator_*`.

A count is an addition to a plain dict; the text is made when somebody asks, by a collector in a registry of our own.
Every label has a closed list of values, each there with 0 from the start (a rate needs the first step too); what is not
in it counts as `other`. What others know themselves is asked at that moment (`Watched`). One thread, the event loop's,
writes and reads. Raises nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from .reasons import Skip
from .review import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

OTHER: Final = "other"
NOT_A_REVIEW: Final = "NotAReview"
SKIPPED: Final = "Skipped"
RECONCILES: Final = ("done", "failed", "dropped")
POKES: Final = ("written", "gone", "failed")
ASKS: Final = ("answered", "failed")
EVICTIONS: Final = ("evicted", "refused", "uninjected", "abandoned")
EVENTS: Final = ("posted", "dropped", "failed")
MOST_WATCHES: Final = 16
"""There are three; the names are the caller's."""

ADMISSION_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds: from a review that needs no look-up (0.3 ms) to the chart's timeoutSeconds."""
RECONCILE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: from one that writes nothing to one that waits for an API server in trouble."""

_OUTCOMES: Final = {
    **{outcome.value: (outcome.value, "") for outcome in Outcome},
    **{skip.value: (SKIPPED, skip.value) for skip in Skip},
    NOT_A_REVIEW: (NOT_A_REVIEW, ""),
}


@dataclass(frozen=True, slots=True)
class Watched:
    """What others know. Ages are seconds by watch; `certificate_expiry`: seconds since the epoch, None without one."""

    queue_depth: Callable[[], int] = int
    watch_ages: Callable[[], Mapping[str, float]] = dict
    certificate_expiry: Callable[[], float | None] = lambda: None
    sidecars_pending: Callable[[], int] = int
    leader: Callable[[], bool] = bool


class Histogram:
    """Counted in plain integers."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._buckets = [0] * (len(bounds) + 1)
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        self._buckets[bisect_left(self._bounds, seconds)] += 1
        self._seconds += seconds

    def family(self, name: str, text: str) -> Metric:
        names = [*map(str, self._bounds), "+Inf"]
        buckets = list(zip(names, map(float, accumulate(self._buckets)), strict=True))
        return HistogramMetricFamily(name, text, buckets=buckets, sum_value=self._seconds)


class Metrics:
    """All of one replica. `watched` is set by who wires things together."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.watched = Watched()
        self.registry = CollectorRegistry()
        self.reconciles = Counter(dict.fromkeys(RECONCILES, 0))
        self.admissions = Counter(dict.fromkeys(_OUTCOMES, 0))
        self.pokes = Counter(dict.fromkeys(POKES, 0))
        self.config_asks = Counter(dict.fromkeys(ASKS, 0))
        self.evictions = Counter(dict.fromkeys(EVICTIONS, 0))
        self.events = Counter(dict.fromkeys(EVENTS, 0))
        self.admission_seconds = Histogram(ADMISSION_BUCKETS)
        self.reconcile_seconds = Histogram(RECONCILE_BUCKETS)
        self.registry.register(_Operator(self))
        ProcessCollector(registry=self.registry)

    def admission(self, outcome: str, seconds: float) -> None:
        """A review was answered. `outcome`: the value of an Outcome or a Skip, or NOT_A_REVIEW."""
        _count(self.admissions, outcome)
        self.admission_seconds.add(seconds)

    def reconciled(self, result: str, seconds: float) -> None:
        """`result`: of RECONCILES. A dropped key took no time."""
        _count(self.reconciles, result)
        if result != "dropped":
            self.reconcile_seconds.add(seconds)

    def poked(self, result: str) -> None:
        """`result`: of POKES."""
        _count(self.pokes, result)

    def asked(self, result: str) -> None:
        """A sidecar's /config. `result`: of ASKS."""
        _count(self.config_asks, result)

    def eviction(self, result: str) -> None:
        """`result`: of EVICTIONS."""
        _count(self.evictions, result)

    def event(self, result: str) -> None:
        """`result`: of EVENTS."""
        _count(self.events, result)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The page and its Content-Type: OpenMetrics for who accepts that, else Prometheus' text."""
        if "application/openmetrics-text" in accept:
            page: bytes = openmetrics.generate_latest(self.registry)  # type: ignore[no-untyped-call]
            return page, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4


class _Operator(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        yield from self._work()
        yield from self._webhook()
        yield from self._roll_outs()
        yield from self._replica()

    def _work(self) -> Iterable[Metric]:
        metrics = self._metrics
        yield _counter("reconciles", "Reconciliations of a policy, by result.", "result", metrics.reconciles)
        yield metrics.reconcile_seconds.family(
            "postern_operator_reconcile_duration_seconds", "Of the reconciliations of a policy."
        )
        yield _gauge("queue_depth", "Policies that wait to be reconciled.", metrics.watched.queue_depth())
        ages = GaugeMetricFamily(
            "postern_operator_watch_age_seconds", "Since a watch was last known to be up to date.", labels=["watch"]
        )
        for name, age in sorted(metrics.watched.watch_ages().items())[:MOST_WATCHES]:
            ages.add_metric([name], age)
        yield ages

    def _webhook(self) -> Iterable[Metric]:
        metrics = self._metrics
        admissions = CounterMetricFamily(
            "postern_operator_admissions", "Reviews, by what became of the pod.", labels=["outcome", "reason"]
        )
        for outcome, number in metrics.admissions.items():
            admissions.add_metric(_OUTCOMES.get(outcome, (OTHER, "")), number)
        yield admissions
        yield metrics.admission_seconds.family(
            "postern_operator_admission_duration_seconds", "From a review's last octet to its answer."
        )
        expiry = metrics.watched.certificate_expiry()
        if expiry is not None:
            yield _gauge("certificate_expiry_timestamp_seconds", "When the webhook's certificate ends.", expiry)

    def _roll_outs(self) -> Iterable[Metric]:
        metrics = self._metrics
        pending = metrics.watched.sidecars_pending()
        yield _gauge("sidecars_pending", "Sidecars that do not run their policy's configuration yet.", pending)
        yield _counter("pokes", "Annotations written so that a kubelet looks.", "result", metrics.pokes)
        yield _counter("config_asks", "Sidecars asked what they run.", "result", metrics.config_asks)
        yield _counter("evictions", "Pods without a sidecar that were to be evicted.", "result", metrics.evictions)

    def _replica(self) -> Iterable[Metric]:
        metrics = self._metrics
        yield _gauge("leader", "1: this replica writes.", metrics.watched.leader())
        lost = metrics.events["dropped"] + metrics.events["failed"]
        yield CounterMetricFamily(
            "postern_operator_events_dropped", "Kubernetes Events that were not written: too many, or refused.", lost
        )
        yield InfoMetricFamily("postern_operator_build", "The operator's version.", {"version": metrics.version})


def _count(counts: Counter[str], value: str) -> None:
    counts[value if value in counts else OTHER] += 1


def _counter(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"postern_operator_{name}", text, labels=[label])
    for value, number in counts.items():
        family.add_metric([value], number)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"postern_operator_{name}", text, float(value))
