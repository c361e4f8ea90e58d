"""The stand-in for the sidecars, a process of its own: `python -m bench.cluster_sidecars FILE`.

It answers GET /config at one loopback address a policy with what the policy's ConfigMap has had since its last watch
event: a kubelet that brings the file at once. FILE is JSON: {"url", "ca", "token", "port", "version", "policies":
{"<namespace>/postern-<name>": [address, hash before there is a ConfigMap]}}. It says `ready` when it listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import uvloop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
PATH = "/api/v1/configmaps?labelSelector=app.kubernetes.io%2Fmanaged-by%3Dpostern"


class Answers:
    """By the ConfigMap's name: what its sidecars say."""

    def __init__(self, version: str) -> None:
        self._version = version
        self.by_name: dict[str, bytes] = {}

    def put(self, name: str, config_hash: str) -> None:
        said = {
            "hash": config_hash,
            "loadedAt": "2026-01-01T00:00:00Z",
            "version": self._version,
            "source": "file",
            "error": None,
        }
        body = json.dumps(said).encode()
        self.by_name[name] = b"%bContent-Length: %d\r\n\r\n%b" % (HEAD, len(body), body)

    def take(self, config_map: dict[str, Any]) -> None:
        metadata = config_map["metadata"]
        name = f"{metadata['namespace']}/{metadata['name']}"
        file = config_map.get("data", {}).get("policy.json")
        if name in self.by_name and file is not None:
            self.put(name, hashlib.sha256(file.encode()).hexdigest())


class Sidecar(asyncio.Protocol):
    def __init__(self, answers: Answers, name: str) -> None:
        self._answers, self._name, self._read = answers, name, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._read += data
        if self._read.endswith(b"\r\n\r\n"):
            self._transport.write(self._answers.by_name[self._name])
            self._transport.close()


async def serve(given: dict[str, Any]) -> None:
    answers = Answers(given["version"])
    loop = asyncio.get_running_loop()
    for name, (address, config_hash) in given["policies"].items():
        answers.put(name, config_hash)
        made = functools.partial(Sidecar, answers, name)
        await loop.create_server(made, address, given["port"], backlog=1024)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=given["ca"])),
        headers={"Authorization": f"Bearer {given['token']}"},
        timeout=aiohttp.ClientTimeout(total=None),
    ) as session:
        async with session.get(given["url"] + PATH) as response:
            listed = await response.json()
        for item in listed["items"]:
            answers.take(item)
        version = listed["metadata"]["resourceVersion"]
        print("ready", flush=True)
        async with session.get(f"{given['url']}{PATH}&watch=1&resourceVersion={version}") as response:
            async for line in _lines(response):
                event = json.loads(line)
                if event["type"] in ("ADDED", "MODIFIED"):
                    answers.take(event["object"])
    raise SystemExit("the watch of ConfigMaps has ended")


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    rest = b""
    async for part in response.content.iter_any():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(json.loads(Path(sys.argv[1]).read_text())))
