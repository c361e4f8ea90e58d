"""The submission doors over loopback: SMTP for programs, LMTP for mail servers, with scripted next hops behind them."""

from __future__ import annotations

import asyncio
import errno
import gc
import re
import smtplib
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from postern_sidecar.config.model import BareNewline, Outbound, OutboundLimits, Route, Submission
from postern_sidecar.config.scalars import HostPort, Pattern, Size
from postern_sidecar.edge import doors, submission
from postern_sidecar.edge.bind import BindError, listen
from postern_sidecar.outbound.transaction import MAX_LEGS, MAX_RECIPIENTS
from postern_sidecar.replies import Reply
from relaying import PATIENCE, Gate, NextHopScript, connected, house

if TYPE_CHECKING:
    from collections.abc import Callable

    from relaying import House

BODY = b"Subject: x\r\n\r\nhello\r\n..dot\r\n"
NO = Reply(550, (b"5.1.1 no such user",))
LATER = Reply(450, (b"4.2.0 later",))


async def turns(number: int = 20) -> None:
    """Let everything run that can."""
    for _ in range(number):
        await asyncio.sleep(0)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - turns of the loop, not time
            await asyncio.sleep(0)


def message(leg_message: bytes) -> bytes:
    """Without the Received field and the final dot."""
    head, sep, rest = leg_message.partition(b"Subject:")
    assert head.startswith(b"Received: from app.example.net ([127.0.0.1]) by mail.example.net\r\n\twith ")
    assert rest.endswith(b"\r\n.\r\n")
    return sep + rest[:-3]


# Greetings and what is announced


async def test_what_is_announced() -> None:
    async with house(Outbound(limits=OutboundLimits(message_size=Size("1Mi")))) as home:
        for port, hello in ((home.port("smtp"), b"EHLO x"), (home.port("lmtp"), b"LHLO x")):
            async with connected(port) as client:
                await client.reply()
                assert await client.ask(hello) == (
                    b"250-mail.example.net\r\n250-PIPELINING\r\n250-SIZE 1048576\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
                    b"250-DSN\r\n250 ENHANCEDSTATUSCODES\r\n"
                )


async def test_each_door_has_its_own_greeting() -> None:
    async with house() as home, home.smtp() as smtp, home.lmtp() as lmtp:
        assert await smtp.ask(b"HELO x") == b"250 mail.example.net\r\n"
        assert (await smtp.ask(b"LHLO x")).startswith(b"500 5.5.2")
        assert (await lmtp.ask(b"EHLO x")).startswith(b"500 5.5.2")
        assert (await lmtp.ask(b"HELO x")).startswith(b"500 5.5.2")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (b"EHLO", b"501 5.5.4"),
        (b"NOOP x", b"250 2.0.0"),
        (b"HELP", b"214 2.0.0"),
        (b"VRFY root", b"252 2.1.5"),
        (b"RSET", b"250 2.0.0"),
        (b"RSET x", b"501 5.5.4"),
        (b"rset", b"250 2.0.0"),
        (b"EXPN x", b"502 5.5.1"),
        (b"AUTH PLAIN", b"502 5.5.1"),
        (b"STARTTLS", b"502 5.5.1"),
        (b"XCLIENT ADDR=192.0.2.1", b"502 5.5.1"),
        (b"XFORWARD ADDR=192.0.2.1", b"502 5.5.1"),
        (b"BDAT 5 LAST", b"502 5.5.1"),
        (b"", b"500 5.5.2"),
        (b"NONSENSE", b"500 5.5.2"),
        (b"\xff\xfe", b"500 5.5.2"),
        (b"\0", b"500 5.5.2"),
        (b"RCPT TO:<u@a.example>", b"503 5.5.1"),
        (b"DATA", b"503 5.5.1"),
        (b"MAIL FROM:<a@b> X=1", b"555 5.5.4"),
        (b"MAIL FROM:a@b", b"501 5.5.4"),
        (b"x" * doors.MAX_COMMAND, b"500 5.5.2"),
        (b"NOOP " + b"x" * 300_000, b"500 5.5.2"),
    ],
)
async def test_commands_outside_a_transaction(command: bytes, code: bytes) -> None:
    async with house() as home, home.smtp() as client:
        assert (await client.ask(command)).startswith(code + b" ")
        assert (await client.ask(b"NOOP")).startswith(b"250")


async def test_a_greeting_comes_first() -> None:
    async with house() as home, connected(home.port("smtp")) as client:
        await client.reply()
        assert (await client.ask(b"MAIL FROM:<>")).startswith(b"503 5.5.1")


async def test_without_ehlo_there_are_no_parameters_and_the_protocol_is_smtp() -> None:
    async with house() as home, connected(home.port("smtp")) as client:
        await client.reply()
        await client.ask(b"HELO app.example.net")
        assert (await client.ask(b"MAIL FROM:<> SIZE=1")).startswith(b"555 5.5.4")
        assert await client.begin(b"u@a.example") == [b"250 2.1.5", b"354 End"]
        client.send(BODY + b".\r\n")
        assert await client.codes(1) == [b"250 2.0.0"]
        assert b"with SMTP id o0001;" in home.leg("a.example").message


async def test_quit() -> None:
    async with house() as home, home.smtp() as client:
        client.send(b"QUIT\r\n")
        assert await client.rest() == b"221 2.0.0 mail.example.net closing connection\r\n"


@pytest.mark.parametrize("door", ["smtp", "lmtp"])
@pytest.mark.parametrize("goodbye", [b"QUIT\r\n", b""])
async def test_a_session_that_is_over_leaves_nothing_to_the_garbage_collector(door: str, goodbye: bytes) -> None:
    async with house() as home:
        gc.disable()
        try:
            async with getattr(home, door)() as client:
                (session,) = home.open.house.sessions
                gone = weakref.ref(session)
                del session
                assert await client.begin(b"u@a.example") == [b"250 2.1.5", b"354 End"]
                client.send(BODY + b".\r\n")
                await client.reply()
                client.send(goodbye)
            await until(lambda: gone() is None)
        finally:
            gc.enable()


