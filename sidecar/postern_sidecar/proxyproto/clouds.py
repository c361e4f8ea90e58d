"""The custom TLVs that clouds have made known: AWS 0xEA, Azure 0xEE, Google 0xE0, each the id of a private link.

Each function takes a TLV's value and gives the id, or None where the value is not in the cloud's documented shape:
the types are free for anybody to use (PP 2.2.8), so another shape is another sender's, and no error.
"""

from __future__ import annotations

import re

_AWS_VPCE_ID = re.compile(rb"\x01([A-Za-z0-9-]*)")
_AZURE_LINK_ID = 0x01


def aws_vpce_id(value: bytes) -> bytes | None:
    """Subtype 0x01, then the VPC endpoint's id in ASCII."""
    match = _AWS_VPCE_ID.fullmatch(value)
    return match[1] if match else None


def azure_link_id(value: bytes) -> int | None:
    """Subtype 0x01, then the Private Link's identifier: 4 octets, little endian (the only such field)."""
    return int.from_bytes(value[1:], "little") if len(value) == 5 and value[0] == _AZURE_LINK_ID else None


def gcp_psc_id(value: bytes) -> int | None:
    """The Private Service Connect connection's id: 8 octets, big endian."""
    return int.from_bytes(value, "big") if len(value) == 8 else None
