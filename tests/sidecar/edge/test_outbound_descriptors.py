"""Submissions that find no descriptor: they hear so, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from next_hop import Peer, next_hop
from postern_sidecar.config.model import Outbound as Section
from postern_sidecar.edge.channel import Channel
from postern_sidecar.edge.listener import TURNED_AWAY_AT_ONCE
from postern_sidecar.edge.outbound import Outbound
from postern_sidecar.names import Domain
from postern_sidecar.outbound.commands import Lost
from postern_sidecar.outbound.link import Link
from postern_sidecar.outbound.plan import Level, Plan, PoolKey
from postern_sidecar.outbound.settings import Settings
from relaying import lent
from sidecar_process import PATIENCE, ScriptedServer, SidecarProcess, policy, proxied, smtp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from postern_sidecar.names import Endpoint

FILES = 256
CROWD = 400
# Servers, because there may be no Unbound here; nobody answers on that port, and nobody needs to.
RELAY = {"dns": {"resolver": "Servers", "servers": ["127.0.0.1:1"]}}
FULL = b"421 4.3.2 Too many sessions, try again\r\n"


@pytest.fixture
def mail() -> Iterator[ScriptedServer]:
    with ScriptedServer(smtp) as server:
        yield server


def both(mail: ScriptedServer, **outbound: Any) -> dict[str, Any]:
    manifest = policy({"backend": {"port": mail.port, "handover": "ProxyV1"}})
    manifest["spec"]["outbound"] = {**RELAY, **outbound}
    return manifest


def inbound_works(sidecar: SidecarProcess) -> None:
    with proxied(sidecar.client()) as client:
        client.expect(220)


def door(sidecar: SidecarProcess) -> int:
    """Of several, each at a port of its own."""
    (line,) = (line for line in sidecar.log.lines if "name=submission-smtp address=127.0.0.1 " in line)
    return int(line.partition(" port=")[2].split()[0])


def greeted(sidecar: SidecarProcess, stack: contextlib.ExitStack) -> bytes:
    """Somebody comes, and stays: what he hears."""
    sock = stack.enter_context(socket.create_connection(("127.0.0.1", door(sidecar)), PATIENCE))
    return sock.recv(200)


def healthy(sidecar: SidecarProcess) -> None:
    assert sidecar.get("/healthz") == (200, "ok\n")


def recovered(sidecar: SidecarProcess) -> None:
    until = time.monotonic() + PATIENCE
    while sidecar.metric("postern_outbound_sessions"):
        assert time.monotonic() < until


def test_more_submissions_than_descriptors(tmp_path: Path, mail: ScriptedServer) -> None:
    """Twice, because what is not given back is missing then."""
    with SidecarProcess(tmp_path, both(mail), files=FILES) as sidecar:
        for _ in range(2):
            with contextlib.ExitStack() as stack, ThreadPoolExecutor(40) as crowd:
                coming = [crowd.submit(greeted, sidecar, stack) for _ in range(CROWD)]
                healthy(sidecar)
                heard = [each.result() for each in coming]
                healthy(sidecar)
                inbound_works(sidecar)
                taken = [line for line in heard if line.startswith(b"220 ")]
                assert 10 < len(taken) < FILES // 4
                assert set(heard) - set(taken) == {FULL}
                assert len(taken) == sidecar.metric("postern_outbound_sessions")
            recovered(sidecar)
        with contextlib.ExitStack() as stack:
            assert greeted(sidecar, stack).startswith(b"220 ")
    assert "Traceback" not in str(sidecar.errors)


def test_inbound_has_its_part_whoever_submits(tmp_path: Path, mail: ScriptedServer) -> None:
    with SidecarProcess(tmp_path, both(mail), files=FILES) as sidecar, contextlib.ExitStack() as stack:
        assert FULL in [greeted(sidecar, stack) for _ in range(FILES // 4)]
        clients = [stack.enter_context(proxied(sidecar.client())) for _ in range(30)]
        for client in clients:
            client.expect(220)
        healthy(sidecar)


def test_outbound_has_its_part_whoever_sends(tmp_path: Path, mail: ScriptedServer) -> None:
    with SidecarProcess(tmp_path, both(mail), files=FILES) as sidecar, contextlib.ExitStack() as stack:
        for _ in range(150):
            stack.enter_context(proxied(sidecar.client()))
        sidecar.log.wait_for(" descriptors ")
        healthy(sidecar)
        assert greeted(sidecar, stack).startswith(b"220 ")


def test_too_few_for_any_submission_is_said_at_start_and_refused_in_a_reload(
    tmp_path: Path, mail: ScriptedServer
) -> None:
    with SidecarProcess(tmp_path, both(mail), files=110, listens=False) as sidecar:
        assert sidecar.wait() == 1
        sidecar.errors.wait_for("spec.outbound: the limit of 110 open files .* ulimit -n")
    alone = both(mail)
    del alone["spec"]["outbound"]
    with SidecarProcess(tmp_path, alone, files=110) as sidecar:
        sidecar.write(both(mail))
        sidecar.log.wait_for("config_refused .*spec.outbound: the limit of 110 open files")
        inbound_works(sidecar)


def test_outbound_that_goes_gives_its_part_back(tmp_path: Path, mail: ScriptedServer) -> None:
    alone = both(mail)
    del alone["spec"]["outbound"]
    with SidecarProcess(tmp_path, both(mail), files=FILES) as sidecar, contextlib.ExitStack() as stack:
        sidecar.write(alone)
        sidecar.log.wait_for(" config ", times=2)
        clients = [stack.enter_context(proxied(sidecar.client())) for _ in range(60)]
        for client in clients:
            client.expect(220)


# Connections to next hops

PLAN = Plan(Level.MAY, Domain("mx.example.org"))


async def made(directory: Path, next_hops: int) -> Outbound:
    """Never started."""
    share = lent()
    outbound = Outbound(
        Settings(Section(), "mail.example.net"),
        state_dir=directory,
        write=lambda _: None,
        next_id=lambda: "o0001",
        on_quiet=lambda: None,
        lent=share,
    )
    share.next_hops.capacity = next_hops
    return outbound


async def stays(peer: Peer) -> None:
    await peer.reader.read()


async def connection(outbound: Outbound, to: Endpoint) -> Channel:
    channel = await outbound._dial(to, 5)
    assert isinstance(channel, Channel)
    return channel


async def test_no_room_for_a_next_hop(tmp_path: Path) -> None:
    outbound = await made(tmp_path, 2)
    async with next_hop(stays) as to:
        first, second = await connection(outbound, to), await connection(outbound, to)
        lost = await outbound._dial(to, 5)
        assert isinstance(lost, Lost)
        assert lost.reason == "no_descriptors"
        first.close()
        await asyncio.sleep(0)
        (await connection(outbound, to)).close()
        second.close()
        await asyncio.sleep(0)
    assert outbound._lent.next_hops.taken == 0


async def test_a_full_house_has_room_for_those_who_are_turned_away(tmp_path: Path) -> None:
    outbound = await made(tmp_path, 0)
    limits = Section().limits
    assert outbound._lent.sessions.capacity == limits.connections + TURNED_AWAY_AT_ONCE


async def test_the_oldest_idle_connection_makes_way(tmp_path: Path) -> None:
    outbound = await made(tmp_path, 2)
    async with next_hop(stays) as to:
        idle = [await connection(outbound, to) for _ in range(2)]
        for channel in idle:
            outbound._idle.keep(Link(channel, to, key=PoolKey(*to, False, True, PLAN, "me", ""), used=1))
        wanted = await connection(outbound, to)
        assert [channel.lost is None for channel in idle] == [False, True]
        assert outbound._lent.next_hops.taken == 2
        wanted.close()
        outbound._idle.close()
