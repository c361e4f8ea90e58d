"""When the grace of a drain is over: whom it ends at once, whom after a second of quiet, and whom last."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from postern_sidecar.config.model import Protocol
from postern_sidecar.edge.drain import LAST, QUIET, press
from postern_sidecar.inbound.speech import Speech

if TYPE_CHECKING:
    from postern_sidecar.edge.splice import Splice

OVER = 1000.0  # the grace
SMTP = Speech(Protocol.SMTP, False, "mx")
SMTPS = Speech(Protocol.SMTP, True, "mx")
IMAP = Speech(Protocol.IMAP, False, "mx")
TLS = b"\x17\x03\x03\x00"


def pressed(speech: Speech, head: bytes, *, server_last: bool, silent: float, since: float, reason: str = "") -> str:
    done = []
    session = SimpleNamespace(
        reason=reason,
        server_last=server_last,
        head=head,
        last=OVER + since - silent,
        expire=lambda why: done.append(f"cut off: {why}"),
        dismiss=lambda text, why: done.append(f"{text.decode().rstrip() or 'closed'}: {why}"),
    )
    press(cast("Splice", session), speech, OVER + since, OVER)
    return "".join(done)


TOLD = "421 4.3.2 mx shutting down, try again: shutdown"
CLOSED = "closed: shutdown"
CUT = "cut off: shutdown"


@pytest.mark.parametrize(
    ("speech", "head", "server_last", "silent", "at_once", "in_the_end"),
    [
        pytest.param(SMTP, b"250 ", True, 0.0, TOLD, CUT, id="nothing outstanding"),
        pytest.param(SMTP, b"250 ", False, 60.0, "", CUT, id="a reply outstanding"),
        pytest.param(SMTP, b"354 ", True, 60.0, "", CUT, id="in a message"),
        pytest.param(SMTP, b"334 ", True, 60.0, "", CUT, id="in AUTH"),
        pytest.param(SMTP, TLS, True, QUIET - 0.1, "", CUT, id="TLS, just now"),
        pytest.param(SMTP, TLS, True, QUIET, CLOSED, CUT, id="TLS, quiet"),
        pytest.param(SMTP, TLS, False, 60.0, "", CUT, id="TLS, the server thinks"),
        pytest.param(SMTPS, b"250 ", True, QUIET, CLOSED, CUT, id="what looks like a reply in TLS"),
        pytest.param(IMAP, b"* OK", True, QUIET, CLOSED, CUT, id="another protocol"),
    ],
)
def test_each_in_its_turn(
    speech: Speech, head: bytes, server_last: bool, silent: float, at_once: str, in_the_end: str
) -> None:
    assert pressed(speech, head, server_last=server_last, silent=silent, since=0.0) == at_once
    assert pressed(speech, head, server_last=server_last, silent=silent, since=LAST) == in_the_end


@pytest.mark.parametrize("since", [0.0, LAST])
def test_who_was_told_already_is_left_alone(since: float) -> None:
    assert pressed(SMTP, b"250 ", server_last=True, silent=60.0, since=since, reason="shutdown") == ""
