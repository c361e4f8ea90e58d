"""Reloads, drains and ends of a sidecar that relays: what runs keeps what it began with, and nothing is cut short that
has time to end."""

from __future__ import annotations

import hashlib
import re
import signal
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lab.conversation import Conversation
from lab.laboratory import Lab
from lab.policies import listener
from lab.program import PATIENCE
from lab.signing import Chain
from lab.world import World

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from lab.servers.sidecar import Sidecar

pytestmark = pytest.mark.real

SMTP, LMTP = ("127.0.0.1", 11025), ("127.0.0.1", 11024)
HOP, OTHER_HOP = "198.51.100.1", "198.51.100.2"
GOING = "421 4.3.2 Shutting down, try again"
TAKEN = "250 2.0.0 taken"


class Ground:
    """A laboratory with a resolver in the pod, for `Servers`. Mail to hop.example comes to HOP, other.example's to
    OTHER_HOP, where the test itself is the destination."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.world = World()
        self.world.zone("bogus.example")
        self.world.spoil("bogus.example", "SOA")
        for domain, address in {"hop.example": HOP, "other.example": OTHER_HOP}.items():
            self.world.zone(domain, chain=Chain.UNSIGNED)
            self.world.add(domain, "A", address)
        lab.nsd(self.world)
        lab.unbound(self.world)
        self.listening: dict[str, socket.socket] = {}

    @property
    def servers(self) -> dict[str, Any]:
        return {"resolver": "Servers", "servers": ["127.0.0.1:53"], "selfTest": {"bogus": "bogus.example"}}

    @property
    def embedded(self) -> dict[str, Any]:
        return self.world.embedded(bogus="bogus.example")

    def spec(self, **fields: Any) -> dict[str, Any]:
        return {"outbound": {"dns": self.servers, **fields}}

    def door(self, at: tuple[str, int] = SMTP) -> Conversation:
        client = self.lab.pod.talk(at)
        client.expect(220)
        client.command("LHLO pod" if at[1] % 1000 == LMTP[1] % 1000 else "EHLO pod", 250)
        return client


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with Lab() as lab:
        yield Ground(lab)


@pytest.fixture
def start(ground: Ground) -> Iterator[Callable[..., Sidecar]]:
    """Starts a sidecar, ready to relay; it is gone after the test."""
    started = []

    def begin(spec: dict[str, Any], *arguments: str) -> Sidecar:
        sidecar = ground.lab.sidecar(spec, arguments=arguments)
        started.append(sidecar)
        if "outbound" in spec:
            sidecar.log.wait_for("self-test passed")
        return sidecar

    with ExitStack() as stack:
        for address in (HOP, OTHER_HOP):
            ground.listening[address] = stack.enter_context(ground.lab.outside.listen((address, 25)))
            ground.listening[address].settimeout(PATIENCE)
        yield begin
        for sidecar in started:
            if sidecar.process.running:
                sidecar.kill()


class Transfer:
    """A transaction under way: `client` is its submitter, `hop` what the next hop hears."""

    def __init__(self, ground: Ground, client: Conversation, to: str = "user@hop.example", at: str = HOP) -> None:
        self.ground, self.client, self.to, self.at = ground, client, to, at
        self.hop: Conversation

    def mail(self) -> None:
        self.client.command("MAIL FROM:<sender@pod.example>", 250)

    def rcpt(self) -> None:
        self.client.send(f"RCPT TO:<{self.to}>\r\n")
        self.hop = accepted(self.ground.listening[self.at])
        self.hop.send("220 hop.example\r\n")
        self.answer("EHLO mail.example.org", "250 hop.example")
        self.answer("MAIL FROM:<sender@pod.example>", "250 2.1.0 ok")
        self.answer(f"RCPT TO:<{self.to}>", "250 2.1.5 ok")
        self.client.expect(250)

    def data(self) -> None:
        self.client.send("DATA\r\n")
        self.answer("DATA", "354 go")
        self.client.expect(354)

    def dot(self, body: str = "Subject: x\r\n\r\nHello.\r\n") -> None:
        self.client.send(f"{body}.\r\n")
        while (line := self.hop.line()) != ".":
            assert line or self.hop.transcript[-1] != "< b''"

    def end(self) -> None:
        self.hop.send(f"{TAKEN}\r\n")
        assert self.client.line() == TAKEN

    def answer(self, line: str, reply: str) -> None:
        assert self.hop.line() == line
        self.hop.send(f"{reply}\r\n")


def accepted(listening: socket.socket) -> Conversation:
    sock, _ = listening.accept()
    sock.settimeout(PATIENCE)
    return Conversation(sock)


@contextmanager
def transfer(ground: Ground, door: tuple[str, int] = SMTP, **where: str) -> Iterator[Transfer]:
    """Up to 354."""
    with ground.door(door) as client:
        running = Transfer(ground, client, **where)
        running.mail()
        running.rcpt()
        running.data()
        with running.hop:
            yield running


def refused(ground: Ground, at: tuple[str, int]) -> bool:
    try:
        ground.lab.pod.connect(at).close()
    except ConnectionRefusedError:
        return True
    return False


def reload(sidecar: Sidecar, spec: dict[str, Any], *, times: int = 2) -> None:
    """It sees the change itself."""
    sidecar.write(spec)
    sidecar.log.wait_for(r" config hash=", times=times)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end


def unbounds(sidecar: Sidecar) -> list[int]:
    """The resolvers that run for it, as seen from here."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                arguments = (path / "cmdline").read_text(errors="replace")
            except OSError:  # gone meanwhile
                continue
            if f"{sidecar.state}/unbound/" in arguments:
                found.append(int(path.name))
    return found


