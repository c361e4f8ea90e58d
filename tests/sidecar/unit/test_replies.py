"""SMTP replies: whole, byte by byte, and everything that is none."""

import pytest

from postern_sidecar.replies import MAX_LINE, MAX_LINES, Reply, ReplyError, ReplyReader, reply_line

GOOD = [
    (b"220 mx.example.net ESMTP\r\n", [Reply(220, (b"mx.example.net ESMTP",))]),
    (b"220\r\n", [Reply(220, (b"",))]),
    (b"250-mx\r\n250-SIZE 100\r\n250 PIPELINING\r\n", [Reply(250, (b"mx", b"SIZE 100", b"PIPELINING"))]),
    (b"250 a\r\n354 b\r\n", [Reply(250, (b"a",)), Reply(354, (b"b",))]),
    (b"250 a\n", [Reply(250, (b"a",))]),
]
BAD = [
    b"hello\r\n",
    b"2x0 no\r\n",
    b"22\r\n",
    b"250_no\r\n",
    b"250-one\r\n251 two\r\n",
    b"250 a\rb\r\n",
    b"\r\n",
    b"250 " + b"x" * MAX_LINE + b"\r\n",
    b"250-" + b"x" * MAX_LINE,
    b"250-x\r\n" * (MAX_LINES + 1),
    "\u0662\u0665\u0660 digits\r\n".encode(),
]


@pytest.mark.parametrize(("wire", "replies"), GOOD)
def test_whole(wire: bytes, replies: list[Reply]) -> None:
    assert ReplyReader().feed(wire) == replies


@pytest.mark.parametrize(("wire", "replies"), GOOD)
def test_byte_by_byte(wire: bytes, replies: list[Reply]) -> None:
    reader = ReplyReader()
    assert [reply for octet in wire for reply in reader.feed(bytes([octet]))] == replies


@pytest.mark.parametrize("wire", BAD)
def test_what_is_no_reply(wire: bytes) -> None:
    with pytest.raises(ReplyError):
        ReplyReader().feed(wire)


@pytest.mark.parametrize(("wire", "replies"), GOOD[:3])
def test_as_on_the_wire(wire: bytes, replies: list[Reply]) -> None:
    assert bytes(replies[0]).replace(b"220 \r\n", b"220\r\n") == wire


def test_keywords_have_no_case() -> None:
    reply = Reply(250, (b"mx", b"size 100", b"XClient NAME ADDR", b"PIPELINING"))
    assert reply.keywords == {b"SIZE": b"100", b"XCLIENT": b"NAME ADDR", b"PIPELINING": b""}


@pytest.mark.parametrize(
    ("text", "code"), [(b"5.7.0 no", b"5.7.0"), (b"no code", b""), (b"5.7 no", b""), (b"a.b.c x", b"")]
)
def test_enhanced_code(text: bytes, code: bytes) -> None:
    assert Reply(550, (text,)).enhanced == code


def test_our_own_lines_are_printable_and_fit() -> None:
    line = reply_line("421 4.7.0", "wait\r\n250 ok \x00\u00e9" + "x" * 600)
    assert line.startswith(b"421 4.7.0 wait??250 ok ??xxx")
    assert len(line) == 512
    assert line.endswith(b"x\r\n")
