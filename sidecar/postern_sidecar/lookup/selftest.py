"""Whether the resolver validates: a signed name must come back secure, and a broken one must fail (contracts 5).

    self_test(secure, bogus) -> SelfTest

A resolver that does not validate calls nothing secure, and DANE would quietly not happen; one that believes everything
calls a forgery secure. When it runs and what waits for it is the edge's business. Nothing here raises.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from postern_sidecar.answers import Kind, Question, State

from .asking import said

if TYPE_CHECKING:
    from postern_sidecar.names import Domain

    from .asking import Asking


class Verdict(enum.Enum):
    PASSED = "passed"
    UNPROVED = "unproved"  # the broken name is out of reach: `postern_dns_selftest_unproved 1`, and deliveries go on
    FAILED = "failed"


_REMEDIES: Final = {  # of a name that is not secure
    State.INSECURE: "does it validate DNSSEC?",
    State.ABSENT: "does it validate DNSSEC?",
    State.BOGUS: "are its trust anchor and the clock right?",
    State.FAILED: "does it run, and reach the name servers?",
}


@dataclass(frozen=True, slots=True)
class SelfTest:
    """`detail`: of UNPROVED and FAILED, what came of the question that decided."""

    verdict: Verdict
    detail: str = ""


def self_test(secure: Domain, bogus: Domain) -> Asking[SelfTest]:
    """SOA, because every zone has one; below a zone's name its validated denial is as good a proof.

    Unanswered without CD is what is wanted of `bogus`, but a dead server of that zone does the same: with CD (RFC 4035
    3.2.2) there is an answer, if it was validation that withheld it."""
    signed, checked, unchecked = yield (
        Question(secure, Kind.SOA),
        Question(bogus, Kind.SOA),
        Question(bogus, Kind.SOA, checking_disabled=True),
    )
    if not signed.authentic:
        return SelfTest(Verdict.FAILED, f"{said(signed)}, and must be secure: {_REMEDIES[signed.state]}")
    if checked.usable:
        return SelfTest(Verdict.FAILED, f"{said(checked)}, and must fail")
    if checked.state is State.BOGUS or unchecked.usable:
        return SelfTest(Verdict.PASSED)
    return SelfTest(Verdict.UNPROVED, said(unchecked))