# Reload

STRICT = {"dane": {"require": ["*"]}, "tls": {"withoutDane": "Verify"}}


@pytest.mark.parametrize("door", [SMTP, LMTP])
def test_a_transaction_keeps_the_policy_that_it_began_with(
    ground: Ground, start: Callable[..., Sidecar], door: tuple[str, int]
) -> None:
    sidecar = start(ground.spec())
    moved = {"port": 12025, "lmtpPort": 12024}
    new = {"dns": ground.embedded, "submission": moved, "limits": {"messageSize": "64Ki"}, **STRICT}
    with ground.door(door) as idle, transfer(ground, door) as running:
        reload(sidecar, {"outbound": new})
        assert idle.line() == GOING
        assert refused(ground, door)
        idle.close()
        until(lambda: sidecar.metric("postern_outbound_sessions") == 1)
        running.dot("Subject: x\r\n\r\n" + 1000 * ("y" * 70 + "\r\n"))
        running.end()
        assert running.client.line() == GOING
    sidecar.log.wait_for("self-test passed", times=2)
    with ground.door((door[0], door[1] + 1000)) as client:
        client.command("MAIL FROM:<sender@pod.example> SIZE=70000", 552)
        client.command("MAIL FROM:<sender@pod.example>", 250)
        assert client.command("RCPT TO:<user@hop.example>", 451).text.startswith("4.7.5")
    assert sidecar.stop() == 0


def test_a_transaction_that_has_no_recipient_yet_keeps_it_too(ground: Ground, start: Callable[..., Sidecar]) -> None:
    """Or one route's recipients would go to another's next hop: who shares one was decided by the old policy."""
    sidecar = start(ground.spec(routes=[{"domains": ["a.example", "b.example"], "via": f"{HOP}:25"}]))
    with ground.door() as client:
        running = Transfer(ground, client, "user@a.example")
        running.mail()
        reload(sidecar, ground.spec(routes=[{"domains": ["a.example"], "via": f"{OTHER_HOP}:25"}]))
        running.rcpt()
        client.send("RCPT TO:<user@b.example>\r\n")
        running.answer("RCPT TO:<user@b.example>", "250 2.1.5 ok")
        client.expect(250)
        running.data()
        running.dot()
        running.end()
        running.hop.close()


