"""Log lines: the two styles to the byte, what is left out, and that no value can pass for another."""

from __future__ import annotations

import ast
import enum
import json
import re
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import postern_sidecar.logline as logline_module
from postern_sidecar.config.model import LogFormat, Selector
from postern_sidecar.dane import ocsp, verdict
from postern_sidecar.edge import dial
from postern_sidecar.inbound.limits import LimitKind
from postern_sidecar.logline import FIELD, REASONS, Formatter, Record
from postern_sidecar.lookup import hosts
from postern_sidecar.outbound import body, envelope, leg, opening
from postern_sidecar.outbound.plan import Level
from postern_sidecar.proxyproto.header import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WHEN = 1795339506.131  # 2026-11-22 09:25:06.131
EXIM = Formatter(LogFormat.EXIM.value, [Selector.PROXY.value])
JSON = Formatter(LogFormat.JSON.value, [])
ROOT = Path(logline_module.__file__ or "").parent

CLIENT: dict[str, object] = {
    "listener": "smtp",
    "sender_host_name": "mail.example.net",
    "sender_host_address": ip_address("192.0.2.4"),
    "sender_host_port": 40211,
    "received_ip_address": ip_address("10.0.9.12"),
    "received_port": 25,
}
PROXY: dict[str, object] = {
    "proxy_session": True,
    "proxy_host_address": ip_address("10.0.3.7"),
    "proxy_host_port": 52044,
    "proxy_target_address": ip_address("198.51.100.25"),
    "proxy_target_port": 25,
    "header_version": 2,
    "handover": "ProxyV2",
}
HOST: dict[str, object] = {"host": "mx.example.org", "address": ip_address("203.0.113.5"), "port": 25}
TLS: dict[str, object] = {
    "level": Level.DANE,
    "tls_out_dane": "yes",
    "tls_out_tlsa_usage": 8,
    "tls_out_cipher": "TLS1.3:TLS_AES_256_GCM_SHA384",
    "tls_out_peerdn": "CN=mx.example.org",
    "tlsa": "3 1 1 abcd",
    "verified": "dane",
}
SIX: dict[str, object] = {
    "sender_host_address": ip_address("2001:db8::1"),
    "sender_host_port": 1025,
    "received_ip_address": "2001:db8:f::25",
    "received_port": 0,
}


def exim(event: str, fields: dict[str, object], session: str = "c1f3", formatter: Formatter = EXIM) -> str:
    line = formatter.line(Record(event, session, fields), WHEN).decode("ascii")
    prefix = "2026-11-22 09:25:06.131 "
    assert line.startswith(prefix)
    assert line.endswith("\n")
    assert line.count("\n") == 1
    return line[len(prefix) : -1]


