"""Version 2, binary (PP 2.2): is this a header, not one, or not yet?

`parse` is a function of all that has arrived, and refuses at the first octet that no header can have there. It decides
what a header stands or falls with: the fixed part, the length, the TLV chain as such, CRC32C and the length of
UNIQUE_ID. What else the TLVs say is `tlv`'s. Raises `HeaderError`.

LOCAL is accepted whatever its family octet and its block hold (PP 2.2: "must discard the protocol block including the
family"), except for a CRC32C that is wrong. Where the TLVs of a LOCAL block begin is not worded: AWS's network load
balancer says INET and sends TLVs in place of the addresses, others send both. The first reading that is a chain counts.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from postern_sidecar.names import Address, Endpoint

from .chain import Type, split
from .crc32c import crc32c
from .header import MAX_HEADER, Command, Family, Header, HeaderError, Reason, Transport

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
FIXED = 16
MAX_UNIQUE_ID = 128  # PP 2.2.5
BLOCK_SIZES = {Family.UNSPEC: 0, Family.INET: 12, Family.INET6: 36, Family.UNIX: 216}
MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96
INET_BLOCK = struct.Struct("!4s4sHH")
INET6_BLOCK = struct.Struct("!16s16sHH")

LOCAL = Header(2, Command.LOCAL, Family.UNSPEC, Transport.UNSPEC)

_KINDS = {
    family << 4 | transport: (family, transport, size)
    for family, size in BLOCK_SIZES.items()
    for transport in Transport
}
_VERSION_COMMAND_LOCAL = 0x20
_VERSION_COMMAND_PROXY = 0x21


def parse(data: bytes) -> tuple[Header, int] | None:
    """The header at the start of `data` and its size, or None if more is needed."""
    seen = len(data)
    if not data.startswith(SIGNATURE):
        if SIGNATURE.startswith(data):
            return None
        raise HeaderError(Reason.NOT_A_HEADER, "begins with CR, but not with the signature of version 2")
    if seen < FIXED:
        _refuse_impossible(data)
        return None
    command, kind, length = data[12], data[13], data[14] << 8 | data[15]
    size = FIXED + length
    if command != _VERSION_COMMAND_PROXY or kind not in _KINDS or size > MAX_HEADER:
        _refuse_impossible(data)
        if seen < size:
            return None
        _check_local(data[:size])
        return LOCAL, size
    family, transport, block = _KINDS[kind]
    if length < block:
        raise HeaderError(Reason.V2_TOO_SHORT, f"{length} octets cannot hold the {block} of {family.name} addresses")
    if seen < size:
        return None
    if length > block:
        _check_tlvs(data[:size], FIXED + block)
    source, destination = _endpoints(data, family) if transport is Transport.STREAM else (None, None)
    tlvs = data[FIXED + block : size]
    return Header(2, Command.PROXY, family, transport, source, destination, tlvs), size


def _refuse_impossible(data: bytes) -> None:
    """Raise at the first octet behind the signature that cannot stand there; `data` may end anywhere."""
    if len(data) > 12:
        if data[12] >> 4 != 2:
            raise HeaderError(Reason.V2_VERSION, f"version {data[12] >> 4}")
        if data[12] not in (_VERSION_COMMAND_LOCAL, _VERSION_COMMAND_PROXY):
            raise HeaderError(Reason.V2_COMMAND, f"command {data[12] & 15}")
    if len(data) > 13 and data[12] == _VERSION_COMMAND_PROXY and data[13] not in _KINDS:
        raise HeaderError(Reason.V2_FAMILY, f"family and transport 0x{data[13]:02x}")
    if FIXED + int.from_bytes(data[14:16].ljust(2, b"\0")) > MAX_HEADER:
        raise HeaderError(Reason.TOO_LONG, f"more than {MAX_HEADER} octets")


def _endpoints(data: bytes, family: Family) -> tuple[Endpoint, Endpoint] | tuple[None, None]:
    if family is Family.INET:
        source, destination, source_port, destination_port = INET_BLOCK.unpack_from(data, FIXED)
        return Endpoint(IPv4Address(source), source_port), Endpoint(IPv4Address(destination), destination_port)
    if family is Family.INET6:
        source, destination, source_port, destination_port = INET6_BLOCK.unpack_from(data, FIXED)
        return Endpoint(_address(source), source_port), Endpoint(_address(destination), destination_port)
    return None, None


def _address(packed: bytes) -> Address:
    return IPv4Address(packed[12:]) if packed.startswith(MAPPED) else IPv6Address(packed)


def _check_tlvs(header: bytes, start: int) -> None:
    try:
        found = split(header, start)
    except ValueError as error:
        raise HeaderError(Reason.TLV, str(error)) from None
    _check_crc32c(header, found)
    for kind, value, end in found:
        if kind == Type.UNIQUE_ID and end - value > MAX_UNIQUE_ID:
            raise HeaderError(Reason.UNIQUE_ID, f"{end - value} octets; at most {MAX_UNIQUE_ID}")


def _check_local(header: bytes) -> None:
    known = _KINDS.get(header[13])
    for start in (FIXED, FIXED + known[2] if known else FIXED):
        try:
            found = split(header, start)
        except ValueError:
            continue
        _check_crc32c(header, found)
        return


def _check_crc32c(header: bytes, found: list[tuple[int, int, int]]) -> None:
    """PP 2.2.4: the sum of the whole header, its own four octets taken as zero."""
    sums = [(value, end) for kind, value, end in found if kind == Type.CRC32C]
    if not sums:
        return
    value, end = sums[0]
    if len(sums) > 1 or end - value != 4:
        raise HeaderError(Reason.CRC32C, "not exactly one CRC32C of four octets")
    if crc32c(header[:value] + bytes(4) + header[end:]) != int.from_bytes(header[value:end]):
        raise HeaderError(Reason.CRC32C, "the checksum does not match")
