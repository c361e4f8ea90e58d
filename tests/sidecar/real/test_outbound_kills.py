"""`kill -9` of the sidecar at every stage of a transaction: who was told what, and how often the message arrives when
its submitter tries again whatever it has no 250 for.

Each case has a destination of its own behind a `Wire`, which holds the conversation up at one octet. All are held up at
once, then the sidecar is killed: one kill, every stage. Contracts section 5: nobody has a 250 for what a next hop did
not take, and a message can arrive twice only if it died between a next hop's 250 and the (last) answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from certificates import issue
from lab.destinations import Behaviour, Identity
from lab.laboratory import Lab
from lab.signing import Chain
from lab.submitting import Mail
from lab.wire import Wire
from lab.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.destinations import Sink
    from lab.servers.sidecar import Sidecar
    from lab.submitting import Door
    from lab.wire import Place

pytestmark = pytest.mark.real

CLEAR = ("198.51.100.250", 25)
TLS = ("198.51.100.251", 25)
LAST_LINE = b"the last line"
SECRET = b"nobody else's business"
BODY = b"Subject: a test\r\n\r\n" + SECRET + b"\r\n" + 300 * (b"x" * 70 + b"\r\n") + LAST_LINE + b"\r\n"
LARGE = b"Subject: a test\r\n\r\n" + 60_000 * (b"x" * 70 + b"\r\n") + LAST_LINE + b"\r\n"
TAKEN = rb"354 .*\r\n"  # behind it comes the answer to the final dot


@dataclass(frozen=True)
class Hop:
    """A recipient's next hop: where its wire is held up, and what is then known of the message there."""

    toward: Place = None
    back: Place = None
    taken: bool = False  # it has the message
    answered: bool = False  # the submitter knows
    unread: bool = False  # its 250 is in the sidecar's socket when that dies
    domain: str = "insecure.example"


@dataclass(frozen=True)
class Case:
    name: str
    door: Door
    hops: tuple[Hop, ...]
    body: bytes = BODY


def secured(hop: Hop) -> Hop:
    return replace(hop, domain="secure.example")


CONVERSATION: dict[str, Hop] = {
    "connected": Hop(back=0),
    "a piece of the banner": Hop(back=3),
    "banner": Hop(back=rb"220 .*\r\n"),
    "a piece of EHLO": Hop(toward=4),
    "a piece of EHLO's answer": Hop(back=rb"250-"),
    "EHLO": Hop(back=rb"250 \w+\r\n"),
    "MAIL on its way": Hop(toward=rb"EHLO .*\r\n"),
    "MAIL arrived, RCPT not": Hop(toward=rb"MAIL .*\r\n"),
    "MAIL": Hop(back=rb"250 2\.1\.0 .*\r\n"),
    "RCPT": Hop(back=rb"250 2\.1\.5 .*\r\n"),
    "DATA on its way": Hop(toward=rb"RCPT .*\r\n"),
    "DATA": Hop(toward=rb"DATA\r\n"),
    **{f"{octets} octets": Hop(toward=rb"DATA\r\n(?s:.{%d})" % octets) for octets in (1, 200, 10_000, 20_000)},
    "all but the dot": Hop(toward=LAST_LINE + rb"\r\n"),
    "all but the dot's line end": Hop(toward=LAST_LINE + rb"\r\n\."),
    "all but its last octet": Hop(toward=LAST_LINE + rb"\r\n\.\r"),
    "taken": Hop(back=TAKEN, taken=True),
    "taken, a piece of the 250": Hop(back=TAKEN + rb"250 2\.0", taken=True),
    "taken, the 250 unread": Hop(back=TAKEN, taken=True, unread=True),
    "answered": Hop(taken=True, answered=True),
}
SECURED: dict[str, Hop] = {
    "STARTTLS": Hop(back=rb"250 STARTTLS\r\n"),
    "STARTTLS's answer": Hop(back=rb"220 2\.0\.0 .*\r\n"),
    "STARTTLS on its way": Hop(toward=rb"EHLO .*\r\n"),
    "a piece of the handshake": Hop(toward=rb"STARTTLS\r\n(?s:.{100})"),
    "a piece of the server's handshake": Hop(back=rb"220 2\.0\.0 .*\r\n(?s:.{100})"),
}
# Octets of a conversation over TLS from STARTTLS on and before; negative: before its end.
SENT = (1, 60, 200, 400, 600, 1000, 2000, 5000, 10_000, 20_000, -2000, -100, -8)
HEARD = (1, 100, 220, 300, 500, 700, 900, -200, -130, -70)
BOTH: tuple[Door, ...] = ("smtp", "lmtp")
PIECE, WHOLE = Hop(back=-20, taken=True), Hop(taken=True, answered=True)
CASES = [
    *(Case(name, door, (hop,)) for door in BOTH for name, hop in CONVERSATION.items()),
    *(Case(f"{octets} octets of many", "smtp", (Hop(toward=octets),), LARGE) for octets in (2_000_000, 4_000_000)),
    *(Case(f"TLS, {name}", "smtp", (secured(hop),)) for name, hop in SECURED.items()),
    *(Case(f"TLS, {octets} octets sent", "smtp", (secured(Hop(toward=octets)),)) for octets in SENT),
    *(Case(f"TLS, {octets} octets heard", "smtp", (secured(Hop(back=octets)),)) for octets in HEARD),
    *(Case("TLS, taken, a piece of the 250", door, (secured(PIECE),)) for door in BOTH),
    *(Case("TLS, answered", door, (secured(WHOLE),)) for door in BOTH),
    Case("two hops, the first in order has said 250", "lmtp", (WHOLE, Hop(toward=LAST_LINE))),
    Case("two hops, the last in order has said 250", "lmtp", (Hop(toward=LAST_LINE), Hop(taken=True))),
    Case("two hops, both 250s on their way", "lmtp", (Hop(back=TAKEN, taken=True), Hop(back=TAKEN, taken=True))),
    Case("two hops, all answered", "lmtp", (WHOLE, WHOLE)),
]
BY_NAME = {f"{case.door}: {case.name}": case for case in CASES}


