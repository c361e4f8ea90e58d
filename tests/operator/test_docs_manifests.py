"""What docs/kubernetes.md shows, before a real API server with the chart's operator: each manifest is taken, each
command works, in their order; and docs/operator.md gives the operator's rights as the chart does."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

import chart
from cluster.release import ROOT, SOURCES, Release
from cluster.waiting import eventually
from postern_sidecar import config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.control import ControlPlane

pytestmark = pytest.mark.real

Object = dict[str, Any]

KUBERNETES = (ROOT / "docs" / "kubernetes.md").read_text()
OPERATOR = (ROOT / "docs" / "operator.md").read_text()
README = (ROOT / "README.md").read_text()
NAMED = re.compile(r"^<!-- ([a-z]+\.yaml) -->\n```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WALK = re.compile(r"^<!-- walk -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILES = dict(NAMED.findall(KUBERNETES))
MAIL = "mail"  # the namespace that the pages name
POLICY = f"/apis/postern.dev/v1alpha1/namespaces/{MAIL}/mailproxypolicies/edge"
COMMANDS = [line for block in WALK.findall(KUBERNETES) for line in block.splitlines()]


def test_every_block_of_yaml_has_a_name_and_is_looked_at() -> None:
    assert len(re.findall(r"^```yaml$", KUBERNETES, re.MULTILINE)) == len(FILES) == 3


def test_the_policy_loads_without_a_warning() -> None:
    assert config.load(FILES["policy.yaml"].encode(), "policy.yaml").warnings == ()


def test_the_readme_begins_as_the_page_does() -> None:
    """Its commands are among those that are run here, and what it shows is what the page shows."""
    block, shown = re.findall(r"^```(?:sh)?\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[:2]
    install, *commands = block.splitlines()
    assert install.startswith("helm install postern charts/postern ")
    assert f"```sh\n{install}\n```" in KUBERNETES
    assert commands == COMMANDS[:4]
    assert shown in KUBERNETES


def test_helm_takes_the_values_and_they_name_the_images() -> None:
    values = YAML(typ="safe").load(FILES["values.yaml"])
    text = chart.rendered(values)
    assert 'image: "registry.example.net/mail/postern-operator:0.1.0"' in text
    assert "image: registry.example.net/mail/postern-sidecar:0.1.0" in text


@pytest.fixture(scope="module")
def release(control_plane: ControlPlane) -> Iterator[Release]:
    with Release(control_plane, values={"operator": {"replicas": 1}}, env={"POSTERN_RESYNC": "1"}) as running:
        yield running


@pytest.fixture
def mail(control_plane: ControlPlane, release: Release) -> Iterator[ControlPlane]:
    """As the page begins: the namespace, and the mail server's Deployment."""
    assert release.operators
    with control_plane.namespace(name=MAIL):
        control_plane.kubectl("apply", "--filename", "-", input=FILES["deployment.yaml"])
        yield control_plane


