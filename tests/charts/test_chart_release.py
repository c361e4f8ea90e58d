"""A release's life on a real API server: what an upgrade, a rollback and an uninstallation leave as they should."""

from __future__ import annotations

import base64
import contextlib
import copy
import io
import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest
from ruamel.yaml import YAML

import certificates
import chart
import inventory
from cluster.admin import ApiError
from cluster.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cluster.admin import Object
    from cluster.control import ControlPlane

pytestmark = pytest.mark.real

DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/mailproxypolicies.postern.dev"
CONFIGURATION = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/postern"
SECRET = f"/api/v1/namespaces/{chart.NAMESPACE}/secrets/postern-webhook-tls"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{chart.NAMESPACE}/leases/postern-operator"
BUNDLE = base64.b64encode(certificates.issue("postern", ca=True).pem).decode()


@pytest.mark.parametrize("server_side", ["true", "false"])
def test_upgrade_and_rollback_leave_what_the_operator_wrote(
    plane: ControlPlane, installed: Callable[..., str], server_side: str
) -> None:
    flag = f"--server-side={server_side}"
    installed(None, flag)
    with plane.client(plane.token(chart.NAMESPACE, "postern-operator")) as operator:
        bundle = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": BUNDLE}]
        eventually(lambda: _may(lambda: operator.json_patch(CONFIGURATION, bundle)))
        secret = operator.get(SECRET)
        operator.update(SECRET, secret | {"data": {"tls.crt": BUNDLE}})
        lease = operator.get(LEASE)
        operator.update(LEASE, lease | {"spec": {"holderIdentity": "one", "leaseDurationSeconds": 15}})

    def kept(seconds: int, service: bool) -> None:
        [webhook] = plane.admin.get(CONFIGURATION)["webhooks"]
        assert webhook["timeoutSeconds"] == seconds
        assert ("service" in webhook["clientConfig"]) == service
        assert webhook["clientConfig"]["caBundle"] == BUNDLE
        assert plane.admin.get(SECRET)["data"] == {"tls.crt": BUNDLE}
        assert plane.admin.get(LEASE)["spec"]["holderIdentity"] == "one"

    kept(5, service=True)
    _upgrade(plane, {"webhook": {"timeoutSeconds": 7}}, flag)
    kept(7, service=True)
    _upgrade(plane, {"webhook": {"timeoutSeconds": 4, "url": "https://127.0.0.1:8443"}}, flag)
    kept(4, service=False)
    plane.helm("rollback", chart.RELEASE, "1", "--namespace", chart.NAMESPACE, flag)
    kept(5, service=True)


