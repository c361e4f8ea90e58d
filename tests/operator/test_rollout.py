"""Pokes on a real API server, and questions to sidecars that answer as they like."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cluster.pods import create_pod, pod, run_pod
from played_pods import address, config_of
from postern_operator import kube, records, rollout
from postern_operator.model import Answer, ConfigMapRecord, Inputs, Key
from postern_operator.rollout import Asker, Rollouts, answer_of
from postern_operator.settings import Sidecar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

    from cluster.control import ControlPlane
    from postern_operator.model import PodRecord

pytestmark = pytest.mark.real

OLD, NEW, NEWER = "a" * 64, "b" * 64, "c" * 64
GOOD = {"hash": NEW, "loadedAt": "2026-11-22T09:25:06Z", "version": "0.1.0", "source": "file", "error": None}


# -- questions ---------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def sidecar(script: Script) -> AsyncIterator[tuple[str, int]]:
    ip = address()
    open_: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await script(reader, writer)
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(handle, ip, 0)
    try:
        yield ip, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*filter(None, open_))


async def asked(script: Script, seconds: float = 5.0) -> Answer:
    async with sidecar(script) as (ip, port):
        asker = Asker(port, seconds=seconds, now=lambda: 7.0)
        try:
            return await asker(ip)
        finally:
            await asker.close()


def saying(raw: bytes) -> Script:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    return script


async def test_a_sidecar_says_what_it_runs() -> None:
    assert await asked(saying(config_of(GOOD))) == Answer(at=7.0, hash=NEW, version="0.1.0")


async def test_a_sidecar_says_what_it_refused() -> None:
    error = {"hash": NEWER, "message": "no\nsuch \x1bfield", "at": "2026-11-22T09:25:06Z"}
    answer = await asked(saying(config_of({**GOOD, "error": error})))
    assert answer == Answer(at=7.0, hash=NEW, version="0.1.0", error="no?such ?field", refused=NEWER)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "503"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "302"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnot JSON!", "as a sidecar does"),
        (config_of([]), "as a sidecar does"),
        (config_of({**GOOD, "hash": 5}), "as a sidecar does"),
        (config_of({**GOOD, "hash": "x" * 65}), "as a sidecar does"),
        (config_of({**GOOD, "version": "x" * 65}), "as a sidecar does"),
        (config_of({**GOOD, "error": "text"}), "as a sidecar does"),
        (config_of({"hash": NEW}), "as a sidecar does"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + b"[" * 20000, "as a sidecar does"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + b" " * 999999, "65536"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", ""),
        (b"\x16\x03\x01", ""),
        (b"", ""),
    ],
)
async def test_an_odd_answer_is_a_failure_with_a_text(raw: bytes, told: str) -> None:
    answer = await asked(saying(raw))
    assert (answer.at, answer.hash, answer.error) == (7.0, "", "")
    assert told in answer.failure
    assert 0 < len(answer.failure) <= 1024
    assert answer.failure.isprintable()


async def test_an_answer_without_an_end_is_left() -> None:
    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _number in range(10_000):
            writer.write(b"400\r\n" + b" " * 1024 + b"\r\n")
            await writer.drain()

    assert "65536" in (await asked(endless)).failure


async def test_a_sidecar_that_is_silent_or_slow_is_left() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")
        await reader.read()

    assert "no answer within 0.1 s" in (await asked(slow, seconds=0.1)).failure


async def test_nobody_there_and_no_address() -> None:
    async with sidecar(saying(b"")) as (_, port):
        asker = Asker(port)
        assert (await asker(address())).failure
        assert "no address" in (await asker("")).failure
        assert "no address" in (await asker("169.254.169.254@example.org")).failure
        await asker.close()


async def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert (await asked(saying(config_of(GOOD)))).failure == ""


def test_a_message_of_a_sidecar_is_bounded() -> None:
    body = json.dumps({**GOOD, "error": {"hash": NEW, "message": "x" * 60_000}}).encode()
    assert len(answer_of(body, 1.0).error) == 1024


# -- pokes -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    with control_plane.namespace() as name:
        yield name


def injected(control_plane: ControlPlane, namespace: str, number: int) -> tuple[PodRecord, ...]:
    side = {"name": "postern", "image": "registry.invalid/postern:1", "restartPolicy": "Always"}
    found = []
    for index in range(number):
        body = pod(
            f"mail-{index}",
            namespace,
            labels={"app": "mail", "postern.dev/policy": "edge"},
            annotations={"postern.dev/config-hash": f"{OLD}.0"},
            initContainers=[side],
        )
        create_pod(control_plane.admin, body)
        found.append(records.pod_record(run_pod(control_plane.admin, namespace, f"mail-{index}", ip=address())))
    return tuple(found)


def inputs(namespace: str, pods: tuple[PodRecord, ...]) -> Inputs:
    raw = {"metadata": {"name": "edge", "namespace": namespace, "uid": "u", "generation": 1}, "spec": {}}
    return Inputs(
        record=records.policy_record(raw, Sidecar()),
        rivals=(),
        namespace_enabled=True,
        config_map=ConfigMapRecord(ours=True, policy_uid="u", policy_json=b"{}", injection=None),
        candidates=(),
        injected=pods,
        answers={},
        since={},
        now=time.time(),
    )


def pokes(control_plane: ControlPlane, namespace: str) -> dict[str, str]:
    return {
        one["metadata"]["name"]: one["metadata"]["annotations"]["postern.dev/config-hash"]
        for one in control_plane.admin.list(f"/api/v1/namespaces/{namespace}/pods")
    }


class Changes:
    """What the roll-outs say to the queue."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def __call__(self, key: Key, after: float) -> None:
        assert key.name == "edge"
        assert after >= 0
        self.event.set()

    async def wait(self) -> None:
        async with asyncio.timeout(20):
            await self.event.wait()
        self.event.clear()


