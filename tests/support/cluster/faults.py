"""Faults between the operator and the API server, and operators that meet them.

    with Way(control_plane) as way, FaultyRelease(control_plane, way) as release:
        with way.throttled(3, lambda request: "/pods/" in request.path):
            ...

`Way` forwards every request to the real API server; only what a test asks for is delayed, refused, cut or held. The
operator's kubeconfig names it; the API server's own calls (webhooks) and the test's do not pass it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import ssl
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web
from cryptography import x509
from yarl import URL

import certificates

from .release import Operator, Release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Any, Self

    from .admin import Object
    from .control import ControlPlane

PATIENCE = 20.0
_HOPS = ("Host", "Connection", "Transfer-Encoding", "Content-Length", "Keep-Alive")
_TOO_OLD: Object = {
    "kind": "Status",
    "apiVersion": "v1",
    "metadata": {},
    "status": "Failure",
    "message": "too old resource version: 1 (2)",
    "reason": "Expired",
    "code": 410,
}
_BROKEN: Object = {**_TOO_OLD, "message": "etcdserver: no leader", "reason": "InternalError", "code": 500}


@dataclass(frozen=True, slots=True)
class Request:
    """`at` by time.monotonic(). `agent` tells kopf's session from the operator's client."""

    at: float
    method: str
    path: str
    query: str
    agent: str

    @property
    def watch(self) -> bool:
        return "watch=" in self.query

    @property
    def resource(self) -> str:
        """Of a collection's path."""
        return self.path.rpartition("/")[2]


@dataclass(slots=True, eq=False)
class _Watch:
    request: Request
    connection: asyncio.BaseTransport
    events: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    silent: bool = False


