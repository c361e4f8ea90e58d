"""Whatever a client does, and whenever it goes: behind it everything that was counted for it is given back."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections import deque
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast

import pytest

from playbook import listener
from postern_sidecar.edge.bind import listen
from postern_sidecar.edge.descriptors import Room
from postern_sidecar.edge.listener import ListeningPort, Shared
from postern_sidecar.edge.metrics import Metrics
from postern_sidecar.edge.session import ClientSide
from postern_sidecar.inbound.limits import Limiter
from postern_sidecar.names import Address, HostName, NameStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from postern_sidecar.edge.resolver import ReverseResolver
    from postern_sidecar.logline import Record

HEADER = b"PROXY TCP4 192.0.2.4 198.51.100.25 40211 25\r\n"
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
NAMED: dict[str, Any] = {"rules": [{"name": "r", "when": "sender_host_name == 'x'", "action": "Refuse"}]}
FORWARD: dict[str, Any] = {"earlyTalkers": "Forward"}


class Names:
    """Reverse DNS that is asked and does not answer until it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()

    async def name_of(self, address: Address) -> HostName:
        del address
        self.asked.set()
        await self.answer.wait()
        return HostName(NameStatus.ABSENT)


class Scene:
    """A port, and a mail server that hears the header, greets where it is asked to, and then is mute."""

    def __init__(self) -> None:
        self.names = Names()
        self.reached = asyncio.Event()  # the mail server
        self.idle = asyncio.Event()
        self.records: deque[Record] = deque()
        self.greets = True
        self.writers: list[asyncio.StreamWriter] = []
        self.port: ListeningPort

    async def mail(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        await reader.readline()
        self.reached.set()
        if self.greets:
            writer.write(b"220 mx\r\n")
        await reader.read()
        writer.close()

    def left(self) -> None:
        if not self.port.open:
            self.idle.set()

    @property
    def counted(self) -> Mapping[str, int]:
        port, room, limiter = self.port, self.port.shared.room, self.port.limiter
        return {
            "open": port.open,
            "sessions": len(port.sessions),
            "splices": len(port.splices),
            "probes": port.probes,
            "descriptors": room.taken,
            "waiting": room.waiting,
            "sockets": limiter.sockets,
            "admitted": limiter.sessions,
        }

    async def client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port.bound.port)
        self.writers.append(writer)
        return reader, writer

    async def end(self) -> None:
        """Close what is still open."""
        self.port.close()
        for writer in self.writers:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def scene(**fields: Any) -> AsyncIterator[Scene]:
    it = Scene()
    proxy = {"requiredFrom": ["127.0.0.1"], **fields.pop("proxyProtocol", {})}
    async with await asyncio.start_server(it.mail, "127.0.0.1", 0) as server:
        backend = {"port": server.sockets[0].getsockname()[1]}
        listening = listener(handover="ProxyV1", backend=backend, proxyProtocol=proxy, **fields)
        ids = itertools.count()
        shared = Shared(
            loop=asyncio.get_running_loop(),
            room=Room(1000, 0, lambda: None, lambda: None),
            metrics=Metrics("test"),
            resolver=cast("ReverseResolver", it.names),
            write=it.records.append,
            next_id=lambda: f"c{next(ids)}",
            on_idle=it.left,
        )
        limiter = Limiter(listening.inbound.limits, listening.required)
        it.port = ListeningPort(shared, listening, limiter, listen(ip_address("127.0.0.1"), 0, "port"))
        await it.port.resume()
        try:
            yield it
        finally:
            await it.end()


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def till_silence(it: Scene, reader: asyncio.StreamReader) -> None:
    del it, reader


async def till_told(it: Scene, reader: asyncio.StreamReader) -> None:
    del it
    assert await reader.readline()


async def till_name(it: Scene, reader: asyncio.StreamReader) -> None:
    del reader
    await it.names.asked.wait()


async def till_mail(it: Scene, reader: asyncio.StreamReader) -> None:
    del reader
    await it.reached.wait()


