"""What is next for the webhook's certificates: every step of a life of five years, and every odd Secret."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from certificates import EXPIRED, NOT_YET_VALID, issue, key
from postern_operator import rotation, signing
from postern_operator.rotation import Broken, Lifetimes, Pair, Step

START = datetime(2026, 6, 1, 12, tzinfo=UTC)
LIFE = Lifetimes()
NAMES = frozenset({"postern-webhook.postern-system.svc", "192.0.2.1"})
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def made() -> Pair:
    return signing.pair(NAMES, START, LIFE)


def step(pair: Pair | None, now: datetime, *, settled: bool = True, names: frozenset[str] = NAMES) -> Step:
    return rotation.decide(pair, settled=settled, names=names, now=now, lifetimes=LIFE)


def test_what_is_made_reads_back(made: Pair) -> None:
    read = rotation.read(rotation.written(made))
    assert (read.authorities, read.leaf) == (made.authorities, made.leaf)
    assert read.signed_by_first
    assert rotation.names_of(read.leaf) == NAMES


def test_dates(made: Pair) -> None:
    """Back-dated, for clocks that disagree."""
    authority, leaf = made.authorities[0], made.leaf
    for each in (authority, leaf):
        assert each.not_valid_before_utc == START - timedelta(hours=1)
    assert authority.not_valid_after_utc == START + 365 * DAY
    assert leaf.not_valid_after_utc == START + 30 * DAY


def test_leaf_does_not_outlive_its_authority(made: Pair) -> None:
    late = signing.with_leaf(made, NAMES, START + 350 * DAY, LIFE)
    assert late.leaf.not_valid_after_utc == made.authorities[0].not_valid_after_utc


def test_leaf_is_a_servers_and_authority_signs_only(made: Pair) -> None:
    extensions = made.leaf.extensions
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        x509.oid.ExtendedKeyUsageOID.SERVER_AUTH
    ]
    addresses = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert addresses.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("192.0.2.1")]
    constraints = made.authorities[0].extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (START - timedelta(minutes=59), Step.NOTHING),  # made by a clock that is ahead
        (START - timedelta(minutes=61), Step.RENEW_LEAF),  # too far ahead: no API server would take it
        (START, Step.NOTHING),
        (START + 20 * DAY - timedelta(seconds=1), Step.NOTHING),
        (START + 20 * DAY, Step.RENEW_LEAF),
        (START + 31 * DAY, Step.RENEW_LEAF),
        (START + 364 * DAY, Step.RENEW_LEAF),
        (START + 365 * DAY, Step.MAKE),
    ],
)
def test_age(made: Pair, now: datetime, expected: Step) -> None:
    assert step(made, now) is expected


def test_none_is_made() -> None:
    assert step(None, START) is Step.MAKE


def test_another_name_renews_the_leaf(made: Pair) -> None:
    assert step(made, START, names=NAMES | {"webhook.example.org"}) is Step.RENEW_LEAF
    assert step(made, START, names=frozenset()) is Step.NOTHING


def test_authority_is_changed_in_three_steps(made: Pair) -> None:
    now = START + 243 * DAY
    old = signing.with_leaf(made, NAMES, now, LIFE)
    assert step(old, now - timedelta(seconds=1)) is Step.NOTHING
    assert step(old, now) is Step.ADD_AUTHORITY

    both = rotation.read(rotation.written(signing.with_authority(old, now, LIFE)))
    assert both.authorities[1:] == old.authorities
    assert both.leaf == old.leaf
    assert not both.signed_by_first
    assert step(both, now, settled=False) is Step.NOTHING
    assert step(both, now + 31 * DAY, settled=False) is Step.RENEW_LEAF, "nothing is lost with an expired one"
    assert step(both, now) is Step.RENEW_LEAF

    switched = signing.with_leaf(both, NAMES, now, LIFE)
    assert switched.signed_by_first
    assert step(switched, now) is Step.NOTHING
    last = now + 30 * DAY  # of a leaf that the old one signed just before
    renewed = signing.with_leaf(switched, NAMES, last, LIFE)
    assert step(renewed, last) is Step.NOTHING
    assert step(renewed, last + timedelta(seconds=1)) is Step.DROP_AUTHORITIES
    dropped = rotation.without_older(renewed)
    assert dropped.authorities == switched.authorities[:1]
    assert step(dropped, last + timedelta(seconds=1)) is Step.NOTHING


def test_five_years_without_a_day_on_which_a_served_leaf_is_not_trusted() -> None:
    """One look a day, the bundle follows a day late, and it always holds what signed the leaf that is served."""
    now, pair, bundle = START, signing.pair(NAMES, START, LIFE), tuple[x509.Certificate, ...]()
    bundle, serving, seen = pair.authorities, pair.leaf, set[Step]()
    for _ in range(5 * 365):
        now += DAY
        settled = pair.authorities[0] in bundle
        bundle = pair.authorities
        taken = step(pair, now, settled=settled)
        seen.add(taken)
        if taken is Step.RENEW_LEAF:
            pair = signing.with_leaf(pair, NAMES, now, LIFE)
        elif taken is Step.ADD_AUTHORITY:
            pair = signing.with_authority(pair, now, LIFE)
        elif taken is Step.DROP_AUTHORITIES:
            pair = rotation.without_older(pair)
        assert rotation.may_serve(pair, serving, bundle, now)
        serving = pair.leaf
        assert rotation.trusted((serving,), bundle)
        assert serving.not_valid_before_utc < now < serving.not_valid_after_utc
        assert len(pair.authorities) <= 2
    assert seen == {Step.NOTHING, Step.RENEW_LEAF, Step.ADD_AUTHORITY, Step.DROP_AUTHORITIES}


def test_expired_authorities_are_not_carried_on(made: Pair) -> None:
    later = signing.with_authority(made, START + 366 * DAY, LIFE)
    assert made.authorities[0] not in later.authorities


def test_full_list_gets_no_other_authority(made: Pair) -> None:
    now = START + 360 * DAY
    full = signing.with_leaf(replace(made, authorities=made.authorities * rotation.MAX_AUTHORITIES), NAMES, now, LIFE)
    full = replace(full, leaf=signing.with_leaf(made, NAMES, now, LIFE).leaf)
    late = Lifetimes(leaf_renewal=timedelta(0))
    taken = rotation.decide(full, settled=True, names=NAMES, now=now, lifetimes=late)
    assert taken is Step.DROP_AUTHORITIES


def test_replica_keeps_its_leaf_while_only_that_is_trusted(made: Pair) -> None:
    other = signing.pair(NAMES, START, LIFE)
    assert rotation.may_serve(other, None, (), START)
    assert rotation.may_serve(made, made.leaf, (), START)
    assert not rotation.may_serve(other, made.leaf, made.authorities, START)
    assert rotation.may_serve(other, made.leaf, (*made.authorities, *other.authorities), START)
    assert rotation.may_serve(other, made.leaf, (), START), "neither is"
    assert rotation.may_serve(other, made.leaf, made.authorities, START + 30 * DAY), "its own has expired"


def test_bundles(made: Pair) -> None:
    other = signing.pair(NAMES, START, LIFE)
    both = (*made.authorities, *other.authorities)
    assert rotation.bundle(rotation.pem(both)) == both
    assert not rotation.bundle_differs(both, both[::-1])
    assert rotation.bundle_differs(both, made.authorities)
    for odd in (b"", b"\n", b"\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        assert rotation.bundle(odd) == ()
    assert rotation.trusted((made.leaf,), (made.leaf,)), "a self-signed one stands in the bundle itself"


ROOT = issue("root", ca=True)
LEAF = issue("leaf", by=ROOT, dns=["x"])


def data(**changes: bytes) -> dict[str, bytes]:
    good = {"ca.crt": ROOT.pem, "ca.key": ROOT.key_pem, "tls.crt": LEAF.pem, "tls.key": LEAF.key_pem}
    return good | {key.replace("_", "."): value for key, value in changes.items()}


ED25519 = issue("ed", ca=True, key=key("Ed25519"))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({}, r"lacks ca\.crt, ca\.key, tls\.crt, tls\.key"),
        (data(tls_key=b""), r"lacks tls\.key"),
        (data(ca_crt=b"none"), r"ca\.crt is not PEM"),
        (data(tls_crt=LEAF.pem[:99]), r"tls\.crt is not PEM"),
        (data(tls_crt=b"-----BEGIN CERTIFICATE-----\n\xff\n-----END CERTIFICATE-----"), "not PEM"),
        (data(ca_crt=b"x" * (rotation.MAX_PEM + 1)), "longer than"),
        (data(ca_crt=ROOT.pem * 9), "more than 8"),
        (data(ca_key=LEAF.key_pem), r"ca\.key is not the key"),
        (data(ca_key=b"none"), r"ca\.key is not the key"),
        (data(tls_key=ROOT.key_pem), r"tls\.key is not the key"),
        (data(tls_key=b"-----BEGIN PRIVATE KEY-----\n"), r"tls\.key is not the key"),
        (data(ca_crt=LEAF.pem, ca_key=LEAF.key_pem), "no authority's"),
        (data(ca_crt=issue("root", ca=False).pem, ca_key=issue("root", ca=False).key_pem), "no authority's"),
        (data(ca_crt=issue("else", ca=True).pem, ca_key=issue("else", ca=True).key_pem), "signed by none"),
        (data(ca_crt=ED25519.pem, ca_key=ED25519.key_pem), "EC or RSA"),
    ],
)
def test_broken(contents: dict[str, bytes], message: str) -> None:
    with pytest.raises(Broken, match=message) as raised:
        rotation.read(contents)
    assert "BEGIN" not in str(raised.value)


def test_signature_that_does_not_verify() -> None:
    forged = issue("leaf", by=ROOT, dns=["x"], spoilt=True)
    with pytest.raises(Broken, match="signed by none"):
        rotation.read(data(tls_crt=forged.pem, tls_key=forged.key_pem))


def test_leaf_without_names_and_pairs_out_of_date() -> None:
    assert rotation.names_of(issue("x", by=ROOT).certificate) == frozenset()
    for validity in (EXPIRED, NOT_YET_VALID):
        odd = issue("leaf", by=ROOT, dns=["x"], valid=validity)
        pair = rotation.read(data(tls_crt=odd.pem, tls_key=odd.key_pem))
        assert step(pair, START, names=frozenset({"x"})) is Step.RENEW_LEAF


def test_foreign_authority_with_an_rsa_key_can_sign() -> None:
    root = issue("rsa", ca=True, key=key("RSA-2048"))
    leaf = issue("leaf", by=root, dns=["x"])
    pair = rotation.read({"ca.crt": root.pem, "ca.key": root.key_pem, "tls.crt": leaf.pem, "tls.key": leaf.key_pem})
    assert signing.with_leaf(pair, NAMES, START, LIFE).signed_by_first
