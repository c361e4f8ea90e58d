"""nameConstraints (RFC 5280 4.2.1.10), each case told to OpenSSL too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

import openssl_dane
from certificates import NOW, issue
from dane_chains import ip_name, record
from postern_sidecar.dane.chain import authenticate
from postern_sidecar.dane.verdict import NotAuthenticated, Reason
from postern_sidecar.names import domain

if TYPE_CHECKING:
    from collections.abc import Mapping

HOST = domain("mx.example.org")


def name(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


ORGANIZATION = (NameOID.ORGANIZATION_NAME, "Example")
SUBJECT = name(ORGANIZATION, (NameOID.COMMON_NAME, "mx.example.org"))
DIRECTORY = x509.DirectoryName(name(ORGANIZATION))


def judge(authority: Mapping[str, Any], leaf: Mapping[str, Any]) -> tuple[NotAuthenticated | None, int | None]:
    root = issue("Root", ca=True, **authority)
    below = issue(**{"by": root, "dns": ["mx.example.org"], **leaf})
    tlsa = record(root, 2, 0, 1)
    theirs = openssl_dane.verify([below.der, root.der], [tlsa], [HOST], NOW)
    try:
        authenticate([below.der, root.der], [tlsa], [HOST], NOW)
    except NotAuthenticated as error:
        return error, theirs.error
    return None, theirs.error


@pytest.mark.parametrize(
    ("authority", "leaf"),
    [
        ({"permitted": ["example.org"]}, {}),
        ({"permitted": ["mx.example.org"]}, {}),
        ({"permitted": ["EXAMPLE.org"]}, {}),
        ({"permitted": [".example.org"]}, {}),  # "zero or more labels"; with a dot before, one or more
        ({"permitted": [""]}, {}),
        ({"permitted": ["example.net", "example.org"]}, {}),
        ({"excluded": ["ample.org"]}, {}),  # whole labels
        ({"excluded": ["a.mx.example.org", "example.net"]}, {}),
        ({"permitted": [ip_name("192.0.2.0/24")]}, {}),  # says nothing of names
        ({"permitted": [ip_name("192.0.2.0/24")]}, {"san": [ip_name("192.0.2.1")]}),
        ({"excluded": [ip_name("192.0.2.0/24")]}, {"san": [ip_name("198.51.100.1")]}),
        ({"excluded": [ip_name("192.0.2.0/24")]}, {"san": [ip_name("2001:db8::1")]}),
        ({"permitted": [DIRECTORY]}, {"subject": SUBJECT}),
        ({"permitted": [x509.DirectoryName(name((NameOID.ORGANIZATION_NAME, "EXAMPLE ")))]}, {"subject": SUBJECT}),
        ({"permitted": [x509.DirectoryName(name())]}, {"subject": SUBJECT}),
        ({"permitted": [DIRECTORY]}, {"subject": name()}),
        ({"excluded": [DIRECTORY]}, {}),
        ({"excluded": [x509.RFC822Name("example.org")]}, {}),  # none is there
        ({"permitted": ["example.org"]}, {"dns": [], "common_name": "mx.example.org"}),
        ({"permitted": ["example.org"]}, {"common_name": "Mail of example.net"}),
        ({"permitted": ["example.org"]},
         {"dns": [], "subject": name((NameOID.COMMON_NAME, "Mail server"), (NameOID.COMMON_NAME, "mx.example.org"))}),
        ({"permitted": ["example.org"]}, {"common_name": "mx.example.net"}),  # no CN-ID beside a dNSName
    ],
)  # fmt: skip
def test_permitted(authority: Mapping[str, Any], leaf: Mapping[str, Any]) -> None:
    assert judge(authority, leaf) == (None, 0)


@pytest.mark.parametrize(
    ("authority", "leaf", "error"),
    [
        ({"permitted": ["example.net"]}, {}, 47),
        ({"permitted": ["ample.org"]}, {}, 47),
        ({"permitted": [".mx.example.org"]}, {}, 47),
        ({"permitted": ["example.org"]}, {"dns": ["mx.example.org", "example.net"]}, 47),  # all its names
        ({"permitted": ["example.net"]}, {"dns": [], "common_name": "mx.example.org"}, 47),
        ({"excluded": ["example.org"]}, {}, 48),
        ({"excluded": ["MX.example.org"]}, {}, 48),
        ({"excluded": [""]}, {}, 48),
        ({"excluded": ["org"], "permitted": ["example.org"]}, {}, 48),
        ({"excluded": ["mx.example.org"]}, {"dns": [], "common_name": "mx.example.org"}, 48),
        ({"permitted": [ip_name("192.0.2.0/24")]}, {"san": [ip_name("198.51.100.1")]}, 47),
        ({"permitted": [ip_name("192.0.2.0/24")]}, {"san": [ip_name("2001:db8::1")]}, 47),
        ({"excluded": [ip_name("2001:db8::/32")]}, {"san": [ip_name("2001:db8::1")]}, 48),
        ({"permitted": [DIRECTORY]}, {}, 47),
        ({"excluded": [DIRECTORY]}, {"subject": SUBJECT}, 48),
    ],
)  # fmt: skip
def test_not_permitted(authority: Mapping[str, Any], leaf: Mapping[str, Any], error: int) -> None:
    ours, theirs = judge(authority, leaf)
    assert ours is not None
    assert (ours.reason, theirs) == (Reason.CONSTRAINTS, error)


@pytest.mark.parametrize(
    ("authority", "leaf"),
    [
        ({"permitted": [x509.RFC822Name("example.org")]}, {"san": [x509.RFC822Name("a@example.org")]}),
        ({"excluded": [x509.RFC822Name("example.net")]}, {"san": [x509.RFC822Name("a@example.org")]}),
        ({"excluded": [x509.RFC822Name("example.net")]}, {"subject": name((NameOID.EMAIL_ADDRESS, "a@example.org"))}),
        ({"permitted": [x509.UniformResourceIdentifier("example.org")]},
         {"san": [x509.UniformResourceIdentifier("https://example.org/")]}),
        ({"excluded": ["mx.example.org"]}, {"dns": ["*.example.org"]}),
    ],
)  # fmt: skip
def test_stricter_than_openssl(authority: Mapping[str, Any], leaf: Mapping[str, Any]) -> None:
    """What cannot be judged is not allowed, and a wildcard is no way around."""
    ours, _ = judge(authority, leaf)
    assert ours is not None
    assert ours.reason is Reason.CONSTRAINTS


def test_the_authority_in_the_middle_is_bound_too() -> None:
    root = issue("Root", ca=True, permitted=[DIRECTORY])
    middle = issue("Intermediate", by=root, ca=True)
    leaf = issue(by=middle, subject=SUBJECT, dns=["mx.example.org"])
    sent = [leaf.der, middle.der, root.der]
    with pytest.raises(NotAuthenticated, match="CN=Root is not permitted to speak for <Name"):
        authenticate(sent, [record(root, 2, 0, 1)], [HOST], NOW)
    assert openssl_dane.verify(sent, [record(root, 2, 0, 1)], [HOST], NOW).error == 47


def test_the_self_issued_in_the_middle_is_not() -> None:
    """RFC 5280 6.1.3 (b), as at a change of keys."""
    root = issue("Root", ca=True, excluded=[x509.DirectoryName(name((NameOID.COMMON_NAME, "Root")))], identifiers=True)
    middle = issue("Root", by=root, ca=True, identifiers=True, key=issue("another").key)
    leaf = issue(by=middle, dns=["mx.example.org"])
    sent = [leaf.der, middle.der, root.der]
    assert authenticate(sent, [record(root, 2, 0, 1)], [HOST], NOW).depth == 2
    assert openssl_dane.verify(sent, [record(root, 2, 0, 1)], [HOST], NOW).error == 0


def test_a_leaf_that_is_self_issued_is_bound() -> None:
    """Its issuer has its name and another key."""
    root = issue("mx.example.org", ca=True, excluded=["example.org"], identifiers=True)
    leaf = issue("mx.example.org", by=root, dns=["mx.example.org"], identifiers=True, key=issue("another").key)
    with pytest.raises(NotAuthenticated, match="excluded"):
        authenticate([leaf.der, root.der], [record(root, 2, 0, 1)], [HOST], NOW)
    assert openssl_dane.verify([leaf.der, root.der], [record(root, 2, 0, 1)], [HOST], NOW).error == 48


@pytest.mark.parametrize(("more", "passes"), [(0, True), (1, False)])
def test_names_times_subtrees_are_bounded(more: int, passes: bool) -> None:
    """127 names, the subject and the one looked for, against 127 subtrees: 16,383 comparisons."""
    authority = {"excluded": [f"{number}.example.net" for number in range(127 + more)]}
    ours, _ = judge(authority, {"dns": ["mx.example.org", *(f"{number}.example.org" for number in range(126))]})
    assert (ours is None) is passes
    assert passes or "names to compare" in str(ours)


def test_an_authoritys_common_name_is_no_hosts() -> None:
    root = issue("Root", ca=True, permitted=["example.org"])
    middle = issue("ca.example.net", by=root, ca=True)
    leaf = issue(by=middle, dns=["mx.example.org"])
    sent = [leaf.der, middle.der, root.der]
    assert authenticate(sent, [record(root, 2, 0, 1)], [HOST], NOW).depth == 2
    assert openssl_dane.verify(sent, [record(root, 2, 0, 1)], [HOST], NOW).error == 0


def test_an_authority_in_the_middle_binds_too() -> None:
    root = issue("Root", ca=True)
    middle = issue("Intermediate", by=root, ca=True, permitted=["example.net"])
    leaf = issue(by=middle, dns=["mx.example.org"])
    with pytest.raises(NotAuthenticated, match="CN=Intermediate is not permitted to speak for mx"):
        authenticate([leaf.der, middle.der], [record(root, 2, 0, 0)], [HOST], NOW)
