"""What the chart takes, and what it refuses before anything reaches a cluster."""

from __future__ import annotations

import json
from typing import Any

import pytest

import chart

pytestmark = pytest.mark.real

SCHEMA: dict[str, Any] = json.loads((chart.CHART / "values.schema.json").read_text())
OPEN = {"issuerRef", "namespaceSelector", "resources"}  # objects whose members Kubernetes names

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"replicas": 2}, "additional properties 'replicas' not allowed"),
    ({"webhook": {"failurepolicy": "Fail"}}, "additional properties 'failurepolicy' not allowed"),
    ({"webhook": {"failurePolicy": "Never"}}, "at '/webhook/failurePolicy': value must be one of 'Ignore', 'Fail'"),
    ({"webhook": {"timeoutSeconds": 31}}, "at '/webhook/timeoutSeconds': maximum: got 31, want 30"),
    ({"webhook": {"timeoutSeconds": "5s"}}, "at '/webhook/timeoutSeconds': got string, want integer"),
    ({"webhook": {"url": "http://operator"}}, "at '/webhook/url'"),
    ({"webhook": {"url": "https://operator/path"}}, "at '/webhook/url'"),
    ({"webhook": {"url": "https://user@operator"}}, "at '/webhook/url'"),
    ({"webhook": {"matchConditions": [{"name": "x"}]}}, "missing property 'expression'"),
    ({"webhook": {"matchConditions": [{"name": "not-opted-out", "expression": "true"}]}}, "matchConditions/0/name"),
    ({"webhook": {"namespaceSelector": {"matchlabels": {}}}}, "additional properties 'matchlabels' not allowed"),
    (
        {"webhook": {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}},
        "value must be one of 'In', 'NotIn', 'Exists', 'DoesNotExist'",
    ),
    ({"webhook": {"certificates": {"mode": "Helm"}}}, "value must be one of 'Operator', 'CertManager'"),
    ({"webhook": {"certificates": {"issuerRef": {"kind": "Issuer"}}}}, "at '/webhook/certificates/issuerRef'"),
    ({"webhook": {"caBundle": "x"}}, "additional properties 'caBundle' not allowed"),
    ({"operator": {"replicas": "two"}}, "at '/operator/replicas': got string, want integer"),
    ({"operator": {"replicas": -1}}, "at '/operator/replicas': minimum: got -1, want 0"),
    ({"operator": {"image": "postern-operator:1"}}, "at '/operator/image': got string, want object"),
    ({"operator": {"image": {"tag": 1.2}}}, "at '/operator/image/tag': got number, want string"),
    ({"operator": {"image": {"digest": "0a0a"}}}, "at '/operator/image/digest'"),
    ({"operator": {"image": {"pullPolicy": "Sometimes"}}}, "at '/operator/image/pullPolicy'"),
    ({"operator": {"watchNamespaces": "mail"}}, "at '/operator/watchNamespaces': got string, want array"),
    ({"operator": {"watchNamespaces": ["Mail"]}}, "at '/operator/watchNamespaces/0'"),
    ({"operator": {"watchNamespaces": ["a", "a"]}}, "at '/operator/watchNamespaces'"),
    ({"operator": {"nodeSelector": {"a": True}}}, "at '/operator/nodeSelector/a': got boolean, want string"),
    ({"operator": {"resources": {"request": {}}}}, "additional properties 'request' not allowed"),
    ({"operator": {"podDisruptionBudget": {"maxUnavailable": "half"}}}, "podDisruptionBudget/maxUnavailable"),
    ({"sidecar": {"adminPort": 25}}, "at '/sidecar/adminPort': minimum: got 25, want 1,024"),
    ({"sidecar": {"runAsUser": 0}}, "at '/sidecar/runAsUser': minimum: got 0, want 1"),
    ({"sidecar": {"runAsUser": "root"}}, "at '/sidecar/runAsUser': got string, want"),
    ({"sidecar": {"imagePullSecrets": ["registry"]}}, "at '/sidecar/imagePullSecrets/0': got string, want object"),
    ({"sidecar": {"allowedImages": [""]}}, "at '/sidecar/allowedImages/0'"),
    ({"sidecar": {"allowTransparent": "yes"}}, "at '/sidecar/allowTransparent': got string, want boolean"),
    ({"crds": {"install": True}}, "additional properties 'install' not allowed"),
    ({"crds": {"keep": "false"}}, "at '/crds/keep': got string, want boolean"),
    ({"evictUninjected": {}}, "at '/evictUninjected': got object, want boolean"),
    ({"networkPolicy": {"egress": {"apiServerPorts": []}}}, "at '/networkPolicy/egress/apiServerPorts'"),
    ({"serviceMonitor": {"interval": "30"}}, "at '/serviceMonitor/interval'"),
    ({"prometheusRule": {"interval": "30s"}}, "additional properties 'interval' not allowed"),
    ({"dashboard": {"labels": {"a": 1}}}, "at '/dashboard/labels/a': got number, want string"),
    ({"priorityClass": {"value": 2_000_000_000}}, "at '/priorityClass/value': maximum"),
    ({"imagePullSecrets": [{"secret": "x"}]}, "missing property 'name'"),
    ({"commonLabels": ["a"]}, "at '/commonLabels': got array, want object"),
    ({"fullnameOverride": "Postern"}, "at '/fullnameOverride'"),
    ({"serviceAccount": {"create": False}}, "serviceAccount.name: say which ServiceAccount"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=[json.dumps(values) for values, _ in REFUSED])
