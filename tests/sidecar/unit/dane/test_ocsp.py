"""Staples: whose, by whom, how old, and what they say (RFC 6960)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

import certificates
from certificates import EXPIRED, NOW, Certified, issue
from postern_sidecar.dane.ocsp import CERTIFICATES, MAX_AGE, RESPONSES, SKEW, StapleVerdict, Status, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OCSP = [ExtendedKeyUsageOID.OCSP_SIGNING]
ROOT = issue("Root", ca=True, serial=1, key=certificates.key("EC", 91))
OTHER = issue("Other", ca=True, serial=2, key=certificates.key("EC", 90))
LEAF = issue("mx.example.org", by=ROOT, dns=["mx.example.org"], serial=3, key=certificates.key("EC", 92))
SISTER = issue("mx.example.org", by=ROOT, dns=["mx.example.org"], serial=4, key=certificates.key("EC", 92))
DELEGATE = issue("Responder", by=ROOT, purposes=OCSP, serial=5, key=certificates.key("EC", 93))
RSA = issue("RSA", key=certificates.key("RSA-2048"), ca=True, serial=7)
ED = issue("Ed", key=certificates.key("Ed25519"), ca=True, serial=8)
NEXT = NOW + timedelta(days=1)
BEFORE = NOW - timedelta(hours=1)


def staple(
    *,
    about: Certified = LEAF,
    issuer: Certified = ROOT,
    by: Certified = ROOT,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    since: datetime = BEFORE,
    until: datetime | None = NEXT,
    named: ocsp.OCSPResponderEncoding = ocsp.OCSPResponderEncoding.HASH,
    digest: hashes.HashAlgorithm | None = hashes.SHA256(),  # noqa: B008 - a value
    ids: hashes.HashAlgorithm = hashes.SHA1(),  # noqa: B008,S303 - what responders use
    inside: Sequence[Certified] = (),
) -> bytes:
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    builder = ocsp.OCSPResponseBuilder().add_response(
        about.certificate, issuer.certificate, ids, status, since, until, BEFORE if revoked else None, None
    )
    builder = builder.responder_id(named, by.certificate)
    if inside:
        builder = builder.certificates([each.certificate for each in inside])
    key: Any = by.key
    return builder.sign(key, digest).public_bytes(_DER)


_DER = Encoding.DER


def refused() -> bytes:
    return ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(_DER)


def spoilt(der: bytes) -> bytes:
    """The last octet is of the signature."""
    return der[:-1] + bytes([der[-1] ^ 1])


def by_delegate(delegate: Certified) -> bytes:
    return staple(by=delegate, inside=[delegate])


def named_root(like: Certified) -> Certified:
    return issue("Root", key=like.key)


def said(der: bytes, *, chain: Sequence[Certified] = (LEAF, ROOT), anchors: Sequence[Certified] = ()) -> StapleVerdict:
    return judge(der, [each.der for each in chain], NOW, [each.der for each in anchors])


def invalid(detail: str) -> StapleVerdict:
    return StapleVerdict(Status.INVALID, detail)


GOOD = StapleVerdict(Status.GOOD)
NAME, HASH = ocsp.OCSPResponderEncoding.NAME, ocsp.OCSPResponderEncoding.HASH

VERDICTS: list[tuple[str, Callable[[], bytes], StapleVerdict]] = [
    ("good", staple, GOOD),
    ("good, responder by name", lambda: staple(named=NAME), GOOD),
    ("good, IDs by SHA-256", lambda: staple(ids=hashes.SHA256()), GOOD),
    ("none came", lambda: b"", StapleVerdict(Status.ABSENT)),
    ("revoked", lambda: staple(status=ocsp.OCSPCertStatus.REVOKED), StapleVerdict(Status.REVOKED, "since 2026-06-01")),
    (
        "revoked, and old news",
        lambda: staple(
            status=ocsp.OCSPCertStatus.REVOKED, since=NOW - timedelta(days=9), until=NOW - timedelta(days=8)
        ),
        StapleVerdict(Status.REVOKED, "since 2026-06-01"),
    ),
    ("not known", lambda: staple(status=ocsp.OCSPCertStatus.UNKNOWN), StapleVerdict(Status.UNKNOWN)),
    ("still inside the skew", lambda: staple(until=NOW - SKEW), GOOD),
    (
        "too old",
        lambda: staple(until=NOW - SKEW - timedelta(seconds=1)),
        StapleVerdict(Status.STALE, "not valid after 2026-06-01T11:54:59Z"),
    ),
    ("a clock that is ahead", lambda: staple(since=NOW + SKEW), GOOD),
    (
        "not yet valid",
        lambda: staple(since=NOW + SKEW + timedelta(seconds=1)),
        StapleVerdict(Status.STALE, "not valid before 2026-06-01T12:05:01Z"),
    ),
    ("no end, young", lambda: staple(since=NOW - MAX_AGE - SKEW, until=None), GOOD),
    (
        "no end, old",
        lambda: staple(since=NOW - MAX_AGE - SKEW - timedelta(seconds=1), until=None),
        StapleVerdict(Status.STALE, "not valid after 2026-06-01T11:54:59Z"),
    ),
    ("garbage", lambda: b"\x30\x03garbage", invalid("malformed")),
    ("a byte too many", lambda: staple() + b"\0", invalid("malformed")),
    ("an error", refused, invalid("the responder said try_later")),
    ("another certificate", lambda: staple(about=SISTER), invalid("about another certificate")),
    ("another issuer", lambda: staple(issuer=OTHER), invalid("about another certificate")),
    ("wrong signature", lambda: spoilt(staple()), invalid("the signature is wrong")),
    ("another's signature", lambda: staple(by=named_root(OTHER), named=NAME), invalid("the signature is wrong")),
    (
        "another algorithm",
        lambda: staple(by=named_root(ED), named=NAME, digest=None),
        invalid("signed by an algorithm that is not the responder's"),
    ),
    ("a stranger signs", lambda: staple(by=OTHER), invalid("the responder is not known")),
    ("delegate", lambda: staple(by=DELEGATE, inside=[DELEGATE]), GOOD),
    ("delegate by name", lambda: staple(by=DELEGATE, named=NAME, inside=[DELEGATE]), GOOD),
    ("delegate behind another", lambda: staple(by=DELEGATE, inside=[SISTER, DELEGATE]), GOOD),
    ("delegate that did not come", lambda: staple(by=DELEGATE), invalid("the responder is not known")),
    (
        "delegate behind too many",
        lambda: staple(by=DELEGATE, inside=[SISTER] * CERTIFICATES + [DELEGATE]),
        invalid("the responder is not known"),
    ),
    (
        "delegate of another",
        lambda: by_delegate(issue("Responder", by=OTHER, purposes=OCSP)),
        invalid("the certificate's issuer has not delegated to the responder"),
    ),
    (
        "delegate whose issuer only has the name",
        lambda: by_delegate(issue("Responder", by=OTHER, issuer=ROOT.certificate.subject, purposes=OCSP)),
        invalid("the certificate's issuer has not delegated to the responder"),
    ),
    (
        "the server answers for itself",
        lambda: staple(by=LEAF, inside=[LEAF]),
        invalid("the certificate's issuer has not delegated to the responder"),
    ),
    (
        "a server's certificate answers",
        lambda: by_delegate(issue("Responder", by=ROOT, purposes=[certificates.SERVER])),
        invalid("the certificate's issuer has not delegated to the responder"),
    ),
    (
        "delegate expired",
        lambda: by_delegate(issue("Responder", by=ROOT, purposes=OCSP, valid=EXPIRED)),
        invalid("the responder's certificate is not valid now"),
    ),
    (
        "delegate not yet valid",
        lambda: by_delegate(issue("Responder", by=ROOT, purposes=OCSP, valid=certificates.NOT_YET_VALID)),
        invalid("the responder's certificate is not valid now"),
    ),
]


@pytest.mark.parametrize(("made", "verdict"), [pytest.param(*row[1:], id=row[0]) for row in VERDICTS])
def test_each_staple(made: Callable[[], bytes], verdict: StapleVerdict) -> None:
    assert said(made()) == verdict


class TestWhoIssuedTheLeaf:
    def test_an_anchor_that_stands_in_dns_only(self) -> None:
        assert said(staple(), chain=[LEAF]) == invalid("the certificate's issuer is not known")
        assert said(staple(), chain=[LEAF], anchors=[OTHER, ROOT]) == GOOD

    def test_a_certificate_of_the_issuers_name_is_not_the_issuer(self) -> None:
        double = issue("Root", ca=True, key=OTHER.key)
        assert said(staple(by=double, issuer=double), chain=[LEAF, double]) == invalid(
            "the certificate's issuer is not known"
        )

    def test_a_self_signed_leaf_is_its_own(self) -> None:
        alone = issue("mx.example.org")
        assert said(staple(about=alone, issuer=alone, by=alone), chain=[alone]) == GOOD

    def test_no_chain(self) -> None:
        assert said(staple(), chain=[]) == invalid("there is no certificate that it could be about")

    def test_what_does_not_parse_is_passed_over_but_for_the_leaf(self) -> None:
        assert judge(staple(), [LEAF.der, b"garbage", ROOT.der], NOW) == GOOD
        assert judge(staple(), [b"garbage", LEAF.der, ROOT.der], NOW) == invalid("malformed")

    def test_a_long_chain_is_not_searched_to_its_end(self) -> None:
        assert said(staple(), chain=[LEAF, *[SISTER] * (CERTIFICATES - 2), ROOT]) == GOOD
        assert said(staple(), chain=[LEAF, *[SISTER] * (CERTIFICATES - 1), ROOT]).status is Status.INVALID


class TestKeys:
    @pytest.mark.parametrize("kind", ["RSA-2048", "Ed25519"])
    def test_signatures_of_other_keys(self, kind: Any) -> None:
        digest = None if kind == "Ed25519" else hashes.SHA512()
        root = issue("Root", ca=True, key=certificates.key(kind))
        leaf = issue("mx.example.org", by=root)
        der = staple(about=leaf, issuer=root, by=root, digest=digest)
        assert said(der, chain=[leaf, root]) == GOOD
        assert said(spoilt(der), chain=[leaf, root]) == invalid("the signature is wrong")

    def test_a_weak_digest(self) -> None:
        """The library does not sign so."""
        leaf = issue("mx.example.org", by=RSA)
        der = staple(about=leaf, issuer=RSA, by=RSA)
        assert der.count(b"\x01\x01\x0b") == 1  # sha256WithRSAEncryption
        der = der.replace(b"\x01\x01\x0b", b"\x01\x01\x05")
        assert said(der, chain=[leaf, RSA]) == invalid("signed by sha1")

    def test_pss(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The library does not sign so, and shows no parameters of those that it reads."""
        oid = ocsp.load_der_ocsp_response(staple()).signature_algorithm_oid
        monkeypatch.setattr(SignatureAlgorithmOID, "RSASSA_PSS", oid)
        assert said(staple()) == invalid("signed by RSASSA-PSS")


