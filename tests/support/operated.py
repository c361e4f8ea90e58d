"""A namespace with policies and played pods, looked at as a user does, and what the operator wrote in it.

place = Place(control_plane, namespace, admin_port, folder)
place.make(); place.wait(Programmed="Programmed"); mark = control_plane.mark(); ...; place.writes(mark)
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from cluster.faults import Vigil
from played_pods import PlayedPod

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.audit import Write
    from cluster.control import ControlPlane
    from cluster.release import Operator, Release

Object = dict[str, Any]
OPERATOR = ":postern-operator"
ENABLED = {"postern.dev/inject": "enabled"}
DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/mailproxypolicies.postern.dev"


class Place:
    """One enabled namespace."""

    def __init__(self, control_plane: ControlPlane, name: str, admin_port: int, folder: Path) -> None:
        self.control_plane, self.admin = control_plane, control_plane.admin
        self.name, self.admin_port, self.folder = name, admin_port, folder
        self.path = f"/api/v1/namespaces/{name}"

    def policy(self, name: str = "edge") -> str:
        return f"/apis/postern.dev/v1alpha1/namespaces/{self.name}/mailproxypolicies/{name}"

    def config_map(self, name: str = "edge") -> str:
        return f"{self.path}/configmaps/postern-{name}"

    def make(self, name: str = "edge", **spec: Any) -> Object:
        """It selects app=NAME."""
        body = {
            "apiVersion": "postern.dev/v1alpha1",
            "kind": "MailProxyPolicy",
            "metadata": {"name": name, "namespace": self.name},
            "spec": {"selector": {"matchLabels": {"app": name}}, "inbound": [listener()], **spec},
        }
        return self.admin.create(self.policy(name).rpartition("/")[0], body)

    def change(self, name: str = "edge", **spec: Any) -> None:
        self.admin.merge(self.policy(name), {"spec": spec})

    def pod(self, name: str, policy: str = "edge", **spec: Any) -> PlayedPod:
        return PlayedPod(self.admin, self.name, name, {"app": policy}, self.admin_port, self.folder, **spec)

    def wait(self, name: str = "edge", timeout: float = 30.0, **wanted: Any) -> Object:
        """The status, once it is of the policy as it is now, conditions have these reasons and pods these counts."""

        def there(policy: Object) -> bool:
            status = policy.get("status", {})
            conditions = status.get("conditions", [])
            known = {**status.get("pods", {}), **{one["type"]: one["reason"] for one in conditions}}
            observed = {one.get("observedGeneration") for one in conditions}
            return all(known.get(key) == value for key, value in wanted.items()) and observed == {
                policy["metadata"]["generation"]
            }

        status: Object = self.admin.wait(self.policy(name), there, timeout)["status"]
        return status

    def final(self, *names: str) -> Object:
        """All that the operator keeps here, without what is another at each time."""
        found: Object = {}
        for name in names:
            policy = self.admin.get(self.policy(name))
            status = copy.deepcopy(policy["status"])
            for condition in status["conditions"]:
                del condition["lastTransitionTime"]
                condition["observedGeneration"] = condition["observedGeneration"] == policy["metadata"]["generation"]
            config_map = self.admin.get(self.config_map(name))
            assert config_map["metadata"]["annotations"]["postern.dev/policy-uid"] == policy["metadata"]["uid"]
            data = config_map["data"]["policy.json"]
            assert status["configHash"] == hashlib.sha256(data.encode()).hexdigest()
            injection = config_map["data"]["injection.json"].replace(policy["metadata"]["uid"], "UID")
            labels = config_map["metadata"].get("labels")
            found[name] = {"status": status, "policy": data, "injection": injection, "labels": labels}
        listed = self.admin.list(f"{self.path}/configmaps")
        found["configMaps"] = sorted(one["metadata"]["name"] for one in listed)
        return found

    def written(self, since: int) -> list[Write]:
        """By operators, in this namespace, Events left out."""
        return [
            write
            for write in self.control_plane.audit(since, user=OPERATOR)
            if write.namespace == self.name and write.resource != "events"
        ]

    def counts(self, since: int) -> Counter[str]:
        """Writes that were kept, by resource."""
        return Counter(write.resource for write in self.written(since) if write.kept)


def listener(port: int = 2525, **more: Any) -> Object:
    return {
        "name": "smtp",
        "port": port,
        "backend": {"port": 10025, "handover": "ProxyV2"},
        "proxyProtocol": {"requiredFrom": ["10.0.0.0/8"]},
        **more,
    }


# uvloop's, when TLS connections end that were aborted while the process was frozen.
_OF_UVLOOP = re.compile(r"Fatal error on SSL protocol\n(?:  .*\n)*")


def assert_sound(log: str) -> None:
    """Nothing in the operator broke."""
    told = _OF_UVLOOP.sub("", log)
    assert "internal error" not in told, log
    assert "Traceback" not in told, log


@contextlib.contextmanager
def unharmed(release: Release) -> Iterator[Operator]:
    """The release's one operator: it is the same process afterwards, ready all the time, and nothing in it broke."""
    (operator,) = release.operators
    pid = operator.program.pid
    with Vigil(operator) as vigil:
        yield operator
    assert vigil.asked, "nobody asked"
    assert vigil.missed == []
    assert (operator.running, operator.program.pid) == (True, pid)
    assert_sound(operator.log)


def metric(page: str, name: str, **labels: str) -> float:
    """The sum of the samples of that name with these labels."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if line.partition(" ")[0].partition("{")[0] == name and all(pair in line for pair in wanted)
    )
