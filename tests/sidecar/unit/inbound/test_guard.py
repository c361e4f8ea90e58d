"""The XCLIENT guard, as the conversation that it allows: against a server that grants XCLIENT to whoever asks."""

from __future__ import annotations

import pytest

from postern_sidecar.inbound.filters import Passed
from postern_sidecar.inbound.guard import MAX_HELD, MAX_LINE, XclientGuard

DENIED = b"550 5.7.0 not from here\r\n"
BARE_LF = b"521 5.5.2 lines end with CRLF\r\n"
EHLO = b"250-mx\r\n250-PIPELINING\r\n250-XCLIENT NAME ADDR\r\n250-XFORWARD NAME\r\n250-CHUNKING\r\n250 STARTTLS\r\n"
TO_DATA = [(b"DATA\r\n", b"354 go\r\n")]


def greeted(*steps: tuple[bytes, bytes]) -> XclientGuard:
    """A guard after these commands and replies."""
    guard = XclientGuard()
    for command, reply in steps:
        assert guard.from_client(command) == Passed(to_backend=command)
        guard.from_backend(reply)
    return guard


def test_ehlo_loses_what_would_lift_the_guard() -> None:
    guard = XclientGuard()
    guard.from_client(b"EHLO client\r\n")
    assert guard.from_backend(EHLO).to_client == b"250-mx\r\n250 PIPELINING\r\n"


def test_only_ehlo_replies_are_touched() -> None:
    guard = greeted()
    guard.from_client(b"HELP\r\n")
    assert guard.from_backend(b"214-XCLIENT\r\n214 XFORWARD\r\n").to_client == b"214-XCLIENT\r\n214 XFORWARD\r\n"


@pytest.mark.parametrize(
    "line",
    [
        b"XCLIENT ADDR=127.0.0.1\r\n",
        b"xclient addr=127.0.0.1\r\n",
        b"XForward NAME=x\r\n",
        b" XCLIENT ADDR=127.0.0.1\r\n",
        b"\tXCLIENT ADDR=127.0.0.1\r\n",
        b"\x00XCLIENT ADDR=127.0.0.1\r\n",
        b"XCLIENT\tADDR=127.0.0.1\r\n",
        b"XCLIENT\r\n",
        b"X\x00CLIENT ADDR=127.0.0.1\r\n",
    ],
)
def test_the_verbs_get_550_and_go_nowhere(line: bytes) -> None:
    assert XclientGuard().from_client(line) == Passed(to_client=DENIED)


@pytest.mark.parametrize("verb", [b"STARTTLS", b"starttls", b"BDAT 5 LAST", b"bdat 5"])
def test_what_would_blind_the_guard_is_not_available(verb: bytes) -> None:
    passed = XclientGuard().from_client(verb + b"\r\n")
    assert passed.to_backend == b""
    assert passed.to_client.startswith(b"502 5.5.1 ")


def test_byte_by_byte() -> None:
    guard = XclientGuard()
    answers = [guard.from_client(bytes([octet])) for octet in b"XCLIENT ADDR=127.0.0.1\r\n"]
    assert answers[:-1] == [Passed()] * (len(answers) - 1)
    assert answers[-1] == Passed(to_client=DENIED)


def test_pipelined_replies_stand_in_their_order() -> None:
    guard = XclientGuard()
    assert guard.from_client(b"NOOP\r\nXCLIENT ADDR=::1\r\nRSET\r\n") == Passed(to_backend=b"NOOP\r\n")
    assert guard.from_backend(b"250 noop\r\n") == Passed(b"RSET\r\n", b"250 noop\r\n" + DENIED)
    assert guard.from_backend(b"250 rset\r\n") == Passed(to_client=b"250 rset\r\n")


def test_a_message_may_speak_of_xclient() -> None:
    guard = greeted(*TO_DATA)
    body = b"Subject: x\r\n\r\nXCLIENT ADDR=127.0.0.1\r\n..\r\n.\r\n"
    assert guard.from_client(body + b"XCLIENT ADDR=127.0.0.1\r\n") == Passed(to_backend=body)
    assert guard.from_backend(b"250 queued\r\n") == Passed(to_client=b"250 queued\r\n" + DENIED)


