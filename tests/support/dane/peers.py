"""What Postfix 3.7 and Exim 4.96 (Debian 12) do where it is not what the table of cases has: facts, as `relays.observe`
saw them. docs/comparison.md has them for people, a row for each kind; `tests/test_comparison.py` compares the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .relays import Seen

if TYPE_CHECKING:
    from .case import Case

BOUNCED = Seen("bounced")
DEFERRED = Seen("deferred")
BY_DANE = Seen("delivered", "dane", 1)
BY_TLS = Seen("delivered", "tls", 1)

POSTFIX_CRASHES = "unusable-no-data"
"""TLSA data so short end its smtp process (a panic; mended upstream in 2026), so that this case runs alone."""

POSTFIX_DIFFERS = {
    "mx-insecure-ta-name-of-domain": Seen("delivered", "half-dane", 1),
    "unspecified": DEFERRED,
    "starttls-554": BOUNCED,
    "starttls-554-next-host": BOUNCED,
    "starttls-injection": BY_DANE,
    "ehlo-550": BOUNCED,
    "reply-data-250": BOUNCED,
    "reply-dot-354": BOUNCED,
    "may-handshake-closed": DEFERRED,
    "may-banner-554": DEFERRED,
    "ocsp-revoked": BY_DANE,
}

_EXIM_WITHOUT_DANE = (
    "mx-insecure-host-secure",
    "mx-insecure-host-secure-mismatch",
    "mx-insecure-ta-name-of-domain",
    "mx-insecure-ta-name-of-host",
    "domain-alias-insecure",
    "alias-tlsa-at-original",
    "alias-to-secure-zone",
    "alias-to-insecure-tlsa-at-original",
    "alias-to-insecure-mismatch",
    "unusable-required",
)
_EXIM_TAKES = (
    "agility-weak-right",
    "agility-ta",
    "ta-padded-other",
    "ta-client-only",
    "ta-email-only",
    "ta-intermediate-spoilt",
    "ta-expired-root",
    "ta-intermediate-client-only",
    "ta-root-no-ca",
    "ta-path-too-long",
    "ta-name-excluded",
    "ta-sha1",
    "ta-short-key-authority",
    "handshake-old-version",
    "ocsp-revoked",
)
_EXIM_BOUNCES = (
    "mx-insecure-required",
    "require-none",
    "require-insecure",
    "banner-554",
    "ehlo-550",
)
_EXIM_DEFERS = (
    "literal",
    "loopback",
    "unspecified",
    "unusable-no-certificate",
    "unusable-no-key",
    "ta-domain-name",
    "ta-cn-beside-ip",
    "name-expanded-domain",
    "name-original-domain",
    "ta-root-in-dns",
    "ta-int-in-dns",
    "ta-both-in-dns",
    "ta-key-in-dns",
    "ta-int-key-in-dns",
)

EXIM_DIFFERS = {
    **dict.fromkeys(_EXIM_WITHOUT_DANE, BY_TLS),
    **dict.fromkeys(_EXIM_TAKES, BY_DANE),
    **dict.fromkeys(_EXIM_BOUNCES, BOUNCED),
    **dict.fromkeys(_EXIM_DEFERS, DEFERRED),
}


def applicable(case: Case) -> bool:
    """Postern's other policies are fields of its own, which the two have not."""
    return case.policy == "default"


def word(seen: Seen) -> str:
    """As the page has it."""
    return {"delivered": seen.how or "", "deferred": "defer", "bounced": "bounce"}[seen.outcome]
