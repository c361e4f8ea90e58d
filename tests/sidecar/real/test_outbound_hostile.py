"""Next hops and a resolver that mean harm, before a real sidecar: what the submitter hears is clean, what the log says
is one line, memory and time are bounded, and an honest destination gets its mail as before."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import dns.name
import dns.rdatatype
import pytest
from cryptography import x509

from certificates import issue
from lab import keyupdate
from lab.adversaries import DOORS, HONEST, MIB, OFFERS, OWNER, SAID, Arena, message, next_hop, secured, served, then
from lab.destinations import Behaviour, Identity
from lab.laboratory import Lab
from lab.signing import Signatures
from lab.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dns.message import Message

    from certificates import Certified
    from lab.adversaries import Script, Words
    from lab.conversation import Reply

pytestmark = pytest.mark.real

GROWTH = 8.0  # MiB that all of this together may take for a moment; 4 were measured
SOON = 15.0  # seconds: half of what the least patient phase waits for, and a loaded machine's room
PATIENCE = 30.0  # `budget.GREETING` and `budget.TLS`


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with Lab() as lab, Arena(lab) as made:
        yield made


@pytest.fixture(autouse=True)
def unharmed(arena: Arena) -> Iterator[None]:
    """Behind each of these tests."""
    yield
    arena.deliver_honestly()
    assert arena.grown < GROWTH, f"{arena.grown:.1f} MiB"
    for line in arena.sidecar.log.lines:
        assert re.fullmatch(r"[ -~]+", line), line
        assert "internal_error" not in line


def refused(arena: Arena, domain: str, *, code: str = "451 4.4.2", at: int = 1) -> Reply:
    """The submitter is told so soon, at RCPT (1), DATA (2) or the end (3)."""
    began = time.monotonic()
    replies = arena.submit(domain)
    assert time.monotonic() - began < SOON
    assert len(replies) == at, replies
    assert f"{replies[-1].code} {replies[-1].text}".startswith(code), replies
    return replies[-1]


# Without an end


def endless(data: bytes) -> Callable[[socket.socket], None]:
    def flood(sock: socket.socket) -> None:
        while True:
            sock.sendall(data)

    return flood


FLOODS: dict[str, tuple[dict[str, Words], int]] = {
    "a banner of endless lines": ({"banner": endless(b"220-" + b"x" * 70 + b"\r\n")}, 1),
    "a banner without a line end": ({"banner": endless(b"x" * 65536)}, 1),
    "a banner that begins well, without a line end": ({"banner": endless(b"220 " * 16384)}, 1),
    "a banner of NUL": ({"banner": endless(bytes(65536))}, 1),
    "EHLO with 100,000 lines": ({"EHLO": b"250-X\r\n" * 100_000 + b"250 Y\r\n"}, 1),
    "EHLO with a line of 1 MiB": ({"EHLO": b"250 " + b"x" * MIB + b"\r\n"}, 1),
    "MAIL with a line of 1 MiB": ({"MAIL": b"250 " + b"x" * MIB + b"\r\n"}, 1),
    "RCPT with a line of 1 MiB": ({"RCPT": b"550 " + b"x" * MIB + b"\r\n"}, 1),
    "RCPT with endless lines": ({"RCPT": endless(b"250-x\r\n")}, 1),
    "DATA with a line of 1 MiB": ({"DATA": b"354 " + b"x" * MIB + b"\r\n"}, 2),
    "the final answer in 100,000 lines": ({"dot": b"250-x\r\n" * 100_000 + b"250 x\r\n"}, 3),
    "the final answer without a line end": ({"dot": endless(b"250 taken ")}, 3),
    "the final answer is none": ({"dot": endless(b"\r\n")}, 3),
}


@pytest.mark.parametrize(("said", "at"), FLOODS.values(), ids=FLOODS)
def test_floods(arena: Arena, said: dict[str, Words], at: int) -> None:
    place = arena.place(next_hop(**said))
    answer = refused(arena, place.domain, at=at)
    assert ("may have been delivered" in answer.text) == (at == 3)
    assert "R=bad_reply" in arena.line(place.domain)


def test_a_hundred_thousand_banners(arena: Arena) -> None:
    """The second one is no answer to EHLO, if that was said before they became too many."""
    place = arena.place(next_hop(banner=b"220 mx\r\n" * 100_000))
    refused(arena, place.domain, code="451 4.")
    assert re.search(r" R=(bad_reply|ehlo_refused) ", arena.line(place.domain))


def test_what_floods_an_idle_connection_loses_it(arena: Arena) -> None:
    """And whoever wanted it gets another one."""
    gone = threading.Event()

    def flood(sock: socket.socket) -> None:
        sock.sendall(SAID["dot"])
        endless(b"250 and another one\r\n" * 1000)(sock)

    def script(sock: socket.socket) -> None:
        try:
            next_hop(dot=flood)(sock)
        finally:
            gone.set()

    place = arena.place(script)
    for number in (1, 2):
        assert arena.submit(place.domain)[-1].code == 250
        assert gone.wait(SOON)
        gone.clear()
        assert place.adversary.met == number


def drip(sock: socket.socket) -> None:
    """A line that would take an hour, an octet a second."""
    pause = threading.Event()
    for octet in itertools.chain(b"220 mx", itertools.repeat(0x78)):
        sock.sendall(bytes([octet]))
        pause.wait(1)


def drip_records(sock: socket.socket) -> None:
    """A TLS record that is long enough."""
    sock.sendall(b"220 go\r\n")
    pause = threading.Event()
    for octet in itertools.chain(b"\x16\x03\x03\x3f\xff", itertools.repeat(2)):
        pause.wait(1)
        sock.sendall(bytes([octet]))


def drip_lines(sock: socket.socket) -> None:
    pause = threading.Event()
    while True:
        sock.sendall(b"250-mx\r\n")
        pause.wait(1)


DRIPS: dict[str, dict[str, Words]] = {
    "banner": {"banner": drip},
    "EHLO": {"EHLO": drip_lines},
    "TLS": {"EHLO": b"250-mx\r\n250 STARTTLS\r\n", "STAR": drip_records},
}
REASONS = {"banner": "reply_timeout", "EHLO": "reply_timeout", "TLS": "tls_timeout"}


# What they say


NASTY = bytes(octet for octet in range(256) if octet not in b"\r\n")
FACES: dict[str, tuple[dict[str, Words], int, str]] = {
    "banner": ({"banner": b"554 " + NASTY + b"\r\n"}, 1, "554"),
    "EHLO": ({"EHLO": b"550 " + NASTY + b"\r\n"}, 1, "550"),
    "MAIL": ({"MAIL": b"550 5.7.1 " + NASTY + b"\r\n"}, 1, "550"),
    "RCPT": ({"RCPT": b"550-5.1.1 " + NASTY + b"\r\n550 5.1.1 " + NASTY + b"\r\n"}, 1, "550"),
    "RCPT taken": ({"RCPT": b"250 2.1.5 " + NASTY + b"\r\n"}, 3, "250"),
    "DATA": ({"DATA": b"451 4.3.0 \x1b]0;pwned\x07\x1b[2J" + NASTY + b"\r\n"}, 2, "451"),
    "the end": ({"dot": b"554 5.7.1 " + NASTY + b"\r\n"}, 3, "554"),
    "the end, taken": ({"dot": b"250 2.0.0 " + NASTY + b"\r\n"}, 3, "250"),
    "EHLO's keywords": ({"EHLO": b"250-mx\r\n250-" + NASTY + b"\r\n250 SIZE " + NASTY + b"\r\n"}, 3, "250"),
}


@pytest.mark.parametrize(("said", "at", "code"), FACES.values(), ids=FACES)
def test_control_octets_reach_nobody(arena: Arena, said: dict[str, Words], at: int, code: str) -> None:
    place = arena.place(next_hop(**said))
    with arena.talk() as client:
        client.send(f"MAIL FROM:<app@example.net>\r\nRCPT TO:<u@{place.domain}>\r\n")
        heard = [client.line(), client.line()]
        if at > 1:
            client.send("DATA\r\n")
            heard.append(client.line())
        if at > 2:
            client.send("Subject: x\r\n\r\nx\r\n.\r\n")
            heard.append(client.line())
        client.send("QUIT\r\n")
        heard += client.rest().decode("ascii").splitlines()
    assert all(re.fullmatch(r"[ -~]{1,510}", line) for line in heard), heard
    assert heard[-1].startswith("221 ")
    assert heard[-2].startswith(code)
    arena.line(place.domain)  # `unharmed` reads every line of the log


@pytest.mark.parametrize(
    ("said", "detail"),
    [
        (b"550 5.1.1 no\r250 2.1.5 yes\r\n", "not an SMTP reply"),
        (b"550 5.1.1 no\r\r\n", "not an SMTP reply"),
        (b"250-2.1.5 yes\r\n550 no\r\n", "the lines of one reply have different codes"),
        (b"550-5.1.1 no\r\nSubject: x\r\n550 no\r\n", "not an SMTP reply"),
        (b"\x1b[2J550 no\r\n", "not an SMTP reply"),
        ("\u0665\u0665\u0660 no\r\n".encode(), "not an SMTP reply"),
        (b"0x1 no\r\n", "not an SMTP reply"),
    ],
)
def test_line_ends_cannot_be_smuggled_into_an_answer(arena: Arena, said: bytes, detail: str) -> None:
    place = arena.place(next_hop(RCPT=said))
    refused(arena, place.domain)
    assert f'detail="{detail}; ' in arena.line(place.domain)


def test_what_stands_behind_a_line_feed_is_another_answer(arena: Arena) -> None:
    """Of a refusal with a 250 behind it the submitter hears the refusal, and nobody uses that connection again."""
    place = arena.place(next_hop(RCPT=b"550 5.1.1 no\n250 2.1.5 yes\r\n"))
    for number in (1, 2):
        refused(arena, place.domain, code="550 5.1.1 no")
        assert place.adversary.met == number


# Answers that nobody asked for

AHEAD: dict[str, tuple[dict[str, Words], int, str]] = {
    "the whole conversation in the banner": (
        {"banner": b"220 mx\r\n250 mx\r\n250 ok\r\n250 ok\r\n354 go\r\n250 2.0.0 taken\r\n"},
        3,
        "451 4.5.0",
    ),
    "250 with 354": ({"DATA": lambda sock: sock.sendall(b"354 go\r\n250 2.0.0 taken\r\n")}, 3, "451 4.5.0"),
    "354 twice": ({"DATA": lambda sock: sock.sendall(b"354 go\r\n354 go\r\n")}, 3, "451 4.5.0"),
    "354 to RCPT": ({"RCPT": b"354 go\r\n"}, 1, "451 4.5.0"),
    "354 behind RCPT's": ({"RCPT": b"250 ok\r\n354 go\r\n"}, 3, "451 4.5.0"),
    "250 to DATA": ({"DATA": b"250 ok\r\n"}, 2, "451 4.5.0"),
    "354 to the final dot": ({"dot": b"354 go\r\n"}, 3, "451 4.5.0"),
    "a refusal instead of 354, then 354": ({"DATA": b"554 5.7.1 no\r\n354 go\r\n"}, 2, "554 5.7.1 no"),
    "552 in the middle": ({"DATA": lambda sock: sock.sendall(b"354 go\r\n552 5.3.4 no\r\n")}, 3, "552 5.3.4 no"),
    "421 and gone": ({"DATA": b"421 4.3.2 bye\r\n"}, 2, "451 4.3.2 bye"),
}


@pytest.mark.parametrize(("said", "at", "code"), AHEAD.values(), ids=AHEAD)
def test_an_answer_before_its_time_is_not_believed(arena: Arena, said: dict[str, Words], at: int, code: str) -> None:
    place = arena.place(next_hop(**said))
    with arena.talk() as client:
        client.command("MAIL FROM:<app@example.net>", 250)
        client.send(f"RCPT TO:<u@{place.domain}>\r\n")
        replies = [client.reply()]
        if at > 1:
            client.send("DATA\r\n")
            replies.append(client.reply())
        if at > 2:
            client.send("x" * 70 + "\r\n")
            arena.deliver_honestly()  # by now what came too soon has come
            client.send(".\r\n")
            replies.append(client.reply())
    assert [reply.code for reply in replies[:-1]] == [250, 354][: at - 1]
    assert f"{replies[-1].code} {replies[-1].text}".startswith(code), replies


def sent_until_held_back(sock: socket.socket) -> int:
    """Octets of a message of 50 MiB, up to where nobody takes more for as long as the socket's time limit."""
    piece = (b"x" * 70 + b"\r\n") * 1000
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 50 * MIB:
            sent += sock.send(piece)
    return sent


