"""What the chart renders for each set of values: as it was, the same twice, accepted by the API server, and never
without what may not be missing."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING

import msgspec
import pytest

import chart
from postern_operator import metrics, settings

if TYPE_CHECKING:
    from cluster.control import ControlPlane

pytestmark = pytest.mark.real

SETS = sorted(chart.SETS)
KEPT_OUT = {"kube-system", "kube-node-lease", "kube-public", chart.NAMESPACE}


@pytest.mark.parametrize("name", SETS)
def test_a_set_of_values_renders_what_it_rendered(name: str) -> None:
    assert chart.golden(name) == chart.golden_file(name).read_text()


def test_there_is_a_golden_for_each_set_and_no_other() -> None:
    assert {file.name for file in chart.GOLDENS.iterdir()} == {chart.golden_file(name).name for name in SETS}


@pytest.mark.parametrize("name", SETS)
def test_two_renders_are_the_same(name: str) -> None:
    assert chart.rendered(chart.SETS[name]) == chart.of_set(name)


def test_nothing_is_looked_up_or_left_to_chance_at_render_time() -> None:
    forbidden = re.compile(r"\b(lookup|rand\w+|gen\w+Cert\w*|genCA|genPrivateKey|uuidv4|now|htpasswd|getHostByName)\b")
    for file in (chart.CHART / "templates").rglob("*"):
        if file.is_file():
            actions = re.findall(r"\{\{-?(?!-? */\*)(.*?)\}\}", file.read_text(), re.DOTALL)
            assert [action for action in actions if forbidden.search(action)] == [], file.name


@pytest.mark.usefixtures("foreign_definitions")
@pytest.mark.parametrize("name", SETS)
def test_the_api_server_takes_it(plane: ControlPlane, name: str) -> None:
    """All of it, strictly, by its own dry run."""
    text = chart.of_set(name)
    with contextlib.ExitStack() as namespaces:
        for namespace in (chart.NAMESPACE, *chart.WATCHED):
            namespaces.enter_context(plane.namespace(name=namespace))
        # A pod's account is looked up, and the dry run has not made it.
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": f"{_fullname(text)}-check"}}
        plane.admin.create(f"/api/v1/namespaces/{chart.NAMESPACE}/serviceaccounts", account)
        arguments = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", "-o", "name")
        applied = plane.kubectl(*arguments, input=text)
        assert len(applied.stdout.split()) == len(chart.objects(text))
        assert applied.stderr == ""  # no warning


@pytest.mark.parametrize("name", SETS)
def test_the_operator_takes_its_settings(name: str) -> None:
    parsed = _settings(chart.of_set(name))
    values = chart.SETS[name]
    assert parsed.evict_uninjected == values.get("evictUninjected", False)
    assert list(parsed.watch_namespaces) == values.get("operator", {}).get("watchNamespaces", [])
    configuration = chart.find(chart.of_set(name), "MutatingWebhookConfiguration")
    assert configuration["metadata"]["name"] == parsed.webhook.configuration
    [webhook] = configuration["webhooks"]
    assert webhook["failurePolicy"] == parsed.webhook.failure_policy.value
    assert ("service" in webhook["clientConfig"]) == (parsed.webhook.host == "")
    assert chart.find(chart.of_set(name), "Lease")["metadata"]["name"] == parsed.lease
    pod = chart.find(chart.of_set(name), "Deployment")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == parsed.service_account
    assert chart.find(chart.of_set(name), "Service", parsed.webhook.service)
    if parsed.webhook.certificates is settings.CertificateMode.OPERATOR:
        assert chart.find(chart.of_set(name), "Secret")["metadata"]["name"] == parsed.webhook.secret


def test_the_charts_defaults_are_the_operators() -> None:
    parsed = _settings(chart.of_set("default"))
    version = chart.find(chart.of_set("default"), "Deployment")["metadata"]["labels"]["app.kubernetes.io/version"]
    assert parsed.sidecar.image == f"postern-sidecar:{version}"
    image = msgspec.structs.replace(settings.Sidecar(), image=parsed.sidecar.image)
    assert parsed == msgspec.structs.replace(settings.Settings(), sidecar=image)


def test_settings_follow_the_values() -> None:
    parsed = _settings(chart.of_set("images"))
    assert parsed.sidecar.image == f"registry.example/mail/sidecar:{_version()}"
    assert parsed.sidecar.image_pull_policy == "Always"
    assert parsed.sidecar.image_pull_secrets == ("one", "two")
    assert parsed.sidecar.allowed_images == ("registry.example/",)
    assert parsed.sidecar.allow_transparent
    openshift = _settings(chart.of_set("openshift")).sidecar
    assert (openshift.run_as_user, openshift.admin_port) == (None, 15999)
    assert openshift.resources == {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}
    assert _settings(chart.rendered({"sidecar": {"runAsUser": 1000680000}})).sidecar.run_as_user == 1000680000
    assert _settings(chart.of_set("url")).webhook.host == "127.0.0.1"
    assert _settings(chart.of_set("cert-manager-issuer")).webhook.host == "webhook.example.net"
    assert _settings(chart.of_set("cert-manager-address")).webhook.host == "fd00::7"


def test_new_settings_roll_the_operator_out() -> None:
    def template(values: chart.Object) -> chart.Object:
        found: chart.Object = chart.find(chart.rendered(values), "Deployment")["spec"]["template"]
        return found

    assert template({"sidecar": {"adminPort": 15926}}) != template({})
    assert template({"webhook": {"timeoutSeconds": 6}}) == template({})  # the operator does not know it


def test_the_image_has_registry_tag_and_digest() -> None:
    def image(values: chart.Object) -> str:
        deployment = chart.find(chart.rendered({"operator": {"image": values}}), "Deployment")
        name: str = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
        return name

    digest = f"sha256:{'0a' * 32}"
    assert image({}) == f"postern-operator:{_version()}"
    assert image({"registry": "r.example:5000/", "tag": "9"}) == "r.example:5000/postern-operator:9"
    assert image({"repository": "a/b", "digest": digest}) == f"a/b:{_version()}@{digest}"


@pytest.mark.parametrize("name", SETS)
def test_the_webhook_never_locks_the_cluster_out(name: str) -> None:
    [webhook] = chart.find(chart.of_set(name), "MutatingWebhookConfiguration")["webhooks"]
    expressions = webhook["namespaceSelector"]["matchExpressions"]
    assert {"key": "postern.dev/inject", "operator": "In", "values": ["enabled"]} in expressions
    [excluded] = [item for item in expressions if item["operator"] == "NotIn"]
    assert excluded["key"] == "kubernetes.io/metadata.name"
    assert set(excluded["values"]) == KEPT_OUT
    assert webhook["sideEffects"] == "NoneOnDryRun"
    assert webhook["reinvocationPolicy"] == "IfNeeded"
    assert webhook["matchPolicy"] == "Equivalent"
    assert webhook["timeoutSeconds"] <= 5
    assert webhook["rules"][0]["operations"] == ["CREATE"]


@pytest.mark.parametrize("name", SETS)
def test_helm_never_owns_what_the_operator_writes(name: str) -> None:
    text = chart.of_set(name)
    assert "caBundle" not in json.dumps(chart.find(text, "MutatingWebhookConfiguration"))
    assert "spec" not in chart.find(text, "Lease")
    secrets = [item for item in chart.objects(text) if item["kind"] == "Secret"]
    assert not any(secret.keys() & {"data", "stringData", "type"} for secret in secrets)
    managed = chart.SETS[name].get("webhook", {}).get("certificates", {}).get("mode") == "CertManager"
    assert bool(secrets) != managed


def test_only_cert_managers_annotation_names_its_certificate() -> None:
    annotation = "cert-manager.io/inject-ca-from"
    with_it = chart.find(chart.of_set("cert-manager"), "MutatingWebhookConfiguration")["metadata"]["annotations"]
    assert with_it == {annotation: f"{chart.NAMESPACE}/postern-webhook-cert-manager"}
    assert annotation not in chart.of_set("default")


@pytest.mark.parametrize("kind", ["Deployment", "Pod"])
def test_its_pods_pass_the_restricted_standard(plane: ControlPlane, kind: str) -> None:
    for name in ("default", "cert-manager", "images"):
        found = chart.find(chart.of_set(name), kind)
        spec = found["spec"]["template"]["spec"] if kind == "Deployment" else found["spec"]
        spec = {key: value for key, value in spec.items() if key != "serviceAccountName"}
        with plane.namespace({"pod-security.kubernetes.io/enforce": "restricted"}) as namespace:
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}
            plane.admin.create(f"/api/v1/namespaces/{namespace}/pods", pod, dry_run=True)


def test_the_operator_runs_as_the_contracts_say() -> None:
    deployment = chart.find(chart.of_set("default"), "Deployment")["spec"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    pod = deployment["template"]["spec"]
    [container] = pod["containers"]
    assert container["args"] == ["run", "--settings", "/etc/postern-operator/settings.yaml"]
    assert container["env"] == [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    assert container["lifecycle"] == {"preStop": {"sleep": {"seconds": 10}}}
    assert pod["terminationGracePeriodSeconds"] > 10 + 15
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    own = settings.Settings()
    assert ports == {"webhook": own.webhook.port, "health": own.health_port}
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"startup": "/healthz", "readiness": "/readyz", "liveness": "/healthz"}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    secrets = [
        source["secret"]
        for volume in chart.find(chart.of_set("cert-manager"), "Deployment")["spec"]["template"]["spec"]["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        if "secret" in source
    ]
    places = {
        f"{mounts['settings']}/{item['path']}": secret.get("optional", False)
        for secret in secrets
        for item in secret["items"]
    }
    directory = own.webhook.certificates_dir
    assert places == {f"{directory}/tls.crt": False, f"{directory}/tls.key": False, f"{directory}/ca.crt": True}


def test_a_token_goes_to_the_operator_and_to_nobody_by_accident() -> None:
    text = chart.of_set("default")
    accounts = [item for item in chart.objects(text) if item["kind"] == "ServiceAccount"]
    assert [account["automountServiceAccountToken"] for account in accounts] == [False, False]
    assert chart.find(text, "Deployment")["spec"]["template"]["spec"]["automountServiceAccountToken"] is True


def test_the_definition_is_the_repositorys() -> None:
    [source] = (chart.CHART.parents[1] / "crds").glob("*.yaml")
    assert (chart.CHART / "files" / "crds" / source.name).read_bytes() == source.read_bytes()
    [original] = chart.objects(source.read_text())
    shown = chart.find(chart.of_set("default"), "CustomResourceDefinition")
    assert shown["spec"] == original["spec"]
    assert shown["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "annotations" not in chart.find(chart.of_set("crds-not-kept"), "CustomResourceDefinition")["metadata"]
    assert "CustomResourceDefinition" not in chart.of_set("crds-off")


def test_every_object_has_the_labels_and_names_keep_releases_apart() -> None:
    for item in chart.objects(chart.of_set("scheduling")):
        labels = item["metadata"]["labels"]
        assert (labels["team"], labels["app.kubernetes.io/instance"]) == ("mail", "postern"), item["metadata"]["name"]
        assert labels["app.kubernetes.io/managed-by"] == "Helm"

    def names(release: str) -> set[tuple[str, str]]:
        text = chart.rendered({"crds": {"enabled": False}}, release=release)
        return {(item["kind"], item["metadata"]["name"]) for item in chart.objects(text)}

    assert names("one").isdisjoint(names("two"))


@pytest.mark.parametrize("release", ["postern", "a" * 53, "postern-" + "b" * 45])
def test_names_are_short_enough(release: str) -> None:
    for item in chart.objects(chart.rendered(release=release)):
        assert len(item["metadata"]["name"]) <= 63
        assert all(len(value) <= 63 for value in item["metadata"]["labels"].values())


def test_alerts_and_dashboard_are_of_metrics_that_there_are() -> None:
    text = (chart.CHART / "files" / "alerts.yaml").read_text() + (chart.CHART / "files" / "dashboard.json").read_text()
    named = set(re.findall(r"\bpostern_[a-z_]+", text))
    documented = set(re.findall(r"`(postern_[a-z_]+)`", (chart.DOCUMENTATION.parent / "metrics.md").read_text()))
    operator = metrics.Metrics("1.2.3")
    operator.watched = metrics.Watched(watch_ages=lambda: {"pods": 1.0}, certificate_expiry=lambda: 1.0)
    shown = set(re.findall(r"(?m)^(postern_operator_[a-z_]+)", operator.render()[0].decode()))
    assert len(named) > 8
    assert named - documented - shown == set()


def _settings(text: str) -> settings.Settings:
    config_map = chart.find(text, "ConfigMap", f"{_fullname(text)}-operator-settings")
    return settings.parsed(config_map["data"]["settings.yaml"].encode(), "settings.yaml")


def _fullname(text: str) -> str:
    name: str = chart.find(text, "MutatingWebhookConfiguration")["metadata"]["name"]
    return name


def _version() -> str:
    found = re.search(r'^appVersion: "(.*)"', (chart.CHART / "Chart.yaml").read_text(), re.MULTILINE)
    assert found
    return found[1]