# One message


@pytest.mark.parametrize("door", ["smtp", "lmtp"])
async def test_a_message_goes_through_unchanged_with_received_before_it(door: str) -> None:
    async with house() as home, getattr(home, door)() as client:
        assert await client.begin(b"u@a.example") == [b"250 2.1.5", b"354 End"]
        client.send(BODY + b".\r\n")
        assert await client.reply() == b"250 2.0.0 queued\r\n"
        leg = home.leg("a.example")
        assert message(leg.message) == BODY
        assert leg.events == ["rcpt", "start", "finish"]
        assert leg.sender.path == b"app@example.net"
        assert b"with E" if door == "smtp" else b"with LMTP id o0001" in leg.message
        assert leg.channel.writes == 1, "the field, the message and the dot are one write"


@pytest.mark.parametrize(("door", "protocol"), [("smtp", b"UTF8SMTP"), ("lmtp", b"UTF8LMTP")])
async def test_the_protocol_of_an_internationalized_message(door: str, protocol: bytes) -> None:
    async with house() as home, getattr(home, door)() as client:
        client.send(b"MAIL FROM:<a@b.example> SMTPUTF8\r\nRCPT TO:<\xc3\xa9@a.example>\r\nDATA\r\n")
        assert await client.codes(3) == [b"250 2.1.0", b"250 2.1.5", b"354 End"]
        client.send(BODY + b".\r\n")
        await client.reply()
        assert b"with " + protocol + b" id" in home.leg("a.example").message


@pytest.mark.parametrize("door", ["smtp", "lmtp"])
async def test_everything_in_one_packet_twice(door: str) -> None:
    """The octet behind the final dot is the next command's."""
    one = b"MAIL FROM:<>\r\nRCPT TO:<u@a.example>\r\nDATA\r\n" + BODY + b".\r\n"
    async with house() as home, getattr(home, door)() as client:
        client.send(one + one + b"QUIT\r\n")
        expected = [b"250 2.1.0", b"250 2.1.5", b"354 End", b"250 2.0.0"]
        assert await client.codes(9) == expected + expected + [b"221 2.0.0"]
        assert [message(leg.message) for leg in home.legs] == [BODY, BODY]
        assert [leg.session for leg in home.legs] == ["o0001", "o0002"]


@pytest.mark.parametrize("door", ["smtp", "lmtp"])
async def test_octet_by_octet(door: str) -> None:
    wire = b"MAIL FROM:<>\r\nRCPT TO:<u@a.example>\r\nDATA\r\n" + BODY + b".\r\nQUIT\r\n"
    async with house() as home, getattr(home, door)() as client:
        for at in range(len(wire)):
            client.send(wire[at : at + 1])
            await turns(2)
        assert await client.codes(5) == [b"250 2.1.0", b"250 2.1.5", b"354 End", b"250 2.0.0", b"221 2.0.0"]
        assert message(home.leg("a.example").message) == BODY


async def test_an_empty_message_is_its_received_field() -> None:
    async with house() as home, home.smtp() as client:
        await client.begin(b"u@a.example")
        client.send(b".\r\n")
        assert await client.codes(1) == [b"250 2.0.0"]
        assert re.fullmatch(rb"Received: .*\r\n\t.*\r\n\.\r\n", home.leg("a.example").message)


def program(port: int) -> dict[str, tuple[int, bytes]]:
    with smtplib.SMTP("127.0.0.1", port, local_hostname="app.example.net") as postern:
        return postern.sendmail("app@example.net", ["u@a.example", "v@b.example"], "Subject: x\n\n.\nhello\n")


async def test_pythons_own_client() -> None:
    async with house() as home:
        refused = await asyncio.to_thread(program, home.port("smtp"))
        assert list(refused) == ["v@b.example"]
        assert refused["v@b.example"][0] == 452
        assert message(home.leg("a.example").message) == b"Subject: x\r\n\r\n..\r\nhello\r\n"


# RCPT


async def test_smtp_has_one_next_hop_a_transaction() -> None:
    routes = (Route(domains=(Pattern("c.example"), Pattern("d.example")), via=HostPort("relay.example")),)
    async with house(Outbound(routes=routes)) as home, home.smtp() as client:
        assert await client.begin(b"u@a.example", b"v@b.example", b"w@a.example") == [
            b"250 2.1.5",
            b"452 4.5.3",
            b"250 2.1.5",
            b"354 End",
        ]
        client.send(BODY + b".\r\n")
        assert await client.codes(1) == [b"250 2.0.0"]
        assert await client.begin(b"u@c.example", b"v@d.example") == [b"250 2.1.5", b"250 2.1.5", b"354 End"]
        client.send(BODY + b".\r\n")
        assert await client.codes(1) == [b"250 2.0.0"]
        assert [str(leg.target) for leg in home.legs] == ["a.example", "c.example"]


async def test_smtp_takes_another_next_hop_while_nobody_was_accepted() -> None:
    async with house(a=NextHopScript(rcpt={b"u@a.example": NO})) as home, home.smtp() as client:
        assert await client.begin(b"u@a.example", b"v@b.example") == [b"550 5.1.1", b"250 2.1.5", b"354 End"]
        client.send(BODY + b".\r\n")
        assert await client.codes(1) == [b"250 2.0.0"]
        assert home.leg("a.example").events == ["rcpt", "abandon"]
        assert message(home.leg("b.example").message) == BODY