def test_the_end_of_half_a_message_never_goes_out(arena: Arena) -> None:
    """A next hop stops reading in the middle of 50 MiB: the submitter is held back, and what is held is little."""
    lengths: list[int] = []
    tails: list[bytes] = []
    stopped, go_on, over = threading.Event(), threading.Event(), threading.Event()

    def stop(sock: socket.socket) -> None:
        sock.sendall(b"354 go\r\n")
        sock.recv(100_000)
        stopped.set()
        go_on.wait(SOON)
        try:
            while data := sock.recv(MIB):
                lengths.append(len(data))
                tails[:] = [data[-100:]]
        finally:
            over.set()

    place = arena.place(next_hop(DATA=stop))
    with arena.talk(timeout=1) as client:
        client.command("MAIL FROM:<app@example.net>", 250)
        client.command(f"RCPT TO:<u@{place.domain}>", 250)
        client.command("DATA", 354)
        sent = sent_until_held_back(client.sock)
        print(sent / MIB, arena.grown)
        assert stopped.is_set()
        assert sent < 32 * MIB  # the kernel's buffers of two connections; 5 were measured
        assert arena.grown < GROWTH
        arena.deliver_honestly()
    go_on.set()
    assert over.wait(SOON)
    assert sum(lengths) > 0
    assert b"\r\n.\r\n" not in tails[0]
    assert "R=client_gone" in arena.line(place.domain)


