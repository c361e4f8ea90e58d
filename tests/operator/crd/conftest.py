"""The definition, as the repository has it, on the API server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from cluster.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.control import ControlPlane

CRD = Path(__file__).parents[3] / "crds/mailproxypolicies.postern.dev.yaml"


@pytest.fixture(scope="session")
def crd() -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(CRD)
    return loaded


@pytest.fixture(scope="module")
def installed(control_plane: ControlPlane, crd: dict[str, Any]) -> dict[str, Any]:
    """As the API server took it, and told of it. For a module: a Release of another one takes it away."""
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}"
    control_plane.admin.apply(path, crd, "test-crd")
    taken = control_plane.admin.wait(path, _established)
    # Discovery and OpenAPI are published behind it.
    eventually(lambda: control_plane.kubectl("explain", "mpp.spec", check=False).returncode == 0, message="explain")
    return taken


def _established(crd: dict[str, Any]) -> bool:
    conditions = crd.get("status", {}).get("conditions") or []
    return any(condition["type"] == "Established" and condition["status"] == "True" for condition in conditions)


@pytest.fixture(scope="module")
def policies(control_plane: ControlPlane, installed: dict[str, Any]) -> Iterator[str]:
    """The path of the policies of a namespace."""
    with control_plane.namespace() as namespace:
        yield f"/apis/postern.dev/v1alpha1/namespaces/{namespace}/mailproxypolicies"
