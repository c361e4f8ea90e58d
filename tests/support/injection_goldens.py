"""Pods in and out of injection, as files: `NAME.in.yaml` has a pod, and what differs from the usual injection and
settings; `NAME.out.yaml` what came of it. After a change that is meant, and with a look at `git diff`:

    python tests/support/injection_goldens.py

writes the second ones again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from postern_operator.inject import Skipped, inject
from postern_operator.model import Injection
from postern_operator.settings import Settings

FOLDER = Path(__file__).parents[1] / "operator" / "unit" / "inject" / "goldens"
VERSION = "1.2.3"
USUAL: dict[str, Any] = {
    "policy": "edge",
    "uid": "5f3c9a52-9d0e-4d53-8c39-0f6a3f0a7c11",
    "hash": "3f9c" * 16,
    "listeners": [{"name": "smtp", "port": 25}],
}
SETTINGS: dict[str, Any] = {"sidecar": {"image": "registry.example/postern-sidecar:1.2.3"}}


@dataclass(frozen=True, slots=True)
class Golden:
    name: str
    pod: dict[str, Any]
    injection: Injection
    settings: Settings

    @property
    def expected(self) -> dict[str, Any]:
        return _read(FOLDER / f"{self.name}.out.yaml")

    @property
    def skipped(self) -> bool:
        return "skipped" in self.expected


def names() -> list[str]:
    return sorted(path.name.removesuffix(".in.yaml") for path in FOLDER.glob("*.in.yaml"))


def golden(name: str) -> Golden:
    read = _read(FOLDER / f"{name}.in.yaml")
    sidecar = {**SETTINGS["sidecar"], **read.get("settings", {})}
    return Golden(
        name,
        read["pod"],
        msgspec.convert({**USUAL, **read.get("injection", {})}, Injection),
        msgspec.convert({**SETTINGS, "sidecar": sidecar}, Settings),
    )


def result(golden: Golden) -> dict[str, Any]:
    """In the form of `NAME.out.yaml`."""
    try:
        injected = inject(golden.pod, golden.injection, golden.settings, VERSION)
    except Skipped as skipped:
        return {"skipped": skipped.reason.value, "message": skipped.message}
    whole: dict[str, Any] = {"pod": injected.pod}
    if injected.warnings:
        whole["warnings"] = list(injected.warnings)
    return whole


def _read(path: Path) -> dict[str, Any]:
    return msgspec.yaml.decode(path.read_bytes(), type=dict[str, Any])


def _write() -> None:
    for name in names():
        text = msgspec.yaml.encode(result(golden(name)))
        (FOLDER / f"{name}.out.yaml").write_bytes(text)


if __name__ == "__main__":
    _write()
