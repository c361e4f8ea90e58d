"""One event, one line: Exim's style or JSON (design section 8, contracts section 4; for users: docs/logging.md).

Decides how a record reads; not whether it is logged, and not when: `when` comes in, seconds since 1970. A line has no
control byte and ends with one LF; `Formatter.line` raises nothing, whatever a peer has put into a field.

Escaping is one rule for both styles. Every byte outside printable ASCII, and the backslash, is written \\xNN; so is,
inside an Exim-style `KEY="..."`, the quotation mark, and in a bare `KEY=value` everything but letters, digits and a few
signs that delimit nothing. Hence no value can end early, and none can look like another item. A field has at most
`FIELD` bytes on the line; one that was cut ends in "...".

An absent item (None, "") is left out, in JSON together with its key. 0 and false are values.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

import msgspec

FIELD: Final = 256
_CUT = "..."

Fields = Mapping[str, object]
Item = Callable[[Fields], str]

REASONS: Final = frozenset(
    {
        # Headers: proxyproto.header.Reason
        "not_a_header",
        "incomplete",
        "v1_syntax",
        "v1_too_long",
        "v2_version",
        "v2_command",
        "v2_family",
        "v2_too_short",
        "too_long",
        "tlv",
        "crc32c",
        "unique_id",
        # Who may claim what
        "timeout",
        "unknown",
        "source_not_allowed",
        "header_from_untrusted_source",
        "others",
        # Clients
        "early_talker",
        "connections",
        "connections_per_client",
        "rate_per_client",
        "rule",
        "rule_error",
        "client_gone",
        # The mail server
        "backend_refused",
        "backend_timeout",
        "backend_unreachable",
        "backend_closed",
        "backend_protocol",
        "backend_verdict",
        "handover_refused",
        "address_in_use",
        "no_permission",
        "no_descriptors",
        # The end of a session
        "idle",
        "bare_lf",
        "line_too_long",
        "shutdown",
        "internal_error",
        # Outbound: the next hop in the DNS
        "null_mx",
        "no_such_domain",
        "no_address",
        "mail_loop",
        "dns_bogus",
        "dns_failed",
        "invalid_domain",
        "dns_selftest",
        # Outbound: what a host must reach, and cannot
        "tlsa_bogus",
        "tlsa_failed",
        "tlsa_unusable",
        "no_tlsa",
        "insecure_mx",
        "insecure_host",
        "address_literal",
        "no_reference",
        "address_not_allowed",
        "auth_level",
        "auth_credentials",
        # Outbound: the way to a session
        "connect_refused",
        "connect_timeout",
        "unreachable",
        "reply_timeout",
        "connection_lost",
        "bad_reply",
        "banner_refused",
        "ehlo_refused",
        "starttls_missing",
        "starttls_refused",
        "starttls_injection",
        "tls_failed",
        "tls_timeout",
        "auth_missing",
        "auth_refused",
        # Outbound: certificates
        "tlsa_mismatch",
        "certificate_expired",
        "certificate_not_yet_valid",
        "certificate_name",
        "certificate_chain",
        "certificate_purpose",
        "certificate_constraints",
        "certificate_weak",
        "certificate_malformed",
        "certificate_untrusted",
        "ocsp_revoked",
        "ocsp_absent",
        "ocsp_stale",
        "ocsp_unknown",
        "ocsp_invalid",
        # Outbound: the transaction
        "mail_deferred",
        "rcpt_deferred",
        "unexpected_reply",
        "8bitmime_missing",
        "smtputf8_missing",
        "size_exceeded",
        "too_many_hosts",
        "other_next_hop",
        "per_destination",
        "replay_refused",
        "data_timeout",
        "bare_newline",
        "nul",
        "message_too_big",
    }
)
"""All values of `reason`, for people who filter by them: docs/logging.md explains each."""


@dataclass(slots=True)  # not frozen: two a session (inbound/events.py says why)
class Record:
    """`session` is "" where the event belongs to none. `fields` has the names of design section 8, in the order of
    JSON; values are strings, bytes, numbers, booleans, addresses or enums."""

    event: str
    session: str
    fields: Fields


# Values

_PLAIN = re.compile(r"[A-Za-z0-9._:/@+,~^*%-]+", re.ASCII)
_ESCAPED = tuple(chr(n) if 0x20 <= n <= 0x7E and n != 0x5C else f"\\x{n:02x}" for n in range(256))
_ESCAPED_QUOTED = tuple("\\x22" if n == 0x22 else text for n, text in enumerate(_ESCAPED))
_ESCAPED_BARE = tuple(text if _PLAIN.fullmatch(text) else f"\\x{n:02x}" for n, text in enumerate(_ESCAPED))


def _escaped(value: str | bytes, table: tuple[str, ...]) -> str:
    raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    pieces = [table[byte] for byte in raw[: FIELD + 1]]
    text = "".join(pieces)
    if len(text) <= FIELD:
        return text
    while len(text) > FIELD - len(_CUT):
        text = text[: -len(pieces.pop())]
    return text + _CUT


@functools.lru_cache(maxsize=2048)
def _ipv6(number: int) -> str:
    """Writing an address takes long, for IPv6 longer than the rest of a line, and a session's lines share theirs."""
    return str(IPv6Address(number))