@pytest.mark.parametrize(
    ("event", "fields", "line"),
    [
        (
            "connect",
            CLIENT | PROXY,
            (
                "c1f3 connect H=mail.example.net [192.0.2.4]:40211 I=[10.0.9.12]:25 TGT=[198.51.100.25]:25 "
                "PRX=10.0.3.7 V=2 HO=ProxyV2"
            ),
        ),
        ("connect", SIX, "c1f3 connect H=[2001:db8::1]:1025 I=[2001:db8:f::25]:0"),
        ("connect", {"sender_host_address": "192.0.2.4"}, "c1f3 connect H=[192.0.2.4]"),
        ("connect", {}, "c1f3 connect"),
        ("connect", {"sender_host_name": "mail.example.net"}, "c1f3 connect"),
        (
            "closed",
            CLIENT | PROXY | {"bytes_in": 48211, "bytes_out": 702, "duration": 1.7712},
            "c1f3 closed H=mail.example.net [192.0.2.4]:40211 PRX=10.0.3.7 in=48211 out=702 D=1.771s",
        ),
        (
            "closed",
            SIX | {"bytes_in": 0, "bytes_out": 0, "duration": 900, "reason": "idle"},
            "c1f3 closed H=[2001:db8::1]:1025 in=0 out=0 D=900.000s R=idle",
        ),
        ("closed", {"duration": "odd one"}, "c1f3 closed D=odd\\x20one"),
        (
            "refused",
            SIX | PROXY | {"reason": "rule", "reply": "554 5.7.1 no", "detail": "rule spam"},
            'c1f3 refused H=[2001:db8::1]:1025 PRX=10.0.3.7 R=rule C="554 5.7.1 no" detail="rule spam"',
        ),
        ("refused", {"reason": "others", "reply": ""}, "c1f3 refused R=others"),
        (
            "proxy_failed",
            SIX | {"reason": "crc32c", "reply": b"421 4.3.2 x", "detail": None},
            'c1f3 proxy_failed H=[2001:db8::1]:1025 I=[2001:db8:f::25]:0 R=crc32c C="421 4.3.2 x"',
        ),
        (
            "delivery",
            HOST
            | TLS
            | {"outcome": "delivered", "recipient": b"user@example.org", "reply": "250 2.0.0 ok", "duration": 0.31},
            (
                "c1f3 => user@example.org H=mx.example.org [203.0.113.5]:25 X=TLS1.3:TLS_AES_256_GCM_SHA384 CV=dane "
                'DN="CN=mx.example.org" C="250 2.0.0 ok" D=0.310s'
            ),
        ),
        (
            "delivery",
            {
                "outcome": "deferred",
                "recipient": b'"a b"@x',
                "host": "mx.x",
                "reason": "tlsa_failed",
                "reply": b"451 4.7.5 no",
            },
            'c1f3 == \\x22a\\x20b\\x22@x H=mx.x R=tlsa_failed C="451 4.7.5 no"',
        ),
        (
            "delivery",
            {
                "outcome": "bounced",
                "recipient": b"u@x",
                "address": ip_address("2001:db8::1"),
                "port": 25,
                "reply": b"550 no",
            },
            'c1f3 ** u@x H=[2001:db8::1]:25 C="550 no"',
        ),
        (
            "attempt",
            HOST | {"level": Level.DANE, "reason": "connect_refused", "reply": b"451 4.4.1 x", "detail": "nobody"},
            'c1f3 attempt H=mx.example.org [203.0.113.5]:25 R=connect_refused C="451 4.4.1 x" detail="nobody"',
        ),
        (
            "warning",
            CLIENT | {"message": 'a "message" with = signs'},
            'c1f3 H=mail.example.net [192.0.2.4]:40211 Warning: a "message" with = signs',
        ),
    ],
)
def test_exim_lines_of_a_session(event: str, fields: dict[str, object], line: str) -> None:
    assert exim(event, fields) == line


class Colour(enum.Enum):
    RED = "bright red"


def test_exim_lines_of_the_service() -> None:
    fields: dict[str, object] = {
        "listener": "smtp",
        "address": "[::]:25",
        "at": ip_address("::1"),
        "count": 0,
        "share": 0.5,
        "open": False,
        "shut": True,
        "empty": "",
        "none": None,
        "raw": b"\x00a",
        "list": ["x"],
        "colour": Colour.RED,
        "message": "two words",
        "hash": "3f9c",
    }
    assert exim("config", fields, session="") == (
        '- config listener=smtp address="[::]:25" at=::1 count=0 share=0.500 open=no shut=yes raw="\\x00a" '
        'list="[\'x\']" colour="bright red" message="two words" hash=3f9c'
    )


def test_without_the_selector_nothing_of_the_proxy() -> None:
    plain = Formatter("Exim", [])
    line = exim("connect", CLIENT | PROXY, formatter=plain)
    assert line == "c1f3 connect H=mail.example.net [192.0.2.4]:40211 I=[10.0.9.12]:25"
    assert exim("refused", PROXY | {"reason": "rule"}, formatter=plain) == "c1f3 refused R=rule"


def test_json() -> None:
    fields = CLIENT | PROXY | {"duration": 1.77123, "bytes_in": 0, "reason": "", "detail": None, "proxy_failed": False}
    line = JSON.line(Record("closed", "c1f3", fields), WHEN)
    assert line == (
        b'{"time":"2026-11-22T09:25:06.131Z","event":"closed","session":"c1f3","listener":"smtp",'
        b'"sender_host_name":"mail.example.net","sender_host_address":"192.0.2.4","sender_host_port":40211,'
        b'"received_ip_address":"10.0.9.12","received_port":25,"proxy_session":true,"proxy_host_address":"10.0.3.7",'
        b'"proxy_host_port":52044,"proxy_target_address":"198.51.100.25","proxy_target_port":25,"header_version":2,'
        b'"handover":"ProxyV2","duration":1.771,"bytes_in":0,"proxy_failed":false}\n'
    )


