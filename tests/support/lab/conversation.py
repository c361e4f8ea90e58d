"""The client's side of a line protocol over a blocking socket: what was sent, what came back.

It refuses to be clever: no command is checked, no reply interpreted beyond where it ends, so that tests can be as
hostile as they like. On a failure the whole conversation is in the message.
"""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    import socket
    from types import TracebackType


class Reply(NamedTuple):
    code: int
    text: str  # without the codes, lines joined by \n


class Conversation:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.transcript: list[str] = []
        self._stream = sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()
        self.sock.close()

    @property
    def address(self) -> tuple[str, int]:
        """The client's own."""
        name = self.sock.getsockname()
        return name[0], name[1]

    def send(self, data: str | bytes) -> None:
        """Exactly these bytes."""
        raw = data.encode() if isinstance(data, str) else data
        self.transcript.append(f"> {raw!r}")
        self.sock.sendall(raw)

    def line(self) -> str:
        """The next line without its end, or "" where the other side has closed."""
        try:
            raw = self._stream.readline()
        except OSError as problem:
            raise AssertionError(f"{problem!r} after:\n{self}") from problem
        self.transcript.append(f"< {raw!r}")
        return raw.decode(errors="backslashreplace").rstrip("\r\n")

    def rest(self) -> bytes:
        """All that comes until the other side closes."""
        raw = self._stream.read()
        self.transcript.append(f"< {raw!r} and the end")
        return raw

    def reply(self) -> Reply:
        """One SMTP reply of any number of lines (RFC 5321 4.2.1)."""
        lines = []
        while True:
            line = self.line()
            match = re.fullmatch(r"(\d{3})([ -]?)(.*)", line)
            if not match:
                raise AssertionError(f"no SMTP reply: {line!r}\n{self}")
            lines.append(match[3])
            if match[2] != "-":
                return Reply(int(match[1]), "\n".join(lines))

    def expect(self, code: int) -> Reply:
        reply = self.reply()
        if reply.code != code:
            raise AssertionError(f"expected {code}\n{self}")
        return reply

    def command(self, line: str, code: int) -> Reply:
        self.send(line + "\r\n")
        return self.expect(code)

    def starttls(self) -> None:
        """STARTTLS and the handshake; whose certificate it is does not matter here."""
        self.command("STARTTLS", 220)
        self.handshake()

    def handshake(self) -> None:
        """TLS from here on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._stream.close()
        self.sock = context.wrap_socket(self.sock)
        self._stream = self.sock.makefile("rb")

    def deliver(
        self, *, recipient: str = "box@example.org", subject: str = "a test", helo: str = "client.test"
    ) -> Reply:
        """A whole session from the banner to QUIT; the reply to the message."""
        self.expect(220)
        self.command(f"EHLO {helo}", 250)
        self.command("MAIL FROM:<sender@example.net>", 250)
        self.command(f"RCPT TO:<{recipient}>", 250)
        self.command("DATA", 354)
        accepted = self.command(f"From: <sender@example.net>\r\nSubject: {subject}\r\n\r\nHello.\r\n.", 250)
        self.command("QUIT", 221)
        return accepted

    def __str__(self) -> str:
        return "\n".join(self.transcript)
