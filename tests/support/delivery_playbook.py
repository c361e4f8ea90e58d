"""A delivery test as the conversation itself: what the submitter says, next hops answer, and was said to them.

    play = Playbook(dns=SIGNED, hosts={"192.0.2.1": Host(MAIL="451 4.3.0 later"), "192.0.2.2": Host()})
    assert play.rcpt("user@example.org") == "250 ok"
    assert play.said("192.0.2.2") == ["EHLO mail.example.net", "STARTTLS", "(tls)", "EHLO ...", "MAIL ... | RCPT ..."]

A `Host` answers every command with 250, in its own way where a field is given: the field's name is the command's first
word (`banner`, `end` and `TLS` besides), its value a reply, or a list of them, one a time, the last one for ever.
Lines of a reply are parted by "|". "lost" is a connection that breaks there, "silent" a reply that never comes: the
clock goes on for as long as one waits; "after 9: 250 ok" comes after 9 seconds. One write is one item of `said`; the
commands in it are parted by " | ".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import msgspec

from certificates import NOW, issue
from dns_table import Table, table
from postern_sidecar.answers import Answer as Known
from postern_sidecar.answers import Question, State
from postern_sidecar.config.model import Outbound
from postern_sidecar.names import domain
from postern_sidecar.outbound.commands import (
    Admit,
    Ask,
    Command,
    Dial,
    Drop,
    Keep,
    Leave,
    Log,
    Lost,
    Say,
    Secure,
    TakePooled,
    Work,
)
from postern_sidecar.outbound.envelope import Recipient, Sender
from postern_sidecar.outbound.forbidden import Forbidden
from postern_sidecar.outbound.leg import Broken, Leg
from postern_sidecar.outbound.link import Link
from postern_sidecar.outbound.memory import Unreachable
from postern_sidecar.outbound.plan import Handshake
from postern_sidecar.outbound.pool import Pool
from postern_sidecar.outbound.settings import Credentials, Settings, World
from postern_sidecar.outbound.surroundings import Surroundings
from postern_sidecar.replies import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from postern_sidecar.outbound.body import Fault

LEAF = issue("mx.example.org", dns=["mx.example.org", "backup.example.org"])
SHAKEN = Handshake("TLS1.3", "TLS_AES_256_GCM_SHA384", (LEAF.der,), now=NOW.timestamp())
STRANGER = Handshake("TLS1.3", "TLS_AES_256_GCM_SHA384", (issue("other.example").der,), now=NOW.timestamp())
MATCHING = f"3 0 0 {LEAF.der.hex()}"

ZONE = """
    example.org              MX   10 mx.example.org
    example.org              MX   20 backup.example.org
    mx.example.org           A    192.0.2.1
    backup.example.org       A    192.0.2.2