def test_json_of_a_delivery() -> None:
    """The names of design section 8."""
    fields = (
        HOST | TLS | {"outcome": "delivered", "recipient": b"u@example.org", "reply": b"250 ok", "duration": 0.3101}
    )
    line = json.loads(JSON.line(Record("delivery", "o1", fields), WHEN))
    assert line == {
        "time": "2026-11-22T09:25:06.131Z",
        "event": "delivery",
        "session": "o1",
        "host": "mx.example.org",
        "address": "203.0.113.5",
        "port": 25,
        "level": "dane",
        "tls_out_dane": "yes",
        "tls_out_tlsa_usage": 8,
        "tls_out_cipher": "TLS1.3:TLS_AES_256_GCM_SHA384",
        "tls_out_peerdn": "CN=mx.example.org",
        "tlsa": "3 1 1 abcd",
        "verified": "dane",
        "outcome": "delivered",
        "recipient": "u@example.org",
        "reply": "250 ok",
        "duration": 0.31,
    }


def test_json_of_other_kinds() -> None:
    fields = {"proxy_failed": "timeout", "colour": Colour.RED, "raw": b"\xff", "at": ip_address("2001:db8::1")}
    line = json.loads(JSON.line(Record("dns", "", fields), WHEN))
    assert line == {
        "time": "2026-11-22T09:25:06.131Z",
        "event": "dns",
        "proxy_failed": True,
        "colour": "bright red",
        "raw": "\\xff",
        "at": "2001:db8::1",
    }


@pytest.mark.parametrize(
    ("when", "text"),
    [
        (0.0, "1970-01-01 00:00:00.000"),
        (0.9994, "1970-01-01 00:00:00.999"),
        (0.9996, "1970-01-01 00:00:01.000"),
        (951782399.9996, "2000-02-29 00:00:00.000"),
    ],
)
def test_time_is_rounded_into_the_next_second(when: float, text: str) -> None:
    assert EXIM.line(Record("drain", "", {}), when).decode() == f"{text} - drain\n"


def test_the_kept_second_is_not_kept_too_long() -> None:
    times = [EXIM.line(Record("x", "", {}), when)[:23] for when in (10.25, 10.75, 11.0, 10.5)]
    assert times == [b"1970-01-01 00:00:" + end for end in (b"10.250", b"10.750", b"11.000", b"10.500")]


@pytest.mark.parametrize(
    ("value", "escaped"),
    [
        ("a\nb\r\t\x7f\x1b[0m", "a\\x0ab\\x0d\\x09\\x7f\\x1b[0m"),
        ("é☃", "\\xc3\\xa9\\xe2\\x98\\x83"),
        ("\\x41", "\\x5cx41"),
        ("\udcff\ud800", "\\xed\\xb3\\xbf\\xed\\xa0\\x80"),
        (b"\x80\xff ok", "\\x80\\xff ok"),
    ],
)
def test_escaping(value: object, escaped: str) -> None:
    record = Record("warning", "c1", {"message": value})
    assert exim("warning", {"message": value}) == f"c1f3 Warning: {escaped}"
    assert json.loads(JSON.line(record, WHEN))["message"] == escaped


@pytest.mark.parametrize(
    ("value", "logged"),
    [
        ("x" * 256, "x" * 256),
        ("x" * 257, "x" * 253 + "..."),
        (b"x" * 100_000, "x" * 253 + "..."),
        ("x" * 250 + "\n\n", "x" * 250 + "..."),  # never half an escape
        ("\n" * 64, "\\x0a" * 64),
        ("\n" * 65, "\\x0a" * 63 + "..."),
    ],
)
def test_a_field_is_bounded(value: object, logged: str) -> None:
    assert len(logged) <= FIELD
    assert exim("warning", {"message": value}) == f"c1f3 Warning: {logged}"
    assert exim("refused", {"reply": value}) == f'c1f3 refused C="{logged}"'
    assert json.loads(JSON.line(Record("warning", "", {"message": value}), WHEN))["message"] == logged


@pytest.mark.parametrize(
    ("event", "fields", "line"),
    [
        (
            "connect",
            {"sender_host_name": "x [9.9.9.9]:1 PRX=8.8.8.8", "sender_host_address": "192.0.2.4"},
            "c1f3 connect H=x\\x20\\x5b9.9.9.9\\x5d:1\\x20PRX\\x3d8.8.8.8 [192.0.2.4]",
        ),
        (
            "refused",
            {"reply": '554 no" R=forged C="yes', "detail": "\\"},
            'c1f3 refused C="554 no\\x22 R=forged C=\\x22yes" detail="\\x5c"',
        ),
        ("config", {"message": 'a" hash="b', "x y": 1}, 'c1f3 config message="a\\x22 hash=\\x22b" x\\x20y=1'),
    ],
)
def test_no_value_passes_for_another(event: str, fields: dict[str, object], line: str) -> None:
    assert exim(event, fields) == line


