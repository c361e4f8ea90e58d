"""A sidecar that relays, and peers who mean it harm: next hops and a name server whose octets a test writes itself.

    with Arena(lab) as arena:
        place = arena.place(script)                      # a domain whose only mail server runs this
        code, text = arena.submit(place.domain)[0]       # what the submitter heard
        arena.deliver_honestly()

A script is a function of a connected socket, in a thread of its own: it may flood, dribble and lie. Whatever it meets
when the sidecar hangs up is no error.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import signal
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from certificates import issue, pem_chain

from .destinations import Behaviour, Identity
from .servers.sidecar import STARTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from types import TracebackType

    from dns.message import Message

    from certificates import Certified

    from .conversation import Conversation, Reply
    from .destinations import Sink
    from .host import Address
    from .laboratory import Lab
    from .servers.sidecar import Sidecar

Script = Callable[[socket.socket], object]
Wire = Callable[["Message"], bytes]

RESOLVER = ("127.0.0.1", 53)
DOORS = {"smtp": 11025, "lmtp": 11024}
HONEST = "198.51.100.1"
OWNER = b"\xc0\x0c"  # the question's name, by reference
MIB = 1 << 20
BODY = "Subject: a test\r\n\r\nHello.\r\n"


class Adversary:
    """A next hop at an address; `met`: how many connections there were."""

    def __init__(self, lab: Lab, on: Address, script: Script) -> None:
        self.met = 0
        self._script = script
        self._listener = lab.outside.listen(on)
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.met += 1
                self._open.add(sock)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError, EOFError):
            self._script(sock)
        self._open.discard(sock)


Words = bytes | Callable[[socket.socket], object]
SAID: Mapping[str, bytes] = {
    "banner": b"220 mx ESMTP\r\n",
    "EHLO": b"250-mx\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
    "STAR": b"220 go\r\n",
    "DATA": b"354 go\r\n",
    "dot": b"250 2.0.0 taken\r\n",
    "QUIT": b"221 bye\r\n",
}


def next_hop(**said: Words) -> Script:
    """A mail server that says what it should, but for the octets given here, by verb (four letters), banner and dot;
    or what a function does with the connection."""

    def script(sock: socket.socket) -> None:
        def say(what: str) -> bytes:
            words = said.get(what, SAID.get(what, b"250 ok\r\n"))
            if callable(words):
                words(sock)
                return b""
            sock.sendall(words)
            return words

        with sock.makefile("rb") as stream:
            say("banner")
            while line := stream.readline(65536):
                verb = line[:4].strip().upper().decode("latin-1")
                words = say(verb)
                if verb == "QUIT":
                    return
                if verb == "DATA" and words.startswith(b"354"):
                    while (line := stream.readline(65536)) != b".\r\n":
                        if not line:
                            return
                    say("dot")

    return script


OFFERS = b"250-mx\r\n250 STARTTLS\r\n"


def then(deed: Script) -> Words:
    """The answer to STARTTLS, and what comes in the handshake's place."""

    def both(sock: socket.socket) -> None:
        sock.sendall(SAID["STAR"])
        deed(sock)
        raise EOFError

    return both


