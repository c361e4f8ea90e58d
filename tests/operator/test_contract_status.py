"""Policies' status and ConfigMaps, sentence by sentence of their contract: the operator as its chart installs it, on a
real API server, and real sidecars in played pods."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from cluster.pods import create_pod, pod
from cluster.process import free_port
from cluster.release import Release
from cluster.waiting import eventually
from crd_corpus import cases
from operated import ENABLED, Place, metric
from played_pods import config_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.control import ControlPlane

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

Object = dict[str, Any]
ONLY = [case for case in cases() if case.only is not None]


@pytest.fixture(scope="module")
def admin_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def release(control_plane: ControlPlane, admin_port: int) -> Iterator[Release]:
    values = {"operator": {"replicas": 1}, "sidecar": {"adminPort": admin_port}}
    with Release(control_plane, values=values, env={"POSTERN_RESYNC": "1"}) as running:
        yield running
        assert running.operators[0].running, running.log()
        assert "internal error" not in running.log()
        assert "Traceback" not in running.log()


@pytest.fixture
def place(control_plane: ControlPlane, release: Release, admin_port: int, tmp_path: Path) -> Iterator[Place]:
    assert release.operators[0].ready
    with control_plane.namespace(ENABLED) as name:
        yield Place(control_plane, name, admin_port, tmp_path)


def said(status: Object, kind: str) -> str:
    message: str = next(one["message"] for one in status["conditions"] if one["type"] == kind)
    return message


def settled(release: Release, passes: int = 8) -> None:
    """The operator has looked at its policies so often again."""

    def looks() -> float:
        return metric(release.operators[0].get("/metrics"), "postern_operator_reconciles_total")

    before = looks()
    eventually(lambda: looks() >= before + passes, 30)


# -- Accepted ----------------------------------------------------------------------------------------------------------


def test_what_only_the_model_sees_is_refused_and_what_was_accepted_stays(place: Place) -> None:
    """Each in a policy of its own, which was good before."""
    before = {}
    for number, case in enumerate(ONLY):
        name = f"case-{number}"
        place.make(name, selector=None)
        place.wait(name, Accepted="Accepted", Programmed="Programmed")
        before[name] = place.admin.get(place.config_map(name))
        policy = place.admin.get(place.policy(name))
        body = {**case.manifest, "metadata": {"name": name, "namespace": place.name}}
        body["metadata"]["resourceVersion"] = policy["metadata"]["resourceVersion"]
        place.admin.request("PUT", place.policy(name), body)
    for number, case in enumerate(ONLY):
        name = f"case-{number}"
        status = place.wait(name, Accepted="Invalid", Programmed="NotAccepted")
        message = said(status, "Accepted")
        assert f"{case.at}: {case.only}" in message or (not case.only and case.at in message), (case.name, message)
        assert place.admin.get(place.config_map(name)) == before[name], case.name
    assert len(ONLY) >= 25


def test_without_a_selector_it_selects_nothing_and_says_so(place: Place) -> None:
    place.make(selector=None)
    status = place.wait(Accepted="Accepted", Programmed="Programmed", selected=0, injected=0, current=0)
    assert said(status, "Accepted") == "there is no spec.selector, so no pod is selected"
    assert said(status, "Programmed") == "the configuration is ready; no pod is selected"


def test_who_loses_some_names_the_winner_and_the_count(place: Place) -> None:
    place.make("edge")
    place.make("high", priority=7, selector={"matchLabels": {"app": "edge", "tier": "a"}})
    place.wait("edge", Accepted="Accepted")
    place.wait("high", Programmed="Programmed")
    for number, labels in enumerate([{"tier": "a"}, {"tier": "a"}, {}]):
        create_pod(place.admin, pod(f"mail-{number}", place.name, labels={"app": "edge", **labels}))
    told = "wins 1 of the 3 pods that it selects: policy high (priority 7) takes 2"
    place.admin.wait(place.policy(), lambda found: said(found["status"], "Accepted") == told)
    place.wait("edge", Accepted="Accepted", selected=1, injected=1)
    place.wait("high", Accepted="Accepted", selected=2, injected=2)
    place.admin.delete(f"{place.path}/pods/mail-2")
    status = place.wait("edge", 30, Accepted="Conflicted", Programmed="NotAccepted", selected=0)
    assert "selects 2 pods and wins none: policy high (priority 7) takes 2" in said(status, "Accepted")


# -- counts ------------------------------------------------------------------------------------------------------------


def test_pods_that_end_have_ended_or_opted_out_are_not_counted(place: Place) -> None:
    place.make("another", selector={"matchLabels": {"app": "another"}})
    place.make()
    place.wait(Programmed="Programmed")
    place.wait("another", Programmed="Programmed")
    pods = f"{place.path}/pods"
    for name, labels in {
        "out": {"postern.dev/inject": "disabled"},
        "ending": {},
        "done": {},
        "bare-done": {"postern.dev/inject": "disabled"},
        "live": {},
    }.items():
        manifest = pod(name, place.name, labels={"app": "edge", **labels})
        if name == "ending":
            manifest["metadata"]["finalizers"] = ["test.invalid/stays"]
        create_pod(place.admin, manifest)
    place.wait(selected=3, injected=3)
    place.admin.delete(f"{pods}/ending")
    for name in ("done", "bare-done"):
        place.admin.merge(f"{pods}/{name}/status", {"status": {"phase": "Succeeded"}})
    # From now on only its end keeps it out: it has no sidecar, and asks for none to be missed.
    place.admin.merge(f"{pods}/bare-done", {"metadata": {"labels": {"postern.dev/inject": None}}})
    place.change(logging={"format": "JSON"})
    status = place.wait(selected=1, injected=1, Programmed="Programmed")
    assert said(status, "Programmed") == "the configuration is ready; 1 sidecar has not started yet"
    place.admin.merge(f"{pods}/out", {"metadata": {"labels": {"postern.dev/inject": None}}})
    status = place.wait(selected=2, injected=1, Programmed="NotInjected")
    assert "1 pod without a sidecar: out." in said(status, "Programmed")
    place.admin.merge(f"{pods}/ending", {"metadata": {"finalizers": None}})


def test_a_sidecar_that_goes_back_is_noticed_though_nothing_was_changed(place: Place) -> None:
    """It is asked again and again."""
    place.make()
    place.wait(Programmed="Programmed")
    with place.pod("mail-0") as one:
        place.wait(Programmed="Programmed", current=1)
        one.answer = config_of({"hash": "0" * 64, "version": "0.1.0", "error": None})
        status = place.wait(Programmed="Pending", injected=1, current=0)
        assert "mail-0" in said(status, "Programmed")
        one.answer = None
        place.wait(Programmed="Programmed", current=1)


# -- a policy that is made again, a namespace that is not enabled any more ---------------------------------------------


@pytest.mark.parametrize("spec", [{}, {"logging": {"format": "JSON"}}], ids=["the same", "another"])
def test_a_policy_that_is_made_again_finds_its_pods(place: Place, spec: Object) -> None:
    place.make()
    place.wait(Programmed="Programmed")
    with place.pod("mail-0") as one:
        status = place.wait(Programmed="Programmed", current=1, SidecarsOutdated="UpToDate")
        before = place.admin.get(place.config_map())
        place.admin.delete(place.policy())
        made = place.make(**spec)
        if spec:
            place.wait(Programmed="Pending", selected=1, injected=1, current=0)
            one.sync()
        again = place.wait(Programmed="Programmed", selected=1, injected=1, current=1, SidecarsOutdated="UpToDate")
        assert (again["configHash"] == status["configHash"]) is not bool(spec)
        after = place.admin.get(place.config_map())
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        assert after["metadata"]["annotations"] == {"postern.dev/policy-uid": made["metadata"]["uid"]}
        assert json.loads(after["data"]["injection.json"])["uid"] == made["metadata"]["uid"]
        if not spec:
            assert after["data"]["policy.json"] == before["data"]["policy.json"]
            assert one.poke == f"{status['configHash']}.0"  # nobody had to be told


def test_a_namespace_whose_label_goes_while_pods_run(place: Place, release: Release) -> None:
    """Nothing is written there but the status; what runs is asked on, and nothing is fought for."""
    place.make()
    place.wait(Programmed="Programmed")
    with place.pod("mail-0") as one:
        place.wait(Programmed="Programmed", current=1)
        before, poke = place.admin.get(place.config_map()), one.poke
        label = {"metadata": {"labels": {"postern.dev/inject": None}}}
        place.admin.merge(f"/api/v1/namespaces/{place.name}", label)
        place.wait(Programmed="NamespaceNotEnabled", selected=1, injected=1, current=1)
        place.change(logging={"format": "JSON"})
        place.wait(Programmed="NamespaceNotEnabled", current=0)
        place.admin.delete(place.policy())
        mark = place.control_plane.mark()
        settled(release)
        trouble = [
            line for line in release.log().splitlines() if f"{place.name}/edge: " in line and " INFO " not in line
        ]
        assert trouble == []
        assert [write for write in place.written(mark) if write.resource != "mailproxypolicies"] == []
        assert (place.admin.get(place.config_map()), one.poke) == (before, poke)
    one.delete()
    place.admin.merge(f"/api/v1/namespaces/{place.name}", {"metadata": {"labels": ENABLED}})
    place.admin.wait_gone(place.config_map(), 30)


# -- ConfigMaps and what is the users' ---------------------------------------------------------------------------------


def test_a_config_map_that_has_lost_our_label_is_somebody_elses(place: Place) -> None:
    place.make()
    place.wait(Programmed="Programmed")
    stripped = place.admin.merge(
        place.config_map(), {"metadata": {"labels": None}, "data": {"policy.json": "{}"}}
    ) or place.admin.get(place.config_map())
    status = place.wait(Programmed="ConfigMapConflict")
    assert "ConfigMap postern-edge is not Postern's" in said(status, "Programmed")
    assert place.admin.get(place.config_map()) == stripped


def test_an_orphan_that_nobody_uses_goes(place: Place) -> None:
    """Its policy went while no operator looked."""
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "postern-gone", "labels": {"app.kubernetes.io/managed-by": "postern"}},
    }
    place.admin.create(f"{place.path}/configmaps", body)
    place.admin.wait_gone(place.config_map("gone"), 30)


def test_what_belongs_to_users_gets_no_annotation_and_no_finalizer(place: Place) -> None:
    made = place.make()
    place.wait(Programmed="Programmed")
    with place.pod("mail-0") as one:
        place.wait(Programmed="Programmed", current=1)
        place.change(logging={"format": "JSON"})
        target = place.wait(Programmed="Pending", current=0)["configHash"]
        place.admin.wait(
            one.path, lambda found: found["metadata"]["annotations"]["postern.dev/config-hash"] == f"{target}.1"
        )
        one.sync()
        place.wait(Programmed="Programmed", current=1)
        assert one.poke.startswith(target)
        found = place.admin.get(one.path)["metadata"]
        assert found.keys() - one.created["metadata"].keys() == set()
        assert found["annotations"].keys() == one.created["metadata"]["annotations"].keys()
    policy = place.admin.get(place.policy())["metadata"]
    assert {"annotations", "finalizers", "ownerReferences", "labels"} & policy.keys() == set()
    assert policy["uid"] == made["metadata"]["uid"]
    namespace = place.admin.get(f"/api/v1/namespaces/{place.name}")["metadata"]
    assert {"annotations", "finalizers"} & namespace.keys() == set()
    managers = {(one["manager"], one["operation"], one.get("subresource", "")) for one in policy["managedFields"]}
    assert {one for one in managers if one[0] == "postern-operator"} == {("postern-operator", "Apply", "status")}
