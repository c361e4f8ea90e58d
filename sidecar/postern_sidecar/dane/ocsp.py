"""The verdict on a stapled OCSP response (RFC 6960, RFC 6066 8): does it say that this certificate is good?

`judge` decides from bytes alone. Whether a staple was asked for, and what its absence costs, is `outbound`'s business
(contracts section 5: under Require only GOOD will do, under Auto REVOKED fails and the rest is logged).

Who may answer (RFC 6960 4.2.2.2): the certificate's issuer, or a certificate that the same key issued for it with
id-kp-OCSPSigning, valid now. The issuer is looked for in the chain as it was sent and in `anchors`, which stand only in
DNS (TLSA 2 0 0). What is not done: no requests of our own, no check of whether the responder is revoked itself
(id-pkix-ocsp-nocheck or not: nobody could answer), no responders that an administrator trusts beside the issuer, and
no RSASSA-PSS, whose parameters `cryptography` does not show.

Signatures by MD5 and SHA-1 do not count, as at OpenSSL's security level 1; the certificate's ID may use SHA-1, which
is no signature. Raises nothing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509 import (
    Certificate,
    ExtendedKeyUsage,
    ExtensionNotFound,
    Name,
    SubjectKeyIdentifier,
    load_der_x509_certificate,
    ocsp,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

SKEW: Final = timedelta(minutes=5)  # Exim's EXIM_OCSP_SKEW_SECONDS
MAX_AGE: Final = timedelta(days=7)  # of a response without nextUpdate, which RFC 6960 2.4 lets grow old for ever
RESPONSES: Final = 16  # a staple is about one certificate; some responders add its neighbours
CERTIFICATES: Final = 8  # that come inside a response, and of the chain


class Status(enum.Enum):
    GOOD = "good"
    REVOKED = "revoked"
    ABSENT = "absent"  # none came
    STALE = "stale"  # not yet, or no longer
    UNKNOWN = "unknown"  # the responder does not know the certificate
    INVALID = "invalid"  # not a response, not about this certificate, or not by one who may say so


@dataclass(frozen=True, slots=True)
class StapleVerdict:
    """`detail`: for logs; of GOOD it is ""."""

    status: Status
    detail: str = ""


class _Invalid(Exception):  # noqa: N818 - a verdict on its way up
    """Its text is the verdict's detail."""


_MALFORMED = (ValueError, TypeError, UnsupportedAlgorithm)  # of cryptography's parsers, also late: they are lazy


def judge(staple: bytes, chain: Sequence[bytes], now: datetime, anchors: Sequence[bytes] = ()) -> StapleVerdict:
    """`chain`: DER, leaf first, as the peer sent it. `now`: with its time zone. `anchors`: DER, of TLSA 2 0 0."""
    if not staple:
        return StapleVerdict(Status.ABSENT)
    try:
        return _judged(ocsp.load_der_ocsp_response(staple), chain, now, anchors)
    except _Invalid as invalid:
        return StapleVerdict(Status.INVALID, str(invalid))
    except _MALFORMED:
        return StapleVerdict(Status.INVALID, "malformed")


def _judged(
    response: ocsp.OCSPResponse, chain: Sequence[bytes], now: datetime, anchors: Sequence[bytes]
) -> StapleVerdict:
    """Raises _Invalid, and what _MALFORMED has."""
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise _Invalid(f"the responder said {response.response_status.name.lower()}")
    if not chain:
        raise _Invalid("there is no certificate that it could be about")
    leaf, *others = _certificates((*chain[:CERTIFICATES], *anchors))
    issuer, single = _about(response, leaf, [*others, leaf])  # a self-signed leaf is its own issuer
    _check_signature(response, _responder(response, issuer, now))
    return _status(single, now)


def _certificates(encoded: Iterable[bytes]) -> list[Certificate]:
    """The leaf must parse; of the others those that do not cannot have issued it."""
    certificates: list[Certificate] = []
    for der in encoded:
        try:
            certificates.append(load_der_x509_certificate(der))
        except ValueError:
            if not certificates:
                raise
    return certificates


