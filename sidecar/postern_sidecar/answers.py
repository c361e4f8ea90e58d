"""What the DNS said: a question, and an answer whose state is one of five different things (RFC 7672 2.1.1).

Failure, absence, insecurity and unusability are four different values; whoever reads an answer has to say what it does
with each. This module only names them: `lookup` asks and decides, `edge` talks to resolvers. Raises nothing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from .names import ROOT, Address, Domain


class Kind(enum.Enum):
    """The record types that are asked for."""

    A = "A"
    AAAA = "AAAA"
    CNAME = "CNAME"  # the alias itself, not where it leads
    MX = "MX"
    TLSA = "TLSA"
    SOA = "SOA"  # what every zone has: the resolver's self-test


class Question(NamedTuple):
    """`checking_disabled`: the CD bit (RFC 4035 3.2.2); an answer to it is never SECURE."""

    name: Domain
    kind: Kind
    checking_disabled: bool = False


class State(enum.Enum):
    SECURE = "secure"  # there are records, and every link to them was validated
    INSECURE = "insecure"  # there are records; the zone, or one on the way to them, is unsigned
    ABSENT = "absent"  # there are none (NODATA or NXDOMAIN), and that is an answer
    BOGUS = "bogus"  # validation failed: SERVFAIL, where with CD there is an answer
    FAILED = "failed"  # no answer: SERVFAIL, REFUSED, NOTIMP, time-out, malformed, too many aliases


class MX(NamedTuple):
    """`exchange` is "" for the null MX (RFC 7505)."""

    preference: int
    exchange: Domain


class TLSA(NamedTuple):
    """RFC 6698 2.1. One whose data are too short to have the three numbers stands as (255, 255, 255, b""): it is there,
    and it is unusable."""

    usage: int
    selector: int
    matching: int
    data: bytes

    def __str__(self) -> str:
        """As in a zone file."""
        return f"{self.usage} {self.selector} {self.matching} {self.data.hex()}"


class SOA(NamedTuple):
    primary: Domain


Record = Address | Domain | MX | TLSA | SOA
"""Of A and AAAA, CNAME, MX, TLSA, SOA."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`records`: SECURE and INSECURE have at least one, the other states none. `name` owns them: the question's name,
    or the one that its aliases lead to. `ttl`: seconds that the answer may be kept, the least along the way. `denied`:
    ABSENT, and its denial was validated. `nxdomain`: the name itself does not exist. `detail`: of BOGUS and FAILED,
    what happened, for logs."""

    question: Question
    state: State
    records: tuple[Record, ...] = ()
    name: Domain = ROOT
    ttl: int = 0
    denied: bool = False
    nxdomain: bool = False
    detail: str = ""

    @property
    def authentic(self) -> bool:
        """What it says, records or none, was validated."""
        return self.state is State.SECURE or self.denied

    @property
    def usable(self) -> bool:
        """It is an answer. False: nobody may act as if it said "none" (RFC 7672 2.1.2)."""
        return self.state not in (State.BOGUS, State.FAILED)
