"""Certificates of every shape, for tests: right ones, wrong ones and ones that no authority would make.

    root = issue("Root", ca=True)
    intermediate = issue("Intermediate", by=root, ca=True)
    leaf = issue("mx.example.org", by=intermediate, dns=["mx.example.org"])
    leaf.der, leaf.pem, leaf.key_pem, pem_chain(leaf, intermediate)

What `issue` is not told is as a sound certificate has it, and valid whenever the tests run (`ALWAYS`); `EXPIRED` and
`NOT_YET_VALID` are that whenever the tests run. Keys are made once a process (`key`); authorities and leaves that are
not told otherwise have a key of their own each, out of a pool, by their names.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Validity = tuple[datetime, datetime]
ALWAYS: Validity = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC))
EXPIRED: Validity = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC))
NOT_YET_VALID: Validity = (datetime(2098, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC))
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
"""A time for code that is told the time: inside ALWAYS."""

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
ANY_PURPOSE = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
SERIAL = 0x5EC0DE

Bit = Literal["digital_signature", "key_cert_sign", "crl_sign", "key_encipherment", "key_agreement"]
_POOL = 256
# A 512-bit modulus, for keys too weak to be made by today's libraries, and its private exponent.
_WEAK_N = int(
    "c4f1d094f2a0c640528d5b7f4497879276f48ea00b1b31f083fac8cb93e756fc"
    "58ba9092ca320ebce4845489d29ba8bb5b77c41d4111d3569615d5c1ca0cd83b",
    16,
)
_WEAK_D = int(
    "88b5e7798d9727277d669cce129a3144ed8843fd3ad86ce92d6487c031725441"
    "6d70acefa0a75dedd3bba085b15ce72d5d77dc1dfcebc8703e154a608a8d0f09",
    16,
)
_OID = {  # the last octet of pkcs-1's OID for each: they are of one length, so one may stand in another's place
    "md5": b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04",
    "sha1": b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05",
    "sha256": b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b",
}
_DIGEST_INFO = {  # RFC 8017 9.2, note 1
    "md5": bytes.fromhex("3020300c06082a864886f70d020505000410"),
    "sha1": bytes.fromhex("3021300906052b0e03021a05000414"),
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
}


class WeakKey:
    """An RSA key of 512 bits: `issue(key=WEAK)`; it can issue too."""

    def public_key(self) -> rsa.RSAPublicKey:
        return rsa.RSAPublicNumbers(65537, _WEAK_N).public_key()


WEAK = WeakKey()
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | WeakKey


@functools.cache
def key(kind: Literal["EC", "RSA-1024", "RSA-2048", "Ed25519"] = "EC", number: int = 0) -> Key:
    """A key; the same one for the same arguments."""
    if kind == "EC":
        return ec.generate_private_key(ec.SECP256R1())
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, int(kind.removeprefix("RSA-")))


@dataclass(frozen=True)
class Certified:
    certificate: x509.Certificate
    key: Key
    issuer: Certified | None = None  # None: itself

    @functools.cached_property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @functools.cached_property
    def spki(self) -> bytes:
        return self.certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        assert not isinstance(self.key, WeakKey)
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def path(self) -> tuple[bytes, ...]:
        """DER of this one and of all above it, as a peer sends them."""
        return (self.der, *(self.issuer.path if self.issuer else ()))


def pem_chain(*certificates: Certified) -> bytes:
    return b"".join(each.pem for each in certificates)


def issue(
    common_name: str | None = "mx.example.org",
    *,
    by: Certified | None = None,
    dns: Iterable[str] = (),
    san: Iterable[x509.GeneralName] = (),
    ca: bool | None = None,
    path_length: int | None = None,
    bits: Iterable[Bit] | None = None,
    purposes: Sequence[x509.ObjectIdentifier] | None = None,
    permitted: Sequence[x509.GeneralName | str] | None = None,
    excluded: Sequence[x509.GeneralName | str] | None = None,
    extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
    valid: Validity = ALWAYS,
    key: Key | None = None,
    digest: Literal["sha256", "sha1", "md5"] = "sha256",
    subject: x509.Name | None = None,
    issuer: x509.Name | None = None,
    serial: int = SERIAL,
    identifiers: bool = False,
    spoilt: bool = False,
) -> Certified:
    """A certificate and its key.

    `by` signs it; None: it signs itself. `common_name` None: an empty subject. `dns`: dNSNames of the subjectAltName,
    exactly as written; `san`: names of other types there; neither: no such extension. `ca` None: no basicConstraints;
    True, False: what they say. `bits`: keyUsage; `purposes`: extendedKeyUsage. `permitted`, `excluded`:
    nameConstraints, strings are dNSNames. `extensions`: more of them, (value, critical). `digest` of the signature;
    sha1 and md5 ask for an issuer with an RSA key. `subject` and `issuer` stand in for the names that `common_name`
    and `by` give. `identifiers`: subjectKeyIdentifier and authorityKeyIdentifier. `spoilt`: the signature does not
    verify.
    """
    own = key or _pooled(common_name or "")
    signer = by.key if by else own
    name = _name(common_name) if subject is None else subject
    if issuer is None:
        issuer = by.certificate.subject if by else name
    builder = (
        x509.CertificateBuilder(subject_name=name, issuer_name=issuer)
        .public_key(own.public_key())
        .serial_number(serial)
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
    )
    names = [*map(x509.DNSName, dns), *san]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=name == x509.Name([]))
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
    if bits is not None:
        builder = builder.add_extension(_key_usage(set(bits)), critical=True)
    if purposes is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    if permitted is not None or excluded is not None:
        builder = builder.add_extension(x509.NameConstraints(_general(permitted), _general(excluded)), critical=True)
    if identifiers:
        above = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = builder.add_extension(above, critical=False)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return Certified(_signed(builder, signer, digest, spoilt=spoilt), own, by)


def _pooled(name: str) -> Key:
    """Names of different certificates seldom meet in the pool; the same name has the same key, as at a renewal."""
    return key("EC", 1 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % _POOL)


def _name(common_name: str | None) -> x509.Name:
    return x509.Name([] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general(names: Sequence[x509.GeneralName | str] | None) -> list[x509.GeneralName] | None:
    return [x509.DNSName(name) if isinstance(name, str) else name for name in names] if names else None


def _key_usage(bits: set[Bit]) -> x509.KeyUsage:
    others = dict.fromkeys(("content_commitment", "data_encipherment", "encipher_only", "decipher_only"), False)
    known = ("digital_signature", "key_cert_sign", "crl_sign", "key_encipherment", "key_agreement")
    return x509.KeyUsage(**others, **{bit: bit in bits for bit in known})


def _signed(builder: x509.CertificateBuilder, signer: Key, digest: str, *, spoilt: bool) -> x509.Certificate:
    if not isinstance(signer, WeakKey) and digest == "sha256":
        algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        made = builder.sign(signer, algorithm)
        return _replaced(made, made.tbs_certificate_bytes, _spoil(made.signature)) if spoilt else made
    assert isinstance(signer, WeakKey | rsa.RSAPrivateKey), "only RSA signs with a weak digest"
    template = key("RSA-2048") if isinstance(signer, WeakKey) else signer
    assert isinstance(template, rsa.RSAPrivateKey)
    made = builder.sign(template, hashes.SHA256())
    content = made.tbs_certificate_bytes.replace(_OID["sha256"], _OID[digest])
    signature = _rsa_signature(signer, content, digest)
    return _replaced(made, content, _spoil(signature) if spoilt else signature, _OID[digest])


def _spoil(signature: bytes) -> bytes:
    """Its last octet but a few is another: in ECDSA inside s, so that it is well-formed still."""
    at = len(signature) - 5
    return signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :]


def _rsa_signature(signer: WeakKey | rsa.RSAPrivateKey, content: bytes, digest: str) -> bytes:
    """RSASSA-PKCS1-v1_5 by hand (RFC 8017 8.2.1): the library signs neither with such keys nor with such digests."""
    if isinstance(signer, WeakKey):
        modulus, exponent = _WEAK_N, _WEAK_D
    else:
        numbers = signer.private_numbers()
        modulus, exponent = numbers.public_numbers.n, numbers.d
    size = (modulus.bit_length() + 7) // 8
    hashed = _DIGEST_INFO[digest] + hashlib.new(digest, content).digest()
    padded = b"\0\1" + b"\xff" * (size - 3 - len(hashed)) + b"\0" + hashed
    return pow(int.from_bytes(padded), exponent, modulus).to_bytes(size)


def _replaced(made: x509.Certificate, content: bytes, signature: bytes, oid: bytes = b"") -> x509.Certificate:
    """The certificate with other contents and another signature."""
    whole = made.public_bytes(serialization.Encoding.DER)
    start = whole.index(made.tbs_certificate_bytes) + len(made.tbs_certificate_bytes)
    algorithm = whole[start : start + 2 + whole[start + 1]]
    if oid:
        algorithm = algorithm.replace(_OID["sha256"], oid)
    return x509.load_der_x509_certificate(sequence(content, algorithm, _element(0x03, b"\0" + signature)))


def sequence(*parts: bytes) -> bytes:
    """DER of a SEQUENCE of parts that are DER already."""
    return _element(0x30, b"".join(parts))


def _element(tag: int, content: bytes) -> bytes:
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    size = len(content).to_bytes((len(content).bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(size)]) + size + content
