"""The two doors, SMTP and LMTP: aiosmtpd's protocol classes with the parts replaced that keep messages, or cost.

Every place that overrides aiosmtpd, or reads what it keeps, is in this file; `KEPT` and `REPLACED` name them, and
tests/sidecar/edge/test_doors_aiosmtpd.py fails where they are not what they were when this was written. What is ours:

- `__init__`: aiosmtpd's looks for hooks with inspect, 0.75 ms a connection; we have none.
- `_handle_client`: commands are read by the chunk, replies that are due together go out together, RCPTs at the LMTP
  door are asked for at once and answered in their order, and an octet behind DATA's end is the next command's.
- `smtp_*`: the commands (RFC 5321, 2033), without AUTH, STARTTLS, XCLIENT, XFORWARD, BDAT.
- `connection_lost`, `eof_received`: aiosmtpd's cancel the handler. A next hop that has the final dot is heard out.
- `_reset_timeout`, `_timeout_cb`: one timer a connection. Silence ends it, without a word: 421 is for our own shutdown
  and for a full house (contracts section 5, Postfix suspends a transport on it).

A command line ends with CRLF. One that ends with a bare LF, or looks like HTTP, ends the session: nobody's mail client
does that, and who can write a line feed into an address of ours could write the next command behind it.
"""

# ruff: noqa: N802, ARG002 - the names and arguments are aiosmtpd's

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP

from postern_sidecar.config.model import BareNewline
from postern_sidecar.names import endpoint
from postern_sidecar.outbound.trace import received
from postern_sidecar.outbound.transaction import MAX_RECIPIENTS, Refused, parse_mail, parse_rcpt
from postern_sidecar.replies import Reply

from .listener import internal_error
from .transaction import Transaction

if TYPE_CHECKING:
    from postern_sidecar.outbound.envelope import Recipient

    from .submission import House
    from .transaction import Lane

CHUNK: Final = 65_536  # octets read at once; as many wait in the reader before it stops the submitter, twice over
MAX_COMMAND: Final = 2048  # RFC 5321 4.5.3.1.4 says 512, RFC 3461 adds 500 and 600 for DSN, Postfix takes 2048
MAX_ERRORS: Final = 20  # commands in a row that are none of ours, or make no sense (Postfix's smtpd_hard_error_limit)
IDLE: Final = 300.0  # seconds; RFC 5321 4.5.3.2.7
LINGER: Final = 1.0  # for a last word to be read
MAX_SLOTS: Final = 2 * MAX_RECIPIENTS  # answers that wait for one before them

KEPT: Final = (
    "connection_made",
    "_cb_client_connected",
    "_set_rset_state",
    "_set_post_data_state",
    "_create_session",
    "_create_envelope",
)
REPLACED: Final = (
    "__init__",
    "_handle_client",
    "_reset_timeout",
    "_timeout_cb",
    "connection_lost",
    "eof_received",
    "data_received",
)

SHUTTING_DOWN: Final = b"421 4.3.2 Shutting down, try again\r\n"
HOUSE_FULL: Final = b"421 4.3.2 Too many sessions, try again\r\n"

_OK = b"250 2.0.0 OK\r\n"
_SENDER_OK = b"250 2.1.0 Sender OK\r\n"
_DATA = b"354 End data with <CRLF>.<CRLF>\r\n"
_HELP = b"214 2.0.0 EHLO HELO LHLO MAIL RCPT DATA RSET NOOP VRFY QUIT\r\n"
_VRFY = b"252 2.1.5 Not known here; the next hop decides\r\n"
_NO_COMMAND = b"500 5.5.2 Command not recognized\r\n"
_NOT_DONE = b"502 5.5.1 Command not implemented\r\n"
_TOO_LONG = b"500 5.5.2 Line too long\r\n"
_NO_ARGUMENT = b"501 5.5.4 This command takes no argument\r\n"
_HELLO_SYNTAX = b"501 5.5.4 A greeting needs a name\r\n"
_HELLO_FIRST = b"503 5.5.1 Greet first\r\n"
_NESTED = b"503 5.5.1 Nested MAIL command\r\n"
_NEED_MAIL = b"503 5.5.1 Need MAIL first\r\n"
_NEED_RCPT = b"503 5.5.1 No valid recipients\r\n"
_BARE_LF = b"554 5.5.2 Lines end with CRLF\r\n"
_NOT_SMTP = b"554 5.5.1 This is no web server\r\n"
_TOO_MANY_ERRORS = b"554 5.5.1 Too many errors\r\n"

