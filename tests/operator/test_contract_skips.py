"""Every reason for which a pod has no sidecar, told four times: to who creates it, as a metric, as an Event about the
pod's owner, and by `postern-operator inject`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from postern_operator import inject as injection
from postern_operator import offline, select
from postern_operator.events import TEXTS
from postern_operator.model import INJECT
from postern_operator.reasons import Skip
from postern_operator.settings import Settings
from webhook_world import Object, configured, pod, policy, replica, until, webhook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.control import ControlPlane

pytestmark = pytest.mark.real

OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "postfix-6c9f8d", "uid": "0a1b2c3d", "controller": True}


@dataclass(frozen=True)
class Case:
    """What is special about the pod, or the policy. `breaks`: not the pod is, but the operator."""

    app: str = "mail"
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    container: dict[str, Any] = field(default_factory=dict)
    rules: tuple[Object, ...] = ()
    breaks: bool = False

    def pod(self) -> Object:
        manifest = pod("mail-0", app=self.app, **self.spec)
        manifest["metadata"]["labels"].update(self.labels)
        manifest["metadata"] |= {"annotations": self.annotations, "ownerReferences": [OWNER]}
        manifest["spec"]["containers"][0].update(self.container)
        return manifest


CASES = {
    Skip.OPTED_OUT: Case(labels={INJECT: "disabled"}),
    Skip.NO_POLICY: Case(app="web"),
    Skip.POLICY_INVALID: Case(rules=({"name": "odd", "when": "no_such_variable", "action": "Log"},)),
    Skip.HOST_NETWORK: Case(spec={"hostNetwork": True}),
    Skip.WINDOWS_POD: Case(spec={"os": {"name": "windows"}}),
    Skip.MIRROR_POD: Case(annotations={"kubernetes.io/config.mirror": "x"}, spec={"nodeName": "one"}),
    Skip.RESERVED_PORT: Case(container={"ports": [{"containerPort": 15925}]}),
    Skip.SYSCTL_CONFLICT: Case(
        spec={"securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "1024"}]}}
    ),
    Skip.NAME_CONFLICT: Case(spec={"volumes": [{"name": "postern-config", "emptyDir": {}}]}),
    Skip.INTERNAL_ERROR: Case(breaks=True),
}


@pytest.fixture
def release(control_plane: ControlPlane) -> Iterator[str]:
    with control_plane.namespace() as name:
        yield name


@pytest.fixture
def mail(control_plane: ControlPlane) -> Iterator[str]:
    with control_plane.namespace({INJECT: "enabled"}) as name:
        yield name


@pytest.mark.parametrize("reason", list(Skip), ids=lambda reason: reason.value)
async def test_it_is_a_warning_a_metric_an_event_and_what_inject_says(
    reason: Skip,
    control_plane: ControlPlane,
    release: str,
    mail: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = CASES[reason]
    chosen = policy(mail)
    chosen["spec"]["inbound"][0]["rules"] = list(case.rules)
    if case.breaks:
        monkeypatch.setattr(select, "winner", broken)
        monkeypatch.setattr(injection, "exclude", broken)
    async with replica(control_plane, release) as one:
        with configured(control_plane.admin, release, webhook(one.server.port, [mail])):
            await until(lambda: one.certificates.ready)
            one.cache.put_namespace(mail, "uid", "1")
            one.policy(chosen)
            warning = await told(control_plane, mail, case.pod())
            assert f"Warning: postern: no sidecar ({reason.value}): " in warning
            page = one.metrics.render()[0].decode()
            assert f'postern_operator_admissions_total{{outcome="Skipped",reason="{reason.value}"}} 1.0' in page
            await until(lambda: events(control_plane, mail))
    (event,) = events(control_plane, mail)
    assert (event["reason"], event["note"]) == (reason.value, TEXTS[reason])
    assert (event["regarding"]["kind"], event["regarding"]["name"]) == ("ReplicaSet", OWNER["name"])
    assert f"skipped ({reason.value})" in offline_says(tmp_path, chosen, case.pod(), capsys)


async def test_without_an_owner_the_policy_that_wants_the_pod_is_told(
    control_plane: ControlPlane, release: str, mail: str
) -> None:
    """Also where the pod itself says no, before any policy is looked for."""
    async with replica(control_plane, release) as one:
        with configured(control_plane.admin, release, webhook(one.server.port, [mail])):
            await until(lambda: one.certificates.ready)
            one.cache.put_namespace(mail, "uid", "1")
            one.policy(policy(mail))
            one.policy(policy(mail, "another", app="web"))
            await told(control_plane, mail, pod("mail-0", hostNetwork=True))
            await until(lambda: events(control_plane, mail))
    (event,) = events(control_plane, mail)
    assert (event["regarding"]["kind"], event["regarding"]["name"]) == ("MailProxyPolicy", "edge")


def test_each_reason_has_a_case() -> None:
    assert set(CASES) == set(Skip)


def broken(*_arguments: object) -> object:
    raise ValueError("a fault of ours")


async def told(control_plane: ControlPlane, namespace: str, manifest: Object) -> str:
    """What kubectl shows on creating it."""
    arguments = ("create", "-n", namespace, "-f", "-")
    done = await asyncio.to_thread(control_plane.kubectl, *arguments, input=json.dumps(manifest))
    return done.stderr


def events(control_plane: ControlPlane, namespace: str) -> list[Object]:
    return control_plane.admin.list(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")


def offline_says(folder: Path, chosen: Object, manifest: Object, capsys: pytest.CaptureFixture[str]) -> str:
    file = folder / "all.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [chosen, manifest]}))
    capsys.readouterr()
    assert offline.run(offline.Order((str(file),)), Settings(), "1.0.0") == 1
    return capsys.readouterr().err
