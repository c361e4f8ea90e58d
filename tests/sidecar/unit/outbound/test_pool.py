"""Idle connections: who may have one, and when it goes."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address

import pytest

from postern_sidecar.answers import TLSA
from postern_sidecar.config.model import TLSVersion
from postern_sidecar.names import Domain, Endpoint
from postern_sidecar.outbound.link import Link
from postern_sidecar.outbound.plan import Level, Plan, PoolKey, Staple
from postern_sidecar.outbound.pool import Pool
from postern_sidecar.outbound.settings import Credentials

ADDRESS = ip_address("192.0.2.1")
RECORD = TLSA(3, 1, 1, bytes(32))
PLAN = Plan(Level.DANE, Domain("mx.example.org"), (RECORD,), (Domain("mx.example.org"),), usage=8)
KEY = PoolKey(ADDRESS, 25, implicit_tls=False, secure=True, plan=PLAN, ehlo="mail.example.net", credentials="")


def link(key: PoolKey | None = KEY, used: int = 1) -> Link:
    return Link(object(), Endpoint(ADDRESS, 25), key=key, used=used)


def pool(reuse: int = 100, idle: float = 5.0, most: int = 10) -> Pool:
    return Pool(reuse, idle, most)


def plan(**changes: object) -> PoolKey:
    return KEY._replace(plan=dataclasses.replace(PLAN, **changes))  # type: ignore[arg-type]


OTHER_KEYS = {
    "address": KEY._replace(address=ip_address("192.0.2.2")),
    "port": KEY._replace(port=26),
    "TLS from the start": KEY._replace(implicit_tls=True),
    "insecure MX": KEY._replace(secure=False),
    "EHLO name": KEY._replace(ehlo="other.example.net"),
    "credentials": KEY._replace(credentials="relay"),
    "what they are": KEY._replace(account=Credentials("user", "new password")),
    "SNI": plan(sni=Domain("mx2.example.org")),
    "level": plan(level=Level.ENCRYPT),
    "TLSA set": plan(records=(RECORD, TLSA(3, 1, 1, b"\1" * 32))),
    "reference identifiers": plan(references=(Domain("example.org"),)),
    "minVersion": plan(min_version=TLSVersion.TLS_1_3),
    "OCSP": plan(staple=Staple.ASKED),
    "CA set": plan(ca_bundle="PEM"),
}


def test_the_same_key_gets_it_once() -> None:
    it, one = pool(), link()
    assert it.keep(one, 0) == []
    assert it.take(KEY._replace(plan=plan().plan), 1) is one
    assert it.take(KEY, 1) is None
    assert len(it) == 0


@pytest.mark.parametrize("key", OTHER_KEYS.values(), ids=OTHER_KEYS)
def test_another_key_gets_nothing(key: PoolKey) -> None:
    it = pool()
    it.keep(link(), 0)
    assert it.take(key, 0) is None
    assert it.take(KEY, 0) is not None


def test_the_last_one_used_is_taken_first_so_that_the_others_may_go() -> None:
    it, old, young = pool(), link(), link()
    it.keep(old, 0)
    it.keep(young, 1)
    assert it.take(KEY, 2) is young
    assert it.expired(5) == [old]
    assert it.next_expiry() is None


def test_idle_for_too_long() -> None:
    it, one = pool(idle=5), link()
    it.keep(one, 10)
    assert it.next_expiry() == 15
    assert it.expired(14.9) == []
    assert it.take(KEY, 15) is None
    assert it.expired(15) == [one]
    assert len(it) == 0


def test_used_up() -> None:
    it, one, last = pool(reuse=3), link(used=2), link(used=3)
    assert it.keep(one, 0) == []
    assert it.keep(last, 0) == [last]
    assert len(it) == 1


def test_one_without_a_key_is_not_kept() -> None:
    it, one = pool(), link(key=None)
    assert it.keep(one, 0) == [one]


def test_the_oldest_of_all_goes_when_there_are_too_many() -> None:
    it = pool(most=3)
    links = [link(KEY._replace(port=port)) for port in range(4)]
    assert [it.keep(one, now) for now, one in enumerate(links)] == [[], [], [], [links[0]]]
    assert len(it) == 3
    assert it.take(KEY._replace(port=0), 4) is None
    assert it.take(KEY._replace(port=1), 4) is links[1]


def test_the_oldest_of_all_makes_way_for_somebody() -> None:
    kept = pool()
    first, second = link(), link(OTHER_KEYS["port"])
    for number, each in enumerate((first, second)):
        kept.keep(each, float(number))
    assert (kept.oldest(), kept.oldest(), kept.oldest()) == (first, second, None)
    assert kept.take(KEY, 1.0) is None


def test_lost_while_idle() -> None:
    it, one, two = pool(), link(), link()
    it.keep(one, 0)
    it.keep(two, 0)
    assert it.remove(two)
    assert not it.remove(two)
    assert it.take(KEY, 0) is one


def test_a_taken_one_is_kept_anew_from_now() -> None:
    it, one = pool(idle=5), link()
    it.keep(one, 0)
    it.take(KEY, 4)
    it.keep(one, 4)
    assert it.expired(5) == []
    assert it.expired(9) == [one]


def test_the_end() -> None:
    it, one, two = pool(), link(), link(KEY._replace(port=26))
    it.keep(one, 0)
    it.keep(two, 0)
    assert it.clear() == [one, two]
    assert it.take(KEY, 0) is None
    assert it.clear() == []
