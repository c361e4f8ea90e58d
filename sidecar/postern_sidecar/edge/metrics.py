"""What is counted, and how Prometheus reads it (docs/metrics.md lists every metric; a test compares).

A session adds to plain attributes of its listener's `Counts`, which is all that the hot path pays (measured: 0.4 us a
session; prometheus_client's own counters, with a lock each, 4 us). Their text is made when somebody asks, by a
collector in a registry of our own, so that nothing that a library registers globally is exposed. One thread, the event
loop's, writes and reads.
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
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from postern_sidecar.inbound.events import Outcome
    from postern_sidecar.inbound.limits import Limiter

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
HANDED_OVER: Final = "handed_over"  # the `outcome` of what became a session of the mail server
BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds of a hand-over: from a connect on loopback (0.2 ms) to `timeouts.backendConnect`, and above."""

Labels = tuple[str, ...]


class Counts:
    """What one listener with one hand-over has counted since the process began."""

    __slots__ = (
        "_buckets",
        "_outcomes",
        "_seconds",
        "handover",
        "header_failures",
        "limited",
        "listener",
        "octets_in",
        "octets_out",
        "probes",
        "rule_errors",
        "rule_hits",
        "taken_over",
    )

    def __init__(self, listener: str, handover: str) -> None:
        self.listener = listener
        self.handover = handover
        self.taken_over = 0
        self.octets_in = 0
        self.octets_out = 0
        self.header_failures: Counter[str] = Counter()
        self.limited: Counter[str] = Counter()
        self.probes: Counter[str] = Counter()
        self.rule_hits: Counter[tuple[str, str]] = Counter()
        self.rule_errors: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def handed_over(self, seconds: float) -> None:
        """A connection became a session of the mail server, `seconds` after the sidecar began to connect there."""
        self.taken_over += 1
        self._seconds += seconds
        self._buckets[bisect_left(BUCKETS, seconds)] += 1

    def octets(self, from_client: int, from_backend: int) -> None:
        """What a session has carried."""
        self.octets_in += from_client
        self.octets_out += from_backend

    def outcome(self, outcome: Outcome) -> None:
        """A connection ended before it became a session."""
        self._outcomes[outcome.value] += 1

    def header_failure(self, reason: str) -> None:
        self.header_failures[reason] += 1

    def limit(self, kind: str) -> None:
        self.limited[kind] += 1

    def probe(self, result: str) -> None:
        self.probes[result] += 1

    def rule(self, rule: str, action: str, *, error: bool = False) -> None:
        if error:
            self.rule_errors[rule] += 1
        else:
            self.rule_hits[rule, action] += 1

    @property
    def outcomes(self) -> Mapping[str, int]:
        return self._outcomes | Counter({HANDED_OVER: self.taken_over})

    def histogram(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulated buckets and the sum, as the exposition has them."""
        return cumulated(BUCKETS, self._buckets), self._seconds


@dataclass(frozen=True, slots=True)
class Watched:
    """What a listener knows itself, asked when metrics are read; a reload may put another limiter in place."""

    sessions: Callable[[], int]
    limiter: Callable[[], Limiter]


class Metrics:
    """All metrics of a sidecar."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.registry = CollectorRegistry()
        self.counts: dict[tuple[str, str], Counts] = {}
        self.watched: dict[str, Watched] = {}
        self.backend_exposed: dict[str, bool] = {}
        self.config = {"hash": "", "source": ""}
        self.loaded_at = 0.0
        self.reloads: Counter[str] = Counter(accepted=0, refused=0)
        self.last_reload_successful = False
        self.dropped_lines = 0
        self._outbound: Collector | None = None
        self.registry.register(_Sidecar(self))
        ProcessCollector(registry=self.registry)

    def listener(self, name: str, handover: str) -> Counts:
        """The counts to add to; the same ones again after a reload."""
        return self.counts.setdefault((name, handover), Counts(name, handover))

    def watch(self, listener: str, sessions: Callable[[], int], limiter: Callable[[], Limiter]) -> None:
        self.watched[listener] = Watched(sessions, limiter)

    def unwatch_all(self) -> None:
        """Before a reload says which listeners there are; what they counted stays."""
        self.watched.clear()

    def exposed(self, listener: str, exposed: bool) -> None:
        """Whether the mail server's port is open on an address that clients reach."""
        self.backend_exposed[listener] = exposed

    def config_loaded(self, config_hash: str, source: str, when: float) -> None:
        """A configuration is in use. From another source than the file: the file was refused."""
        self.config = {"hash": config_hash, "source": source}
        self.loaded_at = when
        self.last_reload_successful = source == "file"
        self.reloads["accepted" if self.last_reload_successful else "refused"] += 1

    def config_refused(self) -> None:
        self.last_reload_successful = False
        self.reloads["refused"] += 1

    def outbound(self, collector: Collector | None) -> None:
        """What outbound tells of itself from now on; None: there is no outbound any more."""
        if self._outbound is not None:
            self.registry.unregister(self._outbound)
        if collector is not None:
            self.registry.register(collector)
        self._outbound = collector

    def log_dropped(self, lines: int) -> None:
        self.dropped_lines += lines

    def render(self) -> bytes:
        """The page, in the format of `CONTENT_TYPE`."""
        return generate_latest(self.registry)


class _Sidecar(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        yield from self._inbound()
        yield from self._listeners()
        yield from self._process()

    def _inbound(self) -> Iterable[Metric]:
        counts = self._metrics.counts.values()
        yield counter(
            "postern_inbound_connections",
            "Connections, by what became of them.",
            ("listener", "outcome", "handover"),
            (((c.listener, outcome, c.handover), n) for c in counts for outcome, n in c.outcomes.items()),
        )
        yield counter(
            "postern_inbound_header_failures",
            "PROXY headers that were missing or bad.",
            ("listener", "reason"),
            (((c.listener, reason), n) for c in counts for reason, n in c.header_failures.items()),
        )
        yield counter(
            "postern_inbound_bytes",
            "Octets of sessions; in: from client to mail server.",
            ("listener", "direction"),
            (
                ((c.listener, direction), n)
                for c in counts
                for direction, n in (("in", c.octets_in), ("out", c.octets_out))
            ),
        )
        yield _handover_seconds(counts)
        yield counter(
            "postern_inbound_limited",
            "Connections refused for a limit.",
            ("listener", "kind"),
            (((c.listener, kind), n) for c in counts for kind, n in c.limited.items()),
        )
        yield counter(
            "postern_inbound_rule_hits",
            "Rules that matched.",
            ("listener", "rule", "action"),
            (((c.listener, *hit), n) for c in counts for hit, n in c.rule_hits.items()),
        )
        yield counter(
            "postern_inbound_rule_errors",
            "Rules that could not be evaluated.",
            ("listener", "rule"),
            (((c.listener, rule), n) for c in counts for rule, n in c.rule_errors.items()),
        )
        yield counter(
            "postern_inbound_probes",
            "Health checks of load balancers, by what they were told.",
            ("listener", "result"),
            (((c.listener, result), n) for c in counts for result, n in c.probes.items()),
        )

    def _listeners(self) -> Iterable[Metric]:
        watched = self._metrics.watched.items()
        limiters = [(name, watch.limiter()) for name, watch in watched]
        yield _gauge(
            "postern_inbound_sessions",
            "Sessions that are handed over at this moment.",
            (((name,), watch.sessions()) for name, watch in watched),
        )
        yield _gauge(
            "postern_inbound_clients",
            "Clients that are remembered for limits.",
            (((name,), limiter.clients) for name, limiter in limiters),
        )
        yield counter(
            "postern_inbound_client_evictions",
            "Clients that were forgotten because the table was full.",
            ("listener",),
            (((name,), limiter.evictions) for name, limiter in limiters),
        )
        yield _gauge(
            "postern_inbound_backend_exposed",
            "1: clients can reach the mail server's port past the sidecar.",
            (((name,), exposed) for name, exposed in self._metrics.backend_exposed.items() if name in dict(watched)),
        )

    def _process(self) -> Iterable[Metric]:
        metrics = self._metrics
        yield InfoMetricFamily("postern_config", "The configuration in use.", metrics.config)
        yield GaugeMetricFamily(
            "postern_config_loaded_timestamp_seconds", "When it was taken into use.", metrics.loaded_at
        )
        yield GaugeMetricFamily(
            "postern_config_last_reload_successful",
            "0: the file was refused, and an older configuration runs.",
            float(metrics.last_reload_successful),
        )
        yield counter(
            "postern_config_reloads",
            "Configurations that were read, the first one too.",
            ("result",),
            (((result,), n) for result, n in metrics.reloads.items()),
        )
        yield CounterMetricFamily(
            "postern_log_dropped", "Log lines lost because nobody read them.", metrics.dropped_lines
        )
        yield InfoMetricFamily("postern_build", "The sidecar's version.", {"version": metrics.version})


def cumulated(bounds: Sequence[float], counts: Iterable[int]) -> list[tuple[str, float]]:
    """A histogram's buckets; of `counts`, the last is what is above all bounds."""
    names = [*map(str, bounds), "+Inf"]
    return list(zip(names, map(float, accumulate(counts)), strict=True))


def counter(name: str, text: str, labels: Labels, values: Iterable[tuple[Labels, int]]) -> Metric:
    """Values with equal labels are added: a listener that had two hand-overs in its life is one listener."""
    total: Counter[Labels] = Counter()
    for key, value in values:
        total[key] += value
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in total.items():
        family.add_metric(key, value)
    return family


def _gauge(name: str, text: str, values: Iterable[tuple[Labels, float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=("listener",))
    for key, value in values:
        family.add_metric(key, float(value))
    return family


def _handover_seconds(counts: Iterable[Counts]) -> Metric:
    family = HistogramMetricFamily(
        "postern_inbound_handover_seconds",
        "From the connect to the mail server to its banner on the way to the client.",
        labels=("listener", "handover"),
    )
    for count in counts:
        buckets, seconds = count.histogram()
        family.add_metric((count.listener, count.handover), buckets, seconds)
    return family