def test_a_wrong_value_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    done = chart.helm("template", "postern", str(chart.CHART), values=values)
    assert done.returncode != 0
    assert message in done.stderr


def test_lint_has_nothing_to_say_but_that_there_is_no_icon() -> None:
    done = chart.helm("lint", "--strict", str(chart.CHART))
    said = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert (done.returncode, said) == (0, ["[INFO] Chart.yaml: icon is recommended"])


def test_an_older_cluster_is_refused() -> None:
    done = chart.helm("template", "postern", str(chart.CHART), "--kube-version", "1.32.9")
    assert done.returncode != 0
    assert ">=1.33.0-0" in done.stderr
    assert chart.helm("template", "postern", str(chart.CHART), "--kube-version", "1.33.0-gke.1").returncode == 0


def test_each_value_is_in_the_schema_and_each_of_the_schema_is_a_value() -> None:
    in_schema = set(_schema_paths(SCHEMA))
    in_values = set(_value_paths(chart.values()))
    assert in_schema - in_values == {"global"}  # helm's own
    assert in_values - in_schema == set()


def test_no_object_of_the_schema_is_open() -> None:
    for path, part in _objects(SCHEMA):
        if path not in ("/properties/global", *FREE):
            assert part.get("additionalProperties") is not None, path


FREE = (  # Kubernetes' own objects: the API server knows them better
    "/properties/operator/properties/affinity",
    "/properties/operator/properties/tolerations/items",
    "/properties/operator/properties/topologySpreadConstraints/items",
    "/properties/networkPolicy/properties/metricsFrom/items",
)


def test_each_value_has_a_comment() -> None:
    documented = chart.documented()
    assert len(documented) > 60
    assert [path for path, _, comment in documented if not comment] == []


def test_the_documentation_has_each_value_with_its_default() -> None:
    assert f"{chart.TABLE}\n{chart.table()}\n{chart.TABLE_END}" in chart.DOCUMENTATION.read_text()


def _schema_paths(part: dict[str, Any], prefix: str = "") -> list[str]:
    part = _resolved(part)
    found: list[str] = []
    for name, below in part.get("properties", {}).items():
        found.append(f"{prefix}{name}")
        if name not in OPEN:
            found += _schema_paths(below, f"{prefix}{name}.")
    return found


def _value_paths(values: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, below in values.items():
        found.append(f"{prefix}{name}")
        if isinstance(below, dict) and name not in OPEN and name not in ("labels", "nodeSelector"):
            found += _value_paths(below, f"{prefix}{name}.")
    return found


def _resolved(part: dict[str, Any]) -> dict[str, Any]:
    reference = part.get("$ref")
    return SCHEMA["$defs"][reference.rpartition("/")[2]] if reference else part


def _objects(part: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    if isinstance(part, dict):
        if part.get("type") == "object":
            found.append((path, part))
        for name, below in part.items():
            found += _objects(below, f"{path}/{name}")
    return found
