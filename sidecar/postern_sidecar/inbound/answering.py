"""Conversations that the sidecar holds itself: with probes, and with clients that are on their way out.

Each is bounded in time, commands and octets, and reaches no backend (contracts section 2: Probes, Refusals, onFailure).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from postern_sidecar.config.model import Protocol
from postern_sidecar.replies import reply_line

from .events import ClientSent, Command, Do, Event, Happened, SendClient, StartTimer

if TYPE_CHECKING:
    from .speech import Speech

Answering = Generator[Command, Event, bool]
"""Returns whether the client has closed its side."""
Answer = Callable[[bytes], tuple[bytes, bool]]
"""A command line without its line end -> the reply, and whether it was the last."""

MAX_LINE = 512  # RFC 5321 4.5.3.1.4
LINGER = 5.0  # seconds for the last reply to be read; a close with unread input would reset the connection
LINGER_OCTETS = 65536


@dataclass(frozen=True, slots=True)
class Bounds:
    seconds: float
    commands: int
    octets: int


REFUSED = Bounds(seconds=5.0, commands=20, octets=1024)
REFUSE_503 = Bounds(seconds=60.0, commands=20, octets=20 * MAX_LINE)
PROBE = Bounds(seconds=10.0, commands=20, octets=20 * MAX_LINE)


def converse(answer: Answer, bounds: Bounds, sent: bytes = b"") -> Answering:
    """Answer a client line by line, starting with what it `sent` already, up to the last reply or a bound; then let it
    read that. The client may close at any time."""
    return (yield from _answer_lines(answer, bounds, sent)) or (yield from linger())


def _answer_lines(answer: Answer, bounds: Bounds, sent: bytes) -> Answering:
    yield StartTimer(bounds.seconds)
    buffer, octets, commands = b"", 0, 0
    while True:
        octets += len(sent)
        *lines, buffer = (buffer + sent).split(b"\n")
        for line in lines:
            commands += 1
            reply, last = answer(line.removesuffix(b"\r"))
            yield SendClient(reply)
            if last or commands == bounds.commands:
                return False
        if octets > bounds.octets or len(buffer) > MAX_LINE:
            return False
        event = yield Do.WAIT
        if event is Happened.CLIENT_CLOSED or event is Happened.TIMED_OUT:
            return event is Happened.CLIENT_CLOSED
        sent = event.data if isinstance(event, ClientSent) else b""


def linger() -> Answering:
    """Shut our side and let the client read what it was told, before the socket is closed."""
    yield Do.SHUT_CLIENT
    yield StartTimer(LINGER)
    octets = 0
    while octets <= LINGER_OCTETS:
        event = yield Do.WAIT
        if event is Happened.CLIENT_CLOSED or event is Happened.TIMED_OUT:
            return event is Happened.CLIENT_CLOSED
        octets += len(event.data) if isinstance(event, ClientSent) else 0
    return False


def quit_only(hostname: str, text: str) -> Answer:
    """503 with `text` to everything but QUIT: what Exim does to a session that may only leave."""

    def answer(line: bytes) -> tuple[bytes, bool]:
        if line.strip().upper() == b"QUIT":
            return reply_line("221", f"{hostname} closing connection"), True
        return reply_line("503", text), False

    return answer


def probed(speech: Speech) -> Answer:
    """What a health check hears of a mail server that is up."""
    return _PROBED[speech.protocol](speech.hostname)


def _smtp(hostname: str) -> Answer:
    def answer(line: bytes) -> tuple[bytes, bool]:
        match line.split(b" ")[0].strip().upper():
            case b"EHLO" | b"HELO":
                return reply_line("250", hostname), False
            case b"NOOP":
                return reply_line("250", "2.0.0 ok"), False
            case b"QUIT":
                return reply_line("221", f"{hostname} closing connection"), True
        return reply_line("502", "5.5.1 this is a health check's session"), False

    return answer


def _imap(hostname: str) -> Answer:
    """RFC 9051: every command has a tag, and its reply repeats it."""

    def answer(line: bytes) -> tuple[bytes, bool]:
        tag, _, command = line.decode("ascii", "replace").strip().partition(" ")
        match command.upper():
            case "LOGOUT":
                return reply_line("* BYE", hostname) + reply_line(tag, "OK done"), True
            case "NOOP":
                return reply_line(tag, "OK done"), False
        return reply_line(tag or "*", "BAD this is a health check's session"), False

    return answer


def _pop3(hostname: str) -> Answer:
    """RFC 1939."""

    def answer(line: bytes) -> tuple[bytes, bool]:
        if line.strip().upper() == b"QUIT":
            return reply_line("+OK", f"{hostname} done"), True
        return reply_line("-ERR", "this is a health check's session"), False

    return answer


def _managesieve(hostname: str) -> Answer:
    """RFC 5804."""

    def answer(line: bytes) -> tuple[bytes, bool]:
        if line.strip().upper() == b"LOGOUT":
            return reply_line("OK", f'"{hostname} done"'), True
        return reply_line("NO", '"this is a health check session"'), False

    return answer


_PROBED = {Protocol.SMTP: _smtp, Protocol.IMAP: _imap, Protocol.POP3: _pop3, Protocol.MANAGESIEVE: _managesieve}
