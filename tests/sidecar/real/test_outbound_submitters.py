"""Submitters who mean harm, or do harm, at both doors of a real sidecar: too many of them, commands and recipients
without end, answers that nobody reads, messages that are too big. Memory is bounded, and others are served."""

from __future__ import annotations

import contextlib
import resource
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest

from lab.adversaries import DOORS, MIB, Arena, next_hop
from lab.laboratory import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.conversation import Conversation

pytestmark = pytest.mark.real

GROWTH = 12.0  # MiB that all of this together may take for a moment; up to 6 were measured, as their order is
PATIENCE = 20.0  # seconds
SIZE = 1 * MIB  # limits.messageSize


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with Lab() as lab, Arena(lab, {"limits": {"messageSize": "1Mi"}}) as made:
        yield made


@pytest.fixture
def unharmed(arena: Arena) -> Iterator[Arena]:
    """Still, behind the test."""
    yield arena
    arena.deliver_honestly()
    until = time.monotonic() + PATIENCE
    while arena.sidecar.metric("postern_outbound_sessions"):  # they end when the sidecar has heard of their ends
        assert time.monotonic() < until, arena.sidecar.log
    assert arena.grown < GROWTH, f"{arena.grown:.1f} MiB"


@pytest.fixture
def own(lab: Lab) -> Iterator[Arena]:
    """For what needs more memory than the others may."""
    with Arena(lab) as made:
        yield made
        made.deliver_honestly()


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def reading(client: Conversation) -> tuple[threading.Thread, dict[str, int]]:
    """All that comes, counted by the first words, until the end."""
    counts: dict[str, int] = {}

    def read() -> None:
        while line := client.line():
            counts[line[:9]] = counts.get(line[:9], 0) + 1
            client.transcript.clear()

    thread = threading.Thread(target=read)
    thread.start()
    return thread, counts


# Many of them


@pytest.fixture
def room_for_many() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 8192), max(hard, 8192)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


LIMIT = 2000  # limits.connections, both doors together
PER_SESSION = 24 * 1024  # octets; 11,500 were measured


