"""Cases through the doors of a sidecar: many submissions at once, and what became of each of them: by the reply, by the
sidecar's log, and by what the destinations saw.

    results = through(dane_lab, cases, "default", "Servers")
    results["ee-1-1", "LMTP"].reply
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    from lab.danelab import DaneLab
    from lab.destinations import Delivered, Visit
    from lab.host import Host

    from .case import Case

Door = Literal["SMTP", "LMTP"]
Resolver = Literal["Embedded", "Servers"]
DOORS: tuple[Door, ...] = ("SMTP", "LMTP")
RESOLVERS: tuple[Resolver, ...] = ("Embedded", "Servers")

PORTS = {"SMTP": 11025, "LMTP": 11024}
HELLO = {"SMTP": "EHLO", "LMTP": "LHLO"}
AT_ONCE = 40
PATIENCE = 60.0  # of one reply; the slowest case waits for a resolver that waits for a silent server
MESSAGE = b"From: <sender@client.test>\r\nSubject: a case\r\n\r\nHello.\r\n.\r\n"


class Client:
    """One session at a door. Replies are their lines, joined by CRLF."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, pod: Host, door: Door, port: int = 0) -> Client:
        client = cls(*await pod.open_connection(("127.0.0.1", port or PORTS[door])))
        await client.reply("220")
        await client.say(f"{HELLO[door]} client.test", "250")
        return client

    async def reply(self, start: str = "") -> str:
        lines: list[str] = []
        async with asyncio.timeout(PATIENCE):
            while not lines or lines[-1][3:4] == "-":
                line = await self._reader.readline()
                assert line.endswith(b"\r\n"), f"{lines} and then {line!r}"
                lines.append(line.decode().rstrip("\r\n"))
        text = "\r\n".join(lines)
        assert text.startswith(start), f"{start} expected, not {text!r}"
        return text

    async def say(self, command: str | bytes, start: str = "") -> str:
        self._writer.write(command if isinstance(command, bytes) else f"{command}\r\n".encode())
        return await self.reply(start)

    async def send(
        self,
        door: Door,
        recipients: Sequence[str],
        *,
        mail: str = "MAIL FROM:<sender@client.test>",
        parameters: str = "",
        message: bytes = MESSAGE,
    ) -> list[str]:
        """A transaction; what was said last of each recipient."""
        await self.say(mail, "250")
        answers = [await self.say(f"RCPT TO:<{recipient}>{parameters}") for recipient in recipients]
        taken = [number for number, answer in enumerate(answers) if answer.startswith("250")]
        if not taken:
            await self.say("RSET", "250")
            return answers
        started = await self.say("DATA")
        if not started.startswith("354"):
            finals = [started] * len(taken)
        elif door == "LMTP":
            finals = [await self.say(message), *[await self.reply() for _ in taken[1:]]]
        else:
            finals = [await self.say(message)] * len(taken)
        for number, final in zip(taken, finals, strict=True):
            answers[number] = final
        return answers

    async def close(self) -> None:
        await self.say("QUIT", "221")
        self._writer.close()
        await self._writer.wait_closed()


@dataclass
class Result:
    """`recipient`: the submission's own. `events`: the sidecar's lines of it, of which the last is the delivery.
    `messages`: those that any destination got for it. `visits`: the sessions at each server of the case, by its number,
    whatever submission they were for."""

    recipient: str
    reply: str
    events: list[dict[str, Any]] = field(default_factory=list)
    messages: list[Delivered] = field(default_factory=list)
    visits: Mapping[int, list[Visit]] = field(default_factory=dict)

    @property
    def delivery(self) -> dict[str, Any]:
        (found,) = [event for event in self.events if event["event"] == "delivery"]
        return found

    @property
    def taken(self) -> list[Delivered]:
        return [message for message in self.messages if message.reply.startswith("250")]


class Doors:
    """A sidecar with the policy of some cases. Its end, with the `with` block, ends every connection of its pool."""

    def __init__(self, dane_lab: DaneLab, policy: str, resolver: Resolver) -> None:
        self._lab = dane_lab
        self._resolver = resolver
        outbound = dane_lab.outbound(policy, resolver)
        self.sidecar = dane_lab.lab.sidecar({"outbound": outbound, "logging": {"format": "JSON"}})
        self.sidecar.log.wait_for("self-test passed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sidecar.stop()

    def recipient(self, case: Case, door: Door) -> str:
        """Its local part says which way it came."""
        _, _, domain = self._lab.setting.recipient(case).partition("@")
        return f"{door}-{self._resolver}@{domain}".lower()

    def submit(self, cases: Iterable[Case], door: Door) -> dict[str, str]:
        """The answers, by the cases' names."""
        return asyncio.run(self._submit([*cases], door))

    async def _submit(self, cases: Sequence[Case], door: Door) -> dict[str, str]:
        places = asyncio.Semaphore(AT_ONCE)

        async def submit(case: Case) -> str:
            async with places:
                client = await Client.open(self._lab.lab.pod, door)
                (answer,) = await client.send(door, [self.recipient(case, door)])
                await client.close()
                return answer

        answers = await asyncio.gather(*map(submit, cases))
        return {case.name: answer for case, answer in zip(cases, answers, strict=True)}


def through(
    dane_lab: DaneLab, cases: Sequence[Case], policy: str, resolver: Resolver
) -> dict[tuple[str, Door], Result]:
    """Cases of one policy through both doors of a sidecar, which is gone afterwards."""
    results: dict[tuple[str, Door], Result] = {}
    before = len(dane_lab.sink.visits())
    with Doors(dane_lab, policy, resolver) as doors:
        for door in DOORS:
            answers = doors.submit(cases, door)
            results |= {(case.name, door): Result(doors.recipient(case, door), answers[case.name]) for case in cases}
    by_recipient = {result.recipient: result for result in results.values()}
    for session in _sessions(doors.sidecar.log.lines):
        by_recipient[session[-1]["recipient"]].events = session
    for message in dane_lab.sink.messages():
        for recipient in by_recipient.keys() & message.rcpt:
            by_recipient[recipient].messages.append(message)
    visits: dict[str, list[Visit]] = defaultdict(list)
    for visit in dane_lab.sink.visits()[before:]:
        visits[visit.where.split(" ")[0]].append(visit)
    for (name, _), result in results.items():
        case = dane_lab.setting.cases[name]
        result.visits = {
            number: [visit for address in dane_lab.setting.both(case, number) for visit in visits[address]]
            for number in range(1, len(case.servers) + 1)
        }
    return results


def _sessions(lines: Iterable[str]) -> Iterable[list[dict[str, Any]]]:
    """A sidecar's lines on deliveries, those of a submission together."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        event = json.loads(line)
        if event["event"] in ("delivery", "attempt"):
            found[event["session"]].append(event)
    return found.values()
