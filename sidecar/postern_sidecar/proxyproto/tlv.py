"""What a header's TLVs say (PP 2.2.1 - 2.2.8, and the clouds' custom types), read only when somebody asks.

The header has been accepted already, so nothing here refuses it: a value that its type does not allow is dropped
(AUTHORITY over 255 octets, a malformed SSL), and so is one that stands twice: which of them holds is not worded.
A custom type that is not what its cloud documents is somebody else's: it stays among the unknown ones.
Whether a TLV may be believed is not known here; it is as true as the load balancer that wrote it. Raises nothing.

`named` gives all of it under the names that rules and JSON logs use (design: Exim's vocabulary, "the other TLVs as
proxy_tlv_*"), text as the octets that were sent: for the log, which escapes and bounds by its own rule. `variables` is
the same as printable and bounded text, for rules and what they say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from . import clouds, tls
from .chain import Type, grouped

if TYPE_CHECKING:
    from collections.abc import Callable

    from .header import Header

_MAX_AUTHORITY = 255  # the longest DNS name; HAProxy refuses more
MAX_VALUE = 256  # characters of a variable; contracts: a field of the log at most 256 bytes

_T = TypeVar("_T")

VARIABLES: dict[str, type] = {
    "proxy_authority": str,
    **tls.VARIABLES,
    "proxy_tlv_alpn": str,
    "proxy_tlv_unique_id": str,  # hex
    "proxy_tlv_netns": str,
    "proxy_tlv_aws_vpce_id": str,
    "proxy_tlv_azure_link_id": int,
    "proxy_tlv_gcp_psc_id": str,  # 64 bits without sign: more than a CEL int or a JSON number holds
}
"""The closed list that rules are compiled against. `variables` adds proxy_tlv_0xNN (hex) for types without a name."""

_UNPRINTABLE = re.compile(rb"[^ -\[\]-~]")  # the backslash too: then each one in the text begins an escape
_CUT_ESCAPE = re.compile(rb"\\(?:x[0-9a-f]?)?\Z")


@dataclass(frozen=True, slots=True)
class TLVs:
    """Octets are as sent. None: not there, malformed, or there twice.

    `other` are the types that are not known here, and custom ones in a shape that is not: (type, value), as sent.
    """

    alpn: bytes | None = None
    authority: bytes | None = None
    unique_id: bytes | None = None
    netns: bytes | None = None
    client_tls: tls.ClientTLS | None = None
    aws_vpce_id: bytes | None = None
    azure_link_id: int | None = None
    gcp_psc_id: int | None = None
    other: tuple[tuple[int, bytes], ...] = ()


def read(header: Header) -> TLVs:
    """The TLVs of a header that the reader has accepted."""
    if not header.tlvs:
        return _NONE
    groups = grouped(header.tlvs)
    for kind in (Type.CRC32C, Type.NOOP):
        groups.pop(kind, None)
    return TLVs(
        alpn=_one(groups, Type.ALPN, _octets),
        authority=_one(groups, Type.AUTHORITY, _authority),
        unique_id=_one(groups, Type.UNIQUE_ID, _octets),
        netns=_one(groups, Type.NETNS, _octets),
        client_tls=_one(groups, Type.SSL, tls.parse),
        aws_vpce_id=_custom(groups, Type.AWS, clouds.aws_vpce_id),
        azure_link_id=_custom(groups, Type.AZURE, clouds.azure_link_id),
        gcp_psc_id=_custom(groups, Type.GCP, clouds.gcp_psc_id),
        other=tuple((kind, value) for kind, values in groups.items() for value in values),
    )


_NONE = TLVs()


def _one(groups: dict[int, list[bytes]], kind: Type, parse: Callable[[bytes], _T | None]) -> _T | None:
    values = groups.pop(kind, ())
    return parse(values[0]) if len(values) == 1 else None


def _custom(groups: dict[int, list[bytes]], kind: Type, parse: Callable[[bytes], _T | None]) -> _T | None:
    """As `_one`, but only values in the cloud's own shape count, and only they are taken out of `groups`."""
    parsed = [(parse(value), value) for value in groups.pop(kind, ())]
    foreign = [value for result, value in parsed if result is None]
    if foreign:
        groups[kind] = foreign
    own = [result for result, _ in parsed if result is not None]
    return own[0] if len(own) == 1 else None


def _octets(value: bytes) -> bytes:
    return value


def _authority(value: bytes) -> bytes | None:
    return value if len(value) <= _MAX_AUTHORITY else None


def named(header: Header) -> dict[str, str | int | bool | bytes]:
    """What the header's TLVs say, by name; names without a value are left out. Octets are as sent."""
    tlvs = read(header)
    values: dict[str, str | int | bool | bytes | None] = {
        "proxy_authority": tlvs.authority,
        **(tls.variables(tlvs.client_tls) if tlvs.client_tls else {}),
        "proxy_tlv_alpn": tlvs.alpn,
        "proxy_tlv_unique_id": None if tlvs.unique_id is None else tlvs.unique_id.hex(),
        "proxy_tlv_netns": tlvs.netns,
        "proxy_tlv_aws_vpce_id": tlvs.aws_vpce_id,
        "proxy_tlv_azure_link_id": tlvs.azure_link_id,
        "proxy_tlv_gcp_psc_id": None if tlvs.gcp_psc_id is None else str(tlvs.gcp_psc_id),
    }
    unknown: dict[str, str] = {}
    for kind, octets in tlvs.other:
        name = f"proxy_tlv_0x{kind:02x}"
        unknown[name] = (f"{unknown[name]},{octets.hex()}" if name in unknown else octets.hex())[:MAX_VALUE]
    return unknown | {name: value for name, value in values.items() if value is not None}


def variables(header: Header) -> dict[str, str | int | bool]:
    """`named`, each text printable ASCII of at most `MAX_VALUE` characters."""
    return {name: _printable(value) if isinstance(value, bytes) else value for name, value in named(header).items()}


def _printable(value: bytes) -> str:
    """Printable ASCII, everything else and the backslash as \\xNN; an escape is never cut."""
    text = _UNPRINTABLE.sub(lambda octet: b"\\x%02x" % octet[0][0], value[:MAX_VALUE])
    if len(text) > MAX_VALUE:
        text = _CUT_ESCAPE.sub(b"", text[:MAX_VALUE])
    return text.decode("ascii")
