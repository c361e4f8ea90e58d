"""The webhook's authority and its serving certificate, made: P-256, SHA-256, X.509 v3.

Knows neither the clock (`now` is given) nor when to make what (`rotation`). Keys and serial numbers come from
OpenSSL's generator. Raises nothing.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .rotation import SIGNERS, Pair

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from .rotation import Lifetimes


def pair(names: Iterable[str], now: datetime, lifetimes: Lifetimes) -> Pair:
    """Both anew."""
    authority, key = _authority(now, lifetimes)
    return with_leaf(Pair((authority,), _pem(key), authority, b"", b""), names, now, lifetimes)


def with_authority(old: Pair, now: datetime, lifetimes: Lifetimes) -> Pair:
    """A new one in front of the old ones that are still valid; the leaf stays."""
    authority, key = _authority(now, lifetimes)
    kept = (each for each in old.authorities if each.not_valid_after_utc > now)
    return Pair((authority, *kept), _pem(key), old.leaf, old.chain_pem, old.leaf_key)


def with_leaf(old: Pair, names: Iterable[str], now: datetime, lifetimes: Lifetimes) -> Pair:
    """A new leaf, signed by the first authority; it does not outlive that one."""
    authority = old.authorities[0]
    signer = serialization.load_pem_private_key(old.authority_key, None)
    assert isinstance(signer, SIGNERS)  # noqa: S101 - `rotation.read` lets no other through
    key = ec.generate_private_key(ec.SECP256R1())
    ordered = sorted(names)
    end = min(now + lifetimes.leaf, authority.not_valid_after_utc)
    leaf = (
        _builder(_name(ordered[0]), authority.subject, key, now - lifetimes.skew, end)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in ordered]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return Pair(old.authorities, old.authority_key, leaf, leaf.public_bytes(Encoding.PEM), _pem(key))


def _authority(now: datetime, lifetimes: Lifetimes) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    # Two that are trusted at once have different names: a verifier may look an issuer up by its name.
    name = _name(f"postern webhook authority {now:%Y-%m-%dT%H:%M:%SZ}")
    made = (
        _builder(name, name, key, now - lifetimes.skew, now + lifetimes.authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made, key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    return builder.not_valid_before(start).not_valid_after(end)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs: bool) -> x509.KeyUsage:
    others = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    return x509.KeyUsage(
        **others, decipher_only=False, digital_signature=not signs, key_cert_sign=signs, crl_sign=signs
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
