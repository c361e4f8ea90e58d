"""The webhook's bounds, each reached; what it logs; and that it serves on the loop that the operator runs on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import warnings
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import uvloop

from postern_operator import admission, app, paths
from postern_operator.settings import Settings
from postern_sidecar.config import expressions
from webhook_world import Object, Replica, configured, first_container, pod, pods, policy, replica, until, webhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from cluster.control import ControlPlane
    from postern_operator.kube import Client

pytestmark = pytest.mark.real


@pytest.fixture
def release(control_plane: ControlPlane) -> Iterator[str]:
    with control_plane.namespace() as name:
        yield name


@pytest.fixture
def mail(control_plane: ControlPlane) -> Iterator[str]:
    with control_plane.namespace({"postern.dev/inject": "enabled"}) as name:
        yield name


@pytest.fixture
async def one(control_plane: ControlPlane, release: str) -> AsyncIterator[Replica]:
    async with replica(control_plane, release) as running:
        await until(lambda: running.certificates.serving)
        yield running


def review(namespace: str, manifest: Object | None = None) -> bytes:
    request = {
        "uid": "u-1",
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "operation": "CREATE",
        "namespace": namespace,
        "object": manifest or pod("mail-0"),
    }
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@contextlib.asynccontextmanager
async def posting(one: Replica) -> AsyncIterator[aiohttp.ClientSession]:
    url = f"https://127.0.0.1:{one.server.port}"
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(ssl=client_context())) as session:
        yield session
    await until(lambda: one.server.connections == 0)


# -- the server --


async def test_few_large_bodies_at_once_and_small_ones_pass_them(one: Replica) -> None:
    inside: list[int] = []
    go, at_once = asyncio.Event(), one.admission.answer

    async def slowly(body: bytes) -> admission.Reply:
        if len(body) > admission.LARGE:
            inside.append(len(body))
            await go.wait()
        return await at_once(body)

    one.admission.answer = slowly  # type: ignore[method-assign]
    large = review("mail", pod("mail-0", x="y" * admission.LARGE))
    async with posting(one) as session:
        flying = [asyncio.create_task(post(session, large)) for _ in range(admission.LARGE_AT_ONCE + 3)]
        await until(lambda: len(inside) == admission.LARGE_AT_ONCE)
        for _ in range(10):
            assert await post(session, review("mail")) == 200
        assert len(inside) == admission.LARGE_AT_ONCE
        go.set()
        assert await asyncio.gather(*flying) == [200] * len(flying)


async def post(session: aiohttp.ClientSession, body: bytes) -> int:
    async with session.post("/inject", data=body) as response:
        await response.read()
        return response.status


async def test_a_handshake_that_does_not_come_ends(one: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "HANDSHAKE", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
    await until(lambda: one.server.connections == 1)
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
    await until(lambda: one.server.connections == 0)


async def test_old_tls_is_refused_on_the_wire(one: Replica) -> None:
    async def version(newest: ssl.TLSVersion) -> str:
        context = client_context()
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # which would speak it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, newest
        _reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port, ssl=context)
        try:
            return str(writer.get_extra_info("ssl_object").version())
        finally:
            writer.transport.abort()

    one.context.set_ciphers("DEFAULT:@SECLEVEL=0")  # so that nothing but the version is in the way
    with pytest.raises(OSError):  # noqa: PT011 - asyncio sends no alert
        await version(ssl.TLSVersion.TLSv1_1)
    assert await version(ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    assert await version(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        one.context.minimum_version = ssl.TLSVersion.TLSv1
    assert await version(ssl.TLSVersion.TLSv1_1) == "TLSv1.1"


def test_it_serves_on_uvloop(control_plane: ControlPlane, release: str, mail: str) -> None:
    async def scenario() -> str:
        async with replica(control_plane, release) as one:
            one.policy(policy(mail))
            with configured(control_plane.admin, release, webhook(one.server.port, [mail])):
                await until(lambda: one.certificates.ready)
                made = await asyncio.to_thread(control_plane.admin.create, pods(mail), pod())
            reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
            writer.write(b"no handshake\r\n\r\n")
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionError):
                    await reader.read()
            writer.close()
            await one.server.drain()
            assert one.server.connections == 0
            return first_container(made)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(scenario()) == "postern"


# -- live lookups --


class Slow:
    """The client, whose lists wait for `go`, in pages of one."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.go = asyncio.Event()
        self.begun: list[str] = []
        self.pages_read = 0

    async def pages(self, path: str, **asked: Any) -> AsyncIterator[list[Object]]:
        self.begun.append(path)
        await self.go.wait()
        async for page in self._client.pages(path, **{**asked, "limit": 1}):
            self.pages_read += 1
            yield page


