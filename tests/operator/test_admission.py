"""The webhook as a real API server calls it: what is injected, what is skipped, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from cluster.admin import ApiError
from postern_operator import admission, kube, model, paths, records, render, select
from postern_operator.model import Key
from postern_operator.settings import FailurePolicy
from webhook_world import (
    CONFIGURATIONS,
    Object,
    Replica,
    configured,
    first_container,
    pod,
    pods,
    policy,
    replica,
    until,
    webhook,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from cluster.control import ControlPlane

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
def definition(control_plane: ControlPlane, pytestconfig: pytest.Config) -> None:
    """The CRD, for live lists."""
    path = pytestconfig.rootpath / "crds" / "mailproxypolicies.postern.dev.yaml"
    control_plane.kubectl("apply", "-f", str(path))
    control_plane.kubectl("wait", "--for=condition=Established", "-f", str(path), "--timeout=20s")


@contextlib.asynccontextmanager
async def calling(
    control_plane: ControlPlane, release: str, mail: str, failure_policy: FailurePolicy = FailurePolicy.IGNORE
) -> AsyncIterator[Replica]:
    """A replica that the API server asks about pods of `mail`."""
    async with replica(control_plane, release, failure_policy=failure_policy) as one:
        with configured(control_plane.admin, release, webhook(one.server.port, [mail])):
            await until(lambda: one.certificates.ready)
            yield one


async def made(control_plane: ControlPlane, namespace: str, manifest: Object, query: str = "") -> Object:
    created: Object = await asyncio.to_thread(control_plane.admin.create, pods(namespace) + query, manifest)
    return created


async def said(control_plane: ControlPlane, namespace: str, manifest: Object) -> str:
    """What kubectl shows on creating it: warnings."""
    arguments = ("create", "-n", namespace, "-f", "-")
    done = await asyncio.to_thread(control_plane.kubectl, *arguments, input=json.dumps(manifest))
    return done.stderr


async def test_pod_is_injected_and_named_to_nobody(control_plane: ControlPlane, release: str, mail: str) -> None:
    async with calling(control_plane, release, mail) as one:
        one.policy(policy(mail))
        created = await made(control_plane, mail, pod("mail-0"))
        assert first_container(created) == "postern"
        assert created["metadata"]["labels"][model.POLICY] == "edge"
        assert one.outcomes.heard == ["Injected"]
        assert one.facts == []


async def test_dry_run_comes_back_injected(control_plane: ControlPlane, release: str, mail: str) -> None:
    async with calling(control_plane, release, mail) as one:
        one.policy(policy(mail))
        created = await made(control_plane, mail, pod("mail-0", hostNetwork=True), "?dryRun=All")
        assert first_container(created) == ""
        assert [each.dry_run for each in one.facts] == [True]
        assert first_container(await made(control_plane, mail, pod(), "?dryRun=All")) == "postern"
    assert control_plane.admin.list(pods(mail)) == []


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("HostNetwork", {"spec": {"hostNetwork": True}}),
        ("OptedOut", {"label": "disabled"}),
        ("NoPolicy", {"app": "web"}),
        ("NameConflict", {"spec": {"volumes": [{"name": "postern-config", "emptyDir": {}}]}}),
        ("WindowsPod", {"spec": {"nodeSelector": {"kubernetes.io/os": "windows"}}}),
    ],
)
async def test_skip_is_a_warning_and_a_fact(
    control_plane: ControlPlane, release: str, mail: str, definition: None, reason: str, change: dict[str, Any]
) -> None:
    async with calling(control_plane, release, mail) as one:
        one.policy(policy(mail))
        manifest = pod("mail-0", app=change.get("app", "mail"), **change.get("spec", {}))
        if "label" in change:
            manifest["metadata"]["labels"][model.INJECT] = change["label"]
        assert f"Warning: postern: no sidecar ({reason})" in await said(control_plane, mail, manifest)
        assert one.outcomes.heard == [reason]
        assert [each.outcome.value for each in one.facts] == [reason]


async def test_pod_of_more_than_a_mebibyte(control_plane: ControlPlane, release: str, mail: str) -> None:
    async with calling(control_plane, release, mail) as one:
        one.policy(policy(mail))
        manifest = pod()
        environment = [{"name": f"V{n}", "value": "x" * 1000} for n in range(1100)]
        manifest["spec"]["containers"][0]["env"] = environment
        assert first_container(await made(control_plane, mail, manifest)) == "postern"


async def test_first_again_after_another_webhook(control_plane: ControlPlane, release: str, mail: str) -> None:
    """The later one puts its container first; we are asked again, and move ours."""
    async with calling(control_plane, release, mail) as one, replica(control_plane, release) as two:
        one.policy(policy(mail))
        two.policy(policy(mail))
        asked: list[bytes] = []

        async def first(body: bytes) -> admission.Reply:
            asked.append(body)
            pod_ = json.loads(body)["request"]
            container = {"name": "other", "image": "registry.test/other:1"}
            there = pod_["object"]["spec"].get("initContainers", [])
            if any(each["name"] == "other" for each in there):
                return admission.Reply(200, answer(pod_["uid"], []))
            return admission.Reply(
                200, answer(pod_["uid"], [{"op": "add", "path": "/spec/initContainers/0", "value": container}])
            )

        two.admission.answer = first  # type: ignore[method-assign]
        await until(lambda: two.certificates.serving)
        own = control_plane.admin.get(f"{CONFIGURATIONS}/{release}")["webhooks"][0]["clientConfig"]["caBundle"]
        later = webhook(two.server.port, [mail], name="z.example.org")
        later["clientConfig"]["caBundle"] = own
        with configured(control_plane.admin, f"z-{release}", later):

            async def both() -> list[str]:
                created = await made(control_plane, mail, pod(), "?dryRun=All")
                return [each["name"] for each in created["spec"]["initContainers"]]

            names = await both()
            async with asyncio.timeout(20):
                while "other" not in names:  # the API server has not heard of it yet
                    names = await both()
            assert names == ["postern", "other"]
            assert asked


def answer(uid: str, patch: list[Object]) -> bytes:
    import base64

    response: Object = {"uid": uid, "allowed": True}
    if patch:
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}).encode()


# -- what the caches do not have --


async def test_policy_that_no_watch_has_told_of_is_found_live(
    control_plane: ControlPlane, release: str, mail: str, definition: None
) -> None:
    async with calling(control_plane, release, mail):
        manifest = policy(mail)
        await asyncio.to_thread(control_plane.admin.create, paths.policies(mail), manifest)
        assert first_container(await made(control_plane, mail, pod())) == "postern"


async def test_live_list_is_remembered_for_two_seconds(
    control_plane: ControlPlane, release: str, mail: str, definition: None
) -> None:
    async with replica(control_plane, release) as one:
        now = [100.0]
        live = admission.Live(one.client, one.cache, one.settings, lambda: now[0], 20)
        assert await listed(live, mail) == []
        await asyncio.to_thread(control_plane.admin.create, paths.policies(mail), policy(mail))
        now[0] += admission.REMEMBERED - 0.1
        assert await listed(live, mail) == []
        now[0] += 0.2
        assert await listed(live, mail) == ["edge"]


async def listed(live: admission.Live, namespace: str) -> list[str] | None:
    found = await live.policies(namespace, asyncio.get_running_loop().time() + 20)
    return None if found is None else [each.key.name for each in found]


async def test_forged_namespaces_ask_nothing_or_little(
    control_plane: ControlPlane, release: str, definition: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "NAMESPACES", 4)
    async with replica(control_plane, release) as one:
        live = admission.Live(one.client, one.cache, one.settings, lambda: 0.0, 20)
        for name in ("", "../../../api/v1/secrets?x=", "A", "x" * 64, "a\n"):
            assert await listed(live, name) == []
        for number in range(9):
            assert await listed(live, f"forged-{number}") == []
        assert list(live._lists) == [f"forged-{number}" for number in range(5, 9)]


async def test_dead_api_server_delays_a_skip_by_half_a_second(
    control_plane: ControlPlane, release: str, mail: str, tmp_path: Path
) -> None:
    """Nobody listens where the client asks, but a socket that never answers."""
    async with replica(control_plane, release) as one:
        with silent(tmp_path) as kubeconfig:
            async with kube.connected(str(kubeconfig)) as client:
                deaf = admission.Admission(client, one.cache, one.settings, "1.0.0", observer=one.outcomes)
                began = asyncio.get_running_loop().time()
                reply = await deaf.answer(review(mail))
                took = asyncio.get_running_loop().time() - began
    response = json.loads(reply.body)["response"]
    assert response["allowed"] is True
    assert "could not be listed in time" in response["warnings"][0]
    assert admission.LOOKUP * 0.9 < took < admission.ANSWER


@contextlib.contextmanager
def silent(folder: Path) -> Iterator[Path]:
    """A kubeconfig of a server whose kernel takes connections, and nobody else."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(config))
        yield path


