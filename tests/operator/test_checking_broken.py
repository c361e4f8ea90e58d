"""`postern-operator check` where the operator is gone, so that nothing repairs what is broken meanwhile."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from checking_world import check, policies, policy, replaced, without
from cluster.admin import ApiError
from cluster.pods import create_pod, pod, run_pod
from cluster.release import Release
from cluster.waiting import eventually
from postern_operator import rotation, signing
from postern_operator.checking import command, gathering, probing
from postern_operator.checking.facts import Served
from postern_operator.rotation import Lifetimes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from checking_world import Said
    from cluster.admin import Admin
    from cluster.control import ControlPlane

pytestmark = pytest.mark.real

Object = dict[str, Any]
ENABLED = {"postern.dev/inject": "enabled"}
CONFIGURATION = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/postern"
WEBHOOK_HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def release(control_plane: ControlPlane) -> Iterator[Release]:
    """Its processes are killed; the pods stay as nodes that are cut off leave them."""
    with Release(control_plane) as running:
        for operator in running.operators:
            operator.program.kill()
        yield running


@pytest.fixture
def mail(control_plane: ControlPlane, release: Release) -> Iterator[str]:
    with control_plane.namespace(ENABLED) as namespace:
        control_plane.admin.create(policies(namespace), policy())
        yield namespace


def test_an_operator_that_died(control_plane: ControlPlane, release: Release, mail: str) -> None:
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{release.namespace}/leases/postern-operator"
    holder = control_plane.admin.get(lease)["spec"]["holderIdentity"]
    control_plane.admin.merge(lease, {"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}})
    found = check(control_plane.kubeconfig)
    assert found.status == 1
    problems = found.problems()
    assert problems["lease"] == [f"the Lease {release.namespace}/postern-operator is stale: {holder} does not renew it"]
    assert f"the webhook at {WEBHOOK_HOST}:" in problems["webhook-tls"][0]
    assert f"a pod in namespace {mail}, for policy edge, comes out without a sidecar" in problems["injection"][0]
    assert problems["policies-accepted"] == [f"the operator has not looked at policy {mail}/edge"]
    assert f"ConfigMap {mail}/postern-edge of policy {mail}/edge is missing" in problems["config-maps"][0]


def test_nobody_holds_the_lease(control_plane: ControlPlane, release: Release) -> None:
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{release.namespace}/leases/postern-operator"
    with replaced(control_plane.admin, lease, "spec", {}):
        assert "nobody holds the Lease" in check(control_plane.kubeconfig).problems()["lease"][0]
    with without(control_plane.admin, lease):
        assert "does not exist: no replica leads" in check(control_plane.kubeconfig).problems()["lease"][0]


def test_operators_that_are_not_ready(control_plane: ControlPlane, release: Release) -> None:
    first, second = (operator.pod for operator in release.operators)
    run_pod(control_plane.admin, release.namespace, first, ready=False)
    some = check(control_plane.kubeconfig)
    run_pod(control_plane.admin, release.namespace, second, ready=False)
    none = check(control_plane.kubeconfig)
    for name in (first, second):
        run_pod(control_plane.admin, release.namespace, name)
    assert some.problems()["operator-ready"] == [f"1 of the operator's 2 pods are ready; {first}: Running"]
    assert some.of("operator-ready")[0]["objects"] == [f"Pod/{release.namespace}/{first}"]
    assert none.problems()["operator-ready"][0].startswith(
        f"no pod of the operator is ready in namespace {release.namespace}"
    )


@pytest.mark.parametrize(
    ("bundle", "message"),
    [
        (None, "the webhook's caBundle is empty"),
        ("another", "the webhook's caBundle does not hold the authority of its certificate"),
        ("more", "the webhook's caBundle is not (yet) the Secret's list of authorities"),
    ],
)
def test_a_ca_bundle(control_plane: ControlPlane, release: Release, bundle: str | None, message: str) -> None:
    (webhook,) = control_plane.admin.get(CONFIGURATION)["webhooks"]
    stranger = rotation.pem(_pair(datetime.now(UTC)).authorities)
    known = base64.b64decode(webhook["clientConfig"]["caBundle"])
    text = {None: b"", "another": stranger, "more": known + stranger}[bundle]
    client = {**webhook["clientConfig"], "caBundle": base64.b64encode(text).decode()}
    with replaced(control_plane.admin, CONFIGURATION, "webhooks", [{**webhook, "clientConfig": client}]):
        found = check(control_plane.kubeconfig)
    assert found.problems()["webhook-ca"] == [message]


@pytest.mark.parametrize(
    ("age", "message"),
    [
        (timedelta(days=31), "the webhook's certificate expired "),
        (timedelta(days=25), "the webhook's certificate expires "),
        (timedelta(days=-2), "the webhook's certificate is not valid before "),
    ],
)
def test_a_certificate_out_of_date(control_plane: ControlPlane, release: Release, age: timedelta, message: str) -> None:
    with replaced(control_plane.admin, _secret(release), "data", _data(_pair(datetime.now(UTC) - age))):
        found = check(control_plane.kubeconfig)
    assert found.status == 1
    assert any(text.startswith(message) for text in found.problems()["certificates"])


def test_a_certificate_of_somebody_else(control_plane: ControlPlane, release: Release) -> None:
    ours, others = _pair(datetime.now(UTC)), _pair(datetime.now(UTC))
    mixed = {**_data(ours), "tls.crt": _data(others)["tls.crt"], "tls.key": _data(others)["tls.key"]}
    with replaced(control_plane.admin, _secret(release), "data", mixed):
        found = check(control_plane.kubeconfig)
    place = f"{release.namespace}/postern-webhook-tls"
    assert found.problems()["certificates"] == [
        f"Secret {place} with the webhook's certificate: tls.crt was signed by none of ca.crt"
    ]
    with without(control_plane.admin, _secret(release)):
        gone = check(control_plane.kubeconfig)
    assert gone.problems()["certificates"] == [f"Secret {place} with the webhook's certificate does not exist"]


def test_a_config_map_that_is_left_over(control_plane: ControlPlane, mail: str) -> None:
    ours = {"app.kubernetes.io/managed-by": "postern"}
    for name in ("postern-gone", "postern-used"):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": ours}}
        control_plane.admin.create(f"/api/v1/namespaces/{mail}/configmaps", body)
    create_pod(control_plane.admin, pod("old", mail, labels={"postern.dev/policy": "used"}))
    left = [text for text in check(control_plane.kubeconfig).problems()["config-maps"] if "left over" in text]
    assert left == [f"ConfigMap {mail}/postern-gone is left over: neither policy nor pod is there"]


def test_sidecars_out_of_reach_and_a_network_policy(control_plane: ControlPlane, release: Release, mail: str) -> None:
    condition = {"lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}
    conditions = [
        {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "good", **condition},
        {"type": "Programmed", "status": "False", "reason": "Unreachable", "message": "1 silent", **condition},
    ]
    control_plane.admin.status(f"{policies(mail)}/edge", {"conditions": conditions})
    body = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "deny-all"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    control_plane.admin.create(f"/apis/networking.k8s.io/v1/namespaces/{mail}/networkpolicies", body)
    found = check(control_plane.kubeconfig)
    (entry,) = found.of("policies-programmed")
    assert entry["message"] == f"policy {mail}/edge is not programmed: Unreachable: 1 silent"
    assert entry["remedy"] == (
        f"the operator must reach port 15925 of the pods from namespace {release.namespace}; NetworkPolicies with "
        "ingress rules are deny-all"
    )


def test_a_webhook_that_fails_pods(control_plane: ControlPlane, release: Release, mail: str) -> None:
    (webhook,) = control_plane.admin.get(CONFIGURATION)["webhooks"]
    with replaced(control_plane.admin, CONFIGURATION, "webhooks", [{**webhook, "failurePolicy": "Fail"}]):
        with pytest.raises(ApiError, match=r"inject\.postern\.dev"):
            create_pod(control_plane.admin, pod("p", mail, labels={"app": "mail"}))
        found = check(control_plane.kubeconfig)
    assert f"a pod in namespace {mail} is refused, because the webhook failed" in found.problems()["injection"][0]
    assert found.problems()["webhook"] == ["failurePolicy is Fail, and the operator's settings say Ignore"]


def test_settings_that_are_not_there(control_plane: ControlPlane, release: Release) -> None:
    path = f"/api/v1/namespaces/{release.namespace}/configmaps/postern-operator-settings"
    with without(control_plane.admin, path):
        gone = check(control_plane.kubeconfig)
    with replaced(control_plane.admin, path, "data", {"settings.yaml": "colour: red"}):
        strange = check(control_plane.kubeconfig)
    assert "with the operator's settings does not exist" in gone.problems()["operator-settings"][0]
    assert "there is no such setting" in strange.problems()["operator-settings"][0]
    assert "lease" in gone.problems() or gone.of("lease")[0]["result"] == "ok"  # found by the chart's names


def test_a_cluster_without_postern(control_plane: ControlPlane, release: Release) -> None:
    with control_plane.namespace() as elsewhere:
        found = check(control_plane.kubeconfig, "--release-namespace", elsewhere)
    assert found.status == 1
    assert found.problems()["release"] == ["no Deployment of the operator was found"]
    assert {each["result"] for each in found.of("rights")} == {"skipped"}


def test_what_is_not_looked_at_is_said(
    control_plane: ControlPlane, release: Release, mail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        create_pod(control_plane.admin, pod(f"p{number}", mail, labels={"app": "mail"}))
    control_plane.admin.create(policies(mail), policy("spare", app="spare"))
    monkeypatch.setattr(gathering, "MOST_LOOKED_AT", 1)
    (one, rest) = check(control_plane.kubeconfig).of("pods-injected")
    assert one["objects"] == [f"Pod/{mail}/p0"]
    assert rest["message"] == f"2 more pods of policy {mail}/edge without its sidecar, not looked at one by one"
    monkeypatch.setattr(gathering, "MOST_PODS", 3)
    assert f"namespace {mail} has more pods than are looked at" in _messages(check(control_plane.kubeconfig))
    monkeypatch.setattr(gathering, "MOST_POLICIES", 1)
    assert "there are more policies than are looked at" in _messages(check(control_plane.kubeconfig))


def test_a_list_without_an_end(control_plane: ControlPlane, mail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "MOST_OBJECTS", 2)
    found = check(control_plane.kubeconfig)
    assert found.problems()["namespaces"] == [
        "which namespaces are enabled could not be read: /api/v1/namespaces: more than 2 objects"
    ]


def test_few_namespaces_are_enough_for_trials(
    control_plane: ControlPlane, release: Release, mail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with control_plane.namespace(ENABLED) as another:
        control_plane.admin.create(policies(another), policy())
        assert len(check(control_plane.kubeconfig).of("injection")) == 2
        monkeypatch.setattr(gathering, "MOST_TRIALS", 1)
        assert len(check(control_plane.kubeconfig).of("injection")) == 1
        monkeypatch.setattr(gathering, "MOST_PLACES", 1)
        assert "there are more policies than are looked at" in _messages(check(control_plane.kubeconfig))
        monkeypatch.setattr(gathering, "MOST_PLACES", 2)
        assert f"policy {mail}/edge" not in " ".join(_messages(check(control_plane.kubeconfig, "--namespace", another)))


def test_few_backends_are_tried(
    control_plane: ControlPlane, release: Release, mail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [each.getsockname()[1] for each in (one, two)]
        inbound = [
            {"name": f"l{index}", "port": 2600 + index, "backend": {"port": port, "handover": "ProxyV2"}}
            for index, port in enumerate(ports)
        ]
        control_plane.admin.create(policies(mail), policy("open", app="open", inbound=inbound))
        create_pod(control_plane.admin, pod("open", mail, labels={"postern.dev/policy": "open"}))
        run_pod(control_plane.admin, mail, "open", ip="127.0.0.1")
        assert len(check(control_plane.kubeconfig, "--connect-backends").of("backends")) == 2
        monkeypatch.setattr(gathering, "MOST_BACKENDS", 1)
        assert len(check(control_plane.kubeconfig, "--connect-backends").of("backends")) == 1


def test_time_is_limited(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LONGEST", 0.0)
    found = check(control_plane.kubeconfig)
    assert found.status == 2
    assert found.problems()["api-version"] == ["the API server cannot be asked: not done within 0 s"]


def test_an_invalid_policy_s_pods_are_judged_by_what_was_accepted(
    control_plane: ControlPlane, release: Release, mail: str
) -> None:
    control_plane.admin.create(policies(mail), policy("evil", app="evil", sidecar={"image": "registry.example/evil:1"}))
    create_pod(control_plane.admin, pod("p", mail, labels={"app": "evil"}))
    (never,) = check(control_plane.kubeconfig).problems()["pods-injected"]
    assert "p: PolicyInvalid: the policy is invalid and was never accepted" in never
    injection = {"policy": "evil", "uid": "u", "hash": "h", "listeners": [{"name": "smtp", "port": 25}]}
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "postern-evil", "labels": {"app.kubernetes.io/managed-by": "postern"}},
        "data": {"injection.json": json.dumps(injection), "policy.json": "{}"},
    }
    control_plane.admin.create(f"/api/v1/namespaces/{mail}/configmaps", config_map)
    (kept,) = check(control_plane.kubeconfig).problems()["pods-injected"]
    assert "PolicyInvalid" not in kept


def test_settings_from_a_file(control_plane: ControlPlane, release: Release, mail: str, tmp_path: Path) -> None:
    """They count instead of those in the cluster, which need not be readable."""
    file = tmp_path / "settings.yaml"
    file.write_text(json.dumps({"namespace": release.namespace, "webhook": {"failurePolicy": "Fail"}}))
    found = check(control_plane.kubeconfig, "--settings", str(file))
    assert found.problems()["webhook"] == ["failurePolicy is Ignore, and the operator's settings say Fail"]


def test_in_a_pod_the_service_is_tried(
    control_plane: ControlPlane, release: Release, mail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its address, by the name that the API server uses; and so are backends."""
    asked: list[tuple[str, int, str]] = []

    async def served(host: str, port: int, name: str, trusted: tuple[object, ...]) -> Served:
        assert trusted
        asked.append((host, port, name))
        return Served(f"{host}:{port}", "no route")

    monkeypatch.setattr(probing, "served", served)  # no Service's address leads anywhere from here
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    (webhook,) = control_plane.admin.get(CONFIGURATION)["webhooks"]
    service = {"name": "postern-webhook", "namespace": release.namespace, "path": "/inject", "port": 443}
    client = {"caBundle": webhook["clientConfig"]["caBundle"], "service": service}
    with replaced(control_plane.admin, CONFIGURATION, "webhooks", [{**webhook, "clientConfig": client}]):
        found = check(control_plane.kubeconfig)
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
        outside = check(control_plane.kubeconfig)
    path = f"/api/v1/namespaces/{release.namespace}/services/postern-webhook"
    address = control_plane.admin.get(path)["spec"]["clusterIP"]
    assert asked == [(address, 443, f"postern-webhook.{release.namespace}.svc")]
    assert "no route" in found.problems()["webhook-tls"][0]
    assert found.of("backends")[0]["result"] == "ok"
    assert outside.of("webhook-tls")[0]["result"] == outside.of("backends")[0]["result"] == "skipped"


