"""The resolver dies, freezes or lies, the clock is wrong, records change under a delivery: mail for a domain whose TLSA
records are usable is delivered over TLS that they authenticate, or not at all.

What counts is what destinations saw. Beside the honest ones wait an impostor, who has no key that the records name, and
a server without TLS: both would take everything.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from certificates import issue
from lab.destinations import Behaviour, Identity
from lab.policies import listener
from lab.program import Program
from lab.servers import false_resolver
from lab.signing import Signatures
from lab.submitting import BODY, Mail
from lab.world import World

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lab.laboratory import Lab
    from lab.program import Process
    from lab.servers.sidecar import Sidecar

pytestmark = pytest.mark.real

HONEST, IMPOSTOR, CLEAR, FORGED = (f"198.51.100.{number}" for number in (1, 2, 3, 66))
PLACES = {"honest": HONEST, "impostor": IMPOSTOR, "clear": CLEAR}
LEAF = issue("mx.secure.example", dns=["mx.secure.example"])
RIGHT = f"3 1 1 {hashlib.sha256(LEAF.spki).hexdigest()}"
OTHER = f"3 1 1 {'ab' * 32}"
NOT_VALIDATING = "451 4.7.5 "


class Destinations:
    """`honest1.example`, `impostor1.example`, `clear1.example` and so on: each with an MX host that has usable TLSA
    records. Names that were not asked for yet are in nobody's cache."""

    def __init__(self, lab: Lab, *, signatures: Signatures = Signatures.GOOD, ttl: int = 300) -> None:
        self.lab = lab
        self.world = World()
        self.world.zone("bogus.example")
        self.world.spoil("bogus.example", "SOA")
        self.world.zone("secure.example")
        for kind, address in PLACES.items():
            for number in (1, 2):
                domain = self.domain(kind, number)
                self.world.add(domain, "MX", f"10 mx.{domain}.")
                self.world.add(f"mx.{domain}", "A", address)
                self.world.add(self.tlsa(domain), "TLSA", RIGHT, ttl=ttl)
        for zone in self.world.zones.values():
            zone.signatures = signatures
        stranger = Behaviour(identity=Identity.of(issue("stranger.example")))
        honest = Behaviour(identity=Identity.of(LEAF))
        table = {HONEST: honest, IMPOSTOR: stranger, CLEAR: Behaviour(), FORGED: stranger}
        self.sink = lab.sink({(address, 25): behaviour for address, behaviour in table.items()})
        self.names = lab.nsd(self.world)

    @staticmethod
    def domain(kind: str, number: int) -> str:
        return f"{kind}{number}.secure.example"

    @staticmethod
    def tlsa(domain: str) -> str:
        return f"_25._tcp.mx.{domain}"

    def publish(self, domain: str, *records: str, ttl: int) -> None:
        self.world.replace(self.tlsa(domain), "TLSA", *records, ttl=ttl)
        self.names.reload()

    def sidecar(self, dns: dict[str, Any] | None = None, **spec: Any) -> Sidecar:
        dns = dns or self.world.embedded(bogus="bogus.example")
        return self.lab.sidecar({"outbound": {"dns": dns, "limits": {"idle": "60s"}}, **spec})

    async def submit(self, number: int, kinds: Iterable[str] = PLACES) -> dict[str, str]:
        """One message to each, at once; the answers by kind."""
        mails = {kind: Mail(self.lab, "smtp", [f"user@{self.domain(kind, number)}"]) for kind in kinds}
        answers = await asyncio.gather(*(mail.submit() for mail in mails.values()))
        return {kind: text for kind, answer in zip(mails, answers, strict=True) for text in answer.values()}

    def check(self, sidecar: Sidecar) -> None:
        """Nobody got anything but who has the key, and who submitted knows that it was authenticated."""
        for message in self.sink.messages():
            assert message.where == f"{HONEST} 25"
            assert message.tls is not None
        for line in sidecar.log.matches(" => "):
            assert " CV=dane" in line.string


