"""`postern-operator`: which command gets what, and how it ends. `inject` has a file of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import postern_operator
from postern_operator import __main__ as command_line
from postern_operator import offline
from postern_operator.settings import Settings

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[4]
Call = tuple[tuple[Any, ...], dict[str, Any]]


def standing_in(monkeypatch: pytest.MonkeyPatch, name: str, status: int) -> list[Call]:
    """A module of that name whose `run` takes note and ends so."""
    calls: list[Call] = []

    def run(*arguments: object, **options: object) -> int:
        calls.append((arguments, options))
        return status

    module = ModuleType(f"postern_operator.{name}")
    vars(module)["run"] = run
    monkeypatch.setitem(sys.modules, f"postern_operator.{name}", module)
    monkeypatch.setattr(postern_operator, name, module, raising=False)  # where it has been imported before
    return calls


def test_run_takes_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = standing_in(monkeypatch, "app", 1)
    file = tmp_path / "settings.yaml"
    file.write_text("namespace: mail-system")
    assert command_line.main(["run", "--settings", str(file)]) == 1
    assert calls == [((Settings(namespace="mail-system"),), {})]


def test_check_takes_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = standing_in(monkeypatch, "checking", 1)
    assert command_line.main(["check"]) == 1
    nothing = {"release": "", "namespaces": (), "connect": None, "json": False, "strict": False, "kubeconfig": ""}
    assert calls.pop() == ((None,), nothing)
    file = tmp_path / "settings.yaml"
    file.touch()
    chosen = ["--settings", str(file), "--release-namespace", "r", "--namespace", "a", "--namespace", "b", "--json"]
    chosen += ["--connect-backends", "--strict", "--kubeconfig", "k"]
    assert command_line.main(["check", *chosen]) == 1
    places = {"release": "r", "namespaces": ("a", "b"), "connect": True}
    assert calls.pop() == ((Settings(),), {**places, "json": True, "strict": True, "kubeconfig": "k"})


def test_run_with_settings_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["run", "--settings", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: No such file" in capsys.readouterr().err


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(offline, "run", interrupted)
    assert command_line.main(["inject", "-f", "-"]) == 130


def test_nobody_reads_on() -> None:
    """A reader that is gone before the first line."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = _program("version", stdout=writing)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_inject_needs_no_kubernetes() -> None:
    """Nor kopf: a command for a laptop starts at once."""
    code = "import sys, postern_operator.offline; print({'kopf', 'kubernetes', 'aiohttp'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], env=_environment(), capture_output=True, check=True)
    assert ended.stdout == b"set()\n"


def _program(*arguments: str, stdout: int) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-m", "postern_operator", *arguments]
    return subprocess.run(argv, env=_environment(), stdout=stdout, stderr=subprocess.PIPE, check=False)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("operator", "sidecar"))}
