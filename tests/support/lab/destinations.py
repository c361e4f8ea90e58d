"""SMTP destinations for tests: what each address is to do, and what it got.

    sink = lab.sink({("198.51.100.1", 25): Behaviour(identity=Identity.of(leaf, intermediate))})
    ...
    (message,) = sink.messages(to="198.51.100.1")
    assert message.tls == "TLSv1.3"

One process serves them all, on `outside`: `servers.sink`.
"""

from __future__ import annotations

import base64
import json
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .program import Program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from certificates import Certified

    from .host import Address
    from .namespaces import Namespaces
    from .program import Log, Process

SUPPORT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Identity:
    """What a server shows: PEM of its chain, leaf first, and of the leaf's key; a DER OCSP response to staple."""

    chain: str
    key: str
    staple: bytes = b""

    @classmethod
    def of(cls, leaf: Certified, *others: Certified, staple: bytes = b"") -> Identity:
        return cls(b"".join(each.pem for each in (leaf, *others)).decode(), leaf.key_pem.decode(), staple)

    def table(self) -> dict[str, str]:
        found = {"chain": self.chain, "key": self.key}
        return {**found, "staple": base64.b64encode(self.staple).decode()} if self.staple else found


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """`identity` None: no TLS. `replies`: for banner, EHLO, STARTTLS, MAIL, RCPT, "RCPT user@domain", DATA, dot, RSET,
    QUIT, AUTH, and "tls EHLO" and so on for what is said within TLS; lines without CRLF, of which those that begin with
    "!" are acts (`Session._act`); of a list each is said once, the last ever after. `starttls`: whether EHLO offers it,
    by default if there is an identity. `keywords` of EHLO: None: a modern server's; `tls_keywords`: more of them within
    TLS. `handshake`: what comes in its place. `sni`: other identities by the name asked for. `close_after`: octets of a
    message after which the connection is gone."""

    identity: Identity | None = None
    replies: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    starttls: bool | None = None
    keywords: Sequence[str] | None = None
    tls_keywords: Sequence[str] = ()
    handshake: str = ""
    sni: Mapping[str, Identity] = field(default_factory=dict)
    implicit: bool = False
    min: str = "1.0"
    max: str = "1.3"
    ciphers: str = ""
    close_after: int | None = None

    def table(self) -> dict[str, Any]:
        found: dict[str, Any] = {"replies": dict(self.replies), "tls_keywords": list(self.tls_keywords)}
        found |= {"handshake": self.handshake, "implicit": self.implicit, "min": self.min, "max": self.max}
        if self.identity is not None:
            found |= self.identity.table()
        for name in ("starttls", "close_after"):
            if getattr(self, name) is not None:
                found[name] = getattr(self, name)
        if self.ciphers:
            found["ciphers"] = self.ciphers
        if self.keywords is not None:
            found["keywords"] = list(self.keywords)
        return {**found, "sni": {name: identity.table() for name, identity in self.sni.items()}}


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """A message up to its final dot, taken or not. `text`: its first 64 KiB, without dot-stuffing. `size` and `sha256`:
    as on the wire, with dot-stuffing, without the last dot's line."""

    where: str
    session: int
    peer: str
    tls: str | None
    sni: str | None
    mail: str
    rcpt: list[str]
    size: int
    sha256: str
    text: str
    reply: str


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A session that is over."""

    where: str
    session: int
    peer: str
    tls: str | None
    sni: str | None
    commands: list[str]
    end: str


def postfix_tls(identity: Identity, *, host: str, domain: str) -> tuple[str, dict[str, str]]:
    """Lines for main.cf and files, with which `Lab.postfix` is the TLS destination `host` for a mail domain."""
    path = "/etc/ssl/destination.pem"
    main = f"smtpd_tls_security_level = may\nsmtpd_tls_chain_files = {path}\nsmtpd_tls_loglevel = 1\n"
    main += f"myhostname = {host}\nvirtual_mailbox_domains = {domain}\n"
    return main, {path: identity.key + identity.chain}


class Sink:
    def __init__(self, lab: Namespaces, etc: Mapping[str, str], table: Mapping[Address, Behaviour]) -> None:
        self._path = Path(tempfile.mkdtemp(dir=lab.folder)) / "table.json"
        self._table = dict(table)
        self._readings = 1
        self._ticks = 0
        self._write()
        argv = [sys.executable, "-u", "-m", "lab.servers.sink", str(self._path)]
        program = Program(argv=argv, host="outside", files=etc, env={"PYTHONPATH": str(SUPPORT)})
        self.process: Process = lab.start(program, "sink")

    def wait(self) -> None:
        """Until it listens for the last table that it got."""
        self.log.wait_for(rf'^{{"loaded": {self._readings}}}$')

    @property
    def log(self) -> Log:
        return self.process.log

    def update(self, changes: Mapping[Address, Behaviour]) -> None:
        """Each connection from now on meets the new behaviour."""
        self._table |= changes
        self._write()
        self._readings += 1
        self.process.signal(signal.SIGHUP)
        self.wait()

    def messages(self, *, to: str = "", recipient: str = "") -> list[Delivered]:
        """Those so far, at an address, or for a recipient: all to which a reply has been seen."""
        every = [Delivered(**facts) for facts in self._events("message", to)]
        return [message for message in every if not recipient or recipient in message.rcpt]

    def visits(self, *, to: str = "") -> list[Visit]:
        """The sessions at an address that are over."""
        return [Visit(**facts) for facts in self._events("session", to)]

    def _events(self, kind: str, to: str) -> list[dict[str, Any]]:
        self._ticks += 1
        self.process.signal(signal.SIGUSR1)
        self.log.wait_for(rf'^{{"tick": {self._ticks}}}$')
        start = f'{{"event": "{kind}", "where": "{to} ' if to else f'{{"event": "{kind}", '
        lines = [json.loads(line) for line in self.log.lines if line.startswith(start)]
        return [{name: value for name, value in line.items() if name != "event"} for line in lines]

    def _write(self) -> None:
        table = {f"{address} {port}": behaviour.table() for (address, port), behaviour in self._table.items()}
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(table))
        new.replace(self._path)