def test_a_response_about_many_is_not_searched_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library makes and reads responses about one; more are put in its place."""
    response = ocsp.load_der_ocsp_response(staple())
    (ours,) = response.responses
    (others,) = ocsp.load_der_ocsp_response(staple(about=SISTER)).responses

    class Many:
        def __init__(self, before: int) -> None:
            self.responses = iter([others] * before + [ours])

        def __getattr__(self, name: str) -> Any:
            return getattr(response, name)

    monkeypatch.setattr(ocsp, "load_der_ocsp_response", Many)
    assert judge(RESPONSES - 1, [LEAF.der, ROOT.der], NOW) == GOOD  # type: ignore[arg-type]
    assert judge(RESPONSES, [LEAF.der, ROOT.der], NOW) == invalid("about another certificate")  # type: ignore[arg-type]


def test_bytes_of_any_kind_make_a_verdict() -> None:
    """Every staple with an octet changed: it is judged, nothing is raised, and where it counts it is not good."""
    der = staple(inside=[DELEGATE], by=DELEGATE)
    chain, good = [LEAF.der, ROOT.der], list[int]()
    for position in range(0, len(der), 3):
        for mask in (0x01, 0x80, 0xFF):
            changed = der[:position] + bytes([der[position] ^ mask]) + der[position + 1 :]
            if judge(changed, chain, NOW).status is Status.GOOD:
                good.append(position)
    assert len(good) < 12, good  # what nothing looks at: the version, a NULL of parameters


def test_an_unknown_identifier_hash_is_malformed() -> None:
    der = staple(ids=hashes.SHA256())
    oid = b"\x60\x86\x48\x01\x65\x03\x04\x02\x01"
    assert said(der.replace(oid, oid[:-1] + b"\x7f", 1)).status is Status.INVALID