def served(directory: Path, *chain: Certified) -> ssl.SSLContext:
    """With this chain, leaf first."""
    file = directory / "chain.pem"
    file.write_bytes(pem_chain(*chain) + chain[0].key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def secured(context: ssl.SSLContext, script: Script | None = None) -> Words:
    """The answer to STARTTLS, the handshake, and a mail server within TLS that says what it should, or `script`."""

    def deed(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as inside:
            (script or next_hop(banner=b""))(inside)

    return then(deed)


class Oracle:
    """The pod's resolver, which says that it validates: what `records` has at a (name, type) is secure. A function
    there makes the whole message. What is not there is denied."""

    def __init__(self, lab: Lab) -> None:
        self.records: dict[tuple[str, str], Sequence[str] | Wire] = {}
        self.records["secure.test.", "SOA"] = ["a.test. b.test. 1 1 1 1 1"]
        self.asked: list[tuple[str, str]] = []
        self.ttl = 60
        self._datagrams = lab.pod.new_socket(RESOLVER[0], kind=socket.SOCK_DGRAM)
        self._datagrams.bind(RESOLVER)
        self._listener = lab.pod.listen(RESOLVER)
        threading.Thread(target=self._serve_udp, daemon=True).start()
        threading.Thread(target=self._serve_tcp, daemon=True).start()

    def close(self) -> None:
        for sock in (self._datagrams, self._listener):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                packet, peer = self._datagrams.recvfrom(65535)
                if not packet:
                    return
                wire = self._answer(packet)
                if len(wire) > 1232:
                    short = dns.message.make_response(dns.message.from_wire(packet))
                    short.flags |= dns.flags.TC | dns.flags.RA
                    wire = short.to_wire()
                self._datagrams.sendto(wire, peer)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._serve_stream, args=(sock,), daemon=True).start()

    def _serve_stream(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError), sock.makefile("rb") as stream:
            (length,) = struct.unpack("!H", stream.read(2))
            wire = self._answer(stream.read(length))
            sock.sendall(struct.pack("!H", len(wire) & 0xFFFF) + wire)

    def _answer(self, packet: bytes) -> bytes:
        query = dns.message.from_wire(packet)
        (question,) = query.question
        key = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append(key)
        found = self.records.get(key, ())
        if callable(found):
            return found(query)
        response = dns.message.make_response(query, recursion_available=True)
        if key[0] == "bogus.test.":
            response.set_rcode(dns.rcode.NOERROR if query.flags & dns.flags.CD else dns.rcode.SERVFAIL)
            return response.to_wire()
        datas = [dns.rdata.from_text("IN", question.rdtype, text).to_wire() for text in found]
        return message(query, [(OWNER, question.rdtype, data or b"") for data in datas], ttl=self.ttl)


def message(
    query: Message, answers: Iterable[tuple[bytes, int, bytes]], *, ttl: int = 60, flags: int = 0x81A0
) -> bytes:
    """An answer by hand: owners, types and data as they go on the wire. Secure by default (QR RD RA AD)."""
    (question,) = query.question
    asked = (question.name.to_wire() or b"") + struct.pack("!HH", question.rdtype, 1)
    records = [owner + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data for owner, kind, data in answers]
    count = min(len(records), 0xFFFF)
    return struct.pack("!HHHHHH", query.id, flags, 1, count, 0, 0) + asked + b"".join(records)


@dataclass
class Place:
    domain: str
    address: str
    adversary: Adversary


@dataclass
class Arena:
    """`spec`: more of `spec.outbound`, or in place of its defaults. `rest`: octets of memory at the start, once
    everything that an honest delivery needs has been loaded."""

    lab: Lab
    spec: Mapping[str, Any] = field(default_factory=dict)
    oracle: Oracle = field(init=False)
    sink: Sink = field(init=False)
    sidecar: Sidecar = field(init=False)
    rest: int = field(init=False)

    def __post_init__(self) -> None:
        self._numbers = itertools.count(2)
        self._adversaries: list[Adversary] = []

    def __enter__(self) -> Self:
        self.oracle = Oracle(self.lab)
        leaf = issue("mx.honest.example", dns=["mx.honest.example"])
        self.sink = self.lab.sink({(HONEST, 25): Behaviour(identity=Identity.of(leaf))})
        self.publish("honest.example", HONEST)
        self.oracle.records["_25._tcp.mx.honest.example.", "TLSA"] = [f"3 0 0 {leaf.der.hex()}"]
        self.sidecar = self.lab.sidecar({"outbound": self.outbound()})
        self.sidecar.log.wait_for("self-test passed")
        for _ in range(3):
            self.deliver_honestly()
        self.rest = self.resident("VmRSS")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for adversary in self._adversaries:
            adversary.close()
        self.oracle.close()

    def outbound(self, **fields: Any) -> dict[str, Any]:
        test = {"secure": "secure.test", "bogus": "bogus.test"}
        resolver = {"resolver": "Servers", "servers": [f"{RESOLVER[0]}:{RESOLVER[1]}"], "selfTest": test}
        return {"dns": resolver, **self.spec, **fields}

    def reload(self, **fields: Any) -> None:
        """With more of `spec.outbound`, or other."""
        loads = len(self.sidecar.log.matches(STARTED))
        self.sidecar.write({"outbound": self.outbound(**fields)})
        self.sidecar.process.signal(signal.SIGHUP)
        self.sidecar.log.wait_for(STARTED, times=loads + 1)

    def publish(self, domain: str, *addresses: str) -> None:
        """Its mail servers, best first."""
        for number, address in enumerate(addresses):
            host = f"mx{number or ''}.{domain}."
            self.oracle.records[host, "A"] = [address]
        hosts = [f"{10 + number} mx{number or ''}.{domain}." for number in range(len(addresses))]
        self.oracle.records[f"{domain}.", "MX"] = hosts

    def place(self, script: Script, *, dane: str = "") -> Place:
        """`dane`: TLSA data of its server."""
        number = next(self._numbers)
        domain, address = f"d{number}.example", f"198.51.100.{number}"
        adversary = Adversary(self.lab, (address, 25), script)
        self._adversaries.append(adversary)
        self.publish(domain, address)
        if dane:
            self.oracle.records[f"_25._tcp.mx.{domain}.", "TLSA"] = [dane]
        return Place(domain, address, adversary)

    def talk(self, door: str = "smtp", *, timeout: float = 60.0) -> Conversation:
        """Greeted."""
        client = self.lab.pod.talk(("127.0.0.1", DOORS[door]), timeout=timeout)
        client.expect(220)
        client.command("LHLO app.test" if door == "lmtp" else "EHLO app.test", 250)
        return client

    def submit(self, domain: str, body: str | bytes = BODY, *, door: str = "smtp") -> list[Reply]:
        """One message to one recipient: the replies to RCPT, DATA and the message, up to the first that is a no."""
        raw = body.encode() if isinstance(body, str) else body
        replies: list[Reply] = []
        with self.talk(door) as client:
            client.command("MAIL FROM:<app@example.net>", 250)
            for words in (f"RCPT TO:<u@{domain}>\r\n".encode(), b"DATA\r\n", raw + b".\r\n"):
                with contextlib.suppress(ConnectionError):  # a refusal may come before all is said
                    client.send(words)
                replies.append(client.reply())
                if replies[-1].code >= 400:
                    break
            return replies

    def deliver_honestly(self) -> None:
        """With DANE: whatever happened before, this still works, and within a time that somebody would wait."""
        assert [reply.code for reply in self.submit("honest.example")] == [250, 354, 250]

    def line(self, domain: str, *, times: int = 1) -> str:
        """What the log says of the delivery to the domain."""
        return self.sidecar.log.wait_for(rf"^.* (?:=>|==|\*\*) u@{re.escape(domain)} .*$", times=times)[0]

    def resident(self, field: str = "VmHWM") -> int:
        """Octets of the sidecar's memory, the most that there ever were."""
        status = self.sidecar.process.read("/proc/1/status")
        found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
        assert found is not None, status
        return int(found[1]) * 1024

    @property
    def grown(self) -> float:
        """MiB that it has ever had more than at rest."""
        return (self.resident() - self.rest) / MIB
