"""A world for one delivery, without sockets: DNS from a table, and next hops that answer by a script.

world = DeliveryWorld(dns, {ip_address("192.0.2.1"): Host(chain=leaf.path)}, Outbound())
world.deliver(domain("example.org"))      -> the reply that the submitter gets at the end
world.mails                               where MAIL was said, and at what level
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from delivery_playbook import reply
from postern_sidecar.outbound import commands
from postern_sidecar.outbound.commands import Lost
from postern_sidecar.outbound.envelope import Recipient, Sender
from postern_sidecar.outbound.forbidden import Forbidden
from postern_sidecar.outbound.inquiry import inquire
from postern_sidecar.outbound.leg import Leg
from postern_sidecar.outbound.link import Link
from postern_sidecar.outbound.memory import Unreachable
from postern_sidecar.outbound.plan import Handshake
from postern_sidecar.outbound.settings import Settings, World
from postern_sidecar.outbound.surroundings import Surroundings
from postern_sidecar.replies import Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dns_table import Table
    from postern_sidecar.answers import Question
    from postern_sidecar.config.model import Outbound
    from postern_sidecar.names import Address, Domain, Endpoint
    from postern_sidecar.outbound.commands import Work
    from postern_sidecar.outbound.report import Report

T = TypeVar("T")
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEYWORDS = (b"STARTTLS", b"PIPELINING", b"8BITMIME", b"SMTPUTF8", b"SIZE 10000000")
VERSION, CIPHER = "TLS1.3", "TLS_AES_256_GCM_SHA384"


@dataclass(frozen=True)
class Host:
    """A next hop. `says`: what it answers to a verb, to BANNER and to DOT; the rest it takes. `tls`: how the handshake
    ends, if not well. `trust`: as in Handshake. `port`: where it listens; None: nowhere."""

    chain: tuple[bytes, ...] = ()
    says: Mapping[str, Reply | Lost] = field(default_factory=dict)
    keywords: tuple[bytes, ...] = KEYWORDS
    tls: Lost | None = None
    trust: str = ""
    port: int | None = 25


def own_words(address: Address) -> Reply:
    """What a host says when it has taken the message."""
    return reply(f"250 2.0.0 taken at {address}")


@dataclass
class Channel:
    """A connection to a host, as far as the host knows it. `coming`: what it has said and nobody has read."""

    host: Host
    address: Address
    heard: list[str] = field(default_factory=list)
    secured: bool = False
    coming: list[Reply | Lost] = field(default_factory=list)

    def answers(self, data: bytes) -> list[Reply | Lost]:
        if data:
            return [self._to(line.split()[0].upper().decode()) for line in data.splitlines()]
        return [self._to("DOT" if self.heard else "BANNER")]

    def _to(self, verb: str) -> Reply | Lost:
        self.heard.append(verb)
        if verb in self.host.says:
            return self.host.says[verb]
        match verb:
            case "BANNER":
                return reply("220 ready")
            case "EHLO":
                offered = (word for word in self.host.keywords if word != b"STARTTLS" or not self.secured)
                return Reply(250, (b"here", *offered))
            case "STARTTLS":
                return reply("220 2.0.0 go on")
            case "DATA":
                return reply("354 end with a dot")
            case "DOT":
                return own_words(self.address)
        return reply("250 2.1.0 ok")


@dataclass
class DeliveryWorld:
    """`mails`: address and level of each MAIL; `dialled`: addresses, `asked`: questions, in order."""

    dns: Table
    hosts: Mapping[Address, Host]
    outbound: Outbound
    own: frozenset[Address] = frozenset()
    ready: bool = True
    mails: list[tuple[Address, str]] = field(default_factory=list)
    dialled: list[Address] = field(default_factory=list)
    asked: list[Question] = field(default_factory=list)

    @property
    def around(self) -> Surroundings:
        settings = Settings(self.outbound, "mail.example.com", self.own)
        world = World(monotonic=lambda: 0.0, wall=NOON.timestamp, shuffle=lambda _: None)
        forbidden = Forbidden(self.outbound, self.own)
        return Surroundings(settings, world, forbidden, Unreachable(), lambda: (self.ready, "not proved"))

    def check(self, target: Domain | Address, *, connect: bool = True) -> Report:
        """What is foretold of such a message."""
        return self.perform(inquire(self.around, target, connect=connect))

    def deliver(self, target: Domain | Address, *, eight_bit: bool = False, smtputf8: bool = False) -> Reply:
        """What the submitter of a message to one recipient is told: at RCPT, at DATA, or at the end."""
        leg = Leg(self.around, Sender(b"a@example.com", eight_bit=eight_bit, smtputf8=smtputf8), target, "s1")
        answer = self.perform(leg.recipient(Recipient(b"user@there", target)))
        if answer.code >= 400:
            return answer
        answer = self.perform(leg.start())
        return self.perform(leg.finish())[0] if answer.code == 354 else answer

    def perform(self, work: Work[T]) -> T:
        answer: object = None
        while True:
            try:
                command = work.send(answer)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            answer = self._performed(command)

    def _performed(self, command: commands.Command) -> object:
        match command:
            case commands.Ask(questions, _):
                self.asked += questions
                return tuple(map(self.dns.answer, questions))
            case commands.Admit():
                return True
            case commands.Dial(to):
                return self._dial(to)
            case commands.Say(link, data):
                return self._said(link, data, command.replies)
            case commands.Secure(link):
                return self._secured(link)
        return None

    def _dial(self, to: Endpoint) -> Link | Lost:
        self.dialled.append(to.address)
        host = self.hosts[to.address]
        return Link(Channel(host, to.address), to) if host.port == to.port else Lost("connect_refused")

    def _said(self, link: Link, data: bytes, wanted: int) -> list[Reply] | Lost:
        channel = self._channel(link)
        if data.startswith(b"MAIL"):
            assert link.level is not None
            self.mails.append((channel.address, "half-dane" if link.half_dane else link.level.value))
        if data or not channel.coming:
            channel.coming += channel.answers(data)
        answers, channel.coming = channel.coming[:wanted], channel.coming[wanted:]
        assert len(answers) == wanted
        before: list[Reply] = []
        for answer in answers:
            if isinstance(answer, Lost):
                return Lost(answer.reason, answer.detail, tuple(before))
            before.append(answer)
        return before

    def _secured(self, link: Link) -> Handshake | Lost:
        channel = self._channel(link)
        channel.secured = True
        host = channel.host
        return host.tls or Handshake(VERSION, CIPHER, host.chain, trust=host.trust, now=NOON.timestamp())

    @staticmethod
    def _channel(link: Link) -> Channel:
        assert isinstance(link.channel, Channel)
        return link.channel
