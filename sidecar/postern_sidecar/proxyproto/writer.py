"""Headers as octets. `v1` and `v2` are what a hand-over sends: PROXY, STREAM, real addresses, nothing else.

Of two endpoints of different families both are written as IPv6, the IPv4 one v4-mapped (::ffff:192.0.2.1): the header
has one family for both (PP 2.1, 2.2). Readers that follow the specification map it back. Version 1 spells it in hex
groups, as PP 2.1 has it, not with a dotted tail.

Endpoints are trusted to be what `names.Endpoint` says: unmapped, without zone, ports in range.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from .chain import Type
from .crc32c import crc32c as checksum
from .header import Family, Transport
from .v2 import BLOCK_SIZES, INET6_BLOCK, INET_BLOCK, MAPPED, SIGNATURE

if TYPE_CHECKING:
    from postern_sidecar.names import Address, Endpoint

    from .header import Header

_FIXED = struct.Struct("!12sBBH")
_CRC32C_START = struct.pack("!BH", Type.CRC32C, 4)


def v1(source: Endpoint, destination: Endpoint) -> bytes:
    """A TCP4 or TCP6 line."""
    return _line(_common_family(source, destination), source, destination)


def v2(source: Endpoint, destination: Endpoint) -> bytes:
    """A PROXY STREAM header over INET (28 octets) or INET6 (52), without TLVs."""
    family = _common_family(source, destination)
    block = _block(family, source, destination)
    return _FIXED.pack(SIGNATURE, 0x21, family << 4 | Transport.STREAM, len(block)) + block


def encode(header: Header, *, crc32c: bool = False, addresses: bytes = b"") -> bytes:
    """Any header as octets. What the reader made of a canonical header becomes the same octets again.

    `addresses` is the address block of headers that `Header` keeps none of (UNIX, DGRAM), zeros by default.
    With `crc32c` a checksum is added behind the other TLVs.
    """
    if header.version == 1:
        if header.source is None or header.destination is None:
            return b"PROXY UNKNOWN\r\n"
        return _line(header.family, header.source, header.destination)
    if header.source is None or header.destination is None:
        block = addresses.ljust(BLOCK_SIZES[header.family], b"\0")
    else:
        block = _block(header.family, header.source, header.destination)
    tail = block + header.tlvs + (_CRC32C_START + bytes(4) if crc32c else b"")
    version_command = 2 << 4 | header.command
    packed = _FIXED.pack(SIGNATURE, version_command, header.family << 4 | header.transport, len(tail)) + tail
    return packed[:-4] + struct.pack("!I", checksum(packed)) if crc32c else packed


def _common_family(source: Endpoint, destination: Endpoint) -> Family:
    both = isinstance(source.address, IPv4Address) and isinstance(destination.address, IPv4Address)
    return Family.INET if both else Family.INET6


def _block(family: Family, source: Endpoint, destination: Endpoint) -> bytes:
    if family is Family.INET:
        return INET_BLOCK.pack(source.address.packed, destination.address.packed, source.port, destination.port)
    return INET6_BLOCK.pack(_packed6(source.address), _packed6(destination.address), source.port, destination.port)


def _packed6(address: Address) -> bytes:
    return MAPPED + address.packed if isinstance(address, IPv4Address) else address.packed


def _line(family: Family, source: Endpoint, destination: Endpoint) -> bytes:
    if family is Family.INET:
        names = f"TCP4 {source.address} {destination.address}"
    else:
        names = f"TCP6 {_text6(source.address)} {_text6(destination.address)}"
    return f"PROXY {names} {source.port} {destination.port}\r\n".encode("ascii")


def _text6(address: Address) -> str:
    if isinstance(address, IPv4Address):
        high, low = divmod(int(address), 1 << 16)
        return f"::ffff:{high:x}:{low:x}"
    return str(address)
