"""The chart as the tests see it: sets of values, and what helm makes of them.

`tests/charts/goldens/default.yaml` is what the default values render, `NAME.diff` what another set changes there.
After a change that is meant, and with a look at `git diff`:

    python tests/support/chart.py

writes them again, and the table of values in docs/chart.md.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from cluster.binaries import binary

Object = dict[str, Any]

CHART = Path(__file__).parents[2] / "charts" / "postern"
GOLDENS = Path(__file__).parents[1] / "charts" / "goldens"
DOCUMENTATION = CHART.parents[1] / "docs" / "chart.md"
TABLE, TABLE_END = "<!-- values -->", "<!-- end -->"
RELEASE = "postern"
NAMESPACE = "postern-system"
WATCHED = ("mail-a", "mail-b")  # namespaces that a set of values names

SETS: dict[str, Object] = {
    "default": {},
    "single": {"operator": {"replicas": 1, "podDisruptionBudget": {"enabled": False}, "topologySpreadConstraints": []}},
    "fail": {
        "webhook": {
            "failurePolicy": "Fail",
            "timeoutSeconds": 3,
            "namespaceSelector": {
                "matchLabels": {"tier": "mail"},
                "matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "b"]}],
            },
            "matchConditions": [{"name": "not-a-job", "expression": "!has(object.metadata.generateName)"}],
        }
    },
    "url": {"webhook": {"url": "https://127.0.0.1:8443", "matchConditions": [{"name": "all", "expression": "true"}]}},
    "cert-manager": {"webhook": {"certificates": {"mode": "CertManager"}}},
    "cert-manager-issuer": {
        "webhook": {
            "url": "https://webhook.example.net/",
            "certificates": {
                "mode": "CertManager",
                "issuerRef": {"name": "ca", "kind": "ClusterIssuer", "group": "cert-manager.io"},
            },
        }
    },
    "cert-manager-address": {"webhook": {"url": "https://[fd00::7]:8443", "certificates": {"mode": "CertManager"}}},
    "watch-namespaces": {"operator": {"watchNamespaces": [*WATCHED]}, "evictUninjected": True},
    "evict": {"evictUninjected": True},
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "podMonitor": {"enabled": True, "interval": "1m"},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
    },
    "monitoring-watched": {"operator": {"watchNamespaces": [*WATCHED]}, "podMonitor": {"enabled": True}},
    "network-policy": {
        "networkPolicy": {
            "enabled": True,
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            "egress": {"enabled": True, "apiServerPorts": [6443]},
        }
    },
    "openshift": {
        "sidecar": {"runAsUser": None, "resources": {"limits": {"cpu": None, "memory": "1Gi"}}, "adminPort": 15999}
    },
    "images": {
        "imagePullSecrets": [{"name": "registry"}],
        "operator": {
            "image": {"registry": "registry.example:5000/", "tag": "1.2.3", "digest": f"sha256:{'0a' * 32}"},
        },
        "sidecar": {
            "image": {"registry": "registry.example", "repository": "mail/sidecar", "pullPolicy": "Always"},
            "imagePullSecrets": [{"name": "one"}, {"name": "two"}],
            "allowedImages": ["registry.example/"],
            "allowTransparent": True,
        },
    },
    "scheduling": {
        "commonLabels": {"team": "mail"},
        "priorityClass": {"create": True},
        "operator": {
            "replicas": 3,
            "labels": {"app.example/part": "operator"},
            "annotations": {"app.example/note": "yes"},
            "tolerations": [{"key": "infra", "operator": "Exists", "effect": "NoSchedule"}],
            "nodeSelector": {"pool": "infra"},
            "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
            "topologySpreadConstraints": [
                {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"},
            ],
            "podDisruptionBudget": {"maxUnavailable": "50%"},
        },
    },
    "existing": {
        "serviceAccount": {"create": False, "name": "there-already"},
        "rbac": {"create": False, "aggregate": False},
        "operator": {"priorityClassName": "system-cluster-critical"},
    },
    "crds-off": {"crds": {"enabled": False}, "fullnameOverride": "mail-gate"},
    "crds-not-kept": {"crds": {"keep": False}},
}


def helm(*args: str, values: Object | None = None) -> subprocess.CompletedProcess[str]:
    """Without a cluster. The exit status is the caller's business."""
    with tempfile.TemporaryDirectory() as home:
        env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": home, "LC_ALL": "C.UTF-8"}
        argv = [str(binary("helm")), *args, *(["--values", "-"] if values is not None else [])]
        given = json.dumps(values) if values is not None else None
        return subprocess.run(argv, input=given, env=env, capture_output=True, text=True, check=False, timeout=60)