MOMENTS = [
    pytest.param(b"", till_silence, {}, id="without a byte"),
    pytest.param(HEADER[:9], till_silence, {}, id="inside the header"),
    pytest.param(HEADER, till_silence, {}, id="right behind the header"),
    pytest.param(b"no header\r\n", till_told, {}, id="refused"),
    pytest.param(b"no header\r\n", till_told, {"proxyProtocol": {"onFailure": "Refuse503"}}, id="refused with 503"),
    pytest.param(b"", till_told, {"proxyProtocol": {"requiredFrom": [], "others": "Refuse"}}, id="refused at once"),
    pytest.param(
        b"",
        till_silence,
        {"proxyProtocol": {"requiredFrom": [], "others": "Refuse"}, "tlsOnConnect": True},
        id="closed at once",
    ),
    pytest.param(HEADER + b"EHLO\r\n", till_told, {}, id="early talker"),
    pytest.param(HEADER, till_name, NAMED, id="while its name is looked up"),
    pytest.param(HEADER + b"EHLO\r\n", till_name, NAMED | FORWARD, id="likewise, with words for the mail server"),
    pytest.param(HEADER, till_mail, {"greets": False}, id="while the mail server thinks"),
    pytest.param(HEADER + b"EHLO\r\n", till_mail, FORWARD | {"greets": False}, id="likewise, with words for it"),
    pytest.param(HEADER, till_told, {}, id="in its session"),
    pytest.param(HEADER, till_told, {"reverseDNS": "Always"}, id="in its session, with its name open"),
    pytest.param(LOCAL, till_silence, {}, id="a probe that goes at once"),
    pytest.param(LOCAL, till_told, {}, id="a probe with an answer"),
    pytest.param(LOCAL, till_told, {"proxyProtocol": {"probes": "Forward"}}, id="a probe that is forwarded"),
    pytest.param(LOCAL, till_silence, {"protocol": "Opaque"}, id="a probe where nothing is said"),
]


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize(("said", "moment", "fields"), MOMENTS)
async def test_nothing_stays_counted(said: bytes, moment: Any, fields: dict[str, Any], how: str) -> None:
    fields = dict(fields)
    greets = fields.pop("greets", True)
    async with scene(**fields) as it:
        it.greets = greets
        reader, writer = await it.client()
        writer.write(said)
        await moment(it, reader)
        if how == "reset":
            reset(writer)
        else:
            writer.close()
        if how == "close" and moment is till_name:
            it.names.answer.set()  # its words may still be delivered: it is heard to the end
        await asyncio.wait_for(it.idle.wait(), 10)
        it.names.answer.set()
        assert it.counted == dict.fromkeys(it.counted, 0)
        assert not [record for record in it.records if record.event == "internal_error"]


async def test_a_reset_client_s_name_is_waited_for_no_longer() -> None:
    async with scene(**NAMED, **FORWARD) as it:
        _, writer = await it.client()
        writer.write(HEADER + b"EHLO\r\n")
        await it.names.asked.wait()
        reset(writer)
        await asyncio.wait_for(it.idle.wait(), 10)
        it.names.answer.set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not it.reached.is_set()
        assert [record.fields.get("reason") for record in it.records] == ["client_gone"]


@pytest.mark.parametrize("early", [True, False], ids=["before the banner", "behind it"])
async def test_a_header_that_nobody_asked_for_is_counted_as_one(early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the banner means here: while the client's name is looked up."""
    arrived, data_received = asyncio.Event(), ClientSide.data_received

    def told(side: ClientSide, data: bytes) -> None:
        data_received(side, data)
        arrived.set()

    monkeypatch.setattr(ClientSide, "data_received", told)
    async with scene(proxyProtocol={"requiredFrom": []}, **(NAMED if early else {})) as it:
        reader, writer = await it.client()
        if early:
            await it.names.asked.wait()
            writer.write(HEADER)
            await arrived.wait()
            it.names.answer.set()
        else:
            assert await reader.readline()
            writer.write(HEADER)
        assert (await reader.read()).startswith(b"421 4.3.2 ")
        writer.close()
        await asyncio.wait_for(it.idle.wait(), 10)
        assert it.port.counts.header_failures == {"header_from_untrusted_source": 1}


async def test_accepting_waits_until_there_is_room_indeed() -> None:
    """Room for one more and at once for none again: what was to be resumed stays paused."""
    async with scene() as it:
        port, room = it.port, it.port.shared.room
        port.pause()
        later = port.resume()
        room.full = True
        await later
        assert not port.accepting
        room.full = False
        await port.resume()
        assert port.accepting
        port.close()
        await port.resume()
        assert not port.accepting


async def test_turned_away_is_counted_while_it_reads_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postern_sidecar.edge.listener.TURNED_AWAY_LINGER", 0.05)
    async with scene(limits={"connections": 1}) as it:
        first, second = await it.client(), await it.client()
        assert (await second[0].read()).startswith(b"421 4.7.0 ")
        assert it.counted["sockets"] == 1
        first[1].close()
        second[1].close()
        await asyncio.wait_for(it.idle.wait(), 10)
        assert it.counted == dict.fromkeys(it.counted, 0)


async def test_what_came_early_is_not_kept_for_the_whole_session() -> None:
    async with scene(protocol="Opaque") as it:
        _, writer = await it.client()
        writer.write(HEADER + b"x" * 50_000)
        await it.reached.wait()
        (splice,) = it.port.splices
        session = cast("Any", splice.on_end).__self__
        assert splice.client.octets > 0
        assert session.life.early == b""
