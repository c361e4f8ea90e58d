"""evictUninjected on a real API server: which pods are evicted, and which never are."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from cluster.pods import pod as manifest
from cluster.pods import run_pod
from cluster.release import Release
from cluster.waiting import eventually
from postern_operator import evict, eviction, paths, records, render
from postern_operator.cache import Cache, Resource
from postern_operator.evict import Evictions
from postern_operator.kube import Unreachable
from postern_operator.model import INJECT, Key
from webhook_world import Object, Replica, configured, pods, policy, replica, until, webhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from cluster.control import ControlPlane
    from postern_operator.model import Candidate

pytestmark = pytest.mark.real

READY_SINCE = 1767225600.0  # what `run_pod` writes
BUDGETS = "/apis/policy/v1/namespaces/{}/poddisruptionbudgets"


@dataclass
class World:
    """A replica whose policy is delivered, and that the API server asks."""

    control_plane: ControlPlane
    one: Replica
    namespace: str
    clock: float = 0.0
    now: float = READY_SINCE + eviction.READY_FOR
    evictions: Evictions = field(init=False)

    def __post_init__(self) -> None:
        one = self.one
        self.evictions = Evictions(
            one.client,
            one.cache,
            one.settings,
            observer=one.metrics,
            notice=one.events.evicted,
            clock=lambda: self.clock,
            now=lambda: self.now,
            chance=lambda: 0.5,
        )

    @property
    def policy(self) -> Object:
        return policy(self.namespace)

    def make(self, name: str, owner: Object | None = None, *, ready: bool = True, **more: Any) -> None:
        """A pod without a sidecar: its policy comes after it."""
        body = manifest(name, self.namespace, labels={"app": "mail", **more.pop("labels", {})}, **more)
        if owner is not None:
            body["metadata"]["ownerReferences"] = [owner]
        self.one.cache.remove(Resource.POLICIES, Key(self.namespace, "edge"), "uid-edge")
        made = self.control_plane.admin.create(pods(self.namespace), body)
        assert "initContainers" not in made["spec"]
        self.one.policy(self.policy)
        run_pod(self.control_plane.admin, self.namespace, name, ready=ready)

    async def made(self, name: str, owner: Object | None = None, **more: Any) -> None:
        await asyncio.to_thread(self.make, name, owner, **more)

    async def after_a_round(self) -> set[str]:
        await self.evictions.step()
        found = await asyncio.to_thread(self.control_plane.admin.list, pods(self.namespace))
        return {each["metadata"]["name"] for each in found}


def owner(kind: str = "ReplicaSet", name: str = "mail-6c9f8d") -> Object:
    version = "batch/v1" if kind == "Job" else "apps/v1"
    return {"apiVersion": version, "kind": kind, "name": name, "uid": f"uid-{name}", "controller": True}


@pytest.fixture
def release(control_plane: ControlPlane) -> Iterator[str]:
    with control_plane.namespace() as name:
        yield name


@pytest.fixture
async def world(control_plane: ControlPlane, release: str) -> AsyncIterator[World]:
    with control_plane.namespace({INJECT: "enabled"}) as mail:
        async with replica(control_plane, release) as one:
            world = World(control_plane, one, mail)
            record = records.policy_record(world.policy, one.settings.sidecar)
            rendered = render.render(record)
            assert rendered is not None
            body = {**render.config_map(record, rendered), "apiVersion": "v1", "kind": "ConfigMap"}
            control_plane.admin.create(paths.config_maps(mail), body)
            one.cache.put_namespace(mail, "uid", "1")
            one.policy(world.policy)
            with configured(control_plane.admin, release, webhook(one.server.port, [mail])):
                await until(lambda: one.certificates.ready)
                probe = manifest("probe", mail, labels={"app": "mail"})
                await until(
                    lambda: control_plane.admin.create(pods(mail), probe, dry_run=True)["spec"].get("initContainers")
                )
                yield world


async def test_one_pod_an_owner_in_ten_rounds(world: World) -> None:
    await world.made("a-0", owner(name="a"))
    await world.made("a-1", owner(name="a"))
    await world.made("b-0", owner("StatefulSet", name="b"))
    assert len(await world.after_a_round()) == 1, "one of a's, and b's"
    world.clock += evict.EVERY * evict.ROUNDS - 1
    assert len(await world.after_a_round()) == 1
    world.clock += 1
    assert await world.after_a_round() == set()


NEVER: list[dict[str, Any]] = [
    {"owner": None},
    {"owner": {**owner(), "controller": False}},
    {"owner": owner("Job")},
    {"ready": False},
    {"labels": {INJECT: "disabled"}},
    {"labels": {"app": "web"}},
    {"hostNetwork": True},
    {"volumes": [{"name": "postern-run", "emptyDir": {}}]},
]


@pytest.mark.parametrize("pod", NEVER, ids=str)
async def test_it_stays(world: World, pod: dict[str, Any]) -> None:
    await world.made("mail-0", **{"owner": owner(), **pod})
    await world.made("other-0", owner(name="other"))
    assert await world.after_a_round() == {"mail-0"}


async def test_an_injected_pod_stays(world: World) -> None:
    body = manifest("mail-0", world.namespace, labels={"app": "mail"})
    body["metadata"]["ownerReferences"] = [owner()]
    await asyncio.to_thread(world.control_plane.admin.create, pods(world.namespace), body)
    await asyncio.to_thread(run_pod, world.control_plane.admin, world.namespace, "mail-0")
    assert await world.after_a_round() == {"mail-0"}


async def test_not_before_five_minutes(world: World) -> None:
    await world.made("mail-0", owner())
    world.now -= 1
    assert await world.after_a_round() == {"mail-0"}


@pytest.mark.parametrize("lack", ["ConfigMap", "namespace", "webhook", "policy"])
async def test_not_while_a_new_pod_would_be_no_better(world: World, release: str, lack: str) -> None:
    await world.made("mail-0", owner())
    admin = world.control_plane.admin
    place = f"{paths.config_maps(world.namespace)}/postern-edge"
    match lack:
        case "ConfigMap":
            await asyncio.to_thread(admin.merge, place, {"metadata": {"labels": None}})
        case "namespace":
            world.one.cache.remove(Resource.NAMESPACES, Key("", world.namespace), "uid")
        case "webhook":
            world.one.admission.answer = lambda _body: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        case _:
            without = {**world.policy, "spec": {**world.policy["spec"], "selector": None}}
            world.one.policy({**without, "metadata": {**world.policy["metadata"], "resourceVersion": "2"}})
    assert await world.after_a_round() == {"mail-0"}


async def test_never_again_for_an_owner_whose_pod_came_without_a_sidecar(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.made("mail-0", owner())
    assert await world.after_a_round() == set()
    await world.made("mail-1", owner())
    for _ in range(3):
        world.clock += evict.EVERY * evict.ROUNDS
        assert await world.after_a_round() == {"mail-1"}
    assert caplog.text.count("came without a sidecar again") == 1


async def test_a_budget_is_kept(world: World) -> None:
    await world.made("mail-0", owner())
    admin, path = world.control_plane.admin, BUDGETS.format(world.namespace)
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "mail"}}}
    body = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": spec}
    await asyncio.to_thread(admin.create, path, body)
    assert await world.after_a_round() == {"mail-0"}
    counts = {"currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2, "disruptionsAllowed": 1}
    await asyncio.to_thread(admin.status, f"{path}/b", {**counts, "observedGeneration": 1})
    assert await world.after_a_round() == set()


async def test_it_is_told_and_counted(world: World) -> None:
    await world.made("mail-0", owner())
    await world.made("stays", owner(name="stays"), labels={"budget": "none"})
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"budget": "none"}}}
    body = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": spec}
    await asyncio.to_thread(world.control_plane.admin.create, BUDGETS.format(world.namespace), body)
    assert await world.after_a_round() == {"stays"}
    path = f"/apis/events.k8s.io/v1/namespaces/{world.namespace}/events"
    await until(lambda: world.control_plane.admin.list(path))
    (event,) = await asyncio.to_thread(world.control_plane.admin.list, path)
    assert (event["reason"], event["type"], event["action"]) == ("PodEvicted", "Normal", "Evict")
    assert (event["regarding"]["kind"], event["regarding"]["name"]) == ("ReplicaSet", "mail-6c9f8d")
    assert +world.one.metrics.evictions == {"evicted": 1, "refused": 1}
    world.one.admission._cache = Cache()  # the webhook knows of no policy
    assert await world.after_a_round() == {"stays"}
    assert +world.one.metrics.evictions == {"evicted": 1, "refused": 1, "uninjected": 1}


async def test_pods_that_stay_do_not_keep_others_waiting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evict, "LOOKS", 2)
    for number in range(3):
        await world.made(f"a-{number}", owner(name="a"), ready=False)
    await world.made("b-0", owner(name="b"))
    assert await world.after_a_round() == {"a-0", "a-1", "a-2", "b-0"}
    assert await world.after_a_round() == {"a-0", "a-1", "a-2"}


async def test_without_an_answer_the_round_ends(world: World) -> None:
    """Whether the pod is evicted nobody knows, and none is asked about next."""
    asked: list[str] = []

    async def away(pod: Candidate) -> None:
        asked.append(pod.key.name)
        raise Unreachable("no answer")

    for number in range(2):
        await world.made(f"p-{number}", owner(name=f"o-{number}"))
    world.evictions._evict = away  # type: ignore[method-assign]
    with pytest.raises(Unreachable):
        await world.evictions.step()
    assert asked == ["p-0"]


async def test_rounds_and_memory_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evict, "AT_ONCE", 2)
    world.evictions._memory = eviction.Memory(600.0, owners=2)
    for number in range(4):
        await world.made(f"p-{number}", owner(name=f"o-{number}"))
    assert len(await world.after_a_round()) == 2
    assert await world.after_a_round() == set()
    assert len(world.evictions._memory) == 2


async def test_what_goes_wrong_does_not_end_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[str] = []

    def broken() -> float:
        asked.append("chance")
        raise asyncio.CancelledError

    world.evictions._every = 0.0
    world.evictions._chance = broken
    world.one.cache.policies = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(asyncio.CancelledError):
        await world.evictions.run()
    assert (asked, "tried again" in caplog.text) == (["chance"], True)


@pytest.mark.parametrize("evicts", [True, False])
def test_the_installed_operator_does_it_with_the_charts_rights(control_plane: ControlPlane, evicts: bool) -> None:
    values = {"operator": {"replicas": 1}, "evictUninjected": evicts}
    with (
        control_plane.namespace({INJECT: "enabled"}) as mail,
        Release(control_plane, values=values, env={"POSTERN_RESYNC": "0.2"}) as release,
    ):
        admin = control_plane.admin
        body = manifest("mail-0", mail, labels={"app": "mail"})
        body["metadata"]["ownerReferences"] = [owner()]
        admin.create(pods(mail), body)
        run_pod(admin, mail, "mail-0")
        spec = policy(mail)["spec"]
        written = {"apiVersion": "postern.dev/v1alpha1", "kind": "MailProxyPolicy", "metadata": {"name": "edge"}}
        admin.create(paths.policies(mail), {**written, "spec": spec})
        if evicts:
            eventually(lambda: not admin.exists(f"{pods(mail)}/mail-0"), 30)
            eventually(lambda: "is evicted" in release.log())
        else:
            rounds = 3 * evict.ROUNDS
            eventually(lambda: reconciles(release) > rounds, 30)
            assert admin.exists(f"{pods(mail)}/mail-0")
        assert "internal error" not in release.log()


def reconciles(release: Release) -> float:
    lines = release.operators[0].get("/metrics").splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("postern_operator_reconciles_total"))
