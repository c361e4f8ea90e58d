"""What the operator may do with the chart's own rights, asked with its own token: each thing that it does, and beside
it what it must not."""

from __future__ import annotations

import base64
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

import chart
from cluster.admin import Admin, ApiError
from cluster.waiting import eventually
from postern_operator import rotation, signing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster.control import ControlPlane

pytestmark = pytest.mark.real

ENABLED = {"postern.dev/inject": "enabled"}
OURS = {"app.kubernetes.io/managed-by": "postern"}
HASH = "postern.dev/config-hash"


@pytest.fixture
def operator(plane: ControlPlane, installed: Callable[..., str]) -> Iterator[Admin]:
    installed({"evictUninjected": True})
    with _operator(plane) as user:
        yield user


@contextlib.contextmanager
def _operator(plane: ControlPlane) -> Iterator[Admin]:
    """The API server has seen RBAC and the policies over admission once this user can read, and is refused."""
    with (
        plane.client(plane.token(chart.NAMESPACE, "postern-operator")) as user,
        plane.namespace() as elsewhere,
        plane.namespace(ENABLED) as here,
    ):
        refusals = [
            (elsewhere, "postern-x", OURS, "only to namespaces"),
            (here, "other", OURS, "called postern-*"),
        ]
        for namespace, name, labels, text in refusals:
            path = f"/api/v1/namespaces/{namespace}/configmaps?dryRun=All"
            body = _config_map(name, labels)
            eventually(lambda p=path, b=body, t=text: t in _refusal(lambda: user.create(p, b)))  # type: ignore[misc]
        pod = plane.admin.create(f"/api/v1/namespaces/{here}/pods", _pod())
        path = f"/api/v1/namespaces/{here}/pods/{pod['metadata']['name']}?dryRun=All"
        body = {"metadata": {"labels": {"a": "b"}}}
        eventually(lambda: "and nothing else" in _refusal(lambda: user.merge(path, body)))
        yield user


def test_it_writes_its_config_maps_and_no_others(plane: ControlPlane, operator: Admin) -> None:
    with plane.namespace(ENABLED) as namespace:
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        operator.apply(f"{path}/postern-edge", _config_map("postern-edge", OURS), manager="postern-operator")
        changed = _config_map("postern-edge", OURS) | {"data": {"policy.json": "{}"}}
        operator.apply(f"{path}/postern-edge", changed, manager="postern-operator")
        assert len(operator.list(path, "app.kubernetes.io/managed-by=postern")) == 1
        operator.delete(f"{path}/postern-edge")

        plane.admin.create(path, _config_map("postern-foreign", {}))
        plane.admin.create(path, _config_map("foreign", OURS))
        label = "with the label app.kubernetes.io/managed-by=postern"
        name = "that are called postern-*"
        refused: list[tuple[Callable[[], object], str]] = [
            (lambda: operator.create(path, _config_map("edge", OURS)), name),
            (lambda: operator.create(path, _config_map("postern-edge", {})), label),
            (lambda: operator.merge(f"{path}/postern-foreign", {"data": {"a": "b"}}), label),
            (lambda: operator.merge(f"{path}/postern-foreign", {"metadata": {"labels": OURS}}), label),
            (lambda: operator.merge(f"{path}/foreign", {"data": {"a": "b"}}), name),
            (lambda: operator.delete(f"{path}/postern-foreign"), label),
            (lambda: operator.delete(f"{path}/foreign"), name),
        ]
        for attempt, text in refused:
            assert text in _refusal(attempt)


def test_it_cannot_take_its_label_off_a_config_map(plane: ControlPlane, operator: Admin) -> None:
    with plane.namespace(ENABLED) as namespace:
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        operator.create(path, _config_map("postern-edge", OURS))
        without = {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}
        assert "with the label" in _refusal(lambda: operator.merge(f"{path}/postern-edge", without))


