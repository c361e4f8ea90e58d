"""Electors on a real API server: one leader at any moment, and soon another when it goes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from cluster.waiting import eventually
from postern_operator import paths
from postern_operator.kube import Client, connected
from postern_operator.lease import Elector, StuckWork, Times
from postern_operator.model import Key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from cluster.control import ControlPlane
    from postern_operator.kube import Object

pytestmark = pytest.mark.real

SHORT = Times(duration=1.0, deadline=0.6, retry=0.05)
CALM = Times(duration=3.0, deadline=2.0, retry=0.05)
PATIENCE = 15.0


class Hanging(Times):
    @property
    def call(self) -> float:
        return 1.3


class Stage:
    """Where the works of all electors meet; two at once are seen by themselves."""

    def __init__(self) -> None:
        self.on: list[str] = []
        self.most = 0
        self.came: list[str] = []
        self.changed = asyncio.Condition()

    async def work(self, name: str, until: asyncio.Event | None = None) -> None:
        self.on.append(name)
        self.came.append(name)
        self.most = max(self.most, len(self.on))
        await self._tell()
        try:
            await (until or asyncio.Event()).wait()
        finally:
            self.on.remove(name)
            await self._tell()

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, *names: str, timeout: float = PATIENCE) -> None:
        async with asyncio.timeout(timeout), self.changed:
            await self.changed.wait_for(lambda: self.on == list(names))


@pytest.fixture
def key(control_plane: ControlPlane) -> Iterator[Key]:
    with control_plane.namespace() as namespace:
        yield Key(namespace, "postern-operator")


@pytest_asyncio.fixture
async def kube(control_plane: ControlPlane) -> AsyncIterator[Client]:
    async with connected(str(control_plane.kubeconfig)) as client:
        yield client


@contextlib.asynccontextmanager
async def leading(elector: Elector, stage: Stage, name: str) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(elector.lead(lambda: stage.work(name)))
    try:
        yield task
    finally:
        await ended(task)


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def seen_by(elector: Elector, holder: str) -> None:
    await asyncio.to_thread(eventually, lambda: elector.holder == holder, PATIENCE)


def written(control_plane: ControlPlane, key: Key, **spec: object) -> Object:
    """By hand."""
    return control_plane.admin.merge(paths.lease(key), {"spec": spec})


async def until_lease(control_plane: ControlPlane, key: Key, holder: str) -> Object:
    return await asyncio.to_thread(
        control_plane.admin.wait, paths.lease(key), lambda lease: lease["spec"].get("holderIdentity") == holder
    )


async def until_renewed(control_plane: ControlPlane, key: Key, renewed: str) -> None:
    await asyncio.to_thread(
        control_plane.admin.wait, paths.lease(key), lambda lease: lease["spec"]["renewTime"] > renewed
    )


async def test_a_leader_that_ends_hands_over_in_two_seconds(
    control_plane: ControlPlane, kube: Client, key: Key
) -> None:
    stage = Stage()
    first, second = (Elector(kube, key, name) for name in ("first", "second"))
    async with leading(first, stage, "first") as task:
        await stage.until("first")
        assert first.is_leader
        async with leading(second, stage, "second"):
            await seen_by(second, "first")
            assert not second.is_leader
            begun = time.monotonic()
            await ended(task)
            assert not first.is_leader
            await stage.until("second")
            assert time.monotonic() - begun < 2.0
            assert second.is_leader
    assert stage.most == 1
    lease = control_plane.admin.get(paths.lease(key))
    assert lease["spec"]["leaseTransitions"] == 1
    assert not lease["spec"].get("holderIdentity")


class Unheard:
    """A client whose first write of a Lease arrives at once, and its answer only when it is let go."""

    def __init__(self, kube: Client) -> None:
        self._kube = kube
        self.written, self.heard = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kube, name)

    async def create(self, path: str, body: Object, **more: Any) -> Object:
        made = await self._kube.create(path, body, **more)
        self.written.set()
        await self.heard.wait()
        return made


async def test_who_is_ended_while_it_takes_the_lease_leaves_it_to_others(
    control_plane: ControlPlane, kube: Client, key: Key
) -> None:
    unheard = Unheard(kube)
    stage = Stage()
    task = asyncio.create_task(Elector(unheard, key, "first").lead(lambda: stage.work("first")))
    async with asyncio.timeout(PATIENCE):
        await unheard.written.wait()
        task.cancel()
        asyncio.get_running_loop().call_soon(unheard.heard.set)
        await asyncio.wait({task})
    assert task.cancelled()
    assert stage.came == []
    assert not control_plane.admin.get(paths.lease(key))["spec"].get("holderIdentity")


CRASHING = """
import asyncio, sys
from postern_operator.kube import connected
from postern_operator.lease import Elector, Times
from postern_operator.model import Key