async def test_a_next_hop_that_took_nobody_is_let_go_at_once() -> None:
    async with house(a=NextHopScript(rcpt={b"u@a.example": NO})) as home, home.smtp() as client:
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<u@a.example>\r\nRCPT TO:<v@b.example>\r\n")
        assert await client.codes(3) == [b"250 2.1.0", b"550 5.1.1", b"250 2.1.5"]
        await turns()
        assert home.leg("a.example").events == ["rcpt", "abandon"]


@pytest.mark.parametrize("door", ["smtp", "lmtp"])
async def test_without_a_recipient_there_is_no_data(door: str) -> None:
    async with house(a=NextHopScript(rcpt={b"u@a.example": NO})) as home, getattr(home, door)() as client:
        assert await client.begin(b"u@a.example") == [b"550 5.1.1", b"503 5.5.1"]
        assert (await client.ask(b"RCPT TO:<v@a.example>")).startswith(b"250 2.1.5")
        assert (await client.ask(b"DATA x")).startswith(b"501 5.5.4")


@pytest.mark.parametrize("door", ["smtp", "lmtp"])
@pytest.mark.parametrize(
    ("argument", "code"),
    [(b"u@a.example", b"501 5.5.4"), (b"<root>", b"553 5.1.3"), (b"<\xc3\xa9@a.example>", b"553 5.6.7")],
)
async def test_a_recipient_that_is_none_reaches_no_next_hop(door: str, argument: bytes, code: bytes) -> None:
    async with house() as home, getattr(home, door)() as client:
        await client.ask(b"MAIL FROM:<>")
        assert (await client.ask(b"RCPT TO:" + argument)).startswith(code)
        assert not home.legs


async def test_nested_mail() -> None:
    async with house() as home, home.smtp() as client:
        await client.ask(b"MAIL FROM:<>")
        assert (await client.ask(b"MAIL FROM:<>")).startswith(b"503 5.5.1")


async def test_rset_and_a_new_greeting_abandon_the_transaction() -> None:
    async with house() as home, home.smtp() as client:
        for command in (b"RSET", b"EHLO x", b"HELO x"):
            await client.ask(b"MAIL FROM:<>")
            await client.ask(b"RCPT TO:<u@a.example>")
            assert (await client.ask(command)).startswith(b"250")
            assert (await client.ask(b"RCPT TO:<u@a.example>")).startswith(b"503")
        await turns()
        assert [leg.events for leg in home.legs] == [["rcpt", "abandon"]] * 3


async def test_lmtp_answers_in_order_and_asks_at_once() -> None:
    """A dead destination does not hold up the others."""
    gate = Gate()
    async with house(dead=NextHopScript(rcpt_gate=gate, rcpt={b"u@dead.example": LATER})) as home:
        async with home.lmtp() as client:
            client.send(b"MAIL FROM:<>\r\nRCPT TO:<u@dead.example>\r\nRCPT TO:<v@b.example>\r\nDATA\r\n")
            await gate.reached.wait()
            await turns()
            assert home.leg("b.example").events == ["rcpt"]
            assert await client.codes(1) == [b"250 2.1.0"]
            gate.open()
            assert await client.codes(3) == [b"450 4.2.0", b"250 2.1.5", b"354 End"]
            client.send(BODY + b".\r\n")
            assert await client.codes(1) == [b"250 2.0.0"]
            assert home.leg("dead.example").events == ["rcpt", "abandon"]


async def test_recipients_of_one_next_hop_are_asked_for_one_after_the_other() -> None:
    gate = Gate()
    async with house(a=NextHopScript(rcpt_gate=gate)) as home, home.lmtp() as client:
        client.send(b"MAIL FROM:<>\r\n" + b"".join(b"RCPT TO:<u%d@a.example>\r\n" % n for n in range(3)))
        await gate.reached.wait()
        await turns()
        assert home.leg("a.example").events == ["rcpt"]
        gate.open()
        assert await client.codes(4) == [b"250 2.1.0"] + [b"250 2.1.5"] * 3
        assert [r.path for r in home.leg("a.example").recipients] == [b"u%d@a.example" % n for n in range(3)]


@pytest.mark.parametrize("door", ["smtp", "lmtp"])
async def test_recipients_have_a_limit(door: str) -> None:
    refused = {b"u%d@a.example" % n: NO for n in range(3)}
    wanted = MAX_RECIPIENTS + 4
    async with house(a=NextHopScript(rcpt=refused)) as home, getattr(home, door)() as client:
        client.send(b"MAIL FROM:<>\r\n" + b"".join(b"RCPT TO:<u%d@a.example>\r\n" % n for n in range(wanted)))
        codes = await client.codes(wanted + 1)
        assert codes.count(b"550 5.1.1") == 3
        # those that are asked for at once count until they are answered
        assert codes.count(b"452 4.5.3") == (1 if door == "smtp" else 4)


async def test_next_hops_have_a_limit() -> None:
    async with house() as home, home.lmtp() as client:
        client.send(b"MAIL FROM:<>\r\n" + b"".join(b"RCPT TO:<u@a%d.example>\r\n" % n for n in range(MAX_LEGS + 1)))
        assert await client.codes(MAX_LEGS + 2) == [b"250 2.1.0"] + [b"250 2.1.5"] * MAX_LEGS + [b"452 4.5.3"]
        assert len(home.legs) == MAX_LEGS


async def test_answers_that_wait_have_a_limit() -> None:
    """Who goes on asking while the first is not answered is not read any more."""
    gate = Gate()
    async with house(a=NextHopScript(rcpt_gate=gate)) as home, home.lmtp() as client:
        client.send(b"MAIL FROM:<>\r\n" + b"RCPT TO:<u@a.example>\r\n" * (3 * doors.MAX_SLOTS))
        await gate.reached.wait()
        await turns(300)
        (session,) = home.open.house.sessions
        assert len(session._slots) == doors.MAX_SLOTS
        gate.open()
        codes = await client.codes(3 * doors.MAX_SLOTS + 1)
        assert codes.count(b"250 2.1.5") == MAX_RECIPIENTS