def review(namespace: str, manifest: Object | None = None, uid: str = "u-1") -> bytes:
    request = {
        "uid": uid,
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "operation": "CREATE",
        "namespace": namespace,
        "object": manifest or pod("mail-0"),
    }
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


@pytest.mark.parametrize("accepted", [True, False])
async def test_invalid_policy_injects_what_was_accepted_last(
    control_plane: ControlPlane, release: str, mail: str, accepted: bool
) -> None:
    """After a restart of the operator only the ConfigMap knows."""
    async with calling(control_plane, release, mail) as one:
        good = policy(mail, port=2626)
        record = records.policy_record(good, one.settings.sidecar)
        rendered = render.render(record)
        assert rendered is not None
        if accepted:
            body = {**render.config_map(record, rendered), "apiVersion": "v1", "kind": "ConfigMap"}
            await asyncio.to_thread(control_plane.admin.create, paths.config_maps(mail), body)
        bad = policy(mail)
        bad["spec"]["inbound"][0]["backend"]["handover"] = "Carrier pigeon"
        one.policy(bad)
        if accepted:
            created = await made(control_plane, mail, pod())
            ports = [each["containerPort"] for each in created["spec"]["initContainers"][0]["ports"]]
            assert 2626 in ports
            assert one.cache.injection_of(Key(mail, "edge")) is not None, "asked once"
        else:
            assert "(PolicyInvalid)" in await said(control_plane, mail, pod("mail-0"))