_ELSEWHERE = frozenset({b"AUTH", b"STARTTLS", b"XCLIENT", b"XFORWARD", b"BDAT", b"EXPN", b"ETRN", b"TURN", b"SEND"})
_WEB = frozenset({b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"PATCH", b"CONNECT"})


class _Slot:
    """A place in the order of replies."""

    __slots__ = ("reply",)

    def __init__(self, reply: bytes = b"") -> None:
        self.reply = reply


class Door(SMTP):
    """One session at the SMTP door."""

    many = False
    protocol = "ESMTP"
    greeting = b"ESMTP"
    bare_newline = BareNewline.REJECT
    verbs: ClassVar[dict[bytes, str]] = {
        b"EHLO": "smtp_EHLO",
        b"HELO": "smtp_HELO",
        b"MAIL": "smtp_MAIL",
        b"RCPT": "smtp_RCPT",
        b"DATA": "smtp_DATA",
        b"RSET": "smtp_RSET",
        b"NOOP": "smtp_NOOP",
        b"VRFY": "smtp_VRFY",
        b"HELP": "smtp_HELP",
        b"QUIT": "smtp_QUIT",
    }

    def __init__(self, house: House) -> None:
        self.loop = loop = house.loop
        reader = asyncio.StreamReader(limit=CHUNK, loop=loop)
        asyncio.StreamReaderProtocol.__init__(self, reader, client_connected_cb=self._cb_client_connected, loop=loop)
        # What the methods that we keep look at
        self.session = None
        self.envelope = None
        self.transport: asyncio.Transport | None = None
        self._handle_hooks = {}
        self._handler_coroutine = None
        self._original_transport = None
        self._timeout_handle: asyncio.TimerHandle | None = None
        # Ours
        self.house = house
        self.busy = False  # there is a transaction, or a command at work
        self._deadline = 0.0
        self._input = b""
        self._at = 0  # of `_input`, as much is done
        self._skipping = False  # the rest of a line that is too long
        self._output: list[bytes] = []
        self._slots: deque[_Slot] = deque()
        self._flush_due = False
        self._asking: set[asyncio.Task[None]] = set()
        self._over = False  # nothing more is read
        self._shut = False  # nothing more is said
        self._gone = False  # nothing more will come
        self._errors = 0
        self._helo = b""
        self._extended = False
        self._transaction: Transaction | None = None

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self.house.enter(self):
            super().connection_made(transport)
            return
        self.transport = cast("asyncio.Transport", transport)
        self._output.append(SHUTTING_DOWN if self.house.draining else HOUSE_FULL)
        self._hang_up(linger=self.house.turn_away(self))

    def connection_lost(self, error: Exception | None) -> None:
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()
        asyncio.StreamReaderProtocol.connection_lost(self, error)
        self.transport = None
        self._over = True
        handler = self._handler_coroutine
        if handler is None or handler.done():
            self._leave()
        else:  # a next hop may still be about to say what became of the message
            handler.add_done_callback(lambda _: self._leave())

    def _leave(self) -> None:
        """It is over, and lets go of what holds it: a session in a cycle would wait for the garbage collector, which
        comes seldom."""
        self.house.leave(self)
        self._handler_coroutine = self._timeout_handle = None
        self._reader = self._writer = self._client_connected_cb = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if not self._shut:
            super().data_received(data)

    def eof_received(self) -> bool | None:
        """The submitter has said all, and may still listen while there is something to say."""
        self._gone = True
        return asyncio.StreamReaderProtocol.eof_received(self) and not self._shut

    def _reset_timeout(self, duration: float | None = None) -> None:
        self._deadline = self.loop.time() + (duration or IDLE)
        if self._timeout_handle is None:
            self._timeout_handle = self.loop.call_later(IDLE, self._timeout_cb)

    def _timeout_cb(self) -> None:
        left = self._deadline - self.loop.time()
        if left > 0:
            self._timeout_handle = self.loop.call_later(min(left, IDLE), self._timeout_cb)
        elif self.transport is not None:
            self.transport.abort()

    # Reading

    async def _handle_client(self) -> None:
        try:
            self._output.append(b"220 %s %s\r\n" % (self.house.hostname, self.greeting))
            while not self._over:
                line = self._line()
                if line is not None:
                    await self._command(line)
                elif not await self._more():
                    break
        except OSError:
            pass  # the submitter has gone
        except Exception as bug:  # ends this session, not the others
            self.house.relay.write(internal_error(bug))
        finally:
            self._drop_transaction()
            self._hang_up(linger=self._over)

    def _line(self) -> bytes | None:
        """The next command, without its line end; None: there is none yet."""
        end = self._input.find(b"\n", self._at)
        if end < 0:
            if len(self._input) - self._at > MAX_COMMAND:
                self._skipping, self._at = True, len(self._input)
            return None
        line, self._at = self._input[self._at : end + 1], end + 1
        if self._skipping or len(line) > MAX_COMMAND:
            self._skipping = False
            self._err(_TOO_LONG)
            return None if self._over else self._line()
        return line

    async def _more(self) -> bool:
        """Say what is due, and wait for more of the submitter's words. False: there will be none."""
        if self._over:
            return False
        if self.house.draining and self._transaction is None:
            self._output.append(SHUTTING_DOWN)
            self._over = True
            return False
        data = await self._read()
        self._input, self._at = (self._input[self._at :] + data, 0)
        return bool(data)

    async def _read(self) -> bytes:
        self._flush()
        self._deadline = self.loop.time() + IDLE
        self.busy = self._transaction is not None
        await self._writer.drain()
        data = await self._reader.read(CHUNK)
        self._deadline = float("inf")
        self.busy = True
        return data

    async def _body(self) -> bytes:
        """The message's next octets: first those that came with DATA."""
        if self._at < len(self._input):
            data, self._input, self._at = self._input[self._at :], b"", 0
            return data
        try:
            return await self._read()
        except OSError:
            return b""

    # Answering

    def _say(self, reply: bytes) -> None:
        if self._slots:
            self._slots.append(_Slot(reply))
        else:
            self._output.append(reply)

    def _err(self, reply: bytes) -> None:
        """To what makes no sense; only so much of it is listened to."""
        self._errors += 1
        self._say(reply)
        if self._errors > MAX_ERRORS:
            self._say(_TOO_MANY_ERRORS)
            self._over = True

    def _slot(self) -> _Slot:
        slot = _Slot()
        self._slots.append(slot)
        return slot

    def _fill(self, slot: _Slot, reply: Reply) -> None:
        """What is due by now goes out with whatever else this turn of the loop brings."""
        slot.reply = bytes(reply)
        slots = self._slots
        while slots and slots[0].reply:
            self._output.append(slots.popleft().reply)
        if self._output and not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        transport = self.transport
        if self._output and transport is not None and not self._shut and not transport.is_closing():
            transport.write(b"".join(self._output))
        self._output.clear()

    def _hang_up(self, *, linger: bool) -> None:
        """`linger`: the submitter may be in the middle of a word, and a closed socket would answer that with a reset,
        which can overtake ours."""
        self._flush()
        transport = self.transport
        if transport is None or self._shut:
            return
        self._shut = True
        if linger and not self._gone and not transport.is_closing():
            transport.write_eof()
            self.loop.call_later(LINGER, transport.abort)
        else:
            transport.close()

    def dismiss(self) -> None:
        """The house closes: one that is idle is told so, the others when they are done."""
        if not self.busy and not self._over:
            self._over = True
            self._output.append(SHUTTING_DOWN)
            self._hang_up(linger=True)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    # Commands

    async def _command(self, line: bytes) -> None:
        if not line.endswith(b"\r\n"):
            self._say(_BARE_LF)
            self._over = True
            return
        word, _, argument = line[:-2].partition(b" ")
        verb = word.upper()
        method = self.verbs.get(verb)
        if self._asking and verb != b"RCPT":
            await self._settled()
        if method is not None:
            await getattr(self, method)(argument)
        elif verb in _WEB or word.endswith(b":"):
            self._say(_NOT_SMTP)
            self._over = True
        else:
            self._err(_NOT_DONE if verb in _ELSEWHERE else _NO_COMMAND)

    async def _settled(self) -> None:
        """Every RCPT is answered."""
        self._flush()
        while self._asking:
            await asyncio.wait(self._asking)

    def _drop_transaction(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.abandon()

    def _greeted(self, name: bytes, *, extended: bool) -> bool:
        name = name.strip(b" ")
        if not name:
            self._err(_HELLO_SYNTAX)
            return False
        self._drop_transaction()
        self._helo, self._extended = name, extended
        return True

    async def smtp_HELO(self, hostname: Any) -> None:
        if self._greeted(hostname, extended=False):
            self._say(b"250 %s\r\n" % self.house.hostname)

    async def smtp_EHLO(self, hostname: Any) -> None:
        if self._greeted(hostname, extended=True):
            self._say(self.house.keywords)

    async def smtp_MAIL(self, arg: Any) -> None:
        if not self._helo:
            self._err(_HELLO_FIRST)
        elif self._transaction is not None:
            self._err(_NESTED)
        else:
            try:
                sender = parse_mail(arg, self.house.limit, extended=self._extended)
            except Refused as refused:
                self._err(bytes(refused.reply))
            else:
                self._errors = 0
                self._transaction = Transaction(self.house.relay, sender, many=self.many)
                self._say(_SENDER_OK)

    async def smtp_RCPT(self, arg: Any) -> None:
        transaction = self._transaction
        if transaction is None:
            self._err(_NEED_MAIL)
            return
        try:
            recipient = parse_rcpt(arg, extended=self._extended, utf8=transaction.sender.smtputf8)
        except Refused as refused:
            self._err(bytes(refused.reply))
            return
        await self._ask(transaction, recipient)

    async def _ask(self, transaction: Transaction, recipient: Recipient) -> None:
        lane = transaction.enlist(recipient)
        if isinstance(lane, Reply):
            self._say(bytes(lane))
        else:
            self._say(bytes(await transaction.ask(lane, recipient)))

    async def smtp_DATA(self, arg: Any) -> None:
        transaction = self._transaction
        if arg.strip(b" "):
            self._err(_NO_ARGUMENT)
        elif transaction is None:
            self._err(_NEED_MAIL)
        elif not transaction.accepted:
            self._err(_NEED_RCPT)
        else:
            refusal = await transaction.start()
            if refusal is None:
                self._say(_DATA)
                await self._message(transaction)
                return
            self._transaction = None
            self._say(bytes(refusal))
        # What came behind a DATA that is refused is a message that somebody sent unasked, not commands (RFC 2920 3.1)
        self._over = self._over or self._at < len(self._input)

    async def _message(self, transaction: Transaction) -> None:
        fault, rest = await transaction.stream(self._body, self._trace(transaction), self._line_ends(transaction))
        self._over = self._over or rest is None
        self._input, self._at = rest or b"", 0
        self._transaction = None
        slots = [self._slot() for _ in range(transaction.accepted if self.many else 1)]

        def answer(place: int, reply: Reply) -> None:
            if place < len(slots):  # at the SMTP door one answers for all: they have one next hop
                self._fill(slots[place], reply if fault is None else fault.reply)

        await transaction.finish(answer)

    def _trace(self, transaction: Transaction) -> bytes:
        relay = self.house.relay
        assert self.session is not None  # noqa: S101 - made with the connection
        protocol = self.protocol if self._extended else "SMTP"
        if transaction.sender.smtputf8:
            protocol = "UTF8LMTP" if self.many else "UTF8SMTP"
        peer = endpoint(cast("tuple[str, int]", self.session.peer)).address
        hostname = transaction.settings.hostname
        return received(peer, self._helo, hostname, protocol, transaction.session, relay.wall())

    def _line_ends(self, transaction: Transaction) -> BareNewline:
        return transaction.settings.outbound.submission.bare_newline or self.bare_newline

    async def smtp_RSET(self, arg: Any) -> None:
        if arg.strip(b" "):
            self._err(_NO_ARGUMENT)
            return
        self._drop_transaction()
        self._say(_OK)

    async def smtp_NOOP(self, arg: Any) -> None:
        self._say(_OK)

    async def smtp_VRFY(self, arg: Any) -> None:
        self._say(_VRFY)

    async def smtp_HELP(self, arg: Any) -> None:
        self._say(_HELP)

    async def smtp_QUIT(self, arg: Any) -> None:
        self._say(b"221 2.0.0 %s closing connection\r\n" % self.house.hostname)
        self._over = True
        self._hang_up(linger=False)


class LMTPDoor(Door, LMTP):
    """One session at the LMTP door (RFC 2033)."""

    many = True
    protocol = "LMTP"
    greeting = b"LMTP"
    bare_newline = BareNewline.NORMALIZE
    verbs: ClassVar[dict[bytes, str]] = {b"LHLO": "smtp_LHLO"} | {
        verb: method for verb, method in Door.verbs.items() if verb not in (b"EHLO", b"HELO")
    }

    async def smtp_LHLO(self, arg: Any) -> None:
        await self.smtp_EHLO(arg)

    async def _ask(self, transaction: Transaction, recipient: Recipient) -> None:
        """Asked for now, answered in its turn: a dead destination does not hold up the others."""
        if len(self._slots) >= MAX_SLOTS:
            await self._settled()
        lane = transaction.enlist(recipient)
        if isinstance(lane, Reply):
            self._say(bytes(lane))
            return
        task = self.loop.create_task(self._asked(transaction, lane, recipient, self._slot()))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _asked(self, transaction: Transaction, lane: Lane, recipient: Recipient, slot: _Slot) -> None:
        self._fill(slot, await transaction.ask(lane, recipient))