# DATA and its answers


@pytest.mark.parametrize("door", ["smtp", "lmtp"])
async def test_a_next_hop_that_refuses_data(door: str) -> None:
    async with house(a=NextHopScript(start=LATER)) as home, getattr(home, door)() as client:
        assert await client.begin(b"u@a.example") == [b"250 2.1.5", b"450 4.2.0"]
        assert (await client.ask(b"MAIL FROM:<>")).startswith(b"250")
        assert home.leg("a.example").events == ["rcpt", "start"]


async def test_what_follows_a_refused_data_is_no_command() -> None:
    """A program that sends its message without waiting must not have its lines taken for commands."""
    async with house(a=NextHopScript(start=LATER)) as home, home.smtp() as client:
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<u@a.example>\r\nDATA\r\nMAIL FROM:<x@y>\r\nRCPT TO:<v@b.example>\r\n")
        assert await client.codes(3) == [b"250 2.1.0", b"250 2.1.5", b"450 4.2.0"]
        assert await client.rest() == b""
        assert len(home.legs) == 1


async def test_lmtp_answers_each_recipient_in_rcpt_order_as_soon_as_it_can() -> None:
    first, last = Gate(), Gate()
    scripts = {
        "a": NextHopScript(final_gate=first, final=Reply(250, (b"2.0.0 a",))),
        "b": NextHopScript(final=Reply(554, (b"5.0.0 b",))),
        "c": NextHopScript(final_gate=last, final=Reply(450, (b"4.0.0 c",))),
    }
    async with house(None, **scripts) as home, home.lmtp() as client:
        recipients = [b"1@a.example", b"2@b.example", b"3@a.example", b"4@c.example", b"5@b.example"]
        assert (await client.begin(*recipients))[-1] == b"354 End"
        client.send(BODY + b".\r\nNOOP\r\n")
        await last.reached.wait()
        assert [message(leg.message) for leg in home.legs] == [BODY] * 3, "the final dot goes to all at once"
        first.open()
        assert await client.codes(3) == [b"250 2.0.0", b"554 5.0.0", b"250 2.0.0"]
        last.open()
        assert await client.codes(3) == [b"450 4.0.0", b"554 5.0.0", b"250 2.0.0"]


async def test_lmtp_goes_on_without_those_that_refuse_data() -> None:
    async with house(a=NextHopScript(start=LATER)) as home, home.lmtp() as client:
        assert (await client.begin(b"u@a.example", b"v@b.example"))[-1] == b"354 End"
        client.send(BODY + b".\r\n")
        assert await client.codes(2) == [b"450 4.2.0", b"250 2.0.0"]
        assert home.leg("a.example").message == b""


async def test_lmtp_all_refuse_data_differently() -> None:
    async with house(a=NextHopScript(start=LATER), b=NextHopScript(start=NO)) as home, home.lmtp() as client:
        assert (await client.begin(b"u@a.example", b"v@b.example"))[-1] == b"354 End"
        client.send(BODY + b".\r\n")
        assert await client.codes(2) == [b"450 4.2.0", b"550 5.1.1"]


@pytest.mark.parametrize(
    ("script", "event", "code"),
    [
        (NextHopScript(lost_at=1), "fail connection_lost", b"451 4.4.2"),
        (NextHopScript(stalls_at=1), "fail data_timeout", b"451 4.4.2"),
        (NextHopScript(speaks_at=1), "fail connection_lost", b"451 4.4.2"),
    ],
)
async def test_a_next_hop_that_does_not_hear_the_message_out(script: NextHopScript, event: str, code: bytes) -> None:
    async with house(a=script) as home, home.lmtp() as client:
        assert (await client.begin(b"u@a.example", b"v@b.example"))[-1] == b"354 End"
        client.send(BODY)
        await until(lambda: home.leg("b.example").channel.drained > 0)
        client.send(BODY + b".\r\n")
        assert await client.codes(2) == [code, b"250 2.0.0"]
        assert home.leg("a.example").events[-1] == event
        assert b"\r\n.\r\n" not in home.leg("a.example").message
        assert home.leg("a.example").channel.writes == 1
        assert message(home.leg("b.example").message) == BODY + BODY


async def test_a_session_lost_before_the_first_octet_is_begun_again() -> None:
    async with house(a=NextHopScript(lost_after_354=True)) as home, home.lmtp() as client:
        await client.begin(b"u@a.example", b"v@b.example")
        client.send(BODY)
        await until(lambda: home.leg("b.example").channel.drained)
        client.send(b".\r\n")
        assert await client.codes(2) == [b"250 2.0.0"] * 2
        assert home.leg("a.example").events == ["rcpt", "start", "start", "finish"]
        assert home.leg("b.example").events == ["rcpt", "start", "finish"]
        assert message(home.leg("a.example").message) == BODY


async def test_behind_the_final_dot_only_the_answer_counts() -> None:
    """What is lost there is the leg's to judge: it may have been delivered."""
    async with house(a=NextHopScript(stalls_at=1)) as home, home.smtp() as client:
        await client.begin(b"u@a.example")
        client.send(BODY + b".\r\n")
        assert await client.codes(1) == [b"250 2.0.0"]
        assert home.leg("a.example").events == ["rcpt", "start", "finish"]


