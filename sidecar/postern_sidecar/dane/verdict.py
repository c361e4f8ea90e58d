"""How authentication by TLSA records ends: a `Match`, or `NotAuthenticated` with a reason."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postern_sidecar.answers import TLSA
    from postern_sidecar.names import Domain


class Reason(enum.Enum):
    """Why a server is not who DNS says: words for logs and metrics."""

    TLSA_MISMATCH = "tlsa_mismatch"  # no record stands for a certificate that could vouch for the server
    EXPIRED = "certificate_expired"
    NOT_YET_VALID = "certificate_not_yet_valid"
    NAME = "certificate_name"
    CHAIN = "certificate_chain"  # a signature, a certificate that may not issue, a path too long
    PURPOSE = "certificate_purpose"
    CONSTRAINTS = "certificate_constraints"  # an authority above does not speak for that name
    WEAK = "certificate_weak"  # below OpenSSL's security level 1
    MALFORMED = "certificate_malformed"


class NotAuthenticated(Exception):  # noqa: N818  # a verdict on the peer, not an error of ours
    """`detail` is for people; what it quotes from certificates is neither escaped nor short."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Match:
    """`record` authenticated the server. `depth`: of the certificate that it stands for, 0 is the server's; of a bare
    key in DNS (2 1 0), that of the certificate that the key signed. `subject`: the server's, as a log line has it.
    `name`: the reference identifier that its certificate has; None at DANE-EE, where none is looked for."""

    record: TLSA
    depth: int
    subject: str
    name: Domain | None