@pytest.mark.parametrize("ports", [{"port": 12025}, {"lmtpPort": 12024}, {"port": 11024, "lmtpPort": 11025}])
def test_one_port_alone_may_change_and_both_may_change_places(
    ground: Ground, start: Callable[..., Sidecar], ports: dict[str, int]
) -> None:
    sidecar = start(ground.spec())
    with transfer(ground) as running:
        reload(sidecar, ground.spec(submission=ports))
        assert not sidecar.log.matches("config_refused")
        wanted = {"port": SMTP[1], "lmtpPort": LMTP[1], **ports}
        for field, hello in (("port", "EHLO"), ("lmtpPort", "LHLO")):
            with ground.lab.pod.talk(("127.0.0.1", wanted[field])) as client:
                client.expect(220)
                client.command(f"{hello} pod", 250)
        for left in {SMTP[1], LMTP[1]} - set(wanted.values()):
            assert refused(ground, ("127.0.0.1", left))
        running.dot()
        running.end()
    assert sidecar.stop() == 0


def test_a_taken_port_refuses_the_whole_reload(ground: Ground, start: Callable[..., Sidecar]) -> None:
    sidecar = start({"inbound": [listener()], **ground.spec()})
    before = sidecar.get("/config").data["hash"]
    with ground.lab.pod.listen(("127.0.0.1", 12024)), transfer(ground) as running, ground.door() as idle:
        new = ground.spec(submission={"port": 12025, "lmtpPort": 12024}, limits={"messageSize": "64Ki"})
        sidecar.write({"inbound": [listener(port=26)], **new})
        sidecar.log.wait_for("config_refused .*spec.outbound.submission.lmtpPort")
        assert sidecar.get("/config").data["hash"] == before
        idle.command("NOOP", 250)
        with ground.door(LMTP) as other:
            assert "SIZE 52428800" in other.command("LHLO pod", 250).text
        assert refused(ground, ("127.0.0.1", 12025))
        assert refused(ground, ("127.0.0.1", 26))
        ground.lab.pod.connect(("127.0.0.1", 25)).close()
        running.dot()
        running.end()
    assert sidecar.get("/readyz?scope=outbound").status == 200


def test_the_resolver_stays_unless_its_own_settings_change(ground: Ground, start: Callable[..., Sidecar]) -> None:
    sidecar = start({"outbound": {"dns": ground.embedded}})
    (before,) = unbounds(sidecar)
    reload(sidecar, {"outbound": {"dns": ground.embedded, "limits": {"perDestination": 1}}})
    assert unbounds(sidecar) == [before]
    changed = {**ground.embedded, "selfTest": {"secure": "example", "bogus": "bogus.example"}}
    reload(sidecar, {"outbound": {"dns": changed}}, times=3)
    sidecar.log.wait_for("self-test passed", times=2)
    (after,) = unbounds(sidecar)
    assert after != before
    assert sidecar.stop() == 0
    assert unbounds(sidecar) == []


def test_reloads_that_overlap_leave_one_resolver(ground: Ground, start: Callable[..., Sidecar]) -> None:
    """The watch and SIGHUPs meet."""
    sidecar = start({"outbound": {"dns": ground.embedded}})
    for secure in ("example", "org", "net", "."):
        dns = {**ground.embedded, "selfTest": {"secure": secure, "bogus": "bogus.example"}}
        sidecar.write({"outbound": {"dns": dns}})
        sidecar.process.signal(signal.SIGHUP)
        sidecar.process.signal(signal.SIGHUP)
    sidecar.log.wait_for(rf" config hash={hashlib.sha256(sidecar.config.read_bytes()).hexdigest()}", times=2)
    until(lambda: sidecar.get("/readyz?scope=outbound").status == 200)
    assert len(unbounds(sidecar)) == 1
    with transfer(ground) as running:
        running.dot()
        running.end()
    assert sidecar.stop() == 0


# Outbound comes and goes


