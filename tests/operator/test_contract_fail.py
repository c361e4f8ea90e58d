"""failurePolicy Fail, with the controllers of a real cluster: refused while nobody answers, and there soon after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cluster.process import free_port
from postern_operator import admission
from webhook_world import Object, configured, first_container, pods, policy, replica, until, webhook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.control import ControlPlane

pytestmark = pytest.mark.real

RECOVERED = 60.0
REFUSALS = 11  # each comes twice as late as the one before, from 5 ms on: ten seconds


@pytest.fixture
def release(control_plane: ControlPlane) -> Iterator[str]:
    with control_plane.namespace() as name:
        yield name


async def test_pods_of_a_replica_set_come_within_a_minute_of_recovery(
    control_plane: ControlPlane, release: str
) -> None:
    """A ReplicaSet's back-off doubles, so after an outage of less than a minute it is less than a minute too."""
    port = free_port()
    with control_plane.namespace({"postern.dev/inject": "enabled"}) as mail:
        async with replica(control_plane, release) as one:
            one.policy(policy(mail))
            with configured(control_plane.admin, release, webhook(port, [mail], failure_policy="Fail")):
                await until(lambda: one.certificates.ready)
                with control_plane.controller_manager("replicaset-controller"):
                    control_plane.admin.create(f"/apis/apps/v1/namespaces/{mail}/replicasets", replica_set())
                    await until(lambda: refusals(control_plane, mail) >= REFUSALS, 60)
                    assert control_plane.admin.list(pods(mail)) == []
                    server = admission.Server(one.admission, one.context, address="127.0.0.1", port=port)
                    await server.start()
                    try:
                        await until(lambda: len(control_plane.admin.list(pods(mail))) == 3, RECOVERED)
                    finally:
                        await server.close()
        made = control_plane.admin.list(pods(mail))
        assert [first_container(each) for each in made] == ["postern"] * 3


def replica_set() -> Object:
    labels = {"app": "mail"}
    spec = {"containers": [{"name": "mail", "image": "registry.test/mail:1"}]}
    template = {"metadata": {"labels": labels}, "spec": spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": "mail"},
        "spec": {"replicas": 3, "selector": {"matchLabels": labels}, "template": template},
    }


def refusals(control_plane: ControlPlane, namespace: str) -> int:
    events = control_plane.admin.list(f"/api/v1/namespaces/{namespace}/events")
    failed = [each for each in events if each["reason"] == "FailedCreate"]
    assert all("inject.postern.dev" in each["message"] for each in failed)
    return sum(each.get("count") or 1 for each in failed)
