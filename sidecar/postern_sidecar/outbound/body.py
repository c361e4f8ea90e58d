"""The octets after 354: where DATA ends, and what of them goes to the next hop.

Decides the end of DATA (CRLF.CRLF and nothing else, RFC 5321 4.1.1.4, 4.5.2), whether the message may pass, and, under
Normalize, how its line ends are mended. Knows nothing of who sends and who receives. Raises nothing.

What passes, passes as it came, dots and all: the next hop takes the stuffing off that the submitter put on. So the two
must see the same lines, and they do, because of every line end in what passes CR and LF stand together:

- Reject: a CR without LF, or an LF without CR, and nothing more passes: `fault`, and the message is never ended.
- Normalize: each becomes CRLF (CR CR LF, an old mailer's slip, becomes one: two would end a header in its middle). A
  dot behind such a line end was not at the start of a line when lines were stuffed, so it gets its dot now; one between
  CRLF and a bare line end was a stuffing dot (it is not alone on its line), so it goes.

NUL stands in neither 7bit nor 8bit data (RFC 2045 2.7, 2.8), and BINARYMIME is not announced. Programs in C have taken
`.` NUL for the end of a message: Reject refuses it, Normalize writes `?`.

Passed: 8-bit octets whether or not BODY=8BITMIME was said (nobody knows better what they are than the submitter), and
lines over 1000 octets (RFC 5321 4.5.3.1.6 lets a server refuse them: that is the next hop's to do).

The submitter may go on after a fault; what comes is counted and dropped up to its end, `DRAIN` octets at most over the
size limit. A message is never kept: three octets at most wait for what follows them, and eleven of a header are looked
at twice.
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from postern_sidecar.config.model import BareNewline
from postern_sidecar.replies import Reply

MAX_RECEIVED = 50  # contracts section 5, as Postfix's hopcount_limit; RFC 5321 6.3 would have 100
DRAIN = 64 << 20  # octets; an honest submitter that did not say SIZE ends its message somewhere

_DOT_LINE = re.compile(rb"\r\n\.")
_CR_ALONE = re.compile(rb"\r[^\n]")
_UNDECIDED = re.compile(rb"(?<=\r\n)\.\r{0,2}\Z|\r{1,2}\Z")
_DOT_BEFORE_BARE = re.compile(rb"(?<=\r\n)\.(?=\n|\r(?!\n))")
_BARE_AND_DOT = re.compile(rb"(?:\r(?!\n)|(?<!\r)\n)\.")
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_TRACE = b"\r\nreceived:"


class Fault(enum.Enum):
    """Why a message does not pass; the value is the word for the log."""

    BARE_NEWLINE = "bare_newline"
    NUL = "nul"
    TOO_BIG = "message_too_big"
    LOOP = "mail_loop"
    GONE = "client_gone"

    @property
    def reply(self) -> Reply:
        """The answer for each recipient."""
        return _REPLIES[self]


_REPLIES = {
    Fault.BARE_NEWLINE: Reply(550, (b"5.5.2 Bare CR or LF in the message: lines end with CRLF",)),
    Fault.NUL: Reply(550, (b"5.6.0 NUL in the message",)),
    Fault.TOO_BIG: Reply(552, (b"5.3.4 Message too big",)),
    Fault.LOOP: Reply(554, (b"5.4.6 Too many Received fields: mail loop",)),
    Fault.GONE: Reply(451, (b"4.4.2 Connection lost before the end of the message",)),
}


class Fed(NamedTuple):
    """`data`: for the next hops, now. `ended`: DATA has; `rest` came behind it."""

    data: bytes
    ended: bool = False
    rest: bytes = b""


class Body:
    """One message. What all `feed`s let pass is, once `ended`, empty or ends with CRLF; the final dot is not in it."""

    __slots__ = (
        "_carry",
        "_dropped",
        "_held",
        "_limit",
        "_line_start",
        "_loose",
        "_normalize",
        "_received",
        "fault",
        "size",
    )

    def __init__(self, bare_newline: BareNewline, limit: int) -> None:
        self.fault: Fault | None = None
        self.size = 0  # octets passed, stuffing dots not counted (RFC 1870 5)
        self._normalize = bare_newline is BareNewline.NORMALIZE
        self._limit = limit
        self._held = b""  # what the next octet decides about
        self._line_start = True  # what was fed so far, without `_held`, ends with CRLF
        self._loose = False  # it ends with a bare CR or LF
        self._carry: bytes | None = b"\r\n"  # of the header, up to `_TRACE`'s length; None behind it
        self._received = 0
        self._dropped = 0

    @property
    def exhausted(self) -> bool:
        """More has come after a fault than is worth waiting for."""
        return self._dropped > DRAIN + self._limit

    def feed(self, data: bytes) -> Fed:
        """Any fragmentation gives the same; behind the end, everything is `rest`."""
        raw = self._held + data if self._held else data
        if not raw:
            return Fed(b"")
        dotted = _DOT_LINE.search(raw)
        end = self._end(raw, dotted.start() if dotted else len(raw))
        if end is None:
            part = self._decided(raw)
        else:
            part, self._held = raw[:end], b""
        out = self._pass(part, dotted is not None) if part else b""
        return Fed(out) if end is None else Fed(out, ended=True, rest=raw[end + 3 :])

    def eof(self) -> Fault:
        """The submitter left before the end."""
        self.fault = self.fault or Fault.GONE
        return self.fault

    def _end(self, raw: bytes, dot_line: int) -> int | None:
        """Where the final dot is."""
        if self._line_start and raw.startswith(b".\r\n"):
            return 0
        found = raw.find(b"\r\n.\r\n", dot_line)
        return found + 2 if found >= 0 else None

    def _decided(self, raw: bytes) -> bytes:
        """All but the tail that may be the start of the end, or the half of a line end."""
        self._held = b""
        if raw[-1] not in b"\r.":
            return raw
        tail = b"\r\n" + raw if self._line_start and len(raw) < 5 else raw[-5:]
        found = _UNDECIDED.search(tail)
        if found is None:
            return raw
        cut = len(raw) - len(found[0])
        self._held = raw[cut:]
        return raw[:cut]

    def _pass(self, part: bytes, dotted: bool) -> bytes:
        """What of `part` goes on, b"" after a fault."""
        out = part
        if self.fault is None:
            bare = part.count(b"\r") != part.count(b"\n") or part[-1] == 0x0D or _CR_ALONE.search(part) is not None
            if bare or self._loose or b"\0" in part:
                out = self._mend(part, bare)
            self._measure(out, dotted or bare)
            self._look_for_loops(out)
            self._loose = bare and part[-1] in b"\r\n" and not part.endswith(b"\r\n")
        self._line_start = part.endswith(b"\r\n")
        if self.fault is None:
            return out
        self._dropped += len(part)
        return b""

    def _mend(self, part: bytes, bare: bool) -> bytes:
        if not self._normalize:
            self.fault = Fault.BARE_NEWLINE if bare else Fault.NUL
            return b""
        text = part.replace(b"\0", b"?")
        if bare:
            if self._line_start and _DOT_BEFORE_BARE.match(b"\r\n" + text[:3], 2):
                text = text[1:]
            text = _DOT_BEFORE_BARE.sub(b"", text).replace(b"\r\r\n", b"\r\n")
            text = _BARE.sub(b"\r\n", _BARE_AND_DOT.sub(b"\r\n..", text))
        return b"." + text if self._loose and part.startswith(b".") else text

    def _measure(self, out: bytes, dotted: bool) -> None:
        dots = out.count(b"\r\n.") if dotted else 0
        if (self._line_start or self._loose) and out.startswith(b"."):
            dots += 1
        self.size += len(out) - dots
        if self.size > self._limit:
            self.fault = self.fault or Fault.TOO_BIG

    def _look_for_loops(self, out: bytes) -> None:
        """Counts Received fields up to the empty line, however far away that is."""
        if self._carry is None:
            return
        seen = self._carry + out
        empty_line = seen.find(b"\r\n\r\n")
        self._carry = seen[1 - len(_TRACE) :] if empty_line < 0 else None
        self._received += seen[: empty_line + 2 if empty_line >= 0 else None].lower().count(_TRACE)
        if self._received > MAX_RECEIVED:
            self.fault = self.fault or Fault.LOOP