"""
DANE = table(f"{ZONE}\n_25._tcp.mx.example.org 60 TLSA {MATCHING}\n_25._tcp.backup.example.org TLSA {MATCHING}")
PLAIN = table(ZONE)
"""The same two hosts with and without TLSA records."""

FULL = "250-mx|PIPELINING|8BITMIME|SMTPUTF8|DSN|SIZE 1000|250 STARTTLS"

Answer = str | Lost
Script = Answer | list[Answer]


def reply(text: str) -> Reply:
    """ "250-mx|PIPELINING|250 SIZE" and "250 ok": codes are read off the first line."""
    lines = [line.removeprefix(text[:4]).removeprefix(f"{text[:3]} ") for line in text.split("|")]
    return Reply(int(text[:3]), tuple(line.encode() for line in lines))


def shown(answer: Reply) -> str:
    return bytes(answer).decode("ascii").rstrip("\r\n").replace("\r\n", "|")


class Host:
    """`connect`: None: it does. `TLS`: what the handshake comes to."""

    def __init__(self, connect: Lost | None = None, TLS: Handshake | Lost = SHAKEN, **script: Script) -> None:  # noqa: N803
        self.connect = connect
        self.tls = TLS
        self.script: dict[str, list[Answer]] = {
            "banner": ["220 mx ESMTP"],
            "EHLO": [FULL],
            "STARTTLS": ["220 go"],
            "DATA": ["354 go ahead"],
            "end": ["250 2.0.0 queued"],
        }
        for word, answer in script.items():
            self.script[word] = list(answer) if isinstance(answer, list) else [answer]
        self.said: list[str] = []

    def answer(self, word: str) -> Answer:
        answers = self.script.get(word, ["250 ok"])
        return answers.pop(0) if len(answers) > 1 else answers[0]


@dataclass(eq=False)
class Wire:
    """The channel of a link: what was said and is not answered yet."""

    host: Host
    greeted: bool = False
    pending: list[str] = field(default_factory=list)
    open: bool = True


def settings(credentials: Mapping[str, Credentials] = {}, own: tuple[str, ...] = (), **outbound: Any) -> Settings:
    """With the fields of `spec.outbound` as in a manifest."""
    spec = msgspec.convert(outbound, Outbound, dec_hook=lambda kind, value: kind(value))
    return Settings(spec, "mail.example.net", frozenset(map(ip_address, own)), credentials)


class Playbook:
    """`sender`: of MAIL; `target`: the leg's. `tls_first`: hosts whose banner comes over TLS."""

    def __init__(
        self,
        dns: Table = DANE,
        hosts: Mapping[str, Host] = {},
        sender: Sender | None = None,
        target: str = "example.org",
        configured: Settings | None = None,
    ) -> None:
        self.dns = dns
        self.hosts = {"192.0.2.1": Host(), "192.0.2.2": Host(), **hosts}
        self.now = 1000.0
        self.lookup = 0.0  # seconds that the resolver takes
        self.room = True
        self.is_ready = (True, "")
        self.chance: Callable[[list[object]], object] = list.copy  # what the world makes of equal preferences
        self.configured = configured or settings()
        self.pool = Pool(100, 5.0)
        self.unreachable = Unreachable()
        self.records: list[tuple[str, dict[str, Any]]] = []
        self.admitted: list[str] = []
        self.commands: list[Command] = []
        self.dialled: list[str] = []
        self.closed: list[str] = []
        self.new_leg(sender, target)

    def new_leg(self, sender: Sender | None = None, target: str = "example.org") -> Leg:
        """A transaction; the pool and what is known of addresses stay."""
        world = World(lambda: self.now, NOW.timestamp, self._shuffle)
        around = Surroundings(
            self.configured,
            world,
            Forbidden(self.configured.outbound, self.configured.own),
            self.unreachable,
            lambda: self.is_ready,
        )
        self.leg = Leg(around, sender or Sender(b"a@example.net"), _target(target), "o1")
        return self.leg

    # What the submitter does

    def rcpt(self, path: str = "user@example.org", **parameters: bytes) -> str:
        return shown(
            self.run(self.leg.recipient(Recipient(path.encode(), _target(path.partition("@")[2]), **parameters)))
        )

    def start(self) -> str:
        return shown(self.run(self.leg.start()))

    def finish(self) -> list[str]:
        """The message and its final dot are on their way."""
        assert self.leg.link is not None
        wire = self.wire(self.leg.link)
        wire.host.said.append("(message)")
        wire.pending.append("end")
        return [shown(each) for each in self.run(self.leg.finish())]

    def fail(self, why: Fault | Broken, early: str = "") -> list[str]:
        """The message broke off; `early`: what the next hop has said by then."""
        assert self.leg.link is not None
        wire = self.wire(self.leg.link)
        wire.host.script["early"] = [early or "lost"]
        wire.pending.append("early")
        return [shown(each) for each in self.run(self.leg.fail(why))]

    def abandon(self) -> None:
        self.run(self.leg.abandon())

    def deliver(self, path: str = "user@example.org") -> list[str]:
        """From RCPT to the end."""
        assert self.rcpt(path).startswith("250")
        assert self.start().startswith("354")
        return self.finish()

    # What is to be seen

    def said(self, address: str) -> list[str]:
        return self.hosts[address].said

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.records if name == event]

    @property
    def reasons(self) -> list[str]:
        """Of the hosts that were of no use."""
        return [fields["reason"] for fields in self.logged("attempt")]

    @property
    def outcome(self) -> dict[str, Any]:
        """The one delivery that was logged."""
        (fields,) = self.logged("delivery")
        return fields

    # What the world does

    def run(self, work: Work[Any]) -> Any:
        answer: object = None
        try:
            while True:
                command = work.send(answer)
                self.commands.append(command)
                answer = self.perform(command)
        except StopIteration as done:
            return done.value

    def perform(self, command: Command) -> object:
        match command:
            case Ask(questions, seconds):
                self.now += min(self.lookup, seconds)
                answers = tuple(map(self.dns.answer, questions))
                return answers if self.lookup <= seconds else tuple(_in_vain(each) for each in questions)
            case Admit(destination):
                self.admitted += [destination] if self.room else []
                return self.room
            case Leave(destination):
                self.admitted.remove(destination)
            case TakePooled(key):
                return self.pool.take(key, self.now)
            case Dial():
                return self._dial(command)
            case Say(link, data, replies, seconds):
                return self._say(self.wire(link), data, replies, seconds)
            case Secure(link):
                wire = self.wire(link)
                wire.host.said.append("(tls)")
                return wire.host.tls
            case Keep(link):
                assert self.wire(link).open
                self.closed += [f"kept no more {old.endpoint.address}" for old in self.pool.keep(link, self.now)]
            case Drop(link, quit=polite):
                self.wire(link).open = False
                self.closed.append(f"{'quit' if polite else 'drop'} {link.endpoint.address}")
            case Log(record):
                assert record.session == "o1"
                self.records.append((record.event, dict(record.fields)))
        return None

    def _shuffle(self, hosts: list[object]) -> None:
        self.chance(hosts)

    def wire(self, link: Link) -> Wire:
        assert isinstance(link.channel, Wire)
        return link.channel

    def _dial(self, command: Dial) -> Link | Lost:
        address = str(command.to.address)
        self.dialled.append(address)
        host = self.hosts[address]
        if host.connect is not None:
            self.now += command.seconds if host.connect.reason == "connect_timeout" else 0.0
            return host.connect
        return Link(Wire(host), command.to)

    def _say(self, wire: Wire, data: bytes, replies: int, seconds: float) -> list[Reply] | Lost:
        assert wire.open
        if not wire.greeted:
            wire.greeted = True
            wire.pending.append("banner")
        if data:
            lines = data.decode().removesuffix("\r\n").split("\r\n")
            wire.host.said.append(" | ".join(lines))
            wire.pending += [line.partition(" ")[0] for line in lines]
        came: list[Reply] = []
        while len(came) < replies:
            answer = wire.host.answer(wire.pending.pop(0))
            if isinstance(answer, str) and answer.startswith("after "):
                delay, answer = float(answer[6:].partition(":")[0]), answer.partition(": ")[2]
                self.now, answer = (self.now + delay, answer) if delay < seconds else (self.now, "silent")
            if answer == "silent":
                self.now += seconds
                answer = Lost("reply_timeout")
            elif answer == "lost":
                answer = Lost("connection_lost", "closed by the peer")
            if isinstance(answer, Lost):
                return Lost(answer.reason, answer.detail, tuple(came))
            came.append(reply(answer))
        return came


def _in_vain(question: Question) -> Known:
    return Known(question, State.FAILED, detail="too late")


def _target(text: str) -> Any:
    return ip_address(text[1:-1]) if text.startswith("[") else domain(text)