# TLS


MISMATCH = f"3 1 1 {bytes(32).hex()}"


@pytest.mark.parametrize(
    "deed",
    [
        lambda sock: sock.sendall(b"\x16\x03\x03\x40\x00" + b"\x02" * 16384),
        lambda sock: sock.sendall(b"\xff" * MIB),
        lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        lambda sock: sock.sendall(b"\x15\x03\x01\x00\x02\x01\x5a" * 100_000),  # warnings
        lambda sock: sock.sendall(b"\x16\x03\x03\x00\x00" * 200_000),  # empty records
        lambda sock: sock.sendall(b"\x16\x03\x03\x00\x04\x0b\xff\xff\xff" + b"\x16\x03\x03\x3f\xff" + bytes(16383)),
        endless(b"\x14\x03\x03\x00\x01\x01"),
        lambda sock: sock.shutdown(socket.SHUT_WR),
    ],
    ids=["twos", "ones", "http", "warnings", "empty", "a huge message", "change_cipher_spec", "nothing"],
)
def test_tls_that_is_none(arena: Arena, deed: Script) -> None:
    def heard(sock: socket.socket) -> None:
        sock.recv(4096)  # a ClientHello
        deed(sock)
        sock.recv(4096)

    place = arena.place(next_hop(EHLO=OFFERS, STAR=then(heard)), dane=MISMATCH)
    refused(arena, place.domain, code="451 4.7.5")
    assert "R=tls_failed" in arena.line(place.domain)


