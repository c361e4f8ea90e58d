"""The life of a release with its operator running: from the release before to this one and back, to another name, away,
and from one set of values to another. Mail pods are played, with real sidecars in them.
"""

from __future__ import annotations

import base64
import copy
import io
import ipaddress
import json
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from ruamel.yaml import YAML

import certificates
import chart
import crd_corpus
import inventory
from cluster.admin import ApiError
from cluster.pods import create_pod, pod
from cluster.process import free_port
from cluster.release import PROGRAM, Release
from cluster.waiting import eventually
from operated import DEFINITION, ENABLED, Place, listener, metric

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from cluster.admin import Admin
    from cluster.audit import Write
    from cluster.control import ControlPlane
    from cluster.release import Operator

pytestmark = pytest.mark.real

Object = dict[str, Any]
PREVIOUS = Path(__file__).parent / "previous"
CONFIGURATION = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/postern"
RESYNC = {"POSTERN_RESYNC": "1"}
NEWER = "99.0.0"  # a tag of the sidecar's image


@pytest.fixture(scope="session")
def previous_program(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The operator of the release before; what it needs is what this environment has."""
    (wheel,) = PREVIOUS.glob("*.whl")
    target = tmp_path_factory.mktemp("previous")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, timeout=120)
    python = ("env", f"PYTHONPATH={target}", sys.executable)
    asked = "import postern_operator, postern_sidecar; print(postern_operator.__file__, postern_sidecar.__file__)"
    found = subprocess.run([*python, "-c", asked], check=True, capture_output=True, text=True, timeout=60).stdout
    assert found.count(str(target)) == 2
    return (*python, "-m", "postern_operator")


@pytest.fixture(scope="session")
def previous_chart() -> Path:
    (package,) = PREVIOUS.glob("postern-*.tgz")
    return package


@pytest.fixture
def older_chart(previous_chart: Path, tmp_path: Path) -> Path:
    """The chart of the release before, with a definition that does not know `spec.logging`: between the two releases as
    they are, no field has come."""
    with tarfile.open(previous_chart) as package:
        package.extractall(tmp_path, filter="data")
    folder = tmp_path / "postern"
    (file,) = folder.glob("files/crds/*.yaml")
    (definition,) = copy.deepcopy(chart.objects(file.read_text()))
    (version,) = definition["spec"]["versions"]
    del version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["logging"]
    metadata = definition.pop("metadata")
    text = io.StringIO()
    YAML(typ="safe").dump(definition, text)
    file.write_text(f"{text.getvalue()}metadata:\n  name: {metadata['name']}\n")
    return folder


@pytest.fixture(scope="module")
def admin_port() -> int:
    return free_port()


@pytest.fixture
def place(plane: ControlPlane, admin_port: int, tmp_path: Path) -> Iterator[Place]:
    with plane.namespace(ENABLED) as name:
        yield Place(plane, name, admin_port, tmp_path)


# -- from release to release -------------------------------------------------------------------------------------------


def test_an_upgrade_keeps_what_there_is_and_refuses_no_pod(
    plane: ControlPlane, place: Place, previous_chart: Path, previous_program: tuple[str, ...], admin_port: int
) -> None:
    allowed = {"adminPort": admin_port, "allowTransparent": True, "allowedImages": ["registry.example.net/", "a" * 512]}
    values = {"webhook": {"failurePolicy": "Fail"}, "sidecar": allowed}
    with (
        Release(plane, chart=previous_chart, program=previous_program, values=values) as release,
        plane.namespace(ENABLED) as corpus,
        Admissions(plane.admin, place.name) as admissions,
    ):
        place.make()
        place.wait(Programmed="Programmed")
        with place.pod("mail-0"), place.pod("mail-1"):
            place.wait(Programmed="Programmed", SidecarsOutdated="UpToDate", current=2)
            policies = _previous_policies(plane, corpus)
            before, mark = State(release), plane.mark()
            admissions.start()
            release.upgrade({**values, "sidecar": {**allowed, "image": {"tag": NEWER}}}, program=PROGRAM)
            assert admissions.stop() > 50
            assert admissions.refused == []
            assert admissions.without_sidecar == 0

            status = place.wait(SidecarsOutdated="OlderSidecars", Programmed="Programmed", current=2)
            assert "2 pods with an older image or template: mail-0, mail-1" in _condition(status, "SidecarsOutdated")
            leader = _leader(release)
            eventually(lambda: _reconciled(leader) > len(policies))
            after = State(release)
            assert after.kept == before.kept
            assert {key: after.config_maps[key] for key in before.config_maps} == before.config_maps
            assert plane.admin.get(DEFINITION)["spec"]["versions"] == _definition()["spec"]["versions"]
            written = [write for write in _operators(plane, mark) if write.resource in ("configmaps", "pods")]
            assert written == []  # no file has changed: nothing is written again, and no pod poked
            present = {operator.pod for operator in release.operators}
            told = [write.resource for write in place.written(mark) if write.pod in present]
            assert told == ["mailproxypolicies/status"]

            made = place.pod("mail-2").created["spec"]["initContainers"][0]["image"]
            assert made == f"postern-sidecar:{NEWER}"
            for name in ("mail-0", "mail-1"):
                plane.admin.delete(f"{place.path}/pods/{name}")
            place.wait(SidecarsOutdated="UpToDate", selected=1)


def test_a_rollback_takes_the_field_away_that_only_the_newer_definition_has(
    plane: ControlPlane, place: Place, older_chart: Path, previous_program: tuple[str, ...], admin_port: int
) -> None:
    values = {"operator": {"replicas": 1}, "sidecar": {"adminPort": admin_port}}
    with Release(plane, chart=older_chart, program=previous_program, values=values, env=RESYNC) as release:
        place.make(hostname="mail.example.net")
        place.wait(Programmed="Programmed")
        with place.pod("mail-0") as mail:
            place.wait(Programmed="Programmed", current=1)
            release.upgrade(values, program=PROGRAM)
            eventually(lambda: _logs_json(place))
            _delivered(place, mail, logging={"format": "JSON"})
            kept = State(release).kept

            release.rollback(1, program=previous_program)
            eventually(lambda: "logging" not in plane.admin.get(place.policy())["spec"])
            _delivered(place, mail, logging=None)
            assert State(release).kept == kept
            assert plane.admin.get(place.policy())["spec"]["hostname"] == "mail.example.net"
            place.change(hostname="mx.example.net")
            _delivered(place, mail, hostname="mx.example.net", logging=None)

            release.upgrade(values, program=PROGRAM)
            _delivered(place, mail, hostname="mx.example.net", logging=None)  # it was written without the field
            eventually(lambda: _logs_json(place))
            _delivered(place, mail, hostname="mx.example.net", logging={"format": "JSON"})


# -- from name to name -------------------------------------------------------------------------------------------------


def test_another_release_goes_on_where_the_first_was_uninstalled(
    plane: ControlPlane, place: Place, admin_port: int
) -> None:
    values = {"operator": {"replicas": 1}, "sidecar": {"adminPort": admin_port}}
    before = inventory.everything(plane)
    with Release(plane, values=values) as first:
        place.make()
        place.make("idle", selector={"matchLabels": {"app": "nobody"}})
        place.wait(Programmed="Programmed")
        with place.pod("mail-0") as mail:
            place.wait(Programmed="Programmed", current=1)
            place.wait("idle", Programmed="Programmed")
            with pytest.raises(AssertionError, match="invalid ownership metadata"):
                plane.helm("install", "second", str(chart.CHART), "--namespace", place.name)
            first.uninstall()
            served = place.final("edge", "idle")
            assert inventory.everything(plane) - before == {
                f"namespaces/{first.namespace}",
                f"serviceaccounts/{first.namespace}/default",
                "customresourcedefinitions/mailproxypolicies.postern.dev",
                *(f"mailproxypolicies/{place.name}/{name}" for name in ("edge", "idle")),
                *(f"configmaps/{place.name}/postern-{name}" for name in ("edge", "idle")),
                f"pods/{place.name}/mail-0",
            }

            mark = plane.mark()
            with Release(plane, name="second", values=values, flags=["--take-ownership"]) as second:
                eventually(lambda: _reconciled(second.operators[0]) >= 2)
                assert place.final("edge", "idle") == served
                assert [write for write in _operators(plane, mark) if write.namespace == place.name] == []
                assert place.pod("mail-1").policy == "edge"
                place.change(hostname="mx.example.net")
                _delivered(place, mail, hostname="mx.example.net")
                notes = plane.helm("get", "notes", "second", "--namespace", second.namespace).stdout
                second.uninstall()
                commands = [line.strip() for line in notes.splitlines() if line.startswith("  kubectl delete")]
                assert len(commands) == 2
                for command in commands:
                    plane.kubectl(*command.split()[1:])
                plane.admin.wait_gone(DEFINITION)
                assert inventory.everything(plane) - before == {
                    *(f"namespaces/{release.namespace}" for release in (first, second)),
                    *(f"serviceaccounts/{release.namespace}/default" for release in (first, second)),
                    *(f"pods/{place.name}/{name}" for name in ("mail-0", "mail-1")),
                }


@pytest.mark.parametrize("keep", [True, False], ids=["crd-kept", "crd-removed"])
def test_an_operator_whose_rights_have_gone_ends_as_asked(
    plane: ControlPlane, place: Place, admin_port: int, keep: bool
) -> None:
    """As in a cluster, where it outlives its rights by the ten seconds of its preStop hook."""
    values = {"crds": {"keep": keep}, "sidecar": {"adminPort": admin_port}}
    with Release(plane, values=values) as release:
        place.make()
        place.wait(Programmed="Programmed")
        with place.pod("mail-0") as mail:
            place.wait(Programmed="Programmed", current=1)
            operators, leader = list(release.operators), _leader(release)
            plane.helm("uninstall", release.name, "--namespace", release.namespace)
            if keep:
                eventually(lambda: "is lost" in leader.log, 20)
            for operator in operators:
                _wait_for(operator, "403")
                assert operator.running, operator.log
            assert [release.terminate() for _ in operators] == [0, 0]
            for operator in operators:
                assert "Traceback" not in operator.log, operator.log
                assert "internal error" not in operator.log, operator.log
            assert plane.admin.get(mail.path)["metadata"]["labels"]["postern.dev/policy"] == "edge"
            assert plane.admin.get(place.config_map())["data"]["policy.json"]
            assert plane.admin.exists(DEFINITION) == keep


# -- from values to values ---------------------------------------------------------------------------------------------


def test_another_image_another_port_and_another_failure_policy(
    plane: ControlPlane, place: Place, admin_port: int
) -> None:
    values: Object = {"operator": {"replicas": 1}, "sidecar": {"adminPort": admin_port}}
    with Release(plane, values=values, env=RESYNC) as release:
        place.make()
        place.wait(Programmed="Programmed")
        with place.pod("mail-0") as old:
            place.wait(Programmed="Programmed", SidecarsOutdated="UpToDate", current=1)
            other = Place(plane, place.name, free_port(), place.folder)
            image = {"registry": "registry.example.net", "tag": NEWER}
            sidecar = {"adminPort": other.admin_port, "image": image}
            release.upgrade({**values, "sidecar": sidecar, "webhook": {"failurePolicy": "Fail"}})
            with other.pod("mail-1") as new:
                made = new.created["spec"]["initContainers"][0]
                assert made["image"] == f"registry.example.net/postern-sidecar:{NEWER}"
                assert f":{other.admin_port}" in made["args"]
                # The old pod answers where it is not asked any more: it says so until it is made again.
                status = place.wait(Programmed="Pending", SidecarsOutdated="OlderSidecars", current=1)
                assert ": mail-0 (image postern-sidecar:" in _condition(status, "SidecarsOutdated")
                assert ": mail-0. " in _condition(status, "Programmed")
                old.delete()
                place.wait(Programmed="Programmed", SidecarsOutdated="UpToDate", current=1)

            release.kill()
            with pytest.raises(ApiError, match="failed calling webhook"):
                place.pod("mail-2")
            release.upgrade(values)
            assert place.pod("mail-3").policy == ""


def test_only_some_namespaces_and_all_again(plane: ControlPlane, place: Place, admin_port: int) -> None:
    values: Object = {"operator": {"replicas": 1}, "sidecar": {"adminPort": admin_port}}
    with plane.namespace(ENABLED) as name, Release(plane, values=values) as release:
        other = Place(plane, name, admin_port, place.folder)
        for each in (place, other):
            each.make()
            each.wait(Programmed="Programmed")
        release.upgrade({**values, "operator": {"replicas": 1, "watchNamespaces": [place.name]}})
        rules = plane.admin.get("/apis/rbac.authorization.k8s.io/v1/clusterroles/postern-operator")["rules"]
        assert not [rule for rule in rules if {"pods", "configmaps"} & {*rule["resources"]}]
        mark = plane.mark()
        for each in (place, other):
            each.change(hostname="mx.example.net")
        eventually(lambda: _file(place)["spec"].get("hostname") == "mx.example.net")
        with place.pod("mail-0") as mail:
            place.wait(Programmed="Programmed", current=1)
            _delivered(place, mail, hostname="mx.example.net")
        assert other.pod("mail-1").policy == ""
        assert other.written(mark) == []
        assert "403" not in release.log()

        release.upgrade(values)
        assert other.pod("mail-2").policy == "edge"
        eventually(lambda: _file(other)["spec"].get("hostname") == "mx.example.net")


@pytest.mark.usefixtures("foreign_definitions")
def test_certificates_of_cert_manager_and_of_the_operator_again(
    plane: ControlPlane, place: Place, admin_port: int
) -> None:
    fail = {"failurePolicy": "Fail"}
    values: Object = {"operator": {"replicas": 1}, "webhook": fail, "sidecar": {"adminPort": admin_port}}
    with Release(plane, values=values) as release:
        place.make()
        place.wait(Accepted="Accepted")
        own = _bundle(plane)
        authority = certificates.issue("cert-manager", ca=True, identifiers=True)
        _issue(plane, release, authority)
        release.upgrade({**values, "webhook": {**fail, "certificates": {"mode": "CertManager"}}}, roll=False)
        annotations = plane.admin.get(CONFIGURATION)["metadata"]["annotations"]
        assert annotations["cert-manager.io/inject-ca-from"] == f"{release.namespace}/postern-webhook-cert-manager"
        bundle = base64.b64encode(authority.pem).decode()
        plane.admin.json_patch(
            CONFIGURATION, [{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]
        )
        release.roll()
        assert place.pod("mail-0").policy == "edge"
        assert _bundle(plane) == bundle
        secret = f"/api/v1/namespaces/{release.namespace}/secrets/postern-webhook-tls"
        assert not plane.admin.exists(secret)

        release.upgrade(values)
        assert place.pod("mail-1").policy == "edge"
        assert plane.admin.get(secret)["data"].keys() >= {"tls.crt", "tls.key"}
        assert _bundle(plane) not in (own, bundle)


def test_what_policies_may_ask_for_is_the_values_to_say(plane: ControlPlane, place: Place, admin_port: int) -> None:
    values: Object = {"operator": {"replicas": 1}, "sidecar": {"adminPort": admin_port}}
    allowing: Object = {"allowTransparent": True, "allowedImages": ["registry.example.net/mail"]}
    with Release(plane, values=values, env=RESYNC) as release:
        place.make("image", sidecar={"image": "registry.example.net/mail/sidecar:1"})
        place.make("hidden", inbound=[listener(backend={"port": 10025, "handover": "Transparent"})])
        for name in ("image", "hidden"):
            place.wait(name, Accepted="Invalid", Programmed="NotAccepted")
        assert place.pod("image-0", "image").policy == ""

        release.upgrade({**values, "sidecar": {**values["sidecar"], **allowing}})
        for name in ("image", "hidden"):
            place.wait(name, Accepted="Accepted")
        image = place.pod("image-1", "image").created["spec"]["initContainers"][0]
        assert image["image"] == "registry.example.net/mail/sidecar:1"
        hidden = place.pod("hidden-1", "hidden").created["spec"]["initContainers"]
        assert [container["name"] for container in hidden][:2] == ["postern-init", "postern"]

        release.upgrade(values)
        for name in ("image", "hidden"):
            place.wait(name, Accepted="Invalid", Programmed="NotAccepted")
        for name in ("image", "hidden"):  # what it was given when it was allowed, it is not given any more
            assert place.pod(f"{name}-2", name).policy == ""


# -- what is looked at -------------------------------------------------------------------------------------------------


class State:
    """What an upgrade must not lose. `kept`: the same before and after."""

    def __init__(self, release: Release) -> None:
        admin = release.admin
        home = f"/namespaces/{release.namespace}"
        secret = admin.get(f"/api/v1{home}/secrets/postern-webhook-tls")
        lease = admin.get(f"/apis/coordination.k8s.io/v1{home}/leases/postern-operator")
        policies = admin.list("/apis/postern.dev/v1alpha1/mailproxypolicies")
        self.config_maps = {
            (one["metadata"]["namespace"], one["metadata"]["name"]): (one["metadata"]["uid"], one["data"])
            for one in admin.list("/api/v1/configmaps", "app.kubernetes.io/managed-by=postern")
        }
        self.kept = {
            "definition": admin.get(DEFINITION)["metadata"]["uid"],
            "secret": (secret["metadata"]["uid"], secret["data"]),
            "lease": lease["metadata"]["uid"],
            "bundle": _bundle(release.control_plane),
            "policies": {one["metadata"]["uid"] for one in policies},
            "configMaps": {key: uid for key, (uid, _) in self.config_maps.items()},
        }


class Admissions:
    """Pods created one after another, by dry run, in a thread."""

    def __init__(self, admin: Admin, namespace: str) -> None:
        self._admin, self._manifest = admin, pod("steady-", namespace, labels={"app": "edge"})
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._create, name="admissions")
        self._made = 0
        self.without_sidecar = 0
        self.refused: list[str] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> int:
        """How many were created."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        return self._made

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _create(self) -> None:
        while not self._over.wait(0.01):
            try:
                made = create_pod(self._admin, self._manifest, dry_run=True)
            except ApiError as problem:
                self.refused.append(str(problem))
            else:
                self._made += 1
                self.without_sidecar += "postern.dev/policy" not in made["metadata"]["labels"]


def _previous_policies(plane: ControlPlane, namespace: str) -> Sequence[str]:
    """The good ones of the previous corpus, created and accepted: the names."""
    collection = f"/apis/postern.dev/v1alpha1/namespaces/{namespace}/mailproxypolicies"
    names = []
    for number, case in enumerate(crd_corpus.good(PREVIOUS / "corpus")):
        names.append(f"case-{number}")
        metadata = {**case.manifest["metadata"], "name": names[-1], "namespace": namespace}
        plane.admin.create(collection, {**case.manifest, "metadata": metadata})
    for name in names:
        status = plane.admin.wait(f"{collection}/{name}", lambda policy: policy.get("status", {}).get("conditions"))
        assert _reason(status["status"], "Accepted") == "Accepted", status
    return names


def _delivered(place: Place, mail: Any, **spec: Any) -> None:
    """The file has these fields (None: not), the pod was told, and runs it."""
    eventually(lambda: all(_file(place)["spec"].get(key) == value for key, value in spec.items()))
    mail.sync()
    place.wait(Programmed="Programmed", current=1)


def _file(place: Place) -> Object:
    found: Object = json.loads(place.admin.get(place.config_map())["data"]["policy.json"])
    return found


def _logs_json(place: Place) -> bool:
    """Once the API server knows the field, it keeps it."""
    stored = place.admin.merge(place.policy(), {"spec": {"logging": {"format": "JSON"}}})
    return "logging" in stored["spec"]


def _operators(plane: ControlPlane, mark: int) -> list[Write]:
    return [write for write in plane.audit(mark) if write.user.endswith("postern-operator") and write.kept]


def _wait_for(operator: Operator, text: str) -> None:
    eventually(lambda: text in operator.log)


def _reconciled(operator: Operator) -> float:
    return metric(operator.get("/metrics"), "postern_operator_reconciles_total", result="done")


def _leader(release: Release) -> Operator:
    """Once one of those that run holds the Lease."""

    def found() -> Operator | None:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{release.namespace}/leases/{release.name}-operator"
        holder = release.admin.get(path)["spec"].get("holderIdentity")
        return next((one for one in release.operators if one.pod == holder), None)

    operator = eventually(found)
    assert operator is not None
    return operator


def _condition(status: Object, kind: str) -> str:
    (message,) = [one["message"] for one in status["conditions"] if one["type"] == kind]
    return str(message)


def _reason(status: Object, kind: str) -> str:
    (reason,) = [one["reason"] for one in status["conditions"] if one["type"] == kind]
    return str(reason)


def _bundle(plane: ControlPlane) -> str:
    (webhook,) = plane.admin.get(CONFIGURATION)["webhooks"]
    return str(webhook["clientConfig"]["caBundle"])


def _definition() -> Object:
    found: Object = chart.objects((chart.CHART / "files/crds/mailproxypolicies.postern.dev.yaml").read_text())[0]
    return found


def _issue(plane: ControlPlane, release: Release, authority: certificates.Certified) -> None:
    """As cert-manager does for the chart's Certificate."""
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    serving = certificates.issue("postern-webhook", by=authority, san=[address], identifiers=True)
    files = {"tls.crt": serving.pem, "tls.key": serving.key_pem, "ca.crt": authority.pem}
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "postern-webhook-cert-manager"},
        "type": "kubernetes.io/tls",
        "data": {name: base64.b64encode(content).decode() for name, content in files.items()},
    }
    plane.admin.create(f"/api/v1/namespaces/{release.namespace}/secrets", body)