def test_outside_enabled_namespaces_it_only_clears_its_own_config_maps_away(
    plane: ControlPlane, operator: Admin
) -> None:
    for labels in ({}, {"postern.dev/inject": "disabled"}):
        with plane.namespace(labels) as namespace:
            path = f"/api/v1/namespaces/{namespace}"
            plane.admin.create(f"{path}/configmaps", _config_map("postern-edge", OURS))
            plane.admin.create(f"{path}/configmaps", _config_map("postern-foreign", {}))
            plane.admin.create(f"{path}/pods", _pod())
            refused: list[Callable[[], object]] = [
                lambda p=path: operator.create(f"{p}/configmaps", _config_map("postern-new", OURS)),  # type: ignore[misc]
                lambda p=path: operator.merge(f"{p}/configmaps/postern-edge", {"data": {"a": "b"}}),  # type: ignore[misc]
                lambda p=path: operator.merge(f"{p}/pods/p", {"metadata": {"annotations": {HASH: "a.1"}}}),  # type: ignore[misc]
                lambda p=path: operator.create(f"{p}/pods", _pod("q"), dry_run=True),  # type: ignore[misc]
                lambda p=path: operator.create(f"{p}/pods/p/eviction", _eviction()),  # type: ignore[misc]
            ]
            for attempt in refused:
                assert "only to namespaces with the label postern.dev/inject=enabled" in _refusal(attempt)
            assert "with the label" in _refusal(lambda p=path: operator.delete(f"{p}/configmaps/postern-foreign"))  # type: ignore[misc]
            operator.delete(f"{path}/configmaps/postern-edge")


def test_of_a_pod_it_changes_its_annotation_and_nothing_else(plane: ControlPlane, operator: Admin) -> None:
    with plane.namespace(ENABLED) as namespace:
        path = f"/api/v1/namespaces/{namespace}/pods"
        pod = _pod()
        pod["metadata"] |= {"labels": {"app": "mail"}, "annotations": {"kept": "yes"}}
        plane.admin.create(path, pod)
        for value in ("abc.1", "abc.2"):
            operator.merge(f"{path}/p", {"metadata": {"annotations": {HASH: value}}})
        refused: list[dict[str, Any]] = [
            {"metadata": {"annotations": {"new": "x"}}},
            {"metadata": {"annotations": {"kept": "no"}}},
            {"metadata": {"annotations": {"kept": None}}},
            {"metadata": {"annotations": {HASH: "abc.3", "postern.dev/status": "{}"}}},
            {"metadata": {"labels": {"app": "other"}}},
            {"metadata": {"labels": {"app": None}}},
            {"metadata": {"labels": {"new": "x"}}},
            {"metadata": {"finalizers": ["example.net/hold"]}},
            {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "y"}]}},
            {"spec": {"activeDeadlineSeconds": 1}},
        ]
        for change in refused:
            refusal = _refusal(lambda c=change: operator.merge(f"{path}/p", c))  # type: ignore[misc]
            assert "may change the annotation postern.dev/config-hash and nothing else" in refusal, change
        places: list[tuple[str, object]] = [
            ("containers/0/image", "evil"),
            ("tolerations/-", {"operator": "Exists"}),
        ]
        for place, new in places:
            patch = [{"op": "add", "path": f"/spec/{place}", "value": new}]
            assert "and nothing else" in _refusal(lambda p=patch: operator.json_patch(f"{path}/p", p)), place  # type: ignore[misc]
        with_hash = plane.admin.get(f"{path}/p")["metadata"]["annotations"]
        assert with_hash == {"kept": "yes", HASH: "abc.2"}


def test_a_pod_as_big_as_they_get_can_be_poked(plane: ControlPlane, operator: Admin) -> None:
    with plane.namespace(ENABLED) as namespace:
        path = f"/api/v1/namespaces/{namespace}/pods"
        pod = _pod()
        names = [{"name": f"V{number}", "value": "x" * 200} for number in range(3000)]
        pod["spec"]["containers"][0]["env"] = names
        pod["metadata"]["annotations"] = {f"a{number}": "x" * 100 for number in range(1000)}
        plane.admin.create(path, pod)
        operator.merge(f"{path}/p", {"metadata": {"annotations": {HASH: "abc.1"}}})


