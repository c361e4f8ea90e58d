"""Whether a certificate is for a name (RFC 7672 3.2.3, RFC 6125 6.4)."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from certificates import issue
from postern_sidecar.dane.certificate import Certificate
from postern_sidecar.dane.names import match
from postern_sidecar.dane.verdict import NotAuthenticated, Reason
from postern_sidecar.names import domain

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST = domain("mx.example.org")
BOOKS = domain("bücher.example.org")


@pytest.mark.parametrize(
    ("presented", "reference"),
    [
        (["mx.example.org"], "mx.example.org"),
        (["MX.Example.ORG"], "mx.example.org"),  # RFC 6125 6.4.1
        (["example.net", "mx.example.org"], "mx.example.org"),
        (["*.example.org"], "mx.example.org"),  # RFC 7672 3.2.3: the whole left-most label
        (["*.EXAMPLE.org"], "mx.example.org"),
        (["*.example.org"], "m_x.example.org"),
        (["*.b.example.org"], "a.b.example.org"),
        (["xn--bcher-kva.example.org"], BOOKS),  # RFC 6125 6.4.2: A-labels
        (["*.example.org"], BOOKS),
    ],
)
def test_a_name_that_is_there(presented: Sequence[str], reference: str) -> None:
    certificate = Certificate(issue("something else", dns=presented).der)
    assert match(certificate, [domain(reference)]) == domain(reference)


@pytest.mark.parametrize(
    ("presented", "reference"),
    [
        (["*.example.org"], "a.b.example.org"),  # one label
        (["*.example.org"], "example.org"),
        (["m*.example.org"], "mx.example.org"),  # no partial wildcards
        (["*x.example.org"], "mx.example.org"),
        (["mx.*.org"], "mx.example.org"),  # left-most only
        (["*.*.example.org"], "a.b.example.org"),
        (["*.com"], "example.com"),
        (["*"], "org"),
        (["*"], "mx.example.org"),
        (["mx.example.org."], "mx.example.org"),
        ([".example.org"], "mx.example.org"),
        ([" mx.example.org"], "mx.example.org"),
        ([""], "mx.example.org"),
        (["mx.example.org\0.attacker.example"], "mx.example.org"),
        (["mx.example.org\0"], "mx.example.org"),
        (["xn--bcher-kva.example.org"], "bucher.example.org"),
        (["example.org"], "mx.example.org"),
        (["mx.example.org"], "example.org"),
    ],
)
def test_a_name_that_is_not(presented: Sequence[str], reference: str) -> None:
    with pytest.raises(NotAuthenticated) as caught:
        match(Certificate(issue(reference, dns=presented).der), [domain(reference)])
    assert caught.value.reason is Reason.NAME


@pytest.mark.parametrize("common_name", ["mx.example.org", "MX.example.org", "*.example.org"])
@pytest.mark.parametrize("san", [(), (x509.IPAddress(ip_address("192.0.2.1")),), (x509.RFC822Name("a@example.org"),)])
def test_the_common_name_where_no_dns_name_is(common_name: str, san: Sequence[x509.GeneralName]) -> None:
    """RFC 7672 3.2.3: the CN-ID only in the absence of DNS-IDs."""
    assert match(Certificate(issue(common_name, san=san).der), [HOST]) == HOST


def test_the_common_name_counts_for_nothing_beside_a_dns_name() -> None:
    with pytest.raises(NotAuthenticated, match=r"is for example\.net, not for mx\.example\.org"):
        match(Certificate(issue("mx.example.org", dns=["example.net"]).der), [HOST])


def test_any_common_name() -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each) for each in ("example.net", "mx.example.org")])
    assert match(Certificate(issue(subject=subject).der), [HOST]) == HOST


def test_no_letter_becomes_an_ascii_one() -> None:
    """U+212A KELVIN SIGN is a k to str.lower()."""
    with pytest.raises(NotAuthenticated):
        match(Certificate(issue("\u212aiel.example.org").der), [domain("kiel.example.org")])


def test_the_first_reference_that_the_certificate_has() -> None:
    """RFC 7672 3.2.2: TLSA base domain, next-hop domain."""
    certificate = Certificate(issue(dns=["example.org", "*.example.org"]).der)
    assert match(certificate, [domain("example.net"), domain("example.org"), HOST]) == "example.org"


def test_no_reference_is_not_any_name() -> None:
    with pytest.raises(NotAuthenticated, match="not for any name"):
        match(Certificate(issue(dns=["mx.example.org"]).der), [])


def test_no_name_at_all() -> None:
    with pytest.raises(NotAuthenticated, match=r"is for no name, not for mx\.example\.org or example\.org"):
        match(Certificate(issue(None).der), [HOST, domain("example.org")])


def test_thousands_of_names() -> None:
    names = [f"h{number}.example.net" for number in range(4000)]
    assert match(Certificate(issue(dns=[*names, "mx.example.org"]).der), [HOST]) == HOST
    with pytest.raises(NotAuthenticated) as caught:
        match(Certificate(issue(dns=names).der), [HOST])
    assert len(caught.value.detail) < 200
    assert "..." in caught.value.detail


def test_a_name_of_other_letters_than_ascii_is_malformed() -> None:
    """RFC 5280 4.2.1.6: dNSName is an IA5String."""
    der = issue(dns=["mx.example.org"]).der
    at = der.rindex(b"mx.example.org")
    with pytest.raises(NotAuthenticated) as caught:
        match(Certificate(der[:at] + b"\xfc" + der[at + 1 :]), [HOST])
    assert caught.value.reason is Reason.MALFORMED
