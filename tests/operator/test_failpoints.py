"""SIGKILL before and after each kind of write: the next process in the pod brings about the same, and repeats nothing.

One story holds every write there is: the Lease and the Secret are made, the caBundle is set, a policy's ConfigMap and
status come, a ConfigMap that nobody uses goes, the policy changes, and two pods are poked.
"""

from __future__ import annotations

import base64
import contextlib
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from cluster.process import free_port
from cluster.release import Release
from cluster.waiting import eventually
from operated import ENABLED, OPERATOR, Place
from postern_operator.app import FAILPOINTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from cluster.admin import Object
    from cluster.control import ControlPlane
    from played_pods import PlayedPod

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

MAX_POKES = 5
NAMESPACE = "failpoints"  # the same each time, so that hashes are
SECRET = "postern-webhook-tls"  # noqa: S105 - its name
LEASE = "postern-operator"
SECOND = ("status:2", "poke:2", "lease-update:2")
PLACES = [f"{when}:{name}" for name in (*FAILPOINTS, *SECOND) for when in ("before", "after")]


@pytest.fixture(scope="module")
def admin_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def release(control_plane: ControlPlane, admin_port: int) -> Iterator[Release]:
    values = {"operator": {"replicas": 1}, "sidecar": {"adminPort": admin_port}, "webhook": {"failurePolicy": "Fail"}}
    with Release(control_plane, values=values, env={"POSTERN_RESYNC": "1"}, start=False) as installed:
        yield installed


class Kubelet:
    """Starts the operator again whenever it has ended; a failpoint is the first process's only."""

    def __init__(self, release: Release, failpoint: str) -> None:
        self.release = release
        self.exits: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)
        if failpoint:
            release.env["POSTERN_FAILPOINT"] = failpoint
        self.operator = release.add(wait=False)
        release.env.pop("POSTERN_FAILPOINT", None)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.release.kill()

    def _run(self) -> None:
        served = False
        while not self._over.wait(0.02):
            if not self.operator.running:
                self.exits.append(self.operator.program.wait())
                self.operator, served = self.release.restart(self.operator), False
            elif not served and self.operator.ready:
                self.release.wait_ready(self.operator)
                served = True


class Story:
    def __init__(self, release: Release, place: Place) -> None:
        self.release, self.place, self.admin = release, place, release.admin
        self.base = f"/api/v1/namespaces/{release.namespace}"

    def begin(self, secret: dict[str, str] | None) -> None:
        """`secret`: its data; None: it is not there."""
        admin = self.admin
        admin.delete(f"{self.base}/secrets/{SECRET}", missing_ok=True)
        if secret is not None:
            data = {key: base64.b64encode(value.encode()).decode() for key, value in secret.items()}
            metadata = {"name": SECRET, "namespace": self.release.namespace}
            admin.create(
                f"{self.base}/secrets",
                {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata, "data": data},
            )
        admin.delete(self.lease, missing_ok=True)
        for index in range(len(self.webhooks())):
            operation = {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": ""}
            admin.json_patch(self.configuration, [operation])
        labels = {"app.kubernetes.io/managed-by": "postern"}
        orphan = {"name": "postern-orphan", "labels": labels, "annotations": {"postern.dev/policy-uid": "1"}}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": orphan, "data": {"policy.json": "{}"}}
        admin.create(f"{self.place.path}/configmaps", body)
        self.place.make()

    def tell(self) -> Object:
        place = self.place
        place.wait(Programmed="Programmed")
        with self.pod("mail-0") as first, self.pod("mail-1") as second:
            place.wait(Programmed="Programmed", current=2)
            place.change(logging={"format": "JSON"})
            target = place.wait(Accepted="Accepted")["configHash"]
            for pod in (first, second):
                eventually(lambda pod=pod: pod.poke.startswith(f"{target}."), 40)  # type: ignore[misc]
                pod.sync()
            place.wait(Programmed="Programmed", selected=2, injected=2, current=2)
            place.admin.wait_gone(place.config_map("orphan"))
            eventually(self.trusted, 40)
            eventually(lambda: self.admin.get(self.lease)["spec"]["holderIdentity"] == self.release.operators[0].pod)
            eventually(lambda: self.release.operators[0].ready)
            return place.final("edge")

    def pod(self, name: str) -> PlayedPod:
        """failurePolicy is Fail: it comes as soon as an operator answers."""

        def made() -> PlayedPod | None:
            with contextlib.suppress(Exception):
                return self.place.pod(name)
            return None

        found = eventually(made, 40)
        assert found is not None
        assert found.policy == "edge"
        return found

    @property
    def lease(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.release.namespace}/leases/{LEASE}"

    @property
    def configuration(self) -> str:
        return "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/postern"

    def webhooks(self) -> list[Object]:
        found: list[Object] = self.admin.get(self.configuration)["webhooks"]
        return found

    def trusted(self) -> bool:
        """The caBundle is the Secret's authority."""
        data = self.admin.get(f"{self.base}/secrets/{SECRET}")["data"]
        return all(one["clientConfig"].get("caBundle") == data["ca.crt"] for one in self.webhooks())

    def counts(self, mark: int) -> Counter[str]:
        """Writes that were kept, of all but Events and the Lease's renewals."""
        return Counter(
            f"{one.verb} {one.resource}"
            for one in self.place.control_plane.audit(mark, user=OPERATOR)
            if one.kept and one.resource not in ("events", "leases")
        )


def told(
    control_plane: ControlPlane, release: Release, port: int, folder: Path, failpoint: str
) -> tuple[Object, Counter[str], list[int]]:
    """The end, the writes, and how processes ended."""
    with control_plane.namespace(ENABLED, name=NAMESPACE) as name:
        story = Story(release, Place(control_plane, name, port, folder))
        story.begin({"tls.crt": "garbage", "tls.key": ""} if "secret-update" in failpoint else None)
        mark = control_plane.mark()
        with Kubelet(release, failpoint) as kubelet:
            end = story.tell()
            if failpoint:
                eventually(lambda: kubelet.exits)
        return end, story.counts(mark), kubelet.exits


@pytest.fixture(scope="module")
def undisturbed(
    control_plane: ControlPlane, release: Release, admin_port: int, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Object, Counter[str]]:
    end, counts, exits = told(control_plane, release, admin_port, tmp_path_factory.mktemp("undisturbed"), "")
    assert exits == []
    return end, counts


@pytest.mark.parametrize("failpoint", PLACES)
def test_killed_there_it_ends_the_same(
    control_plane: ControlPlane,
    release: Release,
    admin_port: int,
    tmp_path: Path,
    undisturbed: tuple[Object, Counter[str]],
    failpoint: str,
) -> None:
    end, counts, exits = told(control_plane, release, admin_port, tmp_path, failpoint)
    assert exits == [-9]
    assert end == undisturbed[0]
    usual = Counter(undisturbed[1])
    if "secret-update" in failpoint:
        usual["update secrets"] = usual.pop("create secrets")
    statuses, pokes = "patch mailproxypolicies/status", "patch pods"
    # What takes time may be seen, and told, at other moments than usual; all else is written no oftener. It may look
    # rarer: a request that died with the process, and was done all the same, counts as refused.
    assert counts.pop(statuses) <= usual.pop(statuses) + 2
    assert max(counts.pop(pokes, 0), usual.pop(pokes)) <= 2 * MAX_POKES
    assert counts <= usual
