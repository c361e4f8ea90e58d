"""What the client puts on the wire, and what it makes of answers that an API server gives only under duress.

The server here is HTTP and nothing of Kubernetes: statuses, headers, octets.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from postern_operator import kube as kube_module
from postern_operator.kube import Invalid, KubeError, TooManyRequests, Unauthorized, Unreachable, connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from postern_operator.kube import Client

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

pytestmark = pytest.mark.real


@contextlib.asynccontextmanager
async def answered(handler: Handler, tmp_path: Path, *, connections: int = 8) -> AsyncIterator[Client]:
    runner = web.ServerRunner(web.Server(handler))  # type: ignore[arg-type]
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://{host}:{port}/prefix/"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    try:
        async with connected(str(tmp_path / "config"), connections=connections) as client:
            yield client
    finally:
        await runner.cleanup()


def always(status: int, body: str = "", **headers: str) -> Handler:
    async def handler(_request: web.Request) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, text=body, headers=named)

    return handler


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (302, {"Location": "/elsewhere"}, KubeError),
        (400, {}, Invalid),
        (405, {}, KubeError),
        (429, {}, TooManyRequests),
        (500, {}, Unreachable),
        (502, {}, Unreachable),
        (503, {}, Unreachable),
        (503, {"Retry-After": "1"}, TooManyRequests),
        (504, {}, Unreachable),
    ],
)
async def test_a_status_is_a_kind(status: int, headers: dict[str, str], kind: type[KubeError], tmp_path: Path) -> None:
    async with answered(always(status, "from a proxy", **headers), tmp_path) as client:
        with pytest.raises(KubeError, match=f"GET /x: {status}: from a proxy") as raised:
            await client.get("/x")
    assert type(raised.value) is kind
    assert raised.value.status == status


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("86400", 30.0),
        ("9" * 400, 30.0),
        ("-1", 1.0),
        ("Wed, 21 Oct 2026", 1.0),
        ("\u00b2", 1.0),
    ],
)
async def test_retry_after_is_bounded(header: str, seconds: float, tmp_path: Path) -> None:
    body = json.dumps({"kind": "Status", "message": "too many", "reason": "TooManyRequests", "code": 429})
    async with answered(always(429, body, Retry_After=header), tmp_path) as client:
        with pytest.raises(TooManyRequests, match="too many") as raised:
            await client.create("/x", {})
    assert raised.value.retry_after == seconds
    assert raised.value.reason == "TooManyRequests"


@pytest.mark.parametrize("body", ["", "[]", '{"message": 7}', "\x00\x1b[2J", "x" * 100_000])
async def test_an_answer_that_is_no_status_is_shown_bounded(body: str, tmp_path: Path) -> None:
    async with answered(always(500, body), tmp_path) as client:
        with pytest.raises(Unreachable) as raised:
            await client.get("/x")
    assert str(raised.value).isprintable()
    assert len("GET /x: 500: ") < len(str(raised.value)) < 600


async def test_what_is_sent(tmp_path: Path) -> None:
    seen: list[tuple[str, str, str | None, str | None, str]] = []

    async def handler(request: web.Request) -> web.Response:
        fields = request.headers
        body = await request.text()
        seen.append((request.method, request.path_qs, fields.get("Content-Type"), fields["Accept"], body))
        assert fields["User-Agent"].startswith("postern-operator/")
        assert fields["Authorization"] == "Bearer t"
        return web.Response(text="{}")

    async with answered(handler, tmp_path) as client:
        await client.get("/a")
        await client.create("/a", {"b": "ä"}, dry_run=True)
        await client.apply("/a", {"b": 1}, force=False)
        await client.merge("/a", {"b": None})
        await client.json_patch("/a", [{"op": "test"}])
        await client.delete("/a", preconditions={"uid": "u"})
    mine = "fieldManager=postern-operator"
    metadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
    plain = "application/json"
    assert seen == [
        ("GET", "/prefix/a", None, plain, ""),
        ("POST", f"/prefix/a?{mine}&dryRun=All", plain, plain, '{"b":"ä"}'),
        ("PATCH", f"/prefix/a?{mine}&force=false", "application/apply-patch+yaml", plain, '{"b":1}'),
        ("PATCH", f"/prefix/a?{mine}", "application/merge-patch+json", metadata, '{"b":null}'),
        ("PATCH", f"/prefix/a?{mine}", "application/json-patch+json", plain, '[{"op":"test"}]'),
        ("DELETE", "/prefix/a", plain, plain, '{"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"uid":"u"}}'),
    ]


async def test_a_merge_does_not_read_what_comes_back(tmp_path: Path) -> None:
    async with answered(always(200, "not JSON"), tmp_path) as client:
        await client.merge("/a", {})
        with pytest.raises(Unreachable, match="not an answer of an API server"):
            await client.get("/a")


async def test_an_answer_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_module, "MOST_OCTETS", 1 << 20)
    gone = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" " * 65536)
        except ConnectionError:
            gone.set()
            raise

    async with answered(endless, tmp_path) as client:
        with pytest.raises(Unreachable, match="more than 1 MiB"):
            await client.get("/a")
        await asyncio.wait_for(gone.wait(), 10)


async def test_calls_wait_for_a_connection_within_their_time(tmp_path: Path) -> None:
    at_once = most = 0
    let_go = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await let_go.wait()
        at_once -= 1
        return web.Response(text="{}")

    async with answered(handler, tmp_path, connections=2) as client:
        calls = [asyncio.ensure_future(client.get("/a", timeout=20)) for _ in range(6)]
        with pytest.raises(Unreachable, match="no answer within"):
            await client.get("/a", timeout=0.1)
        let_go.set()
        await asyncio.gather(*calls)
    assert most == 2


async def test_a_refusal_of_the_credentials_is_tried_again_once(tmp_path: Path) -> None:
    asked = 0

    async def handler(_request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=401)

    async with answered(handler, tmp_path) as client:
        with pytest.raises(Unauthorized):
            await client.get("/a")
    assert asked == 2


async def test_an_expired_continuation_without_another_is_a_conflict(tmp_path: Path) -> None:
    async with answered(always(410, '{"reason":"Expired","message":"too old"}'), tmp_path) as client:
        with pytest.raises(kube_module.Conflict, match="too old"):
            _ = [page async for page in client.pages("/a")]


async def test_continuations_that_expire_for_ever_end(tmp_path: Path) -> None:
    async with answered(always(410, '{"reason":"Expired","metadata":{"continue":"same"}}'), tmp_path) as client:
        with pytest.raises(kube_module.Conflict):
            _ = [page async for page in client.pages("/a")]


async def test_the_warnings_of_a_rehearsal(tmp_path: Path) -> None:
    """As RFC 9111 quotes them, at most MOST_WARNINGS, without control characters."""

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.query["dryRun"] == "All"
        response = web.json_response({"kind": "Pod"})
        for text in [r"a \"quoted\" \\ one", "b\tc", *["d"] * kube_module.MOST_WARNINGS]:
            response.headers.add("Warning", f'299 - "{text}"')
        return response

    async with answered(handler, tmp_path) as client:
        pod, warnings = await client.rehearse("/api/v1/namespaces/n/pods", {"kind": "Pod"})
    assert pod == {"kind": "Pod"}
    assert warnings[:3] == (r'a "quoted" \ one', "b?c", "d")
    assert len(warnings) == kube_module.MOST_WARNINGS
