"""Every SMTP destination of a test in one process: each address behaves as a table says, and all that comes is logged.

    python -m lab.servers.sink TABLE.json

The table: {"198.51.100.1 25": behaviour}; `destinations.Behaviour` has the fields. It is read again on SIGHUP: new
addresses are listened on, and each new connection meets the new behaviour. The log is one JSON object a line: `loaded`
(a number, for each reading of the table), `tick` (a number, for each SIGUSR1), `message` (at the final dot, before its
reply) and `session` (at its end).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from OpenSSL import SSL

from .channel import Channel, OverError

KEEP = 65536  # octets of a message that are logged as they are
KEYWORDS = ["PIPELINING", "SIZE 104857600", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"]
REPLIES = {
    "banner": "220 sink.example ESMTP",
    "HELO": "250 sink.example",
    "STARTTLS": "220 2.0.0 go ahead",
    "MAIL": "250 2.1.0 sender ok",
    "RCPT": "250 2.1.5 recipient ok",
    "DATA": "354 go ahead",
    "dot": "250 2.0.0 taken",
    "RSET": "250 2.0.0 reset",
    "NOOP": "250 2.0.0 ok",
    "QUIT": "221 2.0.0 bye",
    "AUTH": "235 2.7.0 welcome",
}

_numbers = itertools.count(1)


def log(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


class Session:
    def __init__(self, channel: Channel, where: str, behaviour: dict[str, Any], used: dict[str, int]) -> None:
        self._channel = channel
        self._behaviour = behaviour
        self._used = used  # how often each scripted reply was given, at this address
        self._facts: dict[str, Any] = {
            "where": where,
            "session": next(_numbers),
            "peer": channel.writer.get_extra_info("peername")[0],
            "tls": None,
            "sni": None,
        }
        self._commands: list[str] = []
        self._envelope: dict[str, Any] = {}

    async def run(self) -> None:
        try:
            if self._behaviour.get("implicit"):
                await self._secure()
            await self._say("banner")
            while True:
                await self._obey((await self._channel.line()).decode("utf-8", "backslashreplace"))
        except OverError as end:
            reason = str(end)
        except (ConnectionError, SSL.Error) as error:
            reason = f"{type(error).__name__}: {error}"
        log(event="session", **self._facts, commands=self._commands, end=reason)
        with contextlib.suppress(ConnectionError):
            self._channel.writer.close()
            await self._channel.writer.wait_closed()

    async def _obey(self, line: str) -> None:
        self._commands.append(line)
        verb = line[:8].upper() if line[:8].upper() == "STARTTLS" else line[:4].upper()
        match verb:
            case "EHLO":
                await self._say("EHLO", self._greeting())
            case "STARTTLS" if self._behaviour.get("chain"):
                if await self._say("STARTTLS"):
                    await self._secure()
            case "MAIL":
                self._envelope = {"mail": line[5:], "rcpt": []} if await self._say("MAIL") else {}
            case "RCPT" if self._envelope:
                if await self._say(f"RCPT {_address(line)}", self._scripted("RCPT")):
                    self._envelope["rcpt"].append(_address(line))
            case "DATA" if self._envelope.get("rcpt"):
                if await self._say("DATA"):
                    await self._message()
                    self._envelope = {}
            case "RCPT" | "DATA":
                await self._write_reply("503 5.5.1 out of order")
            case "QUIT":
                await self._say("QUIT")
                raise OverError("QUIT")
            case _ if verb in REPLIES:
                await self._say(verb)
            case _:
                await self._write_reply("502 5.5.1 unknown command")

    def _greeting(self) -> str:
        keywords = list(self._behaviour.get("keywords", KEYWORDS))
        if self._facts["tls"] is None and self._behaviour.get("starttls", bool(self._behaviour.get("chain"))):
            keywords.append("STARTTLS")
        if self._facts["tls"] is not None:
            keywords += self._behaviour.get("tls_keywords", [])
        lines = ["sink.example", *keywords]
        return "\n".join(f"250{' ' if i == len(lines) else '-'}{word}" for i, word in enumerate(lines, 1))

    def _scripted(self, what: str, default: str | None = None) -> str:
        """A table's reply for `what`; within TLS, "tls what" before it. Of a list, each is said once, the last ever
        after."""
        table = self._behaviour.get("replies", {})
        key = f"tls {what}" if self._facts["tls"] and f"tls {what}" in table else what
        found = table.get(key, default if default is not None else REPLIES[what.split(" ")[0]])
        if isinstance(found, list):
            turn = self._used.get(key, 0)
            self._used[key] = turn + 1
            found = found[min(turn, len(found) - 1)]
        return str(found)

    async def _say(self, what: str, default: str | None = None) -> bool:
        """Whether the reply was a good one. `default` where the table has none, else `REPLIES`'."""
        return await self._write_reply(self._scripted(what, default))

    async def _write_reply(self, script: str) -> bool:
        """Its text in one piece, as far as the next act."""
        said = b""
        for part in script.split("\n"):
            if part.startswith("!raw "):
                said += part.removeprefix("!raw ").encode("latin-1")
            elif part.startswith("!"):
                await self._flush(said)
                said = b""
                await self._act(part)
            else:
                said += part.encode() + b"\r\n"
        await self._flush(said)
        return script[:1] in ("2", "3")

    async def _flush(self, said: bytes) -> None:
        if said:
            await self._channel.write(said)

    async def _act(self, action: str) -> None:
        """!close, !reset (RST), !silence (until the peer goes), !flood (text without an end). !raw TEXT is none."""
        name, _, text = action.partition(" ")
        match name:
            case "!reset":
                sock = self._channel.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._channel.writer.transport.abort()
                raise OverError("reset by the script")
            case "!silence":
                while True:
                    await self._channel.read()
            case "!flood":
                while True:
                    await self._channel.write(text.encode() * 1024)
            case "!close":
                raise OverError("closed by the script")
            case _:
                raise ValueError(action)

    async def _secure(self) -> None:
        if self._behaviour.get("handshake"):  # what comes in the handshake's place
            await self._write_reply(self._behaviour["handshake"])
            raise OverError("no handshake")
        self._facts["sni"] = await self._channel.handshake(self._behaviour)
        assert self._channel.tls is not None
        self._facts["tls"] = self._channel.tls.get_protocol_version_name()

    async def _message(self) -> None:
        """RFC 5321 4.1.1.4: up to CRLF.CRLF, and only that. `close_after`: octets of it after which we are gone."""
        digest, size, kept, tail = hashlib.sha256(), 0, b"", b"\r\n"
        not_theirs = len(tail)
        limit = self._behaviour.get("close_after")
        while True:
            tail += await self._channel.read()
            end = tail.find(b"\r\n.\r\n")
            piece, tail = (tail[:-4], tail[-4:]) if end < 0 else (tail[: end + 2], tail[end + 5 :])
            theirs = piece[not_theirs:]
            not_theirs -= len(piece) - len(theirs)
            digest.update(theirs)
            size += len(theirs)
            kept += theirs[: max(0, KEEP - len(kept))]
            if limit is not None and size >= limit:
                raise OverError("closed by the script, in the message")
            if end >= 0:
                break
        self._channel.unread(tail)
        text = (b"\r\n" + kept).replace(b"\r\n.", b"\r\n")[2:].decode("utf-8", "backslashreplace")
        facts = {**self._facts, **self._envelope, "size": size, "sha256": digest.hexdigest(), "text": text}
        reply = self._scripted("dot")
        log(event="message", **facts, reply=reply)
        await self._write_reply(reply)


