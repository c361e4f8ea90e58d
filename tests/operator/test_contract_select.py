"""Which pods a policy selects: what `select` says beside what the API server's LIST brings for the same selector."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.pods import create_pod, pod
from postern_operator.records import policy_record
from postern_operator.select import query, selects
from postern_operator.settings import Sidecar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.control import ControlPlane

pytestmark = pytest.mark.real

KEYS = ("app", "example.org/role")
VALUES = ("", "mail", "Web_1.x")
LABELS = [
    {key: value for key, value in zip(KEYS, values, strict=True) if value is not None}
    for values in itertools.product((None, *VALUES), repeat=2)
]


@pytest.fixture(scope="module")
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    with control_plane.namespace() as name:
        for number, labels in enumerate(LABELS):
            create_pod(control_plane.admin, pod(f"pod-{number}", name, labels=labels))
        yield name


some_values = st.lists(st.sampled_from(VALUES), min_size=1, max_size=3, unique=True)
expressions = st.one_of(
    st.fixed_dictionaries(
        {"key": st.sampled_from(KEYS), "operator": st.sampled_from(["In", "NotIn"]), "values": some_values}
    ),
    st.fixed_dictionaries({"key": st.sampled_from(KEYS), "operator": st.sampled_from(["Exists", "DoesNotExist"])}),
)
selectors = st.fixed_dictionaries(
    {},
    optional={
        "matchLabels": st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), min_size=1),
        "matchExpressions": st.lists(expressions, min_size=1, max_size=3),
    },
).filter(bool)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(selector=selectors)
def test_a_list_brings_what_is_selected_here(
    control_plane: ControlPlane, namespace: str, selector: dict[str, Any]
) -> None:
    """The CRD's schema takes it too, or no policy could have it."""
    manifest = {
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "MailProxyPolicy",
        "metadata": {"name": "edge", "namespace": namespace},
        "spec": {"selector": selector, "outbound": {}, "hostname": "mail.example.net"},
    }
    record = policy_record(manifest, Sidecar())
    assert record.problems == ()
    text = query(record.selector)
    assert text is not None
    listed = control_plane.admin.list(f"/api/v1/namespaces/{namespace}/pods", text)
    found = {one["metadata"]["name"] for one in listed}
    assert found == {f"pod-{number}" for number, labels in enumerate(LABELS) if selects(record.selector, labels)}
