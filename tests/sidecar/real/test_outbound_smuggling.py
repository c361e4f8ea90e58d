"""End-of-data smuggling through the relay (CVE-2023-51764 and its like): whatever a submitter writes, a next hop takes
exactly one message for each 250 that the submitter got, and no command out of a message.

The next hops are real mail servers, the strict and the lenient ones, and one of the tests' own that ends a message
wherever any server has ever done so.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import pytest

from lab.adversaries import HONEST, Adversary, Arena
from lab.laboratory import Lab
from lab.servers import postfix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.conversation import Conversation
    from lab.host import Address
    from lab.mailserver import MailServer

pytestmark = pytest.mark.real

MODES = ("Reject", "Normalize")
DOMAIN = "example.org"  # which the laboratory's mail servers serve
PORT = 2525
LENIENT = ("203.0.113.26", 2626)  # on a port of its own: servers have started when somebody listens on theirs
SMUGGLED = [
    b"MAIL FROM:<evil@example.net>",
    b"RCPT TO:<box@example.org>",
    b"DATA",
    b"Subject: smuggled",
    b"",
    b"Boo.",
]
ENDS = (b"\r\n", b"\n", b"\r")
DOTS: dict[str, bytes] = {  # what might pass for CRLF.CRLF
    **{f"{a!r}.{b!r}": a + b"." + b for a, b in product(ENDS, ENDS) if (a, b) != (b"\r\n", b"\r\n")},
    "dot stuffed": b"\r\n..\r\n",
    "LF, dot stuffed": b"\n..\r\n",
    "CR CR LF": b"\r\r\n.\r\r\n",
    "CR CR LF before": b"\r\r\n.\r",
    "CR LF CR": b"\r\n\r.\r\n",
    "LF CR": b"\n\r.\n\r",
    "LF CR LF": b"\n\r\n.\n\r\n",
    "NUL behind": b"\r\n.\0\r\n",
    "NUL before": b"\r\n\0.\r\n",
    "NUL in CRLF": b"\r\0\n.\r\0\n",
    "NUL for LF": b"\r\0.\r\n",
    "space behind": b"\r\n. \r\n",
    "space before": b"\r\n .\r\n",
    "tab": b"\r\n.\t\r\n",
    "VT": b"\x0b.\x0b",
    "FF": b"\r\n.\x0c\r\n",
    "NEL": b"\x85.\x85",
    "NEL in UTF-8": b"\xc2\x85.\xc2\x85",
    "line separator": b"\xe2\x80\xa8.\xe2\x80\xa8",
    "high bits": b"\x8d\x8a.\x8d\x8a",
    "two dots, LF": b"\r\n..\n",
    "dot and CR at once": b"\r\n.\r\r\n",
    "dot CR text": b"\r\n.\rMAIL FROM:<evil@example.net>\r\n",
    "dot LF dot": b"\r\n.\n.\r\n",
    "many": b"\n.\n\r.\r\r\n.\n\n.\r\n",
}


@dataclass(frozen=True)
class Case:
    name: str
    end: bytes  # what the smuggler hopes is an end
    line_end: bytes = b"\r\n"  # of the commands behind it
    extra: bytes = b""  # behind the true end, in the same write

    @property
    def body(self) -> bytes:
        """Up to and with the true end."""
        behind = b"".join(line + self.line_end for line in SMUGGLED)
        return b"Subject: honest\r\n\r\nHello." + self.end + behind + b"\r\n.\r\n"


CORPUS = [
    *(Case(name, end) for name, end in DOTS.items()),
    Case("all with LF", b"\n.\n", b"\n"),
    Case("all with CR", b"\r.\r", b"\r"),
    Case("LF CRLF, LF", b"\n.\r\n", b"\n"),
    Case("BDAT", b"\r\nBDAT 5 LAST\r\nHello\r\n"),
    Case("pipelined NOOP", b"\r\n", extra=b"NOOP\r\n"),
    Case("CR at the end", b"\r\n\r"),
]


def submit(client: Conversation, pieces: list[bytes], extra: bytes = b"", *, domain: str = DOMAIN) -> int:
    """One message, each piece in a write of its own: the code of its answer, exactly one."""
    client.send(f"MAIL FROM:<app@example.net>\r\nRCPT TO:<box@{domain}>\r\nDATA\r\n")
    for code in (250, 250, 354):
        client.expect(code)
    for piece in pieces[:-1]:
        client.send(piece)
    client.send(pieces[-1] + extra)
    code = client.reply().code
    if extra:
        client.expect(250)
    else:
        client.command("NOOP", 250)  # there was no second answer
    return code


# Real mail servers


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with Lab() as lab, Arena(lab) as made:
        yield made


def configure(arena: Arena, mode: str, to: Address) -> None:
    """The domain's mail goes there, at both doors of this mode."""
    route = {"domains": [DOMAIN], "via": f"{to[0]}:{to[1]}"}
    arena.reload(submission={"bareNewline": mode}, routes=[route])


def postfix_with(lab: Lab, address: str, **settings: str) -> MailServer:
    return lab.postfix(master=postfix.service(PORT, address, **settings), host="outside")


