"""Two replicas: one writes, both answer the webhook, and the other takes over, however the first one ends."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from cluster.faults import Vigil
from cluster.pods import create_pod, pod
from cluster.process import free_port
from cluster.release import Release
from cluster.waiting import eventually
from operated import ENABLED, OPERATOR, Place, assert_sound, metric

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from cluster.admin import Object
    from cluster.audit import Write
    from cluster.control import ControlPlane
    from cluster.release import Operator

pytestmark = pytest.mark.real

DURATION = 15.0  # of the Lease


@pytest.fixture(scope="module")
def admin_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def release(control_plane: ControlPlane, admin_port: int) -> Iterator[Release]:
    values = {"operator": {"replicas": 2}, "sidecar": {"adminPort": admin_port}}
    with Release(control_plane, values=values, env={"POSTERN_RESYNC": "1"}) as running:
        yield running


@pytest.fixture
def replicas(release: Release) -> Iterator[tuple[Operator, Operator]]:
    """The leader and the other one; each test leaves as many as it found."""
    while len(release.operators) < 2:
        release.add()
    leader = eventually(lambda: next((one for one in release.operators if leads(one)), None), 40)
    assert leader is not None
    (other,) = (one for one in release.operators if one is not leader)
    yield leader, other
    for operator in release.operators:
        assert_sound(operator.log)


@pytest.fixture
def place(control_plane: ControlPlane, admin_port: int, tmp_path: Path) -> Iterator[Place]:
    with control_plane.namespace(ENABLED) as name:
        place = Place(control_plane, name, admin_port, tmp_path)
        place.make()
        place.wait(Programmed="Programmed", timeout=40)
        yield place


def leads(operator: Operator) -> bool:
    return metric(operator.get("/metrics"), "postern_operator_leader") == 1.0


def lease_of(release: Release) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{release.namespace}/leases/postern-operator"


def holder(lease: Object) -> str:
    name: str = lease["spec"].get("holderIdentity", "")
    return name


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def writes(control_plane: ControlPlane, mark: int) -> list[Write]:
    """Of the leader's kind: no Events, and no Lease but a taken one."""
    return [one for one in control_plane.audit(mark, user=OPERATOR) if one.resource not in ("events", "leases")]


class Arrivals:
    """Pods are made, one after the other, all the time; each is injected, or is in `bare`."""

    def __init__(self, place: Place) -> None:
        self.place, self.made, self.bare = place, 0, list[str]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arrivals", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        for number in itertools.count():
            if self._over.wait(0.02):
                return
            name = f"arrival-{number}"
            created = create_pod(self.place.admin, pod(name, self.place.name, labels={"app": "edge"}), dry_run=True)
            self.made += 1
            if not any(one["name"] == "postern" for one in created["spec"].get("initContainers", [])):
                self.bare.append(name)


class Hand:
    """Changes the policy all the time, so that whoever leads has something to write."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hand", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        for form in itertools.cycle(("JSON", "Exim")):
            if self._over.wait(0.1):
                return
            self.place.change(logging={"format": form})


def test_a_leader_that_is_told_to_end_hands_over_at_once(
    control_plane: ControlPlane, release: Release, replicas: tuple[Operator, Operator], place: Place
) -> None:
    leader, other = replicas
    mark = control_plane.mark()
    transitions = control_plane.admin.get(lease_of(release))["spec"]["leaseTransitions"]
    with Vigil(other) as vigil, Arrivals(place) as arrivals, Hand(place):
        taken: list[float] = []

        def follow() -> None:
            for event in control_plane.admin.watch(lease_of(release), 30):
                if holder(event["object"]) == other.pod:
                    taken.append(time.monotonic())
                    return

        eventually(lambda: any(one.pod == leader.pod for one in writes(control_plane, mark)))
        follower = threading.Thread(target=follow)
        follower.start()
        asked = time.monotonic()
        assert release.terminate(release.operators.index(leader)) == 0
        follower.join()
        assert taken[0] - asked < 2.0
        eventually(lambda: {one.pod for one in writes(control_plane, mark)} >= {other.pod})
    assert vigil.missed == []
    assert arrivals.made > 20
    assert arrivals.bare == []
    lease = control_plane.admin.get(lease_of(release))["spec"]
    assert lease["leaseTransitions"] == transitions + 1
    assert_one_after_the_other(control_plane, mark, leader, other)


def test_a_leader_that_dies_is_followed_when_its_time_is_over(
    control_plane: ControlPlane, release: Release, replicas: tuple[Operator, Operator], place: Place
) -> None:
    leader, other = replicas
    mark = control_plane.mark()
    with Vigil(other) as vigil, Arrivals(place) as arrivals:
        release.kill(release.operators.index(leader))
        renewed = seconds(control_plane.admin.get(lease_of(release))["spec"]["renewTime"])
        place.change(logging={"format": "JSON"})
        lease = control_plane.admin.wait(lease_of(release), lambda one: holder(one) == other.pod, DURATION + 10)
        assert DURATION - 2.0 < seconds(lease["spec"]["acquireTime"]) - renewed < DURATION + 4.0
        place.wait(Programmed="Programmed")
    assert vigil.missed == []
    assert arrivals.made > 100
    # The connections that it had open may have taken one each with them: failurePolicy is Ignore.
    assert len(arrivals.bare) <= 1
    assert place.counts(mark) == {"configmaps": 1, "mailproxypolicies/status": 1}


@pytest.mark.timeout(180)
def test_a_leader_that_was_frozen_writes_nothing_after_its_time(
    control_plane: ControlPlane, release: Release, replicas: tuple[Operator, Operator], place: Place
) -> None:
    leader, other = replicas
    mark = control_plane.mark()
    with Hand(place):
        eventually(lambda: any(one.pod == leader.pod for one in writes(control_plane, mark)))
        leader.program.signal(signal.SIGSTOP)
        with contextlib.ExitStack() as awake:
            awake.callback(leader.program.signal, signal.SIGCONT)
            control_plane.admin.wait(lease_of(release), lambda one: holder(one) == other.pod, DURATION + 10)
            eventually(lambda: any(one.pod == other.pod for one in writes(control_plane, mark)))
        eventually(lambda: leader.ask("/healthz")[0] == 200)
        eventually(lambda: "is lost" in leader.log, 10)
        seen = len(writes(control_plane, mark))
        eventually(lambda: len(writes(control_plane, mark)) >= seen + 10)
    assert not leads(leader)
    assert leads(other)
    assert_one_after_the_other(control_plane, mark, leader, other)
    assert leader.running


def test_a_rolling_update_leaves_no_pod_without_its_sidecar(
    control_plane: ControlPlane, release: Release, replicas: tuple[Operator, Operator], place: Place
) -> None:
    before = {one.pod for one in replicas}
    mark = control_plane.mark()
    with Arrivals(place) as arrivals:
        release.roll()
    assert not before & {one.pod for one in release.operators}
    assert arrivals.made > 50
    assert arrivals.bare == []
    assert writes(control_plane, mark) == []  # nothing has changed but who looks at it


def assert_one_after_the_other(control_plane: ControlPlane, mark: int, first: Operator, second: Operator) -> None:
    """All that the first one wrote it had asked for before the second one asked for its first write."""
    ours = writes(control_plane, mark)
    theirs = [one.at for one in ours if one.pod == first.pod]
    later = [one.at for one in ours if one.pod == second.pod]
    assert theirs, "the first leader wrote nothing, so nothing is shown"
    assert later, "the second leader wrote nothing, so nothing is shown"
    late = [one for one in ours if one.pod == first.pod and one.at >= min(later)]
    assert late == []
