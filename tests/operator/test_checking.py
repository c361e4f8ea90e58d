"""`postern-operator check` on a real API server with the installed operator: healthy, and broken in one way each."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

import chart
from checking_world import check, policies, policy, replaced, said, without
from cluster.pods import create_pod, pod, run_pod
from cluster.process import free_port
from cluster.release import DEFINITION, Release
from cluster.waiting import eventually
from postern_operator.checking import gathering
from postern_operator.checking.command import CHECKS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.control import ControlPlane

pytestmark = pytest.mark.real

Object = dict[str, Any]
ENABLED = {"postern.dev/inject": "enabled"}
CONFIGURATION = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/postern"
CLUSTER_ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/postern-operator"


@pytest.fixture(scope="module")
def release(control_plane: ControlPlane) -> Iterator[Release]:
    with Release(control_plane) as running:
        yield running


@pytest.fixture
def mail(control_plane: ControlPlane, release: Release) -> Iterator[str]:
    """An enabled namespace with a policy and its injected pod."""
    with control_plane.namespace(ENABLED) as namespace:
        control_plane.admin.create(policies(namespace), policy())
        create_pod(control_plane.admin, pod("mail", namespace, labels={"app": "mail"}))
        programmed(control_plane, namespace)
        yield namespace


def programmed(control_plane: ControlPlane, namespace: str, name: str = "edge", *, injected: int = 1) -> None:
    def done(found: Object) -> bool:
        status = found.get("status") or {}
        conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
        return conditions.get("Programmed") == "True" and status.get("pods", {}).get("injected") == injected

    control_plane.admin.wait(f"{policies(namespace)}/{name}", done)


def test_a_healthy_cluster(control_plane: ControlPlane, mail: str) -> None:
    found = check(control_plane.kubeconfig, "--strict")
    assert (found.status, found.report["result"], found.problems()) == (0, "ok", {})
    skipped = {each["id"] for each in found.report["checks"] if each["result"] == "skipped"}
    assert skipped == {"backends"}
    assert [each["id"] for each in found.report["checks"]] == [each.id for each in CHECKS]
    assert set(found.report) == {"version", "result", "checks"}
    for entry in found.report["checks"]:
        assert set(entry) == {"id", "category", "result", "message", "remedy", "objects"}
    assert f"in namespace {mail} comes out with the sidecar of policy edge" in found.of("injection")[0]["message"]


def test_its_text(control_plane: ControlPlane, mail: str) -> None:
    status, text = said(control_plane.kubeconfig)
    assert status == 0
    assert "Webhook\n  ✓ the API server asks the webhook about new pods\n" in text
    assert text.endswith("\nResult: 1 check skipped\n")


def test_nothing_is_changed(control_plane: ControlPlane, mail: str) -> None:
    mark = control_plane.mark()
    before = control_plane.admin.list(f"/api/v1/namespaces/{mail}/pods")
    check(control_plane.kubeconfig)
    writes = control_plane.audit(mark, user="admin")
    ours = [each for each in writes if each.agent.startswith("postern-operator/")]
    assert {(each.resource, each.dry_run) for each in ours} == {("subjectaccessreviews", False), ("pods", True)}
    assert [each["metadata"]["uid"] for each in before] == [
        each["metadata"]["uid"] for each in control_plane.admin.list(f"/api/v1/namespaces/{mail}/pods")
    ]


def test_no_webhook_configuration(control_plane: ControlPlane, mail: str) -> None:
    with without(control_plane.admin, CONFIGURATION):
        found = check(control_plane.kubeconfig)
    assert found.status == 1
    assert "MutatingWebhookConfiguration postern does not exist" in found.problems()["webhook"][0]
    assert (
        f"a pod in namespace {mail}, for policy edge, comes out without a sidecar" in found.problems()["injection"][0]
    )


def test_a_right_that_is_missing(control_plane: ControlPlane, release: Release, mail: str) -> None:
    rules = control_plane.admin.get(CLUSTER_ROLE)["rules"]
    fewer = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if verb != "patch"]}
        if rule["resources"] == ["pods"]
        else rule
        for rule in rules
    ]
    with replaced(control_plane.admin, CLUSTER_ROLE, "rules", fewer):
        eventually(lambda: check(control_plane.kubeconfig).status == 1)  # RBAC's own watch
        found = check(control_plane.kubeconfig)
    assert found.problems() == {"rights": [f"ServiceAccount {release.namespace}/postern-operator may not patch pods"]}


def test_a_namespace_without_the_label(control_plane: ControlPlane, release: Release) -> None:
    with control_plane.namespace() as namespace:
        control_plane.admin.create(policies(namespace), policy())
        found = check(control_plane.kubeconfig, "--namespace", namespace)
    assert found.status == 1
    assert found.problems()["namespaces-of-policies"] == [
        f"namespace {namespace} has policies (edge) and lacks the label postern.dev/inject=enabled"
    ]
    assert found.of("namespaces-of-policies")[0]["remedy"] == (
        f"kubectl label namespace {namespace} postern.dev/inject=enabled"
    )


def test_a_service_without_endpoints(control_plane: ControlPlane, release: Release, mail: str) -> None:
    webhooks = control_plane.admin.get(CONFIGURATION)["webhooks"]
    client = {"caBundle": webhooks[0]["clientConfig"]["caBundle"]}
    client["service"] = {"name": "postern-webhook", "namespace": release.namespace, "path": "/inject", "port": 443}
    with replaced(control_plane.admin, CONFIGURATION, "webhooks", [{**webhooks[0], "clientConfig": client}]):
        found = check(control_plane.kubeconfig)
        assert found.problems()["webhook-service"] == [
            f"Service {release.namespace}/postern-webhook of the webhook has no ready endpoint"
        ]
        slice_ = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "addressType": "IPv4",
            "metadata": {"name": "one", "labels": {"kubernetes.io/service-name": "postern-webhook"}},
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": False}}],
        }
        slices = f"/apis/discovery.k8s.io/v1/namespaces/{release.namespace}/endpointslices"
        control_plane.admin.create(slices, slice_)
        assert "webhook-service" in check(control_plane.kubeconfig).problems()
        control_plane.admin.merge(f"{slices}/one", {"endpoints": [{"addresses": ["10.0.0.1"]}]})
        assert "webhook-service" not in check(control_plane.kubeconfig).problems()
        control_plane.admin.delete(f"{slices}/one")


def test_a_selector_that_locks_out(control_plane: ControlPlane, release: Release, mail: str) -> None:
    webhooks = control_plane.admin.get(CONFIGURATION)["webhooks"]
    selector = {"matchExpressions": [{"key": "postern.dev/inject", "operator": "Exists"}]}
    with replaced(control_plane.admin, CONFIGURATION, "webhooks", [{**webhooks[0], "namespaceSelector": selector}]):
        found = check(control_plane.kubeconfig)
    assert found.problems() == {
        "webhook-lock-out": [
            f"the webhook's namespaceSelector does not exclude namespace {name}"
            for name in ("kube-system", "kube-node-lease", "kube-public", release.namespace)
        ]
    }


def test_a_policy_that_selects_nothing(control_plane: ControlPlane, mail: str) -> None:
    control_plane.admin.create(policies(mail), policy("spare", app="nothing"))
    bare = policy("bare")
    del bare["spec"]["selector"]
    control_plane.admin.create(policies(mail), bare)
    programmed(control_plane, mail, "spare", injected=0)
    programmed(control_plane, mail, "bare", injected=0)
    found = check(control_plane.kubeconfig)
    assert found.status == 0
    assert check(control_plane.kubeconfig, "--strict").status == 1
    assert found.problems() == {
        "policies-select": [
            f"policy {mail}/bare has no selector, so it selects no pod",
            f"policy {mail}/spare selects no pod, or others with more priority win all that it selects",
        ]
    }


def test_pods_without_a_sidecar_and_why(control_plane: ControlPlane, mail: str) -> None:
    admin = control_plane.admin
    for name in ("old", "host", "ended"):
        create_pod(admin, pod(name, mail, labels={"app": "late"}, hostNetwork=name == "host"))
    create_pod(admin, pod("out", mail, labels={"app": "late", "postern.dev/inject": "disabled"}))
    admin.status(f"/api/v1/namespaces/{mail}/pods/ended", {"phase": "Succeeded"})
    late = policy("late", app="late")
    admin.create(policies(mail), late)
    admin.wait(f"{policies(mail)}/late", lambda found: found.get("status", {}).get("pods", {}).get("selected"))
    found = check(control_plane.kubeconfig)
    assert found.status == 1
    said_of_pods = "\n".join(found.problems()["pods-injected"])
    assert f"1 pod of policy {mail}/late without its sidecar: host: HostNetwork: with hostNetwork" in said_of_pods
    assert f"1 pod of policy {mail}/late without its sidecar: old: it " in said_of_pods
    assert "ended" not in said_of_pods
    assert "out:" not in said_of_pods
    assert [f"Pod/{mail}/old"] in [each["objects"] for each in found.of("pods-injected")]
    assert "NotInjected" in found.problems()["policies-programmed"][0]


def test_another_s_config_map(control_plane: ControlPlane, mail: str) -> None:
    theirs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "postern-spare"}, "data": {"a": "b"}}
    control_plane.admin.create(f"/api/v1/namespaces/{mail}/configmaps", theirs)
    control_plane.admin.create(policies(mail), policy("spare", app="spare"))
    control_plane.admin.wait(
        f"{policies(mail)}/spare", lambda found: len(found.get("status", {}).get("conditions", []))
    )
    found = check(control_plane.kubeconfig)
    assert found.status == 1
    assert found.problems()["config-maps"] == [
        f"ConfigMap {mail}/postern-spare is not Postern's: policy {mail}/spare is not delivered"
    ]


def test_a_policy_that_is_refused(control_plane: ControlPlane, mail: str) -> None:
    control_plane.admin.create(policies(mail), policy("evil", app="evil", sidecar={"image": "registry.example/evil:1"}))
    control_plane.admin.wait(f"{policies(mail)}/evil", lambda found: found.get("status", {}).get("conditions"))
    found = check(control_plane.kubeconfig)
    (message,) = found.problems()["policies-accepted"]
    assert message.startswith(f"policy {mail}/evil is not accepted: Invalid: ")
    assert "is not allowed" in message


def test_transparent_where_pod_security_forbids_it(control_plane: ControlPlane, release: Release) -> None:
    labels = {**ENABLED, "pod-security.kubernetes.io/enforce": "baseline"}
    with control_plane.namespace(labels) as namespace:
        listener = {"name": "smtp", "port": 2525, "backend": {"port": 2526, "handover": "Transparent"}}
        control_plane.admin.create(policies(namespace), policy(inbound=[listener]))
        found = check(control_plane.kubeconfig)
    (message,) = found.problems()["pod-security"]
    assert message.startswith(f"policy {namespace}/edge hands over transparently, and namespace {namespace} enforces")


def test_sidecars_of_an_older_template(control_plane: ControlPlane, mail: str) -> None:
    path = f"/api/v1/namespaces/{mail}/pods/mail"
    annotation = "postern.dev/status"
    stamp = json.loads(control_plane.admin.get(path)["metadata"]["annotations"][annotation])
    old = json.dumps({**stamp, "specHash": "0" * 64})
    control_plane.admin.merge(path, {"metadata": {"annotations": {annotation: old}}})
    found = check(control_plane.kubeconfig)
    assert found.problems()["sidecars-current"] == [
        f"1 of 1 pod of policy {mail}/edge have an older image or template: mail"
    ]


def test_a_backend_that_is_open(control_plane: ControlPlane, release: Release) -> None:
    with control_plane.namespace(ENABLED) as namespace, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        control_plane.admin.create(policies(namespace), policy(port=free_port(), backend=port))
        create_pod(control_plane.admin, pod("mail", namespace, labels={"app": "mail"}))
        run_pod(control_plane.admin, namespace, "mail", ip="127.0.0.1")
        found = check(control_plane.kubeconfig, "--connect-backends")
        quiet = check(control_plane.kubeconfig)
    (message,) = found.problems()["backends"]
    assert message.startswith(f"pod {namespace}/mail answers on its backend's port {port} from outside")
    assert "backends" not in quiet.problems()


def test_who_may_read_little_is_told_so(control_plane: ControlPlane, release: Release, mail: str) -> None:
    with control_plane.namespace() as elsewhere:
        user = control_plane.kubeconfig_for(control_plane.token(elsewhere, "default"))
        found = check(user)
        named = check(user, "--release-namespace", release.namespace)
    for each in (found, named):
        assert (each.status, each.problems()) == (0, {})
        skipped = {entry["id"] for entry in each.report["checks"] if entry["result"] == "skipped"}
        assert {"crd-established", "release", "rights", "webhook", "lease", "injection", "namespaces"} <= skipped
    assert "check as a user who may" in found.of("rights")[0]["remedy"]


def test_with_the_rights_of_helm_test(
    control_plane: ControlPlane, release: Release, mail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account of the chart's test pod sees enough to judge the installation, and may try a pod."""
    rendered = chart.rendered({"webhook": {"url": release.service.url}}, namespace=release.namespace)
    objects = [each for each in chart.objects(rendered) if each["metadata"]["name"] == "postern-check"]
    paths = {
        "ServiceAccount": f"/api/v1/namespaces/{release.namespace}/serviceaccounts",
        "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        "Role": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{release.namespace}/roles",
        "RoleBinding": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{release.namespace}/rolebindings",
    }
    made = [(paths[each["kind"]], each) for each in objects if each["kind"] in paths]
    (container,) = next(each for each in objects if each["kind"] == "Pod")["spec"]["containers"]
    assert container["args"] == ["check", "--settings", "/etc/postern-operator/settings.yaml"]
    settings = tmp_path / "settings.yaml"
    data = control_plane.admin.get(f"/api/v1/namespaces/{release.namespace}/configmaps/postern-operator-settings")
    settings.write_text(data["data"]["settings.yaml"])
    (tmp_path / "namespace").write_text(release.namespace)  # as the kubelet mounts it
    monkeypatch.setattr(gathering, "_ACCOUNT", tmp_path / "namespace")
    with contextlib.ExitStack() as undo:
        for path, body in made:
            control_plane.admin.create(path, body)
            undo.callback(control_plane.admin.delete, f"{path}/postern-check")
        user = control_plane.kubeconfig_for(control_plane.token(release.namespace, "postern-check"))
        # RBAC's own watch may be some milliseconds behind
        eventually(lambda: {check(user).of(one)[0]["result"] for one in ("policies-accepted", "lease")} == {"ok"})
        found = check(user, "--settings", str(settings))
    assert (found.status, found.problems()) == (0, {})
    judged = {entry["id"] for entry in found.report["checks"] if entry["result"] == "ok"}
    assert {"crd-version", "operator-ready", "rights", "webhook", "injection", "pods-injected"} <= judged
    assert {"operator-settings", "lease"} <= judged
    skipped = {entry["id"] for entry in found.report["checks"] if entry["result"] == "skipped"}
    assert not skipped & {"release", "operator-settings", "operator-version", "webhook-service"}


