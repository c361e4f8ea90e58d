"""Handing a session over: how the backend learns who the client is. One file a way; `HANDOVERS` is the list.

To add one: a file here with a class that fits `base.Handover`, a member of `config.model.HandoverKind`, a line in
`HANDOVERS`, a row in docs/backends.md (CONTRIBUTING.md has the steps).
"""

from __future__ import annotations

from postern_sidecar.config.model import HandoverKind

from .base import Denied, Handed, Handover, Verdict
from .plain import Plain
from .proxy_v1 import ProxyV1
from .proxy_v2 import ProxyV2
from .transparent import Transparent
from .xclient import Xclient

HANDOVERS: dict[HandoverKind, type[Handover]] = {
    HandoverKind.PROXY_V1: ProxyV1,
    HandoverKind.PROXY_V2: ProxyV2,
    HandoverKind.XCLIENT: Xclient,
    HandoverKind.TRANSPARENT: Transparent,
    HandoverKind.PLAIN: Plain,
}

__all__ = ["HANDOVERS", "Denied", "Handed", "Handover", "Verdict"]
