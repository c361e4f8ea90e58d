"""SMTP replies (RFC 5321 4.2): reading a server's, writing our own.

`ReplyReader` is fed bytes in any fragmentation and returns whole replies. It refuses what no server sends: a line over
`MAX_LINE` octets, more than `MAX_LINES` lines, codes that differ within a reply, bytes that are no reply at all
(`ReplyError`, the only exception that a caller has to handle). Line ends are CRLF; a bare LF is taken as one too, for a
server on loopback that logs to a human.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_LINE = 2048  # RFC 5321 4.5.3.1.5 says 512; Postfix reads 2048 from servers that do not count
MAX_LINES = 128  # the longest real EHLO replies have about 20
_DIGITS = frozenset(b"0123456789")


class ReplyError(Exception):
    """The server said something that is not an SMTP reply. `replies`: whole ones of the same bytes, before it."""

    replies: tuple[Reply, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply: its code and the text of each line, undecoded, without line ends."""

    code: int
    lines: tuple[bytes, ...]

    def __bytes__(self) -> bytes:
        """The reply as it goes on the wire."""
        last = len(self.lines) - 1
        return b"".join(
            b"%03d%s%s\r\n" % (self.code, b" " if number == last else b"-", line)
            for number, line in enumerate(self.lines)
        )

    @property
    def keywords(self) -> dict[bytes, bytes]:
        """An EHLO reply's keywords, upper case, and their parameters (RFC 5321 4.1.1.1)."""
        pairs = (line.partition(b" ") for line in self.lines[1:])
        return {keyword.upper(): parameters for keyword, _, parameters in pairs}

    @property
    def enhanced(self) -> bytes:
        """The enhanced status code (RFC 3463) that the last line starts with, or b""."""
        first = self.lines[-1].partition(b" ")[0]
        return first if first.count(b".") == 2 and first.replace(b".", b"").isdigit() else b""


class ReplyReader:
    """`feed` returns the replies that are whole by now; after an error the reader is dead."""

    __slots__ = ("_buffer", "_code", "_lines")

    def __init__(self) -> None:
        self._buffer = b""
        self._code = 0
        self._lines: list[bytes] = []

    def feed(self, data: bytes) -> list[Reply]:
        """Raises ReplyError."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        replies: list[Reply] = []
        try:
            for line in lines:
                reply = self._line(line.removesuffix(b"\r"))
                if reply is not None:
                    replies.append(reply)
            if len(self._buffer) > MAX_LINE:
                raise ReplyError("a reply line is too long")
        except ReplyError as error:
            error.replies = tuple(replies)
            raise
        return replies

    @property
    def partial(self) -> bool:
        """There are bytes of a reply that is not whole yet."""
        return bool(self._buffer or self._lines)

    def _line(self, line: bytes) -> Reply | None:
        code, separator, text = line[:3], line[3:4], line[4:]
        if len(line) > MAX_LINE:
            raise ReplyError("a reply line is too long")
        if len(code) < 3 or not _DIGITS.issuperset(code) or separator not in (b"", b" ", b"-") or b"\r" in text:
            raise ReplyError("not an SMTP reply")
        if self._lines and int(code) != self._code:
            raise ReplyError("the lines of one reply have different codes")
        if len(self._lines) == MAX_LINES:
            raise ReplyError("a reply has too many lines")
        self._code = int(code)
        self._lines.append(text)
        if separator == b"-":
            return None
        lines, self._lines = tuple(self._lines), []
        return Reply(self._code, lines)


def reply_line(code: str, text: str) -> bytes:
    """One reply line of ours, at most 512 octets with its CRLF (RFC 5321 4.5.3.1.5), printable ASCII only.

    `code` is the basic code with its enhanced one, such as "421 4.3.2".
    """
    printable = "".join(c if " " <= c <= "~" else "?" for c in text)
    return f"{code} {printable}".encode("ascii")[:510] + b"\r\n"
