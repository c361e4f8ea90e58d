"""A second opinion on PROXY protocol headers, for tests: whole buffers only, slow, and written on its own.

It shares no code, no table and no technique with `postern_sidecar.proxyproto`: version 1 by cutting fields instead of
by a pattern, version 2 by slices instead of struct, CRC32C bit by bit, addresses as plain integers. Rules: the
specification of 2026/04/27 and what Postern decides where that is silent (docstrings of proxyproto.v1 and .v2).
"""

from __future__ import annotations

from typing import NamedTuple

Name = tuple[int, int, int]  # IP version, address, port; ::ffff:0:0/96 counts as IPv4


class Recognised(NamedTuple):
    """Octets of the header at the start of the stream, and whom it names, if anybody."""

    size: int
    local: bool
    source: Name | None
    destination: Name | None


class _Not(Exception):  # noqa: N818  # never leaves this module
    pass


def recognise(stream: bytes) -> Recognised | None:
    """The complete, valid header that `stream` begins with, or None."""
    try:
        return _version_1(stream) if stream[:1] == b"P" else _version_2(stream)
    except _Not:
        return None


def _need(condition: bool) -> None:
    if not condition:
        raise _Not


def _version_1(stream: bytes) -> Recognised:
    line, crlf, _ = stream[:107].partition(b"\r\n")
    _need(crlf == b"\r\n")
    size = len(line) + 2
    _need(b"\r" not in line and b"\n" not in line)
    words = line.split(b" ")
    _need(words[0] == b"PROXY" and len(words) > 1)
    if words[1] == b"UNKNOWN":
        return Recognised(size, False, None, None)
    _need(len(words) == 6 and words[1] in (b"TCP4", b"TCP6"))
    read = _dotted if words[1] == b"TCP4" else _colons
    names = []
    for address, port in ((words[2], words[4]), (words[3], words[5])):
        names.append(_name(4 if words[1] == b"TCP4" else 6, read(address), _decimal(port, 65535)))
    return Recognised(size, False, names[0], names[1])


def _decimal(word: bytes, limit: int) -> int:
    _need(1 <= len(word) <= 5 and all(48 <= octet <= 57 for octet in word))
    value = 0
    for octet in word:
        value = value * 10 + octet - 48
    _need(value <= limit and b"%d" % value == word)
    return value


def _dotted(word: bytes) -> int:
    parts = word.split(b".")
    _need(len(parts) == 4)
    a, b, c, d = (_decimal(part, 255) for part in parts)
    return ((a * 256 + b) * 256 + c) * 256 + d


def _colons(word: bytes) -> int:
    """RFC 4291 2.2, its three forms, without zone."""
    _need(word.count(b"::") <= 1 and b":::" not in word)
    left, gap, right = word.partition(b"::")
    before = _groups(left, last=not gap)
    after = _groups(right, last=True)
    missing = 8 - len(before) - len(after)
    _need(missing >= 1 if gap else missing == 0)
    value = 0
    for group in before + [0] * missing + after:
        value = value << 16 | group
    return value


def _groups(word: bytes, last: bool) -> list[int]:
    if not word:
        return []
    groups: list[int] = []
    parts = word.split(b":")
    for number, part in enumerate(parts, 1):
        if b"." in part:
            _need(last and number == len(parts))
            groups += divmod(_dotted(part), 65536)
            continue
        _need(1 <= len(part) <= 4)
        digits = ["0123456789abcdef".find(chr(octet).lower()) for octet in part]
        _need(min(digits) >= 0)
        groups.append(sum(digit << 4 * place for place, digit in enumerate(reversed(digits))))
    return groups


def _name(version: int, address: int, port: int) -> Name:
    if version == 6 and address >> 32 == 0xFFFF:
        return 4, address & 0xFFFFFFFF, port
    return version, address, port


def _version_2(stream: bytes) -> Recognised:
    _need(len(stream) >= 16 and stream[:12] == bytes([13, 10, 13, 10, 0, 13, 10, 81, 85, 73, 84, 10]))
    size = 16 + stream[14] * 256 + stream[15]
    _need(size <= 4096 and len(stream) >= size)
    header = stream[:size]
    family, transport = divmod(header[13], 16)
    known = family <= 3 and transport <= 2
    addresses = (0, 12, 36, 216)[family] if known else 0
    if header[12] == 0x20:
        chain = _chain(header[16:])
        if chain is None:
            chain = _chain(header[16 + addresses :])
        _crc(header, chain or [])
        return Recognised(size, True, None, None)
    _need(header[12] == 0x21 and known and size >= 16 + addresses)
    chain = _chain(header[16 + addresses :])
    if chain is None:
        raise _Not
    _crc(header, chain)
    _need(all(len(value) <= 128 for kind, value, _ in chain if kind == 5))
    if transport != 1 or family not in (1, 2):
        return Recognised(size, False, None, None)
    width = 4 if family == 1 else 16
    whole = [int.from_bytes(header[16 + n * width : 16 + (n + 1) * width], "big") for n in (0, 1)]
    ports = [int.from_bytes(header[16 + at : 18 + at], "big") for at in (2 * width, 2 * width + 2)]
    version = 4 if family == 1 else 6
    return Recognised(size, False, _name(version, whole[0], ports[0]), _name(version, whole[1], ports[1]))


def _chain(octets: bytes) -> list[tuple[int, bytes, int]] | None:
    """(type, value, octets from the value's start to the end of the header), or None if it does not come out even."""
    found = []
    while octets:
        size = int.from_bytes(octets[1:3], "big")
        if len(octets) < 3 + size:
            return None
        found.append((octets[0], octets[3 : 3 + size], len(octets) - 3))
        octets = octets[3 + size :]
    return found


def _crc(header: bytes, chain: list[tuple[int, bytes, int]]) -> None:
    sums = [(value, tail) for kind, value, tail in chain if kind == 3]
    _need(len(sums) <= 1)
    for value, tail in sums:
        _need(len(value) == 4)
        zeroed = bytearray(header)
        zeroed[len(header) - tail : len(header) - tail + 4] = b"\0\0\0\0"
        _need(_castagnoli(zeroed) == int.from_bytes(value, "big"))


def _castagnoli(octets: bytearray) -> int:
    """Division by 0x11EDC6F41, most significant bit first, over mirrored octets."""
    remainder = 0xFFFFFFFF
    for octet in octets:
        for place in range(8):
            carry = remainder >> 31 ^ (octet >> place & 1)
            remainder = (remainder << 1 & 0xFFFFFFFF) ^ (0x1EDC6F41 if carry else 0)
    return int(f"{remainder:032b}"[::-1], 2) ^ 0xFFFFFFFF
