"""What the submitter is told: our own texts, and a next hop's, made fit to be passed on (contracts section 5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postern_sidecar.lookup.hosts import Fault
from postern_sidecar.outbound import replies
from postern_sidecar.outbound.replies import FAULTS, OK, RCPT_OK, Text, passed_on, printable, shown
from postern_sidecar.replies import Reply, ReplyReader

OURS = [text for text in vars(replies).values() if isinstance(text, Text)]


@pytest.mark.parametrize("text", OURS, ids=lambda text: text.text)
def test_ours_have_one_line_and_one_meaning(text: Text) -> None:
    reply = text("mx.example.org")
    assert len(reply.lines) == 1
    assert reply.code // 100 == int(text.enhanced[0])
    assert reply.enhanced.decode() == text.enhanced
    assert reply.code != 421
    assert len(bytes(text("x" * 1000))) <= 512


def test_every_fault_of_the_dns_stage_has_its_reply() -> None:
    assert set(FAULTS) == set(Fault)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (Reply(250, (b"2.1.5 ok",)), Reply(250, (b"2.1.5 ok",))),
        (Reply(550, (b"5.1.1 no", b"5.1.1 such user")), Reply(550, (b"5.1.1 no", b"5.1.1 such user"))),
        (Reply(421, (b"4.7.0 busy", b"4.7.0 later")), Reply(451, (b"4.7.0 busy", b"4.7.0 later"))),
        (Reply(450, (b"",)), Reply(450, (b"",))),
        (Reply(550, (b"a\x07b\xc3\xa9",)), Reply(550, (b"a\\x07b\\xc3\\xa9",))),
        (Reply(550, (b"\r",)), Reply(550, (b"\\x0d",))),
    ],
)
def test_passed_on(said: Reply, told: Reply) -> None:
    assert passed_on(said, OK, "mx") == told


@pytest.mark.parametrize("code", [0, 100, 199, 220, 252, 299, 354, 600, 999])
def test_what_makes_no_sense_is_451_4_5_0(code: int) -> None:
    assert passed_on(Reply(code, (b"2.0.0 trust me",)), RCPT_OK, "mx") == Reply(
        451, (b"4.5.0 mx sent an unexpected reply",)
    )


@given(st.binary(max_size=3000))
def test_whatever_is_said_is_one_printable_line(text: bytes) -> None:
    line = bytes(passed_on(Reply(550, (text,)), OK, "mx"))
    assert len(line) <= 512
    assert line.removesuffix(b"\r\n").isascii()
    assert line.removesuffix(b"\r\n").decode().isprintable()
    assert len(ReplyReader().feed(line)) == 1


def test_a_long_word_is_cut() -> None:
    assert len(printable(b"x" * 600)) == len(printable(b"x " * 300)) == len(printable(b"\0" * 300)) == 506


def test_shown_on_one_line() -> None:
    assert shown(Reply(250, (b"mx ", b"SIZE 10", b""))) == b"250 mx SIZE 10 "