@pytest.mark.parametrize(("door", "seconds"), [("lmtp", 30.0), ("smtp", 180.0)])
async def test_how_long_a_next_hop_may_stand_still(door: str, seconds: float) -> None:
    async with house() as home, getattr(home, door)() as client:
        await client.begin(b"u@a.example")
        client.send(BODY)
        await until(lambda: home.leg("a.example").channel.drained)
        assert home.leg("a.example").channel.seconds == seconds


@pytest.mark.parametrize("others", [(), (b"v@b.example",)])
async def test_a_next_hop_that_takes_a_little_now_and_then_is_borne_with_alone(others: tuple[bytes, ...]) -> None:
    async with house() as home, home.lmtp() as client:
        await client.begin(b"u@a.example", *others)
        client.send(BODY)
        await until(lambda: home.leg("a.example").channel.drained)
        assert home.leg("a.example").channel.patient is not bool(others)


async def test_those_that_stand_still_are_waited_for_at_the_same_time() -> None:
    gates = [Gate(), Gate()]
    async with house(a=NextHopScript(drain_gate=gates[0]), b=NextHopScript(drain_gate=gates[1])) as home:
        async with home.lmtp() as client:
            await client.begin(b"u@a.example", b"v@b.example")
            client.send(BODY)
            for gate in gates:
                await asyncio.wait_for(gate.reached.wait(), 10)
            for gate in gates:
                gate.open()
            client.send(b".\r\n")
            assert await client.codes(2) == [b"250 2.0.0"] * 2


async def test_back_pressure_nothing_piles_up() -> None:
    """50 MiB towards a next hop that reads nothing: what has been read is a chunk, and the reader's own two."""
    gate = Gate()
    async with house(a=NextHopScript(drain_gate=gate, keeps=False)) as home, home.smtp() as client:
        await client.begin(b"u@a.example")
        line = b"x" * 998 + b"\r\n"
        client.writer.transport.set_write_buffer_limits(high=1 << 30)
        for _ in range(50):
            client.send(line * 1040)
        await gate.reached.wait()
        await turns(200)
        (session,) = home.open.house.sessions
        assert home.leg("a.example").channel.size <= 2 * doors.CHUNK
        assert len(session._reader._buffer) <= 6 * doors.CHUNK  # type: ignore[attr-defined]
        gate.open()
        client.send(b".\r\n")
        assert await client.codes(1) == [b"250 2.0.0"]
        assert home.leg("a.example").channel.size > 50 * 1040 * 1000


# Messages that do not pass

FAULTS = [
    (b"a\nb\r\n", "bare_newline", b"550 5.5.2"),
    (b"a\r\n.\n", "bare_newline", b"550 5.5.2"),
    (b"a\n.\r\n", "bare_newline", b"550 5.5.2"),
    (b"a\r.\r\r\n", "bare_newline", b"550 5.5.2"),
    (b"a\0b\r\n", "nul", b"550 5.6.0"),
    (b"Received: x\r\n" * 51, "mail_loop", b"554 5.4.6"),
    (b"x" * 70_000 + b"\r\n", "message_too_big", b"552 5.3.4"),
]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("door", ["smtp", "lmtp"])
@pytest.mark.parametrize(("text", "event", "code"), FAULTS)
async def test_a_message_that_does_not_pass(door: str, text: bytes, event: str, code: bytes, whole: bool) -> None:
    outbound = Outbound(
        submission=Submission(bare_newline=BareNewline.REJECT), limits=OutboundLimits(message_size=Size("64Ki"))
    )
    recipients = [b"u@a.example", b"v@a.example"] + [b"w@b.example"] * (door == "lmtp")
    smuggled = b"MAIL FROM:<evil@x>\r\nRCPT TO:<victim@c.example>\r\nDATA\r\nboo\r\n"
    async with house(outbound) as home, getattr(home, door)() as client:
        await client.begin(*recipients)
        if whole:
            client.send(text + smuggled + b".\r\nNOOP\r\n")
        else:
            for piece in (text, smuggled, b".", b"\r", b"\nNOOP\r\n"):
                client.send(piece)
                await turns()
        assert await client.codes(len(recipients) if door == "lmtp" else 1) == [code] * (3 if door == "lmtp" else 1)
        assert await client.codes(1) == [b"250 2.0.0"]
        for leg in home.legs:
            assert leg.events[-1] == f"fail {event}"
            assert b"\r\n.\r\n" not in leg.message
            assert str(leg.target) != "c.example"


@pytest.mark.parametrize(
    ("door", "mode", "passes"),
    [
        ("smtp", None, False),
        ("lmtp", None, True),
        ("smtp", BareNewline.NORMALIZE, True),
        ("lmtp", BareNewline.REJECT, False),
    ],
)
async def test_bare_newlines_are_each_doors_own_matter(door: str, mode: BareNewline | None, passes: bool) -> None:
    async with house(Outbound(submission=Submission(bare_newline=mode))) as home, getattr(home, door)() as client:
        await client.begin(b"u@a.example")
        client.send(b"Subject: x\n\n.\r\nMAIL\r\n.\r\n")
        assert await client.codes(1) == [b"250 2.0.0" if passes else b"550 5.5.2"]
        if passes:
            assert message(home.leg("a.example").message) == b"Subject: x\r\n\r\n..\r\nMAIL\r\n"


async def test_a_transaction_keeps_its_line_ends_over_a_reload() -> None:
    async with house(Outbound(submission=Submission(bare_newline=BareNewline.REJECT))) as home, home.smtp() as client:
        await client.ask(b"MAIL FROM:<a@b>")
        assert (await client.ask(b"RCPT TO:<u@a.example>")).startswith(b"250")
        now = Outbound(submission=Submission(bare_newline=BareNewline.NORMALIZE))
        home.relay.settings = replace(home.relay.settings, outbound=now)
        await client.ask(b"DATA")
        client.send(b"a\n\r\n.\r\n")
        assert await client.codes(1) == [b"550 5.5.2"]