EXIM = f"daemon_smtp_ports = {PORT}\nsmtp_accept_queue_per_connection = 0\nlocal_interfaces = "
SERVERS: dict[str, Callable[[Lab, str], MailServer]] = {
    "postfix": postfix_with,
    "postfix, lenient": lambda lab, at: postfix_with(lab, at, smtpd_forbid_bare_newline="no"),
    "exim": lambda lab, at: lab.exim(main=f"{EXIM}{at}\n", host="outside"),
    "opensmtpd": lambda lab, at: lab.opensmtpd(listen=f"listen on {at} port {PORT}\n", port=PORT, host="outside"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("server", SERVERS)
def test_a_real_mail_server(arena: Arena, mode: str, server: str) -> None:
    address = f"203.0.113.{10 * MODES.index(mode) + [*SERVERS].index(server) + 1}"
    there = SERVERS[server](arena.lab, address)
    configure(arena, mode, (address, PORT))
    codes = {}
    for door in ("smtp", "lmtp"):
        with arena.talk(door) as client:
            for case in CORPUS:
                codes[door, case.name] = submit(client, [case.body], case.extra)
    taken = sum(code == 250 for code in codes.values())
    assert taken == len(codes) if mode == "Normalize" else 20 <= taken < len(codes), codes
    messages = there.received(taken)
    there.kill()
    assert len(messages) == taken
    assert {message["Subject"] for message in messages} == {"honest"}
    assert "evil@example.net" not in str(there.log)


# The sink, by DANE


@pytest.mark.parametrize("mode", MODES)
def test_the_sink_gets_each_message_once(arena: Arena, mode: str) -> None:
    arena.reload(submission={"bareNewline": mode})
    before = len(arena.sink.messages(to=HONEST))
    taken = 0
    for door in ("smtp", "lmtp"):
        with arena.talk(door) as client:
            taken += sum(submit(client, [case.body], case.extra, domain="honest.example") == 250 for case in CORPUS)
    messages = arena.sink.messages(to=HONEST)[before:]
    assert len(messages) == taken
    for message in messages:
        assert message.text.startswith("Received: ")
        assert message.mail == "FROM:<app@example.net>"
        assert "\r\nSubject: honest\r\n" in message.text
        assert not re.search(r"\r(?!\n)|(?<!\r)\n|\0", message.text)
    spoken = {command for visit in arena.sink.visits(to=HONEST) for command in visit.commands}
    assert not any("evil" in command for command in spoken)


# A mail server that is as lenient as all of them together

LINE_END = rb"(?:\r*\n|\r)"
END = re.compile(LINE_END + rb"\0*\.\0*" + LINE_END)


class Lenient:
    """What it took for messages and for commands, wherever it saw their ends."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.commands: list[bytes] = []

    def __call__(self, sock: socket.socket) -> None:
        sock.sendall(b"220 lenient\r\n")
        text, in_data = b"", False
        while data := sock.recv(65536):
            text += data
            while found := (END if in_data else re.compile(LINE_END)).search(text):
                unit, text = text[: found.start()], text[found.end() :]
                if in_data:
                    self.messages.append(unit)
                    in_data = False
                    sock.sendall(b"250 2.0.0 taken\r\n")
                elif unit:  # else it is the LF of a CR that was enough
                    self.commands.append(unit)
                    in_data = unit == b"DATA"
                    sock.sendall(b"354 go\r\n" if in_data else b"250 ok\r\n")


LEGAL = re.compile(rb"EHLO mail\.example\.org|MAIL FROM:<app@example\.net>|RCPT TO:<box@example\.org>|DATA|RSET|QUIT")


def ways(case: Case) -> Iterator[list[bytes]]:
    """In one write; an octet a write; and cut at each place in what might be an end."""
    body = case.body
    at = body.index(b"Hello.") + len(b"Hello.")
    yield [body]
    yield [body[i : i + 1] for i in range(len(body))]
    for cut in range(at, at + len(case.end) + 1):
        yield [body[:cut], body[cut:]]
    for cut in range(1, 5):
        yield [body[:-cut], body[-cut:]]


@pytest.fixture(scope="module")
def lenient(arena: Arena) -> Iterator[Lenient]:
    server = Lenient()
    adversary = Adversary(arena.lab, LENIENT, server)
    yield server
    adversary.close()


@pytest.mark.parametrize("door", ["smtp", "lmtp"])
@pytest.mark.parametrize("mode", MODES)
def test_the_most_lenient_server_of_all(arena: Arena, lenient: Lenient, mode: str, door: str) -> None:
    configure(arena, mode, LENIENT)
    lenient.messages.clear()
    lenient.commands.clear()
    taken = 0
    with arena.talk(door) as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for case in CORPUS:
            codes = {submit(client, pieces, case.extra) for pieces in ways(case)}
            assert len(codes) == 1, case.name  # however it was cut
            taken += codes == {250} and len([*ways(case)])
    assert len(lenient.messages) == taken
    assert [command for command in lenient.commands if not LEGAL.fullmatch(command)] == []
    assert all(b"\r\nSubject: honest\r\n" in message for message in lenient.messages)


@pytest.mark.parametrize("mode", MODES)
def test_a_second_message_behind_the_first_is_one(arena: Arena, lenient: Lenient, mode: str) -> None:
    """In the same write: two messages, two answers."""
    configure(arena, mode, LENIENT)
    lenient.messages.clear()
    start = f"MAIL FROM:<app@example.net>\r\nRCPT TO:<box@{DOMAIN}>\r\nDATA\r\n"
    with arena.talk() as client:
        client.send(start + "Subject: 1\r\n\r\n1\r\n.\r\n" + start + "Subject: 2\r\n\r\n2\r\n.\r\nQUIT\r\n")
        codes = [client.reply().code for _ in range(9)]
    assert codes == [250, 250, 354, 250, 250, 250, 354, 250, 221]
    assert [message.rpartition(b"\r\n")[2] for message in lenient.messages] == [b"1", b"2"]
