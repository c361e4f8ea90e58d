"""The XCLIENT guard: a client that can send XCLIENT or XFORWARD of its own is anybody (contracts section 2).

A filter (filters.py) for sessions whose server still announces one of the two after the hand-over. It follows the
session command by command, one at a time: a command goes to the server only when the one before has had its reply, so
its own replies stand at their place, and DATA and AUTH can never be mistaken for commands. Clients may pipeline all the
same; they only gain nothing by it.

- Replies to EHLO lose XCLIENT, XFORWARD and STARTTLS (behind TLS nothing could be read). They lose CHUNKING and
  BINARYMIME too: whether a server consumes the octets behind a BDAT that it refuses is the server's own opinion (the
  state is indeterminate, RFC 3030 2), and a guard that guesses wrong passes commands as data. Clients then use DATA.
- XCLIENT and XFORWARD get 550 5.7.0 outside DATA, STARTTLS and BDAT 502.
- A bare CR or LF, also in a message, ends the session with 521 5.5.2: servers differ in what it ends.
- A line over MAX_LINE and a reply that is none end it too.

RFC 5321 4.1.1.4 (DATA), RFC 4954 4 (AUTH's continuations).
"""

from __future__ import annotations

import enum

from postern_sidecar.replies import Reply, ReplyError, ReplyReader, reply_line

from .filters import Passed

MAX_LINE = 12288  # RFC 4954 4: a line of AUTH is up to 12288 octets; other commands are shorter
MAX_HELD = 65536  # octets of the client that wait for the server's replies
_HIDDEN = frozenset((b"XCLIENT", b"XFORWARD", b"STARTTLS", b"CHUNKING", b"BINARYMIME"))
_UNAVAILABLE = frozenset((b"STARTTLS", b"BDAT"))
_BLANKS = b"\x00\t\x0b\x0c "  # what a lenient server may skip before or inside a verb


class _State(enum.Enum):
    COMMAND = enum.auto()  # the next line is a command
    REPLY = enum.auto()  # a command waits for its reply
    CONTINUATION = enum.auto()  # the server said 334: the next line is AUTH's
    DATA = enum.auto()  # the server said 354: lines up to the lone dot


class XclientGuard:
    """After `end` was returned the guard passes nothing on any more."""

    __slots__ = ("_closed", "_dead", "_held", "_replies", "_state", "_verb")

    def __init__(self) -> None:
        self._held = b""
        self._state = _State.COMMAND
        self._verb = b""
        self._replies = ReplyReader()
        self._dead = False
        self._closed = False

    def from_client(self, data: bytes) -> Passed:
        if self._dead:
            return Passed()
        self._held += data
        return self._advance(b"")

    def from_backend(self, data: bytes) -> Passed:
        if self._dead:
            return Passed()
        try:
            replies = self._replies.feed(data)
        except ReplyError:
            return self._end(b"", reply_line("421 4.3.0", "the mail server failed"), "backend_protocol")
        return self._advance(b"".join(bytes(self._replied(reply)) for reply in replies))

    def client_closed(self) -> Passed:
        self._closed = True
        return Passed() if self._dead else self._advance(b"")

    def _end(self, to_backend: bytes, to_client: bytes, reason: str) -> Passed:
        self._dead = True
        return Passed(to_backend, to_client, end=reason)

    def _replied(self, reply: Reply) -> Reply:
        """What the client gets to see of a reply, and what it means for the next line."""
        if self._state is not _State.REPLY:  # a 421 of the server's own accord
            return reply
        if reply.code == 334 and self._verb == b"AUTH":
            self._state = _State.CONTINUATION
        elif reply.code == 354 and self._verb == b"DATA":
            self._state = _State.DATA
        else:
            self._state = _State.COMMAND
        return _without_hidden(reply) if self._verb == b"EHLO" else reply

    def _advance(self, to_client: bytes) -> Passed:
        """Pass on as much of what is held as may go by now."""
        start, onward, answers = 0, [], [to_client]
        while self._state is not _State.REPLY and (end := self._held.find(b"\n", start) + 1):
            line = self._held[start:end]
            if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
                return self._end(b"", b"".join(answers) + reply_line("521 5.5.2", "lines end with CRLF"), "bare_lf")
            answer = self._line(line)
            if answer:
                answers.append(answer)
            else:
                onward.append(line)
            start = end
        self._held = self._held[start:]
        if len(self._held) > MAX_LINE and self._state is not _State.REPLY:
            answers.append(reply_line("521 5.5.2", "line too long"))
            return self._end(b"".join(onward), b"".join(answers), "line_too_long")
        shut = self._closed and (self._state is not _State.REPLY or not self._held)
        return Passed(b"".join(onward), b"".join(answers), hold=len(self._held) > MAX_HELD, shut=shut)

    def _line(self, line: bytes) -> bytes:
        """Our own answer to a whole line of the client, or b"": the line goes on to the server."""
        if self._state is _State.COMMAND:
            return self._command(line)
        if self._state is _State.CONTINUATION or line == b".\r\n":
            self._state = _State.REPLY
        return b""

    def _command(self, line: bytes) -> bytes:
        if line.translate(None, _BLANKS).upper().startswith((b"XCLIENT", b"XFORWARD")):
            return reply_line("550 5.7.0", "not from here")
        words = line.split(None, 1)
        verb = words[0].upper() if words else b""
        if verb in _UNAVAILABLE:
            return reply_line("502 5.5.1", f"{verb.decode()} is not available here")
        self._verb = verb
        self._state = _State.REPLY
        return b""


def _without_hidden(reply: Reply) -> Reply:
    kept = (line for line in reply.lines[1:] if line.partition(b" ")[0].upper() not in _HIDDEN)
    return Reply(reply.code, (reply.lines[0], *kept))