@functools.lru_cache(maxsize=2048)
def _ipv4(number: int) -> str:
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


# The types that lines are made of whose text is always plain; looked up by exact type, for speed.
_TRUSTED: dict[type, Callable[[Any], str]] = {
    int: str,
    float: lambda number: f"{number:.3f}",
    bool: lambda flag: "yes" if flag else "no",
    IPv4Address: lambda address: _ipv4(int(address)),
    IPv6Address: lambda address: _ipv6(int(address)),
}


def _stands(value: object) -> bool:
    """Whether a false value is one: 0 and no are, None and "" are absent. (Not `!= ""`: addresses compare slowly.)"""
    return type(value) in _TRUSTED


def _text(value: object) -> str | bytes:
    """What is neither a string nor trusted."""
    if isinstance(value, bytes):
        return value
    return str(value.value) if isinstance(value, enum.Enum) else str(value)


def _clean(value: object) -> str:
    """Text without a control byte; quotation marks and spaces as they are."""
    kind = type(value)
    if kind in _TRUSTED:
        return _TRUSTED[kind](value)
    text = value if isinstance(value, str) else _text(value)
    if isinstance(text, str) and len(text) <= FIELD and text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return _escaped(text, _ESCAPED)


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else _text(value)
    if isinstance(text, str) and '"' not in text:
        return f'"{_clean(text)}"'
    return f'"{_escaped(text, _ESCAPED_QUOTED)}"'


def _bare(value: object) -> str:
    kind = type(value)
    if kind in _TRUSTED:
        return _TRUSTED[kind](value)
    text = value if isinstance(value, str) else _text(value)
    if isinstance(text, str) and len(text) <= FIELD and _PLAIN.fullmatch(text):
        return text
    return _escaped(text, _ESCAPED_BARE)


# Exim's items


def _item(key: str, name: str, write: Callable[[object], str]) -> Item:
    """` KEY=value` of one field."""

    def item(fields: Fields) -> str:
        value = fields.get(name)
        return f" {key}={write(value)}" if value or _stands(value) else ""

    return item


def _socket(key: str, address: str, port: str) -> Item:
    """` KEY=[address]:port`."""

    def item(fields: Fields) -> str:
        value = fields.get(address)
        if not value:
            return ""
        number = fields.get(port)
        return f" {key}=[{_bare(value)}]" if number is None else f" {key}=[{_bare(value)}]:{_bare(number)}"

    return item


_numbered = _socket("H", "sender_host_address", "sender_host_port")


def _host(fields: Fields) -> str:
    """` H=name [address]:port`; Exim writes the name only where it is verified, and so do we."""
    name = fields.get("sender_host_name")
    here = _numbered(fields)
    return f" H={_bare(name)} {here[3:]}" if name and here else here


def _seconds(value: object) -> str:
    return f"{value:.3f}s" if isinstance(value, (int, float)) else _bare(value)


def _warning(fields: Fields) -> str:
    return f" Warning: {_clean(fields.get('message', ''))}"


_ARROWS = {"delivered": "=>", "deferred": "==", "bounced": "**"}


def _outcome(fields: Fields) -> str:
    """` => recipient`, as Exim writes a delivery, with `==` where it is put off and `**` where it failed for good."""
    return f" {_ARROWS[str(fields['outcome'])]} {_bare(fields.get('recipient', ''))}"


_next_hop = _socket("H", "address", "port")


def _destination(fields: Fields) -> str:
    """` H=name [address]:port` of the next hop; the name alone where none was connected to."""
    name = fields.get("host")
    here = _next_hop(fields)
    if not name:
        return here
    return f" H={_bare(name)} {here[3:]}" if here else f" H={_bare(name)}"