@pytest.mark.usefixtures("room_for_many")
def test_more_sessions_than_there_is_room_for(own: Arena) -> None:
    """They hear so, and those who were there before are served."""
    before = own.resident("VmRSS")

    def crowd() -> list[socket.socket]:
        return [socket.create_connection(("127.0.0.1", port)) for _ in range(LIMIT // 2) for port in DOORS.values()]

    with contextlib.ExitStack() as stack:
        first = own.lab.pod.call(crowd)
        for sock in first:
            stack.callback(sock.close)
            sock.settimeout(20)
            assert sock.recv(100).startswith(b"220 ")
        for door in DOORS.values():
            with own.lab.pod.talk(("127.0.0.1", door)) as late:
                assert late.rest() == b"421 4.3.2 Too many sessions, try again\r\n"
        second = own.lab.pod.call(crowd)  # as many again, who are turned away
        for sock in second:
            stack.callback(sock.close)
            sock.settimeout(20)
            assert sock.recv(100).startswith(b"421 ")
        for sock in first[:10]:
            sock.sendall(b"NOOP\r\n")
            assert sock.recv(100) == b"250 2.0.0 OK\r\n"
        assert own.sidecar.metric("postern_outbound_sessions") == LIMIT
        each = (own.resident() - before) / LIMIT
        assert each < PER_SESSION, each


def test_submitters_who_vanish_in_the_middle_of_a_message(unharmed: Arena, door: str) -> None:
    """Their next hops never get a final dot, and nothing is left of them."""
    ends: list[bytes] = []

    def keep(sock: socket.socket) -> None:
        sock.sendall(b"354 go\r\n")
        tail = b""
        try:
            while data := sock.recv(65536):
                tail = (tail + data)[-200:]
        finally:
            ends.append(tail)

    place = unharmed.place(next_hop(DATA=keep))
    for _ in range(100):
        with unharmed.talk(door) as client:
            client.send(f"MAIL FROM:<app@example.net>\r\nRCPT TO:<u@{place.domain}>\r\nDATA\r\n")
            for code in (250, 250, 354):
                client.expect(code)
            client.send("Subject: x\r\n\r\nx\r\n.\r")
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    unharmed.sidecar.log.wait_for(rf" == u@{place.domain} .* R=client_gone ", times=100)
    until = time.monotonic() + PATIENCE
    while len(ends) < place.adversary.met:
        assert time.monotonic() < until
    assert not any(b"\r\n.\r\n" in end for end in ends)


# Without an end


def test_a_command_without_a_line_end(unharmed: Arena, door: str) -> None:
    with unharmed.talk(door) as client:
        for _ in range(50):
            client.sock.sendall(b"x" * MIB)
        client.command("", 500)
        client.command("NOOP", 250)


def test_a_hundred_thousand_recipients(unharmed: Arena, door: str) -> None:
    """A thousand are passed on; each of the others gets an answer."""
    asked: list[int] = []

    def count(sock: socket.socket) -> None:
        asked.append(1)
        sock.sendall(b"250 ok\r\n")

    place = unharmed.place(next_hop(RCPT=count))
    with unharmed.talk(door) as client:
        thread, counts = reading(client)
        client.sock.sendall(b"MAIL FROM:<app@example.net>\r\n")
        for _ in range(100):
            client.sock.sendall(f"RCPT TO:<u@{place.domain}>\r\n".encode() * 1000)
        client.sock.sendall(b"QUIT\r\n")
        thread.join(60)
    assert counts == {"250 2.1.0": 1, "250 ok": 1000, "452 4.5.3": 99_000, "221 2.0.0": 1}
    assert len(asked) == 1000


def test_a_thousand_next_hops(unharmed: Arena) -> None:
    """At the LMTP door: a hundred are looked up."""
    unharmed.oracle.asked.clear()
    with unharmed.talk("lmtp") as client:
        thread, counts = reading(client)
        client.sock.sendall(b"MAIL FROM:<app@example.net>\r\n")
        client.sock.sendall(b"".join(b"RCPT TO:<u@x%d.example>\r\n" % number for number in range(1000)))
        client.sock.sendall(b"QUIT\r\n")
        thread.join(60)
    assert counts == {"250 2.1.0": 1, "550 5.4.4": 100, "452 4.5.3": 900, "221 2.0.0": 1}
    assert len({name for name, _ in unharmed.oracle.asked if name.startswith("x")}) == 100


FLOODS = {
    "RSET": (b"RSET\r\n", {"250 2.0.0": 1}, 100_000),
    "MAIL and RSET": (b"MAIL FROM:<app@example.net>\r\nRSET\r\n", {"250 2.1.0": 1, "250 2.0.0": 1}, 20_000),
    "a recipient and RSET": (
        b"MAIL FROM:<app@example.net>\r\nRCPT TO:<u@%s>\r\nRSET\r\n",
        {"250 2.1.0": 1, "250 ok": 1, "250 2.0.0": 1},
        500,
    ),
    "greetings": (b"NOOP\r\nHELP\r\n", {"250 2.0.0": 1, "214 2.0.0": 1}, 20_000),
}


@pytest.mark.parametrize(("commands", "answers", "times"), FLOODS.values(), ids=FLOODS)
def test_floods(unharmed: Arena, door: str, commands: bytes, answers: dict[str, int], times: int) -> None:
    place = unharmed.place(next_hop())
    commands = commands.replace(b"%s", place.domain.encode())
    with unharmed.talk(door) as client:
        thread, counts = reading(client)
        client.sock.sendall(commands * times)
        client.sock.sendall(b"QUIT\r\n")
        thread.join(60)
    assert counts == {**{code: times * number for code, number in answers.items()}, "221 2.0.0": 1}
    assert place.adversary.met < 50  # connections are used again: many a RSET is on its way at the same time


def test_nonsense_has_an_end(unharmed: Arena, door: str) -> None:
    with unharmed.talk(door) as client:
        with contextlib.suppress(ConnectionError):
            client.sock.sendall(b"NONSENSE\r\n" * 100_000)
        rest = client.rest()
    assert rest.splitlines()[-1] == b"554 5.5.1 Too many errors"
    assert rest.count(b"500 5.5.2") == 21


@pytest.mark.parametrize("commands", [b"NOOP\r\n", b"RCPT TO:<u@honest.example>\r\n"])
def test_who_reads_nothing_is_not_read(unharmed: Arena, door: str, commands: bytes) -> None:
    """Answers are kept only up to a bound, and then commands wait in the submitter's own buffers."""
    with unharmed.talk(door) as client:
        client.command("MAIL FROM:<app@example.net>", 250)
        client.sock.settimeout(1)
        sent = 0
        with contextlib.suppress(TimeoutError, ConnectionError):
            while sent < 64 * MIB:
                sent += client.sock.send(commands * 1000)
        assert sent < 32 * MIB
        unharmed.deliver_honestly()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# Too big


def test_a_message_that_says_it_is_too_big(unharmed: Arena, door: str) -> None:
    with unharmed.talk(door) as client:
        client.command(f"MAIL FROM:<app@example.net> SIZE={SIZE + 1}", 552)
        client.command(f"MAIL FROM:<app@example.net> SIZE={'9' * 20}", 552)
        client.command(f"MAIL FROM:<app@example.net> SIZE={SIZE}", 250)


LINE = b"x" * 70 + b"\r\n"


def oversized(client: Conversation, domain: str) -> None:
    client.command("MAIL FROM:<app@example.net>", 250)
    client.command(f"RCPT TO:<u@{domain}>", 250)
    client.command("DATA", 354)
    for _ in range(8):
        client.sock.sendall(LINE * (MIB // len(LINE)))


def test_a_message_that_is_too_big(unharmed: Arena, door: str) -> None:
    """Heard to its end, answered once; the next hop never sees its end."""
    place = unharmed.place(next_hop())
    with unharmed.talk(door) as client:
        oversized(client, place.domain)
        client.command(".", 552)
        client.command("NOOP", 250)
    assert "R=message_too_big" in unharmed.line(place.domain)


def test_a_message_without_an_end(unharmed: Arena, door: str) -> None:
    """Somewhere nobody listens any more."""
    place = unharmed.place(next_hop())
    with unharmed.talk(door) as client:
        oversized(client, place.domain)
        client.sock.settimeout(PATIENCE)
        with contextlib.suppress(ConnectionError):  # a reset may come before the answer
            for _ in range(100):
                client.sock.sendall(LINE * (MIB // len(LINE)))
            assert client.rest() == b"552 5.3.4 Message too big\r\n"
    assert "R=message_too_big" in unharmed.line(place.domain)


def test_a_message_octet_by_octet_holds_up_nobody(unharmed: Arena, door: str) -> None:
    place = unharmed.place(next_hop())
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(unharmed.talk(door)) for _ in range(20)]  # limits.perDestination
        for client in clients:
            client.command("MAIL FROM:<app@example.net>", 250)
            client.command(f"RCPT TO:<u@{place.domain}>", 250)
            client.command("DATA", 354)
        for octet in b"Subject: x\r\n\r\nx\r\n":
            for client in clients:
                client.send(bytes([octet]))
        unharmed.deliver_honestly()
        for client in clients:
            client.command(".", 250)
