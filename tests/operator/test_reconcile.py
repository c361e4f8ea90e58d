"""A policy's life on a real API server: the operator as its chart installs it, and real sidecars in played pods."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from cluster.process import free_port
from cluster.release import Release
from cluster.waiting import eventually
from played_pods import PlayedPod, config_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.control import ControlPlane

pytestmark = pytest.mark.real

Object = dict[str, Any]
RESYNC = 1.0
OPERATOR = ":postern-operator"


@pytest.fixture(scope="module")
def admin_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def release(control_plane: ControlPlane, admin_port: int) -> Iterator[Release]:
    values = {"operator": {"replicas": 1}, "sidecar": {"adminPort": admin_port}}
    with Release(control_plane, values=values, env={"POSTERN_RESYNC": str(RESYNC)}) as running:
        yield running
        assert running.operators[0].running, running.log()
        log = running.log()
        assert "internal error" not in log, log
        assert "Traceback" not in log, log


class Namespace:
    """One test's, enabled, with the shortest way to what is looked at."""

    def __init__(self, control_plane: ControlPlane, release: Release, name: str, port: int, folder: Path) -> None:
        self.control_plane, self.release, self.name, self.port, self.folder = control_plane, release, name, port, folder
        self.admin = control_plane.admin

    def policies(self, name: str) -> str:
        return f"/apis/postern.dev/v1alpha1/namespaces/{self.name}/mailproxypolicies/{name}"

    def config_map_path(self, name: str) -> str:
        return f"/api/v1/namespaces/{self.name}/configmaps/postern-{name}"

    def config_map(self, name: str = "edge") -> Object:
        return self.admin.get(self.config_map_path(name))

    def make(self, name: str = "edge", **spec: Any) -> Object:
        body = {
            "apiVersion": "postern.dev/v1alpha1",
            "kind": "MailProxyPolicy",
            "metadata": {"name": name, "namespace": self.name},
            "spec": {"selector": {"matchLabels": {"app": "mail"}}, "inbound": [listener()], **spec},
        }
        return self.admin.create(self.policies(name).rpartition("/")[0], body)

    def change(self, name: str = "edge", **spec: Any) -> None:
        self.admin.merge(self.policies(name), {"spec": spec})

    def wait(self, name: str = "edge", timeout: float = 20.0, **wanted: Any) -> Object:
        """The status, once conditions have these reasons (`Programmed="Pending"`) and pods these counts."""

        def there(policy: Object) -> bool:
            status = policy.get("status", {})
            reasons = {one["type"]: one["reason"] for one in status.get("conditions", [])}
            known = {**status.get("pods", {}), **reasons}
            observed = {one.get("observedGeneration") for one in status.get("conditions", [])}
            return bool(
                known
                and all(known.get(key) == value for key, value in wanted.items())
                and policy["metadata"]["generation"] in observed
            )

        status: Object = self.admin.wait(self.policies(name), there, timeout)["status"]
        return status

    def pod(self, name: str, **spec: Any) -> PlayedPod:
        """Through the webhook, which knows the policy at once or asks."""
        return PlayedPod(self.admin, self.name, name, {"app": "mail"}, self.port, self.folder, **spec)

    def settled(self, passes: int = 6) -> None:
        """The operator has looked at its policies so often again."""
        before = reconciles(self.release)
        eventually(lambda: reconciles(self.release) >= before + passes, 30)

    def writes(self, since: int) -> list[tuple[str, str, str]]:
        return [
            (write.verb, write.resource, write.name)
            for write in self.control_plane.audit(since, user=OPERATOR)
            if write.namespace == self.name and write.resource != "events"
        ]


@pytest.fixture
def namespace(control_plane: ControlPlane, release: Release, admin_port: int, tmp_path: Path) -> Iterator[Namespace]:
    with control_plane.namespace({"postern.dev/inject": "enabled"}) as name:
        yield Namespace(control_plane, release, name, admin_port, tmp_path)


def listener(port: int = 2525, **more: Any) -> Object:
    return {
        "name": "smtp",
        "port": port,
        "backend": {"port": 10025, "handover": "ProxyV2"},
        "proxyProtocol": {"requiredFrom": ["10.0.0.0/8"]},
        **more,
    }