def test_an_upgrade_survives_a_secret_that_the_operator_made_anew(
    plane: ControlPlane, installed: Callable[..., str]
) -> None:
    installed()
    plane.admin.delete(SECRET)
    collection, _, name = SECRET.rpartition("/")
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/tls"}
    plane.admin.create(collection, body | {"data": {"tls.crt": BUNDLE, "tls.key": BUNDLE}})
    _upgrade(plane, {"webhook": {"timeoutSeconds": 7}})
    assert plane.admin.get(SECRET)["data"]["tls.key"] == BUNDLE


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The chart of a release before `spec.logging`."""
    folder = shutil.copytree(chart.CHART, tmp_path / "postern")
    [file] = folder.glob("files/crds/*.yaml")
    [definition] = copy.deepcopy(chart.objects(file.read_text()))
    [version] = definition["spec"]["versions"]
    del version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["logging"]
    metadata = definition.pop("metadata")
    file.write_text(f"{_yaml(definition)}metadata:\n  name: {metadata['name']}\n")
    about = folder / "Chart.yaml"
    about.write_text(re.sub(r"(?m)^version: .*", "version: 0.0.1", about.read_text()))
    return folder


def test_the_definition_follows_upgrade_and_rollback_and_policies_live_through_both(
    plane: ControlPlane, installed: Callable[..., str], older: Path
) -> None:
    with plane.namespace(name="mail") as namespace:
        installed(source=older)
        policy = _policy(plane, namespace)
        newer = {"spec": {"logging": {"format": "JSON"}}}
        with pytest.raises(ApiError, match="unknown field"):
            plane.admin.merge(f"{policy}?fieldValidation=Strict", newer)
        _upgrade(plane, {})

        def write() -> Object:
            return plane.admin.merge(policy, newer)

        eventually(lambda: _format(write()) == "JSON")
        plane.helm("rollback", chart.RELEASE, "1", "--namespace", chart.NAMESPACE)
        eventually(lambda: "logging" not in plane.admin.get(policy)["spec"])
        assert plane.admin.get(policy)["spec"]["hostname"] == "mail.example.net"
        _upgrade(plane, {})  # nobody has written it meanwhile: it is whole again
        eventually(lambda: _format(plane.admin.get(policy)) == "JSON")


def test_after_uninstall_the_definition_the_policies_and_their_config_maps_remain(
    plane: ControlPlane, installed: Callable[..., str]
) -> None:
    with plane.namespace({"postern.dev/inject": "enabled"}, name="mail") as namespace:
        with _left_behind(plane) as left:
            notes = installed()
            policy = _policy(plane, namespace)
            config_map = {"name": "postern-edge", "labels": {"app.kubernetes.io/managed-by": "postern"}}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": config_map}
            plane.admin.create(f"/api/v1/namespaces/{namespace}/configmaps", body)
            plane.helm("uninstall", chart.RELEASE, "--namespace", chart.NAMESPACE)
        assert left == {
            "namespaces/postern-system",  # helm's --create-namespace, which it never removes
            "customresourcedefinitions/mailproxypolicies.postern.dev",
            "mailproxypolicies/mail/edge",
            "configmaps/mail/postern-edge",
        }
        assert plane.admin.exists(policy)
        removal = [line.split("kubectl ")[1] for line in notes.splitlines() if line.startswith("  kubectl delete")]
        assert len(removal) == 2
        with _left_behind(plane) as gone:
            for command in removal:
                plane.kubectl(*command.split())
            plane.admin.wait_gone(DEFINITION)
        assert gone == set()
        assert not plane.admin.exists(f"/api/v1/namespaces/{namespace}/configmaps/postern-edge")


@pytest.mark.usefixtures("foreign_definitions")
@pytest.mark.parametrize("name", ["default", "monitoring", "scheduling", "watch-namespaces", "cert-manager"])
def test_without_keeping_the_definition_nothing_remains(
    plane: ControlPlane, installed: Callable[..., str], name: str
) -> None:
    with contextlib.ExitStack() as namespaces:
        for namespace in chart.WATCHED:
            namespaces.enter_context(plane.namespace(name=namespace))
        with _left_behind(plane) as left:
            installed(chart.SETS[name] | {"crds": {"keep": False}})
            policy = _policy(plane, "mail-a")
            plane.helm("uninstall", chart.RELEASE, "--namespace", chart.NAMESPACE)
            plane.admin.wait_gone(DEFINITION)
        assert left == {"namespaces/postern-system"}
        assert not plane.admin.exists(policy)


def test_another_release_takes_the_kept_definition_over(plane: ControlPlane, installed: Callable[..., str]) -> None:
    with plane.namespace(name="mail") as namespace:
        installed()
        policy = _policy(plane, namespace)
        plane.helm("uninstall", chart.RELEASE, "--namespace", chart.NAMESPACE)
        with pytest.raises(AssertionError, match="invalid ownership metadata"):
            installed(release="second", namespace="elsewhere")
        plane.helm("uninstall", "second", "--namespace", "elsewhere", "--ignore-not-found")
        installed(None, "--take-ownership", release="second", namespace="elsewhere")
        owner = plane.admin.get(DEFINITION)["metadata"]["annotations"]
        assert (owner["meta.helm.sh/release-name"], owner["meta.helm.sh/release-namespace"]) == ("second", "elsewhere")
        assert plane.admin.exists(policy)
        plane.helm("upgrade", "second", str(chart.CHART), "--namespace", "elsewhere")


def test_another_release_leaves_the_kept_definition_alone(plane: ControlPlane, installed: Callable[..., str]) -> None:
    installed()
    plane.helm("uninstall", chart.RELEASE, "--namespace", chart.NAMESPACE)
    installed({"crds": {"enabled": False}}, release="second", namespace="elsewhere")
    assert plane.admin.get(DEFINITION)["metadata"]["annotations"]["meta.helm.sh/release-name"] == chart.RELEASE


def test_the_same_release_comes_back_to_its_definition(plane: ControlPlane, installed: Callable[..., str]) -> None:
    with plane.namespace(name="mail") as namespace:
        installed()
        policy = _policy(plane, namespace)
        plane.helm("uninstall", chart.RELEASE, "--namespace", chart.NAMESPACE)
        installed()
        assert plane.admin.exists(policy)


def test_a_pod_of_an_excluded_namespace_starts_whatever_its_label_says(
    plane: ControlPlane, installed: Callable[..., str]
) -> None:
    """The webhook refuses everything that reaches it: nobody answers, and the values say Fail."""
    installed({"webhook": {"failurePolicy": "Fail", "url": "https://127.0.0.1:1"}})
    label = {"metadata": {"labels": {"postern.dev/inject": "enabled"}}}
    plane.admin.merge(f"/api/v1/namespaces/{chart.NAMESPACE}", label)
    with plane.namespace({"postern.dev/inject": "enabled"}) as enabled, plane.namespace() as other:
        eventually(lambda: not _may(lambda: _dry_pod(plane, enabled, {})))
        assert _may(lambda: _dry_pod(plane, enabled, {"postern.dev/inject": "disabled"}))
        assert not _may(lambda: _dry_pod(plane, enabled, {"postern.dev/inject": "enabled"}))
        assert _may(lambda: _dry_pod(plane, other, {}))
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        plane.admin.create(f"/api/v1/namespaces/{chart.NAMESPACE}/serviceaccounts", account)
        assert _may(lambda: _dry_pod(plane, chart.NAMESPACE, {}))


def test_notes_say_the_next_two_commands(installed: Callable[..., str]) -> None:
    notes = installed().partition("NOTES:")[2]
    commands = [line.strip() for line in notes.splitlines() if line.startswith("  kubectl")]
    assert [command.split()[1] for command in commands] == ["label", "apply", "delete", "delete"]


def _format(policy: Object) -> str | None:
    found: str | None = policy["spec"].get("logging", {}).get("format")
    return found


def _yaml(value: Object) -> str:
    text = io.StringIO()
    YAML(typ="safe").dump(value, text)
    return text.getvalue()


def _upgrade(plane: ControlPlane, values: Object, *flags: str) -> None:
    arguments = ("upgrade", chart.RELEASE, str(chart.CHART), "--namespace", chart.NAMESPACE, *flags, "--values", "-")
    plane.helm(*arguments, input=json.dumps(values))


def _policy(plane: ControlPlane, namespace: str) -> str:
    collection = f"/apis/postern.dev/v1alpha1/namespaces/{namespace}/mailproxypolicies"
    body = {
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "MailProxyPolicy",
        "metadata": {"name": "edge"},
        "spec": {
            "selector": {"matchLabels": {"app": "postfix"}},
            "hostname": "mail.example.net",
            "inbound": [{"name": "smtp", "port": 25, "backend": {"port": 2525, "handover": "ProxyV2"}}],
        },
    }
    eventually(lambda: _may(lambda: plane.admin.create(collection, body)))  # served a moment after it is established
    return f"{collection}/edge"


def _dry_pod(plane: ControlPlane, namespace: str, labels: dict[str, str]) -> None:
    spec = {"containers": [{"name": "c", "image": "i"}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels}, "spec": spec}
    plane.admin.create(f"/api/v1/namespaces/{namespace}/pods", pod, dry_run=True)


def _may(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except ApiError:
        return False
    return True


@contextlib.contextmanager
def _left_behind(plane: ControlPlane) -> Iterator[set[str]]:
    """Filled at the end of the block: the objects of every kind that there are now and were not before."""
    left: set[str] = set()
    before = inventory.everything(plane)
    yield left
    left |= inventory.everything(plane) - before
