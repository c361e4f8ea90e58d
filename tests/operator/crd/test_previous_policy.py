"""The previous release's `validate` accepts what this release's operator delivers for the previous corpus: a sidecar
that is older than the operator can run what it gets.

`tests/charts/previous` holds that release: its wheel, and its corpus as it was (`corpus/*.yaml`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import crd_corpus
from postern_sidecar import config

if TYPE_CHECKING:
    from crd_corpus import Case

PREVIOUS = Path(__file__).parents[2] / "charts/previous"


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the previous release's packages are; what they need is what this environment has."""
    (wheel,) = PREVIOUS.glob("*.whl")
    target = tmp_path_factory.mktemp("previous")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*command, str(wheel)], check=True, timeout=120)
    return target


def test_the_previous_release_accepts_what_is_delivered(previous: Path, tmp_path: Path) -> None:
    cases: tuple[Case, ...] = crd_corpus.good(PREVIOUS / "corpus")
    assert len(cases) >= 50
    files = [tmp_path / f"{number}.json" for number in range(len(cases))]
    for file, case in zip(files, cases, strict=True):
        file.write_bytes(config.normalized(config.load(case.data).policy))
    told = subprocess.run(
        [sys.executable, "-m", "postern_sidecar", "validate", *map(str, files)],
        env={**os.environ, "PYTHONPATH": str(previous)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