@dataclass
class Outcome:
    """Of each hop's recipient: what its submitter had heard when the sidecar died, and how many copies there were;
    then, after whatever had no 250 was submitted again, how many."""

    wires: list[Wire]
    mail: Mail
    heard: list[str] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)
    in_the_end: list[int] = field(default_factory=list)


class Killing:
    """The cases, run at once."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        leaf = issue("mx.secure.example", dns=["mx.secure.example"])
        self._tlsa = f"3 1 1 {hashlib.sha256(leaf.spki).hexdigest()}"
        self.world = World()
        self.world.zone("bogus.example")
        self.world.spoil("bogus.example", "SOA")
        self.world.zone("secure.example")
        self.world.zone("insecure.example", chain=Chain.UNSIGNED)
        self._addresses = (f"198.51.100.{number}" for number in range(1, 240))
        self.outcomes: dict[str, Outcome] = {}
        self.sink: Sink = lab.sink({CLEAR: Behaviour(), TLS: Behaviour(identity=Identity.of(leaf))})
        self.sidecar: Sidecar

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            whole = await self._prepare(stack, Case("whole", "smtp", (secured(Hop()),)))
            for name, case in BY_NAME.items():
                self.outcomes[name] = await self._prepare(stack, case)
            self.lab.nsd(self.world)
            dns = self.world.embedded(bogus="bogus.example")
            self.sidecar = self.lab.sidecar({"outbound": {"dns": dns, "limits": {"idle": "60s"}}})
            self.sidecar.log.wait_for("self-test passed")
            await whole.mail.submit()
            assert whole.mail.refused() == []
            self._resolve(len(whole.wires[0].sent), len(whole.wires[0].heard))
            await self._kill()
            await self._try_again()

    async def _prepare(self, stack: AsyncExitStack, case: Case) -> Outcome:
        wires, recipients = [], []
        for hop in case.hops:
            address = next(self._addresses)
            domain = f"at{address.rpartition('.')[2]}.{hop.domain}"
            self.world.add(domain, "A", address)
            if hop.domain == "secure.example":
                self.world.add(f"_25._tcp.{domain}", "TLSA", self._tlsa)
            to = TLS if hop.domain == "secure.example" else CLEAR
            wire = Wire(self.lab, (address, 25), to, toward=hop.toward, back=hop.back)
            wires.append(await stack.enter_async_context(wire))
            recipients.append(f"user@{domain}")
        return Outcome(wires, Mail(self.lab, case.door, recipients, case.body))

    def _resolve(self, sent: int, heard: int) -> None:
        for outcome in self.outcomes.values():
            for wire in outcome.wires:
                if isinstance(wire.toward, int) and wire.toward < 0:
                    wire.toward += sent
                if isinstance(wire.back, int) and wire.back < 0:
                    wire.back += heard

    async def _kill(self) -> None:
        submissions = [asyncio.create_task(outcome.mail.submit()) for outcome in self.outcomes.values()]
        for name, outcome in self.outcomes.items():
            await self._at_its_stage(name, outcome)
        self.sidecar.process.signal(signal.SIGSTOP)
        for name, outcome in self.outcomes.items():
            for hop, wire in zip(BY_NAME[name].hops, outcome.wires, strict=True):
                if hop.unread:
                    await self._let_through(wire)
        self.sidecar.kill()
        await asyncio.gather(*submissions)
        for outcome in self.outcomes.values():
            for wire in outcome.wires:
                await wire.cut()
                wire.open()
            outcome.heard = [outcome.mail.answers.get(recipient, "") for recipient in outcome.mail.recipients]
            outcome.copies = self._count(outcome)

    async def _at_its_stage(self, name: str, outcome: Outcome) -> None:
        try:
            async with asyncio.timeout(20):
                for hop, wire, who in zip(BY_NAME[name].hops, outcome.wires, outcome.mail.recipients, strict=True):
                    if hop.answered:
                        await outcome.mail.told(who)
                    elif hop.toward is not None or hop.back is not None:
                        await wire.held.wait()
                    else:
                        await wire.hears(TAKEN + rb"250 .*\r\n")
        except TimeoutError:
            talk = [(wire.sent[:2000], wire.heard) for wire in outcome.wires]
            raise AssertionError(f"{name}: not there: {talk} {outcome.mail.answers}\n{self.sidecar.log}") from None

    async def _let_through(self, wire: Wire) -> None:
        wire.open()
        await wire.hears(TAKEN + rb"250 .*\r\n")

    async def _try_again(self) -> None:
        self.sidecar.start()
        self.sidecar.log.wait_for("self-test passed")
        again = [
            Mail(self.lab, "lmtp", mail.refused(), mail.body)
            for outcome in self.outcomes.values()
            if (mail := outcome.mail).refused()
        ]
        await asyncio.gather(*(mail.submit() for mail in again))
        assert [mail.answers for mail in again if mail.refused()] == []
        for outcome in self.outcomes.values():
            outcome.in_the_end = self._count(outcome)

    def _count(self, outcome: Outcome) -> list[int]:
        return [len(self.sink.messages(recipient=recipient)) for recipient in outcome.mail.recipients]


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, Outcome]]:
    with Lab() as lab:
        killing = Killing(lab)
        asyncio.run(killing.run())
        yield killing.outcomes


@pytest.mark.parametrize("name", BY_NAME)
def test_nobody_was_told_250_for_what_no_next_hop_took(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    for hop, heard, copies in zip(BY_NAME[name].hops, outcome.heard, outcome.copies, strict=True):
        assert copies == hop.taken
        assert heard == ("250 2.0.0 taken" if hop.answered else "")


@pytest.mark.parametrize("name", BY_NAME)
def test_it_arrives_twice_only_if_taken_and_not_answered(outcomes: dict[str, Outcome], name: str) -> None:
    """At the SMTP door from the next hop's 250 to our answer, at the LMTP door to the answer for that recipient."""
    expected = [1 + (hop.taken and not hop.answered) for hop in BY_NAME[name].hops]
    assert outcomes[name].in_the_end == expected


def test_the_window_at_the_lmtp_door_lasts_to_the_last_answer(outcomes: dict[str, Outcome]) -> None:
    """A recipient's 250 waits for the answers before it in order: its window is longer than that of one alone, and
    whoever counts a message as one would send again what was answered too."""
    last = outcomes["lmtp: two hops, the last in order has said 250"]
    assert (last.heard, last.copies, last.in_the_end) == (["", ""], [0, 1], [1, 2])
    first = outcomes["lmtp: two hops, the first in order has said 250"]
    assert (first.heard, first.copies, first.in_the_end) == (["250 2.0.0 taken", ""], [1, 0], [1, 1])


def test_nothing_went_in_clear_that_belongs_into_tls(outcomes: dict[str, Outcome]) -> None:
    seen = [wire for name, outcome in outcomes.items() if " TLS, " in name for wire in outcome.wires]
    assert seen
    for wire in seen:
        for sent, _ in wire.connections:
            assert SECRET not in sent
            assert b"MAIL" not in sent
