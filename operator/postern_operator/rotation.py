"""What is to happen next to the webhook's certificates: a pure decision, from what the Secret and the API server hold.

`ca.crt` in the Secret is a list: first the authority whose key is `ca.key`, then older ones that are still trusted. The
caBundle shall hold exactly that list. An authority is changed in three steps that need no memory but the certificates'
own dates, so that any replica can take the next one: the new authority goes in front of the old and into the caBundle;
once the API server has been seen to hold it for `settle`, a new leaf is signed by it; once no leaf of the old one can
be valid any more, the old one goes. Each step leaves every served leaf trusted.

Lifetimes: 365 days for the authority, as cert-manager's webhook and Linkerd's chart have it; 30 for the leaf.
cert-manager takes 7 because each of its replicas signs a leaf of its own in memory; ours needs the API server and a
Lease holder to be renewed, and a cluster may stand still for a week. Both are renewed when a third is left. All are
back-dated by an hour, for clocks that disagree. Refuses to know keys' making (`signing`), Kubernetes and the clock.
Raises Broken.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

MAX_AUTHORITIES = 8
"""Of a list: more than any rotation makes. What is longer is not ours."""
MAX_PEM = 256 << 10
"""Octets of a list."""
SIGNERS = (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)
KEYS = ("ca.crt", "ca.key", "tls.crt", "tls.key")


class Broken(Exception):  # noqa: N818 - the Secret is
    """The text says what is wrong, without any of the contents."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """`*_renewal`: renewed when so much is left. `settle`: how long an authority is in the caBundle before a leaf is
    signed by it; other API servers of the cluster learn of it meanwhile."""

    authority: timedelta = timedelta(days=365)
    authority_renewal: timedelta = timedelta(days=122)
    leaf: timedelta = timedelta(days=30)
    leaf_renewal: timedelta = timedelta(days=10)
    settle: timedelta = timedelta(seconds=60)
    skew: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Pair:
    """What the Secret holds, checked: the keys belong to their certificates, one of the authorities signed the leaf.
    PEM texts are kept as they came, `authorities` in order."""

    authorities: tuple[x509.Certificate, ...]
    authority_key: bytes
    leaf: x509.Certificate
    chain_pem: bytes
    leaf_key: bytes

    @property
    def signed_by_first(self) -> bool:
        return issued(self.leaf, self.authorities[0])


class Step(enum.Enum):
    """What the Secret needs. The caBundle is a separate question (`bundle_differs`)."""

    NOTHING = "nothing"
    MAKE = "make"  # all anew
    ADD_AUTHORITY = "add authority"  # a new one in front; the leaf stays
    RENEW_LEAF = "renew leaf"  # signed by the first authority
    DROP_AUTHORITIES = "drop authorities"  # all but the first


def read(data: Mapping[str, bytes]) -> Pair:
    """The Secret's data, decoded. Raises Broken."""
    missing = [key for key in KEYS if not data.get(key)]
    if missing:
        raise Broken(f"it lacks {', '.join(missing)}")
    authorities = certificates(data["ca.crt"], "ca.crt")
    chain = certificates(data["tls.crt"], "tls.crt")
    pair = Pair(authorities, data["ca.key"], chain[0], data["tls.crt"], data["tls.key"])
    if not isinstance(_key(data["ca.key"]), SIGNERS) or not _belong(data["ca.key"], authorities[0]):
        raise Broken("ca.key is not the key (EC or RSA) of ca.crt's first certificate")
    if not _is_authority(authorities[0]):
        raise Broken("ca.crt's first certificate is no authority's")
    if not _belong(data["tls.key"], pair.leaf):
        raise Broken("tls.key is not the key of tls.crt")
    if not any(issued(pair.leaf, authority) for authority in authorities):
        raise Broken("tls.crt was signed by none of ca.crt")
    return pair


def written(pair: Pair) -> dict[str, bytes]:
    """The Secret's data, for `read`."""
    return dict(zip(KEYS, (pem(pair.authorities), pair.authority_key, pair.chain_pem, pair.leaf_key), strict=True))


