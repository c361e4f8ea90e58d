"""What a sidecar without `spec.outbound` does not carry: libraries for certificates, TLS and DNS, and what of it uses
them. Its pod would pay for them in memory and never need them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidecar_process import SidecarProcess, policy

if TYPE_CHECKING:
    from collections.abc import Mapping

LISTENER = {"name": "in0", "port": 2525, "backend": {"port": 2526, "handover": "ProxyV2"}}
# Servers, because there may be no Unbound here; nobody answers on that port, and nobody needs to.
RELAY = {"dns": {"resolver": "Servers", "servers": ["127.0.0.1:1"]}}
OURS = {"postern_sidecar.edge.outbound", "postern_sidecar.outbound", "postern_sidecar.dane", "postern_sidecar.lookup"}
OTHERS = {"aiosmtpd", "cryptography", "dns", "OpenSSL"}


@pytest.mark.parametrize(("outbound", "there"), [(None, set()), (RELAY, OURS | OTHERS)])
def test_what_outbound_needs_is_there_only_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outbound: Mapping[str, Any] | None, there: set[str]
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # a line on standard error for each import
    manifest = policy(LISTENER)
    if outbound is not None:
        manifest["spec"]["outbound"] = dict(outbound)
    with SidecarProcess(tmp_path, manifest) as sidecar:
        mapped = Path(f"/proc/{sidecar.process.pid}/maps").read_text()
    imported = set(re.findall(r"(?m)^import time:.*\| +(\S+)$", str(sidecar.errors)))
    assert "postern_sidecar.app" in imported
    assert imported & (OURS | OTHERS) == there
    assert ("/cryptography/" in mapped) == bool(there)