async def test_a_message_that_does_not_pass_is_refused_for_all() -> None:
    """Also for those whose next hop would have put it off: trying again would not help."""
    submission = Submission(bare_newline=BareNewline.REJECT)
    async with house(Outbound(submission=submission), a=NextHopScript(start=LATER)) as home, home.lmtp() as client:
        await client.begin(b"u@a.example", b"v@b.example")
        client.send(b"a\n\r\n.\r\n")
        assert await client.codes(2) == [b"550 5.5.2"] * 2


async def test_who_never_ends_a_refused_message_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postern_sidecar.outbound.body.DRAIN", 10)
    outbound = Outbound(limits=OutboundLimits(message_size=Size("1Ki")))
    async with house(outbound) as home, home.smtp() as client:
        await client.begin(b"u@a.example")
        client.send(b"x" * 4000)
        assert (await client.rest()).startswith(b"552 5.3.4")
        assert home.leg("a.example").events[-1] == "fail message_too_big"


async def test_size_is_refused_at_mail() -> None:
    async with house(Outbound(limits=OutboundLimits(message_size=Size("1Ki")))) as home, home.smtp() as client:
        assert (await client.ask(b"MAIL FROM:<> SIZE=1025")).startswith(b"552 5.3.4")
        assert (await client.ask(b"MAIL FROM:<> SIZE=1024")).startswith(b"250")


# Submitters who go


@pytest.mark.parametrize("door", ["smtp", "lmtp"])
@pytest.mark.parametrize("how", ["eof", "reset"])
@pytest.mark.parametrize(
    ("said", "answers", "events"),
    [
        (b"MAIL FROM:<>\r\n", 1, []),
        (b"MAIL FROM:<>\r\nRCPT TO:<u@a.exa", 1, []),
        (b"MAIL FROM:<>\r\nRCPT TO:<u@a.example>\r\n", 2, ["rcpt", "abandon"]),
        (b"MAIL FROM:<>\r\nRCPT TO:<u@a.example>\r\nDATA\r\n", 3, ["rcpt", "start", "fail client_gone"]),
        (b"MAIL FROM:<>\r\nRCPT TO:<u@a.example>\r\nDATA\r\na\r\n.\r", 3, ["rcpt", "start", "fail client_gone"]),
        (b"MAIL FROM:<>\r\nRCPT TO:<u@a.example>\r\nDATA\r\na\r\n.\r\n", 4, ["rcpt", "start", "finish"]),
    ],
)
async def test_a_submitter_who_goes(door: str, how: str, said: bytes, answers: int, events: list[str]) -> None:
    async with house() as home, getattr(home, door)() as client:
        client.send(said)
        await client.replies(answers)
        if how == "eof":
            client.writer.write_eof()
        else:
            client.reset()
        await home.settled()
        assert [leg.events for leg in home.legs] == ([events] if events else [])
        for leg in home.legs:
            assert leg.message.endswith(b"\r\n.\r\n") is (events[-1] == "finish")


@pytest.mark.parametrize("door", ["smtp", "lmtp"])
async def test_a_next_hop_that_has_the_dot_is_heard_out(door: str) -> None:
    gate = Gate()
    async with house(a=NextHopScript(final_gate=gate)) as home, getattr(home, door)() as client:
        await client.begin(b"u@a.example")
        client.send(BODY + b".\r\n")
        await gate.reached.wait()
        (session,) = home.open.house.sessions
        client.reset()
        await until(lambda: session.transport is None)
        draining = asyncio.create_task(home.open.drain())
        await turns()
        assert not draining.done()
        gate.open()
        await draining
        assert home.leg("a.example").events == ["rcpt", "start", "finish"]
        assert home.performer.released == 1


async def test_an_answer_on_its_way_is_waited_for_before_a_leg_is_abandoned() -> None:
    gate = Gate()
    async with house(a=NextHopScript(rcpt_gate=gate)) as home, home.lmtp() as client:
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<u@a.example>\r\nRCPT TO:<v@a.example>\r\n")
        await gate.reached.wait()
        client.reset()
        await until(lambda: not home.open.house.sessions)
        await turns()
        assert home.leg("a.example").events == ["rcpt"]
        gate.open()
        await home.settled()
        assert home.leg("a.example").events == ["rcpt", "abandon"], "the second one was not asked for any more"


async def test_half_closed_submitters_get_their_answers() -> None:
    async with house() as home, home.smtp() as client:
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<u@a.example>\r\nDATA\r\n" + BODY + b".\r\nQUIT\r\n")
        client.writer.write_eof()
        assert await client.codes(5) == [b"250 2.1.0", b"250 2.1.5", b"354 End", b"250 2.0.0", b"221 2.0.0"]


async def test_silence_ends_a_session_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "IDLE", 0.01)
    async with house() as home, connected(home.port("smtp")) as client:
        assert (await client.reply()).startswith(b"220")
        assert await client.rest() == b""


async def test_waiting_for_a_next_hop_is_not_silence() -> None:
    gate = Gate()
    async with house(a=NextHopScript(final_gate=gate)) as home, home.smtp() as client:
        await client.begin(b"u@a.example")
        client.send(BODY + b".\r\n")
        await gate.reached.wait()
        (session,) = home.open.house.sessions
        assert session._deadline == float("inf")
        session._timeout_cb()
        gate.open()
        assert await client.codes(1) == [b"250 2.0.0"]


# Bugs and hostile submitters


