"""Which TLSA records count: usability (RFC 6698 2.1, RFC 7672 3.1), digest agility (RFC 7671 9), bounds."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest

from certificates import issue, key
from dane_chains import record
from postern_sidecar.answers import TLSA
from postern_sidecar.config.model import Digest
from postern_sidecar.dane.records import MAX_RECORDS, select

DIGESTS = (Digest.SHA2_512, Digest.SHA2_256)
LEAF = issue("mx.example.org")
ROOT = issue("Root", ca=True, key=key("RSA-2048"))
H256, H512 = bytes(32), bytes(64)


@pytest.mark.parametrize(
    "tlsa",
    [
        TLSA(3, 1, 1, H256),  # RFC 7672 3.1.1: recommended
        TLSA(3, 0, 1, H256),
        TLSA(3, 1, 2, H512),
        TLSA(3, 0, 2, H512),
        TLSA(2, 0, 1, H256),  # RFC 7672 3.1.2
        TLSA(2, 1, 2, H512),
        record(LEAF, 3, 0, 0),
        record(LEAF, 3, 1, 0),
        record(ROOT, 2, 0, 0),
        record(ROOT, 2, 1, 0),
    ],
    ids=str,
)
def test_usable(tlsa: TLSA) -> None:
    selection = select([tlsa], DIGESTS)
    assert (selection.considered, selection.usable, selection.dropped) == ((tlsa,), (tlsa,), ())
    assert selection.usage == 1 << tlsa.usage


@pytest.mark.parametrize(
    ("tlsa", "why"),
    [
        (TLSA(0, 1, 1, H256), "usage 0 is not for SMTP"),  # RFC 7672 3.1.3
        (TLSA(1, 1, 1, H256), "usage 1 is not for SMTP"),
        (TLSA(4, 1, 1, H256), "unknown usage 4"),  # RFC 6698 2.1.1: 4 to 254 are unassigned
        (TLSA(254, 1, 1, H256), "unknown usage 254"),
        (TLSA(255, 255, 255, b""), "unknown usage 255"),  # too short to have the three numbers
        (TLSA(3, 2, 1, H256), "unknown selector 2"),  # RFC 6698 2.1.2
        (TLSA(3, 255, 1, H256), "unknown selector 255"),
        (TLSA(3, 1, 3, H256), "matching type 3 is unknown or off"),  # RFC 6698 2.1.3
        (TLSA(3, 1, 254, H256), "matching type 254 is unknown or off"),
        (TLSA(3, 1, 255, H256), "matching type 255 is unknown or off"),
        (TLSA(3, 1, 1, b""), "a digest of 0 octets"),
        (TLSA(3, 1, 1, H256[1:]), "a digest of 31 octets"),
        (TLSA(3, 1, 1, H256 + b"\0"), "a digest of 33 octets"),
        (TLSA(3, 1, 2, H256), "a digest of 32 octets"),
        (TLSA(2, 0, 2, H512 + b"\0"), "a digest of 65 octets"),
        (TLSA(2, 0, 0, b""), "is not a whole certificate in DER"),
        (TLSA(2, 0, 0, ROOT.der[:-1]), "is not a whole certificate in DER"),
        (TLSA(2, 0, 0, ROOT.der + b"\0"), "is not a whole certificate in DER"),
        (TLSA(3, 0, 0, LEAF.der + b"\0"), "is not a whole certificate in DER"),
        (TLSA(2, 0, 0, ROOT.spki), "is not a whole certificate in DER"),
        (TLSA(2, 1, 0, ROOT.der), "is not a whole public key in DER"),
        (TLSA(2, 1, 0, ROOT.spki + b"\0"), "is not a whole public key in DER"),
        (TLSA(3, 1, 0, LEAF.spki[:-1]), "is not a whole public key in DER"),
    ],
    ids=str,
)
def test_unusable(tlsa: TLSA, why: str) -> None:
    selection = select([tlsa], DIGESTS)
    assert (selection.considered, selection.usable, selection.usage) == ((), (), 0)
    assert selection.dropped == ((tlsa, why),)


def test_only_the_unusable_are_dropped_from_a_mixed_set() -> None:
    """RFC 7672 3.1: unusable records are as if they were not there."""
    good = TLSA(2, 1, 1, H256)
    selection = select([TLSA(1, 1, 1, H256), good, TLSA(3, 1, 1, b"")], DIGESTS)
    assert selection.considered == (good,)
    assert selection.usage == 4
    assert len(selection.dropped) == 2


def test_a_digest_that_is_switched_off_is_unusable() -> None:
    assert select([TLSA(3, 1, 2, H512)], [Digest.SHA2_256]).considered == ()


A1, B1, A2, B2 = H256, bytes([1]) * 32, H512, bytes([1]) * 64


@pytest.mark.parametrize(
    ("records", "considered"),
    [
        ([TLSA(3, 1, 1, A1), TLSA(3, 1, 2, A2)], [1]),
        ([TLSA(3, 1, 1, A1), TLSA(3, 1, 1, B1)], [0, 1]),
        ([TLSA(3, 1, 1, A1), TLSA(3, 1, 2, A2[1:])], [0]),  # an unusable record outranks nothing
        ([TLSA(3, 1, 1, A1), TLSA(3, 0, 2, A2)], [0, 1]),  # another selector
        ([record(LEAF, 3, 1, 0), TLSA(3, 1, 2, A2)], [0, 1]),  # Full(0) always counts
        ([record(LEAF, 3, 1, 0), TLSA(3, 1, 1, A1), TLSA(3, 1, 2, A2)], [0, 2]),
        ([TLSA(2, 0, 1, A1), TLSA(2, 0, 2, B2)], [1]),  # the group counts, not whom the records name
        ([TLSA(2, 0, 1, A1), TLSA(3, 0, 2, A2)], [0, 1]),  # another usage
    ],
)
def test_digest_agility(records: list[TLSA], considered: list[int]) -> None:
    """RFC 7671 9, as OpenSSL has it."""
    for order in itertools.permutations(records):
        selection = select(order, DIGESTS)
        assert set(selection.considered) == {records[number] for number in considered}
        outranked = [each for each, why in selection.dropped if why == "a stronger digest is published"]
        assert set(outranked) == set(selection.usable) - set(selection.considered)


def test_the_order_of_digests_is_the_configurations() -> None:
    records = [TLSA(3, 1, 1, A1), TLSA(3, 1, 2, A2)]
    assert select(records, (Digest.SHA2_256, Digest.SHA2_512)).considered == (records[0],)


def test_outranked_records_are_usable_still() -> None:
    """tls_out_tlsa_usage is about all usable records."""
    selection = select([TLSA(3, 1, 1, A1), TLSA(3, 1, 2, A2), TLSA(2, 0, 1, A1)], DIGESTS)
    assert len(selection.usable) == 3
    assert selection.usage == 12


def test_the_order_does_not_depend_on_dns() -> None:
    """Answers are rotated; a pool key of them must not be."""
    records = [TLSA(3, 1, 1, A1), TLSA(3, 1, 1, B1), TLSA(3, 0, 1, A1), record(LEAF, 3, 1, 0), TLSA(2, 0, 1, A1)]
    assert len({select(order, DIGESTS) for order in itertools.permutations(records)}) == 1
    assert select(records, DIGESTS).considered[0].usage == 3


def test_duplicates_are_dropped_silently() -> None:
    selection = select([TLSA(3, 1, 1, A1)] * 3, DIGESTS)
    assert selection.considered == (TLSA(3, 1, 1, A1),)
    assert selection.dropped == ()


def _many(number: int) -> list[TLSA]:
    return [TLSA(3, 1, 1, each.to_bytes(32)) for each in range(number)]


def test_as_many_as_count() -> None:
    assert len(select(_many(MAX_RECORDS), DIGESTS).considered) == MAX_RECORDS
    assert select(_many(MAX_RECORDS), DIGESTS).dropped == ()


def test_a_duplicate_is_no_surplus() -> None:
    assert select([*_many(MAX_RECORDS), *_many(3)], DIGESTS).dropped == ()


def test_what_is_dropped_takes_no_memory() -> None:
    records = (TLSA(3, 1, usage, each.to_bytes(32)) for each in range(20_000) for usage in (1, 9))
    tracemalloc.start()
    try:
        select(records, DIGESTS)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_100_000_records_cost_a_few() -> None:
    """What is kept is bounded, and of the surplus it is said why."""
    selection = select(iter(_many(100_000)), DIGESTS)
    assert selection.considered == tuple(sorted(_many(MAX_RECORDS), key=lambda each: each.data))
    assert len(selection.dropped) == MAX_RECORDS
    assert {why for _, why in selection.dropped} == {"more than 64 usable records"}


def test_100_000_unusable_records_hide_no_usable_one() -> None:
    """ "All unusable" means delivery without authentication: it must be true of all of them."""
    good = TLSA(3, 1, 1, H256)
    selection = select((*(TLSA(0, 1, 1, each.to_bytes(32)) for each in range(100_000)), good), DIGESTS)
    assert selection.considered == (good,)
    assert len(selection.dropped) == MAX_RECORDS
