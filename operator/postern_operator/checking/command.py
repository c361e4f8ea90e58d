"""`postern-operator check`: gathers, judges, prints. Raises nothing."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from postern_sidecar.version import VERSION

from ..kube import KubeError, connected
from . import cluster, policies, report, webhook
from .facts import Facts, Unread
from .gathering import AT_ONCE, Order, gather

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..settings import Settings
    from .report import Entry

CHECKS = (*cluster.CHECKS, *webhook.CHECKS, *policies.CHECKS)
LONGEST = 300.0
"""Seconds for everything: an API server that answers slowly is not waited for without an end."""


def run(
    settings: Settings | None,
    *,
    release: str = "",
    namespaces: tuple[str, ...] = (),
    connect: bool | None = None,
    json: bool = False,
    strict: bool = False,
    kubeconfig: str = "",
) -> int:
    """The exit status: 0, 1 something is to be done, 2 no cluster answers. `connect`: try backends; None where that is
    sensible, in a pod. `strict`: warnings count."""
    try:
        facts = asyncio.run(_gathered(Order(settings, release, namespaces, connect), kubeconfig))
    except (KubeError, TimeoutError) as problem:
        text = str(problem) or f"not done within {LONGEST:g} s"
        unasked = Facts(now=datetime.now(UTC), version=VERSION, server=Unread(text))
        _print(report.evaluate(cluster.CHECKS[:1], unasked), json=json)
        return 2
    entries = report.evaluate(CHECKS, facts)
    _print(entries, json=json)
    return report.status(entries, strict=strict)


async def _gathered(order: Order, kubeconfig: str) -> Facts:
    async with asyncio.timeout(LONGEST), connected(kubeconfig, connections=AT_ONCE) as kube:
        return await gather(kube, order)


def _print(entries: Sequence[Entry], *, json: bool) -> None:
    if json:
        print(report.as_json(entries, VERSION))
        return
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    print(report.as_text(entries, ascii_only=encoding != "utf8"))
