"""The DANE laboratory: the DNS of a table of cases, its destinations, and a resolver in the pod."""

from __future__ import annotations

import enum
import socket
import time
from typing import TYPE_CHECKING, Any, Literal

import dns.flags
import dns.message
import dns.rcode

from dane.build import Setting

from .program import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dns.message import Message

    from dane.case import Case

    from .laboratory import Lab

RESOLVER = ("127.0.0.1", 53)


class Seen(enum.Enum):
    """What Unbound makes of a question."""

    SECURE = "secure"  # records or a denial of them
    INSECURE = "insecure"
    BOGUS = "bogus"  # without CD a failure, with CD an answer
    FAILED = "failed"


class DaneLab:
    """Tests share it, so none may change it: cases have names and addresses of their own. A test that changes the world
    or a destination makes a laboratory of its own: `DaneLab(lab, cases)`.

    `seconds`: how long the start took, that of the hosts and their network not counted."""

    def __init__(self, lab: Lab, cases: Iterable[Case]) -> None:
        start = time.monotonic()
        self.lab = lab
        self.setting = Setting(cases)
        self.world = self.setting.world
        self.sink = lab.sink(self.setting.table)
        self.names = lab.nsd(self.world)
        self.resolver = lab.unbound(self.world)
        self.seconds = time.monotonic() - start

    def outbound(
        self, policy: str = "default", resolver: Literal["Embedded", "Servers"] = "Embedded"
    ) -> dict[str, Any]:
        """`spec.outbound` for the cases of a policy."""
        servers = {"resolver": "Servers", "servers": [f"{RESOLVER[0]}:{RESOLVER[1]}"]}
        return self.setting.outbound(policy, servers if resolver == "Servers" else self.world.embedded())

    def ask(self, name: str, kind: str) -> Message:
        """The resolver's own words."""
        return dns.message.from_wire(self._exchange(name, kind))

    def seen(self, name: str, kind: str) -> Seen:
        flags, answered = self._header(name, kind)
        if answered:
            return Seen.SECURE if flags & dns.flags.AD else Seen.INSECURE
        _, answered_unchecked = self._header(name, kind, checking_disabled=True)
        return Seen.BOGUS if answered_unchecked else Seen.FAILED

    def _header(self, name: str, kind: str, *, checking_disabled: bool = False) -> tuple[int, bool]:
        """Its flags, and whether it is an answer. Not read further: dnspython refuses malformed TLSA data."""
        reply = self._exchange(name, kind, checking_disabled=checking_disabled)
        message = dns.message.from_wire(reply, question_only=True)
        return message.flags, message.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)

    def _exchange(self, name: str, kind: str, *, checking_disabled: bool = False) -> bytes:
        query = dns.message.make_query(name, kind, want_dnssec=True)
        if checking_disabled:
            query.flags |= dns.flags.CD
        with self.lab.pod.new_socket(RESOLVER[0], kind=socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.sendto(query.to_wire(), RESOLVER)
            return sock.recv(65535)