def test_of_its_webhook_it_changes_the_ca_bundle_and_nothing_else(plane: ControlPlane, operator: Admin) -> None:
    path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/postern"
    nothing_else = "of its webhook configuration the operator may change clientConfig.caBundle and nothing else"
    marked = [{"op": "add", "path": "/metadata/labels/evil", "value": "x"}]
    eventually(lambda: nothing_else in _refusal(lambda: operator.json_patch(f"{path}?dryRun=All", marked)))
    (webhook,) = plane.admin.get(path)["webhooks"]
    for bundle in (_bundle(), _bundle(2), ""):
        config = webhook["clientConfig"] | {"caBundle": bundle}
        body = {"webhooks": [webhook | {"clientConfig": config}]}
        assert operator.merge(path, body)["webhooks"][0]["clientConfig"].get("caBundle", "") == bundle
    at = "/webhooks/0"
    service = f"{at}/clientConfig/service"
    condition = {"name": "never", "expression": "false"}
    rule = webhook["rules"][0] | {"resources": ["secrets"]}
    url = [{"op": "remove", "path": service}, _put(f"{at}/clientConfig/url", "https://192.0.2.1/")]
    refused: list[list[chart.Object]] = [
        url,
        [_put(f"{service}/name", "evil")],
        [_put(f"{service}/namespace", "evil")],
        [_put(f"{service}/path", "/evil")],
        [_put(f"{service}/port", 444)],
        [_put(f"{at}/name", "evil.postern.dev")],
        [_put(f"{at}/namespaceSelector", {})],
        [_put(f"{at}/objectSelector", {"matchLabels": {"a": "b"}})],
        [_put(f"{at}/failurePolicy", "Fail")],
        [_put(f"{at}/matchPolicy", "Exact")],
        [_put(f"{at}/sideEffects", "None")],
        [_put(f"{at}/timeoutSeconds", 30)],
        [_put(f"{at}/reinvocationPolicy", "Never")],
        [_put(f"{at}/admissionReviewVersions", ["v1", "v1beta1"])],
        [_put(f"{at}/rules", [])],
        [_put(f"{at}/rules/0", rule)],
        [_put(f"{at}/rules/-", rule)],
        [_put(f"{at}/matchConditions", [condition])],
        [_put("/webhooks/-", webhook | {"name": "evil.postern.dev"})],
        [_put("/webhooks", [])],
        [{"op": "remove", "path": "/webhooks"}],
        [_put("/metadata/labels/evil", "x")],
        [{"op": "remove", "path": "/metadata/labels"}],
        [_put("/metadata/annotations/evil", "x")],
        [_put("/metadata/finalizers", ["example.net/hold"])],
        [_put("/metadata/ownerReferences", [{"apiVersion": "v1", "kind": "Node", "name": "x", "uid": "y"}])],
        [*url, _put(f"{at}/clientConfig/caBundle", _bundle())],
    ]
    before = plane.admin.get(path)
    for operations in refused:
        assert nothing_else in _refusal(lambda o=operations: operator.json_patch(path, o)), operations  # type: ignore[misc]
    assert plane.admin.get(path) == before
    plane.admin.json_patch(path, [_put(f"{at}/timeoutSeconds", 30)])  # others are not looked at