def test_a_certificate_of_one_mebibyte(arena: Arena, tmp_path: Path) -> None:
    """It is what DNS says, and yet too much."""
    extra = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(MIB))
    leaf = issue("mx.example.org", extensions=[(extra, False)])
    script = next_hop(EHLO=OFFERS, STAR=secured(served(tmp_path, leaf)))
    place = arena.place(script, dane=f"3 1 0 {leaf.spki.hex()}")
    refused(arena, place.domain, code="451 4.7.5")
    assert "excessive message size" in arena.line(place.domain)


def chain_of(length: int) -> list[Certified]:
    """Leaf first."""
    made = [issue("CA 0", ca=True)]
    made += [issue(f"CA {number}", by=made[0], ca=True) for number in range(1, length - 1)]
    for number in range(1, length - 1):
        made[number] = issue(f"CA {number}", by=made[number - 1], ca=True)
    return [issue("leaf", by=made[-1], dns=["mx.example.org"]), *reversed(made)]


def test_a_chain_of_a_hundred_certificates(arena: Arena, tmp_path: Path) -> None:
    """Whether it leads to the trust anchor at its end is looked at so far, and no farther."""
    chain = chain_of(100)
    script = next_hop(EHLO=OFFERS, STAR=secured(served(tmp_path, *chain)))
    place = arena.place(script, dane=f"2 1 0 {chain[-1].spki.hex()}")
    refused(arena, place.domain, code="451 4.7.5")
    assert "R=certificate_chain" in arena.line(place.domain)