def rendered(values: Object | None = None, *, release: str = RELEASE, namespace: str = NAMESPACE) -> str:
    """As text. AssertionError with helm's message where it refuses."""
    done = helm("template", release, str(CHART), "--namespace", namespace, values=values or {})
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def of_set(name: str) -> str:
    return rendered(SETS[name])


@functools.lru_cache(maxsize=64)
def objects(text: str) -> list[Object]:
    """Shared between tests: to be read only."""
    return [document for document in YAML(typ="safe").load_all(text) if document]


def find(text: str, kind: str, name: str = "") -> Object:
    """The one of that kind (and name)."""
    found = [item for item in objects(text) if item["kind"] == kind and name in ("", item["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} objects {kind} {name}"
    return found[0]


def golden(name: str) -> str:
    """What belongs into the golden file of a set."""
    text = _abridged(of_set(name))
    if name == "default":
        return text
    default = _abridged(of_set("default")).splitlines()
    lines = difflib.unified_diff(default, text.splitlines(), "default", name, n=3, lineterm="")
    return "\n".join(lines) + "\n"


def golden_file(name: str) -> Path:
    return GOLDENS / ("default.yaml" if name == "default" else f"{name}.diff")


def values() -> Object:
    parsed: Object = YAML(typ="safe").load((CHART / "values.yaml").read_text())
    return parsed


def documented() -> list[tuple[str, str, str]]:
    """Each value of values.yaml: its path, its default as JSON, the comment above it; "" where it has none."""
    found = []
    path: list[str] = []
    comment: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        indent = (len(line) - len(line.lstrip())) // 2
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip("# "))
        elif key := re.match(r" *([A-Za-z]+):", line):
            path[indent:] = [key[1]]
            if len(path) == indent + 1 and ".".join(path) in _leaves(values()):
                found.append((".".join(path), json.dumps(_at(path)), " ".join(comment)))
            comment = []
        else:
            comment = []
    return found


def table() -> str:
    """Of docs/chart.md."""
    rows = [f"| `{path}` | `{default}` | {comment} |" for path, default, comment in documented()]
    return "\n".join(["| value | default | what it does |", "|---|---|---|", *rows])


def _leaves(part: Object, prefix: str = "") -> list[str]:
    """A leaf is what the schema lets users fill as they like, or no object at all."""
    found: list[str] = []
    for name, below in part.items():
        if isinstance(below, dict) and below and name not in ("labels", "nodeSelector", "resources"):
            found += _leaves(below, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


def _at(path: list[str]) -> Any:
    return functools.reduce(lambda part, name: part[name], path, values())


def _abridged(text: str) -> str:
    """Without the definition's schema, which has tests of its own."""
    return re.sub(r"(?ms)(^kind: CustomResourceDefinition$.*?^spec:$).*?(?=^---$|\Z)", r"\1 {}\n", text)


def main() -> None:
    for file in GOLDENS.iterdir():
        file.unlink()
    for name in SETS:
        golden_file(name).write_text(golden(name))
    before, _, rest = DOCUMENTATION.read_text().partition(TABLE)
    DOCUMENTATION.write_text(f"{before}{TABLE}\n{table()}\n{TABLE_END}{rest.partition(TABLE_END)[2]}")


if __name__ == "__main__":
    main()