def test_the_order_of_webhooks_is_not_the_operators(plane: ControlPlane, operator: Admin) -> None:
    """Somebody has added one to the chart's."""
    path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/postern"
    (webhook,) = plane.admin.get(path)["webhooks"]
    second = webhook | {"name": "second.postern.dev", "timeoutSeconds": 7}
    plane.admin.json_patch(path, [_put("/webhooks/-", second)])
    for operations in ([_put("/webhooks", [second, webhook])], [{"op": "remove", "path": "/webhooks/1"}]):
        refusal = lambda o=operations: _refusal(lambda: operator.json_patch(path, o))  # noqa: E731
        eventually(lambda r=refusal: "and nothing else" in r())  # type: ignore[misc]
    operator.json_patch(path, [_put(f"/webhooks/{index}/clientConfig/caBundle", _bundle()) for index in (0, 1)])


def test_pods_are_created_in_dry_runs_only(plane: ControlPlane, operator: Admin) -> None:
    with plane.namespace(ENABLED) as namespace:
        path = f"/api/v1/namespaces/{namespace}/pods"
        operator.create(path, _pod(), dry_run=True)
        assert "creates pods in dry runs only" in _refusal(lambda: operator.create(path, _pod()))
        plane.admin.create(path, _pod())
        operator.create(f"{path}/p/eviction", _eviction())


def test_others_are_not_looked_at(plane: ControlPlane, operator: Admin) -> None:
    with plane.namespace() as namespace:
        path = f"/api/v1/namespaces/{namespace}"
        plane.admin.create(f"{path}/configmaps", _config_map("any", {}))
        plane.admin.create(f"{path}/pods", _pod())
        plane.admin.merge(f"{path}/pods/p", {"metadata": {"labels": {"a": "b"}}})


def _put(path: str, value: object) -> chart.Object:
    return {"op": "add", "path": path, "value": value}


def _bundle(count: int = 1) -> str:
    """What a caBundle must be."""
    made = signing.pair(["a.example"], datetime.now(UTC), rotation.Lifetimes())
    return base64.b64encode(rotation.pem(made.authorities) * count).decode()


