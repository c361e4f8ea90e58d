"""What a case of the delivery table is: a sentence of an RFC, the world it speaks of, and what must come of it.

A case is data. Mail goes to `user@DOMAIN`, where DOMAIN is the case's name in its zone ("dane-ee.secure.example"), so
that every case lives beside all others in one laboratory. `build` makes the world of them; the doors (SMTP, LMTP,
`check`) and other mail servers run them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Outcome = Literal["delivered", "deferred", "bounced"]
Level = Literal["dane", "verify", "encrypt", "may", "clear"]

MX = "@ MX 10 mx"
A = "mx A {a1}"
ONE = (MX, A)
"""A domain with one MX host at the first server's address."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A destination: the n-th of a case has the addresses {a<n>} and {six<n>}.

    `shape`: its certificates, a name in `shapes`; "" has no TLS. `host`: the name that its certificate is made for, in
    the case's domain; None: mx, mx2, mx3, after its number. The others are fields of `lab.destinations.Behaviour`.
    `listening` False: the connection is refused. `sni`: other shapes, by the name asked for, in the case's domain."""

    shape: str = "chain"
    host: str | None = None
    port: int = 25
    listening: bool = True
    replies: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    starttls: bool | None = None
    handshake: str = ""
    max: str = "1.3"
    close_after: int | None = None
    implicit: bool = False  # TLS at once
    sni: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Expect:
    """What the submitter and the destination see.

    `level`: of the delivery, None where there was none. `code`: a regular expression for the start of the reply.
    `at`: the number of the server that gets the message; all others get none. `sni`: what that server is asked for, in
    the case's domain. `untouched`: the servers that nobody may connect to. `half`: the log says CV=half-dane. `check`:
    the outcome that `postern-sidecar check` foretells where it is not this one, for it sends no mail."""

    outcome: Outcome
    level: Level | None = None
    code: str = "250"
    at: int | None = None
    sni: str | None = None
    untouched: tuple[int, ...] = ()
    half: bool = False
    check: Outcome | None = None

    @property
    def tls(self) -> bool | None:
        """Whether the message went over TLS; None: there was no message."""
        return None if self.level is None else self.level != "clear"


@dataclass(frozen=True, kw_only=True)
class Case:
    """`records`: "owner [TTL] type data", names in the case's domain ("@" is the domain itself) but for those that end
    in a dot; {a1}, {six1} are addresses, {name} is the case's name. TLSA data name a certificate of the server's shape
    ("3 1 1 leaf", "2 0 1 root", "3 1 1 leaf@2" of the second server), or "wrong", or are hexadecimal. `spoil`: the
    RRsets ("mx A") whose signatures are wrong. `misanswer`: "mx TLSA SERVFAIL", in zones of the liar. `zones`: deeper
    ones, and how they are. `policy`: a name in `build.POLICIES`. `require`, `skip` (its level), `route` (via) are
    entries of the policy for this domain. `literal`: mail goes to user@[{a1}];
    `below`: to this name below DOMAIN."""

    name: str
    rfc: str
    records: tuple[str, ...] = ()
    servers: tuple[Server, ...] = (Server(),)
    expect: Expect
    zone: str = "secure.example"
    spoil: tuple[str, ...] = ()
    misanswer: tuple[str, ...] = ()
    zones: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    policy: str = "default"
    require: bool = False
    skip: str = ""
    route: str = ""
    literal: bool = False
    below: str = ""

    @property
    def domain(self) -> str:
        return f"{self.name}.{self.zone}"

    @property
    def recipient_domain(self) -> str:
        return f"{self.below}.{self.domain}" if self.below else self.domain


def delivered(level: Level, at: int = 1, **more: Any) -> Expect:
    return Expect(outcome="delivered", level=level, at=at, **more)


def deferred(code: str = r"451 4\.7\.5", **more: Any) -> Expect:
    return Expect(outcome="deferred", code=code, **more)


def bounced(code: str, **more: Any) -> Expect:
    return Expect(outcome="bounced", code=code, **more)


DANE = delivered("dane")
NO_CONTACT = deferred(untouched=(1,))
"""4.7.5, and nobody connected."""
MISMATCH = deferred()


def tlsa(*data: str, at: str = "mx") -> tuple[str, ...]:
    """TLSA records for port 25 of a host."""
    owner = "_25._tcp" if at == "@" else f"_25._tcp.{at}"
    return tuple(f"{owner} TLSA {each}" for each in data)
