"""What a submitter's MAIL and RCPT say, and which next hop a recipient shares with others.

Decides syntax (RFC 5321 4.1.2, with RFC 1870, 3461, 6152 and 6531 for the parameters) and grouping: recipients share a
next hop if they have the same route, or the same domain (contracts section 5). Refuses to know what stands behind a
domain. Raises `Refused`, which carries the reply.

More lenient than the grammar where mail in the wild is, because the next hop is the judge of its own addresses: dots
anywhere in a local part, local parts over 64 octets, a space behind the colon. A source route is taken off (appendix
C). A path without a domain would be a mailbox of the relay's own, and it has none.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from postern_sidecar.names import ROOT, Address, Domain, domain, unmapped
from postern_sidecar.replies import Reply

from .envelope import Recipient, Sender

if TYPE_CHECKING:
    from postern_sidecar.config.model import Route

    from .settings import Settings

MAX_RECIPIENTS = 1000  # a transaction; RFC 5321 4.5.3.1.8 wants 100, Postfix's smtpd takes 1000
MAX_LEGS = 100  # next hops of an LMTP transaction: a connection each
MAX_PATH = 512  # octets; RFC 5321 4.5.3.1.3 says 256, and SRS on SRS is longer

NextHop = Domain | Address
"""What stands behind the @; a route, where one fits, is found from it."""

_BRACKETS = rb" ?<((?:[^\"<>\0- \x7f]|\"(?:[^\"\\\0-\x1f\x7f]|\\[ -~])*\")*)>(?: +(.+))?"
_MAIL = re.compile(rb"FROM:" + _BRACKETS, re.IGNORECASE)
_RCPT = re.compile(rb"TO:" + _BRACKETS, re.IGNORECASE)
_ATOM = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\x80-\xff-]+"
_QUOTED = rb'"(?:[ !#-\[\]-~\x80-\xff]|\\[ -~])*"'
_PATH = re.compile(rb"(?:@[^:<>\s]*:)?((" + _ATOM + rb"|" + _QUOTED + rb")(?:@([^@<>\s\\\"]+))?)")
_PARAMETER = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~\x80-\xff]+))?")
_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_ORCPT = re.compile(rb"[A-Za-z0-9.-]{1,64};(?:[!-*,-<>-~\x80-\xff]|\+[0-9A-F]{2})+")
_NOTIFY = frozenset({b"SUCCESS", b"FAILURE", b"DELAY"})


class Refused(Exception):  # noqa: N818 - a verdict on the submitter's words, not an error of ours
    """A command that is not taken, with what is said to it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.reply = Reply(code, (text.encode(),))


OTHER_NEXT_HOP = Reply(452, (b"4.5.3 Another next hop than the recipients before: one in a transaction, or use LMTP",))
TOO_MANY_RECIPIENTS = Reply(452, (b"4.5.3 Too many recipients",))
TOO_MANY_NEXT_HOPS = Reply(452, (b"4.5.3 Too many destinations in one transaction",))


def same_next_hop(settings: Settings, next_hop: NextHop) -> Route | NextHop:
    """What recipients that share a next hop have in common; hashable. An address literal has no route."""
    return (settings.route(next_hop) or next_hop) if isinstance(next_hop, str) else next_hop


def parse_mail(argument: bytes, limit: int, *, extended: bool) -> Sender:
    """What follows MAIL; `limit` is for SIZE. Raises Refused."""
    found = _MAIL.fullmatch(argument.strip(b" "))
    if found is None:
        raise Refused(501, "5.5.4 Syntax: MAIL FROM:<address>")
    path, words = found.groups()
    parameters = _parameters(words, extended=extended)
    utf8 = _flag(parameters, b"SMTPUTF8")
    sender = Sender(
        path=_path(path, "5.1.7", utf8=utf8)[0] if path else b"",
        size=_size(parameters.pop(b"SIZE", None), limit),
        eight_bit=_body(parameters.pop(b"BODY", b"7BIT")),
        smtputf8=utf8,
        ret=_ret(parameters.pop(b"RET", b"")),
        envid=_envid(parameters.pop(b"ENVID", b"")),
    )
    _nothing_left(parameters)
    return sender


def parse_rcpt(argument: bytes, *, extended: bool, utf8: bool) -> Recipient:
    """What follows RCPT; `utf8`: MAIL had SMTPUTF8. Raises Refused."""
    found = _RCPT.fullmatch(argument.strip(b" "))
    if found is None:
        raise Refused(501, "5.5.4 Syntax: RCPT TO:<address>")
    text, words = found.groups()
    path, next_hop = _path(text, "5.1.3", utf8=utf8)
    if not words:
        return Recipient(path, next_hop)
    parameters = _parameters(words, extended=extended)
    notify, orcpt = _notify(parameters.pop(b"NOTIFY", b"")), _orcpt(parameters.pop(b"ORCPT", b""), utf8=utf8)
    _nothing_left(parameters)
    return Recipient(path, next_hop, notify, orcpt)