def reconciles(release: Release) -> float:
    lines = release.operators[0].get("/metrics").splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("postern_operator_reconciles_total"))


def condition(status: Object, kind: str) -> Object:
    found: Object = next(one for one in status["conditions"] if one["type"] == kind)
    return found


def test_a_policy_becomes_a_config_map(namespace: Namespace) -> None:
    made = namespace.make()
    status = namespace.wait(Accepted="Accepted", Programmed="Programmed", selected=0)
    found = namespace.config_map()
    policy = found["data"]["policy.json"]
    assert status["configHash"] == hashlib.sha256(policy.encode()).hexdigest()
    assert json.loads(policy)["metadata"] == {"name": "edge", "namespace": namespace.name}
    assert "selector" not in json.loads(policy)["spec"]
    injection = json.loads(found["data"]["injection.json"])
    assert (injection["hash"], injection["uid"]) == (status["configHash"], made["metadata"]["uid"])
    metadata = found["metadata"]
    assert metadata["labels"] == {"app.kubernetes.io/managed-by": "postern"}
    assert metadata["annotations"] == {"postern.dev/policy-uid": made["metadata"]["uid"]}
    assert "ownerReferences" not in metadata


def test_a_change_reaches_every_sidecar_and_the_status_tells_no_less_and_no_more(namespace: Namespace) -> None:
    namespace.make()
    namespace.wait(Programmed="Programmed")
    with namespace.pod("mail-0") as first, namespace.pod("mail-1") as second:
        before = namespace.wait(Programmed="Programmed", selected=2, injected=2, current=2)["configHash"]
        assert first.policy == second.policy == "edge"
        namespace.change(logging={"format": "JSON"})
        status = namespace.wait(Programmed="Pending", selected=2, injected=2, current=0)
        target = status["configHash"]
        assert target != before
        assert condition(status, "Programmed")["status"] == "False"
        for pod in (first, second):
            namespace.admin.wait(pod.path, lambda one: poke_of(one).startswith(f"{target}."))
        first.sync()
        status = namespace.wait(Programmed="Pending", current=1)
        assert "mail-1" in condition(status, "Programmed")["message"]
        assert "mail-0" not in condition(status, "Programmed")["message"]
        second.sync()
        status = namespace.wait(Programmed="Programmed", selected=2, injected=2, current=2)
        assert condition(status, "Programmed")["status"] == "True"


def test_a_sidecar_that_stays_behind_is_poked_again_and_not_for_ever(namespace: Namespace) -> None:
    namespace.make()
    namespace.wait(Programmed="Programmed")
    with namespace.pod("mail-0") as pod:
        namespace.wait(Programmed="Programmed", current=1)
        namespace.change(logging={"format": "JSON"})
        target = namespace.wait(Programmed="Pending")["configHash"]
        namespace.admin.wait(pod.path, lambda one: poke_of(one) == f"{target}.5", 40)
        mark = namespace.control_plane.mark()
        namespace.settled(20)
        assert namespace.writes(mark) == []
        pod.sync()
        namespace.wait(Programmed="Programmed", current=1)


def test_a_rule_that_does_not_compile_is_refused_and_the_config_map_stays(namespace: Namespace) -> None:
    namespace.make()
    accepted = namespace.wait(Accepted="Accepted", Programmed="Programmed")
    before = namespace.config_map()
    rule = {"name": "broken", "when": "no_such_name == 1", "action": "Refuse"}
    namespace.change(inbound=[listener(rules=[rule])])
    status = namespace.wait(Accepted="Invalid", Programmed="NotAccepted")
    assert "no_such_name" in condition(status, "Accepted")["message"]
    assert status["configHash"] == accepted["configHash"]
    assert namespace.config_map() == before
    with namespace.pod("mail-0") as pod:  # new pods get what was accepted last
        assert pod.policy == "edge"
        namespace.wait(Accepted="Invalid", selected=1, injected=1, current=1)
    namespace.change(inbound=[listener()])
    namespace.wait(Accepted="Accepted")


