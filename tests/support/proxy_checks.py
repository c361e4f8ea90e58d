"""What the tests and the fuzz target ask of the PROXY protocol reader, whatever the octets."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NamedTuple

from postern_sidecar.proxyproto.header import MAX_HEADER, Command, Family, Header, HeaderError, Reason
from postern_sidecar.proxyproto.reader import HeaderReader
from postern_sidecar.proxyproto.writer import encode
from proxy_recogniser import Name, recognise

if TYPE_CHECKING:
    from collections.abc import Iterable

    from postern_sidecar.names import Endpoint

_BLOCKS = {Family.UNSPEC: 0, Family.INET: 12, Family.INET6: 36, Family.UNIX: 216}


class Outcome(NamedTuple):
    """`fed`: the octets after which the answer came. INCOMPLETE: none came, and then the peer ended."""

    answer: Header | Reason
    leftover: bytes
    fed: int


def feed(chunks: Iterable[bytes]) -> Outcome:
    """The reader's answer to the chunks; chunks behind the answer are leftover too, as they are for its caller."""
    reader = HeaderReader()
    rest = iter(chunks)
    fed = 0
    for chunk in rest:
        fed += len(chunk)
        try:
            found = reader.feed(chunk)
        except HeaderError as error:
            return Outcome(error.reason, b"", fed)
        if found is not None:
            header, leftover = found
            return Outcome(header, leftover + b"".join(rest), fed)
        assert len(reader._buffer) < MAX_HEADER, "the reader holds more than a header"
    try:
        reader.eof()
    except HeaderError as error:
        return Outcome(error.reason, b"", fed)


def check_answer(data: bytes) -> Outcome:
    """Feed `data` whole; the recogniser must say the same, and what was accepted must be what it was made of."""
    outcome = feed([data])
    recognised = recognise(data)
    if isinstance(outcome.answer, Reason):
        assert recognised is None, f"only the reader refuses ({outcome.answer}): {data!r}"
        return outcome
    header = outcome.answer
    assert recognised is not None, f"only the reader accepts: {data!r}"
    assert data[recognised.size :] == outcome.leftover, f"they disagree on where the header ends: {data!r}"
    assert recognised.local == (header.command is Command.LOCAL)
    assert recognised.source == _name(header.source), f"they disagree on the source: {data!r}"
    assert recognised.destination == _name(header.destination), f"they disagree on the destination: {data!r}"
    _check_octets(header, data[: recognised.size])
    return outcome


def _name(endpoint: Endpoint | None) -> Name | None:
    return None if endpoint is None else (endpoint.address.version, int(endpoint.address), endpoint.port)


def _check_octets(header: Header, raw: bytes) -> None:
    """The header, encoded again, is the same octets, where the specification leaves only one way to write it.

    It does not for TCP6 (an IPv6 address has many spellings), for the text behind UNKNOWN and for the block of LOCAL,
    which are to be ignored: there all else must be the same, and the canonical form must be read as the same header.
    """
    if header.command is Command.LOCAL:
        assert raw[12] == 0x20
        assert len(raw) == 16 + int.from_bytes(raw[14:16])
        assert encode(header) == raw[:13] + bytes(3)
    elif header.version == 2:
        assert encode(header, addresses=raw[16 : 16 + _BLOCKS[header.family]]) == raw
        return
    elif header.family is Family.INET:
        assert encode(header) == raw
        return
    elif header.family is Family.INET6:
        again, fields = encode(header).split(b" "), raw.split(b" ")
        assert again[:2] + again[4:] == fields[:2] + fields[4:]
        assert [_pton(again[2]), _pton(again[3])] == [_pton(fields[2]), _pton(fields[3])]
    else:
        assert encode(header) == raw[:13] + b"\r\n"
    assert feed([encode(header)]).answer == header


def _pton(text: bytes) -> bytes:
    return socket.inet_pton(socket.AF_INET6, text.decode())
