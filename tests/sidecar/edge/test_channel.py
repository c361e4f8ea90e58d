"""The connection to a next hop: replies, a message with back-pressure, farewells, and what hostile peers try."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from next_hop import Peer, next_hop, server_tls
from postern_sidecar.edge import channel as module
from postern_sidecar.edge.channel import HIGH_WATER, Channel
from postern_sidecar.edge.deadlines import Deadlines
from postern_sidecar.edge.dial import dial
from postern_sidecar.edge.tls import Engine
from postern_sidecar.names import Domain
from postern_sidecar.outbound.commands import Lost
from postern_sidecar.outbound.plan import Handshake, Level, Plan
from postern_sidecar.replies import Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from postern_sidecar.edge.deadlines import Waiting
    from postern_sidecar.names import Endpoint

PLAN = Plan(Level.MAY, Domain("mx.example.org"))
BANNER = Reply(220, (b"mx",))
OK = Reply(250, (b"ok",))
CHUNK = bytes(65536)


class Clockless(Deadlines):
    """Time passes where a test says so."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop())
        self.asked: list[float] = []
        self.waits: dict[Waiting, float] = {}
        self.changed = asyncio.Event()

    def set(self, waiting: Waiting, seconds: float) -> None:
        self.asked.append(seconds)
        self.waits[waiting] = seconds
        self.changed.set()

    def unset(self, waiting: Waiting) -> None:
        self.waits.pop(waiting, None)

    async def some(self) -> None:
        """Until somebody waits."""
        while not self.waits:
            self.changed.clear()
            await self.changed.wait()

    def expire(self) -> None:
        waits, self.waits = self.waits, {}
        for waiting in waits:
            waiting.overdue()


@pytest.fixture
async def deadlines() -> AsyncIterator[Clockless]:
    it = Clockless()
    yield it
    assert not it.waits  # nobody is still waited for


def stuff(channel: Channel) -> None:
    """More than the kernel takes of what the peer does not read."""
    channel.write(bytes(24 << 20))
    assert channel._full


async def connected(deadlines: Deadlines, to: Endpoint) -> Channel:
    channel = await dial(deadlines, to, 5)
    assert isinstance(channel, Channel)
    return channel