def live(one: Replica, kube: Any) -> admission.Live:
    return admission.Live(kube, one.cache, one.settings, lambda: 0.0, 20)


async def test_lists_at_once_are_few_and_strangers_have_their_own_lane(one: Replica) -> None:
    slow = Slow(one.client)
    looking, until_then = live(one, slow), asyncio.get_running_loop().time() + 20
    known = [f"known-{number}" for number in range(admission.LOOKUPS + 3)]
    for name in known:
        one.cache.put_namespace(name, name, "1")
    strangers = [f"stranger-{number}" for number in range(admission.STRANGERS + 3)]
    tasks = [asyncio.create_task(looking.policies(name, until_then)) for name in [*strangers, *known, *known]]
    await until(lambda: len(slow.begun) == admission.LOOKUPS + admission.STRANGERS)
    assert len({path for path in slow.begun if "stranger" in path}) == admission.STRANGERS
    slow.go.set()
    await asyncio.gather(*tasks)
    assert len(slow.begun) == len(known) + len(strangers), "one list a namespace, however many ask"


async def test_a_list_is_read_for_some_pages(
    one: Replica, mail: str, control_plane: ControlPlane, pytestconfig: pytest.Config
) -> None:
    path = pytestconfig.rootpath / "crds" / "mailproxypolicies.postern.dev.yaml"
    await asyncio.to_thread(control_plane.kubectl, "apply", "-f", str(path))
    await asyncio.to_thread(control_plane.kubectl, "wait", "--for=condition=Established", "-f", str(path))
    for number in range(admission.PAGES + 2):
        body = policy(mail, f"edge-{number}")
        await asyncio.to_thread(control_plane.admin.create, paths.policies(mail), body)
    slow = Slow(one.client)
    slow.go.set()
    found = await live(one, slow).policies(mail, asyncio.get_running_loop().time() + 20)
    assert found is not None
    assert (len(found), slow.pages_read) == (admission.PAGES, admission.PAGES)


# -- the log, and the start --


async def test_what_broke_is_logged_and_its_traceback_now_and_then(
    one: Replica, mail: str, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    one.policy(policy(mail))
    broken = admission.Admission(one.client, one.cache, one.settings, "1.0.0", clock=lambda: now[0])
    bad = pod("mail-0", volumes=["no volume"])
    with caplog.at_level(logging.ERROR, "postern_operator.admission"):
        for seconds in (0.0, 0.0, admission.TRACEBACKS - 1, 1.0):
            now[0] += seconds
            assert json.loads((await broken.answer(review(mail, bad))).body)["response"]["allowed"] is True
    assert [bool(each.exc_info) for each in caplog.records] == [True, False, False, True]
    assert all("an internal error: TypeError" in each.getMessage() for each in caplog.records)


def test_cel_is_there_before_the_loop_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a third of a second to import, and a live lookup has half a second."""
    compiled: list[int] = []

    async def begun(_settings: Settings) -> tuple[int, bool]:
        compiled.append(expressions._environment.cache_info().currsize)
        return 0, False

    monkeypatch.setattr(app, "log_to_stdout", lambda: None)
    monkeypatch.setattr(app, "_ended_whole", begun)
    expressions._environment.cache_clear()
    assert app.run(Settings()) == 0
    assert compiled == [1]
