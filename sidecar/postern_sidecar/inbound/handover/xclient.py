"""XCLIENT (Postfix's XCLIENT_README): the identity in the server's own SMTP session.

The attributes are those that the server announces, of NAME, REVERSE_NAME, PORT, DESTADDR, DESTPORT and ADDR; ADDR comes
last, because a server may judge the client as soon as it knows it. NAME is always sent where it is announced: without
it Postfix would keep `localhost` for the client's name. Values are xtext (RFC 3461 4), IPv6 addresses have `IPV6:`.

220 is success and brings the banner for the client. 501, 502, 503 and 550 5.7.0 mean that we may not or cannot: the
backend's configuration. Any other refusal is the server's verdict on the client and is passed on. Anything else is not
success either: postscreen answers 250 to an XCLIENT that it ignores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from postern_sidecar.names import NameStatus

from .base import Denied, Handed, Handover, Talk, Verdict, guarded_or_denied

if TYPE_CHECKING:
    from postern_sidecar.inbound.client import Client
    from postern_sidecar.names import Address, HostName
    from postern_sidecar.replies import Reply

MAX_COMMAND = 512  # RFC 5321 4.5.3.1.4, with CRLF
MAX_VALUE = 255  # XCLIENT_README
_NOT_ALLOWED = frozenset((501, 502, 503))
_ADVICE = "let it: Postfix `smtpd_authorized_xclient_hosts = 127.0.0.0/8 [::1]/128`, or use handover ProxyV2"


class Xclient(Handover):
    talks = True
    needs_name = True

    def talk(self, client: Client) -> Talk:
        greeting = yield b""
        if greeting.code != 220:
            return Denied(f"the server greets the sidecar with {greeting.code}; it must accept 127.0.0.1")
        hello = f"EHLO {self.hostname}\r\n".encode()
        announced = yield hello
        attributes = announced.keywords.get(b"XCLIENT", b"").upper().split()
        if announced.code != 250 or b"ADDR" not in attributes:
            return Denied(f"the server does not announce XCLIENT to the sidecar; {_ADVICE}")
        banner = greeting
        for command in commands(client, frozenset(attributes)):
            banner = yield command
            refused = _refused(banner)
            if refused is not None:
                return refused
        again = yield hello
        if again.code != 250:
            return Verdict(again)
        return self._handed(again, banner)

    def _handed(self, announced: Reply, banner: Reply) -> Handed | Denied:
        return guarded_or_denied(announced, bytes(banner), acknowledged=self.inbound.backend.acknowledge_no_start_tls)


def _refused(reply: Reply) -> Denied | Verdict | None:
    if reply.code == 220:
        return None
    if reply.code in _NOT_ALLOWED or (reply.code == 550 and reply.enhanced == b"5.7.0") or reply.code < 400:
        return Denied(f"the server answered XCLIENT with {reply.code}; {_ADVICE}")
    return Verdict(reply)


def commands(client: Client, announced: frozenset[bytes]) -> list[bytes]:
    """The XCLIENT commands for a client, each at most 512 octets, ADDR in the last one."""
    target = client.target or client.local
    values = {
        b"NAME": _name(client.host_name),
        b"REVERSE_NAME": _reverse_name(client.host_name),
        b"PORT": str(client.sender.port),
        b"DESTADDR": _address(target.address),
        b"DESTPORT": str(target.port),
        b"ADDR": _address(client.sender.address),
    }
    lines, line = [], b"XCLIENT"
    for attribute, value in values.items():
        if attribute not in announced:
            continue
        item = b" %s=%s" % (attribute, xtext(value))
        if len(line) + len(item) + 2 > MAX_COMMAND:
            lines.append(line)
            line = b"XCLIENT"
        line += item
    return [done + b"\r\n" for done in (*lines, line)]


def xtext(value: str) -> bytes:
    """RFC 3461 4: printable ASCII without `+` and `=`, the rest as +XX."""
    octets = value.encode("utf-8")
    return b"".join(b"%c" % c if 0x21 <= c <= 0x7E and c not in b"+=" else b"+%02X" % c for c in octets)


def _address(address: Address) -> str:
    return str(address) if address.version == 4 else f"IPV6:{address}"


def _name(name: HostName | None) -> str:
    """A name longer than the protocol's limit is no name."""
    if name is None or name.status is NameStatus.FAILED:
        return "[TEMPUNAVAIL]"
    return name.name if name.name is not None and len(xtext(name.name)) <= MAX_VALUE else "[UNAVAILABLE]"


def _reverse_name(name: HostName | None) -> str:
    if name is not None and name.pointer is not None and len(xtext(name.pointer)) <= MAX_VALUE:
        return name.pointer
    return "[TEMPUNAVAIL]" if name is None or name.status is NameStatus.FAILED else "[UNAVAILABLE]"