class TestReplies:
    async def test_a_conversation(self, deadlines: Clockless) -> None:
        async def script(peer: Peer) -> None:
            peer.say(b"220 mx\r\n")
            await peer.hear(b"EHLO me\r\n")
            peer.say(b"250-mx\r\n250 SIZE 10\r\n")
            await peer.hear(b"RSET\r\nMAIL\r\nRCPT\r\n")
            peer.say(b"250 ok\r\n250 ok\r\n550 no\r\n")
            await peer.gone()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            assert await channel.say(b"", 1, 30) == [BANNER]
            assert await channel.say(b"EHLO me\r\n", 1, 30) == [Reply(250, (b"mx", b"SIZE 10"))]
            assert await channel.say(b"RSET\r\nMAIL\r\nRCPT\r\n", 3, 120) == [OK, OK, Reply(550, (b"no",))]
            channel.close()
            assert await channel.say(b"NOOP\r\n", 1, 30) == Lost("connection_lost", "closed here")

    async def test_byte_by_byte(self, deadlines: Clockless) -> None:
        async def script(peer: Peer) -> None:
            for number in b"220-mx\r\n220 ok\r\n250 ok\r\n":
                peer.say(bytes([number]))
                await asyncio.sleep(0)
            await peer.gone()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            assert await channel.say(b"", 2, 30) == [Reply(220, (b"mx", b"ok")), OK]
            channel.close()

    async def test_what_comes_behind_the_last_one_stays(self, deadlines: Clockless) -> None:
        async def script(peer: Peer) -> None:
            peer.say(b"220 mx\r\n250 ok\r\n25")
            await peer.hear(b"NOOP\r\n")
            peer.say(b"0 ok\r\n")
            await peer.gone()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            assert await channel.say(b"", 1, 30) == [BANNER]
            assert channel.pending_reply
            assert await channel.say(b"", 1, 30) == [OK]
            assert not channel.pending_reply
            assert await channel.say(b"NOOP\r\n", 1, 30) == [OK]
            channel.close()

    async def test_the_time_is_for_each_reply(self, deadlines: Clockless) -> None:
        begin, go = asyncio.Event(), asyncio.Event()

        async def script(peer: Peer) -> None:
            await begin.wait()
            peer.say(b"220 mx\r\n")
            await go.wait()
            peer.say(b"250 ok\r\n")
            await peer.gone()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            said = asyncio.get_running_loop().create_task(channel.say(b"", 2, 30))
            await deadlines.some()
            begin.set()
            while deadlines.asked != [30, 30]:
                deadlines.changed.clear()
                await deadlines.changed.wait()
            go.set()
            assert await said == [BANNER, OK]
            channel.close()

    async def test_a_reply_that_never_comes(self, deadlines: Clockless) -> None:
        async def script(peer: Peer) -> None:
            peer.say(b"220 mx\r\n")
            await peer.hear(b"DATA\r\n")
            await peer.gone()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            assert await channel.say(b"", 1, 30) == [BANNER]
            said = asyncio.get_running_loop().create_task(channel.say(b"DATA\r\n", 1, 60))
            await deadlines.some()
            deadlines.expire()
            lost = Lost("reply_timeout", "no reply within 60 s")
            assert await said == lost
            assert channel.lost == lost
            assert await channel.say(b"NOOP\r\n", 1, 60) == lost

    @pytest.mark.parametrize("way", ["ends", "resets"])
    async def test_a_connection_that_goes_keeps_the_replies_that_came(self, deadlines: Clockless, way: str) -> None:
        async def script(peer: Peer) -> None:
            peer.say(b"220 mx\r\n250 ok\r\n25")
            await peer.hear(b"x")
            if way == "resets":
                peer.writer.transport.abort()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            assert await channel.say(b"", 1, 30) == [BANNER]
            said = await channel.say(b"x" if way == "ends" else b"xyz", 2, 30)
            assert isinstance(said, Lost)
            assert (said.reason, said.replies) == ("connection_lost", (OK,))
            assert await channel.drain(30) == channel.lost

    async def test_who_waits_may_be_cancelled(self, deadlines: Clockless) -> None:
        async def script(peer: Peer) -> None:
            await peer.gone()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            said = asyncio.get_running_loop().create_task(channel.say(b"", 1, 30))
            await deadlines.some()
            said.cancel()
            with pytest.raises(asyncio.CancelledError):
                await said
            assert not deadlines.waits
            channel.close()


HOSTILE = {
    "an endless banner": (b"220-mx\r\n" * 10_000, "a reply has too many lines"),
    "a line of 1 MiB": (b"220 " + b"x" * 1_048_576, "a reply line is too long"),
    "100,000 replies": (b"220 mx\r\n" * 100_000, "more replies than commands"),
    "codes that differ": (b"220-mx\r\n250 mx\r\n", "the lines of one reply have different codes"),
    "HTTP": (b"HTTP/1.1 400 Bad Request\r\n", "not an SMTP reply"),
}


