"""DNS for tests: a literal zone, and which of its answers are insecure, bogus, or do not come.

    DNS = table('''
        example.org          MX    10 mx.example.org
        mx.example.org       A     192.0.2.1
        _25._tcp.mx.example.org  60 TLSA 3 1 1 ab12
    ''', failing=["mx.example.org AAAA"])
    result, asked = run(next_hop(domain("example.org")), DNS)

Everything is secure, denials too, unless it is named in `insecure`, `bogus` or `failing`. An entry there is a name (all
its types), a name and a type, or `*` for the whole table; it need not exist. `DNS.unsigned()` is the same table
without a signature: a case that runs with both shows a forgotten flag at once. Aliases are followed as a resolver does.

A line is a name, seconds to live if they are not 300, a type, and data as in a zone file; names are absolute, "." is
the root. `TLSA -` is a record too short to have its three numbers. Bad lines raise ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeVar

from postern_sidecar.answers import MX, SOA, TLSA, Answer, Kind, Question, Record, State
from postern_sidecar.names import Domain, domain

if TYPE_CHECKING:
    from collections.abc import Collection

    from postern_sidecar.lookup.asking import Asking

T = TypeVar("T")
TTL = 300
ALIASES = 10
"""A resolver follows so many, then gives up (SERVFAIL)."""

Key = tuple[Domain, Kind]


@dataclass(frozen=True, slots=True)
class Table:
    records: dict[Key, tuple[Record, ...]]
    ttl: dict[Key, int]
    insecure: frozenset[str] = frozenset()
    bogus: frozenset[str] = frozenset()
    failing: frozenset[str] = frozenset()

    def unsigned(self) -> Table:
        """The same names and records; nothing can be validated, so nothing is bogus."""
        return replace(self, insecure=frozenset("*"), bogus=frozenset())

    def answer(self, question: Question) -> Answer:
        """What a validating resolver makes of the question."""
        name, kind, unchecked = question
        links: list[Key] = []
        while True:
            links.append((name, kind))
            records = self.records.get((name, kind), ())
            alias = self.records.get((name, Kind.CNAME), ())
            if records or not alias or kind is Kind.CNAME:
                break
            links[-1] = (name, Kind.CNAME)
            if len(links) > ALIASES:
                return Answer(question, State.FAILED, detail="SERVFAIL: too many aliases")
            name = Domain(str(alias[0]))
        if any(_named(key, self.failing) for key in links):
            return Answer(question, State.FAILED, detail="SERVFAIL")
        if not unchecked and any(_named(key, self.bogus) for key in links):
            return Answer(question, State.BOGUS, detail="SERVFAIL: bogus")
        secure = not unchecked and not any(_named(key, self.insecure) for key in links)
        ttl = min(self.ttl.get(key, TTL) for key in links)
        if not records:
            nxdomain = not any(known == name or known.endswith(f".{name}") for known, _ in self.records)
            return Answer(question, State.ABSENT, (), name, ttl, denied=secure, nxdomain=nxdomain)
        return Answer(question, State.SECURE if secure else State.INSECURE, records, name, ttl)


def table(
    zone: str, *, insecure: Collection[str] = (), bogus: Collection[str] = (), failing: Collection[str] = ()
) -> Table:
    records: dict[Key, tuple[Record, ...]] = {}
    ttl: dict[Key, int] = {}
    for line in zone.split("\n"):
        if not line.strip():
            continue
        owner, *rest = line.split()
        seconds = int(rest.pop(0)) if rest[0].isdigit() else TTL
        key = domain(owner), Kind(rest[0])
        records[key] = (*records.get(key, ()), _record(key[1], rest[1:]))
        ttl[key] = min(seconds, ttl.get(key, seconds))
    return Table(records, ttl, frozenset(insecure), frozenset(bogus), frozenset(failing))


def run(asking: Asking[T], dns: Table) -> tuple[T, list[Question]]:
    """What the generator comes to when the table answers it, and all that it asked, in order."""
    asked: list[Question] = []
    try:
        questions = next(asking)
        while True:
            asked.extend(questions)
            questions = asking.send(tuple(map(dns.answer, questions)))
    except StopIteration as done:
        return done.value, asked


def _named(key: Key, entries: frozenset[str]) -> bool:
    name, kind = key
    return not entries.isdisjoint(("*", name or ".", f"{name or '.'} {kind.value}"))


def _record(kind: Kind, data: list[str]) -> Record:
    match kind, data:
        case ((Kind.A | Kind.AAAA), [address]):
            return ip_address(address)
        case Kind.CNAME, [target]:
            return domain(target)
        case Kind.MX, [preference, exchange]:
            return MX(int(preference), domain(exchange))
        case Kind.TLSA, ["-"]:
            return TLSA(255, 255, 255, b"")
        case Kind.TLSA, [usage, selector, matching, digest]:
            return TLSA(int(usage), int(selector), int(matching), bytes.fromhex(digest))
        case Kind.SOA, [primary]:
            return SOA(domain(primary))
    raise ValueError(f"no record: {kind.value} {' '.join(data)}")
