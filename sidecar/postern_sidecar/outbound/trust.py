"""Is a handshake what the plan demands? Certificate, names and staple are judged here; nothing else may raise a level.

`judge` returns what matched or raises `NotTrusted`, never a boolean. DANE: RFC 7671, 7672 3; verify: the edge has built
the chain to the CA bundle (`Handshake.trust`), the name is matched here (RFC 6125); OCSP: contracts section 5, judged
only at dane and verify, where there is a certificate to say something about.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from postern_sidecar.dane import names, ocsp
from postern_sidecar.dane.certificate import Certificate
from postern_sidecar.dane.chain import authenticate
from postern_sidecar.dane.verdict import NotAuthenticated

from .plan import Level, Staple

if TYPE_CHECKING:
    from .plan import Handshake, Plan


class NotTrusted(Exception):  # noqa: N818 - a verdict
    """`reason`: one of docs/logging.md's. `detail`: for the log."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Trusted:
    """`matched`: the TLSA record, as in a zone file, or "". `subject`: of the leaf, for Exim's DN=. `note`: for the
    log."""

    matched: str = ""
    subject: str = ""
    note: str = ""


def judge(plan: Plan, handshake: Handshake) -> Trusted:
    """Raises NotTrusted."""
    now = datetime.fromtimestamp(handshake.now, UTC)
    try:
        if plan.authenticates:
            match = authenticate(handshake.chain, plan.records, plan.references, now)
            trusted = Trusted(str(match.record), match.subject)
        else:
            trusted = Trusted("", _subject(plan, handshake))
    except NotAuthenticated as verdict:
        raise NotTrusted(verdict.reason.value, verdict.detail) from None
    if plan.level in (Level.DANE, Level.VERIFY):
        return replace(trusted, note=_staple(plan, handshake, now))
    return trusted


def _subject(plan: Plan, handshake: Handshake) -> str:
    """Whose certificate it is; below verify it may be anything. Raises NotTrusted and NotAuthenticated."""
    leaf = Certificate(handshake.chain[0]) if handshake.chain else None
    if plan.level is Level.VERIFY:
        if handshake.trust or leaf is None:
            raise NotTrusted("certificate_untrusted", handshake.trust or "no certificate")
        names.match(leaf, plan.references)
    return leaf.name if leaf is not None else ""


def _staple(plan: Plan, handshake: Handshake, now: datetime) -> str:
    """What the log should say of it. Raises NotTrusted."""
    if plan.staple is Staple.NOT_ASKED:
        return ""
    anchors = [record.data for record in plan.records if record[:3] == (2, 0, 0)]  # they stand in DNS only
    verdict = ocsp.judge(handshake.staple, handshake.chain, now, anchors)
    if verdict.status is ocsp.Status.GOOD:
        return ""
    if verdict.status is ocsp.Status.REVOKED or plan.staple is Staple.REQUIRED:
        raise NotTrusted(f"ocsp_{verdict.status.value}", verdict.detail)
    return " ".join(filter(None, (f"OCSP staple {verdict.status.value}", verdict.detail)))