def test_data_that_was_refused_is_no_message() -> None:
    guard = XclientGuard()
    guard.from_client(b"DATA\r\nXCLIENT ADDR=127.0.0.1\r\n.\r\n")
    assert guard.from_backend(b"503 no\r\n") == Passed(b".\r\n", b"503 no\r\n" + DENIED)


def test_354_to_another_command_is_no_message() -> None:
    guard = greeted((b"NOOP\r\n", b"354 what\r\n"))
    assert guard.from_client(b"XCLIENT ADDR=::1\r\n") == Passed(to_client=DENIED)


@pytest.mark.parametrize("line", [b"text\n.\r\nXCLIENT ADDR=127.0.0.1\r\n", b"text\n.\nXCLIENT x\n", b"a\rb\r\n"])
@pytest.mark.parametrize("steps", [[], TO_DATA])
def test_bare_line_ends_end_the_session(line: bytes, steps: list[tuple[bytes, bytes]]) -> None:
    guard = greeted(*steps)
    assert guard.from_client(line) == Passed(to_client=BARE_LF, end="bare_lf")
    assert guard.from_client(b"NOOP\r\n") == Passed()
    assert guard.from_backend(b"250 ok\r\n") == Passed()


def test_auth_continues_until_the_server_is_satisfied() -> None:
    guard = greeted((b"AUTH LOGIN\r\n", b"334 VXNlcg==\r\n"))
    assert guard.from_client(b"XCLIENT\r\n") == Passed(to_backend=b"XCLIENT\r\n")  # base64 may say anything
    guard.from_backend(b"334 UGFzcw==\r\n")
    assert guard.from_client(b"cGFzcw==\r\nXCLIENT x\r\n") == Passed(to_backend=b"cGFzcw==\r\n")
    assert guard.from_backend(b"235 ok\r\n") == Passed(to_client=b"235 ok\r\n" + DENIED)


def test_334_to_another_command_is_no_continuation() -> None:
    guard = greeted((b"NOOP\r\n", b"334 what\r\n"))
    assert guard.from_client(b"XCLIENT\r\n") == Passed(to_client=DENIED)


def test_an_empty_line_is_the_servers_business() -> None:
    assert XclientGuard().from_client(b"\r\n") == Passed(to_backend=b"\r\n")


def test_a_server_that_hangs_up_of_its_own_accord_is_heard() -> None:
    assert XclientGuard().from_backend(b"421 bye\r\n") == Passed(to_client=b"421 bye\r\n")


def test_a_server_that_talks_no_smtp_ends_the_session() -> None:
    passed = XclientGuard().from_backend(b"hello?\r\n")
    assert (passed.end, passed.to_client[:4]) == ("backend_protocol", b"421 ")


def test_a_line_without_end_is_not_kept_for_ever() -> None:
    guard = XclientGuard()
    assert guard.from_client(b"x" * MAX_LINE) == Passed()
    passed = guard.from_client(b"x")
    assert (passed.end, passed.to_backend) == ("line_too_long", b"")


def test_a_client_that_pipelines_without_end_is_held_back() -> None:
    guard = XclientGuard()
    guard.from_client(b"NOOP\r\n")
    assert guard.from_client(b"NOOP\r\n" * (MAX_HELD // 6)).hold is False
    assert guard.from_client(b"NOOP\r\n").hold is True
    assert guard.from_backend(b"250 ok\r\n").hold is False


def test_a_client_that_shuts_its_side_is_heard_to_the_end() -> None:
    guard = XclientGuard()
    guard.from_client(b"NOOP\r\nQUIT\r\n")
    assert guard.client_closed() == Passed()
    assert guard.from_backend(b"250 ok\r\n") == Passed(b"QUIT\r\n", b"250 ok\r\n", shut=True)


def test_a_client_that_shuts_its_side_at_rest_or_in_mid_line() -> None:
    assert XclientGuard().client_closed() == Passed(shut=True)
    guard = XclientGuard()
    guard.from_client(b"NOO")
    assert guard.client_closed() == Passed(shut=True)


def test_nothing_is_heard_behind_the_end() -> None:
    guard = XclientGuard()
    guard.from_client(b"\n")
    assert guard.client_closed() == Passed()
