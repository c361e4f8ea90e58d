"""`postern-sidecar tlsa`: records from certificates, lines, and what to say of a server (RFC 7671 8, 9)."""

from __future__ import annotations

from datetime import timedelta

import pytest

from certificates import ALWAYS, EXPIRED, NOW, Certified, issue, key, pem_chain
from dane_chains import record as record_of
from postern_sidecar.answers import TLSA
from postern_sidecar.dane.zonefile import SOON, Finding, Severity, certificates, line, record, review
from postern_sidecar.names import domain

HOST = domain("mx.example.org")
ROOT = issue("Root", ca=True)
INTERMEDIATE = issue("Intermediate", by=ROOT, ca=True)
LEAF = issue("mx.example.org", by=INTERMEDIATE, dns=["mx.example.org"])
RENEWED = issue("mx.example.org", by=INTERMEDIATE, dns=["mx.example.org"], serial=2)
NEXT = issue("mx.example.org", by=INTERMEDIATE, dns=["mx.example.org"], key=key("EC", 77))
SENT = (LEAF, INTERMEDIATE, ROOT)
A_DAY = timedelta(days=1)


class TestFiles:
    def test_certificates_of_a_pem_file(self) -> None:
        assert certificates(pem_chain(LEAF, INTERMEDIATE)) == (LEAF.der, INTERMEDIATE.der)
        assert certificates(b"Subject: mx\n" + LEAF.key_pem + LEAF.pem) == (LEAF.der,)

    @pytest.mark.parametrize(
        "pem", [b"", b"\0", LEAF.der, LEAF.key_pem, LEAF.pem[:-40], LEAF.pem.replace(b"MII", b"XXX")]
    )
    def test_a_file_without_any(self, pem: bytes) -> None:
        with pytest.raises(ValueError, match="is not PEM with a certificate in it"):
            certificates(pem)

    @pytest.mark.parametrize("usage", [2, 3])
    @pytest.mark.parametrize("selector", [0, 1])
    @pytest.mark.parametrize("matching", [0, 1, 2])
    def test_record(self, usage: int, selector: int, matching: int) -> None:
        assert record(LEAF.der, usage, selector, matching) == record_of(LEAF, usage, selector, matching)

    def test_what_is_recommended(self) -> None:
        """RFC 7672 3.1.1."""
        assert record(LEAF.der) == record_of(LEAF, 3, 1, 1)

    @pytest.mark.parametrize(
        ("numbers", "says"), [((1, 1, 1), "usage is"), ((3, 2, 1), "selector is"), ((3, 1, 3), "matching is")]
    )
    def test_numbers_that_mean_nothing(self, numbers: tuple[int, int, int], says: str) -> None:
        with pytest.raises(ValueError, match=says):
            record(LEAF.der, *numbers)

    @pytest.mark.parametrize("name", ["_25._tcp.mx.example.org", "_25._tcp.mx.example.org."])
    def test_line(self, name: str) -> None:
        tlsa = TLSA(3, 1, 1, bytes(range(32)))
        assert line(name, tlsa) == f"_25._tcp.mx.example.org. IN TLSA 3 1 1 {bytes(range(32)).hex()}"


def findings(
    *published: TLSA, sent: tuple[Certified, ...] = SENT, days: float = 0, before_end: bool = False
) -> list[tuple[str, str]]:
    now = ALWAYS[1] - days * A_DAY if before_end else NOW
    found = review(published, [each.der for each in sent], [HOST], now)
    assert all(isinstance(each, Finding) for each in found)
    return [(each.severity.value, each.text) for each in found]


def only(found: list[tuple[str, str]], severity: str) -> str:
    texts = [text for each, text in found if each == severity]
    assert len(texts) == 1, found
    return texts[0]


def test_a_match_and_nothing_else() -> None:
    tlsa = record_of(LEAF, 3, 1, 1)
    assert findings(tlsa) == [("ok", f"match: 3 1 1 {tlsa.data.hex()[:16]}... at depth 0 (CN=mx.example.org)")]


def test_a_match_by_name() -> None:
    assert findings(record_of(ROOT, 2, 1, 1))[0][1].endswith("at depth 2 (CN=mx.example.org, as mx.example.org)")


def test_a_mismatch() -> None:
    found = findings(record_of(NEXT, 3, 1, 1))
    assert only(found, "error").startswith("mismatch: tlsa_mismatch: ")
    assert found[0][0] == "error"
    assert (
        only(findings(record_of(LEAF, 3, 1, 1), sent=()), "error") == "mismatch: certificate_malformed: no certificate"
    )


def test_nothing_usable() -> None:
    found = findings(TLSA(1, 1, 1, bytes(32)))
    assert only(found, "error").startswith("no usable TLSA record")
    assert only(found, "warning").endswith(": usage 1 is not for SMTP")


def test_unusable_beside_usable() -> None:
    found = findings(record_of(LEAF, 3, 1, 1), TLSA(3, 1, 1, b"short"))
    assert [severity for severity, _ in found] == ["ok", "warning"]


