"""A control plane of the chart's tests alone: they install and remove what the whole cluster shares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import chart
from cluster.control import ControlPlane

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
OURS = f"{CRDS}/mailproxypolicies.postern.dev"


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane() as running:
        yield running


@pytest.fixture(scope="session")
def foreign_definitions(plane: ControlPlane) -> None:
    """Prometheus Operator's and cert-manager's."""
    for file in sorted(Path(__file__).parent.glob("crds/*.json")):
        definition = json.loads(file.read_text())
        plane.admin.create(CRDS, definition)
        plane.admin.wait(f"{CRDS}/{definition['metadata']['name']}", _established)


def _established(definition: chart.Object) -> bool:
    conditions = definition.get("status", {}).get("conditions") or []
    return {"Established": "True"}.items() <= {item["type"]: item["status"] for item in conditions}.items()


@pytest.fixture
def installed(plane: ControlPlane) -> Iterator[Callable[..., str]]:
    """`installed(values, *flags, release=, namespace=, source=)` is helm install, and gives its output. All is
    removed after."""
    releases: list[tuple[str, str]] = []

    def install(
        values: chart.Object | None = None,
        *flags: str,
        release: str = chart.RELEASE,
        namespace: str = chart.NAMESPACE,
        source: Path = chart.CHART,
    ) -> str:
        releases.append((release, namespace))
        arguments = ("install", release, str(source), "--namespace", namespace, "--create-namespace", *flags)
        return plane.helm(*arguments, "--values", "-", input=json.dumps(values or {})).stdout

    yield install
    for release, namespace in releases:
        plane.helm("uninstall", release, "--namespace", namespace, "--ignore-not-found", "--no-hooks")
        plane.remove_namespace(namespace)
    plane.admin.delete(OURS, missing_ok=True)
    plane.admin.wait_gone(OURS)