def test_the_commands_of_the_page_in_their_order(mail: ControlPlane, tmp_path: Path) -> None:
    """As they stand: they are read out of the page. Nothing answers a roll-out, because no controller runs."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    assert len(COMMANDS) > 10
    said = {command: _run(mail, command, tmp_path) for command in COMMANDS}
    (dry_run,) = [text for command, text in said.items() if "--dry-run=server" in command]
    assert "deployment.apps/postfix" in dry_run
    (injected,) = [text for command, text in said.items() if command.startswith("postern-operator inject")]
    assert re.search(r"^\+ +(- )?name: postern$", injected, re.MULTILINE)
    (wide,) = [text for command, text in said.items() if command.endswith("--output wide")]
    assert wide.split()[:7] == ["NAME", "ACCEPTED", "PROGRAMMED", "SELECTED", "INJECTED", "CURRENT", "MESSAGE"]
    (events,) = [text for command, text in said.items() if "reportingComponent" in command]
    assert "mailproxypolicy/edge" in events
    mail.admin.wait_gone(POLICY)
    eventually(lambda: not mail.admin.exists(f"/api/v1/namespaces/{MAIL}/configmaps/postern-edge"), 30)


def test_what_the_page_shows_is_what_is_said(mail: ControlPlane) -> None:
    mail.kubectl("apply", "--filename", "-", input=FILES["policy.yaml"])
    mail.admin.wait(POLICY, lambda policy: bool(policy.get("status")))
    wide = mail.kubectl("--namespace", MAIL, "get", "mpp", "--output", "wide").stdout
    for line in wide.splitlines():
        assert re.sub(r" \d+s$", "", line) in re.sub(r" \d+s$", "", KUBERNETES, flags=re.MULTILINE)


def test_a_pod_of_the_deployment_is_injected_as_the_page_says(mail: ControlPlane) -> None:
    mail.kubectl("label", "namespace", MAIL, "postern.dev/inject=enabled")
    mail.kubectl("apply", "--filename", "-", input=FILES["policy.yaml"])
    deployment, service = YAML(typ="safe").load_all(FILES["deployment.yaml"])
    template = deployment["spec"]["template"]
    body = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "postfix-0", **template["metadata"]}}
    path = f"/api/v1/namespaces/{MAIL}/pods"

    def injected() -> Object | None:
        made = mail.admin.create(path, body, dry_run=True)
        return made if made["spec"].get("initContainers") else None

    pod = eventually(injected)
    assert pod is not None
    spec = pod["spec"]
    table = KUBERNETES.partition("## What is injected, and why")[2].partition("\n## ")[0]
    (sidecar,) = spec["initContainers"]
    assert f"`{sidecar['name']}`" in table
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["args"][sidecar["args"].index("--grace") + 1] == "110"
    ports = {port["name"]: port["containerPort"] for port in sidecar["ports"]}
    assert service["spec"]["ports"][0]["targetPort"] in ports
    added = {volume["name"] for volume in spec["volumes"] if not volume["name"].startswith("kube-api-access-")}
    assert added == {"postern-config", "postern-run", "postern-empty"}
    assert spec["securityContext"]["sysctls"] == [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "25"}]


def test_rights_are_those_of_the_chart() -> None:
    """Without and with `evictUninjected`: the rows that say so are those that it adds."""
    table = [_cells(line) for line in _section("## What it may do").splitlines() if line.startswith("| `")]
    documented = {(row[0], row[1]): row[3] for row in table}
    always = {key for key, what in documented.items() if "evictUninjected" not in what}
    assert _rights({}) == always
    assert _rights({"evictUninjected": True}) == set(documented)
    cert_manager = {key for key in always if "CertManager" not in documented[key]}
    assert _rights({"webhook": {"certificates": {"mode": "CertManager"}}}) == cert_manager


def _rights(values: Object) -> set[tuple[str, str]]:
    roles = [
        item
        for item in chart.objects(chart.rendered(values))
        if item["kind"] in ("ClusterRole", "Role") and item["metadata"]["name"] == "postern-operator"
    ]
    return {
        (resource, ", ".join(rule["verbs"]))
        for role in roles
        for rule in role["rules"]
        for resource in rule["resources"]
    }


def _section(heading: str) -> str:
    return OPERATOR.partition(f"\n{heading}\n")[2].partition("\n## ")[0]


def _cells(line: str) -> list[str]:
    return [cell.strip().strip("`") for cell in re.split(r"(?<=\s)\|(?=\s)", line[1:-1])]


def _run(plane: ControlPlane, command: str, folder: Path) -> str:
    """Its standard output; AssertionError where it fails."""
    program, *arguments = shlex.split(command)
    if program == "postern-operator":
        env = {**os.environ, "PYTHONPATH": SOURCES}
        argv = [sys.executable, "-m", "postern_operator", *arguments]
        done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout
    assert program == "kubectl", command
    placed = [str(folder / argument) if argument in FILES else argument for argument in arguments]
    return plane.kubectl(*placed).stdout
