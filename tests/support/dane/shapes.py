"""The certificates that a server of a case shows: one name for each shape, made for the server's host.

Authorities that are sound are shared; what is wrong with a shape is in its function.
"""

from __future__ import annotations

import datetime
import functools
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

import certificates
from certificates import CLIENT, EXPIRED, NOT_YET_VALID, SERVER, Certified, issue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.asymmetric import ec

CA_BITS: tuple[Literal["key_cert_sign"], Literal["crl_sign"]] = ("key_cert_sign", "crl_sign")


@dataclass(frozen=True)
class Shape:
    """`sent`: as the server sends them. `named`: what TLSA records of a case may name."""

    sent: tuple[Certified, ...]
    named: Mapping[str, Certified] = field(default_factory=dict)
    staple: bytes = b""


SHAPES: dict[str, Callable[[str, str], Shape]] = {}


def shape(name: str) -> Callable[[Callable[[str, str], Shape]], Callable[[str, str], Shape]]:
    """Its function is given the host's and the case's domain name."""

    def register(make: Callable[[str, str], Shape]) -> Callable[[str, str], Shape]:
        SHAPES[name] = make
        return make

    return register


@functools.cache
def root() -> Certified:
    return issue("Lab Root", ca=True, bits=CA_BITS, key=certificates.key("EC", 101))


@functools.cache
def intermediate() -> Certified:
    return issue("Lab Intermediate", by=root(), ca=True, bits=CA_BITS, key=certificates.key("EC", 102))


@functools.cache
def stranger() -> Certified:
    """An authority that has nothing to do with any server."""
    return issue("Stranger Root", ca=True, bits=CA_BITS, key=certificates.key("EC", 103))


def _chain(leaf: Certified, *above: Certified, sent: tuple[Certified, ...] | None = None, staple: bytes = b"") -> Shape:
    named = {"int": intermediate(), "root": root(), "other": stranger()}
    named |= dict(zip(("leaf", "int", "root"), (leaf, *above), strict=False))
    return Shape(sent or (leaf, *above), named, staple)


def _leaf(host: str, **more: Any) -> Certified:
    sound: dict[str, Any] = {"common_name": host, "by": intermediate(), "dns": [host]}
    return issue(**{**sound, "key": certificates.key("EC", 104), **more})


def _simple(name: str, **odd: Any) -> None:
    """Leaves below the two sound authorities, all of which are sent. `odd`: how a leaf differs; in its names {host},
    {parent}, {above} and {domain} are the server's name, what it is below, what that is below, and the case's."""

    def make(host: str, domain: str) -> Shape:
        parent = host.partition(".")[2]
        words = {"host": host, "HOST": host.upper(), "parent": parent, "above": parent.partition(".")[2]}
        filled = dict(odd)
        if "dns" in odd:
            filled["dns"] = [each.format(domain=domain, **words) for each in odd["dns"]]
        if odd.get("common_name"):
            filled["common_name"] = odd["common_name"].format(domain=domain, **words)
        return _chain(_leaf(host, **filled), intermediate(), root())

    SHAPES[name] = make


_simple("chain")
_simple("wrong-name", common_name="other.example", dns=["other.example"])
_simple("no-names", common_name=None, dns=[])
_simple("cn-only", dns=[])
_simple("cn-beside-san", dns=["other.example"])
_simple("cn-beside-ip", dns=[], san=[x509.IPAddress(ip_address("192.0.2.1"))])
_simple("domain-name", common_name="{domain}", dns=["{domain}"])
_simple("wildcard", dns=["*.{parent}"])
_simple("wildcard-partial", dns=["m*.{parent}"])
_simple("wildcard-above", dns=["*.{above}"])
_simple("wildcard-inner", dns=["mx.*.{above}"])
_simple("upper-case", dns=["{HOST}"])
_simple("expired", valid=EXPIRED)
_simple("not-yet-valid", valid=NOT_YET_VALID)
_simple("client-only", purposes=[CLIENT])
_simple("server-purpose", purposes=[SERVER])
_simple("email-only", purposes=[ExtendedKeyUsageOID.EMAIL_PROTECTION])
_simple("leaf-spoilt", spoilt=True)
_simple("leaf-rsa", key=certificates.key("RSA-2048"))
_simple("leaf-ed25519", key=certificates.key("Ed25519"))


@shape("self-signed")
def _self_signed(host: str, domain: str) -> Shape:
    return _chain(issue(host, dns=[host]))


@shape("self-signed-wreck")
def _wreck(host: str, domain: str) -> Shape:
    """All that DANE-EE overlooks at once."""
    return _chain(issue(None, dns=["other.example"], valid=EXPIRED, purposes=[CLIENT]))


@shape("leaf-only")
def _leaf_only(host: str, domain: str) -> Shape:
    leaf = _leaf(host)
    return _chain(leaf, intermediate(), root(), sent=(leaf,))


@shape("no-root")
def _no_root(host: str, domain: str) -> Shape:
    leaf = _leaf(host)
    return _chain(leaf, intermediate(), root(), sent=(leaf, intermediate()))


@shape("no-intermediate")
def _no_intermediate(host: str, domain: str) -> Shape:
    leaf = _leaf(host)
    return _chain(leaf, intermediate(), root(), sent=(leaf, root()))


