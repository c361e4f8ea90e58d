"""MAIL and RCPT: what is taken as what, what is refused with which code, and who shares a next hop."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postern_sidecar.config.model import Outbound, Route
from postern_sidecar.config.scalars import HostPort, Pattern
from postern_sidecar.names import domain
from postern_sidecar.outbound.envelope import Recipient, Sender
from postern_sidecar.outbound.settings import Settings
from postern_sidecar.outbound.transaction import MAX_PATH, Refused, parse_mail, parse_rcpt, same_next_hop

if TYPE_CHECKING:
    from collections.abc import Callable

    from postern_sidecar.names import Address, Domain

LIMIT = 1000


def mail(argument: bytes, *, extended: bool = True) -> Sender:
    return parse_mail(argument, LIMIT, extended=extended)


def rcpt(argument: bytes, *, utf8: bool = False, extended: bool = True) -> Recipient:
    return parse_rcpt(argument, extended=extended, utf8=utf8)


@pytest.mark.parametrize(
    ("argument", "sender"),
    [
        (b"FROM:<a@b.example>", Sender(b"a@b.example")),
        (b"from: <a@b.example> ", Sender(b"a@b.example")),
        (b"FROM:<>", Sender(b"")),
        (b"FROM:<> BODY=8BITMIME", Sender(b"", eight_bit=True)),
        (b"FROM:<a@b.example> body=7bit size=1000", Sender(b"a@b.example", size=1000)),
        (b"FROM:<a@b.example> SIZE", Sender(b"a@b.example")),
        (b"FROM:<a@b.example>  SIZE=0  BODY=7BIT ", Sender(b"a@b.example")),
        (b"FROM:<a@b.example> RET=hdrs ENVID=a+2Bb>", Sender(b"a@b.example", ret=b"HDRS", envid=b"a+2Bb>")),
        (b"FROM:<@x,@y:a@b.example>", Sender(b"a@b.example")),
        (b'FROM:<"a>\\" @"@b.example>', Sender(b'"a>\\" @"@b.example')),
        (b"FROM:<a@[192.0.2.1]>", Sender(b"a@[192.0.2.1]")),
        (b"FROM:<\xc3\xa9@b.example> SMTPUTF8", Sender(b"\xc3\xa9@b.example", smtputf8=True)),
        (b"FROM:<a..b.@b.example>", Sender(b"a..b.@b.example")),
        (b"FROM:<prvs=1=a+b/c@b.example>", Sender(b"prvs=1=a+b/c@b.example")),
    ],
)
def test_mail(argument: bytes, sender: Sender) -> None:
    assert mail(argument) == sender


@pytest.mark.parametrize(
    ("argument", "recipient"),
    [
        (b"TO:<u@D.Example>", Recipient(b"u@D.Example", domain("d.example"))),
        (b"TO:<u@d.example.>", Recipient(b"u@d.example.", domain("d.example"))),
        (b"to: <@a:u@d.example>", Recipient(b"u@d.example", domain("d.example"))),
        (b"TO:<u@[192.0.2.1]>", Recipient(b"u@[192.0.2.1]", ip_address("192.0.2.1"))),
        (b"TO:<u@[IPv6:2001:db8::1]>", Recipient(b"u@[IPv6:2001:db8::1]", ip_address("2001:db8::1"))),
        (b"TO:<u@[ipv6:::ffff:127.0.0.1]>", Recipient(b"u@[ipv6:::ffff:127.0.0.1]", ip_address("127.0.0.1"))),
        (b'TO:<"u v"@d.example>', Recipient(b'"u v"@d.example', domain("d.example"))),
        (b"TO:<postmaster@d.example>", Recipient(b"postmaster@d.example", domain("d.example"))),
        (b"TO:<u@d.example> NOTIFY=never", Recipient(b"u@d.example", domain("d.example"), b"NEVER")),
        (
            b"TO:<u@d.example> NOTIFY=success,FAILURE,delay ORCPT=rfc822;u+2Bx@d",
            Recipient(b"u@d.example", domain("d.example"), b"SUCCESS,FAILURE,DELAY", b"rfc822;u+2Bx@d"),
        ),
    ],
)
def test_rcpt(argument: bytes, recipient: Recipient) -> None:
    assert rcpt(argument) == recipient


def test_u_labels_are_found_as_a_labels_and_sent_as_they_came() -> None:
    path = "u@b\u00fccher.example".encode()
    assert rcpt(b"TO:<" + path + b">", utf8=True) == Recipient(path, domain("xn--bcher-kva.example"))


def test_orcpt_may_be_utf8_where_smtputf8_was_said() -> None:
    assert rcpt(b"TO:<u@d.example> ORCPT=utf-8;\xc3\xa9", utf8=True).orcpt == b"utf-8;\xc3\xa9"


MAIL_REFUSED = [
    (b"", "501 5.5.4"),
    (b"FROM:a@b.example", "501 5.5.4"),
    (b"FROM:<a@b.example", "501 5.5.4"),
    (b"TO:<a@b.example>", "501 5.5.4"),
    (b"FROM:<a@b.example>SIZE=1", "501 5.5.4"),
    (b"FROM:<a b@b.example>", "501 5.5.4"),
    (b"FROM:<a\rb@b.example>", "501 5.5.4"),
    (b"FROM:<a@b@c.example>", "501 5.1.7"),
    (b"FROM:<@b.example>", "501 5.1.7"),
    (b"FROM:<a@-.example>", "501 5.1.7"),
    (b"FROM:<a@.>", "501 5.1.7"),
    (b"FROM:<a@b..example>", "501 5.1.7"),
    (b"FROM:<a@[300.0.0.1]>", "501 5.1.7"),
    (b"FROM:<a@[192.0.2.1>", "501 5.1.7"),
    (b"FROM:<a@[2001:db8::1]>", "501 5.1.7"),
    (b"FROM:<a@[IPv6:192.0.2.1]>", "501 5.1.7"),
    (b"FROM:<a@[IPv6:fe80::1%eth0]>", "501 5.1.7"),
    (b"FROM:<root>", "553 5.1.7"),
    (b"FROM:<" + b"a" * MAX_PATH + b"@b.example>", "501 5.1.7"),
    (b"FROM:<\xc3\xa9@b.example>", "553 5.6.7"),
    (b"FROM:<\xff@b.example> SMTPUTF8", "501 5.1.7"),
    (b"FROM:<a@b.example> SMTPUTF8=1", "501 5.5.4"),
    (b"FROM:<a@b.example> SIZE=x", "501 5.5.4"),
    (b"FROM:<a@b.example> SIZE=" + b"1" * 21, "501 5.5.4"),
    (b"FROM:<a@b.example> SIZE=1001", "552 5.3.4"),
    (b"FROM:<a@b.example> BODY=BINARYMIME", "501 5.5.4"),
    (b"FROM:<a@b.example> BODY", "501 5.5.4"),
    (b"FROM:<a@b.example> RET", "501 5.5.4"),
    (b"FROM:<a@b.example> RET=SOME", "501 5.5.4"),
    (b"FROM:<a@b.example> ENVID", "501 5.5.4"),
    (b"FROM:<a@b.example> ENVID=" + b"x" * 101, "501 5.5.4"),
    (b"FROM:<a@b.example> ENVID=a+zz", "501 5.5.4"),
    (b"FROM:<a@b.example> ENVID=a=b", "501 5.5.4"),
    (b"FROM:<a@b.example> SIZE=1 size=1", "501 5.5.4"),
    (b"FROM:<a@b.example> =1", "501 5.5.4"),
    (b"FROM:<a@b.example> AUTH=<>", "555 5.5.4"),
    (b"FROM:<a@b.example> REQUIRETLS", "555 5.5.4"),
    (b"FROM:<a@b.example> NOTIFY=NEVER", "555 5.5.4"),
]
RCPT_REFUSED = [
    (b"", "501 5.5.4"),
    (b"FROM:<u@d.example>", "501 5.5.4"),
    (b"TO:<>", "501 5.1.3"),
    (b"TO:<postmaster>", "553 5.1.3"),
    (b"TO:<u@d_!.example>", "501 5.1.3"),
    (b"TO:<u@b\xc3\xbccher.example>", "553 5.6.7"),
    (b"TO:<u@d.example> NOTIFY", "501 5.5.4"),
    (b"TO:<u@d.example> NOTIFY=NEVER,SUCCESS", "501 5.5.4"),
    (b"TO:<u@d.example> NOTIFY=SOMETIMES", "501 5.5.4"),
    (b"TO:<u@d.example> ORCPT", "501 5.5.4"),
    (b"TO:<u@d.example> ORCPT=u@d", "501 5.5.4"),
    (b"TO:<u@d.example> ORCPT=rfc822;" + b"x" * 500, "501 5.5.4"),
    (b"TO:<u@d.example> ORCPT=utf-8;\xc3\xa9", "553 5.6.7"),
    (b"TO:<u@d.example> SIZE=1", "555 5.5.4"),
]


@pytest.mark.parametrize(("argument", "code"), MAIL_REFUSED)
def test_mail_refused(argument: bytes, code: str) -> None:
    with pytest.raises(Refused) as refused:
        mail(argument)
    assert bytes(refused.value.reply).decode().startswith(code + " ")


@pytest.mark.parametrize(("argument", "code"), RCPT_REFUSED)
def test_rcpt_refused(argument: bytes, code: str) -> None:
    with pytest.raises(Refused) as refused:
        rcpt(argument)
    assert bytes(refused.value.reply).decode().startswith(code + " ")


def test_parameters_need_ehlo() -> None:
    assert mail(b"FROM:<a@b.example>", extended=False) == Sender(b"a@b.example")
    for refused in (
        lambda: mail(b"FROM:<a@b.example> SIZE=1", extended=False),
        lambda: rcpt(b"TO:<a@b.example> NOTIFY=NEVER", extended=False),
    ):
        with pytest.raises(Refused, match="need EHLO"):
            refused()


def said(command: Callable[[], Sender | Recipient]) -> tuple[bytes, bytes]:
    """The path, or the reply."""
    try:
        return command().path, b""
    except Refused as refused:
        return b"", bytes(refused.reply)


@given(st.binary(max_size=80))
@settings(deadline=None)
def test_anything_is_taken_or_refused_in_one_printable_line(argument: bytes) -> None:
    for command in (
        lambda: mail(b"FROM:<" + argument),
        lambda: rcpt(b"TO:<" + argument, utf8=True),
        lambda: rcpt(b"TO:<a@b.example> " + argument, utf8=True),
        lambda: mail(b"FROM:<a@b.example> " + argument),
    ):
        path, reply = said(command)
        assert not set(path) & set(b"\r\n\0")
        assert not reply or reply[:-2].decode("ascii").isprintable()


# Next hops

CORP = Route(domains=(Pattern("corp.example"), Pattern("*.corp.example")), via=HostPort("relay.example:25"))
SETTINGS = Settings(Outbound(routes=(CORP,)), "mail.example.net")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (domain("a.example"), domain("a.example"), True),
        (domain("a.example"), domain("b.example"), False),
        (domain("corp.example"), domain("x.corp.example"), True),
        (domain("corp.example"), domain("a.example"), False),
        (ip_address("192.0.2.1"), ip_address("192.0.2.1"), True),
        (ip_address("192.0.2.1"), ip_address("192.0.2.2"), False),
    ],
)
def test_same_next_hop(one: Domain | Address, other: Domain | Address, same: bool) -> None:
    keys = {same_next_hop(SETTINGS, one), same_next_hop(SETTINGS, other)}
    assert (len(keys) == 1) is same
