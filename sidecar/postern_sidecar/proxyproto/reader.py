"""The header of one connection, fed as it comes: which octets are header, and which belong to the session.

Both versions are taken, told apart by their first octet (PP 2.2 allows that). Whether to expect a header at all, for
how long to wait for it, and what to make of LOCAL and of headers without an identity is the caller's.
Nothing of a header may be forwarded before `feed` has returned it. Raises `HeaderError`, the peer's fault, after which
(as after the answer) the reader is dead: using it again is the caller's bug and raises RuntimeError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from . import v1, v2
from .header import HeaderError, Reason

if TYPE_CHECKING:
    from .header import Header

_V1_FIRST = v1.START[0]
_V2_FIRST = v2.SIGNATURE[0]


class HeaderReader:
    """Holds at most an unfinished header: fewer than 107 octets of version 1, fewer than `MAX_HEADER` of version 2.

    `untouched` is true until the first octet: a connection that ends so is a probe, not a failure.
    """

    __slots__ = ("_buffer", "_done", "untouched")

    def __init__(self) -> None:
        self._buffer = b""
        self._done = False
        self.untouched = True

    def feed(self, data: bytes) -> tuple[Header, bytes] | None:
        """The header and every octet behind it, once it is whole; None while more is needed."""
        if self._done:
            raise RuntimeError("this reader has given its answer")
        if self._buffer:
            data = self._buffer + data
        if not data:
            return None
        self.untouched = False
        self._done = True
        first = data[0]
        if first == _V2_FIRST:
            answer = v2.parse(data)
        elif first == _V1_FIRST:
            answer = v1.parse(data)
        else:
            raise HeaderError(Reason.NOT_A_HEADER, f"begins with 0x{first:02x}")
        if answer is None:
            self._done = False
            self._buffer = data
            return None
        header, size = answer
        self._buffer = b""
        return header, data[size:]

    def eof(self) -> NoReturn:
        """The peer has ended before the header has."""
        if self._done:
            raise RuntimeError("this reader has given its answer")
        self._done = True
        raise HeaderError(Reason.INCOMPLETE, f"the connection ended after {len(self._buffer)} octets of a header")
