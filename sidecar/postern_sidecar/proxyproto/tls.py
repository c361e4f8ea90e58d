"""The SSL TLV (PP 2.2.6): what the load balancer's own TLS session with the client was.

Its sub-TLVs are types of their own namespace: a nested 0x02 is not AUTHORITY, and 0x22 is a common name only in here.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from dataclasses import dataclass

from .chain import grouped


class _SubType(enum.IntEnum):
    VERSION = 0x21
    CN = 0x22
    CIPHER = 0x23
    SIG_ALG = 0x24
    KEY_ALG = 0x25
    GROUP = 0x26
    SIG_SCHEME = 0x27
    CLIENT_CERT = 0x28


_CLIENT_TLS = 0x01
_CLIENT_CERTIFICATE = 0x02 | 0x04  # in this connection, or at least once in this TLS session
_START = struct.Struct("!BI")

VARIABLES: dict[str, type] = {
    "proxy_tls": bool,
    "proxy_tls_verified": bool,
    "proxy_tls_version": str,
    "proxy_tls_cipher": str,
    "proxy_tls_cn": str,
    "proxy_tls_sig_alg": str,
    "proxy_tls_key_alg": str,
    "proxy_tls_group": str,
    "proxy_tls_sig_scheme": str,
    "proxy_tls_client_cert_sha256": str,
}
"""Without the sender's verify result, where 0 means success: in a rule it would be 0 for clients without TLS too."""


@dataclass(frozen=True, slots=True)
class ClientTLS:
    """`verify` is 0 only where a certificate was presented and verified; `certificate` is DER. Texts are as sent."""

    client: int
    verify: int
    version: bytes | None = None
    cn: bytes | None = None
    cipher: bytes | None = None
    sig_alg: bytes | None = None
    key_alg: bytes | None = None
    group: bytes | None = None
    sig_scheme: bytes | None = None
    certificate: bytes | None = None

    @property
    def used(self) -> bool:
        """The client connected over TLS."""
        return bool(self.client & _CLIENT_TLS)

    @property
    def verified(self) -> bool:
        """It presented a certificate, and that was verified. `verify` alone would be 0 for careless senders too."""
        return self.used and bool(self.client & _CLIENT_CERTIFICATE) and self.verify == 0


def parse(value: bytes) -> ClientTLS | None:
    """What the TLV's value says; None if it is malformed. A sub-TLV that stands twice says nothing."""
    if len(value) < _START.size:
        return None
    try:
        groups = grouped(value, _START.size)
    except ValueError:
        return None
    once = {kind: values[0] for kind, values in groups.items() if len(values) == 1}
    client, verify = _START.unpack_from(value)
    return ClientTLS(
        client,
        verify,
        once.get(_SubType.VERSION),
        once.get(_SubType.CN),
        once.get(_SubType.CIPHER),
        once.get(_SubType.SIG_ALG),
        once.get(_SubType.KEY_ALG),
        once.get(_SubType.GROUP),
        once.get(_SubType.SIG_SCHEME),
        once.get(_SubType.CLIENT_CERT),
    )


def variables(tls: ClientTLS) -> dict[str, str | bool | bytes | None]:
    """Values for `VARIABLES`, octets as sent; None where there is none."""
    return {
        "proxy_tls": tls.used,
        "proxy_tls_verified": tls.verified,
        "proxy_tls_version": tls.version,
        "proxy_tls_cipher": tls.cipher,
        "proxy_tls_cn": tls.cn,
        "proxy_tls_sig_alg": tls.sig_alg,
        "proxy_tls_key_alg": tls.key_alg,
        "proxy_tls_group": tls.group,
        "proxy_tls_sig_scheme": tls.sig_scheme,
        "proxy_tls_client_cert_sha256": None if tls.certificate is None else _sha256(tls.certificate),
    }


def _sha256(certificate: bytes) -> str:
    return hashlib.sha256(certificate).hexdigest()