class TestHostile:
    @pytest.mark.parametrize(("said", "detail"), HOSTILE.values(), ids=HOSTILE)
    async def test_what_is_no_reply(self, deadlines: Clockless, said: bytes, detail: str) -> None:
        async def script(peer: Peer) -> None:
            peer.say(said)
            await peer.gone()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            answer = await channel.say(b"", 2, 30)
            assert len(channel._replies) <= module.AHEAD + module._SLICE
            while channel.lost is None:
                answer = await channel.say(b"", 1000, 30)
            assert channel.lost == Lost("bad_reply", detail)
            assert isinstance(answer, Lost) or detail == "more replies than commands"

    async def test_the_replies_before_what_is_none_count(self, deadlines: Clockless) -> None:
        async def script(peer: Peer) -> None:
            peer.say(b"250 ok\r\nwhat?\r\n")
            await peer.gone()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            assert await channel.say(b"", 1, 30) == [OK]
            assert await channel.say(b"", 1, 30) == Lost("bad_reply", "not an SMTP reply")

    async def test_what_nobody_asked_for_is_kept_up_to_a_bound(self, deadlines: Clockless) -> None:
        lost = asyncio.Event()

        async def script(peer: Peer) -> None:
            peer.say(b"220 mx\r\n")
            await peer.hear(b"DATA\r\n")
            peer.say(b"354 go\r\n")
            await peer.hear(b"body\r\n")
            for _ in range(module.UNREAD // 2000 + 1):  # one reply, which never ends
                peer.say(b"552-" + b"x" * 1996 + b"\r\n")
            await peer.gone()
            lost.set()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            await channel.say(b"", 1, 30)
            await channel.say(b"DATA\r\n", 1, 30)
            channel.write(b"body\r\n")
            await lost.wait()
            assert channel.lost == Lost("bad_reply", "it talks unasked")


class TestMessage:
    async def test_an_early_reply_is_seen_while_the_message_flows(self, deadlines: Clockless) -> None:
        async def script(peer: Peer) -> None:
            await peer.hear(b"body\r\n")
            peer.say(b"552 too big\r\n")
            await peer.hear(b".\r\n")
            await peer.gone()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            spoken = asyncio.Event()
            channel.on_idle = lambda _: spoken.set()
            channel.write(b"body\r\n")
            await spoken.wait()
            assert channel.pending_reply
            assert channel.lost is None
            assert await channel.say(b".\r\n", 1, 30) == [Reply(552, (b"too big",))]
            channel.close()

    @pytest.mark.parametrize("tls", [False, True])
    async def test_a_slow_peer_holds_the_message_back(self, deadlines: Clockless, tls: bool, tmp_path: Path) -> None:
        context = server_tls(tmp_path)
        octets, most = 24 * 1_048_576, 0

        async def script(peer: Peer) -> None:
            if tls:
                await peer.start_tls(context)
            left = octets
            while left:
                left -= len(await peer.reader.read(min(left, 65536)))
            peer.say(b"250 ok\r\n")
            await peer.gone()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            if tls:
                assert isinstance(await channel.secure(PLAN, 30), Handshake)
            waited = 0
            for _ in range(octets // len(CHUNK)):
                channel.write(CHUNK)
                most = max(most, channel._transport.get_write_buffer_size())
                waited += channel._full
                assert await channel.drain(30) is None
            assert await channel.say(b"", 1, 30) == [OK]
            assert most <= HIGH_WATER + len(CHUNK) + 4096
            assert waited
            channel.close()

    @pytest.mark.parametrize(
        ("patient", "asked", "least"),
        [(True, [30, 30], "nothing"), (False, [30], "too little")],
        ids=["alone", "others"],
    )
    async def test_a_peer_that_takes_little_and_then_nothing(
        self, deadlines: Clockless, patient: bool, asked: list[float], least: str
    ) -> None:
        """Where others wait, the little is as bad."""
        done = asyncio.Event()

        async def script(peer: Peer) -> None:
            await done.wait()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            stuff(channel)
            drained = asyncio.get_running_loop().create_task(channel.drain(30, patient=patient))
            await deadlines.some()
            channel._size += 1  # as if it had taken an octet
            deadlines.expire()
            if patient:
                await asyncio.sleep(0)
                assert not drained.done()
                deadlines.expire()
            assert await drained == Lost("reply_timeout", f"{least} of the message taken within 30 s")
            assert deadlines.asked == asked
            channel.write(CHUNK)  # for nothing
            done.set()

    async def test_a_peer_that_speaks_and_takes_no_more(self, deadlines: Clockless) -> None:
        go, over = asyncio.Event(), asyncio.Event()

        async def script(peer: Peer) -> None:
            await go.wait()
            peer.say(b"552 too big\r\n")
            await over.wait()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            stuff(channel)
            drained = asyncio.get_running_loop().create_task(channel.drain(30))
            await deadlines.some()
            go.set()
            assert await drained is None
            assert channel.pending_reply
            assert await channel.drain(30) is None
            assert await channel.say(b"", 1, 30) == [Reply(552, (b"too big",))]
            channel.close()
            over.set()

    async def test_a_peer_that_goes_in_the_middle(self, deadlines: Clockless) -> None:
        async def script(peer: Peer) -> None:
            await peer.reader.readexactly(1000)

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            lost = None
            while lost is None:
                channel.write(CHUNK)
                lost = await channel.drain(30)
            assert lost.reason == "connection_lost"


class TestFarewell:
    @pytest.mark.parametrize("tls", [False, True])
    async def test_quit(self, deadlines: Clockless, tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        context, farewells = server_tls(tmp_path), list[Engine]()
        farewell = Engine.farewell

        def noted(engine: Engine) -> bytes:
            farewells.append(engine)
            return farewell(engine)

        monkeypatch.setattr(Engine, "farewell", noted)

        async def script(peer: Peer) -> None:
            if tls:
                await peer.start_tls(context)
            peer.say(b"220 mx\r\n")
            await peer.hear(b"QUIT\r\n")
            await peer.gone()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            if tls:
                await channel.secure(PLAN, 30)
            assert await channel.say(b"", 1, 30) == [BANNER]
            channel.close(quit=True)
            channel.close(quit=True)
            assert len(farewells) == tls  # the standard library's end does not tell whether there was one

    async def test_without_quit_nothing_is_said(self, deadlines: Clockless) -> None:
        async def script(peer: Peer) -> None:
            await peer.gone()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            channel.close()

    async def test_a_peer_that_does_not_read_it_is_not_waited_for(self, deadlines: Clockless) -> None:
        async def script(peer: Peer) -> None:
            await done.wait()

        done = asyncio.Event()
        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            stuff(channel)
            channel.close(quit=True)
            assert list(deadlines.waits.values()) == [module.LINGER]
            deadlines.expire()
            done.set()

    @pytest.mark.parametrize("last", [b"", b"421 idle\r\n"])
    async def test_an_idle_one_tells_when_its_peer_speaks_or_goes(self, deadlines: Clockless, last: bytes) -> None:
        go, told = asyncio.Event(), asyncio.Event()

        async def script(peer: Peer) -> None:
            peer.say(b"220 mx\r\n")
            await go.wait()
            peer.say(last)

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            await channel.say(b"", 1, 30)
            channel.on_idle = lambda _: told.set()
            go.set()
            await told.wait()
            assert channel.on_idle is None
            assert channel.pending_reply
            channel.close()


class TestStartTLS:
    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    async def test_a_conversation_goes_on_over_tls(
        self, deadlines: Clockless, version: ssl.TLSVersion, tmp_path: Path
    ) -> None:
        context = server_tls(tmp_path, newest=version)
        context.num_tickets = 4

        async def script(peer: Peer) -> None:
            peer.say(b"220 mx\r\n")
            await peer.hear(b"STARTTLS\r\n")
            peer.say(b"220 go\r\n")
            await peer.start_tls(context)
            await peer.hear(b"EHLO me\r\n")
            peer.say(b"250-mx\r\n250 ok\r\n" + b"250 ok\r\n" * 5000)
            await peer.gone()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            await channel.say(b"", 1, 30)
            await channel.say(b"STARTTLS\r\n", 1, 30)
            handshake = await channel.secure(PLAN, 30)
            assert isinstance(handshake, Handshake)
            assert handshake.version == version.name.replace("TLSv", "TLS").replace("_", ".")
            assert await channel.say(b"EHLO me\r\n", 1, 30) == [Reply(250, (b"mx", b"ok"))]
            assert isinstance(await channel.say(b"", 5000, 30), list | Lost)
            channel.close()

    @pytest.mark.parametrize("behind", [b"250 injected\r\n", b"2", b"\n", b"250-x\r\n"])
    async def test_what_stands_behind_the_reply_was_injected(self, deadlines: Clockless, behind: bytes) -> None:
        async def script(peer: Peer) -> None:
            peer.say(b"220 mx\r\n")
            await peer.hear(b"STARTTLS\r\n")
            peer.say(b"220 go\r\n" + behind)
            await peer.gone()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            await channel.say(b"", 1, 30)
            await channel.say(b"STARTTLS\r\n", 1, 30)
            lost = await channel.secure(PLAN, 30)
            assert isinstance(lost, Lost)
            assert lost.reason == ("bad_reply" if behind == b"\n" else "starttls_injection")

    @pytest.mark.parametrize(
        ("answer", "detail"),
        [(b"220 go on in clear\r\n", "wrong version number"), (b"", "closed by the peer"), (b"\x16", "closed")],
    )
    async def test_a_peer_that_does_not_shake_hands(self, deadlines: Clockless, answer: bytes, detail: str) -> None:
        async def script(peer: Peer) -> None:
            assert await peer.reader.readexactly(1) == b"\x16"  # a handshake record
            peer.say(answer)

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            lost = await channel.secure(PLAN, 30)
            assert isinstance(lost, Lost)
            assert lost.reason == "tls_failed"
            assert detail in lost.detail
            deadlines.waits.clear()

    async def test_tls_from_the_start_where_a_peer_speaks_smtp(self, deadlines: Clockless) -> None:
        async def script(peer: Peer) -> None:
            peer.say(b"220 mx\r\n")
            await peer.gone()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            spoken = asyncio.Event()
            channel.on_idle = lambda _: spoken.set()
            await spoken.wait()
            assert await channel.secure(PLAN, 30) == Lost("tls_failed", "it speaks SMTP in clear")
            deadlines.waits.clear()

    async def test_a_peer_that_is_silent(self, deadlines: Clockless) -> None:
        async def script(peer: Peer) -> None:
            assert await peer.reader.readexactly(1) == b"\x16"
            await peer.reader.read()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            secured = asyncio.get_running_loop().create_task(channel.secure(PLAN, 30))
            await deadlines.some()
            deadlines.expire()
            assert await secured == Lost("tls_timeout")
            assert await channel.secure(PLAN, 30) == Lost("tls_timeout")

    async def test_a_ca_bundle_that_is_none(self, deadlines: Clockless) -> None:
        async def script(peer: Peer) -> None:
            await peer.gone()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            plan = Plan(Level.VERIFY, None, ca_bundle="-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
            assert await channel.secure(plan, 30) == Lost("tls_failed", "the CA bundle cannot be read")
            deadlines.waits.clear()

    async def test_tls_messages_without_end(self, deadlines: Clockless) -> None:
        """The answers to a flood of requests to renegotiate go out, up to a bound."""

        heard = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.hear(bytes(module.OWED))
            heard.set()
            await peer.gone()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            for _ in range(4):
                channel._answer(bytes(module.OWED // 4))
            assert channel.lost is None
            await heard.wait()
            channel._answer(b"x")
            assert channel.lost == Lost("connection_lost", "it asks for TLS messages without end")

    async def test_a_broken_record_ends_it(self, deadlines: Clockless, tmp_path: Path) -> None:
        context = server_tls(tmp_path)

        async def script(peer: Peer) -> None:
            plain = peer.writer.transport
            await peer.start_tls(context)
            await peer.hear(b"EHLO me\r\n")
            plain.write(b"\x17\x03\x03\x00\x20" + bytes(32))
            with suppress(ssl.SSLError):  # our alert
                await peer.gone()

        async with next_hop(script) as endpoint:
            channel = await connected(deadlines, endpoint)
            await channel.secure(PLAN, 30)
            lost = await channel.say(b"EHLO me\r\n", 1, 30)
            assert isinstance(lost, Lost)
            assert lost.reason == "connection_lost"
            assert "bad record" in lost.detail or "decryption failed" in lost.detail