def test_the_next_key_is_published_before_it_is_used() -> None:
    """RFC 7671 8.1: right, and worth a note."""
    found = findings(record_of(LEAF, 3, 1, 1), record_of(NEXT, 3, 1, 1))
    assert [severity for severity, _ in found] == ["ok", "note"]
    assert "right for a key to come" in only(found, "note")


@pytest.mark.parametrize("matching", [0, 1, 2])
def test_what_changes_with_every_renewal(matching: int) -> None:
    """RFC 7671 8.1: 3 0 x."""
    tlsa = record_of(LEAF, 3, 0, matching)
    assert "changes with every renewal" in only(findings(tlsa), "warning")
    assert findings(tlsa, sent=(RENEWED, INTERMEDIATE))[0][0] == "error"
    assert [severity for severity, _ in findings(record_of(LEAF, 3, 1, matching), sent=(RENEWED,))] == ["ok"]


def test_what_changes_with_the_authoritys_certificate() -> None:
    assert "authority's certificate is replaced" in only(findings(record_of(ROOT, 2, 0, 1)), "note")


def test_an_authority_that_is_not_sent() -> None:
    """RFC 7671 5.2.1: a digest needs the certificate."""
    found = findings(record_of(ROOT, 2, 1, 1), sent=SENT[:2])
    assert found[0][0] == "error"
    assert "a digest of one that is not sent never can" in only(found, "note")


def test_an_authority_that_stands_in_dns_only() -> None:
    """RFC 7671 5.2.2: MAY."""
    found = findings(record_of(ROOT, 2, 0, 0), sent=SENT[:2])
    assert found[0][0] == "ok"
    assert "senders may not look for it in DNS" in only(found, "note")


def test_the_wrong_usage() -> None:
    assert "that is usage 2" in only(findings(record_of(INTERMEDIATE, 3, 1, 1)), "warning")
    assert "that is usage 3" in only(findings(record_of(LEAF, 2, 1, 1)), "warning")
    assert findings(record_of(ROOT, 2, 1, 1), sent=())[0][0] == "error"


def test_two_digests_that_stand_for_different_certificates() -> None:
    """RFC 7671 9."""
    agile = record_of(LEAF, 3, 1, 1), record_of(LEAF, 3, 1, 2), record_of(NEXT, 3, 1, 1), record_of(NEXT, 3, 1, 2)
    assert not [text for severity, text in findings(*agile) if "RFC 7671 9" in text]
    conflict = findings(record_of(LEAF, 3, 1, 1), record_of(NEXT, 3, 1, 2))
    assert conflict[0][0] == "error"
    assert [text for severity, text in conflict if severity == "warning" and "some senders look only" in text]
    other_way = findings(record_of(NEXT, 3, 1, 1), record_of(LEAF, 3, 1, 2))
    assert other_way[0][0] == "ok"
    assert [text for severity, text in other_way if severity == "warning" and "some senders look only" in text]


class TestExpiry:
    def test_dane_ee_does_not_mind(self) -> None:
        """RFC 7672 3.1.1: a soft word."""
        tlsa = record_of(LEAF, 3, 1, 1)
        found = findings(tlsa, days=13, before_end=True)
        assert [severity for severity, _ in found] == ["ok", "note"]
        assert "expires on 2099-01-01: senders with DANE-EE do not mind" in found[1][1]
        assert len(findings(tlsa, days=15, before_end=True)) == 1
        assert "expired on" in only(findings(tlsa, days=-1, before_end=True), "note")

    def test_dane_ta_does(self) -> None:
        tlsa = record_of(INTERMEDIATE, 2, 1, 1)
        found = findings(tlsa, days=13, before_end=True)
        assert [severity for severity, _ in found] == ["ok", "warning", "warning"]
        assert {text for severity, text in found[1:]} == {
            "CN=mx.example.org expires on 2099-01-01: mail with DANE stops then",
            "CN=Intermediate expires on 2099-01-01: mail with DANE stops then",
        }
        assert [severity for severity, _ in findings(tlsa, days=15, before_end=True)] == ["ok"]

    def test_what_has_expired_is_a_mismatch(self) -> None:
        leaf = issue("mx.example.org", by=ROOT, dns=["mx.example.org"], valid=EXPIRED)
        assert "mismatch: certificate_expired" in only(findings(record_of(ROOT, 2, 1, 1), sent=(leaf, ROOT)), "error")

    def test_soon(self) -> None:
        assert timedelta(days=14) == SOON


def test_certificates_that_cannot_be_read() -> None:
    """What a server shows is hostile here too."""
    odd = LEAF.der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020109"))
    tlsa = record(odd, 3, 0, 1)
    found = review([tlsa, record_of(ROOT, 2, 1, 1), record_of(NEXT, 3, 1, 1)], [odd, b"junk"], [HOST], NOW)
    assert found[0].severity is Severity.OK
    assert [each.severity for each in found[1:]] == [Severity.NOTE, Severity.WARNING, Severity.NOTE]
