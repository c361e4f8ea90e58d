"""The operator's metrics: each name with its labels, closed label sets, and both formats."""

from __future__ import annotations

import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from postern_operator.metrics import MOST_WATCHES, Metrics, Watched
from postern_operator.reasons import Skip
from postern_operator.review import Outcome

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(metrics: Metrics) -> Samples:
    page, _kind = metrics.render()
    families = text_string_to_metric_families(page.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[f"postern_operator_{name}", frozenset(labels.items())]


def test_all_of_them_are_there_from_the_start() -> None:
    metrics = Metrics("1.2.3")
    metrics.watched = Watched(watch_ages=lambda: {"pods": 1.0}, certificate_expiry=lambda: 2.0)
    page = metrics.render()[0].decode()
    assert set(re.findall(r"^# TYPE (postern_operator_\w+) ", page, re.MULTILINE)) == {
        f"postern_operator_{name}"
        for name in (
            "admission_duration_seconds",
            "admissions_total",
            "build_info",
            "certificate_expiry_timestamp_seconds",
            "config_asks_total",
            "events_dropped_total",
            "evictions_total",
            "leader",
            "pokes_total",
            "queue_depth",
            "reconcile_duration_seconds",
            "reconciles_total",
            "sidecars_pending",
            "watch_age_seconds",
        )
    }
    assert value(metrics, "build_info", version="1.2.3") == 1.0
    for skip in Skip:
        assert value(metrics, "admissions_total", outcome="Skipped", reason=skip.value) == 0.0
    for outcome in Outcome:
        assert value(metrics, "admissions_total", outcome=outcome.value, reason="") == 0.0


def test_what_happened_is_counted() -> None:
    metrics = Metrics("1")
    metrics.admission("Injected", 0.003)
    metrics.admission("HostNetwork", 0.2)
    metrics.admission("NotAReview", 7.0)
    metrics.reconciled("done", 0.04)
    metrics.reconciled("dropped", 0.0)
    metrics.poked("written")
    metrics.asked("failed")
    metrics.eviction("refused")
    for result in ("posted", "dropped", "failed"):
        metrics.event(result)
    assert value(metrics, "admissions_total", outcome="Injected", reason="") == 1
    assert value(metrics, "admissions_total", outcome="Skipped", reason="HostNetwork") == 1
    assert value(metrics, "admissions_total", outcome="NotAReview", reason="") == 1
    assert value(metrics, "admission_duration_seconds_bucket", le="0.005") == 1
    assert value(metrics, "admission_duration_seconds_bucket", le="5.0") == 2
    assert value(metrics, "admission_duration_seconds_bucket", le="+Inf") == 3
    assert value(metrics, "admission_duration_seconds_sum") == pytest.approx(7.203)
    assert value(metrics, "reconciles_total", result="done") == 1
    assert value(metrics, "reconciles_total", result="dropped") == 1
    assert value(metrics, "reconcile_duration_seconds_count") == 1
    assert value(metrics, "pokes_total", result="written") == 1
    assert value(metrics, "config_asks_total", result="failed") == 1
    assert value(metrics, "evictions_total", result="refused") == 1
    assert value(metrics, "events_dropped_total") == 2


def test_what_others_know_is_asked_when_it_is_read() -> None:
    metrics = Metrics("1")
    assert ("postern_operator_certificate_expiry_timestamp_seconds", frozenset()) not in samples(metrics)
    leading = [False]
    metrics.watched = Watched(
        queue_depth=lambda: 3,
        watch_ages=lambda: {"pods": 1.5, "namespaces": 2.5},
        certificate_expiry=lambda: 1e9,
        sidecars_pending=lambda: 4,
        leader=lambda: leading[0],
    )
    assert value(metrics, "queue_depth") == 3
    assert value(metrics, "watch_age_seconds", watch="pods") == 1.5
    assert value(metrics, "certificate_expiry_timestamp_seconds") == 1e9
    assert value(metrics, "sidecars_pending") == 4
    assert value(metrics, "leader") == 0
    leading[0] = True
    assert value(metrics, "leader") == 1


def test_labels_are_of_a_closed_list() -> None:
    metrics = Metrics("1")
    for number in range(1000):
        metrics.admission(f"forged {number}", 0.0)
        metrics.reconciled(f"odd {number}", 0.0)
        metrics.poked(f"odd {number}")
        metrics.asked(f"odd {number}")
        metrics.eviction(f"odd {number}")
        metrics.event(f"odd {number}")
    metrics.watched = Watched(watch_ages=lambda: {f"watch {n:04}": 1.0 for n in range(1000)})
    found = samples(metrics)
    assert len(found) < 120
    assert value(metrics, "admissions_total", outcome="other", reason="") == 1000
    assert value(metrics, "reconciles_total", result="other") == 1000
    assert sum(name == "postern_operator_watch_age_seconds" for name, _labels in found) == MOST_WATCHES


@pytest.mark.parametrize("accept", ["", "text/plain;version=0.0.4", "*/*", "x" * 5000])
def test_text_is_what_everybody_gets(accept: str) -> None:
    page, kind = Metrics("1").render(accept)
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# EOF" not in page


def test_openmetrics_is_for_who_accepts_it() -> None:
    page, kind = Metrics("1").render("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in openmetrics_families(page.decode())}  # type: ignore[no-untyped-call]
    assert {"postern_operator_admissions", "postern_operator_build", "process_cpu_seconds"} <= names
