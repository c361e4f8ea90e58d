"""The way from a server's certificate up to a trust anchor that a DANE-TA(2) record names (RFC 7671 5.2, RFC 5280 6.1).

`paths` finds ways whose signatures hold, in whatever order the peer sent its certificates and whatever it sent besides;
`judge` says whether one of them may be taken. The rules are OpenSSL's of a TLS server's chain with DANE:

- the way ends at the first certificate that a record matches, be it on the wire or in DNS (2 0 0), or with one that a
  bare key in DNS (2 1 0) signed. What is above is nobody's business.
- the server's own certificate is no anchor, but for a bare key that signed it (a self-signed one and 2 1 0).
- an anchor's own expiry counts only if it is self-issued, as OpenSSL has it; RFC 5280 leaves it open.
- an anchor may do without basicConstraints where keyUsage says keyCertSign, or where it is self-issued and of version
  1; every other issuer needs CA:TRUE (RFC 5280 4.2.1.9).
- anyExtendedKeyUsage is not serverAuth.

Where it differs, on purpose: signatures decide who issued what, not names and key identifiers alone, so where several
authorities have one name, or the first way up ends nowhere, the others are tried; signatures and keys of the whole way
must be strong, at the top of a way to a bare key too; notAfter belongs to the validity (RFC 5280 4.1.2.5).

Work is bounded by `MAX_STEPS` signatures. Raises NotAuthenticated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from . import names
from .certificate import name_key, require_signature, require_strength
from .constraints import require_permitted
from .verdict import NotAuthenticated, Reason

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from postern_sidecar.answers import TLSA
    from postern_sidecar.names import Domain

    from .certificate import Certificate

MAX_STEPS = 64
"""Signatures looked at for one handshake. A public chain takes three; OpenSSL's limit is a depth of 100."""

# Critical extensions that may be there: judged here, or, as OpenSSL has it, of no weight for a server without policies.
_UNDERSTOOD = frozenset(
    kind.oid
    for kind in (
        x509.AuthorityKeyIdentifier,
        x509.BasicConstraints,
        x509.CRLDistributionPoints,
        x509.CertificatePolicies,
        x509.ExtendedKeyUsage,
        x509.InhibitAnyPolicy,
        x509.KeyUsage,
        x509.NameConstraints,
        x509.OCSPNoCheck,
        x509.PolicyConstraints,
        x509.SubjectAlternativeName,
        x509.SubjectKeyIdentifier,
    )
)


class Path(NamedTuple):
    """`certificates`: the server's first. `bare`: the record is a key that signed the last of them."""

    certificates: tuple[Certificate, ...]
    record: TLSA
    bare: bool

    @property
    def depth(self) -> int:
        return len(self.certificates) - 1


@dataclass(slots=True)
class Search:
    """`candidates`: who may have issued something, by name; those in DNS before those on the wire. `anchors`: of the
    candidates, those that a record matches. `keys`: the bare keys. `trouble`: the first way that was closed, and
    why."""

    candidates: Mapping[Hashable, Sequence[Certificate]]
    anchors: Mapping[Certificate, TLSA]
    keys: Sequence[tuple[TLSA, PublicKeyTypes]]
    steps: int = field(default=MAX_STEPS)
    trouble: NotAuthenticated | None = None

    def paths(self, below: tuple[Certificate, ...]) -> Iterator[Path]:
        """All ways that go on from `below`. A bare key is for where nobody showed a certificate of it: one that did may
        have limits that the key does not tell of."""
        top = below[-1]
        shown = False
        for issuer in self.candidates.get(name_key(top.issuer.rdns), ()):
            if issuer in below or _same_authority(top, issuer) or not self._signed(top, issuer):
                continue
            shown = True
            if (record := self.anchors.get(issuer)) is not None:
                yield Path((*below, issuer), record, bare=False)
            else:
                yield from self.paths((*below, issuer))
        for record, key in () if shown else self.keys:
            if self._signed_by_key(top, key):
                yield Path(below, record, bare=True)

    def _signed(self, certificate: Certificate, issuer: Certificate) -> bool:
        """A closed way is remembered: if no other is open, it is the reason."""
        if not self._step():
            return False
        try:
            require_signature(certificate, issuer.key)
        except NotAuthenticated as trouble:
            self.trouble = self.trouble or trouble
            return False
        return True

    def _signed_by_key(self, certificate: Certificate, key: PublicKeyTypes) -> bool:
        """That a key signed something else is no trouble."""
        if not self._step():
            return False
        try:
            require_signature(certificate, key)
            require_strength(key, "the trust anchor in DNS")
        except NotAuthenticated as trouble:
            if trouble.reason is Reason.WEAK:
                self.trouble = self.trouble or trouble
            return False
        return True

    def _step(self) -> bool:
        self.steps -= 1
        if self.steps < 0:
            self.trouble = NotAuthenticated(Reason.CHAIN, f"more than {MAX_STEPS} signatures to look at")
        return self.steps >= 0