@pytest.mark.parametrize(
    ("bug", "codes"),
    [
        ("rcpt", [b"451 4.3.0", b"250 2.1.5", b"354 End", b"250 2.0.0"]),
        ("start", [b"250 2.1.5", b"250 2.1.5", b"354 End", b"451 4.3.0", b"250 2.0.0"]),
        ("finish", [b"250 2.1.5", b"250 2.1.5", b"354 End", b"451 4.3.0", b"250 2.0.0"]),
    ],
)
async def test_a_bug_in_a_leg_is_its_recipients_451(bug: str, codes: list[bytes]) -> None:
    async with house(a=NextHopScript(bug=bug)) as home, home.lmtp() as client:
        answers = await client.begin(b"u@a.example", b"v@b.example")
        client.send(BODY + b".\r\n")
        assert answers + await client.codes(len(codes) - 3) == codes
        assert [(line.event, line.session) for line in home.lines] == [("internal_error", "o0001")]
        assert message(home.leg("b.example").message) == BODY


async def test_after_a_bug_a_leg_is_used_no_more() -> None:
    async with house(a=NextHopScript(bug="rcpt")) as home, home.lmtp() as client:
        assert await client.begin(b"u@a.example", b"v@a.example") == [b"451 4.3.0", b"451 4.3.0", b"503 5.5.1"]
        assert home.leg("a.example").events == ["rcpt"]


async def test_a_bug_in_the_door_ends_its_session_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async with house() as home, home.smtp() as client, home.smtp() as other:
        monkeypatch.setattr(doors, "parse_mail", None)
        client.send(b"MAIL FROM:<>\r\n")
        assert await client.rest() == b""
        assert [line.event for line in home.lines] == ["internal_error"]
        assert (await other.ask(b"NOOP")).startswith(b"250")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"NOOP\n", b"554 5.5.2"),
        (b"MAIL FROM:<a@b\nRCPT TO:<c@d>\r\n", b"554 5.5.2"),
        (b"GET / HTTP/1.1\r\n", b"554 5.5.1"),
        (b"POST /x HTTP/1.1\r\n", b"554 5.5.1"),
        (b"Host: localhost\r\n", b"554 5.5.1"),
    ],
)
async def test_what_no_mail_client_says_ends_the_session(line: bytes, code: bytes) -> None:
    async with house() as home, home.smtp() as client:
        client.send(line + b"MAIL FROM:<>\r\nRCPT TO:<u@a.example>\r\n")
        said = await client.rest()
        assert said.startswith(code)
        assert said.count(b"\r\n") == 1
        assert not home.legs


async def test_a_last_word_can_be_read() -> None:
    """A socket that is closed on octets that nobody has read is reset, and the reset may overtake the word."""
    async with house() as home, home.smtp() as client:
        (session,) = home.open.house.sessions
        client.send(b"GET / HTTP/1.1\r\n")
        assert (await client.rest()).startswith(b"554 5.5.1")
        client.send(b"x" * 1000)
        await turns()
        assert session.transport is not None
        client.writer.close()
        await home.settled()


async def test_only_so_many_errors() -> None:
    async with house() as home, home.smtp() as client:
        client.send(b"NONSENSE\r\n" * (doors.MAX_ERRORS + 10))
        said = await client.rest()
        assert said.count(b"500 5.5.2") == doors.MAX_ERRORS + 1
        assert said.endswith(b"\r\n554 5.5.1 Too many errors\r\n")


async def test_the_end_of_a_long_line_is_no_command() -> None:
    async with house() as home, home.smtp() as client:
        (session,) = home.open.house.sessions
        client.send(b"x" * (doors.MAX_COMMAND + 1))
        await until(lambda: session._skipping)
        assert await client.ask(b"NOOP") == b"500 5.5.2 Line too long\r\n"
        assert (await client.ask(b"NOOP")).startswith(b"250")


async def test_long_lines_are_errors_too() -> None:
    async with house() as home, home.smtp() as client:
        client.send((b"x" * doors.MAX_COMMAND + b"\r\n") * (doors.MAX_ERRORS + 10))
        assert (await client.rest()).endswith(b"554 5.5.1 Too many errors\r\n")


async def test_a_transaction_forgives_errors() -> None:
    async with house() as home, home.smtp() as client:
        for _ in range(3):
            client.send(b"NONSENSE\r\n" * (doors.MAX_ERRORS - 1) + b"MAIL FROM:<>\r\nRSET\r\n")
            assert (await client.codes(doors.MAX_ERRORS + 1))[-2:] == [b"250 2.1.0", b"250 2.0.0"]


