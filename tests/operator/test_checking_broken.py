"""`postern-operator check` where the operator is gone, so that nothing repairs what is broken meanwhile."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from checking_world import check, policies, policy, replaced, without
from cluster.admin import ApiError
from cluster.pods import create_pod, pod, run_pod
from cluster.release import Release
from postern_operator import rotation, signing
from postern_operator.rotation import Lifetimes

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def _secret(release: Release) -> str:
    return f"/api/v1/namespaces/{release.namespace}/secrets/postern-webhook-tls"


def _pair(now: datetime) -> rotation.Pair:
    return signing.pair([WEBHOOK_HOST], now, Lifetimes())


def _data(pair: rotation.Pair) -> dict[str, str]:
    return {key: base64.b64encode(value).decode() for key, value in rotation.written(pair).items()}