@shape("unordered")
def _unordered(host: str, domain: str) -> Shape:
    leaf = _leaf(host)
    return _chain(leaf, intermediate(), root(), sent=(leaf, root(), intermediate()))


@shape("padded")
def _padded(host: str, domain: str) -> Shape:
    """With an authority that has not issued anything here."""
    leaf = _leaf(host)
    return _chain(leaf, intermediate(), root(), sent=(leaf, stranger(), intermediate(), root()))


def _under(host: str, *, leaf: dict[str, Any] | None = None, inter: dict[str, Any] | None = None, **top: Any) -> Shape:
    """A chain with authorities of its own: `top` and `inter` say how they differ from sound ones."""
    sound: dict[str, Any] = {"ca": True, "bits": CA_BITS}
    above = issue("Odd Root", **{**sound, "key": certificates.key("EC", 105), **top})
    middle = issue("Odd Intermediate", **{**sound, "by": above, "key": certificates.key("EC", 106), **(inter or {})})
    return _chain(_leaf(host, by=middle, **(leaf or {})), middle, above)


@shape("expired-root")
def _expired_root(host: str, domain: str) -> Shape:
    return _under(host, valid=EXPIRED)


@shape("expired-intermediate")
def _expired_intermediate(host: str, domain: str) -> Shape:
    return _under(host, inter={"valid": EXPIRED})


@shape("intermediate-no-ca")
def _intermediate_no_ca(host: str, domain: str) -> Shape:
    return _under(host, inter={"ca": False})


@shape("intermediate-no-basic-constraints")
def _intermediate_without(host: str, domain: str) -> Shape:
    return _under(host, inter={"ca": None})


@shape("intermediate-no-cert-sign")
def _intermediate_no_sign(host: str, domain: str) -> Shape:
    return _under(host, inter={"bits": ["digital_signature"]})


@shape("intermediate-client-only")
def _intermediate_client(host: str, domain: str) -> Shape:
    return _under(host, inter={"purposes": [CLIENT]})


@shape("intermediate-spoilt")
def _intermediate_spoilt(host: str, domain: str) -> Shape:
    return _under(host, inter={"spoilt": True})


@shape("root-no-ca")
def _root_no_ca(host: str, domain: str) -> Shape:
    return _under(host, ca=False)


@shape("path-too-long")
def _path_too_long(host: str, domain: str) -> Shape:
    return _under(host, path_length=0)


@shape("name-excluded")
def _name_excluded(host: str, domain: str) -> Shape:
    return _under(host, excluded=[domain])


@shape("name-permitted")
def _name_permitted(host: str, domain: str) -> Shape:
    return _under(host, permitted=[domain])


@shape("sha1")
def _sha1(host: str, domain: str) -> Shape:
    return _under(host, key=certificates.key("RSA-2048"), inter={"digest": "sha1"})


@shape("short-key-authority")
def _short_key_authority(host: str, domain: str) -> Shape:
    return _under(host, inter={"key": certificates.WEAK})


@shape("leaf-rsa-1024")
def _rsa_1024(host: str, domain: str) -> Shape:
    return _chain(_leaf(host, key=certificates.key("RSA-1024")), intermediate(), root())


def _ocsp(status: ocsp.OCSPCertStatus, *, days: int = -1, by: Certified | None = None) -> Callable[[str, str], Shape]:
    """With a staple by the leaf's issuer, made `days` from now and good for seven."""

    def make(host: str, domain: str) -> Shape:
        leaf = _leaf(host)
        signer = by or intermediate()
        then = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(days=days)
        revoked = status is ocsp.OCSPCertStatus.REVOKED
        response = (
            ocsp.OCSPResponseBuilder()
            .add_response(
                cert=leaf.certificate,
                issuer=intermediate().certificate,
                algorithm=hashes.SHA1(),  # noqa: S303 - what responders use to name certificates
                cert_status=status,
                this_update=then,
                next_update=then + datetime.timedelta(days=7),
                revocation_time=then if revoked else None,
                revocation_reason=x509.ReasonFlags.key_compromise if revoked else None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)
            .sign(_ec(signer), hashes.SHA256())
        )
        staple = response.public_bytes(serialization.Encoding.DER)
        return _chain(leaf, intermediate(), root(), staple=staple)

    return make


def _ec(signer: Certified) -> ec.EllipticCurvePrivateKey:
    return signer.key  # type: ignore[return-value]


SHAPES["staple-good"] = _ocsp(ocsp.OCSPCertStatus.GOOD)
SHAPES["staple-revoked"] = _ocsp(ocsp.OCSPCertStatus.REVOKED)
SHAPES["staple-unknown"] = _ocsp(ocsp.OCSPCertStatus.UNKNOWN)
SHAPES["staple-stale"] = _ocsp(ocsp.OCSPCertStatus.GOOD, days=-30)
SHAPES["staple-forged"] = _ocsp(ocsp.OCSPCertStatus.GOOD, by=stranger())


@shape("staple-garbage")
def _staple_garbage(host: str, domain: str) -> Shape:
    return _chain(_leaf(host), intermediate(), root(), staple=b"\x30\x03\x0a\x01\x06 no response")
