"""`postern-operator inject`: manifests in, manifests out, reasons on standard error, a status that scripts can use."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from postern_operator import __main__ as command_line
from postern_operator import offline

if TYPE_CHECKING:
    from pathlib import Path

POLICY = """\
apiVersion: postern.dev/v1alpha1
kind: MailProxyPolicy
metadata: {name: edge, namespace: mail}
spec:
  selector: {matchLabels: {app: postfix}}
  hostname: mail.example.net
  inbound:
  - {name: smtp, port: 25, backend: {port: 2525, handover: ProxyV2}}
"""
TEMPLATE = """\
      metadata: {labels: {app: postfix}}
      spec:
        containers:
        - name: postfix
          image: registry.example/postfix:3.10
          env: [{name: QUOTED, value: "yes"}, {name: DATE, value: 2026-11-22}]
"""
POD = f"""\
kind: Pod
apiVersion: v1
metadata: {{name: postfix, namespace: mail, labels: {{app: postfix}}}}
{TEMPLATE.split(chr(10), 1)[1].replace(chr(10) + "      ", chr(10)).removeprefix("      ")}"""


def workload(kind: str) -> str:
    return f"""\
kind: {kind}
apiVersion: apps/v1
metadata: {{name: postfix, namespace: mail}}
spec:
    template:
{TEMPLATE}"""


def cron_job() -> str:
    template = TEMPLATE.replace("\n", "\n    ").rstrip()
    return f"""\
kind: CronJob
apiVersion: batch/v1
metadata: {{name: postfix}}
spec:
  jobTemplate:
    spec:
      template:
    {template}
"""


@pytest.fixture
def policy(tmp_path: Path) -> str:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    return str(file)


def inject(tmp_path: Path, text: str, *arguments: str) -> int:
    file = tmp_path / "manifest.yaml"
    file.write_text(text)
    return command_line.main(["inject", "-f", str(file), *arguments])


def documents(text: str) -> list[Any]:
    return list(YAML(typ="safe", pure=True).load_all(text))


def sidecars(pod: dict[str, Any]) -> list[str]:
    return [each["name"] for each in pod["spec"].get("initContainers", [])]


def test_a_pod(tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert inject(tmp_path, POD, "--policy", policy) == 0
    printed = capsys.readouterr()
    (pod,) = documents(printed.out)
    assert sidecars(pod) == ["postern"]
    assert pod["spec"]["containers"][0]["env"] == [
        {"name": "QUOTED", "value": "yes"},
        {"name": "DATE", "value": "2026-11-22"},
    ]
    assert "value: 'yes'" in printed.out  # kubectl's reader takes a bare one for true
    assert printed.err == "Pod postfix: injected by MailProxyPolicy edge\n"


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "Job", "ReplicaSet"])
def test_what_has_a_template(kind: str, tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert inject(tmp_path, workload(kind), "--policy", policy) == 0
    (document,) = documents(capsys.readouterr().out)
    assert sidecars(document["spec"]["template"]) == ["postern"]
    assert document["metadata"] == {"name": "postfix", "namespace": "mail"}


def test_a_cron_job(tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert inject(tmp_path, cron_job(), "--policy", policy) == 0
    (document,) = documents(capsys.readouterr().out)
    assert sidecars(document["spec"]["jobTemplate"]["spec"]["template"]) == ["postern"]


def test_what_comes_out_is_injected_already(tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    inject(tmp_path, workload("Deployment"), "--policy", policy)
    once = capsys.readouterr().out
    assert inject(tmp_path, once, "--policy", policy) == 0
    assert capsys.readouterr().out == once


def test_several_documents_with_their_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one file, as `kubectl apply` would take it; what is no workload passes."""
    service = "kind: Service\nmetadata: {name: postfix}\n"
    text = "\n---\n".join([workload("Deployment"), "", service, POLICY, POD.replace("app: postfix", "app: other")])
    assert inject(tmp_path, text) == 1
    printed = capsys.readouterr()
    deployment, other, policy, pod = documents(printed.out)
    assert sidecars(deployment["spec"]["template"]) == ["postern"]
    assert (other["kind"], policy["kind"], sidecars(pod)) == ("Service", "MailProxyPolicy", [])
    assert printed.err.splitlines() == [
        "Deployment postfix: injected by MailProxyPolicy edge",
        "Pod postfix: skipped (NoPolicy): no selector matches its labels (edge)",
    ]


def test_lists(tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    (pod,) = documents(POD)
    whole = {"kind": "List", "apiVersion": "v1", "items": [pod, {"kind": "PodList", "items": [pod]}, "nothing"]}
    assert inject(tmp_path, json.dumps(whole, default=str), "--policy", policy) == 0
    first, second, third = documents(capsys.readouterr().out)[0]["items"]
    assert (sidecars(first), sidecars(second["items"][0]), third) == (["postern"], ["postern"], "nothing")


def test_standard_input(policy: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(POD.encode())))
    assert command_line.main(["inject", "-f", "-", "--policy", policy]) == 0
    assert sidecars(documents(capsys.readouterr().out)[0]) == ["postern"]


