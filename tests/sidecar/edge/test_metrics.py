"""Metrics: what is counted shows up under the right labels, and the page lists exactly what there is."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import postern_sidecar.edge.metrics as metrics_module
from postern_sidecar.config.model import Limits
from postern_sidecar.config.model import Outbound as Section
from postern_sidecar.edge.metrics import Metrics
from postern_sidecar.edge.outbound import Outbound
from postern_sidecar.edge.submission import House, Submission
from postern_sidecar.inbound.events import Outcome
from postern_sidecar.inbound.limits import Limiter
from postern_sidecar.inbound.networks import NetworkSet
from postern_sidecar.logline import Record
from postern_sidecar.outbound.plan import Level
from postern_sidecar.outbound.settings import Settings
from relaying import lent

PAGE = Path(metrics_module.__file__ or "").parents[3] / "docs" / "metrics.md"


def limiter() -> Limiter:
    it = Limiter(Limits(connections_per_client=5), NetworkSet())
    it.admit(ip_address("192.0.2.1"), 0)
    it.evictions = 7
    return it


@pytest.fixture
def metrics() -> Metrics:
    """Every metric has a value."""
    metrics = Metrics("1.2.3")
    smtp = metrics.listener("smtp", "ProxyV2")
    smtp.handed_over(0.002)
    smtp.handed_over(0.0025)
    smtp.handed_over(99)
    smtp.octets(100, 20)
    smtp.octets(1, 2)
    smtp.outcome(Outcome.LIMITED)
    smtp.limit("rate_per_client")
    smtp.header_failure("crc32c")
    smtp.header_failure("crc32c")
    smtp.rule("spam", "Refuse")
    smtp.rule("spam", "Refuse", error=True)
    smtp.probe("up")
    metrics.watch("smtp", lambda: 3, limiter)
    metrics.exposed("smtp", True)
    metrics.config_loaded("3f9c", "file", 1795339506.0)
    metrics.log_dropped(2)
    metrics.log_dropped(3)
    return metrics


def samples(metrics: Metrics) -> dict[str, float]:
    """By name and labels, as the page has them, without what the process collector says."""
    return {
        f"{sample.name}{{{','.join(f'{k}={v}' for k, v in sorted(sample.labels.items()))}}}": sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if not sample.name.startswith("process_")
    }


def test_what_was_counted(metrics: Metrics) -> None:
    found = samples(metrics)
    buckets = {key: value for key, value in found.items() if "_bucket" in key}
    assert {key: value for key, value in found.items() if key not in buckets} == {
        "postern_inbound_connections_total{handover=ProxyV2,listener=smtp,outcome=handed_over}": 3,
        "postern_inbound_connections_total{handover=ProxyV2,listener=smtp,outcome=limited}": 1,
        "postern_inbound_header_failures_total{listener=smtp,reason=crc32c}": 2,
        "postern_inbound_bytes_total{direction=in,listener=smtp}": 101,
        "postern_inbound_bytes_total{direction=out,listener=smtp}": 22,
        "postern_inbound_handover_seconds_count{handover=ProxyV2,listener=smtp}": 3,
        "postern_inbound_handover_seconds_sum{handover=ProxyV2,listener=smtp}": 99.0045,
        "postern_inbound_limited_total{kind=rate_per_client,listener=smtp}": 1,
        "postern_inbound_rule_hits_total{action=Refuse,listener=smtp,rule=spam}": 1,
        "postern_inbound_rule_errors_total{listener=smtp,rule=spam}": 1,
        "postern_inbound_probes_total{listener=smtp,result=up}": 1,
        "postern_inbound_sessions{listener=smtp}": 3,
        "postern_inbound_clients{listener=smtp}": 1,
        "postern_inbound_client_evictions_total{listener=smtp}": 7,
        "postern_inbound_backend_exposed{listener=smtp}": 1,
        "postern_config_info{hash=3f9c,source=file}": 1,
        "postern_config_loaded_timestamp_seconds{}": 1795339506,
        "postern_config_last_reload_successful{}": 1,
        "postern_config_reloads_total{result=accepted}": 1,
        "postern_config_reloads_total{result=refused}": 0,
        "postern_log_dropped_total{}": 5,
        "postern_build_info{version=1.2.3}": 1,
    }
    by_bound = {re.findall(r"le=([^,}]+)", key)[0]: value for key, value in buckets.items()}
    assert by_bound == {
        **dict.fromkeys(("0.0005", "0.001"), 0),
        **dict.fromkeys(("0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0"), 2),
        "+Inf": 3,
    }


def test_a_listener_that_had_two_hand_overs(metrics: Metrics) -> None:
    assert metrics.listener("smtp", "ProxyV2") is metrics.listener("smtp", "ProxyV2")
    other = metrics.listener("smtp", "XCLIENT")
    other.handed_over(0.1)
    other.octets(1000, 0)
    found = samples(metrics)
    assert found["postern_inbound_bytes_total{direction=in,listener=smtp}"] == 1101
    assert found["postern_inbound_connections_total{handover=XCLIENT,listener=smtp,outcome=handed_over}"] == 1
    assert found["postern_inbound_connections_total{handover=ProxyV2,listener=smtp,outcome=handed_over}"] == 3


def test_a_listener_that_is_no_more(metrics: Metrics) -> None:
    metrics.unwatch_all()
    found = samples(metrics)
    gone = {"postern_inbound_sessions{listener=smtp}", "postern_inbound_backend_exposed{listener=smtp}"}
    assert not gone & found.keys()
    assert found["postern_inbound_bytes_total{direction=in,listener=smtp}"] == 101


@pytest.mark.parametrize(
    ("source", "then_refused", "successful", "refused"),
    [("file", False, 1, 0), ("file", True, 0, 1), ("lastAccepted", False, 0, 1)],
)
def test_whether_the_file_is_what_runs(source: str, then_refused: bool, successful: int, refused: int) -> None:
    metrics = Metrics("1")
    metrics.config_loaded("abc", source, 1.0)
    if then_refused:
        metrics.config_refused()
    found = samples(metrics)
    assert found["postern_config_last_reload_successful{}"] == successful
    assert found["postern_config_reloads_total{result=refused}"] == refused
    assert found[f"postern_config_info{{hash=abc,source={source}}}"] == 1


async def outbound(directory: Path) -> Outbound:
    """Never started; every metric has a value."""
    settings = Settings(Section(), "mail.example.net")
    made = Outbound(
        settings,
        state_dir=directory,
        write=lambda _: None,
        next_id=lambda: "o0001",
        on_quiet=lambda: None,
        lent=lent(),
    )
    relay = made._relay
    made._doors = Submission(House(relay, made._lent), [], {})
    counts = made.counts
    for level in (Level.DANE, None):
        fields = {"outcome": "delivered", "duration": 0.3} | ({"level": level} if level else {})
        counts.record(Record("delivery", "o1", fields))
    for reason, required in (("tlsa_mismatch", Level.DANE), ("tls_failed", Level.MAY), ("no_tlsa", None)):
        counts.record(Record("attempt", "o1", {"reason": reason, "level": required}))
    counts.record(Record("dns", "", {"message": "no delivery"}))
    counts.pool(hit=True)
    counts.dialled("connected")
    counts.handshake("tls_failed")
    made._resolving.counts.lookups["A", "secure"] += 1
    return made


async def test_what_outbound_counts(metrics: Metrics, tmp_path: Path) -> None:
    metrics.outbound((await outbound(tmp_path)).collector())
    found = samples(metrics)
    assert found["postern_outbound_deliveries_total{level=dane,outcome=delivered}"] == 1
    assert found["postern_outbound_deliveries_total{level=none,outcome=delivered}"] == 1
    assert found["postern_outbound_delivery_seconds_bucket{le=0.25}"] == 0
    assert found["postern_outbound_delivery_seconds_bucket{le=0.5}"] == 2
    assert found["postern_outbound_delivery_seconds_sum{}"] == 0.6
    assert found["postern_outbound_failed_attempts_total{reason=tls_failed}"] == 1
    failures = {name for name in found if name.startswith("postern_dane_failures_total")}
    assert failures == {f"postern_dane_failures_total{{reason={reason}}}" for reason in ("tlsa_mismatch", "no_tlsa")}
    assert found["postern_outbound_pool_total{result=hit}"] == 1
    assert found["postern_dns_ready{}"] == 0
    metrics.outbound(None)
    assert not any(name.startswith(("postern_outbound", "postern_dns", "postern_dane")) for name in samples(metrics))


async def test_the_page_lists_every_metric_with_its_type_and_labels(metrics: Metrics, tmp_path: Path) -> None:
    metrics.outbound((await outbound(tmp_path)).collector())
    rows = re.findall(r"^\| `([a-z_]+)` \| (counter|gauge|histogram) \|([^|]*)\|", PAGE.read_text(), re.MULTILINE)
    documented = {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in rows
        if not name.startswith("postern_operator_")
    }
    there = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        name = family.name + ("_total" if family.type == "counter" else "")
        there[name] = (family.type, frozenset(family.samples[0].labels) - {"le"})
    assert documented == there


def test_the_page_lists_every_outcome() -> None:
    table = PAGE.read_text().partition("| outcome |")[2].partition("\n\n")[0]
    outcomes = set(re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE))
    assert outcomes == {outcome.value for outcome in Outcome} | {metrics_module.HANDED_OVER}


def test_a_new_sidecar_has_a_page() -> None:
    assert samples(Metrics("1"))["postern_log_dropped_total{}"] == 0