# Paths


def _path(text: bytes, status: str, *, utf8: bool) -> tuple[bytes, NextHop]:
    """The mailbox without its source route, and its domain."""
    found = _PATH.fullmatch(text) if len(text) <= MAX_PATH else None
    if found is None:
        raise Refused(501, f"{status} Bad address syntax")
    mailbox, _, where = found.groups()
    if where is None:
        raise Refused(553, f"{status} An address needs a domain: this relay has no mailboxes of its own")
    if not mailbox.isascii():
        _check_utf8(mailbox, status, utf8=utf8)
    try:
        return mailbox, next_hop_of(where)
    except ValueError as error:
        raise Refused(501, f"{status} Bad domain in the address") from error


def _check_utf8(text: bytes, status: str, *, utf8: bool) -> None:
    """RFC 6531 3.2, 3.3."""
    if not utf8:
        raise Refused(553, "5.6.7 Addresses with non-ASCII characters need SMTPUTF8")
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise Refused(501, f"{status} The address is not UTF-8") from error


@lru_cache(maxsize=4096)
def next_hop_of(text: bytes) -> NextHop:
    """What stands behind an @. Raises ValueError."""
    if text.startswith(b"["):
        return _literal(text.decode())
    name = domain(text.decode())
    if name == ROOT:
        raise ValueError("is no mail domain")
    return name


def _literal(text: str) -> Address:
    """RFC 5321 4.1.3; IPv6 has its tag. Raises ValueError."""
    inner = text.removeprefix("[").removesuffix("]")
    tagged = inner[:5].upper() == "IPV6:"
    address = ip_address(inner[5:] if tagged else inner)
    if not text.endswith("]") or "%" in inner or (address.version == 6) is not tagged:
        raise ValueError("is no address literal")
    return unmapped(address)


# Parameters


def _parameters(words: bytes | None, *, extended: bool) -> dict[bytes, bytes | None]:
    if not words:
        return {}
    if not extended:
        raise Refused(555, "5.5.4 Parameters need EHLO")
    parameters: dict[bytes, bytes | None] = {}
    for word in words.split():
        found = _PARAMETER.fullmatch(word)
        if found is None or found[1].upper() in parameters:
            raise Refused(501, "5.5.4 Bad or repeated parameter")
        parameters[found[1].upper()] = found[2]
    return parameters


def _nothing_left(parameters: dict[bytes, bytes | None]) -> None:
    if parameters:
        raise Refused(555, f"5.5.4 Parameter not known: {next(iter(parameters)).decode()}"[:120])


def _flag(parameters: dict[bytes, bytes | None], name: bytes) -> bool:
    if name not in parameters:
        return False
    if parameters.pop(name) is not None:
        raise Refused(501, "5.5.4 SMTPUTF8 takes no value")
    return True


def _size(value: bytes | None, limit: int) -> int:
    """RFC 1870 6. An absent value is none; so is `SIZE` alone, which old clients send."""
    if value is None:
        return 0
    if not value.isdigit() or len(value) > 20:
        raise Refused(501, "5.5.4 SIZE takes a number")
    if int(value) > limit:
        raise Refused(552, f"5.3.4 Message too big: at most {limit} octets")
    return int(value)


def _body(value: bytes | None) -> bool:
    match value.upper() if value else None:
        case b"8BITMIME":
            return True
        case b"7BIT":
            return False
        case _:
            raise Refused(501, "5.5.4 BODY is 7BIT or 8BITMIME")


def _ret(value: bytes | None) -> bytes:
    word = value.upper() if value is not None else None
    if word not in (b"", b"FULL", b"HDRS"):
        raise Refused(501, "5.5.4 RET is FULL or HDRS")
    return word


def _envid(value: bytes | None) -> bytes:
    if value is None or len(value) > 100 or not _XTEXT.fullmatch(value):
        raise Refused(501, "5.5.4 ENVID takes xtext, at most 100 octets")
    return value


def _notify(value: bytes | None) -> bytes:
    word = value.upper() if value is not None else None
    if word is None or (word not in (b"", b"NEVER") and not set(word.split(b",")) <= _NOTIFY):
        raise Refused(501, "5.5.4 NOTIFY is NEVER, or of SUCCESS, FAILURE, DELAY")
    return word


def _orcpt(value: bytes | None, *, utf8: bool) -> bytes:
    if value == b"":
        return b""
    if value is None or len(value) > 500 or not _ORCPT.fullmatch(value):
        raise Refused(501, "5.5.4 ORCPT takes a type and xtext, at most 500 octets")
    if not value.isascii():
        _check_utf8(value, "5.5.4", utf8=utf8)
    return value
