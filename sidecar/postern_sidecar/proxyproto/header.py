"""What a PROXY protocol header says: the types that the two parsers make and the writer takes.

Specification: HAProxy's "The PROXY protocol", versions 1 and 2, text of 2026/04/27; sections are cited as "PP 2.2".
This module decides nothing. The readers raise `HeaderError`, the only exception that a caller has to handle.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postern_sidecar.names import Endpoint

MAX_HEADER = 4096
"""Octets of a whole header, TLVs included. Precedents: nginx (HEAD) 4096, go-proxyproto 4096 after the fixed part."""


class Command(enum.IntEnum):
    """PP 2.2, octet 13, low nibble."""

    LOCAL = 0
    PROXY = 1


class Family(enum.IntEnum):
    """PP 2.2, octet 14, high nibble. UNSPEC stands for v1's UNKNOWN too."""

    UNSPEC = 0
    INET = 1
    INET6 = 2
    UNIX = 3


class Transport(enum.IntEnum):
    """PP 2.2, octet 14, low nibble."""

    UNSPEC = 0
    STREAM = 1
    DGRAM = 2


class Reason(enum.Enum):
    """Why a header was refused: the values of `reason` in logs and metrics (docs/logging.md)."""

    NOT_A_HEADER = "not_a_header"  # neither "PROXY" nor the v2 signature
    INCOMPLETE = "incomplete"  # EOF inside the header
    V1_SYNTAX = "v1_syntax"
    V1_TOO_LONG = "v1_too_long"  # no CRLF within 107 octets
    V2_VERSION = "v2_version"
    V2_COMMAND = "v2_command"
    V2_FAMILY = "v2_family"  # family or transport outside the specification
    V2_TOO_SHORT = "v2_too_short"  # length below the family's address block
    TOO_LONG = "too_long"  # more than MAX_HEADER
    TLV = "tlv"  # a TLV chain that runs past the end, or stray octets behind it
    CRC32C = "crc32c"
    UNIQUE_ID = "unique_id"  # over 128 octets


class HeaderError(Exception):
    """The peer's header is not one. The reader that raised it is dead; nothing that it was fed may be forwarded."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Header:
    """One header.

    `source` and `destination` are set exactly where the header carries an identity that a stream server can use:
    command PROXY, family INET or INET6, transport STREAM. Their addresses are unmapped.
    `tlvs` is the raw TLV chain (empty for v1), well-formed as a chain; `proxyproto.tlv` reads it.
    """

    version: int
    command: Command
    family: Family
    transport: Transport
    source: Endpoint | None = None
    destination: Endpoint | None = None
    tlvs: bytes = b""
