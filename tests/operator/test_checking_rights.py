"""The table of rights that `check` asks about is the chart's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import chart
from postern_operator.checking.rights import Right, expected
from postern_operator.settings import parsed

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.real

ACCOUNT = "postern-operator"


@pytest.mark.parametrize("name", ["default", "evict", "cert-manager", "watch-namespaces", "openshift", "url"])
def test_it_is_what_the_chart_grants(name: str) -> None:
    text = chart.of_set(name)
    settings = chart.find(text, "ConfigMap", "postern-operator-settings")["data"]["settings.yaml"]
    assert sorted(expected(parsed(settings.encode(), "settings"))) == sorted(set(_granted(chart.objects(text))))


def _granted(objects: list[dict[str, Any]]) -> Iterator[Right]:
    """All that is bound to the operator's account."""
    roles = {(each["kind"], _place(each), each["metadata"]["name"]): each for each in objects}
    for binding in objects:
        if binding["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        if ACCOUNT not in [subject["name"] for subject in binding["subjects"]]:
            continue
        namespace, reference = _place(binding), binding["roleRef"]
        role = roles[reference["kind"], namespace if reference["kind"] == "Role" else "", reference["name"]]
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    for name in rule.get("resourceNames", [""]):
                        for verb in rule["verbs"]:
                            yield Right(group, resource, namespace, name, verb)


def _place(found: dict[str, Any]) -> str:
    return str(found["metadata"].get("namespace", ""))