async def test_who_does_not_read_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies do not pile up for a submitter who only talks."""
    async with house() as home, home.smtp() as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.transport.set_write_buffer_limits(high=1 << 30)
        commands = b"HELP\r\n" * 200_000
        for _ in range(10):
            client.send(commands)
        (session,) = home.open.house.sessions
        sizes = []
        for _ in range(400):
            await asyncio.sleep(0)
            assert session.transport is not None
            sizes.append(session.transport.get_write_buffer_size())
        assert 0 < max(sizes) < 2_000_000
        client.reset()


# The house


async def test_a_full_house_says_421_at_once() -> None:
    async with house(Outbound(limits=OutboundLimits(connections=1))) as home:
        async with home.smtp() as client:
            async with connected(home.port("lmtp")) as turned_away:
                assert await turned_away.rest() == doors.HOUSE_FULL
                assert doors.HOUSE_FULL.startswith(b"421 4.3.2 ")
            assert (await client.ask(b"NOOP")).startswith(b"250")
            client.send(b"QUIT\r\n")
            await client.rest()
        await home.settled()
        async with home.lmtp() as another:
            assert (await another.ask(b"NOOP")).startswith(b"250")


async def test_those_turned_away_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "TURNED_AWAY_AT_ONCE", 1)
    async with house(Outbound(limits=OutboundLimits(connections=1))) as home, home.smtp():
        async with connected(home.port("smtp")) as one, connected(home.port("smtp")) as other:
            assert await one.rest() == await other.rest() == doors.HOUSE_FULL
            assert len(home.open.house.turned_away) <= 1


async def test_drain_lets_transactions_end_and_idle_sessions_go() -> None:
    gate = Gate()
    async with house(a=NextHopScript(final_gate=gate)) as home:
        async with home.smtp() as idle, home.lmtp() as busy, home.smtp() as begun:
            await busy.begin(b"u@a.example")
            await begun.ask(b"MAIL FROM:<>")
            draining = asyncio.create_task(home.open.drain())
            assert await idle.rest() == doors.SHUTTING_DOWN
            busy.send(BODY + b".\r\n")
            await gate.reached.wait()
            gate.open()
            assert await busy.codes(1) == [b"250 2.0.0"]
            assert await busy.rest() == doors.SHUTTING_DOWN
            assert not draining.done()
            assert (await begun.ask(b"RCPT TO:<u@b.example>")).startswith(b"250")
            assert (await begun.ask(b"RSET")).startswith(b"250")
            assert await begun.rest() == doors.SHUTTING_DOWN
            await asyncio.wait_for(draining, 10)
            with pytest.raises(OSError):  # noqa: PT011 - refused, whatever the system calls it
                await asyncio.open_connection("127.0.0.1", home.port("smtp"))


async def test_both_doors_on_both_loopbacks_and_nowhere_else() -> None:
    async with house() as home:
        for name in ("smtp", "lmtp"):
            assert [str(at.address) for at in home.open.addresses[name]] == ["127.0.0.1", "::1"]
        reader, writer = await asyncio.open_connection("::1", home.open.addresses["smtp"][1].port)
        writer.write(b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<u@a.example>\r\nDATA\r\n.\r\nQUIT\r\n")
        assert (await reader.read()).count(b"\r\n250") > 3
        writer.close()
        assert home.leg("a.example").message.startswith(b"Received: from x ([IPv6:::1]) by mail.example.net ")


async def test_a_machine_without_ipv6_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(address: object, port: int, where: str) -> object:
        if str(address) == "::1":
            raise BindError(f"{where}: no") from OSError(errno.EADDRNOTAVAIL, "no")
        return listen(submission.LOOPBACKS[0], port, where)

    monkeypatch.setattr(submission, "listen", without)
    async with house() as home:
        assert [len(addresses) for addresses in home.open.addresses.values()] == [1, 1]
        assert [line.event for line in home.lines] == ["warning", "warning"]


async def test_a_kernel_without_ipv6_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(address: object, port: int, where: str) -> object:
        if str(address) == "::1":
            raise OSError(errno.EAFNOSUPPORT, "no such family")
        return listen(submission.LOOPBACKS[0], port, where)

    monkeypatch.setattr(submission, "listen", without)
    async with house() as home:
        assert [line.event for line in home.lines] == ["warning", "warning"]
    monkeypatch.setattr(submission, "LOOPBACKS", submission.LOOPBACKS[:1])
    monkeypatch.setattr(submission, "listen", lambda *_: without("::1", 0, ""))
    with pytest.raises(OSError, match="family"):
        async with house():
            pass


async def test_what_a_leg_holds_is_given_back_when_the_sidecar_ends() -> None:
    gate = Gate()
    async with house(a=NextHopScript(final_gate=gate)) as home, home.smtp() as client:
        await client.begin(b"u@a.example")
        client.send(BODY + b".\r\n")
        await gate.reached.wait()
        (session,) = home.open.house.sessions
        assert session._handler_coroutine is not None
        session._handler_coroutine.cancel()
        await client.rest()
        assert home.performer.released == 1


async def test_a_drain_waits_for_legs_that_are_abandoned() -> None:
    gate = Gate()
    async with house(a=NextHopScript(rcpt_gate=gate)) as home, home.lmtp() as client:
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<u@a.example>\r\n")
        await gate.reached.wait()
        client.reset()
        await until(lambda: not home.open.house.sessions)
        draining = asyncio.create_task(home.open.drain())
        await turns()
        assert not draining.done()
        gate.open()
        await draining
        assert home.leg("a.example").events == ["rcpt", "abandon"]


async def test_a_port_that_is_taken_is_an_error_and_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def taken(address: object, port: int, where: str) -> object:
        if "lmtpPort" in where:
            raise BindError(f"{where}: taken") from OSError(errno.EADDRINUSE, "taken")
        opened.append(listen(submission.LOOPBACKS[0], port, where))
        return opened[-1]

    monkeypatch.setattr(submission, "listen", taken)
    with pytest.raises(BindError, match="lmtpPort"):
        async with house():
            pass
    assert [sock.fileno() for sock in opened] == [-1, -1]


async def _one(home: House, number: int) -> list[bytes]:
    async with home.smtp() if number % 2 else home.lmtp() as client:
        answers = await client.begin(b"u@%s.example" % (b"slow" if number % 10 == 0 else b"a%d" % number))
        client.send(BODY * 50 + b".\r\n")
        return answers + await client.codes(1)


async def test_two_hundred_sessions_and_slow_destinations_among_them() -> None:
    gate = Gate()
    async with house(slow=NextHopScript(final_gate=gate)) as home:
        work = {number: asyncio.create_task(_one(home, number)) for number in range(200)}
        live = [task for number, task in work.items() if number % 10]
        await asyncio.wait_for(asyncio.wait(live), 60)
        assert all(task.result() == [b"250 2.1.5", b"354 End", b"250 2.0.0"] for task in live)
        assert not any(task.done() for number, task in work.items() if number % 10 == 0)
        gate.open()
        await asyncio.wait_for(asyncio.wait(work.values()), 60)
        assert len(home.legs) == 200
