"""How the caches are held against LISTs while the watches fill them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from postern_operator import kube, reconcile
from postern_operator.cache import Cache, Resource
from postern_operator.gather import Gathering
from postern_operator.model import Key
from postern_operator.queue import Queue
from postern_operator.reconcile import Resync
from postern_operator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from cluster.control import ControlPlane

pytestmark = pytest.mark.real
LATE = 12  # looks at the cache until the watch of namespaces has told


class Told(Cache):
    """A cache whose watch of namespaces is slow."""

    looks = 0

    def missing(self, resource: Resource, present: Mapping[Key, str]) -> list[Key]:
        self.looks += resource is Resource.NAMESPACES
        if self.looks == LATE:
            for key, uid in present.items():
                self.put_namespace(key.name, uid, "1")
        return super().missing(resource, present) if resource is Resource.NAMESPACES else []


class Counted:
    """The client, and how many LISTs of namespaces it was asked for. All LISTs are of these: there is no CRD here."""

    def __init__(self, client: kube.Client) -> None:
        self._client, self.lists = client, 0

    def pages(self, path: str, **query: Any) -> AsyncIterator[list[kube.Object]]:
        self.lists += path.endswith("/namespaces")
        return self._client.pages("/api/v1/namespaces", **{**query, "selector": "postern.dev/inject=enabled"})


async def test_a_slow_watch_is_waited_for_without_another_list(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "FILL_EVERY", 0.001)
    with control_plane.namespace({"postern.dev/inject": "enabled"}):
        async with kube.connected(str(control_plane.kubeconfig)) as client:
            counted, cache = Counted(client), Told()
            known = cast("kube.Kube", counted)
            resync = Resync(known, cache, Gathering(known, cache, Settings()), Queue[Key](), ())
            holding = asyncio.create_task(resync.hold())
            async with asyncio.timeout(20):
                await resync.until_filled()
            holding.cancel()
    assert cache.looks > LATE
    assert counted.lists == 2
