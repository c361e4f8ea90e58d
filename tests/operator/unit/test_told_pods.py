"""Which events of injected pods are worth a look at their policy."""

from __future__ import annotations

from typing import Any

import kopf

from postern_operator.cache import Cache
from postern_operator.handlers import NoDiffs, Told, operator_settings
from postern_operator.model import Key
from postern_operator.queue import Queue
from postern_operator.settings import Settings

KEY = Key("mail", "pod-1")


def event(version: int, *, poke: str = "", ip: str = "10.0.0.1", kind: str = "MODIFIED") -> dict[str, Any]:
    labels, annotations = {"postern.dev/policy": "edge"}, {"postern.dev/config-hash": poke}
    metadata = {"namespace": KEY.namespace, "name": KEY.name, "uid": "u", "resourceVersion": str(version)}
    pod = {"metadata": {**metadata, "labels": labels, "annotations": annotations}, "status": {"podIP": ip}}
    return {"type": kind, "object": pod}


def told() -> tuple[Told, Cache, Queue[Key]]:
    cache, queue = Cache(), Queue[Key]()
    return Told(cache, queue, Settings()), cache, queue


async def test_a_new_pod_and_a_changed_one_are() -> None:
    heard, _, queue = told()
    await heard.pod(event(1, kind="ADDED"))
    assert len(queue) == 1
    heard, cache, queue = told()
    await heard.pod(event(1))
    heard = Told(cache, later := Queue[Key](), Settings())
    await heard.pod(event(2, ip="10.0.0.2"))
    assert len(later) == 1


async def test_a_poke_is_not_but_is_known() -> None:
    heard, cache, _ = told()
    await heard.pod(event(1, poke="a.0"))
    heard = Told(cache, later := Queue[Key](), Settings())
    await heard.pod(event(2, poke="a.1"))
    assert len(later) == 0
    seen = cache.pod(KEY)
    assert seen is not None
    assert seen.poke == "a.1"


async def test_another_pod_of_the_name_is() -> None:
    heard, cache, _ = told()
    await heard.pod(event(1))
    heard = Told(cache, later := Queue[Key](), Settings())
    other = event(2, poke="a.1")
    other["object"]["metadata"]["uid"] = "v"
    await heard.pod(other)
    assert len(later) == 1


def test_kopf_copies_no_object() -> None:
    storage = operator_settings().persistence.diffbase_storage
    assert isinstance(storage, NoDiffs)
    body = kopf.Body(event(1)["object"])
    assert storage.build(body=body) == {}
    assert storage.fetch(body=body) is None
    patch = kopf.Patch()
    storage.store(body=body, patch=patch, essence={})
    assert not patch
