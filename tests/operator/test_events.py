"""Kubernetes Events on a real API server: whom they are about, and how few of them there are."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from postern_operator import events as events_module
from postern_operator import kube, records
from postern_operator.events import TEXTS, Events
from postern_operator.model import Owner
from postern_operator.reasons import Accepted, Eviction, Outdated, Programmed, Skip
from postern_operator.review import Facts, Outcome
from postern_operator.settings import Sidecar
from webhook_world import policy, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from cluster.control import ControlPlane

pytestmark = pytest.mark.real
OWNER = Owner("apps/v1", "ReplicaSet", "postfix-6c9f8d", "0a1b2c3d")


class World:
    """The poster, with a clock of the test's; `run` it or not."""

    def __init__(self, control_plane: ControlPlane, client: kube.Client, namespace: str) -> None:
        self.now, self.counted = 1000.0, list[str]()
        self.namespace, self.enabled, self.known = namespace, {namespace}, [record(namespace)]
        self.events = Events(
            client,
            enabled=self.enabled.__contains__,
            policies=lambda asked: [each for each in self.known if each.key.namespace == asked],
            instance="postern-operator-0",
            count=self.counted.append,
            clock=lambda: self.now,
        )
        self._control_plane = control_plane

    def skipped(
        self, reason: Skip | Outcome = Skip.HOST_NETWORK, *, owner: Owner | None = OWNER, **changes: Any
    ) -> None:
        facts: dict[str, Any] = {
            "namespace": self.namespace,
            "policy": "edge",
            "dry_run": False,
            "message": "<forged>",
        } | changes
        self.events.skipped(Facts(name="", generate_name="x-", owner=owner, outcome=reason, **facts))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.events.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def posted(self) -> list[dict[str, Any]]:
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        return self._control_plane.admin.list(path)


def record(namespace: str, name: str = "edge") -> Any:
    return records.policy_record(policy(namespace, name), Sidecar())


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    with control_plane.namespace() as name:
        yield name


@pytest.fixture
async def world(control_plane: ControlPlane, namespace: str) -> AsyncIterator[World]:
    async with kube.connected(str(control_plane.kubeconfig)) as client:
        yield World(control_plane, client, namespace)


async def test_event_is_about_the_owner_in_fixed_words(world: World) -> None:
    async with world.running():
        world.skipped()
        await until(world.posted)
    (event,) = world.posted()
    assert event["regarding"] == {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "namespace": world.namespace,
        "name": OWNER.name,
        "uid": OWNER.uid,
    }
    assert (event["reason"], event["type"], event["note"]) == ("HostNetwork", "Warning", TEXTS[Skip.HOST_NETWORK])
    assert event["reportingController"] == "postern.dev/operator"
    assert event["reportingInstance"] == "postern-operator-0"
    assert event["action"] == "Inject"
    assert world.counted == ["posted"]


@pytest.mark.parametrize(
    "owner",
    [
        None,
        Owner("v1", "Node", "node1", "u"),
        Owner("apps/v1", "ReplicaSet", "../../secrets", "u"),
        Owner("apps/v1", "ReplicaSet", "a" * 300, "u"),
        Owner("apps/v1", "ReplicaSet", "ok", ""),
        Owner("apps/v1\n", "ReplicaSet", "ok", "u"),
        Owner("apps/v1", "<script>", "ok", "u"),
    ],
)
async def test_without_a_sound_owner_it_is_about_the_policy(world: World, owner: Owner | None) -> None:
    async with world.running():
        world.skipped(owner=owner)
        await until(world.posted)
    (event,) = world.posted()
    assert (event["regarding"]["kind"], event["regarding"]["name"]) == ("MailProxyPolicy", "edge")


async def test_transitions(world: World) -> None:
    async with world.running():
        world.events.transition(world.known[0], Accepted.INVALID)
        world.events.transition(world.known[0], Programmed.PROGRAMMED)
        await until(lambda: len(world.posted()) == 2)
    found = {(each["reason"], each["type"], each["action"]) for each in world.posted()}
    assert found == {("Invalid", "Warning", "Reconcile"), ("Programmed", "Normal", "Reconcile")}


@pytest.mark.parametrize(
    "change",
    [
        {"dry_run": True},
        {"namespace": "elsewhere"},
        {"policy": "unknown"},
        {"policy": "", "reason": Skip.NO_POLICY, "owner": None},
        {"reason": Outcome.INJECTED},
    ],
)
async def test_nothing_is_posted(world: World, change: dict[str, Any]) -> None:
    """The sentinel comes after: what was to be posted before it would be there."""
    async with world.running():
        world.skipped(**change)
        world.events.transition(record("elsewhere"), Accepted.INVALID)
        world.events.transition(world.known[0], Accepted.CONFLICTED)
        await until(lambda: world.posted() and world.counted)
    assert [each["reason"] for each in world.posted()] == ["Conflicted"]


async def test_internal_error_whose_policy_is_unknown_is_about_one_of_the_namespace(world: World) -> None:
    async with world.running():
        world.skipped(Skip.INTERNAL_ERROR, policy="", owner=None)
        await until(world.posted)
    assert world.posted()[0]["regarding"]["name"] == "edge"


async def test_once_an_owner_and_reason_in_ten_minutes(world: World) -> None:
    async with world.running():
        for _ in range(5):
            world.skipped()
        world.skipped(Skip.NAME_CONFLICT)
        world.skipped(owner=Owner("apps/v1", "ReplicaSet", "another", "u2"))
        await until(lambda: len(world.posted()) == 3)
        world.now += events_module.AGAIN - 1
        world.skipped()
        world.now += 1
        world.skipped()
        await until(lambda: len(world.posted()) == 4)
    assert world.counted == ["posted"] * 4


async def test_forged_owners_cause_few_writes_and_no_growth(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "TABLE", 30)
    for number in range(1000):
        world.skipped(owner=Owner("apps/v1", "ReplicaSet", f"forged-{number}", "u"))
        world.skipped(namespace=f"forged-{number}")
    assert world.counted == ["dropped"] * (1000 - events_module.OWNERS)
    async with world.running():
        await until(lambda: len(world.posted()) == events_module.OWNERS)
    for hour in range(5):
        world.now += events_module.AGAIN
        for number in range(events_module.OWNERS):
            world.skipped(owner=Owner("apps/v1", "ReplicaSet", f"forged-{hour}-{number}", "u"))
    assert len(world.events._told) == 30
    assert len(world.events._budgets) == 1


async def test_full_queue_drops_and_counts(world: World) -> None:
    """Nobody empties it: posting returns all the same."""
    world.known = [record(world.namespace, f"policy-{number}") for number in range(events_module.QUEUE + 5)]
    for each in world.known:
        world.events.transition(each, Accepted.INVALID)
    assert world.counted == ["dropped"] * 5


async def test_event_that_cannot_be_written_is_gone(
    world: World, control_plane: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    missing = record("no-such-namespace")
    world.enabled.add("no-such-namespace")
    async with world.running():
        world.events.transition(missing, Accepted.INVALID)
        world.skipped()
        await until(world.posted)
    assert world.counted == ["failed", "posted"]


def test_every_reason_has_a_text_that_an_event_can_hold() -> None:
    reasons = {*Skip, *Accepted, *Programmed, *Outdated, *Eviction}
    assert set(TEXTS) == reasons
    assert all(0 < len(text) <= 1024 for text in TEXTS.values())
