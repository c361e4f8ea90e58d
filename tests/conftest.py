"""The control plane, for the tests that ask for it: the others import nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.control import ControlPlane


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """etcd and kube-apiserver, one for all tests: each test works in namespaces of its own."""
    from cluster.binaries import BinaryMissingError
    from cluster.control import ControlPlane, ControlPlaneError

    missing = ""
    try:
        running = ControlPlane()
    except (BinaryMissingError, ControlPlaneError) as reason:
        missing = str(reason)
    if missing:
        pytest.fail(missing, pytrace=False)
    with running:
        yield running
