"""`postern-operator run` as a process: its start, its end, and what happens between two writes."""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from cluster.process import Program, free_port
from cluster.release import DEFINITION, SOURCES, Operator, Release
from cluster.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.control import ControlPlane

pytestmark = pytest.mark.real

Object = dict[str, Any]
ONE = {"operator": {"replicas": 1}}


# -- without a cluster -------------------------------------------------------------------------------------------------


class Alone:
    """An operator with settings of its own."""

    def __init__(self, folder: Path, settings: Object, kubeconfig: Path | None = None, **env: str) -> None:
        self.health_port = settings.get("healthPort", 0)
        file = folder / "settings.yaml"
        file.write_text(json.dumps(settings))
        argv: list[str | Path] = [sys.executable, "-m", "postern_operator", "run", "--settings", file]
        given = {"PYTHONPATH": SOURCES, "KUBECONFIG": str(kubeconfig or folder / "none"), "HOME": str(folder), **env}
        self.program = Program(argv, folder / "log", env=given)
        self.operator = Operator("alone", 20, self.program, 0, self.health_port)


def settings(**more: Any) -> Object:
    webhook = {"address": "127.0.0.1", "port": free_port(), **more.pop("webhook", {})}
    return {"healthAddress": "127.0.0.1", "healthPort": free_port(), "webhook": webhook, **more}


@pytest.mark.parametrize(
    ("wrong", "env", "told"),
    [
        ({"healthPort": 9443, "webhook": {"port": 9443}}, {}, "both 9443"),
        ({"namespace": ""}, {}, "namespace is empty"),
        ({"lease": ""}, {}, "lease is empty"),
        ({"healthPort": "many"}, {}, "healthPort"),
        ({"colour": "blue"}, {}, "colour"),
        ({}, {"POSTERN_FAILPOINT": "during:poke"}, "before or after"),
        ({}, {"POSTERN_FAILPOINT": "before:nothing"}, "configmap-create"),
    ],
)
def test_wrong_settings_end_it_with_2(tmp_path: Path, wrong: Object, env: dict[str, str], told: str) -> None:
    alone = Alone(tmp_path, settings(**wrong), None, **env)
    assert alone.program.wait() == 2
    assert told in alone.program.log


def test_a_port_that_is_taken_ends_it_with_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        alone = Alone(tmp_path, settings(healthPort=taken.getsockname()[1]))
        assert alone.program.wait() == 1
        assert "cannot listen" in alone.program.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_without_credentials_it_waits_says_so_and_ends_as_asked(tmp_path: Path, number: signal.Signals) -> None:
    alone = Alone(tmp_path, settings())
    eventually(lambda: alone.operator.ask("/healthz")[0] == 200)
    assert alone.operator.ask("/readyz")[0] == 503
    eventually(lambda: "no credentials" in alone.program.log)
    alone.program.signal(number)
    assert alone.program.wait() == 0


