"""`postern-operator check` in tests: run in this process, against the real API server, and what it said."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from postern_operator.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.admin import Admin

Object = dict[str, Any]


@dataclass(frozen=True)
class Said:
    status: int
    report: Object

    def of(self, identifier: str) -> list[Object]:
        return [entry for entry in self.report["checks"] if entry["id"] == identifier]

    def problems(self) -> dict[str, list[str]]:
        """Messages of errors and warnings by their check."""
        found: dict[str, list[str]] = {}
        for entry in self.report["checks"]:
            if entry["result"] in ("error", "warning"):
                found.setdefault(entry["id"], []).append(entry["message"])
        return found


def check(kubeconfig: Path, *arguments: str) -> Said:
    status, text = said(kubeconfig, "--json", *arguments)
    return Said(status, json.loads(text))


def said(kubeconfig: Path, *arguments: str) -> tuple[int, str]:
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(out):
        status = main(["check", "--kubeconfig", str(kubeconfig), *arguments])
    out.seek(0)
    return status, out.read()


def policy(name: str = "edge", *, app: str = "mail", port: int = 2525, backend: int = 2526, **spec: object) -> Object:
    listener = {"name": "smtp", "port": port, "backend": {"port": backend, "handover": "ProxyV2"}}
    return {
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "MailProxyPolicy",
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": app}}, "inbound": [listener], **spec},
    }


def policies(namespace: str) -> str:
    return f"/apis/postern.dev/v1alpha1/namespaces/{namespace}/mailproxypolicies"


@contextlib.contextmanager
def replaced(admin: Admin, path: str, key: str, value: object) -> Iterator[None]:
    """The object's field `key` (a top-level one) holds `value`, and what it held before afterwards."""
    before = admin.get(path)
    admin.update(path, {**before, key: value})
    try:
        yield
    finally:
        now = admin.get(path)
        admin.update(path, {**now, key: before.get(key)})


@contextlib.contextmanager
def without(admin: Admin, path: str) -> Iterator[None]:
    """The object is gone meanwhile."""
    before = admin.get(path)
    admin.delete(path)
    try:
        yield
    finally:
        for field in ("resourceVersion", "uid", "creationTimestamp", "managedFields"):
            before["metadata"].pop(field, None)
        admin.create(path.rpartition("/")[0], before)
