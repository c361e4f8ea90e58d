"""The definition on the API server: it is taken whole, explained, printed, and what it stores stays as it is."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import crd_corpus
from cluster.admin import ApiError

if TYPE_CHECKING:
    from cluster.control import ControlPlane

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[3]
NOW = "2026-11-22T12:00:00Z"


def condition(kind: str, status: str = "True", message: str = "") -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": kind,
        "message": message,
        "lastTransitionTime": NOW,
        "observedGeneration": 1,
    }


def named(name: str, base: str = "the least") -> dict[str, Any]:
    (found,) = (case.manifest for case in crd_corpus.cases() if case.name == base)
    manifest = copy.deepcopy(found)
    manifest["metadata"]["name"] = name
    return manifest


def test_it_is_taken_whole(installed: dict[str, Any], crd: dict[str, Any]) -> None:
    """No rule over its cost budget, nothing that is no structural schema, no short name that another has."""
    conditions = {found["type"]: found["status"] for found in installed["status"]["conditions"]}
    assert conditions.get("NonStructuralSchema", "False") == "False"
    assert conditions["NamesAccepted"] == conditions["Established"] == "True"
    assert installed["spec"]["versions"] == crd["spec"]["versions"]
    assert installed["spec"]["names"] == crd["spec"]["names"]


def test_one_octet_of_cost_more_is_refused(
    control_plane: ControlPlane, installed: dict[str, Any], crd: dict[str, Any]
) -> None:
    """Feature out: the API server does judge the cost, so the test above says something."""
    dear = copy.deepcopy(crd)
    spec = dear["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"]["inbound"]["maxItems"]
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd['metadata']['name']}"
    with pytest.raises(ApiError, match="exceeds budget"):
        control_plane.admin.apply(f"{path}?dryRun=All", dear, "test-dear")


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("mpp.spec.inbound.proxyProtocol", ["requiredFrom", "Peers that must send a PROXY header", "gives up"]),
        ("mpp.spec.outbound.dane", ["Where DANE is used", "skip"]),
        ("mpp.spec.outbound.tls", ["enum: Opportunistic, Encrypt, Verify", "DANE overrides withoutDane"]),
        ("mpp.spec.sidecar", ["holdMailServer", "resources"]),
        ("mpp.status", ["configHash", "conditions", "pods"]),
    ],
)
def test_explain(field: str, words: list[str], control_plane: ControlPlane, policies: str) -> None:
    text = control_plane.kubectl("explain", field).stdout
    flat = " ".join(text.split())
    assert all(word in flat for word in words), text


def test_the_columns(control_plane: ControlPlane, policies: str) -> None:
    namespace = policies.split("/")[-2]
    admin = control_plane.admin
    admin.create(policies, named("columns"))
    status = {
        "conditions": [condition("Accepted"), condition("Programmed", "False", "2 pods have no sidecar")],
        "configHash": "0" * 64,
        "pods": {"selected": 5, "injected": 3, "current": 2},
    }
    admin.status(f"{policies}/columns", status)
    head, line = control_plane.kubectl("-n", namespace, "get", "mpp", "columns").stdout.splitlines()
    assert head.split() == ["NAME", "ACCEPTED", "PROGRAMMED", "SELECTED", "INJECTED", "CURRENT", "AGE"]
    assert line.split()[:6] == ["columns", "True", "False", "5", "3", "2"]
    wide = control_plane.kubectl("-n", namespace, "get", "mail", "-o", "wide").stdout
    assert "2 pods have no sidecar" in wide
    admin.delete(f"{policies}/columns")


@pytest.mark.parametrize(
    ("status", "place"),
    [
        ({"conditions": [condition(f"C{number}") for number in range(9)]}, "status.conditions"),
        ({"conditions": [condition("Accepted"), condition("Accepted")]}, "status.conditions[1]"),
        ({"conditions": [condition("Accepted", "Yes")]}, "status.conditions[0].status"),
        ({"pods": {"selected": -1}}, "status.pods.selected"),
        ({"configHash": "0" * 65}, "status.configHash"),
    ],
)
def test_a_status_that_is_none(status: dict[str, Any], place: str, control_plane: ControlPlane, policies: str) -> None:
    admin = control_plane.admin
    admin.create(policies, named("status"))
    with pytest.raises(ApiError) as refused:
        admin.status(f"{policies}/status", status)
    admin.delete(f"{policies}/status")
    body = refused.value.body
    assert isinstance(body, dict)
    assert any(cause["field"] == place for cause in body["details"]["causes"]), body


def test_a_policy_does_not_write_its_own_status(control_plane: ControlPlane, policies: str) -> None:
    manifest = {**named("own"), "status": {"configHash": "abc"}}
    assert "status" not in control_plane.admin.create(policies, manifest, dry_run=True)


@pytest.mark.parametrize("base", ["the least", "both", "every field"])
def test_applied_twice_it_stays_as_it_is(base: str, control_plane: ControlPlane, policies: str) -> None:
    """Defaults that the server wrote belong to nobody, and what is read back can be applied as it is."""
    admin = control_plane.admin
    manifest = named("twice", base)
    first = admin.apply(f"{policies}/twice", manifest)
    again = admin.apply(f"{policies}/twice", manifest)
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    read = admin.get(f"{policies}/twice")
    for member in ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation"):
        read["metadata"].pop(member, None)
    assert admin.apply(f"{policies}/twice", read)["spec"] == first["spec"]
    admin.delete(f"{policies}/twice")


def test_the_chart_has_the_same(tmp_path: Path) -> None:
    script = ROOT / "scripts/crds.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True, timeout=60)


def test_a_copy_that_is_not_the_same_is_named(tmp_path: Path) -> None:
    for folder in ("scripts", "crds", "charts/postern/files/crds"):
        (tmp_path / folder).mkdir(parents=True)
    script = tmp_path / "scripts/crds.py"
    script.write_bytes((ROOT / "scripts/crds.py").read_bytes())
    (tmp_path / "crds/a.yaml").write_text("a: 1\n")
    stale = tmp_path / "charts/postern/files/crds/b.yaml"
    stale.write_text("b: 1\n")
    told = subprocess.run(
        [sys.executable, str(script), "--check"], check=False, timeout=60, capture_output=True, text=True
    )
    assert told.returncode == 1
    assert "a.yaml is not current" in told.stderr
    assert "b.yaml is not current" in told.stderr
    subprocess.run([sys.executable, str(script)], check=True, timeout=60)
    assert stale.with_name("a.yaml").read_text() == "a: 1\n"
    assert not stale.exists()
    subprocess.run([sys.executable, str(script), "--check"], check=True, timeout=60)


def test_the_largest_policy_is_within_the_running_cost(control_plane: ControlPlane, policies: str) -> None:
    """Estimates are made when the definition is; what rules really cost counts with each policy."""
    networks = [f"2001:db8:{number:x}::/48" for number in range(256)]
    override = {"ratePerClient": {"connections": 1, "per": "23h59m59s999ms"}}
    listener = {
        "protocol": "SMTP",
        "backend": {"port": 2525, "handover": "ProxyV2"},
        "proxyProtocol": {"requiredFrom": networks, "allowSources": networks[:64]},
        "limits": {"overrides": [{**override, "clients": [network]} for network in networks]},
        "rules": [{"name": f"r{number}", "when": "true", "action": "Log"} for number in range(64)],
    }
    name = ".".join(["x" * 60] * 4)
    servers = [f"[2001:db8::{number:x}]:5353" for number in range(16)]
    manifest = named("largest", "both")
    manifest["spec"]["inbound"] = [{**listener, "name": f"l{number}", "port": 1000 + number} for number in range(16)]
    manifest["spec"]["outbound"] = {
        "dane": {"require": [f"d{number}.{name}" for number in range(1024)]},
        "dns": {
            "stubs": [{"zone": f"s{number}.{name}", "servers": servers, "insecure": True} for number in range(64)],
            "forwards": [{"zone": f"f{number}.{name}", "servers": servers, "tlsName": name} for number in range(64)],
            "rootHints": [{"name": f"r{number}.{name}", "addresses": ["2001:db8::1"]} for number in range(26)],
        },
        "routes": [{"domains": [f"d{number}.{name}"], "via": f"r{number}.{name}:587"} for number in range(256)],
        "ownAddresses": networks[:64],
        "allowAddresses": networks[:64],
    }
    assert control_plane.admin.create(policies, manifest, dry_run=True)["spec"]["priority"] == 0