def test_a_diff(tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert inject(tmp_path, POD, "--policy", policy, "--output", "diff") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["--- Pod/postfix", "+++ Pod/postfix injected"]
    assert "+    postern.dev/policy: edge" in lines
    assert not [line for line in lines[2:] if line.startswith("-")]


def test_json(tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert inject(tmp_path, POD, "--policy", policy, "--output", "json") == 0
    assert sidecars(json.loads(capsys.readouterr().out)) == ["postern"]
    assert inject(tmp_path, f"{POD}\n---\n{POD}", "--policy", policy, "--output", "json") == 0
    assert [sidecars(each) for each in json.loads(capsys.readouterr().out)["items"]] == [["postern"]] * 2


def test_of_several_policies_the_winner_counts(tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(POLICY.replace("name: edge", "name: urgent").replace("spec:", "spec:\n  priority: 1"))
    assert inject(tmp_path, POD, "--policy", policy, "--policy", str(other)) == 0
    assert "injected by MailProxyPolicy urgent" in capsys.readouterr().err


def test_a_listener_on_the_admin_port_of_the_settings_is_refused(
    tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("sidecar: {adminPort: 25}\n")
    assert inject(tmp_path, POD, "--policy", policy, "--settings", str(file)) == 1
    said = capsys.readouterr().err
    assert "spec.inbound[0].port: 25 is the sidecar's admin port" in said
    assert "sidecar.adminPort" in said


def test_settings_of_the_operator(tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("sidecar: {image: 'registry.example/s:1'}")
    assert inject(tmp_path, POD, "--policy", policy, "--settings", str(file)) == 0
    assert documents(capsys.readouterr().out)[0]["spec"]["initContainers"][0]["image"] == "registry.example/s:1"


SKIPPED = {
    "has no selector": (POLICY.replace("selector: {matchLabels: {app: postfix}}", "priority: 0"), POD),
    "there is no MailProxyPolicy of namespace mail": (POLICY.replace("namespace: mail", "namespace: other"), POD),
    "(OptedOut)": (POLICY, POD.replace("app: postfix", "app: postfix, postern.dev/inject: disabled")),
    "(PolicyInvalid): MailProxyPolicy edge is invalid": (POLICY.replace("port: 25,", "port: 15925,"), POD),
    "(InternalError): this is no pod that an API server would take": (POLICY, POD.replace("containers:", "oops:")),
}


@pytest.mark.parametrize("said", SKIPPED)
def test_why_not(said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy, pod = SKIPPED[said]
    assert inject(tmp_path, f"{policy}\n---\n{pod}") == 1
    printed = capsys.readouterr()
    assert "Pod postfix: skipped (" in printed.err
    assert said in printed.err
    assert documents(printed.out) == documents(f"{policy}\n---\n{pod}".replace("2026-11-22", "'2026-11-22'"))


def test_what_is_wrong_with_a_policy_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = POLICY.replace("port: 25,", "port: 15925,") + "nonsense: 1\n"
    assert inject(tmp_path, f"{wrong}\n---\n{POD}") == 1
    said = capsys.readouterr().err
    assert "MailProxyPolicy edge: spec.inbound[0].port" in said
    assert "nonsense" in said


def test_a_policy_that_is_wrong_is_a_failure_though_it_selects_nothing(
    tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = POLICY.replace("port: 25,", "port: 15925,").replace("app: postfix", "app: other")
    assert inject(tmp_path, f"{wrong}\n---\n{POD}", "--policy", policy) == 1
    assert "Pod postfix: injected by MailProxyPolicy edge" in capsys.readouterr().err


def test_what_the_chart_does_not_allow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = POLICY + "  sidecar: {image: evil}\n"
    assert inject(tmp_path, f"{wrong}\n---\n{POD}") == 1
    assert "sidecar.allowedImages" in capsys.readouterr().err


def test_a_warning_of_injection(tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    pod = POD.replace("image: registry", "ports: [{containerPort: 25}]\n    image: registry")
    assert inject(tmp_path, pod, "--policy", policy) == 0
    assert "Pod postfix: warning: container postfix declares port 25" in capsys.readouterr().err


UNREADABLE = {
    "not YAML: while parsing": "a: [",
    "not YAML: ": "a: \x07",
    "found duplicate key": "{a: 1, a: 2}",
    "not a mapping": "- a",
    "no pod, and nothing with a pod template": "kind: Service",
    "no pod, and": "kind: Pod\nspec: 5",
    "no pod, ": "",
    "not YAML: RecursionError": "[" * 5000,
}


@pytest.mark.parametrize("said", UNREADABLE)
def test_what_cannot_be_read(said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inject(tmp_path, UNREADABLE[said]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert "manifest.yaml: " in printed.err
    assert printed.out == ""


def test_files_that_are_not_there_or_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["inject", "-f", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: No such file" in capsys.readouterr().err
    (tmp_path / "binary.yaml").write_bytes(b"\xff\x00")
    assert command_line.main(["inject", "-f", str(tmp_path / "binary.yaml")]) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_a_file_has_a_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline, "MAX_SIZE", 1 << 20)
    assert inject(tmp_path, "#" * (1 << 20)) == 2
    assert "no pod" in capsys.readouterr().err
    assert inject(tmp_path, "#" * ((1 << 20) + 1)) == 2
    assert "larger than 1 MiB" in capsys.readouterr().err


def test_a_policy_file_without_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("kind: Service")
    assert inject(tmp_path, POD, "--policy", str(file)) == 2
    assert "policy.yaml: no MailProxyPolicy of postern.dev/v1alpha1" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["sidecar: {nonsense: 1}", "- 1", None])
def test_settings_that_are_wrong(text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.yaml"
    if text is not None:
        file.write_text(text)
    assert inject(tmp_path, POD, "--settings", str(file)) == 2
    assert "settings.yaml: " in capsys.readouterr().err