def test_what_a_sidecar_refuses_is_told_in_its_own_words(namespace: Namespace) -> None:
    namespace.make()
    namespace.wait(Programmed="Programmed")
    with namespace.pod("mail-0") as pod:
        before = namespace.wait(Programmed="Programmed", current=1)["configHash"]
        namespace.change(logging={"format": "JSON"})
        target = namespace.wait(Programmed="Pending")["configHash"]
        refusal = {"hash": target, "message": "spec.logging: not known here", "at": "2026-11-22T09:25:06Z"}
        pod.answer = config_of({"hash": before, "version": "0.0.1", "source": "file", "error": refusal})
        status = namespace.wait(Programmed="SidecarRejected", current=0)
        said = condition(status, "Programmed")["message"]
        assert "spec.logging: not known here" in said
        assert "mail-0" in said


def test_a_pod_that_lacks_what_the_configuration_needs_is_named(namespace: Namespace) -> None:
    namespace.make()
    namespace.wait(Programmed="Programmed")
    with namespace.pod("mail-0") as pod:
        namespace.wait(Programmed="Programmed", current=1)
        namespace.change(inbound=[listener(port=25)])
        pod.sync()
        status = namespace.wait(Programmed="RestartRequired")
        assert "mail-0" in condition(status, "Programmed")["message"]
        assert "port 25" in condition(status, "Programmed")["message"]


def test_a_sidecar_that_nobody_reaches(namespace: Namespace) -> None:
    namespace.make()
    namespace.wait(Programmed="Programmed")
    with namespace.pod("mail-0") as pod:
        namespace.wait(Programmed="Programmed", current=1)
        pod.hang_up()
        namespace.change(logging={"format": "JSON"})
        status = namespace.wait(Programmed="Unreachable", timeout=60)
        assert "mail-0" in condition(status, "Programmed")["message"]
        assert "NetworkPolicy" in condition(status, "Programmed")["message"]


def test_a_policy_that_is_deleted_leaves_its_config_map_to_its_pods(namespace: Namespace) -> None:
    namespace.make()
    namespace.wait(Programmed="Programmed")
    with namespace.pod("mail-0") as pod:
        namespace.wait(Programmed="Programmed", current=1)
        before = namespace.config_map()
        namespace.admin.delete(namespace.policies("edge"))
        namespace.settled()
        assert namespace.config_map()["metadata"]["uid"] == before["metadata"]["uid"]
        made = namespace.make(logging={"format": "JSON"})
        namespace.wait(Accepted="Accepted", Programmed="Pending", injected=1)
        found = namespace.config_map()["metadata"]
        assert found["uid"] == before["metadata"]["uid"]
        assert found["annotations"]["postern.dev/policy-uid"] == made["metadata"]["uid"]
        namespace.admin.delete(namespace.policies("edge"))
        pod.delete()
    namespace.admin.wait_gone(namespace.config_map_path("edge"), 30)


def test_a_config_map_of_somebody_else_is_left_alone(namespace: Namespace) -> None:
    path = namespace.config_map_path("edge")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "postern-edge"}, "data": {"mine": "1"}}
    foreign = namespace.admin.create(path.rpartition("/")[0], body)
    namespace.make("pulse", selector=None)  # so that there is something to look at all the time
    namespace.make()
    status = namespace.wait(Accepted="Accepted", Programmed="ConfigMapConflict")
    assert "postern-edge" in condition(status, "Programmed")["message"]
    namespace.settled()
    assert namespace.admin.get(path) == foreign
    namespace.admin.delete(namespace.policies("edge"))
    namespace.settled()
    assert namespace.admin.get(path) == foreign
    namespace.make()
    namespace.wait(Programmed="ConfigMapConflict")
    namespace.admin.delete(path)
    namespace.wait(Programmed="Programmed")
    assert "policy.json" in namespace.config_map()["data"]


def test_what_was_done_to_our_config_map_is_undone(namespace: Namespace) -> None:
    namespace.make()
    namespace.wait(Programmed="Programmed")
    path, before = namespace.config_map_path("edge"), namespace.config_map()
    namespace.admin.merge(path, {"data": {"policy.json": "{}"}})
    namespace.admin.wait(path, lambda found: found["data"] == before["data"])
    namespace.admin.delete(path)
    namespace.admin.wait(path, lambda found: found["data"] == before["data"])