def test_a_hundred_authorities_of_one_name(arena: Arena, tmp_path: Path) -> None:
    """Each may be the issuer of each."""
    anchor = issue("anchor", ca=True)
    others = [issue("CA", by=issue("CA", ca=True), ca=True, serial=number) for number in range(1, 98)]
    leaf = issue("leaf", by=others[0], dns=["mx.example.org"])
    script = next_hop(EHLO=OFFERS, STAR=secured(served(tmp_path, leaf, *others)))
    place = arena.place(script, dane=f"2 1 0 {anchor.spki.hex()}")
    refused(arena, place.domain, code="451 4.7.5")
    assert " CV=" not in arena.line(place.domain)


def test_key_updates_without_end(arena: Arena, tmp_path: Path) -> None:
    """Each wants an answer, and nobody reads these."""
    leaf = issue("mx.example.org", dns=["mx.example.org"])
    file = tmp_path / "chain.pem"
    file.write_bytes(leaf.pem + leaf.key_pem)
    sent: list[int] = []

    def flood(sock: socket.socket) -> None:
        sent.append(keyupdate.flood(sock, file, most=100_000))

    place = arena.place(next_hop(EHLO=OFFERS, STAR=then(flood)), dane=f"3 1 0 {leaf.spki.hex()}")
    refused(arena, place.domain, code="451 4.4.2")
    assert "it asks for TLS messages without end" in arena.line(place.domain)


# DNS


def wire(name: str) -> bytes:
    return dns.name.from_text(name).to_wire() or b""


def many(kind: str, number: int, data: Callable[[int], bytes]) -> Callable[[Message], bytes]:
    code = int(dns.rdatatype.from_text(kind))
    return lambda query: message(query, [(OWNER, code, data(n)) for n in range(number)])


def tlsa(number: int) -> bytes:
    return b"\x03\x01\x01" + number.to_bytes(32)


def mx(number: int) -> bytes:
    return struct.pack("!H", number) + b"\x04%04x" % number + OWNER


TLSA, MX, CNAME, A = (int(dns.rdatatype.from_text(kind)) for kind in ("TLSA", "MX", "CNAME", "A"))


def aliases(kind: int, number: int) -> Callable[[Message], bytes]:
    """From the question's name on, one alias to the next, and at the end what was asked for."""

    def answer(query: Message) -> bytes:
        names = [OWNER, *(wire(f"c{n}.example.") for n in range(number))]
        chain = [(names[n], CNAME, names[n + 1]) for n in range(number)]
        return message(query, [*chain, (names[-1], kind, tlsa(0) if kind == TLSA else mx(0))])

    return answer


