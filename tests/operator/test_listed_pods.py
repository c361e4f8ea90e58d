"""When a policy's pods are listed again: soon after injected pods came or went, and no more often than that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import pytest_asyncio

from cluster.pods import pod
from postern_operator import gather, kube
from postern_operator.cache import Cache, Resource
from postern_operator.gather import SOONEST, Gathering
from postern_operator.model import Key
from postern_operator.records import pod_record, policy_record
from postern_operator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cluster.control import ControlPlane
    from postern_operator.model import PolicyRecord

pytestmark = pytest.mark.real
EVERY = 60.0


class Counted:
    """The client, and how many LISTs it was asked for."""

    def __init__(self, client: kube.Client) -> None:
        self._client, self.lists = client, 0

    def pages(self, path: str, **query: Any) -> AsyncIterator[list[kube.Object]]:
        self.lists += 1
        return self._client.pages(path, **query)


class Looking:
    """One policy's reconciliations, as far as its pods go, at a time that the test says."""

    def __init__(self, plane: ControlPlane, client: kube.Client, namespace: str) -> None:
        self.admin, self.namespace, self.now, self.version = plane.admin, namespace, 100.0, 0
        self.counted, self.cache = Counted(client), Cache()
        known = cast("kube.Kube", self.counted)
        self.gathering = Gathering(
            known, self.cache, Settings(), every=EVERY, clock=lambda: self.now, chance=lambda: 0.5
        )
        self.record = _policy(namespace)
        self.cache.put_namespace(namespace, "n", "1")

    def create(self, name: str) -> None:
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        self.admin.create(path, pod(name, self.namespace, labels={"app": "mail"}))

    def told(self, name: str, **more: Any) -> None:
        """By the watch of injected pods."""
        self.version += 1
        labels = {"app": "mail", "postern.dev/policy": "edge"}
        metadata = {"name": name, "namespace": self.namespace, "uid": name, "labels": labels, **more}
        self.cache.put_pod(pod_record({"metadata": metadata}), str(self.version))

    async def look(self, after: float = 0.0) -> float:
        self.now += after
        if self.gathering.list_is_due(self.record):
            await self.gathering.list_pods(self.record)
        return self.gathering.list_due(self.record)

    def known(self) -> set[str]:
        injected = self.cache.pods_of(self.record.key)
        return {each.key.name for each in self.gathering.candidates(self.record, injected)}


@pytest_asyncio.fixture
async def looking(control_plane: ControlPlane) -> AsyncIterator[Looking]:
    with control_plane.namespace() as namespace:
        async with kube.connected(str(control_plane.kubeconfig)) as client:
            yield Looking(control_plane, client, namespace)


def _policy(namespace: str) -> PolicyRecord:
    spec = {"selector": {"matchLabels": {"app": "mail"}}}
    return policy_record(
        {"metadata": {"name": "edge", "namespace": namespace, "uid": "u"}, "spec": spec}, Settings().sidecar
    )


async def test_pods_without_a_sidecar_that_were_replaced_are_forgotten_soon(looking: Looking) -> None:
    looking.create("bare")
    assert await looking.look() == pytest.approx(EVERY)
    assert looking.known() == {"bare"}
    looking.admin.delete(f"/api/v1/namespaces/{looking.namespace}/pods/bare")
    looking.told("new")
    assert await looking.look(0.5) == pytest.approx(SOONEST - 0.5)  # then it looks again
    assert looking.known() == {"bare", "new"}
    assert await looking.look(SOONEST - 0.5) == pytest.approx(EVERY)
    assert looking.known() == {"new"}
    assert looking.counted.lists == 2


async def test_a_pod_that_goes_and_a_namespace_that_is_enabled(looking: Looking) -> None:
    looking.told("old")
    await looking.look()
    looking.cache.remove(Resource.PODS, Key(looking.namespace, "old"), "old")
    await looking.look(SOONEST)
    assert looking.counted.lists == 2
    looking.cache.remove(Resource.NAMESPACES, Key("", looking.namespace), "n")
    await looking.look(SOONEST)
    looking.cache.put_namespace(looking.namespace, "n", "2")
    await looking.look(SOONEST)
    assert looking.counted.lists == 4


async def test_where_none_came_or_went_they_are_listed_once_in_a_while(looking: Looking) -> None:
    looking.told("old")
    await looking.look()
    for number in range(50):
        looking.told("old", annotations={"other": str(number)})
        await looking.look(1.0)
    assert looking.counted.lists == 1
    await looking.look(EVERY - 50)
    assert looking.counted.lists == 2


async def test_a_storm_of_pods_lists_no_more_often(looking: Looking) -> None:
    await looking.look()
    for number in range(100):
        looking.told(f"mail-{number}")
        await looking.look(0.125)
    assert looking.counted.lists == 1 + int(100 * 0.125 / SOONEST)


async def test_many_pods_are_listed_less_often(looking: Looking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "PODS_A_SECOND", 0.5)
    for name in ("a", "b", "c"):
        looking.create(name)
    await looking.look()
    looking.told("new")
    assert await looking.look(SOONEST) == pytest.approx(6.0 - SOONEST)
    assert looking.counted.lists == 1
    await looking.look(6.0 - SOONEST)
    assert looking.counted.lists == 2
