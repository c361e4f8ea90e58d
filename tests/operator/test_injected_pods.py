"""What injection makes, before a real API server: it is taken as it is, also under Pod Security `restricted`, and what
comes back needs no injection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cluster.admin import ApiError
from injection_goldens import VERSION, Golden, golden, names
from postern_operator.inject import inject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.control import ControlPlane

pytestmark = pytest.mark.real

JSON = dict[str, Any]

OURS = ("postern", "postern-init")
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - where it would be
ENFORCE = "pod-security.kubernetes.io/enforce"
RESTRICTED_CONTAINER = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
RESTRICTED_POD = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
TAKEN = [name for name in names() if not golden(name).skipped]
TRANSPARENT = [name for name in TAKEN if golden(name).injection.transparent]


@pytest.fixture(scope="module")
def restricted(control_plane: ControlPlane) -> Iterator[str]:
    with control_plane.namespace({ENFORCE: "restricted"}) as namespace:
        yield namespace


@pytest.fixture(scope="module")
def privileged(control_plane: ControlPlane) -> Iterator[str]:
    with control_plane.namespace({ENFORCE: "privileged"}) as namespace:
        yield namespace


@pytest.mark.parametrize("name", [name for name in TAKEN if name not in TRANSPARENT])
def test_restricted_takes_it_and_it_comes_back_as_it_was(
    name: str, control_plane: ControlPlane, restricted: str
) -> None:
    case = golden(name)
    assert_settled(case, admitted(control_plane, restricted, case))


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparent_is_for_privileged_namespaces(
    name: str, control_plane: ControlPlane, restricted: str, privileged: str
) -> None:
    case = golden(name)
    with pytest.raises(ApiError, match=r'containers? "postern') as refused:
        admitted(control_plane, restricted, case)
    assert refused.value.status == 403
    assert_settled(case, admitted(control_plane, privileged, case))


def test_the_sidecar_gets_no_token_and_the_server_has_its_own(control_plane: ControlPlane, privileged: str) -> None:
    spec = admitted(control_plane, privileged, golden("transparent"))["spec"]
    over = {
        container["name"]: mount["name"]
        for container in (*spec["initContainers"], *spec["containers"])
        for mount in container["volumeMounts"]
        if mount["mountPath"] == TOKEN
    }
    token = over.pop("smtpd")
    assert token.startswith("kube-api-access-")
    assert over == {"postern-init": "postern-empty", "postern": "postern-empty", "keys": token}
    assert {"name": "postern-empty", "emptyDir": {}} in spec["volumes"]


def admitted(control_plane: ControlPlane, namespace: str, case: Golden) -> JSON:
    """By a dry run, with what `restricted` asks for in all that is not ours."""
    pod = inject(case.pod, case.injection, case.settings, VERSION).pod
    spec = dict(pod["spec"])
    spec["securityContext"] = {**RESTRICTED_POD, **(spec.get("securityContext") or {})}
    for key in ("containers", "initContainers"):
        spec[key] = [
            each if each["name"] in OURS else {**each, "securityContext": RESTRICTED_CONTAINER} for each in spec[key]
        ]
    metadata = {**pod["metadata"], "namespace": namespace}
    return control_plane.admin.create(
        f"/api/v1/namespaces/{namespace}/pods", {**pod, "metadata": metadata, "spec": spec}, dry_run=True
    )


def assert_settled(case: Golden, pod: JSON) -> None:
    assert inject(pod, case.injection, case.settings, VERSION).pod == pod
