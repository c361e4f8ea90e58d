"""A question as a DNS message, and what the message that came back says (RFC 1035 4.1, RFC 6891, RFC 4035 3.2).

Decides what is an answer at all, and which of the five states it has, from one message. It knows nothing of sockets,
retries or what was answered before. So it never says BOGUS: a SERVFAIL is FAILED here, whatever the server says of its
reasons (RFC 8914), and `edge.asker` asks again with CD.

A question carries the AD bit, which asks for AD in the answer (RFC 6840 5.7), and not DO: signatures that nobody here
looks at would only make answers too long for UDP.

`query` raises ValueError; `read` raises NotTheAnswerError and TruncatedError, and nothing else: whatever else is wrong
with a message is a FAILED answer. dnspython reads and writes names; records are walked here, because it gives a whole
message up for one bad record, and reads 64 KiB of them before anybody can object.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import dns.exception
import dns.name
from dns.wire import Parser

from postern_sidecar.answers import MX, SOA, TLSA, Answer, Kind, Question, Record, State
from postern_sidecar.names import ROOT, Domain, domain, unmapped

ALIASES: Final = 16  # Unbound follows 11, Postfix 10, mox 16 (RFC 7672 2.1.3: more is an error)
RECORDS: Final = 256  # in one answer; more of MX, addresses or TLSA is nobody's honest configuration
OTHERS: Final = 256  # in the sections behind it
PAYLOAD: Final = 1232  # octets over UDP that no path fragments
REASON: Final = 160  # octets of a server's own words

_QR, _TC, _RD, _RA, _AD, _CD = 0x8000, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
_OPCODE: Final = 0x7800
_IN: Final = 1
_KINDS: Final = {Kind.A: 1, Kind.CNAME: 5, Kind.SOA: 6, Kind.MX: 15, Kind.AAAA: 28, Kind.TLSA: 52}
_CNAME, _SOA, _DNAME, _OPT = 5, 6, 39, 41
_EDE: Final = 15
_NOERROR, _SERVFAIL, _NXDOMAIN = 0, 2, 3
_RCODES: Final = {1: "FORMERR", 2: "SERVFAIL", 4: "NOTIMP", 5: "REFUSED", 16: "BADVERS"}
_REASONS: Final = {  # RFC 8914 4: those that say more than their number
    6: "bogus",
    7: "signature expired",
    8: "signature not yet valid",
    9: "no DNSKEY",
    10: "no RRSIG",
    12: "no NSEC",
    22: "no reachable authority",
    23: "network error",
}


class NotTheAnswerError(Exception):
    """Not to this question: somebody else's, an old one's, or a forger's. The answer may still come."""


class TruncatedError(Exception):
    """There is more than fits: over TCP, then."""


class _MalformedError(Exception):
    """The text says what."""


def query(question: Question, number: int) -> bytes:
    """The message that asks. Raises ValueError: no name on the wire can be that long."""
    flags = _RD | _AD | (_CD if question.checking_disabled else 0)
    header = struct.pack("!HHHHHH", number, flags, 1, 0, 0, 1)
    asked = struct.pack("!HH", _KINDS[question.kind], _IN)
    return header + (_name(question.name).to_wire() or b"") + asked + struct.pack("!BHHIH", 0, _OPT, PAYLOAD, 0, 0)


def failed(question: Question, detail: str) -> Answer:
    return Answer(question, State.FAILED, detail=detail)


def servfail(answer: Answer) -> bool:
    """It may be a validation that failed (RFC 4035 5.5)."""
    return answer.state is State.FAILED and answer.detail.startswith(_RCODES[_SERVFAIL])


def read(question: Question, number: int, wire: bytes) -> Answer:
    """What the message answers to `question`, asked as `number`."""
    parser = Parser(wire)
    flags, counts = _header(question, number, parser)
    if flags & _TC:
        raise TruncatedError
    if counts[0] > RECORDS or counts[1] + counts[2] > OTHERS:
        return failed(question, "too many records")
    message = _Message(question, flags & 0xF)
    try:
        for section, count in enumerate(counts):
            for _ in range(count):
                message.take(section, parser)
        return message.answer(flags)
    except (dns.exception.DNSException, _MalformedError, struct.error, ValueError) as error:
        reason = str(error) if isinstance(error, _MalformedError) else "malformed"
        return failed(question, reason)


def _header(question: Question, number: int, parser: Parser) -> tuple[int, tuple[int, int, int]]:
    try:
        identity, flags, asked, *counts = parser.get_struct("!HHHHHH")
        if identity != number or not flags & _QR or flags & _OPCODE or asked > 1:
            raise NotTheAnswerError
        if asked and (parser.get_name(decompress=True), *parser.get_struct("!HH")) != (
            _name(question.name),
            _KINDS[question.kind],
            _IN,
        ):
            raise NotTheAnswerError
    except dns.exception.DNSException:
        raise NotTheAnswerError from None
    if not asked and flags & 0xF in (_NOERROR, _NXDOMAIN):  # an error may come without the question
        raise NotTheAnswerError
    return flags, (counts[0], counts[1], counts[2])