def _address(line: str) -> str:
    return line.partition("<")[2].partition(">")[0]


class Sink:
    def __init__(self, table: Path) -> None:
        self._path = table
        self._table: dict[str, dict[str, Any]] = {}
        self._used: dict[str, dict[str, int]] = {}
        self._servers: dict[str, asyncio.Server] = {}
        self._readings = 0

    async def load(self) -> None:
        new = json.loads(self._path.read_text())
        for where, behaviour in new.items():
            if self._table.get(where) != behaviour:
                self._used[where] = {}
        self._table = new
        for where in new.keys() - self._servers.keys():
            address, port = where.split()
            self._servers[where] = await asyncio.start_server(self._accepted(where), address, int(port), limit=1 << 20)
        for where in self._servers.keys() - new.keys():
            self._servers.pop(where).close()
        self._readings += 1
        log(loaded=self._readings)

    def _accepted(self, where: str) -> Any:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            session = Session(Channel(reader, writer), where, self._table.get(where, {}), self._used[where])
            await session.run()

        return serve


async def main() -> None:
    sink = Sink(Path(sys.argv[1]))
    again = asyncio.Event()
    ticks = itertools.count(1)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, again.set)
    loop.add_signal_handler(signal.SIGUSR1, lambda: log(tick=next(ticks)))
    while True:
        await sink.load()
        await again.wait()
        again.clear()


if __name__ == "__main__":
    asyncio.run(main())