@pytest.mark.parametrize("failure_policy", list(FailurePolicy))
async def test_internal_error_passes_the_pod_unless_the_settings_say_fail(
    control_plane: ControlPlane, release: str, mail: str, failure_policy: FailurePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calling(control_plane, release, mail, failure_policy) as one:
        monkeypatch.setattr(select, "winner", lambda *_arguments: 1 / 0)
        if failure_policy is FailurePolicy.IGNORE:
            assert "(InternalError)" in await said(control_plane, mail, pod("mail-0"))
        else:
            with pytest.raises(ApiError, match="internal error"):
                await made(control_plane, mail, pod())
        assert one.outcomes.heard == ["InternalError"]
        assert len(one.facts) == 1


# -- the server --


@contextlib.asynccontextmanager
async def posting(one: Replica) -> AsyncIterator[aiohttp.ClientSession]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    url = f"https://127.0.0.1:{one.server.port}"
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(ssl=context)) as session:
        yield session
    await until(lambda: one.server.connections == 0)  # a session does not wait for its connections' end


def drop(writer: asyncio.StreamWriter) -> None:
    writer.close()
    writer.transport.abort()


async def raw(
    one: Replica, server: admission.Server | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return await asyncio.open_connection("127.0.0.1", (server or one.server).port, ssl=context)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/inject", 405),
        ("PUT", "/inject", 405),
        ("GET", "/", 404),
        ("POST", "/", 404),
        ("POST", "/inject/x", 404),
        ("POST", "/inject", 400),
    ],
)
async def test_other_requests(control_plane: ControlPlane, release: str, method: str, path: str, status: int) -> None:
    async with replica(control_plane, release) as one:
        await until(lambda: one.certificates.serving)
        async with posting(one) as session:
            async with session.request(method, path, data=b"{}") as response:
                assert response.status == status


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_beyond_ten_mebibytes_is_refused(control_plane: ControlPlane, release: str, chunked: bool) -> None:
    async with replica(control_plane, release) as one:
        await until(lambda: one.certificates.serving)

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(11):
                yield b" " * (1 << 20)

        async with posting(one) as session:
            try:
                data: Any = chunks() if chunked else io.BytesIO(b" " * (11 << 20))
                async with session.post("/inject", data=data) as response:
                    assert response.status == 413
            except aiohttp.ClientError:
                pass  # it did not wait for the rest
            async with session.post("/inject", data=io.BytesIO(b" " * (9 << 20))) as response:
                assert response.status == 400