def without_older(pair: Pair) -> Pair:
    return replace(pair, authorities=pair.authorities[:1])


def certificates(text: bytes, name: str) -> tuple[x509.Certificate, ...]:
    """At least one. Raises Broken."""
    if len(text) > MAX_PEM:
        raise Broken(f"{name} is longer than {MAX_PEM} octets")
    try:
        found = tuple(x509.load_pem_x509_certificates(text))
        for each in found:
            each.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise Broken(f"{name} is not PEM of certificates") from None
    if len(found) > MAX_AUTHORITIES:
        raise Broken(f"{name} holds more than {MAX_AUTHORITIES} certificates")
    return found


def bundle(text: bytes) -> tuple[x509.Certificate, ...]:
    """A caBundle's certificates: none where it is empty or broken."""
    try:
        return certificates(text, "caBundle") if text.strip() else ()
    except Broken:
        return ()


def pem(authorities: Iterable[x509.Certificate]) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in authorities)


def bundle_differs(wanted: Sequence[x509.Certificate], seen: Sequence[x509.Certificate]) -> bool:
    """Order does not count."""
    return set(wanted) != set(seen)


def trusted(chain: Sequence[x509.Certificate], seen: Sequence[x509.Certificate]) -> bool:
    """Would an API server with this caBundle follow the chain? Names and dates apart."""
    return any(each == root or issued(each, root) for each in chain for root in seen)


def issued(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def decide(pair: Pair | None, *, settled: bool, names: frozenset[str], now: datetime, lifetimes: Lifetimes) -> Step:
    """`settled`: the first authority has been seen in the caBundle for `lifetimes.settle`, by this replica. `names`:
    what the leaf has to carry."""
    if pair is None or _left(pair.authorities[0], now) <= timedelta(0):
        return Step.MAKE
    newest = pair.authorities[0]
    left = _left(pair.leaf, now)
    unfit = left <= timedelta(0) or not names <= names_of(pair.leaf) or pair.leaf.not_valid_before_utc > now
    if pair.signed_by_first:
        if unfit or left <= lifetimes.leaf_renewal:
            return Step.RENEW_LEAF
        if _left(newest, now) <= lifetimes.authority_renewal and len(pair.authorities) < MAX_AUTHORITIES:
            return Step.ADD_AUTHORITY
        # Since the newest was made, none of the others has signed; so the last leaf of theirs is out by then.
        made = newest.not_valid_before_utc + lifetimes.skew
        if len(pair.authorities) > 1 and now > made + lifetimes.leaf:
            return Step.DROP_AUTHORITIES
        return Step.NOTHING
    return Step.RENEW_LEAF if settled or unfit else Step.NOTHING


def may_serve(offered: Pair, serving: x509.Certificate | None, seen: Sequence[x509.Certificate], now: datetime) -> bool:
    """May this replica take the Secret's leaf in place of the one that it serves? Not while only the old one is known
    to be trusted."""
    if serving is None or serving == offered.leaf or trusted((offered.leaf,), seen):
        return True
    return _left(serving, now) <= timedelta(0) or not trusted((serving,), seen)


def names_of(leaf: x509.Certificate) -> frozenset[str]:
    """DNS names and addresses of its subjectAltName."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    dns, addresses = names.get_values_for_type(x509.DNSName), names.get_values_for_type(x509.IPAddress)
    return frozenset([*dns, *map(str, addresses)])


def _left(certificate: x509.Certificate, now: datetime) -> timedelta:
    return certificate.not_valid_after_utc - now


def _key(pem_text: bytes) -> PrivateKeyTypes | None:
    try:
        return serialization.load_pem_private_key(pem_text, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _belong(key_pem: bytes, certificate: x509.Certificate) -> bool:
    key = _key(key_pem)
    return key is not None and _spki(key.public_key()) == _spki(certificate.public_key())


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