BAD_TLSA: dict[str, Callable[[Message], bytes]] = {
    "as many as there is room for": many("TLSA", 1390, tlsa),
    "one too many": many("TLSA", 257, tlsa),
    "100,000": many("TLSA", 100_000, tlsa),  # more than its count can say, and more octets than its length can
    "cut": lambda query: message(query, [(OWNER, TLSA, tlsa(0))])[:-10],
    "a pointer behind the end": lambda query: message(query, [(b"\xc0\xff", TLSA, tlsa(0))]),
    "a pointer to itself": lambda query: message(query, [(b"\xc0\x2a", TLSA, tlsa(0))] * 9),
    "an alias of itself": lambda query: message(query, [(OWNER, CNAME, OWNER)]),
    "two aliases": lambda query: message(query, [(OWNER, CNAME, wire(f"c{n}.")) for n in range(2)]),
    "200 aliases": aliases(TLSA, 200),
    "17 aliases": aliases(TLSA, 17),
    "another name's": lambda query: message(query, [(wire("_25._tcp.other.example."), TLSA, tlsa(0))]),
}


@pytest.mark.parametrize("answer", BAD_TLSA.values(), ids=BAD_TLSA)
def test_tlsa_answers_that_are_none(arena: Arena, answer: Callable[[Message], bytes]) -> None:
    """The MX and its address are secure, so without an answer nothing is sent, and nobody is connected to."""
    place = arena.place(next_hop())
    arena.oracle.records[f"_25._tcp.mx.{place.domain}.", "TLSA"] = answer
    refused(arena, place.domain, code="451 4.7.5")
    assert place.adversary.met == 0
    assert "R=tlsa_failed" in arena.line(place.domain)


BAD_MX: dict[str, Callable[[Message], bytes]] = {
    "as many as there is room for": many("MX", 3440, mx),
    "one too many": many("MX", 257, mx),
    "10,000": many("MX", 10_000, mx),
    "an alias of itself": lambda query: message(query, [(OWNER, CNAME, OWNER)]),
    "200 aliases": aliases(MX, 200),
    "another name's": lambda query: message(query, [(wire("other.example."), MX, mx(0))]),
}


@pytest.mark.parametrize("answer", BAD_MX.values(), ids=BAD_MX)
def test_mx_answers_that_are_none(arena: Arena, answer: Callable[[Message], bytes]) -> None:
    place = arena.place(next_hop())
    arena.oracle.records[f"{place.domain}.", "MX"] = answer
    refused(arena, place.domain, code="451 4.4.3")
    assert place.adversary.met == 0
    assert "R=dns_failed" in arena.line(place.domain)


@pytest.mark.parametrize("preference", ["0", "{n}"], ids=["of one preference", "one behind the other"])
def test_two_hundred_hosts_that_are_all_dead(arena: Arena, preference: str) -> None:
    """Ten addresses are tried, and then no more."""
    domain = f"many-{len(preference)}.example"
    net = "203.0.113.{n}" if preference == "0" else "192.0.2.{n}"
    arena.oracle.records[f"{domain}.", "MX"] = [f"{preference.format(n=n)} m{n}.{domain}." for n in range(200)]
    for n in range(200):
        arena.oracle.records[f"m{n}.{domain}.", "A"] = [net.format(n=n + 1)]
    refused(arena, domain, code="451 4.4.1")
    arena.line(domain)
    attempts = arena.sidecar.log.matches(rf" attempt H=m\d+\.{re.escape(domain)} ")
    assert len(attempts) == 10


def test_a_host_with_two_hundred_dead_addresses(arena: Arena) -> None:
    place = arena.place(next_hop())
    host = f"mx.{place.domain}."
    arena.oracle.records[host, "A"] = [f"192.0.2.{n}" for n in range(1, 201)]
    refused(arena, place.domain, code="451 4.4.1")
    arena.line(place.domain)
    assert len(arena.sidecar.log.matches(rf" attempt H={re.escape(host[:-1])} ")) == 10


@pytest.mark.parametrize("number", [257, 1200])
def test_more_signed_records_than_anybody_needs_by_the_embedded_resolver(lab: Lab, number: int) -> None:
    """Real ones, validated by Unbound; the right one is among them."""
    leaf = issue("mx.secure.example", dns=["mx.secure.example"])
    world = World()
    world.zone("secure.example")
    world.zone("bogus.example", signatures=Signatures.WRONG)
    right = f"3 1 1 {hashlib.sha256(leaf.spki).hexdigest()}"
    wrong = [f"3 1 1 {n:064x}" for n in range(number - 1)]
    for name, records in (("few", [right]), ("many", [right, *wrong])):
        world.add(f"{name}.secure.example", "MX", f"10 mx.{name}.secure.example.")
        world.add(f"mx.{name}.secure.example", "A", HONEST)
        world.add(f"_25._tcp.mx.{name}.secure.example", "TLSA", *records)
    sink = lab.sink({(HONEST, 25): Behaviour(identity=Identity.of(leaf))})
    lab.nsd(world)
    test = world.embedded(secure="secure.example", bogus="bogus.example")
    sidecar = lab.sidecar({"outbound": {"dns": test}})
    sidecar.log.wait_for("self-test passed")
    with lab.pod.talk(("127.0.0.1", DOORS["lmtp"])) as client:
        client.expect(220)
        client.command("LHLO app.test", 250)
        client.command("MAIL FROM:<app@example.net>", 250)
        client.command("RCPT TO:<u@few.secure.example>", 250)
        assert client.command("RCPT TO:<u@many.secure.example>", 451).text.startswith("4.7.5 ")
        client.command("DATA", 354)
        client.command("Subject: x\r\n\r\nx\r\n.", 250)
    sidecar.log.wait_for(r" == u@many\.secure\.example .* R=tlsa_failed ")
    sidecar.log.wait_for(r" => u@few\.secure\.example .* CV=dane ")
    assert [message.rcpt for message in sink.messages()] == [["u@few.secure.example"]]


# Slow ones


LINE = b"x" * 70 + b"\r\n"
MESSAGE = 50 * MIB
SPEED = 5_000_000  # octets a second
MOST = 8.0  # MiB; 5.9 were measured


def timed(arena: Arena, domain: str) -> tuple[list[Reply], float]:
    began = time.monotonic()
    return arena.submit(domain), time.monotonic() - began


def slow_reader(directory: Path, leaf: Certified, taken: list[int]) -> Script:
    """Notes how many octets a message had."""

    def read(sock: socket.socket) -> None:
        sock.sendall(b"354 go\r\n")
        pause = threading.Event()
        began, size, tail = time.monotonic(), 0, b""
        while not tail.endswith(b"\r\n.\r\n"):
            data = sock.recv(65536)
            size += len(data)
            tail = (tail + data)[-5:]
            pause.wait(max(0, began + size / SPEED - time.monotonic()))
        taken.append(size)
        sock.sendall(b"250 2.0.0 taken\r\n")

    return next_hop(EHLO=OFFERS, STAR=secured(served(directory, leaf), next_hop(banner=b"", DATA=read)))


def test_slow_next_hops(lab: Lab, tmp_path: Path) -> None:
    """What drips has the time of one reply, in each phase. Meanwhile a large message to a server that reads slowly
    needs little memory."""
    leaf = issue("mx.example.org", dns=["mx.example.org"])
    taken: list[int] = []
    body = b"Subject: large\r\n\r\n" + LINE * ((MESSAGE - 1000) // len(LINE))
    with Arena(lab) as arena, ThreadPoolExecutor(len(DRIPS)) as pool:
        futures = {}
        for phase, said in DRIPS.items():
            place = arena.place(next_hop(**said), dane=MISMATCH if phase == "TLS" else "")
            futures[phase] = place.domain, pool.submit(timed, arena, place.domain)
        place = arena.place(slow_reader(tmp_path, leaf, taken), dane=f"3 1 0 {leaf.spki.hex()}")
        began = time.monotonic()
        assert [reply.code for reply in arena.submit(place.domain, body)] == [250, 354, 250]
        assert time.monotonic() - began > 0.9 * MESSAGE / SPEED
        assert taken[0] > len(body)
        assert " CV=dane " in arena.line(place.domain)
        assert arena.grown < MOST, f"{arena.grown:.1f} MiB"
        for phase, (domain, future) in futures.items():
            replies, seconds = future.result(PATIENCE + SOON)
            assert PATIENCE - 1 < seconds < PATIENCE + SOON
            assert [reply.code for reply in replies] == [451]
            assert f"R={REASONS[phase]}" in arena.line(domain)
        arena.deliver_honestly()
