"""docs/operator.md, docs/kubernetes.md and docs/metrics.md say what the operator says: each reason, Event, name,
metric, setting and option stands there, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from postern_operator import __main__ as command_line
from postern_operator import conditions, events, evict, eviction, health, inject, lease, model, rotation
from postern_operator.conditions import pace, view
from postern_operator.metrics import ASKS, EVICTIONS, NOT_A_REVIEW, POKES, RECONCILES, SKIPPED, Metrics, Watched
from postern_operator.reasons import Accepted, Condition, Eviction, Outdated, Programmed, Skip
from postern_operator.review import Outcome
from postern_operator.settings import Settings

if TYPE_CHECKING:
    import enum
    from collections.abc import Iterator

    from prometheus_client import Metric

DOCS = Path(__file__).parents[3] / "docs"
OPERATOR = (DOCS / "operator.md").read_text()
KUBERNETES = (DOCS / "kubernetes.md").read_text()
METRICS = (DOCS / "metrics.md").read_text()
PAGES = {path.name: path.read_text() for path in sorted(DOCS.glob("*.md"))}


def section(page: str, heading: str) -> str:
    """The text below it, up to the next heading of its level or a higher one."""
    level = heading.partition(" ")[0]
    _, found, rest = page.partition(f"\n{heading}\n")
    assert found, heading
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of its tables' rows, heads left out."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<=\s)\|(?=\s)", line[1:-1])] for line in lines]
    return [row for row in cells if row[0].startswith("`")]


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def first(row: list[str]) -> str:
    return row[0].strip("`")


# -- reasons -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "reasons"),
    [(Condition.ACCEPTED, Accepted), (Condition.PROGRAMMED, Programmed), (Condition.SIDECARS_OUTDATED, Outdated)],
)
def test_reasons_of_conditions_in_their_order(condition: Condition, reasons: type[enum.Enum]) -> None:
    table = rows(section(OPERATOR, f"### {condition.value}"))
    assert [first(row) for row in table] == [reason.value for reason in reasons]
    for row in table:
        reason, status, means, remedy = row
        good = reason.strip("`") in (
            Accepted.ACCEPTED.value,
            Programmed.PROGRAMMED.value,
            Outdated.OLDER_SIDECARS.value,
        )
        assert status == str(good)
        assert means
        assert remedy


def test_skip_reasons_with_their_events() -> None:
    table = rows(section(OPERATOR, "## Why a pod has no sidecar"))
    assert [(first(row), row[2]) for row in table] == [(skip.value, events.TEXTS[skip]) for skip in Skip]


SILENT = {Programmed.NOT_ACCEPTED, Programmed.PENDING, Programmed.NAMESPACE_NOT_ENABLED}
"""No news, it passes, and Events are for enabled namespaces only."""


def told() -> Iterator[conditions.Judgement]:
    """A status for each reason that a condition can have."""
    for kind, reasons in ((Condition.ACCEPTED, Accepted), (Condition.PROGRAMMED, Programmed)):
        for reason in reasons:
            yield judgement(kind, reason)
    for outdated in Outdated:
        yield judgement(Condition.SIDECARS_OUTDATED, outdated)


def judgement(kind: Condition, reason: enum.Enum) -> conditions.Judgement:
    condition = {"type": kind.value, "status": "True", "reason": reason.value}
    return conditions.Judgement((condition,), "", 0, 0, 0)


def test_events_of_policies() -> None:
    """Those that a change of the status is told by: the type is as there, the text as it is posted."""
    by_reason = {reason.value: text for reason, text in events.TEXTS.items() if not isinstance(reason, Skip)}
    before = {"conditions": [{"type": kind.value, "status": "", "reason": ""} for kind in Condition]}
    changes = [notice for each in told() for notice in conditions.transitions(before, each)]
    notices = [notice for notice in changes if notice.reason != Programmed.NAMESPACE_NOT_ENABLED.value]
    notices += [model.Notice(False, reason.value) for reason in Eviction]
    assert [(first(row), row[1], row[2]) for row in rows(section(OPERATOR, "## Events"))] == [
        (notice.reason, "Warning" if notice.warning else "Normal", by_reason[notice.reason]) for notice in notices
    ]
    assert len(notices) == len(Accepted) + len(Programmed) + len(Outdated) + len(Eviction) - len(SILENT)


# -- names -------------------------------------------------------------------------------------------------------------

LABELS = {model.INJECT, model.POLICY, model.CONFIG_HASH, model.STATUS, model.POLICY_UID}


def test_labels_annotations_containers_volumes_and_keys() -> None:
    found = {span for row in rows(section(OPERATOR, "## Names")) for cell in row for span in spans(cell)}
    assert {name for name in found if name.startswith(f"{model.GROUP}/")} == LABELS
    assert found >= {
        model.MANAGED_BY,
        model.CONTAINER,
        model.INIT_CONTAINER,
        model.VOLUME_CONFIG,
        model.VOLUME_RUN,
        model.VOLUME_CREDENTIALS,
        model.VOLUME_EMPTY,
        model.POLICY_JSON,
        model.INJECTION_JSON,
        model.config_map_name("POLICY"),
        *rotation.KEYS,
        Settings().lease,
        Settings().webhook.secret,
        Settings().webhook.configuration,
    }
    assert f"`{model.FIELD_MANAGER}`" in OPERATOR


@pytest.mark.parametrize("name", PAGES)
def test_pages_name_no_label_that_there_is_not(name: str) -> None:
    others = {model.API_VERSION, f"{model.GROUP}/operator"}  # the reporting controller of Events
    assert (
        set(re.findall(rf"{re.escape(model.GROUP)}/[a-z0-9]+(?:-[a-z0-9]+)*", PAGES[name])) - LABELS - others == set()
    )


def test_what_is_injected_has_each_thing_with_its_place() -> None:
    table = section(KUBERNETES, "## What is injected, and why")
    for name in (
        model.CONTAINER,
        model.INIT_CONTAINER,
        model.VOLUME_CONFIG,
        model.VOLUME_RUN,
        model.VOLUME_CREDENTIALS,
        model.VOLUME_EMPTY,
        model.UNPRIVILEGED_PORTS,
        model.POLICY,
        model.STATUS,
        model.CONFIG_HASH,
        inject.CONFIG_DIRECTORY,
        inject.STATE_DIRECTORY,
        inject.CREDENTIALS_DIRECTORY,
        inject.ADMIN_PORT_NAME,
    ):
        assert f"`{name}`" in table
    assert f"emptyDir, {inject.STATE_SIZE}," in table


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_code() -> None:
    times, lives = lease.Times(), rotation.Lifetimes()
    leases = section(OPERATOR, "## Who writes: the Lease")
    assert times.retry == 1.0
    assert "renewed every second" in leases
    assert f"after {times.deadline:g} s without success, and taken by another after {times.duration:g} s" in leases
    certificates = section(OPERATOR, "## Certificates")
    assert f"for {lives.authority.days} days and a certificate for {lives.leaf.days}" in certificates
    assert lives.authority_renewal / lives.authority == pytest.approx(1 / 3, abs=0.01)
    assert lives.leaf_renewal / lives.leaf == pytest.approx(1 / 3, abs=0.01)
    assert (lives.settle.total_seconds(), lives.skew.total_seconds()) == (60, 3600)
    pages = section(OPERATOR, "## Health and readiness")
    assert f"turned in the last {health.STUCK:g} s" in pages
    assert health.STALE == 600
    assert "more than ten minutes behind" in pages
    told_of = " ".join(section(OPERATOR, "## Events").split())
    assert (events.AGAIN, events.OWNERS) == (600, 20)
    assert "in ten minutes, twenty objects" in told_of
    evictions = " ".join(section(OPERATOR, "### Eviction").split())
    assert (evict.EVERY, evict.ROUNDS, eviction.READY_FOR, evict.AT_ONCE) == (60, 10, 300, 10)
    assert "Ready for five minutes" in evictions
    assert "in ten minutes, ten pods a minute in all, and none in the first ten minutes" in evictions
    programmed = section(OPERATOR, "### Programmed")
    assert f"not answered the operator for {view.UNREACHABLE_AFTER:g} s" in programmed
    assert pace.ASK_CURRENT == 60


# -- metrics -----------------------------------------------------------------------------------------------------------


def families() -> list[Metric]:
    metrics = Metrics("1")
    metrics.watched = Watched(watch_ages=lambda: {"pods": 1.0}, certificate_expiry=lambda: 1.0)
    return [family for family in metrics.registry.collect() if family.name.startswith("postern_operator_")]


def exposed(family: Metric) -> str:
    return {"counter": f"{family.name}_total", "info": f"{family.name}_info"}.get(family.type, family.name)


def test_metrics() -> None:
    table = [row for row in rows(section(METRICS, "## The operator")) if len(row) == 4]
    documented = {first(row): (row[1], tuple(sorted(spans(row[2])))) for row in table}
    expected = {}
    for family in families():
        labels = {name for sample in family.samples for name in sample.labels} - {"le"}
        kind = {"info": "gauge"}.get(family.type, family.type)
        expected[exposed(family)] = (kind, tuple(sorted(labels)))
    assert documented == expected


def test_values_of_labels() -> None:
    page = spans(section(METRICS, "## The operator"))
    assert {
        *(outcome.value for outcome in Outcome),
        SKIPPED,
        NOT_A_REVIEW,
        *RECONCILES,
        *POKES,
        *ASKS,
        *EVICTIONS,
    } <= set(page)


def test_no_metric_is_named_that_there_is_not() -> None:
    names = {exposed(family) for family in families()}
    for page in PAGES.values():
        assert set(re.findall(r"\bpostern_operator_\w+", page)) - names == set()


# -- settings and options ----------------------------------------------------------------------------------------------


def leaves(part: msgspec.Struct, prefix: str = "") -> Iterator[tuple[str, Any]]:
    plain = msgspec.to_builtins(part)
    for field in msgspec.structs.fields(part):
        value = getattr(part, field.name)
        path = f"{prefix}{field.encode_name}"
        if isinstance(value, msgspec.Struct):
            yield from leaves(value, f"{path}.")
        else:
            yield path, plain.get(field.encode_name, msgspec.to_builtins(value))


def written(value: object) -> str:
    return str(value) if isinstance(value, str) and value else msgspec.json.encode(value).decode()


def test_settings_with_their_defaults() -> None:
    table = rows(section(OPERATOR, "## settings.yaml"))
    compact = [(first(row), row[1].strip("`").replace('": ', '":').replace(", ", ",")) for row in table]
    assert compact == [(path, written(value)) for path, value in leaves(Settings())]


def options(command: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    with pytest.raises(SystemExit, match="0"):
        command_line.main([command, "--help"])
    heads = re.findall(r"^ +(-.*?)(?:  |$)", capsys.readouterr().out, re.MULTILINE)
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", " ".join(heads))) - {"-h", "--help"}


def test_options(capsys: pytest.CaptureFixture[str]) -> None:
    table = rows(section(OPERATOR, "## Command line"))
    commands = list(dict.fromkeys(first(row) for row in table))
    assert commands == ["run", "inject", "check", "version"]
    for command in commands:
        documented = {
            span.partition(" ")[0] for row in table if first(row) == command for span in spans(row[1]) if span[0] == "-"
        }
        assert documented == options(command, capsys)