async def main(kubeconfig, namespace, duration):
    async with connected(kubeconfig) as kube:
        times = Times(float(duration), float(duration) / 2, 0.1)
        await Elector(kube, Key(namespace, "postern-operator"), "crashing", times=times).lead(asyncio.Event().wait)

asyncio.run(main(*sys.argv[1:]))
"""


def crashed_leader(control_plane: ControlPlane, key: Key, duration: int) -> None:
    """Another process leads, and is killed."""
    arguments = (str(control_plane.kubeconfig), key.namespace, str(duration))
    path = os.pathsep.join(entry for entry in sys.path if entry)
    child = subprocess.Popen([sys.executable, "-c", CRASHING, *arguments], env={**os.environ, "PYTHONPATH": path})
    try:
        control_plane.admin.wait(paths.lease(key), lambda lease: lease["spec"].get("holderIdentity") == "crashing")
    finally:
        child.kill()
        child.wait()


async def test_a_crashed_leaders_lease_is_taken_when_its_time_is_over(
    control_plane: ControlPlane, kube: Client, key: Key
) -> None:
    await asyncio.to_thread(crashed_leader, control_plane, key, 2)
    stage = Stage()
    begun = time.monotonic()
    async with leading(Elector(kube, key, "next", times=Times(2.0, 1.0, 0.1)), stage, "next"):
        await stage.until("next")
        assert 2.0 <= time.monotonic() - begun < 4.0


async def test_a_restart_under_the_same_identity_leads_at_once(
    control_plane: ControlPlane, kube: Client, key: Key
) -> None:
    await asyncio.to_thread(crashed_leader, control_plane, key, 15)
    stage = Stage()
    async with leading(Elector(kube, key, "crashing"), stage, "crashing"):
        await stage.until("crashing", timeout=3.0)
    assert control_plane.admin.get(paths.lease(key))["spec"]["leaseTransitions"] == 0


async def test_many_electors_never_lead_together(control_plane: ControlPlane, key: Key) -> None:
    """Each leads five times, gives up, and comes back."""
    stage = Stage()

    async def run(name: str) -> None:
        async with connected(str(control_plane.kubeconfig)) as kube:
            elector = Elector(kube, key, name, times=Times(4.0, 2.0, 0.01))
            for _ in range(5):
                done = asyncio.Event()

                async def work(done: asyncio.Event = done, elector: Elector = elector) -> None:
                    asyncio.get_running_loop().call_later(0.05, done.set)
                    assert elector.is_leader
                    await stage.work(name, done)
                    assert elector.is_leader

                await elector.lead(work)
                assert not elector.is_leader

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for name in ("a", "b", "c"):
            group.create_task(run(name))
    assert stage.most == 1
    assert sorted(stage.came) == sorted("abc" * 5)
    changes = sum(one != other for one, other in zip(stage.came, stage.came[1:], strict=False))
    assert control_plane.admin.get(paths.lease(key))["spec"]["leaseTransitions"] >= changes


@pytest.mark.parametrize("how", ["killed", "hanging"])
async def test_without_the_api_server_the_work_ends_in_time(
    control_plane: ControlPlane, kube: Client, key: Key, how: str
) -> None:
    stage = Stage()
    # Neither a call nor a pause, however long, goes beyond the deadline.
    times = Times(3.0, 1.5, 1.2) if how == "killed" else Hanging(3.0, 1.5, 0.1)
    elector = Elector(kube, key, "only", times=times)
    async with leading(elector, stage, "only"):
        await stage.until("only")
        begun = time.monotonic()
        if how == "killed":
            control_plane.kill()
        else:
            os.kill(control_plane.pids[0], signal.SIGSTOP)
        try:
            await stage.until()
            # Nobody may take it earlier than `duration` after the last renewal that succeeded, before `begun`.
            assert time.monotonic() - begun < times.deadline + 0.5 < times.duration
            assert not elector.is_leader
        finally:
            if how == "killed":
                await asyncio.to_thread(control_plane.restart)
            else:
                os.kill(control_plane.pids[0], signal.SIGCONT)
        await stage.until("only")
    assert stage.came == ["only", "only"]


async def test_a_lease_that_is_deleted_under_its_leader_is_made_anew(
    control_plane: ControlPlane, kube: Client, key: Key
) -> None:
    stage = Stage()
    first, second = (Elector(kube, key, name, times=CALM) for name in ("first", "second"))
    async with leading(first, stage, "first"):
        await stage.until("first")
        async with leading(second, stage, "second"):
            await seen_by(second, "first")
            control_plane.admin.delete(paths.lease(key))
            await until_lease(control_plane, key, "first")
            assert stage.on == ["first"]
    assert stage.came[0] == "first"
    assert stage.most == 1


async def test_who_sees_the_lease_in_other_hands_stops_at_once_and_waits_for_its_turn(
    control_plane: ControlPlane, kube: Client, key: Key
) -> None:
    stage = Stage()
    elector = Elector(kube, key, "ours", times=Times(duration=1.5, deadline=1.2, retry=0.05))
    async with leading(elector, stage, "ours"):
        await stage.until("ours")
        begun = time.monotonic()
        written(control_plane, key, holderIdentity="stranger", leaseDurationSeconds=2_000_000_000)
        await stage.until()
        assert time.monotonic() - begun < 0.9
        assert not elector.is_leader
        await stage.until("ours")
        assert 6.0 <= time.monotonic() - begun < 10.0  # four times our own duration, not 63 years
    assert control_plane.admin.get(paths.lease(key))["spec"]["leaseTransitions"] == 1


async def test_a_label_written_by_hand_does_not_end_the_lead(
    control_plane: ControlPlane, kube: Client, key: Key
) -> None:
    stage = Stage()
    async with leading(Elector(kube, key, "ours", times=CALM), stage, "ours"):
        await stage.until("ours")
        for number in range(5):
            touched = control_plane.admin.merge(paths.lease(key), {"metadata": {"labels": {"n": str(number)}}})
            await until_renewed(control_plane, key, touched["spec"]["renewTime"])
    assert stage.came == ["ours"]
    lease = control_plane.admin.get(paths.lease(key))
    assert lease["metadata"]["labels"] == {"n": "4"}
    assert not lease["spec"].get("holderIdentity")  # released, whoever wrote last


async def test_a_failure_of_the_work_is_raised_and_the_lease_is_free(
    control_plane: ControlPlane, kube: Client, key: Key
) -> None:
    async def broken() -> None:
        raise LookupError("broken")

    elector = Elector(kube, key, "ours")
    with pytest.raises(LookupError, match="broken"):
        await elector.lead(broken)
    assert not elector.is_leader
    assert not control_plane.admin.get(paths.lease(key))["spec"].get("holderIdentity")


async def test_work_that_does_not_end_is_not_written_over(control_plane: ControlPlane, kube: Client, key: Key) -> None:
    release = asyncio.Event()
    ignored = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ignored.set()
            await release.wait()

    elector = Elector(kube, key, "ours", times=SHORT)
    task = asyncio.create_task(elector.lead(stubborn))
    await until_lease(control_plane, key, "ours")
    written(control_plane, key, holderIdentity="stranger")
    with pytest.raises(StuckWork):
        await task
    assert ignored.is_set()
    assert not elector.is_leader
    assert control_plane.admin.get(paths.lease(key))["spec"]["holderIdentity"] == "stranger"
    release.set()


async def test_a_renewal_that_is_overdue_ends_the_right_to_write_by_itself(
    control_plane: ControlPlane, kube: Client, key: Key
) -> None:
    """A process that was frozen: nothing of it has run yet, and a write that was under way asks."""
    stage, ahead = Stage(), [0.0]
    elector = Elector(kube, key, "ours", clock=lambda: time.monotonic() + ahead[0])
    async with leading(elector, stage, "ours"):
        await stage.until("ours")
        assert elector.is_leader
        ahead[0] = 11.0
        assert not elector.is_leader
