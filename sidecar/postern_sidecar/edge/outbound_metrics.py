"""What outbound counts, and how Prometheus reads it: postern_outbound_*, postern_dane_*, postern_dns_*.

docs/metrics.md lists all of them; a test compares.

Deliveries and attempts are counted from the records that the log gets, at the one place where they pass: what is logged
and what is counted cannot differ. Labels come from closed sets, never from a peer. As in `edge.metrics`, counting is
adding to plain attributes, and text is made when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from postern_sidecar.dane.verdict import Reason
from postern_sidecar.lookup.selftest import Verdict
from postern_sidecar.outbound.plan import Level

from .asker import BUCKETS as LOOKUP_BUCKETS
from .metrics import counter, cumulated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from postern_sidecar.logline import Record

    from .resolving import Resolving


DELIVERY_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0)
"""Seconds from RCPT to the last answer: from a pooled connection nearby to `limits.finalTimeout`."""

_DANE_FAILURES: Final = frozenset(reason.value for reason in Reason) | {
    "starttls_missing",
    "starttls_refused",
    "tls_failed",
    "tls_timeout",
}
"""Of an attempt that had to reach dane. What DNS says of a host, `_DNS_FAILURES`, comes before there is a level."""
_DNS_FAILURES: Final = frozenset(
    {"tlsa_bogus", "tlsa_failed", "tlsa_unusable", "no_tlsa", "insecure_mx", "insecure_host"}
)


@dataclass(slots=True)
class OutboundCounts:
    """Since the process began; `edge.perform.Counts` is a part of it."""

    deliveries: Counter[tuple[str, str]] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    dane_failures: Counter[str] = field(default_factory=Counter)
    pooled: Counter[str] = field(default_factory=Counter)
    connections: Counter[str] = field(default_factory=Counter)
    handshakes: Counter[str] = field(default_factory=Counter)
    _buckets: list[int] = field(default_factory=lambda: [0] * (len(DELIVERY_BUCKETS) + 1))
    _seconds: float = 0.0

    def record(self, record: Record) -> None:
        """A line of the log, on its way there."""
        fields = record.fields
        if record.event == "delivery":
            level = fields.get("level")
            self.deliveries[str(fields["outcome"]), level.value if isinstance(level, Level) else "none"] += 1
            seconds = fields["duration"]
            assert isinstance(seconds, float)  # noqa: S101 - `outbound.record` says so
            self._seconds += seconds
            self._buckets[bisect_left(DELIVERY_BUCKETS, seconds)] += 1
        elif record.event == "attempt":
            reason = str(fields["reason"])
            self.attempts[reason] += 1
            if reason in _DNS_FAILURES or (reason in _DANE_FAILURES and fields.get("level") is Level.DANE):
                self.dane_failures[reason] += 1

    def pool(self, *, hit: bool) -> None:
        self.pooled["hit" if hit else "miss"] += 1

    def dialled(self, reason: str) -> None:
        self.connections[reason] += 1

    def handshake(self, reason: str) -> None:
        self.handshakes[reason] += 1

    @property
    def delivery_seconds(self) -> Metric:
        text = "From a recipient's arrival to the answer that it got."
        return _histogram("postern_outbound_delivery_seconds", text, DELIVERY_BUCKETS, self._buckets, self._seconds)


@dataclass(eq=False, slots=True)
class OutboundCollector(Collector):
    """`resolving`: the resolver of this moment. `gauges`: by name, what it tells, and how it is asked for."""

    counts: OutboundCounts
    resolving: Callable[[], Resolving]
    gauges: Mapping[str, tuple[str, Callable[[], float]]]

    def collect(self) -> Iterable[Metric]:
        yield from self._deliveries()
        yield from self._dns()
        for name, (text, value) in self.gauges.items():
            yield GaugeMetricFamily(name, text, value())

    def _deliveries(self) -> Iterable[Metric]:
        counts = self.counts
        yield counter(
            "postern_outbound_deliveries",
            "Recipients, by what became of them and the level of the connection; none: there was none.",
            ("outcome", "level"),
            counts.deliveries.items(),
        )
        yield counts.delivery_seconds
        for name, text, label, values in (
            ("postern_outbound_failed_attempts", "Hosts that were of no use.", "reason", counts.attempts),
            ("postern_outbound_pool", "Idle connections looked for.", "result", counts.pooled),
            ("postern_outbound_connections", "Connections to next hops.", "result", counts.connections),
            ("postern_outbound_handshakes", "TLS handshakes with next hops.", "result", counts.handshakes),
            ("postern_dane_failures", "Hosts that DANE kept mail from.", "reason", counts.dane_failures),
        ):
            yield counter(name, text, (label,), (((key,), n) for key, n in values.items()))

    def _dns(self) -> Iterable[Metric]:
        resolving = self.resolving()
        counts = resolving.counts
        yield counter("postern_dns_lookups", "Answers of the resolver.", ("type", "state"), counts.lookups.items())
        text = "Until the resolver's answer."
        yield _histogram("postern_dns_lookup_seconds", text, LOOKUP_BUCKETS, counts.buckets, counts.seconds)
        yield CounterMetricFamily("postern_dns_cached", "Lookups that the relay had the answer to.", counts.cached)
        yield CounterMetricFamily(
            "postern_dns_resolver_restarts", "Restarts of the embedded resolver.", resolving.restarts
        )
        yield GaugeMetricFamily(
            "postern_dns_ready", "0: the self-test has not passed, and all mail is deferred.", resolving.ready[0]
        )
        yield GaugeMetricFamily(
            "postern_dns_selftest_unproved",
            "1: nobody could say whether a forged answer would fail.",
            resolving.verdict is Verdict.UNPROVED,
        )


def _histogram(name: str, text: str, bounds: Sequence[float], counts: Sequence[int], seconds: float) -> Metric:
    return HistogramMetricFamily(name, text, buckets=cumulated(bounds, counts), sum_value=seconds)