async def test_slow_requests_end_and_others_are_served(control_plane: ControlPlane, release: str) -> None:
    """No header, half a header, half a body: all gone after the time for a request."""
    async with replica(control_plane, release) as one:
        await until(lambda: one.certificates.serving)
        server = admission.Server(one.admission, one.context, address="127.0.0.1", request_time=0.3)
        await server.start()
        try:
            for start in (
                b"",
                b"POST /inject HTTP/1.1\r\nHo",
                b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
            ):
                reader, writer = await raw(one, server)
                writer.write(start)
                async with asyncio.timeout(10):
                    with contextlib.suppress(ConnectionError):
                        assert await reader.read() == b""
                drop(writer)
            await until(lambda: server.connections == 0)
        finally:
            await server.close()


async def test_more_connections_than_allowed_are_closed(control_plane: ControlPlane, release: str) -> None:
    async with replica(control_plane, release) as one:
        await until(lambda: one.certificates.serving)
        server = admission.Server(one.admission, one.context, address="127.0.0.1", connections=2)
        await server.start()
        held = [await raw(one, server) for _ in range(2)]
        try:
            with pytest.raises(OSError):  # noqa: PT011 - how a handshake ends that nobody answers
                await raw(one, server)
            drop(held.pop()[1])
            await until(lambda: server.connections == 1)
            held.append(await raw(one, server))
        finally:
            for _reader, writer in held:
                drop(writer)
            await server.close()


async def test_drain_finishes_what_is_in_flight_and_says_close(
    control_plane: ControlPlane, release: str, mail: str
) -> None:
    async with replica(control_plane, release) as one:
        await until(lambda: one.certificates.serving)
        begun, go = asyncio.Event(), asyncio.Event()
        answer_at_once = one.admission.answer

        async def slowly(body: bytes) -> admission.Reply:
            begun.set()
            await go.wait()
            return await answer_at_once(body)

        one.policy(policy(mail))
        one.admission.answer = slowly  # type: ignore[method-assign]
        idle_reader, idle_writer = await raw(one)
        async with posting(one) as session:
            flying = asyncio.create_task(post(session, review(mail)))
            await begun.wait()
            draining = asyncio.create_task(one.server.drain())
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    assert await idle_reader.read() == b"", "an idle connection is closed"
            assert not draining.done()
            go.set()
            status, connection = await flying
            assert (status, connection) == (200, "close")
            await draining
        drop(idle_writer)
        with pytest.raises(OSError):  # noqa: PT011
            await raw(one)


async def post(session: aiohttp.ClientSession, body: bytes) -> tuple[int, str]:
    async with session.post("/inject", data=body) as response:
        await response.read()
        return response.status, response.headers.get("Connection", "")