def test_without_an_api_server_it_waits_says_so_and_ends_as_asked(tmp_path: Path) -> None:
    cluster = {"name": "c", "cluster": {"server": f"https://127.0.0.1:{free_port()}"}}
    user = {"name": "u", "user": {"token": "t"}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    config = {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "users": [user], "contexts": [context]}
    (tmp_path / "config").write_text(json.dumps({**config, "current-context": "x"}))
    alone = Alone(tmp_path, settings(), tmp_path / "config")
    eventually(lambda: "waiting for the API server" in alone.program.log)
    assert alone.operator.ask("/healthz") == (200, "alive\n")
    status, text = alone.operator.ask("/readyz")
    assert status == 503
    assert "mailproxypolicies" in text
    assert "postern_operator_leader 0.0" in alone.operator.get("/metrics")
    alone.program.signal(signal.SIGTERM)
    assert alone.program.wait() == 0
    # Said once, and not once a second.
    assert alone.program.log.count("waiting for the API server") == 1


# -- with one ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    with control_plane.namespace({"postern.dev/inject": "enabled"}) as name:
        yield name


def make(control_plane: ControlPlane, namespace: str, name: str = "edge", **spec: Any) -> str:
    inbound = {
        "name": "smtp",
        "port": 2525,
        "backend": {"port": 10025, "handover": "ProxyV2"},
        "proxyProtocol": {"requiredFrom": ["10.0.0.0/8"]},
    }
    body = {
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "MailProxyPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"matchLabels": {"app": "mail"}}, "inbound": [inbound], **spec},
    }
    path = f"/apis/postern.dev/v1alpha1/namespaces/{namespace}/mailproxypolicies"
    control_plane.admin.create(path, body)
    return f"{path}/{name}"


def programmed(policy: Object) -> bool:
    status = policy.get("status", {})
    holds = {one["type"]: one["status"] for one in status.get("conditions", [])}
    observed = {one["observedGeneration"] for one in status.get("conditions", [])}
    return holds.get("Programmed") == "True" and observed == {policy["metadata"]["generation"]}


def holder(release: Release) -> str:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{release.namespace}/leases"
    (lease,) = release.admin.list(path)
    name: str = lease["spec"].get("holderIdentity") or ""
    return name


def test_sigterm_hands_the_lease_over_in_two_seconds_and_ends_with_0(
    control_plane: ControlPlane, namespace: str
) -> None:
    with Release(control_plane) as release:
        eventually(lambda: holder(release))
        leader = next(index for index, one in enumerate(release.operators) if one.pod == holder(release))
        left = release.operators[1 - leader].pod
        began = time.monotonic()
        release.operators[leader].program.signal(signal.SIGTERM)
        eventually(lambda: holder(release) == left, 10)
        assert time.monotonic() - began < 2.0
        log = release.operators[leader].program
        assert log.wait() == 0
        assert "Traceback" not in log.log
        release.terminate(leader)
        control_plane.admin.wait(make(control_plane, namespace), programmed)


def test_the_api_server_goes_and_comes_back(control_plane: ControlPlane, namespace: str) -> None:
    with Release(control_plane, values=ONE) as release:
        control_plane.admin.wait(make(control_plane, namespace, "first"), programmed)
        control_plane.restart()
        control_plane.admin.wait(make(control_plane, namespace, "second"), programmed, 40)
        assert release.operators[0].running
        assert release.operators[0].ready
        assert "Traceback" not in release.log()


def test_an_operator_that_starts_before_the_api_server(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    with Release(control_plane, values=ONE) as release:
        kubeconfig = release._credentials(release._create_pod(release.template()))
        given = settings(namespace=release.namespace, webhook={"configuration": "postern"})
        release.terminate()
        control_plane.kill()
        try:
            alone = Alone(tmp_path, given, kubeconfig, POD_NAME="alone")
            eventually(lambda: "waiting for the API server" in alone.program.log)
            assert alone.operator.ask("/healthz")[0] == 200
            assert alone.operator.ask("/readyz")[0] == 503
        finally:
            control_plane.start_server()
            control_plane.wait_ready()
        eventually(lambda: alone.operator.ready)
        control_plane.admin.wait(make(control_plane, namespace), programmed)
        alone.program.signal(signal.SIGTERM)
        assert alone.program.wait() == 0


def test_started_without_the_crd_it_waits_for_it(control_plane: ControlPlane) -> None:
    with Release(control_plane, values=ONE, start=False) as release:
        definition = control_plane.admin.get(DEFINITION)
        control_plane.admin.delete(DEFINITION)
        control_plane.admin.wait_gone(DEFINITION)
        operator = release.add(wait=False)
        eventually(lambda: "the CRD mailproxypolicies.postern.dev is not there" in operator.log)
        for field in ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"):
            definition["metadata"].pop(field, None)
        definition.pop("status", None)
        control_plane.admin.create(DEFINITION.rpartition("/")[0], definition)
        release.wait_ready(operator)


def test_a_line_has_time_level_part_and_object(control_plane: ControlPlane, namespace: str) -> None:
    with Release(control_plane, values=ONE) as release:
        control_plane.admin.wait(make(control_plane, namespace), programmed)
        eventually(lambda: f"{namespace}/edge: Programmed" in release.log())
        for line in release.log().splitlines():
            moment, level, part, _ = line.split(maxsplit=3)
            assert time.strptime(moment.partition(".")[0], "%Y-%m-%dT%H:%M:%S")
            assert level in ("INFO", "WARNING")
            assert part.endswith(":")
            assert "kopf" not in line
