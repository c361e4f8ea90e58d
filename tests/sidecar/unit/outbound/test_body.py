"""DATA's octets: the same in any fragmentation, and nothing that another server would take for the end but the end."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from postern_sidecar.config.model import BareNewline
from postern_sidecar.outbound.body import DRAIN, MAX_RECEIVED, Body, Fault

REJECT, NORMALIZE = BareNewline.REJECT, BareNewline.NORMALIZE
END = b".\r\n"
LIMIT = 1 << 20


@dataclass(frozen=True)
class Passed:
    data: bytes
    ended: bool
    rest: bytes
    fault: Fault | None


def run(mode: BareNewline, pieces: list[bytes], limit: int = LIMIT) -> Passed:
    body = Body(mode, limit)
    out = b""
    for number, piece in enumerate(pieces):
        fed = body.feed(piece)
        out += fed.data
        if fed.ended:
            return Passed(out, True, fed.rest + b"".join(pieces[number + 1 :]), body.fault)
    return Passed(out, False, b"", body.fault)


def bytewise(wire: bytes) -> list[bytes]:
    return [wire[at : at + 1] for at in range(len(wire))]


TABLE = [
    # What comes, what goes on under Reject (None: refused), what under Normalize
    (b".\r\n", b"", b""),
    (b"a\r\n.\r\n", b"a\r\n", b"a\r\n"),
    (b"\r\n.\r\n", b"\r\n", b"\r\n"),
    (b"a\r\n..\r\n.\r\n", b"a\r\n..\r\n", b"a\r\n..\r\n"),
    (b"..\r\n.\r\n", b"..\r\n", b"..\r\n"),
    (b"a\r\n.b\r\n.\r\n", b"a\r\n.b\r\n", b"a\r\n.b\r\n"),
    (b"a\r\n. \r\n.\r\n", b"a\r\n. \r\n", b"a\r\n. \r\n"),
    (b"a.\r\n.\r\n", b"a.\r\n", b"a.\r\n"),
    (b"\xff\xfe\r\n.\r\n", b"\xff\xfe\r\n", b"\xff\xfe\r\n"),
    (b"x" * 5000 + b"\r\n.\r\n", b"x" * 5000 + b"\r\n", b"x" * 5000 + b"\r\n"),
    # Smuggling: CVE-2023-51764 and its relatives
    (b"a\n.\n\r\n.\r\n", None, b"a\r\n..\r\n\r\n"),
    (b"a\n.\r\n\r\n.\r\n", None, b"a\r\n..\r\n\r\n"),
    (b"a\r\n.\n\r\n.\r\n", None, b"a\r\n\r\n\r\n"),
    (b"a\r.\r\r\n.\r\n", None, b"a\r\n..\r\n"),
    (b"a\r\n.\r\r\n.\r\n", None, b"a\r\n\r\n"),
    (b"a\r\n.\rb\r\n.\r\n", None, b"a\r\n\r\nb\r\n"),
    (b"a\r\n.\r\r\r\n.\r\n", None, b"a\r\n\r\n\r\n"),
    (b"a\r.\r\n.\r\n", None, b"a\r\n..\r\n"),
    (b"a\n.\r.\n\r\n.\r\n", None, b"a\r\n..\r\n..\r\n\r\n"),
    (b"a\r\n\n.\n.\r\n\r\n.\r\n", None, b"a\r\n\r\n..\r\n..\r\n\r\n"),
    (b".\n\r\n.\r\n", None, b"\r\n\r\n"),
    (b".\r\r\n.\r\n", None, b"\r\n"),
    (b"\n.\r\n\r\n.\r\n", None, b"\r\n..\r\n\r\n"),
    (b"a\nb\rc\r\n.\r\n", None, b"a\r\nb\r\nc\r\n"),
    (b"a\n..b\r\n.\r\n", None, b"a\r\n...b\r\n"),
    (b"Subject: a\r\r\nTo: b\r\n.\r\n", None, b"Subject: a\r\nTo: b\r\n"),
    (b"a\r\r\r\nb\r\n.\r\n", None, b"a\r\n\r\nb\r\n"),
    (b"a\r\r\r\r.b\r\n.\r\n", None, b"a\r\n\r\n\r\n\r\n..b\r\n"),
    (b"a\nb\r.c\r\n.\r\n", None, b"a\r\nb\r\n..c\r\n"),
    # NUL
    (b"a\r\n.\0\r\n.\r\n", None, b"a\r\n.?\r\n"),
    (b"a\r\n\0.\r\n.\r\n", None, b"a\r\n?.\r\n"),
    (b"a\n.\0\r\n.\r\n", None, b"a\r\n..?\r\n"),
]
SPLITS = ["whole", "bytewise", "trailing"]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("wire", "rejected", "normalized"), TABLE)
def test_what_passes(wire: bytes, rejected: bytes | None, normalized: bytes, split: str) -> None:
    rest = b"MAIL FROM:<>\r\n.\r\n" if split == "trailing" else b""
    pieces = bytewise(wire) if split == "bytewise" else [wire + rest]
    assert run(NORMALIZE, pieces) == Passed(normalized, True, rest, None)
    strict = run(REJECT, pieces)
    if rejected is None:
        fault = Fault.BARE_NEWLINE if re.search(rb"\r(?!\n)|(?<!\r)\n", wire) else Fault.NUL
        assert (strict.ended, strict.rest, strict.fault) == (True, rest, fault)
    else:
        assert strict == Passed(rejected, True, rest, None)


@pytest.mark.parametrize("mode", BareNewline)
@pytest.mark.parametrize("wire", [b"a\r\n.", b"a\r\n.\r", b"a\r", b".", b".\r", b"a\n.\n", b"a\r\n..\r\n", b""])
def test_what_does_not_end(mode: BareNewline, wire: bytes) -> None:
    assert not run(mode, [wire]).ended
    assert not run(mode, bytewise(wire)).ended


WIRE = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"..", b"\0", b"a", b"\r\n.", b".\r\n", b"\r\n.\r\n", b"\r\r\n"]),
    max_size=14,
).map(b"".join)
CUTS = st.lists(st.integers(0, 60), max_size=8)


def cut(wire: bytes, at: list[int]) -> list[bytes]:
    marks = sorted({0, len(wire), *(mark for mark in at if mark < len(wire))})
    return [wire[a:b] for a, b in itertools.pairwise(marks)]


def unstuffed(wire: bytes) -> bytes:
    """What a server that knows the RFC reads (RFC 5321 4.5.2)."""
    return re.sub(rb"(\A|\r\n)\.", rb"\1", wire)


def end_of(wire: bytes) -> int:
    return (b"\r\n" + wire).find(b"\r\n.\r\n")


@given(WIRE, CUTS, st.sampled_from(BareNewline))
@settings(max_examples=1500, deadline=None)
@example(b"a\r\n.\r\r\n.\r\n", [5], NORMALIZE)
@example(b"a\n.\n\r\n.\r\n", [2], NORMALIZE)
def test_every_fragmentation_gives_the_same(wire: bytes, at: list[int], mode: BareNewline) -> None:
    whole, pieces = run(mode, [wire]), run(mode, cut(wire, at))
    assert (whole.ended, whole.rest) == (pieces.ended, pieces.rest)
    if whole.fault is None:
        assert (whole.data, None) == (pieces.data, pieces.fault)
    else:  # which of two faults is met first, and how much had passed by then, depends on the pieces
        assert pieces.fault is not None
        assert not whole.data


@given(WIRE, CUTS, st.sampled_from(BareNewline))
@settings(max_examples=1500, deadline=None)
def test_the_end_is_where_the_rfc_has_it(wire: bytes, at: list[int], mode: BareNewline) -> None:
    passed, end = run(mode, cut(wire, at)), end_of(wire)
    assert passed.ended is (end >= 0)
    assert passed.rest == (wire[end + 3 :] if end >= 0 else b"")


@given(WIRE, CUTS, st.sampled_from(BareNewline))
@settings(max_examples=1500, deadline=None)
def test_no_other_server_sees_an_end(wire: bytes, at: list[int], mode: BareNewline) -> None:
    """Taking CR, LF or CRLF for a line end, with NUL dropped, or NUL for the end of a string."""
    data = run(mode, cut(wire, at)).data
    assert re.search(rb"(?:\A|[\r\n])\0*\.\0*[\r\n\0]", data + b"x") is None
    assert re.search(rb"\r(?!\n)|(?<!\r)\n", data) is None


@given(WIRE, CUTS)
@settings(max_examples=1500, deadline=None)
def test_normalize_changes_line_ends_and_nul_only(wire: bytes, at: list[int]) -> None:
    passed, end = run(NORMALIZE, cut(wire, at)), end_of(wire)
    if end < 0:
        return
    assert passed.data == b"" or passed.data.endswith(b"\r\n")
    content = unstuffed(wire[:end]).replace(b"\0", b"?")
    assert unstuffed(passed.data) == re.sub(rb"\r?\r\n|\r|\n", b"\r\n", content)


@given(WIRE, CUTS)
@settings(max_examples=500, deadline=None)
def test_reject_changes_nothing(wire: bytes, at: list[int]) -> None:
    passed, end = run(REJECT, cut(wire, at)), end_of(wire)
    if passed.fault is None and end >= 0:
        assert passed.data == wire[:end]
    clean = not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", wire[:end] if end >= 0 else b"")
    assert end < 0 or (passed.fault is None) is clean


# Size


@pytest.mark.parametrize("pieces", [[b"12345678\r\n.\r\n"], bytewise(b"12345678\r\n.\r\n")])
def test_the_limit_itself_is_allowed(pieces: list[bytes]) -> None:
    assert run(REJECT, pieces, 10).fault is None
    assert run(REJECT, pieces, 9) == Passed(run(REJECT, pieces, 9).data, True, b"", Fault.TOO_BIG)


@pytest.mark.parametrize("mode", BareNewline)
@pytest.mark.parametrize("wire", [b"..\r\n...\r\n.\r\n", b".\r\n"])
def test_stuffing_dots_and_the_end_do_not_count(mode: BareNewline, wire: bytes) -> None:
    """RFC 1870 5."""
    size = len(unstuffed(wire[:-3]))
    assert run(mode, [wire], size).fault is None
    assert run(mode, bytewise(wire), size).fault is None
    if size:
        assert run(mode, bytewise(wire), size - 1).fault is Fault.TOO_BIG


@pytest.mark.parametrize("pieces", [[b"a\n.b\r\n.\r\n"], bytewise(b"a\n.b\r\n.\r\n")])
def test_what_normalize_makes_counts(pieces: list[bytes]) -> None:
    assert run(NORMALIZE, pieces, 7).fault is None
    assert run(NORMALIZE, pieces, 6).fault is Fault.TOO_BIG


def test_after_a_fault_nothing_passes_and_the_end_is_still_found() -> None:
    body = Body(REJECT, LIMIT)
    assert body.feed(b"a\nb").data == b""
    assert body.feed(b"c\r\n").data == b""
    assert body.feed(b".\r\nQUIT\r\n") == (b"", True, b"QUIT\r\n")
    assert body.fault is Fault.BARE_NEWLINE


def test_only_so_much_is_read_after_a_fault() -> None:
    body = Body(REJECT, 10)
    chunk = b"x" * (DRAIN + 10)
    body.feed(chunk)
    assert not body.exhausted
    body.feed(b"x")
    assert body.exhausted


def test_the_first_fault_counts() -> None:
    body = Body(REJECT, 4)
    body.feed(b"a\n")
    body.feed(b"\0" * 10)
    assert body.fault is Fault.BARE_NEWLINE
    assert body.eof() is Fault.BARE_NEWLINE


def test_a_submitter_that_leaves_has_sent_no_message() -> None:
    body = Body(REJECT, LIMIT)
    body.feed(b"a\r\n.\r")
    assert body.eof() is Fault.GONE
    assert body.feed(b"\n") == (b"", True, b"")


def test_replies() -> None:
    assert {fault: bytes(fault.reply)[:9] for fault in Fault} == {
        Fault.BARE_NEWLINE: b"550 5.5.2",
        Fault.NUL: b"550 5.6.0",
        Fault.TOO_BIG: b"552 5.3.4",
        Fault.LOOP: b"554 5.4.6",
        Fault.GONE: b"451 4.4.2",
    }


# Loops

FIELD = b"Received: from x by y\r\n\twith Received: z\r\n"


@pytest.mark.parametrize("mode", BareNewline)
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    ("header", "loop"),
    [
        (FIELD * MAX_RECEIVED, False),
        (FIELD * (MAX_RECEIVED + 1), True),
        (b"received: x\r\n" * MAX_RECEIVED + b"RECEIVED:x\r\n", True),
        (b"X-Received: y\r\n" * (MAX_RECEIVED + 1), False),
        (FIELD * MAX_RECEIVED + b"Subject: x\r\n\r\n" + FIELD, False),
        (b"\r\n" + FIELD * (MAX_RECEIVED + 1), False),
    ],
)
def test_loops(mode: BareNewline, split: bool, header: bytes, loop: bool) -> None:
    wire = header + END
    pieces = bytewise(wire) if split else [wire]
    assert run(mode, pieces).fault is (Fault.LOOP if loop else None)


def test_a_loop_is_seen_behind_normalized_line_ends() -> None:
    assert run(NORMALIZE, [b"Received: x\n" * (MAX_RECEIVED + 1) + b"\r\n.\r\n"]).fault is Fault.LOOP


def test_nothing_fed_is_nothing() -> None:
    assert Body(REJECT, LIMIT).feed(b"") == (b"", False, b"")