class Way:
    """A forwarding proxy on loopback; `url` and `ca` are what a kubeconfig names. Thread-safe."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane
        self.requests: list[Request] = []
        self._late = 0.0
        self._refuse: tuple[Callable[[], web.Response], Callable[[Request], bool]] | None = None
        self._closed: Callable[[Request], bool] | None = None
        self._expire: set[str] = set()
        self.expired: set[str] = set()  # resources that were told so since
        self._watches: set[_Watch] = set()
        self._connections: set[asyncio.BaseTransport] = set()
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._context, authority = _identity()
        self.ca = control_plane.folder / f"way-{id(self)}.crt"
        self.ca.write_bytes(authority)
        self._thread = threading.Thread(target=self._run, name="way to the API server", daemon=True)
        self._thread.start()
        assert self._up.wait(PATIENCE)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def watched(self) -> set[str]:
        """Resources with a watch that is open and heard."""
        return {watch.request.resource for watch in list(self._watches) if not watch.silent}

    # -- faults --------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Each answer is so late."""
        self._late = seconds
        try:
            yield
        finally:
            self._late = 0.0

    def throttled(self, retry_after: int, which: Callable[[Request], bool]) -> contextlib.AbstractContextManager[None]:
        """429 to those requests, none of which reaches the API server."""
        return self._refused(lambda: _too_many(retry_after), which)

    def gone(self, which: Callable[[Request], bool]) -> contextlib.AbstractContextManager[None]:
        """410 to those requests."""
        return self._refused(lambda: web.json_response(_TOO_OLD, status=410), which)

    @contextlib.contextmanager
    def _refused(self, answer: Callable[[], web.Response], which: Callable[[Request], bool]) -> Iterator[None]:
        self._refuse = answer, which
        try:
            yield
        finally:
            self._refuse = None

    @contextlib.contextmanager
    def closed(self, which: Callable[[Request], bool] = lambda _request: True) -> Iterator[None]:
        """Such requests find their connection dropped; those that are under way too."""
        self._closed = which
        try:
            self._within(self._cut)
            yield
        finally:
            self._closed = None

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Nothing gets through in the block, for so long that it is too late for the watches: the first one of each
        resource after it is told 410."""
        self.expired.clear()
        broken = self.watched
        with self.closed():
            yield
            self._expire |= broken

    def expire(self) -> None:
        """Watches that are open end with 410."""
        self._end(_TOO_OLD)

    def break_watches(self) -> None:
        """Watches that are open end with 500, as where etcd fails under the API server."""
        self._end(_BROKEN)

    def _end(self, problem: Object) -> None:
        def end() -> None:
            for watch in self._watches:
                watch.events.put_nowait(_line(problem))
                watch.events.put_nowait(None)

        self._within(end)

    def silence(self) -> None:
        """Watches that are open now tell nothing any more, and do not end: a middlebox has forgotten them."""

        def silence() -> None:
            for watch in self._watches:
                watch.silent = True

        self._within(silence)

    # -- life ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- inside: the loop's thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        trust = ssl.create_default_context(cafile=str(self._control_plane.ca))
        connector = aiohttp.TCPConnector(limit=0, ssl=trust)
        server = web.Server(self._handle, access_log=None, auto_decompress=False, handler_cancellation=True)
        listener = await self._loop.create_server(server, "127.0.0.1", 0, ssl=self._context, backlog=256)
        self.port: int = listener.sockets[0].getsockname()[1]
        async with aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
        ) as self._onward:
            self._up.set()
            await self._over.wait()
            listener.close()
            for connection in list(self._connections):
                connection.close()
            await server.shutdown(0.1)

    def _within(self, action: Callable[[], object]) -> None:
        done = threading.Event()

        def act() -> None:
            action()
            done.set()

        self._loop.call_soon_threadsafe(act)
        assert done.wait(PATIENCE)

    def _cut(self) -> None:
        assert self._closed is not None
        for watch in list(self._watches):
            if self._closed(watch.request):
                watch.events.put_nowait(None)
                _abort(watch.connection)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        transport = request.transport
        if transport is None:
            return web.Response(status=502)
        self._connections.add(transport)
        agent = request.headers.get("User-Agent", "")
        asked = Request(time.monotonic(), request.method, request.path, request.query_string, agent)
        self.requests.append(asked)
        if self._closed is not None and self._closed(asked):
            _abort(transport)
            return web.Response(status=502)
        if self._refuse is not None and self._refuse[1](asked):
            return self._refuse[0]()
        try:
            return await self._forwarded(request, asked, transport)
        except (aiohttp.ClientError, OSError):
            _abort(transport)  # the API server is away: so is the connection to it
            return web.Response(status=502)
        finally:
            if transport.is_closing():
                self._connections.discard(transport)

    async def _forwarded(
        self, request: web.BaseRequest, asked: Request, transport: asyncio.BaseTransport
    ) -> web.StreamResponse:
        body = await request.read()
        headers = {name: value for name, value in request.headers.items() if name.title() not in _HOPS}
        url = f"{self._control_plane.url}{request.raw_path}"
        async with self._onward.request(
            request.method, URL(url, encoded=True), headers=headers, data=body or None, allow_redirects=False
        ) as answer:
            if self._late:
                await asyncio.sleep(self._late)
            response = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name.title() not in _HOPS:
                    response.headers.add(name, value)
            if asked.watch and answer.status == 200:
                return await self._watched(request, asked, response, answer, transport)
            content = await answer.read()
            response.content_length = len(content)
            await response.prepare(request)
            await response.write(content)
            await response.write_eof()
            return response

    async def _watched(
        self,
        request: web.BaseRequest,
        asked: Request,
        response: web.StreamResponse,
        answer: aiohttp.ClientResponse,
        transport: asyncio.BaseTransport,
    ) -> web.StreamResponse:
        watch = _Watch(asked, transport)
        await response.prepare(request)
        if asked.resource in self._expire:
            self._expire.discard(asked.resource)
            self.expired.add(asked.resource)
            await response.write(_line(_TOO_OLD))
            await response.write_eof()
            return response
        self._watches.add(watch)
        reading = asyncio.create_task(_read(answer, watch))
        try:
            while (part := await watch.events.get()) is not None:
                await response.write(part)
            if not transport.is_closing():
                await response.write_eof()
        except ConnectionError:
            pass
        finally:
            self._watches.discard(watch)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        return response


class FaultyRelease(Release):
    """A Release whose operators reach the API server by a `Way`, with their token in a file of its own."""

    def __init__(self, control_plane: ControlPlane, way: Way, **options: Any) -> None:
        self.way = way
        super().__init__(control_plane, **options)

    def token_file(self, operator: Operator) -> Path:
        return self.control_plane.folder / f"token-{operator.pod}"

    def renew_token(self, operator: Operator, pod: Object) -> None:
        """What the kubelet does in time: another token in the same place, here bound to `pod`."""
        path = self.token_file(operator)
        fresh = path.with_suffix(".new")
        fresh.write_text(self._token(pod))
        fresh.replace(path)

    def lease(self) -> Object:
        return self.admin.get(f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/{self.lease_name}")

    @property
    def lease_name(self) -> str:
        return "postern-operator"

    def new_pod(self) -> Object:
        return self._create_pod(self.template())

    def _credentials(self, pod: Object) -> Path:
        name = pod["metadata"]["name"]
        token = self.control_plane.folder / f"token-{name}"
        token.write_text(self._token(pod))
        path = self.control_plane.folder / f"kubeconfig-{name}"
        cluster = {"server": self.way.url, "certificate-authority": str(self.way.ca)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "way", "cluster": cluster}],
            "users": [{"name": "operator", "user": {"tokenFile": str(token)}}],
            "contexts": [{"name": "way", "context": {"cluster": "way", "user": "operator"}}],
            "current-context": "way",
        }
        path.write_text(json.dumps(config))
        return path


class Vigil:
    """Asks an operator's pages all the time, from a thread; `missed` is what was not 200."""

    def __init__(self, operator: Operator, *paths: str) -> None:
        self.operator, self.paths = operator, paths or ("/healthz", "/readyz")
        self.asked = 0
        self.missed: list[tuple[str, int, str]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vigil", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.1):
            for path in self.paths:
                status, text = self.operator.ask(path)
                self.asked += 1
                if status != 200:
                    self.missed.append((path, status, text))


async def _read(answer: aiohttp.ClientResponse, watch: _Watch) -> None:
    with contextlib.suppress(aiohttp.ClientError, OSError):
        async for part in answer.content.iter_any():
            if not watch.silent:
                watch.events.put_nowait(part)
    if not watch.silent:
        watch.events.put_nowait(None)


def _line(problem: Object) -> bytes:
    """As the API server writes it."""
    return json.dumps({"type": "ERROR", "object": problem}, separators=(",", ":")).encode() + b"\n"


def _too_many(retry_after: int) -> web.Response:
    """As priority and fairness says it."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "TooManyRequests", "code": 429}
    return web.json_response(
        {**body, "message": "too many requests, please try again later"},
        status=429,
        headers={"Retry-After": str(retry_after)},
    )


def _abort(transport: asyncio.BaseTransport) -> None:
    assert isinstance(transport, asyncio.WriteTransport)
    transport.abort()


def _identity() -> tuple[ssl.SSLContext, bytes]:
    """A server's context, and the authority that vouches for it."""
    authority = certificates.issue("way", ca=True, identifiers=True)
    san = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    leaf = certificates.issue("kube-apiserver", by=authority, san=san, identifiers=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(leaf.key_pem + leaf.pem)
        context.load_cert_chain(file.name)
    return context, authority.pem
