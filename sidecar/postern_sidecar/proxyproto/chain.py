"""A chain of TLVs as such: type (1), length (2, big endian), value (PP 2.2, "Type-Length-Value").

Which types exist, and what their values mean, is decided elsewhere: `v2` judges those that a header stands or falls
with, `tlv` reads the rest on demand. The sub-TLVs of SSL have the same shape and are split here too.
"""

from __future__ import annotations

import enum


class Type(enum.IntEnum):
    """PP 2.2.1 - 2.2.8, and the custom types that clouds have made known."""

    ALPN = 0x01
    AUTHORITY = 0x02
    CRC32C = 0x03
    NOOP = 0x04
    UNIQUE_ID = 0x05
    SSL = 0x20
    NETNS = 0x30
    GCP = 0xE0
    AWS = 0xEA
    AZURE = 0xEE


def split(data: bytes, start: int = 0) -> list[tuple[int, int, int]]:
    """The chain that fills `data` from `start` to its end, as (type, start of value, end of value).

    Raises ValueError where a value would run past the end, and for one or two stray octets.
    """
    found = []
    end = len(data)
    while start < end:
        value = start + 3
        if value > end:
            raise ValueError(f"{end - start} stray octets behind the last TLV")
        stop = value + (data[start + 1] << 8 | data[start + 2])
        if stop > end:
            raise ValueError(f"TLV 0x{data[start]:02x} runs {stop - end} octets past the end")
        found.append((data[start], value, stop))
        start = stop
    return found


def grouped(data: bytes, start: int = 0) -> dict[int, list[bytes]]:
    """The values of the chain by type, types and values in the order of the chain. Raises as `split`."""
    values: dict[int, list[bytes]] = {}
    for kind, value, stop in split(data, start):
        values.setdefault(kind, []).append(data[value:stop])
    return values
