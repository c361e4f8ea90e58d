"""A certificate as a peer or the DNS shows it: octets first, parsed only where somebody has to look inside.

Refuses to know what it is used for. The strength that is asked of keys and signatures is OpenSSL's at security level 1
(80 bits): RSA of 1024 bits and more, any elliptic curve that `cryptography` knows, digests from SHA-224 on; libssl 3.0
counts a SHA-1 signature as 63 bits. Where its arithmetic is kinder than its manual (RSA from 920 bits on), the manual
counts. DSA is not taken at all. Raises NotAuthenticated.
"""

from __future__ import annotations

import functools
import hashlib
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from .der import subject_public_key_info
from .verdict import NotAuthenticated, Reason

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator

    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from postern_sidecar.answers import TLSA

HASHES = {1: "sha256", 2: "sha512"}
"""By matching type (RFC 6698 2.1.3); 0 is the thing itself."""
_MIN_RSA = 1024
_WEAK_DIGESTS = frozenset({"md5", "sha1"})
_MAX_SUBJECT = 256  # characters in a log line
_UNREADABLE = (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


@runtime_checkable
class _OneWay(Protocol):
    """Keys that sign in one way only: EdDSA, ML-DSA."""

    def verify(self, signature: bytes, data: bytes) -> None: ...


def parsed(der: bytes) -> x509.Certificate:
    """One whole certificate and nothing behind it. Raises ValueError."""
    with warnings.catch_warnings():  # a serial number that is not positive, and more like it: the peer's business
        warnings.simplefilter("ignore")
        try:
            return x509.load_der_x509_certificate(der)
        except x509.InvalidVersion as error:
            raise ValueError(str(error)) from None


@contextmanager
def _malformed() -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise NotAuthenticated(Reason.MALFORMED, f"a certificate that cannot be read: {error}") from None


class Certificate:
    """Equal to another of the same octets. `der` need not be a certificate: whoever asks for more finds out."""

    def __init__(self, der: bytes) -> None:
        self.der = der
        self._selected: dict[tuple[int, int], bytes] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Certificate) and self.der == other.der

    def __hash__(self) -> int:
        return hash(self.der)

    def matches(self, record: TLSA) -> bool:
        """The record's data are this certificate's (RFC 6698 2.1.4); the usage is not looked at."""
        chosen = record.selector, record.matching
        if chosen not in self._selected:
            data = self.spki if record.selector else self.der
            self._selected[chosen] = hashlib.new(HASHES[record.matching], data).digest() if record.matching else data
        return self._selected[chosen] == record.data

    @functools.cached_property
    def spki(self) -> bytes:
        with _malformed():
            return subject_public_key_info(self.der)

    @functools.cached_property
    def key(self) -> PublicKeyTypes:
        """Whatever its strength."""
        with _malformed():
            return load_der_public_key(self.spki)

    @functools.cached_property
    def parsed(self) -> x509.Certificate:
        with _malformed():
            return parsed(self.der)

    @functools.cached_property
    def subject(self) -> x509.Name:
        with _malformed():
            return self.parsed.subject

    @functools.cached_property
    def issuer(self) -> x509.Name:
        with _malformed():
            return self.parsed.issuer

    @functools.cached_property
    def self_issued(self) -> bool:
        return name_key(self.subject.rdns) == name_key(self.issuer.rdns)

    @functools.cached_property
    def extensions(self) -> x509.Extensions:
        with _malformed():
            return self.parsed.extensions

    def extension(self, kind: type[_Extension]) -> _Extension | None:
        try:
            return self.extensions.get_extension_for_class(kind).value
        except x509.ExtensionNotFound:
            return None

    @property
    def name(self) -> str:
        """For people: the subject as RFC 4514 writes it, "CN=mx.example.org"; "" where it cannot be read."""
        try:
            return self.subject.rfc4514_string()[:_MAX_SUBJECT]
        except NotAuthenticated:
            return ""


def name_key(rdns: Iterable[x509.RelativeDistinguishedName]) -> Hashable:
    """Equal for names that are equal by RFC 5280 7.1: case and inner spaces do not count, nor the string's type."""
    return tuple(
        frozenset((attribute.oid, " ".join(str(attribute.value).casefold().split())) for attribute in rdn)
        for rdn in rdns
    )


def require_strength(key: PublicKeyTypes, whose: str) -> None:
    """Raises NotAuthenticated."""
    if isinstance(key, dsa.DSAPublicKey):
        raise NotAuthenticated(Reason.WEAK, f"{whose} has a DSA key")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA:
        raise NotAuthenticated(Reason.WEAK, f"{whose} has an RSA key of {key.key_size} bits")


def require_signature(certificate: Certificate, key: PublicKeyTypes) -> None:
    """`key` signed the certificate, with a digest that is strong enough. Raises NotAuthenticated."""
    signed = certificate.parsed
    try:
        digest = signed.signature_hash_algorithm
        parameters = signed.signature_algorithm_parameters
    except (ValueError, UnsupportedAlgorithm):
        raise NotAuthenticated(Reason.WEAK, f"{certificate.name} has a signature of an unknown kind") from None
    if digest is not None and digest.name in _WEAK_DIGESTS:
        raise NotAuthenticated(Reason.WEAK, f"{certificate.name} is signed with {digest.name.upper()}")
    try:
        _verify(key, signed, digest, parameters)
    except InvalidSignature:
        raise NotAuthenticated(Reason.CHAIN, f"the signature of {certificate.name} does not verify") from None


def _verify(
    key: PublicKeyTypes,
    signed: x509.Certificate,
    digest: hashes.HashAlgorithm | None,
    parameters: padding.PSS | padding.PKCS1v15 | ec.ECDSA | None,
) -> None:
    """As `x509.Certificate.verify_directly_issued_by`, which wants an issuer's certificate; in DNS a key may stand
    alone (2 1 0), and names are compared as RFC 5280 7.1 says. Raises InvalidSignature."""
    signature, content = signed.signature, signed.tbs_certificate_bytes
    if isinstance(key, rsa.RSAPublicKey):
        if digest is not None and isinstance(parameters, padding.PKCS1v15 | padding.PSS):
            return key.verify(signature, content, parameters, digest)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if isinstance(parameters, ec.ECDSA):
            return key.verify(signature, content, parameters)
    elif digest is None and isinstance(key, _OneWay):
        return key.verify(signature, content)
    raise InvalidSignature