_ITEM = re.compile(r' [A-Za-z_]+=("[^"]*"|[^ "]+ \[[^\] ]*\]|[^ "]*)(?= |$)')


@given(st.text(), st.one_of(st.text(), st.binary()), st.text())
def test_a_line_reads_in_one_way(name: str, reply: str | bytes, reason: str) -> None:
    fields: dict[str, object] = {"sender_host_address": "192.0.2.4", "sender_host_name": name}
    fields |= {"reason": reason, "reply": reply}
    line = exim("refused", fields)
    assert line.isprintable()
    body = line.removeprefix("c1f3 refused")
    keys = [match.group().split("=")[0].strip() for match in _ITEM.finditer(body)]
    assert "".join(match.group() for match in _ITEM.finditer(body)) == body
    assert keys == ["H", *(["R"] if reason else []), *(["C"] if reply else [])]
    assert json.loads(JSON.line(Record("refused", "c", fields), WHEN)).keys() <= {"time", "event", "session", *fields}


# What the page lists


def documented(heading: str) -> set[str]:
    page = (ROOT.parents[1] / "docs" / "logging.md").read_text().partition(f"## {heading}\n")[2]
    section = page if heading == "Reasons" else page.partition("\n#")[0]
    return set(re.findall(r"^\| `([a-z0-9_]+)` \|", section, re.MULTILINE))


def test_the_page_has_every_reason_and_no_other() -> None:
    assert documented("Reasons") == REASONS


_GIVES_A_REASON = {"_refuse", "_proxy_failed", "_backend_failed", "ConnectFailed", "expire", "dismiss", "_end", "Ended"}
_GIVES_AN_EVENT = {"event", "Record", "_log", "_record", "_refused", "session_record"}
_WORD = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", re.ASCII)


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


_MAKES_RECORDS = ("inbound/**/*.py", "outbound/record.py", "edge/*.py", "app.py")


def calls(*patterns: str) -> Iterator[ast.Call]:
    for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
        yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def words(arguments: Iterable[ast.AST]) -> set[str]:
    literals = {str(a.value) for a in arguments if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return {text for text in literals if _WORD.fullmatch(text)}


def test_the_code_gives_no_reason_that_is_not_on_the_list() -> None:
    """Literals among the arguments of the calls that take a reason; a probe's end is no reason."""
    literal: set[str] = set()
    for call in calls("inbound/**/*.py", "edge/*.py", "app.py"):
        if "PROBE" not in ast.unparse(call):
            literal |= words(call.args if _called(call) in _GIVES_A_REASON else ())
            literal |= words(k.value for k in call.keywords if k.arg in ("reason", "end"))
    assert {"rule", "backend_closed"} <= literal  # or this test reads the wrong calls
    assert literal | {reason.value for reason in Reason} | {kind.value for kind in LimitKind} <= REASONS


_FAILS_A_HOST = {
    "failure",
    "_failed",
    "_refused",
    "Verdict",
    "HostFailure",
    "NotTrusted",
    "Failed",
    "_Against",
    "Refusal",
}
_LOSES_A_CONNECTION = {"_lose", "_give_up", "Lost"}


def test_outbound_gives_no_reason_that_is_not_on_the_list() -> None:
    literal: set[str] = set()
    for call in calls("outbound/*.py", "edge/*.py"):
        if _called(call) in _FAILS_A_HOST | _LOSES_A_CONNECTION:
            literal |= {word for word in words(call.args) if "_" in word}
    assert {"starttls_missing", "tls_failed", "insecure_mx", "per_destination"} <= literal
    kinds: tuple[type[enum.Enum], ...] = (verdict.Reason, hosts.Fault, body.Fault, leg.Broken)
    listed = literal | {each.value for kind in kinds for each in kind}
    listed |= {f"ocsp_{status.value}" for status in ocsp.Status} - {"ocsp_good"}
    listed |= set(dial._REASONS.values()) | {opening.missing(_NEEDY, each)[0] for each in _LACKING}  # type: ignore[index]
    assert listed <= REASONS


_NEEDY = envelope.Sender(b"a@b", size=2, eight_bit=True, smtputf8=True)
_LACKING: list[dict[bytes, bytes]] = [{}, {b"SMTPUTF8": b""}, {b"SMTPUTF8": b"", b"8BITMIME": b"", b"SIZE": b"1"}]


def test_the_page_has_every_event_and_no_other() -> None:
    literal: set[str] = set()
    for call in calls(*_MAKES_RECORDS):
        if _called(call) in _GIVES_AN_EVENT and call.args:
            literal |= words(ast.walk(call.args[0]))
    assert literal == documented("Events")
