"""Arguments to options, problems to exit codes."""

from __future__ import annotations

import io
import subprocess
import sys
import types
from pathlib import Path
from typing import NoReturn

import pytest

import postern_sidecar
from postern_sidecar import config
from postern_sidecar.__main__ import main
from postern_sidecar.config.options import Options
from postern_sidecar.version import VERSION

GOOD = (
    "apiVersion: postern.dev/v1alpha1\nkind: MailProxyPolicy\nmetadata: {name: edge}\n"
    "spec: {inbound: [{name: smtp, port: 25, backend: {port: 2525, handover: ProxyV2}}]}\n"
)
WARNS = GOOD.replace("port: 25,", "port: 25, proxyProtocol: {requiredFrom: ['*']},")
BAD = GOOD.replace("port: 25,", "port: 0,")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Options]]:
    """`postern_sidecar.app`, which notes what it is asked."""
    made: list[tuple[str, Options]] = []
    app = types.ModuleType("postern_sidecar.app")

    def run(options: Options) -> int:
        made.append(("run", options))
        return 7

    def drain(options: Options) -> int:
        made.append(("drain", options))
        return 8

    app.run, app.drain = run, drain  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "postern_sidecar.app", app)
    monkeypatch.setattr(postern_sidecar, "app", app, raising=False)
    return made


def test_run(calls: list[tuple[str, Options]]) -> None:
    assert main(["run", "--config", "policy.yaml"]) == 7
    assert calls == [("run", Options(config=Path("policy.yaml")))]
    defaults = calls[0][1]
    assert (defaults.admin, defaults.state_dir, defaults.grace, defaults.drain_delay) == (
        None,
        Path("/run/postern"),
        20,
        5,
    )
    assert not defaults.ephemeral_ports


def test_run_with_everything(calls: list[tuple[str, Options]]) -> None:
    given = "run --config c --admin [::1]:0 --state-dir s --grace 1.5 --drain-delay 0 --ephemeral-ports --credentials d"
    assert main(given.split()) == 7
    assert calls == [("run", Options(Path("c"), ("::1", 0), Path("s"), 1.5, 0.0, True, Path("d")))]


@pytest.mark.parametrize(
    ("text", "admin"),
    [
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::]:15925", ("::", 15925)),
        (":9", ("", 9)),
        ("[::ffff:127.0.0.1]:9", ("127.0.0.1", 9)),
    ],
)
def test_admin(calls: list[tuple[str, Options]], text: str, admin: tuple[str, int]) -> None:
    main(["run", "--config", "c", "--admin", text])
    assert calls[0][1].admin == admin


@pytest.mark.parametrize(
    "text", ["", "9", "::1:9", "localhost:9", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "[::1]"]
)
def test_no_admin(calls: list[tuple[str, Options]], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", "--config", "c", "--admin", text])
    assert caught.value.code == 2
    assert f"{text!r} is not ADDR:PORT; write 127.0.0.1:15925 or [::1]:15925" in capsys.readouterr().err
    assert calls == []


@pytest.mark.parametrize("text", ["x", "-1", "nan", "inf", "86401"])
def test_no_seconds(calls: list[tuple[str, Options]], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", "--config", "c", f"--grace={text}"])
    assert caught.value.code == 2
    assert f"{text!r} is not a number of seconds; write one from 0 to 86400" in capsys.readouterr().err


def test_drain(calls: list[tuple[str, Options]]) -> None:
    assert main(["drain"]) == 8
    assert main(["drain", "--state-dir", "s"]) == 8
    assert calls == [("drain", Options()), ("drain", Options(state_dir=Path("s")))]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"postern-sidecar {VERSION}\n"


@pytest.mark.parametrize("arguments", [[], ["run"], ["validate"], ["nonsense"]])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: postern-sidecar" in capsys.readouterr().err


def test_validate_says_all_of_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, warns, bad = (tmp_path / name for name in ("good.yaml", "warns.yaml", "bad.yaml"))
    for path, text in ((good, GOOD), (warns, WARNS), (bad, BAD)):
        path.write_text(text)
    assert main(["validate", str(good), str(warns)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{good}: good"
    assert out[1].startswith(f"{warns}:4: warning: spec.inbound[0].proxyProtocol.requiredFrom[0]: * believes anybody")
    assert out[2:] == [f"{warns}: good"]
    assert main(["validate", str(bad), str(good)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out == [f"{bad}:4: spec.inbound[0].port: 0 is out of bounds; 1 to 65535 are allowed", f"{good}: good"]
    assert main(["validate", str(bad), str(tmp_path / "none"), str(good)]) == 2
    told = capsys.readouterr()
    assert told.err == f"{tmp_path}/none: there is no such file; give the path of a MailProxyPolicy manifest\n"
    assert len(told.out.splitlines()) == 2


def test_validate_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for text, code, told in ((GOOD, 0, "standard input: good"), (BAD, 1, "standard input:4: spec.inbound[0].port: 0")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert main(["validate", "-"]) == code
        assert capsys.readouterr().out.startswith(told)


def test_an_interrupt_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "load", interrupt)
    assert main(["validate", "policy.yaml"]) == 130


def test_as_a_module() -> None:
    environment = {"PYTHONPATH": ":".join(entry for entry in sys.path if entry)}
    command = [sys.executable, "-m", "postern_sidecar", "validate", "-"]
    result = subprocess.run(command, input=BAD, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.startswith("standard input:4: spec.inbound[0].port")
