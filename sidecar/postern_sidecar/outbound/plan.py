"""What a connection to a host must reach before mail goes over it, and what a handshake brought.

Data only: `outbound.levels` makes plans, `outbound.client` follows them, `edge.tls` shakes hands.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from postern_sidecar.answers import TLSA
    from postern_sidecar.config.model import TLSVersion
    from postern_sidecar.names import Address, Domain

    from .settings import Credentials


class Level(enum.Enum):
    """What was achieved, strongest first (contracts section 5); a plan's level is what must be."""

    DANE = "dane"
    VERIFY = "verify"
    ENCRYPT = "encrypt"  # mandatory, not authenticated; half-dane too
    MAY = "may"  # TLS used, clear allowed
    CLEAR = "clear"


class Staple(enum.Enum):
    """What is asked of OCSP on a connection."""

    NOT_ASKED = "not_asked"
    ASKED = "asked"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class Plan:
    """`records`: usable TLSA records after digest agility, empty where none count. `references`: the names that a
    certificate may have, at DANE with usage 2, half-dane and verify. `half_dane`: the records are authenticated, the
    MX answer is not: level ENCRYPT, and a mismatch fails. `usage`: tls_out_tlsa_usage, the OR of 1 << usage over the
    usable records. `why`: for people, why it is not DANE ("no TLSA records", "skip: ticket 4711", ...)."""

    level: Level
    sni: Domain | None
    records: tuple[TLSA, ...] = ()
    references: tuple[Domain, ...] = ()
    half_dane: bool = False
    usage: int = 0
    staple: Staple = Staple.NOT_ASKED
    min_version: TLSVersion | None = None
    ca_bundle: str = ""
    why: str = ""

    @property
    def mandatory(self) -> bool:
        """Nothing is believed, and no mail sent, before TLS (and its authentication) stands."""
        return self.level is not Level.MAY

    @property
    def authenticates(self) -> bool:
        """The certificate is matched against `records`."""
        return bool(self.records)


class PoolKey(NamedTuple):
    """Two transactions share a connection only if all of this is equal (contracts section 5, RFC 7672 3.2.2)."""

    address: Address
    port: int
    implicit_tls: bool
    secure: bool  # the MX answer
    plan: Plan
    ehlo: str
    credentials: str  # the Secret's name, "" without
    account: Credentials | None = None  # what it holds: a session keeps the user that it began with


@dataclass(frozen=True, slots=True)
class Handshake:
    """What TLS came to, as the edge saw it; nothing is judged yet but at `webpki`.

    `version` as in Exim's X=: "TLS1.3"; `cipher` in OpenSSL's words; `chain`: DER, as the peer sent it, leaf first.
    `staple`: the OCSP response as it came, DER, or b"". `trust`: at level VERIFY "" where the chain leads to the CA
    bundle, else OpenSSL's reason. `now`: seconds since 1970, when it was done."""

    version: str
    cipher: str
    chain: tuple[bytes, ...]
    staple: bytes = b""
    trust: str = ""
    now: float = 0.0