@dataclass(slots=True)
class _Message:
    """What of a message matters to one question."""

    question: Question
    rcode: int
    aliases: dict[dns.name.Name, tuple[dns.name.Name, int]] = field(default_factory=dict)
    wanted: dict[dns.name.Name, list[tuple[Record | None, int]]] = field(default_factory=dict)
    followed: set[dns.name.Name] = field(default_factory=set)  # aliases on the way from the question's name
    renamed: set[dns.name.Name] = field(default_factory=set)  # owners of DNAMEs
    denial: int = 0  # seconds that an absence may be kept (RFC 2308 5)
    error: tuple[int, str] | None = None  # RFC 8914

    def take(self, section: int, parser: Parser) -> None:
        owner = parser.get_name(decompress=True)
        kind, kin, ttl, size = parser.get_struct("!HHIH")
        ttl = ttl if ttl < 1 << 31 else 0  # RFC 2181 8
        with parser.restrict_to(size):
            if kind == _OPT and section == 2:
                self._take_options(kin, ttl, parser, size)
            elif kin == _IN and section == 0:
                self._take_answer(owner, kind, ttl, parser)
            elif kin == _IN and section == 1 and kind == _SOA:
                self.denial = min(ttl, _minimum(parser))
            parser.get_remaining()

    def _take_answer(self, owner: dns.name.Name, kind: int, ttl: int, parser: Parser) -> None:
        if kind == _KINDS[self.question.kind]:
            self.wanted.setdefault(owner, []).append((_record(self.question.kind, parser), ttl))
        elif kind == _CNAME:
            target = parser.get_name(decompress=True)
            if self.aliases.setdefault(owner, (target, ttl))[0] != target:
                raise _MalformedError("two aliases of one name")
        elif kind == _DNAME:
            self.renamed.add(owner)

    def _take_options(self, _: int, ttl: int, parser: Parser, size: int) -> None:
        self.rcode |= ttl >> 24 << 4
        while size >= 4:
            code, length = parser.get_struct("!HH")
            data = parser.get_bytes(length)
            size -= 4 + length
            if code == _EDE and length >= 2 and self.error is None:
                self.error = int.from_bytes(data[:2], "big"), _words(data[2:])

    def answer(self, flags: int) -> Answer:
        if self.rcode not in (_NOERROR, _NXDOMAIN):
            return self._refusal()
        if not flags & _RA:
            raise _MalformedError("the server does no recursion")
        name, ttl = self._follow()
        authentic = bool(flags & _AD) and not self.question.checking_disabled
        found = self.wanted.get(name, [])
        owner = _domain(name)
        if not found:
            if self.wanted or any(alias not in self.followed for alias in self.aliases):
                raise _MalformedError("records of other names")  # they say nothing of this one, not even its absence
            if any(name.is_subdomain(renamed) for renamed in self.renamed):
                raise _MalformedError("DNAME without its CNAME")
            return Answer(
                self.question,
                State.ABSENT,
                name=owner,
                ttl=min(ttl, self.denial),
                denied=authentic,
                nxdomain=self.rcode == _NXDOMAIN,
            )
        records = tuple(dict.fromkeys(record for record, _ in found if record is not None))
        if not records:
            raise _MalformedError("no record of it can be used")
        ttl = min(ttl, *(seconds for _, seconds in found))
        return Answer(self.question, State.SECURE if authentic else State.INSECURE, records, owner, ttl)

    def _refusal(self) -> Answer:
        said = _RCODES.get(self.rcode, f"RCODE {self.rcode}")
        if self.error is None:
            return failed(self.question, said)
        code, words = self.error
        reason = _REASONS.get(code, f"error {code}")
        return failed(self.question, f"{said}, {reason}: {words}" if words else f"{said}, {reason}")

    def _follow(self) -> tuple[dns.name.Name, int]:
        """The name at the end of the aliases, and the least TTL of these."""
        name, ttl = _name(self.question.name), (1 << 31) - 1
        for _ in range(ALIASES + 1):
            if name in self.wanted or name not in self.aliases:
                return name, ttl
            self.followed.add(name)
            name, seconds = self.aliases[name]
            ttl = min(ttl, seconds)
        raise _MalformedError(f"more than {ALIASES} aliases")


def _record(kind: Kind, parser: Parser) -> Record | None:
    """None: it is there, and its name is no domain name."""
    match kind:
        case Kind.A:
            return IPv4Address(parser.get_remaining())
        case Kind.AAAA:
            return unmapped(IPv6Address(parser.get_remaining()))
        case Kind.MX:
            preference = parser.get_uint16()
            exchange = _host(parser.get_name(decompress=True))
            return MX(preference, exchange) if exchange is not None else None
        case Kind.TLSA:
            data = parser.get_remaining()
            return TLSA(data[0], data[1], data[2], data[3:]) if len(data) >= 3 else TLSA(255, 255, 255, b"")
        case Kind.CNAME:
            return _host(parser.get_name(decompress=True))
        case Kind.SOA:
            primary = _host(parser.get_name(decompress=True))
            return SOA(primary) if primary is not None else None


def _minimum(parser: Parser) -> int:
    """The last field of a SOA record (RFC 2308 4)."""
    parser.get_name(decompress=True)
    parser.get_name(decompress=True)
    return int(parser.get_struct("!IIIII")[4])


def _name(name: Domain) -> dns.name.Name:
    """Raises ValueError."""
    try:
        return dns.name.from_text(f"{name}.")
    except dns.exception.DNSException:
        raise ValueError("no name can be that long") from None


def _host(name: dns.name.Name) -> Domain | None:
    try:
        return _domain(name)
    except ValueError:
        return None


def _domain(name: dns.name.Name) -> Domain:
    """Raises ValueError. A first label `*` is a name as any other here (RFC 4592 2.1.1): aliases lead to such."""
    text = name.to_text(omit_final_dot=True)
    if text == ".":
        return ROOT
    if text.startswith("*."):
        return Domain(f"*.{domain(text[2:])}")
    return domain(text)


def _words(text: bytes) -> str:
    """A server's explanation, cut and in printable ASCII."""
    return "".join(chr(octet) if 0x20 <= octet < 0x7F else "?" for octet in text[:REASON])
