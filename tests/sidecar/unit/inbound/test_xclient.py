"""XCLIENT: what is said of a client, and what each answer of the server means."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from postern_sidecar.config.model import Backend, HandoverKind, Inbound
from postern_sidecar.inbound.client import Client
from postern_sidecar.inbound.handover.base import Denied, Handed, Verdict
from postern_sidecar.inbound.handover.plain import Plain
from postern_sidecar.inbound.handover.xclient import MAX_COMMAND, Xclient, commands, xtext
from postern_sidecar.names import Endpoint, HostName, NameStatus
from postern_sidecar.replies import Reply

ALL = frozenset((b"NAME", b"ADDR", b"PORT", b"PROTO", b"HELO", b"LOGIN", b"REVERSE_NAME", b"DESTADDR", b"DESTPORT"))
GREETING = Reply(220, (b"mx ESMTP",))
BANNER = Reply(220, (b"mx ESMTP again",))
ANNOUNCED = Reply(250, (b"mx", b"PIPELINING", b"XCLIENT NAME ADDR"))
SILENT = Reply(250, (b"mx", b"PIPELINING"))


def client(address: str = "192.0.2.4", name: HostName | None = None, target: str | None = "198.51.100.25") -> Client:
    peer, local = Endpoint(ip_address("10.0.3.7"), 40000), Endpoint(ip_address("10.0.9.12"), 25)
    known = None if target is None else Endpoint(ip_address(target), 25)
    return Client(peer, local, Endpoint(ip_address(address), 40211), target=known, host_name=name)


def inbound(kind: HandoverKind = HandoverKind.XCLIENT, *, acknowledged: bool = False) -> Inbound:
    backend = Backend(port=2525, handover=kind, acknowledge_no_start_tls=acknowledged)
    return Inbound(name="smtp", port=25, backend=backend)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (HostName(NameStatus.VERIFIED, "a.example", "a.example"), b"NAME=a.example REVERSE_NAME=a.example"),
        (HostName(NameStatus.MISMATCH, None, "liar.example"), b"NAME=[UNAVAILABLE] REVERSE_NAME=liar.example"),
        (HostName(NameStatus.ABSENT), b"NAME=[UNAVAILABLE] REVERSE_NAME=[UNAVAILABLE]"),
        (HostName(NameStatus.FAILED), b"NAME=[TEMPUNAVAIL] REVERSE_NAME=[TEMPUNAVAIL]"),
        (HostName(NameStatus.FAILED, None, "p.example"), b"NAME=[TEMPUNAVAIL] REVERSE_NAME=p.example"),
        (HostName(NameStatus.VERIFIED, "x" * 256, "x" * 256), b"NAME=[UNAVAILABLE] REVERSE_NAME=[UNAVAILABLE]"),
        (None, b"NAME=[TEMPUNAVAIL] REVERSE_NAME=[TEMPUNAVAIL]"),
    ],
)
def test_name_says_what_reverse_dns_said(name: HostName | None, said: bytes) -> None:
    (line,) = commands(client(name=name), ALL)
    assert line == b"XCLIENT " + said + b" PORT=40211 DESTADDR=198.51.100.25 DESTPORT=25 ADDR=192.0.2.4\r\n"


def test_ipv6_has_its_prefix() -> None:
    (line,) = commands(client("2001:db8::4", target="2001:db8::25"), frozenset((b"ADDR", b"DESTADDR")))
    assert line == b"XCLIENT DESTADDR=IPV6:2001:db8::25 ADDR=IPV6:2001:db8::4\r\n"


def test_without_a_header_the_destination_is_our_own() -> None:
    assert b"DESTADDR=10.0.9.12" in commands(client(target=None), ALL)[0]


def test_long_names_are_split_and_addr_comes_last() -> None:
    long = HostName(NameStatus.VERIFIED, "n" * 250, "r" * 250)
    lines = commands(client(name=long), ALL)
    assert [line.count(b"=") for line in lines] == [1, 5]
    assert all(len(line) <= MAX_COMMAND and line.endswith(b"\r\n") for line in lines)
    assert lines[-1].endswith(b" ADDR=192.0.2.4\r\n")


def test_xtext() -> None:
    assert xtext("a+b=c d\u00e9") == b"a+2Bb+3Dc+20d+C3+A9"


def talk(kind: type[Xclient] | type[Plain], replies: list[Reply], *, acknowledged: bool = False) -> object:
    """What a talk comes to when the server gives these replies."""
    handover_kind = HandoverKind.XCLIENT if kind is Xclient else HandoverKind.PLAIN
    conversation = kind(inbound(handover_kind, acknowledged=acknowledged), "sidecar.example").talk(client())
    assert next(conversation) == b""
    sent = []
    try:
        for reply in replies:
            sent.append(conversation.send(reply))
    except StopIteration as done:
        assert all(line == b"EHLO sidecar.example\r\n" or line.startswith(b"XCLIENT ") for line in sent)
        return done.value
    raise AssertionError(f"still talking after {sent}")


def test_success_brings_the_banner_after_xclient() -> None:
    assert talk(Xclient, [GREETING, ANNOUNCED, BANNER, SILENT]) == Handed(bytes(BANNER), guarded=False)


def test_a_server_that_keeps_announcing_is_guarded_only_where_acknowledged() -> None:
    replies = [GREETING, ANNOUNCED, BANNER, ANNOUNCED]
    assert talk(Xclient, replies, acknowledged=True) == Handed(bytes(BANNER), guarded=True)
    denied = talk(Xclient, replies)
    assert isinstance(denied, Denied)
    assert "ProxyV2" in denied.advice
    assert "acknowledgeNoStartTLS" in denied.advice


def test_xforward_alone_needs_the_guard_too() -> None:
    replies = [GREETING, ANNOUNCED, BANNER, Reply(250, (b"mx", b"XFORWARD NAME ADDR"))]
    assert talk(Xclient, replies, acknowledged=True) == Handed(bytes(BANNER), guarded=True)


@pytest.mark.parametrize(
    "replies",
    [
        [Reply(554, (b"5.7.1 go away",))],
        [GREETING, SILENT],
        [GREETING, Reply(250, (b"mx", b"XCLIENT NAME"))],
        [GREETING, Reply(502, (b"no EHLO",))],
        [GREETING, ANNOUNCED, Reply(501, (b"5.5.4 bad",))],
        [GREETING, ANNOUNCED, Reply(502, (b"no",))],
        [GREETING, ANNOUNCED, Reply(503, (b"no",))],
        [GREETING, ANNOUNCED, Reply(550, (b"5.7.0 not authorized",))],
        [GREETING, ANNOUNCED, Reply(250, (b"ok",))],  # postscreen ignores it and says 250
        [GREETING, ANNOUNCED, Reply(354, (b"what",))],
    ],
)
def test_our_fault_is_not_the_clients(replies: list[Reply]) -> None:
    assert isinstance(talk(Xclient, replies), Denied)


@pytest.mark.parametrize(
    "reply", [Reply(421, (b"4.7.0 too many",)), Reply(550, (b"5.7.1 listed",)), Reply(554, (b"no",))]
)
def test_the_servers_verdict_is_the_clients(reply: Reply) -> None:
    assert talk(Xclient, [GREETING, ANNOUNCED, reply]) == Verdict(reply)


def test_a_verdict_may_come_with_the_second_ehlo() -> None:
    refused = Reply(554, (b"5.7.1 listed",))
    assert talk(Xclient, [GREETING, ANNOUNCED, BANNER, refused]) == Verdict(refused)


def test_plain_keeps_the_greeting_and_asks_for_the_guard() -> None:
    assert talk(Plain, [GREETING, SILENT]) == Handed(bytes(GREETING), guarded=False)
    assert talk(Plain, [GREETING, ANNOUNCED], acknowledged=True) == Handed(bytes(GREETING), guarded=True)
    assert isinstance(talk(Plain, [GREETING, ANNOUNCED]), Denied)
    busy = Reply(421, (b"4.3.2 busy",))
    assert talk(Plain, [busy]) == Verdict(busy)
