"""What may stand between the two sides of a spliced session, and the watch for headers that nobody asked for.

A filter sees every byte of both directions until it says that it is done. There are two: `XclientGuard` (guard.py)
stays for the whole session; `SignatureWatch` is done with the first bytes of the client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

SIGNATURE_V1 = b"PROXY "
SIGNATURE_V2 = b"\r\n\r\n\x00\r\nQUIT\n"


@dataclass(frozen=True, slots=True)
class Passed:
    """What goes on to each side now. `end`: why the session ends behind it. `done`: no filter from now on."""

    to_backend: bytes = b""
    to_client: bytes = b""
    end: str = ""
    detail: str = ""  # more about `end`, for the log
    done: bool = False
    hold: bool = False  # enough is held back: read no more of the client for now
    shut: bool = False  # the client has closed its side, and nothing of it is held back any more


class Filter(Protocol):
    def from_client(self, data: bytes) -> Passed: ...

    def from_backend(self, data: bytes) -> Passed: ...

    def client_closed(self) -> Passed:
        """The client has no more to say; what is held back still goes on in its time."""


def starts_like_a_header(data: bytes) -> bool | None:
    """Whether a client's first bytes are a PROXY header's; None while they are too few to tell."""
    for signature in (SIGNATURE_V1, SIGNATURE_V2):
        if data.startswith(signature):
            return True
    if any(signature.startswith(data) for signature in (SIGNATURE_V1, SIGNATURE_V2)):
        return None
    return False


class SignatureWatch:
    """A direct client's first bytes: a PROXY signature from outside `requiredFrom` ends the session (contracts 2).

    The header would not be believed anyway: the hand-over has sent its own. Saying so names the missing setting.
    """

    __slots__ = ("_detail", "_held", "_refusal")

    def __init__(self, refusal: bytes, detail: str) -> None:
        self._held = b""
        self._refusal = refusal
        self._detail = detail

    def from_client(self, data: bytes) -> Passed:
        self._held += data
        match starts_like_a_header(self._held):
            case True:
                return Passed(to_client=self._refusal, end="header_from_untrusted_source", detail=self._detail)
            case False:
                return Passed(to_backend=self._held, done=True)
            case _:
                return Passed()

    def from_backend(self, data: bytes) -> Passed:
        return Passed(to_client=data)

    def client_closed(self) -> Passed:
        return Passed(to_backend=self._held, done=True, shut=True)
