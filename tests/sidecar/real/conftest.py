"""The laboratory for tests with real mail servers: one a test, gone with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.laboratory import Lab
from lab.namespaces import NotRootError
from lab.trees import TreeMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def lab() -> Iterator[Lab]:
    missing = ""
    try:
        laboratory = Lab()
    except (NotRootError, TreeMissingError) as reason:
        missing = str(reason)
    if missing:
        pytest.fail(missing, pytrace=False)
    with laboratory:
        yield laboratory