_PROXY_ITEMS: dict[str, Item] = {
    "TGT": _socket("TGT", "proxy_target_address", "proxy_target_port"),
    "PRX": _item("PRX", "proxy_host_address", _bare),
    "V": _item("V", "header_version", _bare),
    "HO": _item("HO", "handover", _bare),
}
_ITEMS: dict[str, Item] = _PROXY_ITEMS | {
    "H": _host,
    "I": _socket("I", "received_ip_address", "received_port"),
    "outcome": _outcome,
    "destination": _destination,
    "X": _item("X", "tls_out_cipher", _bare),
    "CV": _item("CV", "verified", _bare),
    "DN": _item("DN", "tls_out_peerdn", _quoted),
    "in": _item("in", "bytes_in", _bare),
    "out": _item("out", "bytes_out", _bare),
    "D": _item("D", "duration", _seconds),
    "R": _item("R", "reason", _bare),
    "C": _item("C", "reply", _quoted),
    "detail": _item("detail", "detail", _quoted),
    "Warning": _warning,
}
_SHAPES = {
    "connect": ("H", "I", "TGT", "PRX", "V", "HO"),
    "closed": ("H", "PRX", "in", "out", "D", "R", "detail"),
    "refused": ("H", "PRX", "R", "C", "detail"),
    "proxy_failed": ("H", "I", "PRX", "R", "C", "detail"),
    "warning": ("H", "Warning"),
    "delivery": ("outcome", "destination", "X", "CV", "DN", "R", "C", "detail", "D"),
    "attempt": ("destination", "X", "CV", "DN", "R", "C", "detail", "D"),
}
_UNNAMED = frozenset({"warning", "delivery"})  # Exim writes "ID H=... Warning: ...", "ID => ...", without a word more


def _generic(fields: Fields) -> str:
    """` key=value` of every field, in order."""
    return "".join(f" {_bare(key)}={_any(value)}" for key, value in fields.items() if value is not None and value != "")


def _any(value: object) -> str:
    if type(value) in _TRUSTED:
        return _bare(value)
    text = value if isinstance(value, str) else _text(value)
    return text if isinstance(text, str) and len(text) <= FIELD and _PLAIN.fullmatch(text) else _quoted(text)


# JSON's values

_FLAGS = frozenset({"proxy_session", "proxy_failed"})
_AS_IT_IS = frozenset({int, bool})


def _json_value(name: str, value: object) -> object:
    if name in _FLAGS:
        return bool(value)
    return round(value, 3) if isinstance(value, float) else _clean(value)


# Lines


class _Clock:
    """UTC with milliseconds; the text of the last second is kept, since thousands of lines share it."""

    __slots__ = ("_pattern", "_second", "_suffix", "_text")

    def __init__(self, pattern: str, suffix: str) -> None:
        self._pattern = pattern
        self._suffix = suffix
        self._second = -1
        self._text = ""

    def text(self, when: float) -> str:
        second, milliseconds = divmod(int(when * 1000 + 0.5), 1000)
        if second != self._second:
            self._text = datetime.fromtimestamp(second, UTC).strftime(self._pattern)
            self._second = second
        return f"{self._text}.{milliseconds:03d}{self._suffix}"


class Formatter:
    """`format` and `selectors` are the values of `config.model.LogFormat` and `Selector`; this module lies below them.

    Without "+proxy", TGT=, PRX=, V= and HO= are left out of Exim-style lines. JSON always has everything: whoever reads
    it picks by key. What "+probes" and "+host_lookup" add is decided where those records are made.
    """

    def __init__(self, format: str, selectors: Collection[str]) -> None:  # noqa: A002 - the policy's own word
        hidden = () if "+proxy" in selectors else _PROXY_ITEMS
        self._shapes = {
            event: tuple(_ITEMS[key] for key in keys if key not in hidden) for event, keys in _SHAPES.items()
        }
        self._encode = msgspec.json.Encoder().encode
        if format == "JSON":
            self._clock = _Clock("%Y-%m-%dT%H:%M:%S", "Z")
            self.line = self._json
        else:
            self._clock = _Clock("%Y-%m-%d %H:%M:%S", "")
            self.line = self._exim

    line: Callable[[Record, float], bytes]

    def _exim(self, record: Record, when: float) -> bytes:
        event, fields = record.event, record.fields
        shape = self._shapes.get(event)
        named = "" if event in _UNNAMED else f" {event}"
        items = _generic(fields) if shape is None else "".join([item(fields) for item in shape])
        return f"{self._clock.text(when)} {record.session or '-'}{named}{items}\n".encode("ascii")

    def _json(self, record: Record, when: float) -> bytes:
        line: dict[str, object] = {"time": self._clock.text(when), "event": record.event}
        if record.session:
            line["session"] = record.session
        for name, value in record.fields.items():
            if type(value) in _AS_IT_IS:
                line[name] = value
            elif value or _stands(value):
                line[name] = _json_value(name, value)
        return self._encode(line) + b"\n"
