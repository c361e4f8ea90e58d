"""What others do to the operator's objects, and to what it needs: it converges, and no two fight for ever."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from cluster.faults import FaultyRelease, Way
from cluster.pods import create_pod, pod
from cluster.process import free_port
from cluster.waiting import eventually
from operated import DEFINITION, ENABLED, OPERATOR, Place, metric, unharmed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.admin import Object
    from cluster.audit import Write
    from cluster.control import ControlPlane
    from cluster.release import Operator

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

SECRET = "postern-webhook-tls"  # noqa: S105 - its name
CONFIGURATION = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/postern"
HASH = "postern.dev/config-hash"
TIMES = 5


@pytest.fixture(scope="module")
def admin_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def release(control_plane: ControlPlane, admin_port: int) -> Iterator[FaultyRelease]:
    values = {"operator": {"replicas": 1}, "sidecar": {"adminPort": admin_port}}
    with (
        Way(control_plane) as way,
        FaultyRelease(control_plane, way, values=values, env={"POSTERN_RESYNC": "1"}) as running,
    ):
        yield running


@pytest.fixture
def operator(release: FaultyRelease) -> Iterator[Operator]:
    """It is the same process afterwards, ready all the time, and nothing in it broke."""
    with unharmed(release) as operator:
        yield operator


@pytest.fixture
def place(control_plane: ControlPlane, operator: Operator, admin_port: int, tmp_path: Path) -> Iterator[Place]:
    with control_plane.namespace(ENABLED) as name:
        place = Place(control_plane, name, admin_port, tmp_path)
        place.make()
        place.wait(Programmed="Programmed")
        yield place


def settled(operator: Operator, passes: int = 6) -> None:
    """The operator has looked at its policies so often again."""

    def looked() -> float:
        return metric(operator.get("/metrics"), "postern_operator_reconciles_total", result="done")

    before = looked()
    eventually(lambda: looked() >= before + passes, 30)


def writes(control_plane: ControlPlane, mark: int, resource: str) -> list[Write]:
    return [one for one in control_plane.audit(mark, user=OPERATOR, resource=resource) if one.kept]


# -- field managers ----------------------------------------------------------------------------------------------------


def test_a_config_map_that_is_edited_is_put_right_once_an_edit(operator: Operator, place: Place) -> None:
    path, before = place.config_map(), place.admin.get(place.config_map())
    mark = place.control_plane.mark()
    for number in range(TIMES):
        patch = json.dumps({"data": {"policy.json": f'{{"n":{number}}}', "more": "mine"}})
        place.control_plane.kubectl("patch", "configmap", "postern-edge", "-n", place.name, "--type=merge", "-p", patch)
        place.admin.wait(path, lambda found: found["data"]["policy.json"] == before["data"]["policy.json"])
    settled(operator)
    counts = place.counts(mark)
    assert counts == {"configmaps": TIMES}
    found = place.admin.get(path)
    assert found["data"] == {**before["data"], "more": "mine"}  # what is not ours stays


def test_what_others_add_to_a_config_map_stays_and_costs_nothing(operator: Operator, place: Place) -> None:
    mark = place.control_plane.mark()
    for number in range(TIMES):
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": "postern-edge",
                "labels": {"team": f"mail-{number}"},
                "annotations": {"example.org/seen": str(number)},
            },
        }
        place.admin.apply(place.config_map(), body, "another-controller")
    settled(operator)
    assert place.written(mark) == []
    place.change(logging={"format": "JSON"})
    place.wait(Programmed="Programmed")
    assert place.counts(mark) == {"configmaps": 1, "mailproxypolicies/status": 1}
    metadata = place.admin.get(place.config_map())["metadata"]
    assert metadata["labels"] == {"app.kubernetes.io/managed-by": "postern", "team": f"mail-{TIMES - 1}"}
    assert metadata["annotations"]["example.org/seen"] == str(TIMES - 1)


def test_a_status_that_is_edited_is_put_right_once_an_edit(operator: Operator, place: Place) -> None:
    before = place.final("edge")
    mark = place.control_plane.mark()
    for number in range(TIMES):
        place.admin.status(place.policy(), {"configHash": f"{number:064x}", "pods": {"selected": 9}})
        place.wait(selected=0)
    settled(operator)
    assert place.counts(mark) == {"mailproxypolicies/status": TIMES}
    assert place.final("edge") == before


def test_an_annotation_that_is_edited_costs_at_most_a_poke_an_edit(operator: Operator, place: Place) -> None:
    with place.pod("mail-0") as mail:
        place.wait(Programmed="Programmed", current=1)
        mark = place.control_plane.mark()
        for number in range(TIMES):
            value = None if number % 2 else f"{number:064x}.1"
            place.admin.merge(mail.path, {"metadata": {"annotations": {HASH: value}}})
            settled(operator, 3)
        settled(operator)
        counts = place.counts(mark)
        assert counts["pods"] <= TIMES
        assert counts["configmaps"] == counts["mailproxypolicies/status"] == 0
        place.change(logging={"format": "JSON"})
        target = place.wait(Accepted="Accepted")["configHash"]
        eventually(lambda: mail.poke.startswith(f"{target}."))
        mail.sync()
        place.wait(Programmed="Programmed", current=1)


def test_a_label_that_is_taken_off_a_pod_and_put_back(operator: Operator, place: Place) -> None:
    with place.pod("mail-0") as mail:
        place.wait(Programmed="Programmed", injected=1, current=1)
        mark = place.control_plane.mark()
        place.admin.merge(mail.path, {"metadata": {"labels": {"postern.dev/policy": None}}})
        place.wait(Programmed="NotInjected", selected=1, injected=0)
        place.admin.merge(mail.path, {"metadata": {"labels": {"postern.dev/policy": "edge"}}})
        place.wait(Programmed="Programmed", injected=1, current=1)
        settled(operator)
        counts = place.counts(mark)
        assert counts["configmaps"] == counts["pods"] == 0
        assert counts["mailproxypolicies/status"] <= 4


# -- the webhook's certificates ----------------------------------------------------------------------------------------


def trusted(release: FaultyRelease) -> bool:
    """The caBundle is the Secret's authority, and the API server's calls arrive."""
    path = f"/api/v1/namespaces/{release.namespace}/secrets/{SECRET}"
    if not release.admin.exists(path) or not release.admin.exists(CONFIGURATION):
        return False
    authority = release.admin.get(path).get("data", {}).get("ca.crt")
    webhooks = release.admin.get(CONFIGURATION)["webhooks"]
    return bool(authority) and all(one["clientConfig"].get("caBundle") == authority for one in webhooks)


def injected(place: Place) -> bool:
    created = create_pod(place.admin, pod("probe", place.name, labels={"app": "edge"}), dry_run=True)
    return any(one["name"] == "postern" for one in created["spec"].get("initContainers", []))


def test_a_ca_bundle_that_is_edited_is_put_right_once_an_edit(release: FaultyRelease, place: Place) -> None:
    before = release.admin.get(CONFIGURATION)["webhooks"]
    mark = place.control_plane.mark()
    for _ in range(2):
        other = base64.b64encode(place.control_plane.ca.read_bytes()).decode()
        edit = {"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": other}
        release.admin.json_patch(CONFIGURATION, [edit])
        assert not injected(place)
        eventually(lambda: release.admin.get(CONFIGURATION)["webhooks"] == before, 30)
    assert injected(place)
    assert len(writes(place.control_plane, mark, "mutatingwebhookconfigurations")) == 2
    assert writes(place.control_plane, mark, "secrets") == []


@pytest.mark.parametrize(
    "data",
    [
        None,
        {"tls.crt": "", "tls.key": ""},
        {"tls.crt": "Z2FyYmFnZQ==", "tls.key": "Z2FyYmFnZQ==", "ca.crt": "Z2FyYmFnZQ=="},
    ],
    ids=["deleted", "empty", "garbage"],
)
def test_a_secret_that_is_lost_is_made_again(release: FaultyRelease, place: Place, data: dict[str, str] | None) -> None:
    """Pods are injected again; the old pair is served until the caBundle holds the new authority."""
    path = f"/api/v1/namespaces/{release.namespace}/secrets/{SECRET}"
    secret = release.admin.get(path)
    mark = place.control_plane.mark()
    if data is None:
        release.admin.delete(path)
    else:
        release.admin.merge(path, {"data": {**dict.fromkeys(secret["data"], None), **data}})
    bare = 0

    def again() -> bool:
        nonlocal bare
        bare += not injected(place)
        return release.admin.exists(path) and release.admin.get(path).get("data") not in (
            secret["data"],
            data,
        )

    eventually(again, 30)
    eventually(lambda: trusted(release), 30)
    eventually(lambda: injected(place), 30)
    assert len(writes(place.control_plane, mark, "secrets")) == 1
    assert len(writes(place.control_plane, mark, "mutatingwebhookconfigurations")) == 1
    assert bare == 0, "the old pair was not served until there was a new one"


def test_a_webhook_configuration_that_is_made_again_gets_its_ca_bundle(release: FaultyRelease, place: Place) -> None:
    found = release.admin.get(CONFIGURATION)
    mark = place.control_plane.mark()
    release.admin.delete(CONFIGURATION)
    eventually(lambda: "so no pod is injected" in release.log(), 30)
    for webhook in found["webhooks"]:
        del webhook["clientConfig"]["caBundle"]
    metadata = {key: found["metadata"][key] for key in ("name", "labels", "annotations") if key in found["metadata"]}
    release.admin.create(CONFIGURATION.rpartition("/")[0], {**found, "metadata": metadata})
    eventually(lambda: trusted(release), 30)
    eventually(lambda: injected(place), 30)
    assert len(writes(place.control_plane, mark, "mutatingwebhookconfigurations")) == 1
    assert writes(place.control_plane, mark, "secrets") == []


# -- what it needs -----------------------------------------------------------------------------------------------------


def test_a_config_map_that_is_deleted_comes_back(operator: Operator, place: Place) -> None:
    mark, before = place.control_plane.mark(), place.admin.get(place.config_map())
    place.admin.delete(place.config_map())
    place.admin.wait(place.config_map(), lambda found: found["data"] == before["data"])
    settled(operator)
    assert place.counts(mark) == {"configmaps": 1}


def test_a_definition_that_is_deleted_and_made_again(operator: Operator, place: Place, release: FaultyRelease) -> None:
    """The policies go with it. ConfigMaps of injected pods stay, and are taken up again with the policy."""
    with place.pod("mail-0") as mail:
        place.wait(Programmed="Programmed", current=1)
        definition, before = place.admin.get(DEFINITION), place.admin.get(place.config_map())
        asked = len(release.way.requests)
        place.admin.delete(DEFINITION)
        place.admin.wait_gone(DEFINITION)
        gone = [one for one in release.way.requests[asked:] if one.resource == "mailproxypolicies"]
        eventually(
            lambda: (
                len([one for one in release.way.requests[asked:] if one.resource == "mailproxypolicies"])
                > len(gone) + 3
            )
        )
        assert operator.running
        assert place.admin.get(place.config_map())["data"] == before["data"]
        metadata = {
            key: definition["metadata"][key]
            for key in ("name", "labels", "annotations")
            if key in definition["metadata"]
        }
        collection = DEFINITION.rpartition("/")[0]
        body = {key: definition[key] for key in ("apiVersion", "kind", "spec")}
        place.admin.create(collection, {**body, "metadata": metadata})
        place.admin.wait(DEFINITION, established)
        eventually(lambda: served(place))
        made = place.make()
        place.wait(Programmed="Programmed", selected=1, injected=1, current=1, timeout=60)
        found = place.admin.get(place.config_map())
        assert found["metadata"]["uid"] == before["metadata"]["uid"]
        assert found["metadata"]["annotations"]["postern.dev/policy-uid"] == made["metadata"]["uid"]
        mail.delete()


def established(definition: Object) -> bool:
    conditions = definition.get("status", {}).get("conditions") or []
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


def served(place: Place) -> bool:
    return place.admin.exists(place.policy().rpartition("/")[0])


def test_a_token_that_ends_is_read_again(operator: Operator, place: Place, release: FaultyRelease) -> None:
    """A token ends with the pod that it is bound to. The file has another one by then, or a little later."""
    place.admin.delete(f"/api/v1/namespaces/{release.namespace}/pods/{operator.pod}")
    before = len(operator.log)
    eventually(lambda: "401" in operator.log[before:], 60)  # the API server remembers a good token for ten seconds
    fresh = release.new_pod()
    release.renew_token(operator, fresh)
    mark = place.control_plane.mark()
    place.change(logging={"format": "JSON"})
    place.wait(Programmed="Programmed", timeout=60)
    written = [one for one in place.written(mark) if one.kept]
    assert {one.pod for one in written} == {fresh["metadata"]["name"]}
    assert place.counts(mark) == {"configmaps": 1, "mailproxypolicies/status": 1}
    eventually(lambda: metric(operator.get("/metrics"), "postern_operator_leader") == 1.0)
