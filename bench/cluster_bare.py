"""A client that does nothing but the operator's patches: `python -m bench.cluster_bare FILE`, JSON as `_All._bare` of
`cluster_scale` writes it. `bare` is aiohttp with bytes; `official` the raw call of kubernetes.aio, whose answer is not
made into a model. 50 at a time, as the operator. It prints the seconds of processor time that the patches took it.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import uvloop

from .cluster_results import Client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Client", "cpu_seconds"]

POKES = 50
KIND = "application/merge-patch+json"
ACCEPT = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
MANAGER = "postern-operator"


def cpu_seconds(pid: int) -> float:
    """In user and system mode, of all threads, those that have ended too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(name).read_text())
    return found


async def _all(paths: list[str], patch: Callable[[str], Awaitable[None]]) -> float:
    waiting = iter(paths)

    async def worker() -> None:
        for path in waiting:
            await patch(path)

    before = resource.getrusage(resource.RUSAGE_SELF)
    async with asyncio.TaskGroup() as group:
        for _ in range(POKES):
            group.create_task(worker())
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


async def bare(given: dict[str, Any], body: dict[str, Any]) -> float:
    config = _read(given["kubeconfig"])
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    data = json.dumps(body, separators=(",", ":")).encode()
    headers = {"Authorization": f"Bearer {user['token']}", "Content-Type": KIND, "Accept": ACCEPT}
    context = ssl.create_default_context(cafile=cluster["certificate-authority"])
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), headers=headers) as session:

        async def patch(path: str) -> None:
            url = f"{cluster['server']}{path}?fieldManager={MANAGER}"
            async with session.patch(url, data=data) as response:
                await response.read()
                response.raise_for_status()

        return await _all(given["paths"], patch)


async def official(given: dict[str, Any], body: dict[str, Any]) -> float:
    from kubernetes.aio import client, config

    await config.load_kube_config(given["kubeconfig"])  # type: ignore[no-untyped-call]
    async with client.ApiClient() as api:
        core = client.CoreV1Api(api)

        async def patch(path: str) -> None:
            _, _, _, _, namespace, _, name = path.split("/")
            response = await core.patch_namespaced_pod_without_preload_content(
                name, namespace, body, field_manager=MANAGER, _content_type=KIND
            )
            await response.read()
            response.raise_for_status()

        return await _all(given["paths"], patch)


if __name__ == "__main__":
    told = _read(sys.argv[1])
    poke: dict[str, Any] = {"metadata": {"annotations": {"postern.dev/config-hash": told["value"]}}}
    print(uvloop.run({"bare": bare, "official": official}[told["kind"]](told, poke)))