def _same_authority(certificate: Certificate, other: Certificate) -> bool:
    """Two certificates of one key and one name: what leads on from the other leads on from below too. A server's
    certificate that signed itself has no issuer."""
    return certificate.self_issued and certificate.spki == other.spki


def judge(path: Path, references: Sequence[Domain], now: datetime) -> Domain:
    """The reference identifier that the server's certificate has, if the path may be taken."""
    leaf = path.certificates[0]
    for depth, certificate in enumerate(path.certificates):
        _extensions(certificate)
        if depth:
            _authority(certificate, anchor=depth == path.depth)
        _purpose(certificate, leaf=not depth)
    _lengths(path.certificates)
    for certificate in path.certificates[1:]:
        require_strength(certificate.key, certificate.name)
    name = names.match(leaf, references)
    timeless_anchor = not path.bare and not path.certificates[-1].self_issued
    for certificate in reversed(path.certificates[:-1] if timeless_anchor else path.certificates):
        _valid(certificate, now)
    require_permitted(path.certificates, name)
    return name


def _extensions(certificate: Certificate) -> None:
    """RFC 5280 4.2: a critical extension that is not understood means no."""
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            oid = extension.oid.dotted_string
            raise NotAuthenticated(Reason.CHAIN, f"{certificate.name} has an unknown critical extension ({oid})")


def _authority(certificate: Certificate, *, anchor: bool) -> None:
    usage = certificate.extension(x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise NotAuthenticated(Reason.CHAIN, f"{certificate.name} may not sign certificates")
    basic = certificate.extension(x509.BasicConstraints)
    if basic is None:
        old_root = certificate.parsed.version is x509.Version.v1 and certificate.self_issued
        if not (anchor and (usage is not None or old_root)):
            raise NotAuthenticated(Reason.CHAIN, f"{certificate.name} does not say that it is an authority")
    elif not basic.ca:
        raise NotAuthenticated(Reason.CHAIN, f"{certificate.name} is not an authority")


def _purpose(certificate: Certificate, *, leaf: bool) -> None:
    purposes = certificate.extension(x509.ExtendedKeyUsage)
    if purposes is not None and ExtendedKeyUsageOID.SERVER_AUTH not in purposes:
        raise NotAuthenticated(Reason.PURPOSE, f"{certificate.name} is not for servers")
    usage = certificate.extension(x509.KeyUsage) if leaf else None
    if usage is not None and not (usage.digital_signature or usage.key_encipherment or usage.key_agreement):
        raise NotAuthenticated(Reason.PURPOSE, f"{certificate.name} is not for TLS")


def _lengths(path: Sequence[Certificate]) -> None:
    """pathLenConstraint: how many authorities may stand below, self-issued ones not counted (RFC 5280 4.2.1.9)."""
    between = 0
    for certificate in path[1:]:
        basic = certificate.extension(x509.BasicConstraints)
        if basic is not None and basic.path_length is not None and between > basic.path_length:
            raise NotAuthenticated(Reason.CHAIN, f"{certificate.name} allows {basic.path_length} authorities below it")
        between += not certificate.self_issued


def _valid(certificate: Certificate, now: datetime) -> None:
    if now < (since := certificate.parsed.not_valid_before_utc):
        raise NotAuthenticated(Reason.NOT_YET_VALID, f"{certificate.name} is valid from {since:%Y-%m-%d %H:%M:%S}Z on")
    if now > (until := certificate.parsed.not_valid_after_utc):
        raise NotAuthenticated(Reason.EXPIRED, f"{certificate.name} expired at {until:%Y-%m-%d %H:%M:%S}Z")