def test_without_outbound_the_doors_close_and_with_it_they_open(ground: Ground, start: Callable[..., Sidecar]) -> None:
    alone = {"inbound": [listener()]}
    both = {**alone, **ground.spec()}
    sidecar = start(alone)
    assert refused(ground, SMTP)
    assert sidecar.get("/readyz?scope=outbound").status == 503
    reload(sidecar, both)
    sidecar.log.wait_for("self-test passed")
    assert sidecar.get("/readyz?scope=outbound").status == 200
    with ground.door(LMTP) as idle, transfer(ground) as running:
        reload(sidecar, alone, times=3)
        assert idle.line() == GOING
        assert refused(ground, SMTP)
        assert sidecar.get("/readyz?scope=outbound").status == 503
        assert sidecar.get("/readyz").status == 200
        reload(sidecar, both, times=4)  # again, while the last transaction of before still runs
        sidecar.log.wait_for("self-test passed", times=2)
        with transfer(ground, LMTP, to="user@other.example", at=OTHER_HOP) as another:
            another.dot()
            another.end()
        running.dot()
        running.end()
        assert running.client.line() == GOING
    assert sidecar.stop() == 0
    assert len({found[1] for found in sidecar.log.matches(r" (o[0-9a-f]+) => ")}) == 2


# The end


def test_sigterm_lets_a_transaction_end_with_its_answer(ground: Ground, start: Callable[..., Sidecar]) -> None:
    sidecar = start({"outbound": {"dns": ground.embedded}})
    with ground.door() as idle, ground.door() as early, transfer(ground) as running:
        begun = Transfer(ground, early, "user@other.example", OTHER_HOP)
        begun.mail()  # nothing of it has been looked up yet
        sidecar.process.signal(signal.SIGTERM)
        assert idle.line() == GOING
        assert idle.rest() == b""
        assert refused(ground, SMTP)
        assert sidecar.get("/readyz").status == 503
        assert sidecar.get("/readyz?scope=outbound").status == 503
        begun.rcpt()
        begun.data()
        begun.dot()
        begun.end()
        assert early.line() == GOING
        begun.hop.close()
        assert sidecar.process.running
        running.dot()
        running.end()
        assert running.client.line() == GOING
    assert sidecar.process.wait() == 0
    assert unbounds(sidecar) == []


@pytest.mark.parametrize("moved", [False, True])
def test_after_its_grace_it_is_cut(ground: Ground, start: Callable[..., Sidecar], moved: bool) -> None:
    """Both before the final dot and behind it: what has no answer gets none. So for doors that a reload has closed."""
    sidecar = start(ground.spec(), "--grace", "1")
    behind = {"to": "user@other.example", "at": OTHER_HOP}
    with transfer(ground) as before_dot, transfer(ground, LMTP, **behind) as behind_dot:
        behind_dot.dot()
        if moved:
            reload(sidecar, ground.spec(submission={"port": 12025, "lmtpPort": 12024}))
        sidecar.process.signal(signal.SIGTERM)
        for running in (before_dot, behind_dot):
            with pytest.raises((AssertionError, OSError)):
                running.client.expect(250)
        assert sidecar.process.wait() == 0
        assert b"\r\n.\r\n" not in before_dot.hop.rest()
    for recipient in (before_dot.to, behind_dot.to):
        sidecar.log.wait_for(rf" == {re.escape(recipient)} ")


def test_a_second_sigterm_ends_it_at_once(ground: Ground, start: Callable[..., Sidecar]) -> None:
    sidecar = start(ground.spec())
    with transfer(ground):
        sidecar.process.signal(signal.SIGTERM)
        sidecar.log.wait_for(" drain ")
        sidecar.process.signal(signal.SIGTERM)
        assert sidecar.process.wait() == 0


def test_a_drain_leaves_the_doors_open_until_sigterm(ground: Ground, start: Callable[..., Sidecar]) -> None:
    sidecar = start({"inbound": [listener()], **ground.spec()}, "--drain-delay", "0")
    with ground.door() as idle:
        sidecar.command("drain", "--state-dir", str(sidecar.state))
        assert sidecar.get("/drained").status == 200
        assert refused(ground, ("127.0.0.1", 25))
        assert sidecar.get("/readyz").status == 503
        idle.command("NOOP", 250)
        with transfer(ground) as running:
            running.dot()
            running.end()
        sidecar.process.signal(signal.SIGTERM)
        assert idle.line() == GOING
    assert sidecar.process.wait() == 0
