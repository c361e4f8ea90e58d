"""The API server away, slow, throttling, or silent: the operator lives, converges, and writes what it would have."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from cluster.faults import FaultyRelease, Way
from cluster.process import free_port
from cluster.waiting import eventually
from operated import ENABLED, Place, metric, unharmed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.admin import Object
    from cluster.control import ControlPlane
    from cluster.faults import Request
    from cluster.release import Operator
    from played_pods import PlayedPod

pytestmark = pytest.mark.real

MAX_POKES = 5
RETRY_AFTER = 3
WATCHED = {"mailproxypolicies", "pods", "namespaces"}


@pytest.fixture(scope="module")
def admin_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def way(control_plane: ControlPlane) -> Iterator[Way]:
    with Way(control_plane) as way:
        yield way


@pytest.fixture(scope="module")
def release(control_plane: ControlPlane, way: Way, admin_port: int) -> Iterator[FaultyRelease]:
    values = {"operator": {"replicas": 1}, "sidecar": {"adminPort": admin_port}}
    with FaultyRelease(control_plane, way, values=values, env={"POSTERN_RESYNC": "1"}) as running:
        yield running


@pytest.fixture
def operator(release: FaultyRelease) -> Iterator[Operator]:
    """It is the same process afterwards, and nothing in it broke."""
    with unharmed(release) as operator:
        yield operator


@pytest.fixture
def place(control_plane: ControlPlane, admin_port: int, tmp_path: Path) -> Iterator[Place]:
    with control_plane.namespace(ENABLED) as name:
        yield Place(control_plane, name, admin_port, tmp_path)


def settled(operator: Operator, passes: int = 6) -> None:
    """The operator has looked at its policies so often again."""
    before = metric(operator.get("/metrics"), "postern_operator_reconciles_total", result="done")
    eventually(
        lambda: metric(operator.get("/metrics"), "postern_operator_reconciles_total", result="done") >= before + passes,
        30,
    )


def idle(operator: Operator, place: Place) -> None:
    """Nothing changes, so nothing is written."""
    settled(operator, 2)
    mark = place.control_plane.mark()
    settled(operator, 8)
    assert place.written(mark) == []


def rolled_out(place: Place, *pods: PlayedPod) -> None:
    """The kubelets bring the file as soon as they are poked."""
    for pod in pods:
        target = place.wait(Accepted="Accepted")["configHash"]
        place.admin.wait(pod.path, lambda one, target=target: poke_of(one).startswith(f"{target}."), 40)  # type: ignore[misc]
        pod.sync()
    place.wait(Programmed="Programmed", current=len(pods))


def poke_of(pod: Object) -> str:
    value: str = pod["metadata"].get("annotations", {}).get("postern.dev/config-hash", "")
    return value


@pytest.mark.parametrize("for_long", [False, True], ids=["short", "longer than the Lease's deadline"])
def test_the_api_server_dies_in_the_middle_of_a_roll_out(
    control_plane: ControlPlane, operator: Operator, place: Place, for_long: bool
) -> None:
    place.make()
    place.wait(Programmed="Programmed")
    with place.pod("mail-0") as first, place.pod("mail-1") as second:
        place.wait(Programmed="Programmed", current=2)
        mark, before = control_plane.mark(), first.poke
        place.change(logging={"format": "JSON"})
        control_plane.admin.wait(first.path, lambda one: poke_of(one) != before)
        control_plane.kill()
        if for_long:
            eventually(lambda: metric(operator.get("/metrics"), "postern_operator_leader") == 0.0, 30)
        control_plane.restart()
        rolled_out(place, first, second)
        counts = place.counts(mark)
        assert counts["configmaps"] == 1
        assert 2 <= counts["pods"] <= 2 * MAX_POKES
        assert counts["mailproxypolicies/status"] <= 4, counts
        idle(operator, place)


def test_what_was_deleted_while_nobody_watched_is_noticed(
    control_plane: ControlPlane, way: Way, operator: Operator, place: Place, admin_port: int, tmp_path: Path
) -> None:
    with control_plane.namespace(ENABLED) as name:
        other = Place(control_plane, name, admin_port, tmp_path)
        other.make()
        place.make("gone")
        place.make()
        place.wait("gone", Programmed="Programmed")
        place.wait(Programmed="Programmed")
        with place.pod("mail-0") as pod:
            place.wait(Programmed="Programmed", selected=1, current=1)
            other.wait(Programmed="Programmed")
            mark = control_plane.mark()
            with way.away():
                pod.delete()
                place.admin.delete(place.policy("gone"))
                place.admin.merge(other.path, {"metadata": {"labels": {"postern.dev/inject": None}}})
            place.wait(Programmed="Programmed", selected=0, injected=0)
            other.wait(Programmed="NamespaceNotEnabled")
            place.admin.wait_gone(place.config_map("gone"))
            eventually(lambda: way.expired >= WATCHED)
        kept = [(write.verb, write.resource, write.name) for write in place.written(mark) if write.kept]
        assert sorted(kept) == [
            ("delete", "configmaps", "postern-gone"),
            ("patch", "mailproxypolicies/status", "edge"),
        ]
        assert other.counts(mark) == {"mailproxypolicies/status": 1}
        idle(operator, place)


def test_watches_that_are_too_old_are_begun_anew(way: Way, operator: Operator, place: Place) -> None:
    place.make()
    place.wait(Programmed="Programmed")
    eventually(lambda: way.watched == WATCHED)
    mark, asked = place.control_plane.mark(), len(way.requests)
    way.expire()
    eventually(lambda: {one.resource for one in way.requests[asked:] if one.watch} == WATCHED)
    settled(operator)
    assert place.written(mark) == []
    place.change(logging={"format": "JSON"})
    place.wait(Programmed="Programmed")
    assert place.counts(mark) == {"configmaps": 1, "mailproxypolicies/status": 1}


def test_watches_that_break_are_begun_anew(way: Way, operator: Operator, place: Place) -> None:
    """An ERROR that is no 410 ends kopf."""
    place.make()
    place.wait(Programmed="Programmed")
    eventually(lambda: way.watched == WATCHED)
    asked = len(way.requests)
    way.break_watches()
    place.change(logging={"format": "JSON"})
    place.wait(Programmed="Programmed")
    eventually(lambda: {one.resource for one in way.requests[asked:] if one.watch} == WATCHED)
    lists = [one for one in way.requests[asked:] if one.resource in WATCHED and not one.watch and kopfs(one)]
    assert len(lists) <= 2 * len(WATCHED)


def test_a_list_that_takes_too_long_is_begun_anew(way: Way, operator: Operator, place: Place) -> None:
    """410 to a LIST: its continuation has expired. That ends kopf too."""
    place.make()
    place.wait(Programmed="Programmed")
    eventually(lambda: way.watched == WATCHED)
    refused: list[Request] = []

    def which(request: Request) -> bool:
        wanted = kopfs(request) and request.resource in WATCHED and not request.watch
        if wanted:
            refused.append(request)
        return wanted

    with way.gone(which):
        way.expire()
        eventually(lambda: {one.resource for one in refused} == WATCHED and len(refused) > 2 * len(WATCHED))
    place.change(logging={"format": "JSON"})
    place.wait(Programmed="Programmed")


def kopfs(request: Request) -> bool:
    return not request.agent.startswith("postern-operator")


def test_retry_after_is_honoured(way: Way, operator: Operator, place: Place) -> None:
    """By everything but the Lease, which one call a second is for."""
    place.make()
    place.wait(Programmed="Programmed")
    refused: dict[tuple[str, str, str], list[float]] = defaultdict(list)

    def which(request: Request) -> bool:
        if "/leases" in request.path or (place.name not in request.path and request.resource not in WATCHED):
            return False
        refused[request.method, request.path, request.agent].append(request.at)
        return True

    with place.pod("mail-0") as pod:
        place.wait(Programmed="Programmed", current=1)
        mark = place.control_plane.mark()
        with way.throttled(RETRY_AFTER, which):
            way.expire()
            place.change(logging={"format": "JSON"})
            eventually(lambda: sum(len(times) >= 4 for times in refused.values()) >= 3, 40)
        times = dict(refused)
        for asked, at in times.items():
            gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
            assert all(gap > RETRY_AFTER - 0.1 for gap in gaps), (asked, gaps)
        rolled_out(place, pod)
        assert place.counts(mark)["configmaps"] == 1
        assert place.counts(mark)["pods"] <= MAX_POKES
        idle(operator, place)


def test_a_slow_api_server(way: Way, release: FaultyRelease, operator: Operator, place: Place) -> None:
    """Every answer is two seconds late: slower, and nothing else. The Lease is kept."""
    lease = release.lease()
    place.make()
    place.wait(Programmed="Programmed")
    with place.pod("mail-0") as pod:
        place.wait(Programmed="Programmed", current=1)
        mark = place.control_plane.mark()
        with way.slow(2.0):
            place.change(logging={"format": "JSON"})
            rolled_out(place, pod)
        counts = place.counts(mark)
        assert counts["configmaps"] == 1
        assert 1 <= counts["pods"] <= MAX_POKES
        assert counts["mailproxypolicies/status"] <= 3
        idle(operator, place)
    assert release.lease()["spec"]["leaseTransitions"] == lease["spec"]["leaseTransitions"]
    assert release.lease()["spec"]["holderIdentity"] == operator.pod


def test_connections_that_drop_all_the_time(way: Way, operator: Operator, place: Place) -> None:
    """Every third request, and all watches again and again."""
    numbers = itertools.count()
    place.make()
    place.wait(Programmed="Programmed")
    mark = place.control_plane.mark()
    with place.pod("mail-0") as pod:
        for form in ("JSON", "Exim", "JSON"):
            with way.closed(lambda _request: next(numbers) % 3 == 0):
                place.change(logging={"format": form})
                rolled_out(place, pod)
        counts = place.counts(mark)
        assert counts["configmaps"] <= 2 * 3  # a write whose answer is lost may be done again
        assert counts["pods"] <= 3 * MAX_POKES
        assert counts["mailproxypolicies/status"] <= 3 * 4
        idle(operator, place)


@pytest.mark.timeout(240)
def test_watches_that_are_dead_and_do_not_say_so(way: Way, operator: Operator, place: Place) -> None:
    """A bookmark comes each minute: a watch that is silent for longer is begun anew."""
    place.make()
    before = place.wait(Programmed="Programmed")["configHash"]
    eventually(lambda: way.watched == WATCHED)
    way.silence()
    place.change(logging={"format": "JSON"})
    mark = place.control_plane.mark()
    eventually(lambda: min(ages(operator).values()) > 30, 60)
    assert place.admin.get(place.policy())["status"]["configHash"] == before
    assert place.written(mark) == []
    eventually(lambda: way.watched == WATCHED, 60)
    status = place.wait(Programmed="Programmed")
    assert status["configHash"] != before
    assert max(ages(operator).values()) < 10
    assert place.counts(mark) == {"configmaps": 1, "mailproxypolicies/status": 1}


def ages(operator: Operator) -> dict[str, float]:
    page = operator.get("/metrics")
    return {name: metric(page, "postern_operator_watch_age_seconds", watch=name) for name in WATCHED}
