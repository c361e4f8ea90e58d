"""Programs in the pod that hand mail to the sidecar's doors, many at once: what each was answered.

mail = Mail(lab, "lmtp", ["user@a.example", "user@b.example"])
await mail.submit()
assert mail.answers == {"user@a.example": "250 2.0.0 taken", "user@b.example": "451 4.4.2 ..."}
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from .program import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .laboratory import Lab

Door = Literal["smtp", "lmtp"]
DOORS: dict[Door, tuple[str, int]] = {"smtp": ("127.0.0.1", 11025), "lmtp": ("127.0.0.1", 11024)}
BODY = b"Subject: a test\r\n\r\nHello.\r\n"


@dataclass
class Mail:
    """`body` ends with CRLF and needs no dot-stuffing. `answers`: the last word on each recipient; none where the
    session ended without one."""

    lab: Lab
    door: Door
    recipients: Sequence[str]
    body: bytes = BODY
    patience: float = PATIENCE
    answers: dict[str, str] = field(default_factory=dict)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    started: asyncio.Event = field(default_factory=asyncio.Event)  # 354 was heard
    proceed: asyncio.Event | None = None  # half of the message is sent, the rest waits for this

    async def submit(self) -> dict[str, str]:
        """A session of its own, from the greeting to QUIT, or to where the other side ends it."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            async with asyncio.timeout(self.patience):
                self._reader, self._writer = await self.lab.pod.open_connection(DOORS[self.door])
                try:
                    await self._session()
                finally:
                    self._writer.transport.abort()
        return self.answers

    async def told(self, recipient: str) -> None:
        """Returns when there is an answer for this recipient."""
        async with self._news:
            await self._news.wait_for(lambda: recipient in self.answers)

    def refused(self) -> list[str]:
        """Who got no 250."""
        return [each for each in self.recipients if not self.answers.get(each, "").startswith("250 ")]

    async def _session(self) -> None:
        await self._reply()
        await self._command("LHLO pod" if self.door == "lmtp" else "EHLO pod")
        await self._command("MAIL FROM:<sender@pod.example>")
        taken = []
        for recipient in self.recipients:
            self._write(f"RCPT TO:<{recipient}>\r\n".encode())
        for recipient in self.recipients:
            reply = await self._reply()
            if reply.startswith("25"):
                taken.append(recipient)
            else:
                await self._answer(reply, recipient)
        if taken:
            await self._data(taken)
        await self._command("QUIT")

    async def _data(self, taken: list[str]) -> None:
        reply = await self._command("DATA")
        if not reply.startswith("354"):
            await self._answer(reply, *taken)
            return
        self.started.set()
        half = len(self.body) // 2
        self._write(self.body[:half])
        await self._writer.drain()
        if self.proceed is not None:
            await self.proceed.wait()
        self._write(self.body[half:] + b".\r\n")
        await self._writer.drain()
        if self.door == "smtp":
            await self._answer(await self._reply(), *taken)
            return
        for recipient in taken:
            await self._answer(await self._reply(), recipient)

    async def _answer(self, reply: str, *recipients: str) -> None:
        async with self._news:
            self.answers |= dict.fromkeys(recipients, reply)
            self._news.notify_all()

    def _write(self, data: bytes) -> None:
        self._writer.write(data)

    async def _command(self, line: str) -> str:
        self._write(f"{line}\r\n".encode())
        return await self._reply()

    async def _reply(self) -> str:
        """The last line of one."""
        while True:
            line = await self._reader.readuntil(b"\r\n")
            if line[3:4] != b"-":
                return line.decode().rstrip("\r\n")
