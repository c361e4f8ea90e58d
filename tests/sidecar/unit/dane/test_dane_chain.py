"""The certificate stage, row by row (RFC 7672 3, RFC 7671 5, RFC 5280 6.1).

Each sound case is told to OpenSSL's DANE code too: what the table says must be what it says.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

import openssl_dane
from certificates import (
    ALWAYS,
    ANY_PURPOSE,
    CLIENT,
    EXPIRED,
    NOT_YET_VALID,
    NOW,
    SERVER,
    WEAK,
    Certified,
    issue,
    key,
    sequence,
)
from dane_chains import record
from postern_sidecar.answers import TLSA
from postern_sidecar.config.model import Digest
from postern_sidecar.dane.certificate import Certificate
from postern_sidecar.dane.chain import MAX_CERTIFICATES, MAX_OCTETS, MAX_PATHS, authenticate
from postern_sidecar.dane.path import MAX_STEPS, Search
from postern_sidecar.dane.records import select
from postern_sidecar.dane.verdict import Match, NotAuthenticated, Reason
from postern_sidecar.names import Domain, domain

HOST = domain("mx.example.org")
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")

ROOT = issue("Root", ca=True)
INTERMEDIATE = issue("Intermediate", by=ROOT, ca=True)
LEAF = issue("mx.example.org", by=INTERMEDIATE, dns=["mx.example.org"])
SENT = (LEAF, INTERMEDIATE, ROOT)
OTHER = issue("Other", ca=True)
SELF_SIGNED = issue("mx.example.org", dns=["mx.example.org"])


def below(authority: Certified, **shape: object) -> Certified:
    return issue("mx.example.org", by=authority, **{"dns": ["mx.example.org"], **shape})  # type: ignore[arg-type]


def judge(
    sent: tuple[Certified, ...], *records: TLSA, references: tuple[Domain, ...] = (HOST,), now: datetime = NOW
) -> Match:
    return authenticate([each.der for each in sent], records, references, now)


def refusal(
    sent: tuple[Certified, ...], *records: TLSA, references: tuple[Domain, ...] = (HOST,), now: datetime = NOW
) -> NotAuthenticated:
    with pytest.raises(NotAuthenticated) as caught:
        judge(sent, *records, references=references, now=now)
    return caught.value


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
@pytest.mark.parametrize(
    "leaf",
    [
        LEAF,
        below(INTERMEDIATE, dns=["example.net"]),
        below(INTERMEDIATE, valid=EXPIRED),
        below(INTERMEDIATE, valid=NOT_YET_VALID),
        issue(None),
        SELF_SIGNED,
        below(INTERMEDIATE, purposes=[CLIENT]),
        below(INTERMEDIATE, spoilt=True),
        below(INTERMEDIATE, extensions=[(UNKNOWN, True)]),
        below(issue("RSA Root", key=key("RSA-2048")), digest="md5"),
    ],
    ids=["sound", "name", "expired", "not yet", "anonymous", "self-signed", "purpose", "spoilt", "critical", "md5"],
)
def test_dane_ee_is_a_matter_of_octets(leaf: Certified, selector: int, matching: int) -> None:
    """RFC 7672 3.1.1: neither names nor times nor issuers."""
    tlsa = record(leaf, 3, selector, matching)
    match = judge((leaf,), tlsa, references=())
    assert match == Match(tlsa, 0, leaf.certificate.subject.rfc4514_string(), None)
    assert openssl_dane.verify([leaf.der], [tlsa], [HOST], NOW)[1:] == (0, 0, tlsa)


@pytest.mark.parametrize(
    ("sent", "tlsa"),
    [
        (SENT, record(INTERMEDIATE, 3, 1, 1)),  # an issuer
        (SENT, record(OTHER, 3, 1, 1)),
        ((INTERMEDIATE, LEAF), record(LEAF, 3, 1, 1)),  # the server's is the first (RFC 5246 7.4.2)
        (SENT, record(LEAF, 3, 1, 1)._replace(selector=0)),
        (SENT, record(LEAF, 2, 1, 1)),  # the server's own as an anchor
        (SENT, record(LEAF, 2, 0, 0)),
        ((SELF_SIGNED,), record(SELF_SIGNED, 2, 0, 1)),
        ((SELF_SIGNED,), record(SELF_SIGNED, 2, 1, 2)),
        ((SELF_SIGNED, SELF_SIGNED), record(SELF_SIGNED, 2, 0, 0)),
        (SENT, record(OTHER, 2, 0, 1)),
        ((LEAF, INTERMEDIATE), record(ROOT, 2, 0, 1)),  # a digest of what is not sent (RFC 7671 5.2.1)
        ((LEAF,), record(ROOT, 2, 0, 0)),  # the intermediate is missing too
        ((*SENT, OTHER), record(OTHER, 2, 0, 1)),  # matches, and issued nothing here
        ((LEAF,), record(OTHER, 2, 0, 0)),
        ((LEAF,), record(OTHER, 2, 1, 0)),
        ((LEAF,), record(ROOT, 2, 1, 0)),
    ],
)
def test_no_match(sent: tuple[Certified, ...], tlsa: TLSA) -> None:
    assert refusal(sent, tlsa).reason is Reason.TLSA_MISMATCH
    assert openssl_dane.verify([each.der for each in sent], [tlsa], [HOST], NOW).error == 65


@dataclass(frozen=True)
class Authenticated:
    why: str
    sent: tuple[Certified, ...]
    tlsa: TLSA
    depth: int


EXPIRED_ROOT = issue("Expired Root", ca=True, valid=EXPIRED)
BELOW_EXPIRED_ROOT = issue("Below", by=EXPIRED_ROOT, ca=True)
EXPIRED_INTERMEDIATE = issue("Expired Intermediate", by=ROOT, ca=True, valid=EXPIRED)
SHORT = issue("Short", ca=True, path_length=0)
BELOW_SHORT = issue("Below Short", by=SHORT, ca=True)
ONLY_USAGE = issue("Only keyUsage", bits=["key_cert_sign"])
SELF_ISSUED = issue("Short", by=SHORT, ca=True, key=key("EC", 999), identifiers=True)
SHA1 = issue("SHA-1 Root", ca=True, key=key("RSA-2048"), digest="sha1")
ED25519 = issue("Ed25519", ca=True, key=key("Ed25519"))
WEAK_LEAF = below(ROOT, key=WEAK)


@pytest.mark.parametrize(
    "case",
    [
        Authenticated("RFC 7671 5.2: an anchor need not be a root", SENT, record(INTERMEDIATE, 2, 0, 1), 1),
        Authenticated("by its key", SENT, record(INTERMEDIATE, 2, 1, 2), 1),
        Authenticated("by its key in full, and sent", SENT, record(INTERMEDIATE, 2, 1, 0), 1),
        Authenticated("the root, sent", SENT, record(ROOT, 2, 0, 1), 2),
        Authenticated("RFC 7671 5.2.2: only in DNS", (LEAF, INTERMEDIATE), record(ROOT, 2, 0, 0), 2),
        Authenticated("an intermediate only in DNS", (LEAF,), record(INTERMEDIATE, 2, 0, 0), 1),
        Authenticated("RFC 7671 5.2.3: a bare key in DNS", (LEAF, INTERMEDIATE), record(ROOT, 2, 1, 0), 1),
        Authenticated("a bare key that signed the leaf", (LEAF,), record(INTERMEDIATE, 2, 1, 0), 0),
        Authenticated("a bare key of a self-signed leaf", (SELF_SIGNED,), record(SELF_SIGNED, 2, 1, 0), 0),
        Authenticated("in any order", (LEAF, ROOT, INTERMEDIATE), record(ROOT, 2, 0, 1), 2),
        Authenticated("padded", (LEAF, OTHER, INTERMEDIATE, OTHER, LEAF, ROOT), record(ROOT, 2, 0, 1), 2),
        Authenticated(
            "above the anchor nothing counts",
            (below(BELOW_EXPIRED_ROOT), BELOW_EXPIRED_ROOT, EXPIRED_ROOT),
            record(BELOW_EXPIRED_ROOT, 2, 0, 1),
            1,
        ),
        Authenticated(
            "an expired anchor that is no root",
            (below(EXPIRED_INTERMEDIATE), EXPIRED_INTERMEDIATE),
            record(EXPIRED_INTERMEDIATE, 2, 0, 1),
            1,
        ),
        Authenticated("so by its key", (below(EXPIRED_INTERMEDIATE),), record(EXPIRED_INTERMEDIATE, 2, 1, 0), 0),
        Authenticated("pathLen 0 and none below", (below(SHORT), SHORT), record(SHORT, 2, 0, 1), 1),
        Authenticated(
            "RFC 5280 4.2.1.9: the self-issued do not count",
            (below(SELF_ISSUED), SELF_ISSUED, SHORT),
            record(SHORT, 2, 0, 1),
            2,
        ),
        Authenticated(
            "a bare key tells of no pathLen", (below(BELOW_SHORT), BELOW_SHORT), record(SHORT, 2, 1, 0), 1
        ),
        Authenticated("an anchor by keyUsage alone", (below(ONLY_USAGE), ONLY_USAGE), record(ONLY_USAGE, 2, 0, 1), 1),
        Authenticated("serverAuth", (below(ROOT, purposes=[CLIENT, SERVER]), ROOT), record(ROOT, 2, 0, 1), 1),
        Authenticated("key exchange", (below(ROOT, bits=["key_agreement"]), ROOT), record(ROOT, 2, 1, 1), 1),
        Authenticated("an anchor's own signature", (below(SHA1), SHA1), record(SHA1, 2, 0, 1), 1),
        Authenticated("Ed25519", (below(ED25519),), record(ED25519, 2, 1, 0), 0),
        Authenticated("an extension", (below(ROOT, extensions=[(UNKNOWN, False)]), ROOT), record(ROOT, 2, 0, 1), 1),
    ],
    ids=lambda case: case.why,
)  # fmt: skip
def test_dane_ta(case: Authenticated) -> None:
    assert judge(case.sent, case.tlsa) == Match(case.tlsa, case.depth, "CN=mx.example.org", HOST)
    theirs = openssl_dane.verify([each.der for each in case.sent], [case.tlsa], [HOST], NOW)
    assert theirs[1:] == (0, case.depth, case.tlsa)


@dataclass(frozen=True)
class Refused:
    why: str
    sent: tuple[Certified, ...]
    tlsa: TLSA
    reason: Reason
    error: int


def _issuer(**shape: object) -> tuple[Certified, ...]:
    """A leaf and a faulty intermediate, with a sound root."""
    faulty = issue("Faulty", by=ROOT, **{"ca": True, **shape})  # type: ignore[arg-type]
    return below(faulty), faulty, ROOT


def _anchor(**shape: object) -> tuple[Certified, ...]:
    faulty = issue("Faulty Root", **{"ca": True, **shape})  # type: ignore[arg-type]
    return below(faulty), faulty


def _under(why: str, sent: tuple[Certified, ...], reason: Reason, error: int) -> Refused:
    """Refused under the last certificate."""
    return Refused(why, sent, record(sent[-1], 2, 1, 1), reason, error)


REFUSED = [
    _under("leaf expired", (below(ROOT, valid=EXPIRED), ROOT), Reason.EXPIRED, 10),
    _under("leaf not yet valid", (below(ROOT, valid=NOT_YET_VALID), ROOT), Reason.NOT_YET_VALID, 9),
    _under("intermediate expired", _issuer(valid=EXPIRED), Reason.EXPIRED, 10),
    _under("intermediate not yet valid", _issuer(valid=NOT_YET_VALID), Reason.NOT_YET_VALID, 9),
    _under("self-signed anchor expired", (below(EXPIRED_ROOT), EXPIRED_ROOT), Reason.EXPIRED, 10),
    Refused("and only in DNS", (below(EXPIRED_ROOT),), record(EXPIRED_ROOT, 2, 0, 0), Reason.EXPIRED, 10),
    Refused("top of a way to a bare key", (below(ROOT, valid=EXPIRED),), record(ROOT, 2, 1, 0), Reason.EXPIRED, 10),
    _under("intermediate that is none", _issuer(ca=False), Reason.CHAIN, 79),
    _under("intermediate without basicConstraints", _issuer(ca=None), Reason.CHAIN, 79),
    _under("intermediate by keyUsage alone", _issuer(ca=None, bits=["key_cert_sign"]), Reason.CHAIN, 79),
    _under("intermediate that may not sign", _issuer(bits=["crl_sign"]), Reason.CHAIN, 79),
    _under("anchor that is none", _anchor(ca=False), Reason.CHAIN, 79),
    _under("anchor without basicConstraints", _anchor(ca=None), Reason.CHAIN, 79),
    _under("anchor that may not sign", _anchor(bits=["crl_sign"]), Reason.CHAIN, 79),
    _under("pathLen of the anchor", (below(BELOW_SHORT), BELOW_SHORT, SHORT), Reason.CHAIN, 25),
    _under("leaf for clients", (below(ROOT, purposes=[CLIENT]), ROOT), Reason.PURPOSE, 26),
    _under("leaf for anything", (below(ROOT, purposes=[ANY_PURPOSE]), ROOT), Reason.PURPOSE, 26),
    _under("leaf that signs certificates only", (below(ROOT, bits=["key_cert_sign"]), ROOT), Reason.PURPOSE, 26),
    _under("intermediate for clients", _issuer(purposes=[CLIENT]), Reason.PURPOSE, 26),
    _under("anchor for clients", _anchor(purposes=[CLIENT]), Reason.PURPOSE, 26),
    _under("leaf of another name", (below(ROOT, dns=["example.net"]), ROOT), Reason.NAME, 62),
    _under("leaf with a critical extension", (below(ROOT, extensions=[(UNKNOWN, True)]), ROOT), Reason.CHAIN, 34),
    _under("anchor with one", _anchor(extensions=[(UNKNOWN, True)]), Reason.CHAIN, 34),
    _under("leaf's signature", (below(ROOT, spoilt=True), ROOT), Reason.CHAIN, 7),
    _under("intermediate's signature", _issuer(spoilt=True), Reason.CHAIN, 7),
    _under("SHA-1", (below(SHA1, digest="sha1"), SHA1), Reason.WEAK, 68),
    _under("MD5", (below(SHA1, digest="md5"), SHA1), Reason.WEAK, 68),
    _under("anchor's key", _anchor(key=WEAK), Reason.WEAK, 67),
    _under("intermediate's key", _issuer(key=WEAK), Reason.WEAK, 67),
    _under("leaf's key", (WEAK_LEAF, ROOT), Reason.WEAK, 66),
    Refused("leaf's key, by DANE-EE", (WEAK_LEAF,), record(WEAK_LEAF, 3, 1, 1), Reason.WEAK, 66),
    _under("not permitted", _anchor(permitted=["example.net"]), Reason.CONSTRAINTS, 47),
    _under("excluded", _anchor(excluded=["example.org"]), Reason.CONSTRAINTS, 48),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.why)
def test_refused(case: Refused) -> None:
    assert refusal(case.sent, case.tlsa).reason is case.reason
    assert openssl_dane.verify([each.der for each in case.sent], [case.tlsa], [HOST], NOW).error == case.error


def wrong(tlsa: TLSA) -> TLSA:
    return tlsa._replace(data=bytes(len(tlsa.data)))


@pytest.mark.parametrize(
    ("records", "passes"),
    [
        ([record(LEAF, 3, 1, 1), wrong(record(LEAF, 3, 1, 2))], False),
        ([wrong(record(LEAF, 3, 1, 1)), record(LEAF, 3, 1, 2)], True),
        ([record(LEAF, 3, 1, 1), TLSA(3, 1, 2, b"of another length")], True),
        ([record(LEAF, 3, 1, 1), wrong(record(LEAF, 3, 0, 2))], True),
        ([record(LEAF, 3, 1, 0), wrong(record(LEAF, 3, 1, 2))], True),
        ([record(ROOT, 2, 0, 1), wrong(record(ROOT, 2, 0, 2))], False),
        ([record(ROOT, 2, 0, 1), record(OTHER, 2, 0, 2)], False),  # even if it names another authority
        ([record(ROOT, 2, 0, 1), wrong(record(LEAF, 3, 1, 2))], True),
        ([record(INTERMEDIATE, 2, 0, 0), record(ROOT, 2, 0, 0)], True),
    ],
)
def test_digest_agility_decides(records: list[TLSA], passes: bool) -> None:
    """RFC 7671 9: what publishers must not do fails here as with OpenSSL."""
    digests = (Digest.SHA2_512, Digest.SHA2_256)
    sent = [each.der for each in SENT]
    theirs = openssl_dane.verify(sent, records, [HOST], NOW, digests)
    assert theirs.error == (0 if passes else 65)
    with contextlib.nullcontext() if passes else pytest.raises(NotAuthenticated, match="tlsa_mismatch"):
        match = authenticate(sent, select(records, digests).considered, [HOST], NOW)
        assert (match.depth, match.record) == (theirs.depth, theirs.record)


def test_authorities_that_stand_in_dns_only() -> None:
    """RFC 7671 5.2.2: the server sends its own certificate alone."""
    records = record(INTERMEDIATE, 2, 0, 0), record(ROOT, 2, 0, 0)
    assert judge((LEAF,), *records) == Match(records[0], 1, "CN=mx.example.org", HOST)


def test_dane_ee_before_any_dane_ta() -> None:
    """RFC 7671 5.1: it asks for less."""
    expired = below(ROOT, valid=EXPIRED)
    ee = record(expired, 3, 1, 1)
    assert judge((expired, ROOT), record(ROOT, 2, 0, 1), ee).record == ee


def test_dane_ta_where_dane_ee_does_not_match() -> None:
    ta = record(ROOT, 2, 0, 1)
    assert judge(SENT, record(OTHER, 3, 1, 1), ta).record == ta


def test_any_of_the_references() -> None:
    """RFC 7672 3.2.2: the base domain, or the next-hop domain."""
    assert judge(SENT, record(ROOT, 2, 0, 1), references=(domain("example.net"), HOST)).name == HOST
    assert refusal(SENT, record(ROOT, 2, 0, 1), references=()).reason is Reason.NAME


def test_validity_includes_both_its_ends() -> None:
    """RFC 5280 4.1.2.5."""
    tlsa = record(ROOT, 2, 0, 1)
    second = timedelta(seconds=1)
    for moment in ALWAYS:
        assert judge(SENT, tlsa, now=moment).record == tlsa
    assert refusal(SENT, tlsa, now=ALWAYS[0] - second).reason is Reason.NOT_YET_VALID
    assert refusal(SENT, tlsa, now=ALWAYS[1] + second).detail == "CN=Root expired at 2099-01-01 00:00:00Z"


def test_a_version_1_root() -> None:
    """It has no extensions; as an anchor it may sign (OpenSSL does as much). Its own signature is not looked at."""
    tbs = ROOT.certificate.tbs_certificate_bytes
    inner = tbs[4:] if tbs[1] == 0x82 else tbs[3:] if tbs[1] == 0x81 else tbs[2:]
    without_version = inner[5:]
    extensions = without_version.index(b"\xa3", without_version.index(ROOT.spki) + len(ROOT.spki))
    whole = ROOT.der
    algorithm_and_signature = whole[whole.index(tbs) + len(tbs) :]
    old = sequence(sequence(without_version[:extensions]), algorithm_and_signature)
    assert x509.load_der_x509_certificate(old).version is x509.Version.v1
    leaf = below(ROOT)
    tlsa = TLSA(2, 1, 1, record(ROOT, 2, 1, 1).data)
    assert authenticate([leaf.der, old], [tlsa], [HOST], NOW).depth == 1
    assert openssl_dane.verify([leaf.der, old], [tlsa], [HOST], NOW).error == 0


def test_the_subject_of_a_log_line_is_short() -> None:
    long = issue(
        dns=["a.example"] * 2, subject=x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "x" * 64)] * 9)
    )
    assert len(judge((long,), record(long, 3, 1, 1)).subject) == 256


class TestWaysUp:
    """Signatures, not names, say who issued what."""

    TWIN = issue("Root", ca=True, key=key("EC", 998))

    def test_twins(self) -> None:
        tlsa = record(ROOT, 2, 0, 1)
        for sent in ((LEAF, INTERMEDIATE, self.TWIN, ROOT), (LEAF, INTERMEDIATE, ROOT, self.TWIN)):
            assert judge(sent, tlsa).depth == 2
        assert refusal((LEAF, INTERMEDIATE, self.TWIN), record(self.TWIN, 2, 0, 1)).reason is Reason.CHAIN

    def test_a_twin_is_no_obstacle_to_a_bare_key(self) -> None:
        assert judge((LEAF, INTERMEDIATE, self.TWIN), record(ROOT, 2, 1, 0)).depth == 1

    def test_cross_signed(self) -> None:
        """The first way leads to an anchor that has expired, the second does not."""
        old = issue("Old Root", ca=True, valid=EXPIRED)
        crossed = issue("Intermediate", by=old, ca=True)
        records = record(old, 2, 0, 1), record(ROOT, 2, 0, 1)
        for sent in ((LEAF, crossed, INTERMEDIATE, old, ROOT), (LEAF, INTERMEDIATE, crossed, ROOT, old)):
            assert judge(sent, *records).record == records[1]
        assert refusal((LEAF, crossed, old), *records).reason is Reason.EXPIRED

    def test_names_are_compared_as_rfc_5280_says(self) -> None:
        """7.1: neither case nor spaces."""
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ROOT  ")])
        leaf = below(ROOT, issuer=name)
        assert judge((leaf, ROOT), record(ROOT, 2, 0, 1)).depth == 1
        assert openssl_dane.verify([leaf.der, ROOT.der], [record(ROOT, 2, 0, 1)], [HOST], NOW).error == 0

    def test_a_bare_key_does_not_get_around_the_limits_of_a_certificate_of_it(self) -> None:
        assert refusal((below(BELOW_SHORT), BELOW_SHORT, SHORT), record(SHORT, 2, 1, 0)).reason is Reason.CHAIN

    def test_a_bare_key_must_be_strong(self) -> None:
        """OpenSSL does not look at it."""
        weak = issue("Weak Root", ca=True, key=WEAK)
        assert refusal((below(weak),), record(weak, 2, 1, 0)).reason is Reason.WEAK

    def test_the_signature_by_a_bare_key_must_be_strong(self) -> None:
        """OpenSSL does not look at it."""
        assert refusal((below(SHA1, digest="sha1"),), record(SHA1, 2, 1, 0)).reason is Reason.WEAK

    def test_a_self_signed_leaf_has_no_issuer(self) -> None:
        guise = issue("mx.example.org", by=ROOT, ca=True)
        assert guise.spki == SELF_SIGNED.spki
        assert refusal((SELF_SIGNED, guise, ROOT), record(ROOT, 2, 0, 1)).reason is Reason.TLSA_MISMATCH

    def test_an_authority_and_its_issuer_may_have_one_key(self) -> None:
        middle = issue("Another name of Root", by=ROOT, ca=True, key=ROOT.key)
        assert judge((below(middle), middle, ROOT), record(ROOT, 2, 0, 1)).depth == 2

    def test_copies_count_once(self) -> None:
        twin = issue("Intermediate", by=ROOT, ca=True, key=key("EC", 997))
        sent = (LEAF, *(twin,) * MAX_STEPS, INTERMEDIATE)
        assert judge(sent, record(INTERMEDIATE, 2, 0, 1)).depth == 1

    def test_the_first_way_that_was_closed_is_the_reason(self) -> None:
        twin = issue("Intermediate", by=ROOT, ca=True, key=key("EC", 997))
        error = refusal((LEAF, INTERMEDIATE, self.TWIN, twin), record(self.TWIN, 2, 0, 1))
        assert error.detail == "the signature of CN=Intermediate does not verify"

    def test_a_circle(self) -> None:
        one = issue("One", ca=True, issuer=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Two")]))
        two = issue("Two", by=one, ca=True)
        one = Certified(issue("One", by=two, ca=True).certificate, one.key, two)
        assert refusal((below(one), one, two, OTHER), record(OTHER, 2, 0, 1)).reason is Reason.TLSA_MISMATCH


def _dsa(issuer: Certified) -> tuple[bytes, bytes]:
    """A certificate with a DSA key, and a leaf that claims to be issued by it."""
    builder = x509.CertificateBuilder(issuer_name=issuer.certificate.subject, subject_name=OTHER.certificate.subject)
    old = dsa.generate_private_key(1024)  # noqa: S505  # it is to be refused
    builder = builder.public_key(old.public_key()).serial_number(1)
    builder = builder.not_valid_before(ALWAYS[0]).not_valid_after(ALWAYS[1])
    assert isinstance(issuer.key, ec.EllipticCurvePrivateKey)
    made = builder.sign(issuer.key, hashes.SHA256())
    return made.public_bytes(Encoding.DER), made.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


class TestKinds:
    """Keys and signatures that do not go together."""

    def test_dsa_is_not_taken(self) -> None:
        der, spki = _dsa(ROOT)
        with pytest.raises(NotAuthenticated, match="DSA key") as caught:
            authenticate([der], [TLSA(3, 1, 0, spki)], [], NOW)
        assert caught.value.reason is Reason.WEAK

    @pytest.mark.parametrize("claimed", ["EC", "RSA-2048", "Ed25519"])
    @pytest.mark.parametrize("signed", ["EC", "RSA-2048", "Ed25519"])
    def test_the_issuers_key_is_of_another_kind(self, claimed: str, signed: str) -> None:
        signer = issue("Issuer", ca=True, key=key(signed, 7))
        other = issue("Issuer", ca=True, key=key(claimed, 8))
        leaf = below(signer)
        assert refusal((leaf, other), record(other, 2, 0, 1)).reason is Reason.CHAIN
        assert judge((leaf, other, signer), record(signer, 2, 0, 1)).depth == 1

    def test_a_dsa_key_issued_nothing(self) -> None:
        der, _ = _dsa(ROOT)
        leaf = below(OTHER)  # of the name that the DSA certificate has
        with pytest.raises(NotAuthenticated) as caught:
            authenticate([leaf.der, der], [TLSA(2, 0, 0, der)], [HOST], NOW)
        assert caught.value.reason is Reason.CHAIN

    def test_pss(self) -> None:
        root = issue("PSS Root", ca=True, key=key("RSA-2048"))
        builder = x509.CertificateBuilder(issuer_name=root.certificate.subject, subject_name=LEAF.certificate.subject)
        builder = builder.public_key(LEAF.key.public_key()).serial_number(1)
        builder = builder.not_valid_before(ALWAYS[0]).not_valid_after(ALWAYS[1])
        assert isinstance(root.key, rsa.RSAPrivateKey)
        pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
        der = builder.sign(root.key, hashes.SHA256(), rsa_padding=pss).public_bytes(Encoding.DER)
        tlsa = record(root, 2, 0, 0)
        assert authenticate([der], [tlsa], [HOST], NOW).depth == 1
        assert openssl_dane.verify([der], [tlsa], [HOST], NOW).error == 0

    def test_a_signature_of_an_unknown_kind(self) -> None:
        oid = bytes.fromhex("06082a8648ce3d040302")  # ecdsa-with-SHA256
        der = below(ROOT).der.replace(oid, oid[:-1] + b"\x7f")
        with pytest.raises(NotAuthenticated, match="unknown kind") as caught:
            authenticate([der, ROOT.der], [record(ROOT, 2, 0, 1)], [HOST], NOW)
        assert caught.value.reason is Reason.WEAK


class TestHostile:
    """What a peer sends is hostile: bounded work, and a verdict."""

    def test_no_certificate(self) -> None:
        assert refusal((), record(LEAF, 3, 1, 1)).reason is Reason.MALFORMED

    @pytest.mark.parametrize(
        "junk", [b"", b"\0", b"\x30\x80", b"\x30\x03abc", b"x" * 900, LEAF.der[:-1], LEAF.der + b"\0"]
    )
    def test_a_leaf_that_is_none(self, junk: bytes) -> None:
        with pytest.raises(NotAuthenticated) as caught:
            authenticate([junk, ROOT.der], [record(ROOT, 2, 0, 1)], [HOST], NOW)
        assert caught.value.reason is Reason.MALFORMED

    @pytest.mark.parametrize("junk", [b"", b"\0", b"\x30\x80", b"x" * 900, ROOT.der[:-1], ROOT.der + b"\0"])
    def test_an_authority_that_is_none_is_passed_over(self, junk: bytes) -> None:
        sent = [LEAF.der, junk, INTERMEDIATE.der, junk, ROOT.der]
        assert authenticate(sent, [record(ROOT, 2, 0, 1)], [HOST], NOW).depth == 2

    def test_a_key_that_cannot_be_read(self) -> None:
        broken = LEAF.der.replace(LEAF.spki, LEAF.spki[:-64] + bytes(64))  # no point of the curve
        with pytest.raises(NotAuthenticated) as caught:
            authenticate([broken], [record(LEAF, 3, 1, 1)], [], NOW)
        assert caught.value.reason is Reason.MALFORMED

    def test_an_issuers_key_that_cannot_be_read(self) -> None:
        broken = ROOT.der.replace(ROOT.spki, ROOT.spki[:-64] + bytes(64))
        with pytest.raises(NotAuthenticated) as caught:
            authenticate([below(ROOT).der, broken], [record(ROOT, 2, 0, 1)._replace(data=b"")], [HOST], NOW)
        assert caught.value.reason is Reason.TLSA_MISMATCH
        with pytest.raises(NotAuthenticated) as caught:
            authenticate([below(ROOT).der, broken], [TLSA(2, 0, 0, broken)], [HOST], NOW)
        assert caught.value.reason is Reason.MALFORMED

    def test_a_bare_key_that_cannot_be_read(self) -> None:
        """`select` lets none through; nothing depends on that."""
        assert refusal((LEAF,), TLSA(2, 1, 0, b"\x30\0")).reason is Reason.TLSA_MISMATCH

    def test_an_odd_certificate_is_one_to_dane_ee(self) -> None:
        """A strict parser warns of a negative serial number, and refuses the value 3 of a BOOLEAN; octets match."""
        negative = LEAF.der.replace(bytes.fromhex("02035ec0de"), bytes.fromhex("0203fec0de"))
        assert authenticate([negative], [TLSA(3, 0, 0, negative)], [], NOW).subject == "CN=mx.example.org"
        no_version = LEAF.der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020109"))
        assert authenticate([no_version], [TLSA(3, 0, 0, no_version)], [], NOW).subject == ""

    def test_an_extension_that_is_there_twice(self) -> None:
        """RFC 5280 4.2."""
        twin = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.2"), b"\x05\x00")
        der = below(ROOT, extensions=[(UNKNOWN, False), (twin, False)]).der
        at = der.index(b"\x02\x04\x02\x05\x00")  # the last octet of the second one's identifier, and its value
        der = der[:at] + b"\x01" + der[at + 1 :]
        with pytest.raises(NotAuthenticated) as caught:
            authenticate([der], [record(ROOT, 2, 0, 0)], [HOST], NOW)
        assert caught.value.reason is Reason.CHAIN  # nobody signed that
        with pytest.raises(NotAuthenticated, match="Duplicate") as caught:
            Certificate(der).extensions  # noqa: B018
        assert caught.value.reason is Reason.MALFORMED

    @settings(max_examples=500, deadline=None)
    @given(st.sampled_from([LEAF, INTERMEDIATE, ROOT]), st.data())
    def test_octets_of_any_kind_make_a_verdict(self, damaged: Certified, data: st.DataObject) -> None:
        der = bytearray(damaged.der)
        for at in data.draw(st.lists(st.integers(0, len(der) - 1), max_size=3)):
            der[at] = data.draw(st.integers(0, 255))
        sent = [bytes(der) if each is damaged else each.der for each in SENT]
        for tlsa in (
            record(ROOT, 2, 0, 1),
            record(ROOT, 2, 1, 0),
            record(INTERMEDIATE, 2, 1, 2),
            record(LEAF, 3, 1, 1),
        ):
            with contextlib.suppress(NotAuthenticated):
                assert authenticate(sent, [tlsa], [HOST], NOW).record == tlsa

    def test_a_certificate_of_1_mib(self) -> None:
        huge = issue(dns=["x" * 60 + ".example"] * 15_000)
        assert len(huge.der) > 1 << 20
        assert refusal((huge,), record(huge, 3, 1, 1)).reason is Reason.MALFORMED
        assert refusal((LEAF, huge), record(LEAF, 3, 1, 1)).reason is Reason.MALFORMED

    def test_octets_up_to_the_limit(self) -> None:
        filler = b"x" * (MAX_OCTETS - len(LEAF.der))
        tlsa = record(LEAF, 3, 1, 1)
        assert authenticate([LEAF.der, filler], [tlsa], [], NOW).record == tlsa
        with pytest.raises(NotAuthenticated, match="102401 octets"):
            authenticate([LEAF.der, filler + b"x"], [tlsa], [], NOW)

    def test_certificates_up_to_the_limit(self) -> None:
        tlsa = record(INTERMEDIATE, 2, 0, 1)
        others = [b"x"] * (MAX_CERTIFICATES - 2)
        assert authenticate([LEAF.der, *others, INTERMEDIATE.der], [tlsa], [HOST], NOW).depth == 1
        with pytest.raises(NotAuthenticated) as caught:
            authenticate([LEAF.der, *others, b"x", INTERMEDIATE.der], [tlsa], [HOST], NOW)
        assert caught.value.reason is Reason.TLSA_MISMATCH

    def test_a_long_chain(self) -> None:
        chain = [ROOT]
        for number in range(30):
            chain.append(issue(f"Authority {number}", by=chain[-1], ca=True))
        assert judge((below(chain[-1]), *reversed(chain)), record(ROOT, 2, 0, 1)).depth == 31

    def test_a_hundred_authorities_of_one_name_and_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each issued each: more ways than there is time for."""
        crowd = [issue("Crowd", ca=True, serial=number, issuer=ROOT.certificate.subject) for number in range(1, 50)]
        crowd += [issue("Root", by=crowd[0], ca=True, serial=number, key=crowd[0].key) for number in range(1, 50)]
        steps = 0
        real = Search._step

        def counted(search: Search) -> bool:
            nonlocal steps
            steps += 1
            return real(search)

        monkeypatch.setattr(Search, "_step", counted)
        error = refusal((below(crowd[0]), *crowd, OTHER), record(OTHER, 2, 1, 0), record(OTHER, 2, 0, 1))
        assert (error.reason, error.detail) == (Reason.CHAIN, f"more than {MAX_STEPS} signatures to look at")
        assert steps < 20_000

    def test_more_ways_than_are_judged(self) -> None:
        """All but the last lead to an anchor that has expired."""
        old = [issue("Old", ca=True, valid=EXPIRED, serial=number) for number in range(1, MAX_PATHS + 1)]
        sound = issue("Old", ca=True)
        records = [record(each, 2, 0, 1) for each in (*old, sound)]
        assert judge((below(sound), *old[1:], sound), *records).record == records[-1]
        assert refusal((below(sound), *old, sound), *records).reason is Reason.EXPIRED

    def test_more_bare_keys_than_steps(self) -> None:
        keys = [TLSA(2, 1, 0, issue("K", key=key("EC", 5000 + number)).spki) for number in range(MAX_STEPS + 1)]
        assert refusal((LEAF,), *keys).detail == f"more than {MAX_STEPS} signatures to look at"


def test_equality_of_certificates_is_that_of_octets() -> None:
    assert Certificate(LEAF.der) == Certificate(LEAF.der)
    assert Certificate(LEAF.der) != Certificate(ROOT.der)
    assert Certificate(LEAF.der) != LEAF.der


def test_a_time_in_another_zone_is_the_same_time() -> None:
    assert judge(SENT, record(ROOT, 2, 0, 1), now=datetime(2026, 1, 1, tzinfo=UTC)).depth == 2