def test_who_may_not_read_pods(control_plane: ControlPlane, release: Release, mail: str) -> None:
    """Policies are judged all the same, and who may list pods and not read them hears how many there are."""
    create_pod(control_plane.admin, pod("p", mail, labels={"app": "mail"}))
    rules = [
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list"]},
        {"apiGroups": ["postern.dev"], "resources": ["mailproxypolicies"], "verbs": ["list"]},
    ]
    with _user(control_plane, mail, rules) as user:
        blind = check(user, "--release-namespace", release.namespace)
    with _user(control_plane, mail, [*rules, {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]) as user:
        counting = check(user, "--release-namespace", release.namespace)
    assert blind.problems()["policies-accepted"] == [f"the operator has not looked at policy {mail}/edge"]
    assert (blind.of("pods-injected")[0]["result"], blind.of("injection")[0]["result"]) == ("skipped", "skipped")
    assert counting.problems()["pods-injected"] == [
        f"1 more pod of policy {mail}/edge without its sidecar, not looked at one by one"
    ]


@contextlib.contextmanager
def _user(control_plane: ControlPlane, namespace: str, rules: list[Object]) -> Iterator[Path]:
    """A kubeconfig of one with these rights in the whole cluster."""
    roles, name = "/apis/rbac.authorization.k8s.io/v1/cluster", f"checker-{namespace}"
    group = "rbac.authorization.k8s.io"
    metadata, subject = {"name": name}, {"kind": "ServiceAccount", "name": "default", "namespace": namespace}
    role = {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": metadata, "rules": rules}
    reference = {"apiGroup": group, "kind": "ClusterRole", "name": name}
    binding = {"apiVersion": f"{group}/v1", "kind": "ClusterRoleBinding", "metadata": metadata}
    control_plane.admin.create(f"{roles}roles", role)
    control_plane.admin.create(f"{roles}rolebindings", {**binding, "roleRef": reference, "subjects": [subject]})
    try:
        token = control_plane.token(namespace, "default")
        with control_plane.client(token) as client:
            last = "/api/v1/pods" if len(rules) > 2 else "/apis/postern.dev/v1alpha1/mailproxypolicies"
            eventually(lambda: _allowed(client, last))  # RBAC's own watch
        yield control_plane.kubeconfig_for(token)
    finally:
        control_plane.admin.delete(f"{roles}rolebindings/{name}")
        control_plane.admin.delete(f"{roles}roles/{name}")


def _allowed(client: Admin, path: str) -> bool:
    try:
        client.get(path)
    except ApiError:
        return False
    return True


def _messages(found: Said) -> list[str]:
    return [entry["message"] for entry in found.report["checks"]]


def _secret(release: Release) -> str:
    return f"/api/v1/namespaces/{release.namespace}/secrets/postern-webhook-tls"


def _pair(now: datetime) -> rotation.Pair:
    return signing.pair([WEBHOOK_HOST], now, Lifetimes())


def _data(pair: rotation.Pair) -> dict[str, str]:
    return {key: base64.b64encode(value).decode() for key, value in rotation.written(pair).items()}
