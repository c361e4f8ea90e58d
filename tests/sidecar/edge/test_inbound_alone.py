"""What a sidecar without `spec.outbound` does not carry: libraries for certificates, TLS and DNS, which its pod would
pay for in memory and never use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidecar_process import SidecarProcess, policy

if TYPE_CHECKING:
    from collections.abc import Mapping

LISTENER = {"name": "in0", "port": 2525, "backend": {"port": 2526, "handover": "ProxyV2"}}
# Servers, because there may be no Unbound here; nobody answers on that port, and nobody needs to.
RELAY = {"dns": {"resolver": "Servers", "servers": ["127.0.0.1:1"]}}


@pytest.mark.parametrize(("outbound", "there"), [(None, False), (RELAY, True)])
def test_the_libraries_of_outbound_are_there_only_where_it_is(
    tmp_path: Path, outbound: Mapping[str, Any] | None, there: bool
) -> None:
    manifest = policy(LISTENER)
    if outbound is not None:
        manifest["spec"]["outbound"] = dict(outbound)
    with SidecarProcess(tmp_path, manifest) as sidecar:
        mapped = Path(f"/proc/{sidecar.process.pid}/maps").read_text()
    assert ("/cryptography/" in mapped) == there
