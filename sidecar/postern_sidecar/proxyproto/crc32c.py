"""CRC-32C (Castagnoli; RFC 4960 appendix B), as PP 2.2.4 asks for it.

A table and a loop: no dependency, because only a header that carries a CRC TLV is summed, once, and a header has at
most `MAX_HEADER` octets (some 0.3 ms for the longest, 4 us for a usual one).
"""

from __future__ import annotations

_POLYNOMIAL = 0x82F63B78  # 0x1EDC6F41, bits reversed


def _entry(octet: int) -> int:
    for _ in range(8):
        octet = (octet >> 1) ^ (_POLYNOMIAL if octet & 1 else 0)
    return octet


_TABLE = tuple(_entry(octet) for octet in range(256))


def crc32c(data: bytes) -> int:
    """The checksum of `data`, 0..2**32-1."""
    table, crc = _TABLE, 0xFFFFFFFF
    for octet in data:
        crc = (crc >> 8) ^ table[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFFFFFF
