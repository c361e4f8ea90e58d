"""A PROXY signature where nobody asked for one."""

import pytest

from postern_sidecar.inbound.filters import SIGNATURE_V2, Passed, SignatureWatch, starts_like_a_header

REFUSAL = b"421 4.3.2 mx no\r\n"


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (b"", None),
        (b"P", None),
        (b"PROXY", None),
        (b"PROXY ", True),
        (b"PROXY TCP4 ...", True),
        (b"PROXYX", False),
        (b"EHLO x\r\n", False),
        (SIGNATURE_V2[:5], None),
        (SIGNATURE_V2, True),
        (SIGNATURE_V2 + b"\x21", True),
        (b"\r\n\r\nQUIT\r\n", False),
    ],
)
def test_first_bytes(data: bytes, verdict: bool | None) -> None:
    assert starts_like_a_header(data) is verdict


def test_an_ordinary_client_is_watched_no_longer_than_it_takes() -> None:
    assert SignatureWatch(REFUSAL, "why").from_client(b"EHLO x\r\n") == Passed(to_backend=b"EHLO x\r\n", done=True)


def test_what_was_held_back_is_passed_on_exactly() -> None:
    watch = SignatureWatch(REFUSAL, "why")
    assert watch.from_client(b"P") == Passed()
    assert watch.from_client(b"ASS x\r\n") == Passed(to_backend=b"PASS x\r\n", done=True)


def test_a_header_ends_the_session() -> None:
    watch = SignatureWatch(REFUSAL, "why")
    assert watch.from_client(b"PROX") == Passed()
    assert watch.from_client(b"Y TCP4 1.2.3.4") == Passed(
        to_client=REFUSAL, end="header_from_untrusted_source", detail="why"
    )


def test_the_server_is_not_watched() -> None:
    assert SignatureWatch(REFUSAL, "why").from_backend(b"PROXY ") == Passed(to_client=b"PROXY ")


def test_what_is_held_when_the_client_shuts_its_side_goes_on() -> None:
    watch = SignatureWatch(REFUSAL, "why")
    watch.from_client(b"PROX")
    assert watch.client_closed() == Passed(to_backend=b"PROX", done=True, shut=True)