class Told:
    """Sidecars that answer what the test says."""

    def __init__(self, hash_: str) -> None:
        self.hash = hash_
        self.ips: list[str] = []

    async def __call__(self, ip: str) -> Answer:
        self.ips.append(ip)
        return Answer(at=time.time(), hash=self.hash, version="0.1.0")


@contextlib.asynccontextmanager
async def rolling(
    control_plane: ControlPlane, ask: rollout.Asking, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[tuple[Rollouts, Changes]]:
    changes = Changes()
    async with kube.connected(str(control_plane.kubeconfig)) as client:
        rollouts = Rollouts(client, ask, changes, clock=clock)
        try:
            yield rollouts, changes
        finally:
            await rollouts.stop()


async def test_every_pod_is_poked_once_and_then_asked(control_plane: ControlPlane, namespace: str) -> None:
    pods = injected(control_plane, namespace, 60)
    ask = Told(NEW)
    async with rolling(control_plane, ask) as (rollouts, changes):
        rollouts.proceed(inputs(namespace, pods), NEW)
        await changes.wait()
        assert set(pokes(control_plane, namespace).values()) == {f"{NEW}.1"}
        assert ask.ips == []  # pokes come first
        while len(rollouts.answers(Key(namespace, "edge"))) < 60:
            turn = rollouts.proceed(inputs(namespace, pods), NEW)
            await asyncio.sleep(0 if turn is None else min(turn, 0.05))
        assert sorted(ask.ips) == sorted(one.ip for one in pods)
        # The watch has told of none of it yet, and nobody is poked twice all the same.
        mark = control_plane.mark()
        rollouts.proceed(inputs(namespace, pods), NEW)
        await asyncio.sleep(0)
        assert control_plane.audit(mark, resource="pods") == []
        assert rollouts.pending == 0


async def test_who_was_asked_before_the_poke_is_asked_again_before_the_next(
    control_plane: ControlPlane, namespace: str
) -> None:
    """The pokes of many pods take longer than the pause before a second poke."""
    pods = injected(control_plane, namespace, 2)
    ask, ticks = Told(OLD), [100.0]
    async with rolling(control_plane, ask, clock=lambda: ticks[0]) as (rollouts, changes):
        rollouts.proceed(inputs(namespace, pods), OLD)
        ticks[0] += 1.0
        rollouts.proceed(inputs(namespace, pods), OLD)
        while rollouts.busy:  # noqa: ASYNC110 - the end of a task, which tells nobody
            await asyncio.sleep(0)
        changes.event.clear()
        rollouts.proceed(inputs(namespace, pods), NEW)
        await changes.wait()
        ticks[0] += 1.5
        ask.hash = NEW
        while len(ask.ips) < 4:
            rollouts.proceed(inputs(namespace, pods), NEW)
            await asyncio.sleep(0)
        assert set(pokes(control_plane, namespace).values()) == {f"{NEW}.1"}


async def test_a_policy_is_new_until_its_sidecars_have_been_asked(control_plane: ControlPlane, namespace: str) -> None:
    pods = injected(control_plane, namespace, 2)
    known = inputs(namespace, pods)
    async with rolling(control_plane, Told(OLD)) as (rollouts, changes):
        assert not rollouts.is_new(known)  # nothing has begun
        rollouts.proceed(known, OLD)
        assert rollouts.is_new(known)
        while len(rollouts.answers(known.record.key)) < 2:
            turn = rollouts.proceed(known, OLD)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(turn):
                    await changes.wait()
        assert not rollouts.is_new(replace(known, answers=rollouts.answers(known.record.key)))
        assert not rollouts.is_new(known)  # a pod that comes later changes nothing


async def test_a_policy_is_not_new_for_ever(control_plane: ControlPlane, namespace: str) -> None:
    known, ticks = inputs(namespace, injected(control_plane, namespace, 1)), [100.0]
    async with rolling(control_plane, Told(OLD), clock=lambda: ticks[0]) as (rollouts, _):
        rollouts.proceed(known, OLD)
        assert rollouts.is_new(known)
        ticks[0] += rollout.HEARD_WITHIN
        assert not rollouts.is_new(known)


async def test_a_newer_file_overtakes(control_plane: ControlPlane, namespace: str) -> None:
    pods = injected(control_plane, namespace, 60)
    async with rolling(control_plane, Told(OLD)) as (rollouts, changes):
        mark = control_plane.mark()
        rollouts.proceed(inputs(namespace, pods), NEW)
        await asyncio.sleep(0)
        rollouts.proceed(inputs(namespace, pods), NEWER)
        await changes.wait()
        assert set(pokes(control_plane, namespace).values()) == {f"{NEWER}.1"}
        assert len(control_plane.audit(mark, resource="pods", verb="patch")) < 120


async def test_a_pod_that_is_gone_needs_no_poke(control_plane: ControlPlane, namespace: str) -> None:
    pods = injected(control_plane, namespace, 3)
    control_plane.admin.delete(f"/api/v1/namespaces/{namespace}/pods/mail-1")
    async with rolling(control_plane, Told(NEW)) as (rollouts, changes):
        rollouts.proceed(inputs(namespace, pods), NEW)
        await changes.wait()
        assert pokes(control_plane, namespace) == {"mail-0": f"{NEW}.1", "mail-2": f"{NEW}.1"}


async def test_a_namesake_is_not_poked_for_another(control_plane: ControlPlane, namespace: str) -> None:
    """A StatefulSet's pods come again under their names."""
    pods = tuple(replace(one, uid="another") for one in injected(control_plane, namespace, 1))
    async with rolling(control_plane, Told(NEW)) as (rollouts, changes):
        rollouts.proceed(inputs(namespace, pods), NEW)
        await changes.wait()
        assert pokes(control_plane, namespace) == {"mail-0": f"{OLD}.0"}


async def test_a_new_leader_asks_before_it_pokes(control_plane: ControlPlane, namespace: str) -> None:
    pods = tuple(replace(one, poke=f"{NEW}.1") for one in injected(control_plane, namespace, 5))
    mark = control_plane.mark()
    async with rolling(control_plane, Told(NEW)) as (rollouts, changes):
        rollouts.proceed(inputs(namespace, pods), NEW)
        while len(rollouts.answers(Key(namespace, "edge"))) < 5:
            rollouts.proceed(inputs(namespace, pods), NEW)
            await asyncio.sleep(0.05)
        rollouts.proceed(inputs(namespace, pods), NEW)
        await changes.wait()
        assert control_plane.audit(mark, resource="pods", verb="patch") == []


async def test_only_started_sidecars_are_asked(control_plane: ControlPlane, namespace: str) -> None:
    pods = injected(control_plane, namespace, 2)
    pods = (replace(pods[0], started=False, poke=f"{NEW}.1"), replace(pods[1], poke=f"{NEW}.1"))
    ask = Told(NEW)
    async with rolling(control_plane, ask) as (rollouts, changes):
        rollouts.proceed(inputs(namespace, pods), NEW)
        while not ask.ips:
            rollouts.proceed(inputs(namespace, pods), NEW)
            await asyncio.sleep(0.05)
        await changes.wait()
        assert ask.ips == [pods[1].ip]


async def test_a_failure_keeps_what_was_known_and_begins_a_silence(control_plane: ControlPlane, namespace: str) -> None:
    pods = tuple(replace(one, poke=f"{NEW}.5") for one in injected(control_plane, namespace, 1))
    key = Key(namespace, "edge")
    said = [Answer(at=5.0, hash=NEW, version="1"), Answer(at=6.0, failure="x"), Answer(at=9.0, failure="y")]
    said.append(Answer(at=10.0, hash=NEW, version="1"))
    waiting = list(said)

    async def ask(ip: str) -> Answer:
        assert ip
        return waiting.pop(0)

    ticks = [0.0]
    async with rolling(control_plane, ask, clock=lambda: ticks[0]) as (rollouts, changes):
        seen = []
        for expected in said:
            ticks[0] += 100.0
            rollouts.proceed(inputs(namespace, pods), NEW)
            ticks[0] += 100.0
            rollouts.proceed(inputs(namespace, pods), NEW)
            while (answer := rollouts.answers(key).get(pods[0].uid)) is None or answer.at != expected.at:
                await changes.wait()
            while rollouts.busy:  # noqa: ASYNC110 - the end of a task, which tells nobody
                await asyncio.sleep(0)
            seen.append((answer.hash, answer.failure, rollouts.since(key).get(pods[0].uid)))
        assert seen == [(NEW, "", None), (NEW, "x", 6.0), (NEW, "y", 6.0), (NEW, "", None)]


async def test_current_sidecars_are_asked_in_rounds(control_plane: ControlPlane, namespace: str) -> None:
    """Each round has the whole policy looked at: not one for each sidecar."""
    pods = tuple(replace(one, poke=f"{NEW}.1") for one in injected(control_plane, namespace, 5))
    ask, ticks = Told(NEW), [100.0]
    chances = iter([0.0, 0.05, 0.1, 0.15, 0.2, *[0.5] * 20])
    later: list[float] = []
    async with kube.connected(str(control_plane.kubeconfig)) as client:
        rollouts = Rollouts(
            client, ask, lambda _, after: later.append(after), clock=lambda: ticks[0], chance=lambda: next(chances)
        )
        for seconds, asked in ((0.0, 0), (1.0, 5), (1.0, 5), (40.0, 5), (11.0, 10), (1.0, 10)):
            ticks[0] += seconds
            known = rollouts.answers(Key(namespace, "edge"))
            rollouts.proceed(replace(inputs(namespace, pods), answers=known), NEW)
            while rollouts.busy:  # noqa: ASYNC110 - the end of a task, which tells nobody
                await asyncio.sleep(0)
            assert len(ask.ips) == asked, seconds
        assert later[-1] > 50  # and nothing is to be done before
        await rollouts.stop()


async def test_stop_ends_everything(control_plane: ControlPlane, namespace: str) -> None:
    pods = injected(control_plane, namespace, 60)
    async with rolling(control_plane, Told(NEW)) as (rollouts, _):
        rollouts.proceed(inputs(namespace, pods), NEW)
        await asyncio.sleep(0)
        await rollouts.stop()
        mark = control_plane.mark()
        assert rollouts.answers(Key(namespace, "edge")) == {}
        await asyncio.sleep(0)
        assert control_plane.audit(mark, resource="pods") == []
