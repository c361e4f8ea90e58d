"""The same manifests to the API server and to `postern-sidecar validate`: they agree on each.

Agreeing on the message means:
- Where the CRD has a CEL rule (`says`), each side finds exactly one thing, and the rule's text is the Problem's message
  and remedy. The API server's place is the Problem's, or what that stands in: a rule on a list names the list.
- Where the API server refuses the structure (`at`), its words are its own, and there may be several. Every place that
  it names, and every place that the Problems name, is the case's, or stands in it, or it in that.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import crd_corpus
from cluster.admin import ApiError
from crd_corpus import Case
from postern_sidecar import config

if TYPE_CHECKING:
    from cluster.control import ControlPlane

pytestmark = pytest.mark.real

CASES = crd_corpus.cases()
_VALUE = re.compile(r'Required value: |Invalid value: (?:(?:"(?:[^"\\]|\\.)*"|[0-9]+): )?')
_PLACE = re.compile(r"spec[\w.\[\]-]*")
_STRICT = re.compile(r'(?:unknown|duplicate) field "([^"]*)"')
_UNCHECKED = "some validation rules were not checked"


class Found(list[tuple[str, str]]):
    """Places and texts; empty: accepted."""

    @property
    def places(self) -> set[str]:
        return {place for place, _ in self}

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self]


def by_the_api_server(control_plane: ControlPlane, policies: str, case: Case) -> Found:
    try:
        control_plane.admin.create(policies, case.manifest, dry_run=True)
    except ApiError as refused:
        return _refused(refused)
    return Found()


def _refused(answer: ApiError) -> Found:
    body = answer.body
    assert answer.status in (400, 422), answer
    assert isinstance(body, dict)
    causes = body.get("details", {}).get("causes", [])
    found = Found(_placed(cause) for cause in causes if _UNCHECKED not in cause["message"])
    return found or Found(_whole(answer.message))


def _placed(cause: dict[str, str]) -> tuple[str, str]:
    """A cause without a field names its place in its text, or is about the whole object: place ""."""
    place, text = cause["field"], cause["message"]
    if place == "<nil>":
        named = _PLACE.search(text)
        place = named[0] if named else ""
    return place, text


def _whole(message: str) -> list[tuple[str, str]]:
    """A refusal before validation names its places in its text."""
    return [(place, message) for place in _STRICT.findall(message)] or [("", message)]


def by_the_model(case: Case) -> Found:
    try:
        config.load(case.data)
    except config.InvalidPolicy as refused:
        return Found((p.path, f"{p.message}; {p.remedy}") for p in refused.problems if not p.warning)
    return Found()


def plain(place: str) -> str:
    """The API server writes `[key]` where the Problem writes `['key']`, or `.key`."""
    return re.sub(r"\[([^\]0-9][^\]]*)\]", r".\1", place.replace("'", "").replace('"', ""))


def within(place: str, above: str) -> bool:
    place, above = plain(place), plain(above)
    return not above or place == above or place.startswith((f"{above}.", f"{above}["))


def related(one: str, other: str) -> bool:
    return within(one, other) or within(other, one)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_they_agree(case: Case, control_plane: ControlPlane, policies: str) -> None:
    server, model = by_the_api_server(control_plane, policies, case), by_the_model(case)
    assert bool(server) is not case.stored, server
    assert bool(model) is not case.good, model
    if case.says:
        assert model == [(case.at, case.says)]
        assert [_VALUE.sub("", text, count=1) for text in server.texts] == [case.says]
        assert all(related(case.at, place) for place in server.places), server
    elif case.only is not None:
        assert model.places == {case.at}
        assert model.texts[0].startswith(case.only)
    elif case.at in ("apiVersion", "kind"):  # of another kind nothing else is worth saying, to the model
        assert model.places == {case.at}
    elif not case.good:
        for place in server.places | model.places:
            assert related(place, case.at or case.mends), (server, model)


def test_the_corpus_is_large() -> None:
    assert len(CASES) >= 150
    assert len(crd_corpus.good()) >= 50
    assert sum(bool(case.says) for case in CASES) >= 100


def test_a_key_twice_is_refused_by_both(control_plane: ControlPlane, policies: str) -> None:
    (least,) = (case for case in CASES if case.name == "the least")
    data = least.data.replace(b'"port": 25,', b'"port": 25, "port": 26,')
    with pytest.raises(config.InvalidPolicy, match="the key 'port' stands here again"):
        config.load(data)
    with pytest.raises(ApiError, match=r'duplicate field "spec.inbound\[0\].port"'):
        control_plane.admin._exchange(  # its other ways take a mapping, and none holds a key twice
            "POST", f"{policies}?dryRun=All&fieldValidation=Strict", data, {"Content-Type": "application/json"}
        )


def _is_error(line: str, file: Path) -> bool:
    return line.startswith(f"{file}:") and ": warning: " not in line and not line.endswith(": good")


def test_the_command_line_says_the_same(tmp_path: Path) -> None:
    """One process for a sample: what `validate` prints and its status are the model's findings."""
    sample = CASES[::10]
    files = [tmp_path / f"{number}.json" for number in range(len(sample))]
    for file, case in zip(files, sample, strict=True):
        file.write_bytes(case.data)
    done = subprocess.run(
        [sys.executable, "-m", "postern_sidecar", "validate", *map(str, files)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "sidecar")},
        check=False,
    )
    assert done.returncode == 1, done.stderr
    printed = (done.stdout + done.stderr).splitlines()
    for file, case in zip(files, sample, strict=True):
        mine = [line for line in printed if _is_error(line, file)]
        assert bool(by_the_model(case)) is bool(mine), mine
        for place, text in by_the_model(case):
            assert any(line.endswith(f"{place}: {text}") for line in mine), (text, mine)


@pytest.mark.parametrize("case", crd_corpus.good(), ids=lambda case: case.name)
def test_defaults_vanish(case: Case, control_plane: ControlPlane, policies: str) -> None:
    """What the API server stores means what was written: its defaults are the model's."""
    stored = control_plane.admin.create(policies, case.manifest, dry_run=True)
    loaded = config.load(case.data).policy
    again = config.load(json.dumps(stored).encode()).policy
    assert json.loads(config.normalized(again))["spec"] == json.loads(config.normalized(loaded))["spec"]
    assert again.spec == loaded.spec