def test_a_schema_of_another_version(control_plane: ControlPlane, mail: str) -> None:
    spec = control_plane.admin.get(DEFINITION)["spec"]
    other = json.loads(json.dumps(spec))
    properties = other["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    properties["colour"] = {"type": "string"}
    del properties["logging"]["properties"]["format"]
    with replaced(control_plane.admin, DEFINITION, "spec", other):
        found = check(control_plane.kubeconfig)
    assert found.status == 1
    assert found.problems()["crd-version"] == [
        "the definition is another version's: it lacks spec.logging.format, which are lost on writing",
        f"the definition is another version's: {found.report['version']} does not know spec.colour",
    ]


def test_a_second_operator(control_plane: ControlPlane, release: Release, mail: str) -> None:
    with control_plane.namespace() as elsewhere:
        deployment = release.deployment()
        metadata = {"name": "postern-operator", "labels": deployment["metadata"]["labels"]}
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": deployment["spec"]}
        control_plane.admin.create(f"/apis/apps/v1/namespaces/{elsewhere}/deployments", body)
        both = check(control_plane.kubeconfig)
        one = check(control_plane.kubeconfig, "--release-namespace", release.namespace)
    assert "2 operators are installed" in both.problems()["release"][0]
    assert one.problems() == {}


def test_no_kubeconfig(tmp_path: Path) -> None:
    found = check(tmp_path / "none")
    assert (found.status, found.report["result"]) == (2, "error")
    assert [each["id"] for each in found.report["checks"]] == ["api-version"]
    assert "no credentials for a cluster" in found.problems()["api-version"][0]


def test_an_api_server_that_is_away(control_plane: ControlPlane, tmp_path: Path) -> None:
    text = control_plane.kubeconfig.read_text().replace(control_plane.url, f"https://127.0.0.1:{free_port()}")
    (tmp_path / "config").write_text(text)
    status, output = said(tmp_path / "config")
    assert status == 2
    assert "✗ the API server cannot be asked: GET /version: " in output