def test_of_two_policies_one_wins_a_pod_and_both_say_so(namespace: Namespace) -> None:
    namespace.make("first")
    namespace.make("second", priority=5)
    namespace.wait("first", Accepted="Accepted")
    namespace.wait("second", Programmed="Programmed")
    with namespace.pod("mail-0") as pod:
        assert pod.policy == "second"
        namespace.wait("second", selected=1, injected=1, current=1)
        status = namespace.wait("first", Accepted="Conflicted", Programmed="NotAccepted", selected=0)
        assert "second" in condition(status, "Accepted")["message"]
        namespace.change("first", priority=9)
        namespace.wait("second", Accepted="Conflicted", selected=0)
        # The pod keeps the sidecar that it was made with.
        status = namespace.wait("first", Accepted="Accepted", Programmed="NotInjected", selected=1, injected=0)
        assert "mail-0" in condition(status, "Programmed")["message"]


def test_a_namespace_that_is_not_enabled_gets_nothing(control_plane: ControlPlane, namespace: Namespace) -> None:
    with control_plane.namespace() as name:
        other = Namespace(control_plane, namespace.release, name, namespace.port, namespace.folder)
        other.make()
        status = other.wait(Accepted="Accepted", Programmed="NamespaceNotEnabled")
        assert f"kubectl label namespace {name}" in condition(status, "Programmed")["message"]
        assert not other.admin.exists(other.config_map_path("edge"))
        path, label = f"/api/v1/namespaces/{name}", "postern.dev/inject"
        control_plane.admin.merge(path, {"metadata": {"labels": {label: "enabled"}}})
        other.wait(Programmed="Programmed")
        assert other.config_map()["metadata"]["name"] == "postern-edge"
        control_plane.admin.merge(path, {"metadata": {"labels": {label: None}}})
        other.wait(Programmed="NamespaceNotEnabled")


def test_a_pod_without_a_sidecar_is_named(namespace: Namespace) -> None:
    labels = {"app": "mail", "postern.dev/inject": "disabled"}
    namespace.make()
    namespace.wait(Programmed="Programmed")
    path = f"/api/v1/namespaces/{namespace.name}/pods"
    spec = {"containers": [{"name": "app", "image": "registry.invalid/mail:1"}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare", "labels": labels}, "spec": spec}
    namespace.admin.create(path, pod)
    namespace.admin.merge(f"{path}/bare", {"metadata": {"labels": {"postern.dev/inject": None}}})
    status = namespace.wait(Programmed="NotInjected", selected=1, injected=0)
    assert "bare" in condition(status, "Programmed")["message"]


def test_nothing_is_written_where_nothing_changes(namespace: Namespace) -> None:
    namespace.make("first")
    namespace.make("second", selector={"matchLabels": {"app": "none"}})
    namespace.wait("second", Programmed="Programmed")
    with namespace.pod("mail-0"):
        namespace.wait("first", Programmed="Programmed", current=1)
        namespace.settled()
        mark = namespace.control_plane.mark()
        namespace.settled(20)
        assert namespace.writes(mark) == []


def test_conditions_of_others_stay(namespace: Namespace) -> None:
    namespace.make()
    namespace.wait(Programmed="Programmed")
    path = namespace.policies("edge")
    theirs = {
        "type": "example.org/Audited",
        "status": "True",
        "reason": "Looked",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    fields = {"apiVersion": "postern.dev/v1alpha1", "kind": "MailProxyPolicy", "status": {"conditions": [theirs]}}
    namespace.admin.apply(f"{path}/status", {**fields, "metadata": {"name": "edge"}}, "auditor")
    rule = {"name": "broken", "when": "no_such_name", "action": "Refuse"}
    namespace.change(inbound=[listener(rules=[rule])])
    status = namespace.wait(Accepted="Invalid")
    assert condition(status, "example.org/Audited") == theirs


def test_transitions_are_told_once_as_events(namespace: Namespace) -> None:
    namespace.make()
    namespace.wait(Programmed="Programmed")
    path = f"/apis/events.k8s.io/v1/namespaces/{namespace.name}/events"

    def reasons() -> list[str]:
        return sorted(event["reason"] for event in namespace.admin.list(path))

    eventually(lambda: reasons() == ["Accepted", "Programmed"])
    namespace.settled(20)
    assert reasons() == ["Accepted", "Programmed"]


def poke_of(pod: Object) -> str:
    value: str = pod["metadata"].get("annotations", {}).get("postern.dev/config-hash", "")
    return value