def _issued(certificate: Certificate, issuer: Certificate) -> bool:
    """Names and signature."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *_MALFORMED):
        return False
    return True


def _about(
    response: ocsp.OCSPResponse, leaf: Certificate, candidates: Iterable[Certificate]
) -> tuple[Certificate, ocsp.OCSPSingleResponse]:
    """The leaf's issuer and what is said about the leaf. Raises _Invalid."""
    issuers = [candidate for candidate in candidates if _issued(leaf, candidate)]
    if not issuers:
        raise _Invalid("the certificate's issuer is not known")
    for number, single in enumerate(response.responses):
        if number == RESPONSES:
            break
        if single.serial_number == leaf.serial_number:
            for issuer in issuers:
                if _names_issuer(single, leaf, issuer):
                    return issuer, single
    raise _Invalid("about another certificate")


def _names_issuer(single: ocsp.OCSPSingleResponse, leaf: Certificate, issuer: Certificate) -> bool:
    """RFC 6960 4.1.1: the hashes of the issuer's name and of its key. A request has the same, so one is made."""
    request = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, single.hash_algorithm).build()
    here = (single.issuer_name_hash, single.issuer_key_hash)
    return here == (request.issuer_name_hash, request.issuer_key_hash)


def _responder(response: ocsp.OCSPResponse, issuer: Certificate, now: datetime) -> Certificate:
    """Who has signed: the issuer, or whom it has delegated to. Raises _Invalid."""
    name, key = response.responder_name, response.responder_key_hash
    if _is_named(issuer, name, key):
        return issuer
    for delegate in response.certificates[:CERTIFICATES]:
        if not _is_named(delegate, name, key):
            continue
        if not _issued(delegate, issuer) or not _signs_ocsp(delegate):
            raise _Invalid("the certificate's issuer has not delegated to the responder")
        if not delegate.not_valid_before_utc - SKEW <= now <= delegate.not_valid_after_utc + SKEW:
            raise _Invalid("the responder's certificate is not valid now")
        return delegate
    raise _Invalid("the responder is not known")


def _is_named(certificate: Certificate, name: Name | None, key: bytes | None) -> bool:
    """A responder is named by its subject, or by the SHA-1 of its key (RFC 6960 4.2.1)."""
    if name is not None:
        return certificate.subject == name
    return key == SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest


def _signs_ocsp(certificate: Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(ExtendedKeyUsage).value
    except ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.OCSP_SIGNING in usage


def _check_signature(response: ocsp.OCSPResponse, responder: Certificate) -> None:
    """Raises _Invalid."""
    key, signature, signed = responder.public_key(), response.signature, response.tbs_response_bytes
    if response.signature_algorithm_oid == SignatureAlgorithmOID.RSASSA_PSS:
        raise _Invalid("signed by RSASSA-PSS")
    digest = response.signature_hash_algorithm
    if isinstance(digest, (hashes.MD5, hashes.SHA1)):
        raise _Invalid(f"signed by {digest.name}")
    try:
        match key, digest:
            case rsa.RSAPublicKey(), hashes.HashAlgorithm():
                key.verify(signature, signed, padding.PKCS1v15(), digest)
            case ec.EllipticCurvePublicKey(), hashes.HashAlgorithm():
                key.verify(signature, signed, ec.ECDSA(digest))
            case ((ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey()), None):
                key.verify(signature, signed)
            case _:
                raise _Invalid("signed by an algorithm that is not the responder's")
    except InvalidSignature:
        raise _Invalid("the signature is wrong") from None


def _status(single: ocsp.OCSPSingleResponse, now: datetime) -> StapleVerdict:
    """Once revoked is always revoked, however old the news."""
    if single.certificate_status is ocsp.OCSPCertStatus.REVOKED:
        return StapleVerdict(Status.REVOKED, f"since {single.revocation_time_utc:%Y-%m-%d}")
    begin, end = single.this_update_utc, single.next_update_utc
    if now < begin - SKEW:
        return StapleVerdict(Status.STALE, f"not valid before {begin:%Y-%m-%dT%H:%M:%SZ}")
    if end is None:
        end = begin + MAX_AGE
    if now > end + SKEW:
        return StapleVerdict(Status.STALE, f"not valid after {end:%Y-%m-%dT%H:%M:%SZ}")
    if single.certificate_status is ocsp.OCSPCertStatus.GOOD:
        return StapleVerdict(Status.GOOD)
    return StapleVerdict(Status.UNKNOWN)
