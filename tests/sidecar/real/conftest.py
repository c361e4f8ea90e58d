"""The laboratory for tests with real mail servers: one a test, gone with it; and that for DANE, one a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dane_cases import CASES
from lab.danelab import DaneLab
from lab.laboratory import Lab
from lab.namespaces import NotRootError
from lab.trees import TreeMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator


def _lab() -> Lab:
    missing = ""
    try:
        return Lab()
    except (NotRootError, TreeMissingError) as reason:
        missing = str(reason)
    pytest.fail(missing, pytrace=False)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with _lab() as laboratory:
        yield laboratory


@pytest.fixture(scope="module")
def dane_lab() -> Iterator[DaneLab]:
    """With every case of `dane_cases`; a module's tests share it."""
    with _lab() as laboratory:
        yield DaneLab(laboratory, CASES)