EVERYWHERE = [
    ("postern.dev", "mailproxypolicies", "get list watch", "create update patch delete deletecollection"),
    ("postern.dev", "mailproxypolicies/status", "patch", "get update"),
    ("", "pods", "get list watch patch", "update delete deletecollection create"),
    ("", "pods/eviction", "", "create"),
    ("", "pods/status", "", "get update patch"),
    ("", "pods/exec", "", "get create"),
    ("", "pods/ephemeralcontainers", "", "update patch"),
    ("", "configmaps", "get list create patch delete", "watch update deletecollection"),
    ("events.k8s.io", "events", "create", "get list watch update patch delete"),
    ("", "namespaces", "get list watch", "create update patch delete"),
    ("", "secrets", "", "get list watch create update patch delete"),
    ("", "serviceaccounts", "", "get list impersonate"),
    ("", "serviceaccounts/token", "", "create"),
    ("", "nodes", "", "get list"),
    ("coordination.k8s.io", "leases", "", "get list watch create update patch delete"),
    ("apps", "deployments", "", "get list watch patch"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "", "get list watch create update patch delete"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "", "get list watch create update patch delete"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", "", "get list update patch delete"),
    ("rbac.authorization.k8s.io", "clusterroles", "", "get list update patch bind escalate"),
    ("authorization.k8s.io", "subjectaccessreviews", "", "create"),
]
NAMED = [
    ("coordination.k8s.io", "leases", chart.NAMESPACE, "postern-operator", "get update", "patch delete list watch"),
    ("", "secrets", chart.NAMESPACE, "postern-webhook-tls", "get update", "patch delete list watch"),
    ("", "secrets", chart.NAMESPACE, "another", "", "get update patch delete"),
    ("coordination.k8s.io", "leases", chart.NAMESPACE, "another", "", "get update patch delete"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "", "postern", "get patch", "update delete"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "", "another", "", "get patch update"),
]


def test_its_rights_are_exact(plane: ControlPlane, installed: Callable[..., str]) -> None:
    installed()
    for group, resource, allowed, refused in EVERYWHERE:
        _expect(plane, group, resource, "mail", "", allowed, refused)
    for group, resource, namespace, name, allowed, refused in NAMED:
        _expect(plane, group, resource, namespace, name, allowed, refused)


def test_with_certificates_of_cert_manager_it_has_no_right_to_secrets(
    plane: ControlPlane, foreign_definitions: None, installed: Callable[..., str]
) -> None:
    installed({"webhook": {"certificates": {"mode": "CertManager"}}})
    for name in ("postern-webhook-tls", "postern-webhook-cert-manager"):
        _expect(plane, "", "secrets", chart.NAMESPACE, name, "", "get create update patch")


def test_eviction_is_a_right_by_value(plane: ControlPlane, installed: Callable[..., str]) -> None:
    installed({"evictUninjected": True})
    _expect(plane, "", "pods", "mail", "", "create", "delete update")
    _expect(plane, "", "pods/eviction", "mail", "", "create", "get")


def test_with_named_namespaces_it_has_no_rights_elsewhere(plane: ControlPlane, installed: Callable[..., str]) -> None:
    with plane.namespace() as one, plane.namespace() as two:
        installed({"operator": {"watchNamespaces": [one, two]}})
        for group, resource, allowed, refused in EVERYWHERE:
            cluster_wide = resource == "namespaces"
            for namespace in (one, two):
                _expect(plane, group, resource, namespace, "", allowed, refused)
            for namespace in ("mail", ""):
                nothing = f"{allowed} {refused}"
                _expect(plane, group, resource, namespace, "", *((allowed, refused) if cluster_wide else ("", nothing)))


def test_policies_are_read_with_view_and_written_with_admin(plane: ControlPlane, installed: Callable[..., str]) -> None:
    """By the cluster's own roles, which a controller puts together."""
    read, write = "get list watch", "create update patch delete deletecollection"
    expected = {"view": (read, write), "edit": (read, write), "admin": (f"{read} {write}", "")}
    with plane.controller_manager("clusterrole-aggregation-controller"), plane.namespace() as namespace:
        installed()
        for role, (allowed, refused) in expected.items():
            body = {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": {"name": role},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"user-{role}"}],
            }
            plane.admin.create(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings", body)
            _expect(plane, "postern.dev", "mailproxypolicies", namespace, "", allowed, refused, user=f"user-{role}")
            status = ("get", "update patch") if role == "view" else ("", "update patch")
            _expect(plane, "postern.dev", "mailproxypolicies/status", namespace, "", *status, user=f"user-{role}")


def _expect(
    plane: ControlPlane,
    group: str,
    resource: str,
    namespace: str,
    name: str,
    allowed: str,
    refused: str,
    *,
    user: str = f"system:serviceaccount:{chart.NAMESPACE}:postern-operator",
) -> None:
    """The allowed first: RBAC's own watch may be some milliseconds behind."""
    what = {"group": group, "namespace": namespace, "name": name}
    what["resource"], _, what["subresource"] = resource.partition("/")

    def may(verb: str) -> bool:
        spec = {"user": user, "groups": ["system:authenticated"], "resourceAttributes": what | {"verb": verb}}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        return bool(plane.admin.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", body)["status"]["allowed"])

    for verb in allowed.split():
        eventually(lambda v=verb: may(v), message=f"{verb} {group}/{resource} {namespace}/{name} is allowed")  # type: ignore[misc]
    assert [verb for verb in refused.split() if may(verb)] == [], f"{group}/{resource} {namespace}/{name}"


def _refusal(attempt: Callable[[], object]) -> str:
    """The message of a 403, "" where there was none."""
    try:
        attempt()
    except ApiError as problem:
        return problem.message if problem.status == 403 else f"no refusal: {problem}"
    return ""


def _config_map(name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}}


def _pod(name: str = "p") -> dict[str, Any]:
    spec = {"containers": [{"name": "c", "image": "i"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def _eviction() -> dict[str, Any]:
    return {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