def only_honest(answers: dict[str, str]) -> bool:
    return {kind: text[:3] for kind, text in answers.items()} == {"honest": "250", "impostor": "451", "clear": "451"}


def all_put_off(answers: dict[str, str]) -> bool:
    return {text[:3] for text in answers.values()} == {"451"}


def unbound_of(sidecar: Sidecar) -> int:
    """Its process, as seen from here."""
    (found,) = [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and _configuration(sidecar) in _arguments(path)
    ]
    return found


def _configuration(sidecar: Sidecar) -> str:
    return f"{sidecar.state}/unbound/"


def _arguments(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:  # gone meanwhile
        return ""


async def test_killed(lab: Lab) -> None:
    there = Destinations(lab)
    sidecar = there.sidecar()
    sidecar.log.wait_for("self-test passed")
    assert only_honest(await there.submit(1))
    os.kill(unbound_of(sidecar), signal.SIGKILL)
    first = await there.submit(1)  # what is known still counts, or does not
    cold = await there.submit(2)
    assert not {"250"} & {answers[kind][:3] for answers in (first, cold) for kind in ("impostor", "clear")}
    sidecar.log.wait_for("unbound was killed by signal 9")
    sidecar.log.wait_for("self-test passed", times=2)
    assert only_honest(await there.submit(2))
    assert sidecar.metric("postern_dns_resolver_restarts_total") == 1
    there.check(sidecar)


async def test_frozen(lab: Lab) -> None:
    there = Destinations(lab)
    sidecar = there.sidecar()
    sidecar.log.wait_for("self-test passed")
    assert only_honest(await there.submit(1))
    os.kill(unbound_of(sidecar), signal.SIGSTOP)
    known, cold = await asyncio.gather(there.submit(1), there.submit(2))
    assert only_honest(known)
    assert all_put_off(cold)
    sidecar.log.wait_for("self-test passed", times=2)
    assert only_honest(await there.submit(2))
    there.check(sidecar)


FALSE_PORT, HONEST_PORT = 5301, 5302


def false_resolver_started(lab: Lab, there: Destinations, how: str) -> tuple[dict[str, Any], Process]:
    """`spec.outbound.dns` with it, and it."""
    lab.unbound(there.world, port=HONEST_PORT)
    argv = [sys.executable, "-u", false_resolver.__file__, str(FALSE_PORT), str(HONEST_PORT), how]
    process = lab.start(Program(argv=argv), "false resolver")
    process.log.wait_for("^ready$")
    self_test = {"secure": ".", "bogus": "bogus.example"}
    return {"resolver": "Servers", "servers": [f"127.0.0.1:{FALSE_PORT}"], "selfTest": self_test}, process


@pytest.mark.parametrize("how", ["no-ad", "ad"])
async def test_a_resolver_that_does_not_validate(lab: Lab, how: str) -> None:
    there = Destinations(lab)
    dns, _ = false_resolver_started(lab, there, how)
    sidecar = there.sidecar(dns)
    sidecar.log.wait_for("self-test failed, it is not used")
    answers = await there.submit(1)
    assert {text[:10] for text in answers.values()} == {NOT_VALIDATING}
    assert sidecar.get("/readyz").status == 503
    assert there.sink.messages() == []
    assert there.sink.visits() == []


async def test_a_resolver_that_stops_validating(lab: Lab) -> None:
    """An hour before the next self-test: from one moment to the next nothing seems to be signed."""
    there = Destinations(lab)
    dns, resolver = false_resolver_started(lab, there, "turncoat")
    sidecar = there.sidecar(dns)
    sidecar.log.wait_for("self-test passed")
    assert only_honest(await there.submit(1))
    resolver.signal(signal.SIGUSR1)
    resolver.log.wait_for("^turned$")
    assert all_put_off(await there.submit(2))
    sidecar.log.wait_for("self-test failed, it is not used")
    assert sidecar.get("/readyz?scope=outbound").status == 503
    there.check(sidecar)


async def test_forged_answers_on_the_wire(lab: Lab) -> None:
    there = Destinations(lab)
    dns, _ = false_resolver_started(lab, there, "forgers")
    sidecar = there.sidecar(dns)
    sidecar.log.wait_for("self-test passed")
    assert only_honest(await there.submit(1))
    assert only_honest(await there.submit(2))
    assert there.sink.visits(to=FORGED) == []
    there.check(sidecar)


@pytest.mark.parametrize("signatures", [Signatures.EXPIRED, Signatures.FUTURE])
@pytest.mark.parametrize("inbound", [True, False])
async def test_a_clock_that_is_wrong(lab: Lab, signatures: Signatures, inbound: bool) -> None:
    """A year early, a year late: every signature is out of date. Incoming mail is none of that's business."""
    there = Destinations(lab, signatures=signatures)
    sidecar = there.sidecar(inbound=[listener()] if inbound else [])
    sidecar.log.wait_for("self-test failed, it is not used")
    answers = await there.submit(1)
    assert {text[:10] for text in answers.values()} == {NOT_VALIDATING}
    assert sidecar.get("/readyz").status == (200 if inbound else 503)
    assert sidecar.get("/readyz?scope=outbound").status == 503
    assert sidecar.get("/healthz").status == 200
    assert there.sink.messages() == []
    assert there.sink.visits() == []


async def test_readiness_with_a_dns_that_works(lab: Lab) -> None:
    sidecar = Destinations(lab).sidecar(inbound=[listener()])
    sidecar.log.wait_for("self-test passed")
    assert sidecar.get("/readyz").status == 200
    assert sidecar.get("/readyz?scope=outbound").status == 200


async def test_a_record_that_expires_in_the_middle_of_a_message(lab: Lab) -> None:
    """The delivery that began ends as it began; its connection is not for the next one, which meets the new record."""
    there = Destinations(lab, ttl=1)
    domain = there.domain("honest", 1)
    sidecar = there.sidecar()
    sidecar.log.wait_for("self-test passed")
    long = Mail(lab, "smtp", [f"long@{domain}"], BODY * 1000, proceed=asyncio.Event())
    underway = asyncio.create_task(long.submit())
    await long.started.wait()
    there.publish(domain, OTHER, ttl=1)
    async with asyncio.timeout(20):
        while (answers := await there.submit(1, ["honest"]))["honest"].startswith("250"):
            pass  # the old record's last second
    assert answers["honest"].startswith("451 4.7.5")
    taken = len(there.sink.messages())
    assert long.proceed is not None
    long.proceed.set()
    assert await underway == {f"long@{domain}": "250 2.0.0 taken"}
    answers = await there.submit(1, ["honest"])
    assert answers["honest"].startswith("451 4.7.5")
    assert len(there.sink.messages()) == taken + 1
    there.check(sidecar)


async def test_a_record_that_changes_between_two_messages_on_one_connection(lab: Lab) -> None:
    there = Destinations(lab, ttl=0)
    domain = there.domain("honest", 1)
    sidecar = there.sidecar()
    sidecar.log.wait_for("self-test passed")

    async def session() -> int | str:
        """That of the next message, or its answer."""
        before = len(there.sink.messages())
        answers = await there.submit(1, ["honest"])
        messages = there.sink.messages()[before:]
        return messages[0].session if messages else answers["honest"][:9]

    first = await session()
    assert await session() == first
    there.publish(domain, RIGHT, OTHER, ttl=0)
    second = await session()
    assert isinstance(second, int)
    assert second != first
    there.publish(domain, OTHER, ttl=0)
    assert await session() == "451 4.7.5"
    there.publish(domain, RIGHT, ttl=0)
    assert await session() == first  # it was open all the time
    there.check(sidecar)
