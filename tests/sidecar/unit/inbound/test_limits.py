"""Limits: who is counted with whom, when a client is refused, what it is told, and how much may be remembered."""

from __future__ import annotations

import tracemalloc
from ipaddress import IPv6Address, ip_address, ip_network
from itertools import count
from math import exp
from typing import Any

import msgspec
import pytest

from postern_sidecar.config.model import Limits
from postern_sidecar.inbound import limits as module
from postern_sidecar.inbound.limits import MAX_CLIENTS, Limiter, LimitHit, LimitKind, text
from postern_sidecar.inbound.networks import NetworkSet

A = ip_address("192.0.2.1")
B = ip_address("192.0.2.2")
SIX = ip_address("2001:db8::1")
SIX_NEAR = ip_address("2001:db8::ffff:ffff:ffff:ffff")
SIX_FAR = ip_address("2001:db8:0:1::1")
RATE = {"connections": 5, "per": "5s"}


def limits(**fields: Any) -> Limits:
    return msgspec.convert(fields, Limits, dec_hook=lambda kind, value: kind(value))


def limiter(max_clients: int = MAX_CLIENTS, exempt: str = "", **fields: Any) -> Limiter:
    return Limiter(limits(**fields), NetworkSet([ip_network(exempt)] if exempt else []), max_clients)


def kind(hit: LimitHit | None) -> str | None:
    return hit.kind.value if hit else None


class TestConnections:
    def test_sockets_count_from_the_first_moment(self) -> None:
        it = limiter(connections=2)
        assert it.accept() is None
        assert it.accept() is None
        assert it.accept() == LimitHit(LimitKind.CONNECTIONS, 2, 2)
        it.close()
        assert it.accept() is None

    def test_sessions_are_held_to_the_same_number(self) -> None:
        it = limiter(connections=2, exempt="192.0.2.2/32")
        assert it.admit(A, 0) is None
        assert it.admit(B, 0) is None
        assert kind(it.admit(SIX, 0)) == "connections"
        it.release(B)
        assert it.admit(SIX, 0) is None

    def test_a_full_listener_is_not_held_against_the_client(self) -> None:
        it = limiter(connections=1, ratePerClient={"connections": 1, "per": "1h"})
        it.admit(B, 0)
        assert kind(it.admit(A, 1)) == "connections"
        it.release(B)
        assert it.admit(A, 2) is None


class TestConnectionsPerClient:
    def test_refused_at_the_limit_until_one_has_ended(self) -> None:
        it = limiter(connectionsPerClient=2)
        assert [it.admit(A, 0) for _ in range(2)] == [None, None]
        assert it.admit(A, 0) == LimitHit(LimitKind.CONNECTIONS_PER_CLIENT, 2, 3, prefix=32)
        assert it.admit(B, 0) is None
        it.release(A)
        assert it.admit(A, 0) is None
        assert it.sessions == 3

    @pytest.mark.parametrize(
        ("first", "second", "prefix", "together"),
        [
            (A, B, {}, False),
            (A, B, {"ipv4": 24}, True),
            (SIX, SIX_NEAR, {}, True),
            (SIX, SIX_FAR, {}, False),
            (SIX, SIX_FAR, {"ipv6": 48}, True),
            (SIX, SIX_NEAR, {"ipv6": 128}, False),
            (ip_address("0.0.0.1"), ip_address("::1"), {"ipv6": 128}, False),  # equal numbers, two families
            (ip_address("255.255.255.255"), ip_address("::"), {}, False),
        ],
    )
    def test_a_client_is_its_prefix(self, first: Any, second: Any, prefix: dict[str, int], together: bool) -> None:
        it = limiter(connectionsPerClient=1, clientPrefix=prefix)
        assert it.admit(first, 0) is None
        assert kind(it.admit(second, 0)) == ("connections_per_client" if together else None)

    def test_nothing_is_remembered_of_a_client_that_has_gone(self) -> None:
        it = limiter(connectionsPerClient=2)
        it.admit(A, 0)
        assert it.clients == 1
        it.release(A)
        assert it.clients == 0

    def test_without_limits_nobody_is_remembered(self) -> None:
        it = limiter()
        assert all(it.admit(A, 0) is None for _ in range(100))
        assert it.clients == 0

    def test_releasing_what_was_not_admitted_is_a_bug(self) -> None:
        with pytest.raises(KeyError):
            limiter().release(A)


def exim(times: list[float], limit: float, per: float) -> list[bool]:
    """Exim's `ratelimit`, strict, written down from its specification: True where it defers."""
    rate, last, refused = 0.0, None, []
    for now in times:
        if last is None:
            rate = 1.0
        else:
            a = exp(-(now - last) / per)
            rate = max(1.0, (1 - a) * per / (now - last) + a * rate)
        last = now
        refused.append(rate > limit)
    return refused


class TestRate:
    @pytest.mark.parametrize(
        "times",
        [
            [n * 0.001 for n in range(12)],
            [n * 0.5 for n in range(12)],
            [n * 1.1 for n in range(30)],
            [n * 0.9 for n in range(30)],
            [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 9.0, 9.1, 30.0, 30.1],
        ],
    )
    def test_it_is_exims(self, times: list[float]) -> None:
        it = limiter(ratePerClient=RATE)
        hits = []
        for now in times:
            hit = it.admit(A, now)
            hits.append(hit is not None)
            if hit is None:
                it.release(A)
        assert hits == exim(times, 5, 5)
        assert any(hits) or times[1] > 1

    def test_a_burst_at_one_instant(self) -> None:
        it = limiter(ratePerClient=RATE)
        assert [kind(it.admit(A, 7.0)) for _ in range(7)] == [None] * 5 + ["rate_per_client"] * 2

    def test_a_clock_that_goes_back_is_one_that_stands(self) -> None:
        it = limiter(ratePerClient=RATE)
        assert [kind(it.admit(A, 7.0 - n)) for n in range(6)] == [None] * 5 + ["rate_per_client"]

    def test_refused_attempts_count(self) -> None:
        """Whoever keeps trying twice a second stays out for ever; windows would let it in again."""
        it = limiter(ratePerClient=RATE)
        hits = [it.admit(A, n * 0.5) for n in range(100)]
        assert None not in hits[10:]

    def test_attempts_refused_for_other_reasons_count_too(self) -> None:
        it = limiter(ratePerClient=RATE, connectionsPerClient=1)
        kinds = [kind(it.admit(A, 0)) for _ in range(6)]
        assert kinds == [None] + ["connections_per_client"] * 5
        it.release(A)
        assert kind(it.admit(A, 0)) == "rate_per_client"

    @pytest.mark.parametrize("limit", [1, 2, 5, 100])
    @pytest.mark.parametrize("attempts", [2, 7, 300])
    def test_whoever_comes_back_as_told_is_let_in(self, limit: int, attempts: int) -> None:
        it = limiter(ratePerClient={"connections": limit, "per": "10s"})
        hits = [it.admit(A, n * 0.01) for n in range(attempts)]
        hit = hits[-1]
        if hit is None:
            assert attempts <= limit
            return
        assert hit.retry_after is not None
        last = (attempts - 1) * 0.01
        early = limiter(ratePerClient={"connections": limit, "per": "10s"})
        early.adopt(it)
        assert early.admit(A, last + hit.retry_after * 0.5) is not None
        assert it.admit(A, last + hit.retry_after) is None


class TestOverrides:
    OVERRIDES = (
        {"clients": ["192.0.2.0/24"], "connectionsPerClient": 2},
        {"clients": ["192.0.2.2"], "ratePerClient": {"connections": 3, "per": "1h"}},
        {"clients": ["2001:db8::/32", "198.51.100.0/24"], "connectionsPerClient": 4},
    )

    @pytest.mark.parametrize(
        ("client", "allowed", "by"),
        [
            ("203.0.113.1", 1, "connections_per_client"),
            ("192.0.2.1", 2, "connections_per_client"),
            ("192.0.2.2", 1, "connections_per_client"),  # the most specific network, and else `limits`
            ("2001:db8::1", 4, "connections_per_client"),
            ("198.51.100.9", 4, "connections_per_client"),
        ],
    )
    def test_the_most_specific_replaces_field_by_field(self, client: str, allowed: int, by: str) -> None:
        it = limiter(connectionsPerClient=1, overrides=self.OVERRIDES)
        kinds = [kind(it.admit(ip_address(client), 0)) for _ in range(allowed + 1)]
        assert kinds == [None] * allowed + [by]

    def test_a_field_that_only_the_override_has(self) -> None:
        it = limiter(overrides=self.OVERRIDES)
        kinds = []
        for _ in range(4):
            kinds.append(kind(it.admit(B, 0)))
            if kinds[-1] is None:
                it.release(B)
        assert kinds == [None] * 3 + ["rate_per_client"]

    @pytest.mark.parametrize("exempt", ["", "192.0.2.9"])
    def test_who_has_no_limit_gives_nothing_back_of_who_has(self, exempt: str) -> None:
        """One prefix, where only some have a limit: sessions that were not counted are not taken off either."""
        only = [{"clients": ["192.0.2.0/30"], "connectionsPerClient": 1}]
        it = limiter(overrides=only, clientPrefix={"ipv4": 24}, exempt=exempt)
        assert it.admit(A, 0) is None
        unlimited = ip_address("192.0.2.9")
        for _ in range(2):
            assert it.admit(unlimited, 0) is None
            it.release(unlimited)
        assert kind(it.admit(A, 0)) == "connections_per_client"

    def test_clients_of_an_override_are_counted_per_prefix(self) -> None:
        it = limiter(overrides=self.OVERRIDES, clientPrefix={"ipv4": 32})
        first, second = ip_address("198.51.100.1"), ip_address("198.51.100.2")
        assert [it.admit(first, 0) for _ in range(4)] == [None] * 4
        assert it.admit(second, 0) is None

    def test_one_that_says_nothing_leaves_the_limits_as_they_are(self) -> None:
        overrides = ({"clients": ["192.0.2.0/24"], "connectionsPerClient": 1}, {"clients": ["192.0.2.2"]})
        it = limiter(overrides=overrides)
        assert [it.admit(B, 0) for _ in range(3)] == [None] * 3


def test_a_load_balancer_is_not_a_client() -> None:
    it = limiter(exempt="192.0.2.1/32", connectionsPerClient=1, ratePerClient={"connections": 1, "per": "1h"})
    assert [it.admit(A, 0) for _ in range(10)] == [None] * 10
    assert it.clients == 0
    assert [kind(it.admit(B, 0)) for _ in range(2)] == [None, "connections_per_client"]
    it.release(A)
    assert it.sessions == 10


class TestReload:
    def test_running_sessions_survive(self) -> None:
        old = limiter(connectionsPerClient=2)
        for address in (A, A, B):
            old.accept()
            old.admit(address, 0)
        new = limiter(connections=3, connectionsPerClient=2)
        new.adopt(old)
        assert kind(new.accept()) == "connections"
        new.release(B)
        assert kind(new.admit(A, 0)) == "connections_per_client"
        new.release(A)
        assert new.admit(A, 0) is None

    @pytest.mark.parametrize(
        ("before", "after", "then"),
        [
            ({}, {"connectionsPerClient": 2}, "connections_per_client"),  # there was no limit to count for
            ({"connectionsPerClient": 9, "clientPrefix": {"ipv4": 24}}, {"connectionsPerClient": 2}, None),
            (
                {"connectionsPerClient": 9},
                {"connectionsPerClient": 2, "clientPrefix": {"ipv4": 24}},
                "connections_per_client",
            ),
            ({"connectionsPerClient": 1}, {}, None),
        ],
    )
    def test_they_are_counted_by_the_new_limits(self, before: Any, after: Any, then: str | None) -> None:
        old = limiter(**before)
        addresses = (A, B, SIX, SIX_FAR) if before.get("connectionsPerClient") != 9 else (A, B)
        for address in (*addresses, *(() if "connectionsPerClient" in before else (A,))):
            assert old.admit(address, 0) is None
        new = limiter(**after)
        new.adopt(old)
        assert kind(new.admit(A, 1)) == then
        for address in addresses:
            new.release(address)

    def test_rates_go_on_where_nothing_about_them_changed(self) -> None:
        old = limiter(ratePerClient=RATE)
        for _ in range(5):
            old.admit(A, 0)
            old.admit(B, 0)
        for _ in range(5):
            old.release(A)
        new = limiter(ratePerClient=RATE, connections=99)
        new.adopt(old)
        assert kind(new.admit(A, 0)) == "rate_per_client"
        assert kind(new.admit(B, 0)) == "rate_per_client"

    def test_rates_of_another_kind_do_not(self) -> None:
        old = limiter(ratePerClient=RATE)
        for _ in range(5):
            old.admit(A, 0)
        new = limiter(ratePerClient={"connections": 5, "per": "1m"})
        new.adopt(old)
        assert new.admit(A, 0) is None

    def test_a_smaller_table_stays_bounded(self) -> None:
        old = limiter(ratePerClient=RATE)
        for n in range(10):
            address = IPv6Address(n << 64)
            old.admit(address, 0)
            if n:
                old.release(address)
        new = limiter(4, ratePerClient=RATE)
        new.adopt(old)
        assert (new.clients, new.evictions, new.sessions) == (4, 6, 1)


class TestBound:
    def test_the_least_recently_seen_without_a_session_goes(self) -> None:
        it = limiter(3, ratePerClient={"connections": 1, "per": "1h"})
        first, second, third, fourth, fifth = (IPv6Address(n << 64) for n in range(5))
        assert it.admit(first, 0) is None  # has a session: stays
        for address in (second, third):
            assert it.admit(address, 0) is None
            it.release(address)
        assert kind(it.admit(second, 1)) == "rate_per_client"  # seen again: third is the oldest now
        assert it.admit(fourth, 2) is None
        it.release(fourth)
        assert (it.clients, it.evictions) == (3, 1)
        assert [kind(it.admit(address, 3)) for address in (first, second, fourth)] == ["rate_per_client"] * 3
        assert it.admit(third, 3) is None  # forgotten, so let in, in place of second
        assert it.evictions == 2
        it.release(third)
        assert it.admit(second, 4) is None
        assert it.clients == 3
        assert it.admit(fifth, 5) is None

    def test_sessions_of_as_many_clients_as_it_holds(self) -> None:
        it = limiter(2, connections=10, connectionsPerClient=5)
        assert [kind(it.admit(address, 0)) for address in (A, B, SIX)] == [None, None, "connections"]
        assert it.admit(A, 0) is None
        assert (it.clients, it.evictions, it.sessions) == (2, 0, 3)

    def test_an_attacker_who_walks_a_32(self) -> None:
        """/64s of one /32, each once, four tables full: the table ends at its bound, and others are still counted."""
        it = limiter(ratePerClient=RATE, connectionsPerClient=5)
        assert it.admit(A, 0) is None
        network = int(ip_address("2001:db8::"))
        walked = 4 * MAX_CLIENTS
        for n in range(walked):
            address = IPv6Address(network + (n << 64))
            it.admit(address, n * 1e-5)
            it.release(address)
        assert it.clients == MAX_CLIENTS == 65_536
        assert it.evictions == walked + 1 - MAX_CLIENTS
        assert it.sessions == 1
        assert [kind(it.admit(A, 10)) for _ in range(5)] == [None] * 4 + ["connections_per_client"]

    def test_what_a_remembered_client_costs(self) -> None:
        """Also while the table evicts, when its dictionary is at its largest."""
        clients = 1 << 13
        it = limiter(clients, ratePerClient=RATE)
        addresses = [IPv6Address((0x20010DB8 << 96) + (n << 64)) for n in range(3 * clients)]
        tracemalloc.start()
        for address, now in zip(addresses, count(), strict=False):
            it.admit(address, now)
            it.release(address)
        ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, module.__file__)])
        tracemalloc.stop()
        used = sum(statistic.size for statistic in ours.statistics("filename"))
        assert it.clients == clients
        assert 100 < used / clients < 230


@pytest.mark.parametrize(
    ("hit", "client", "said"),
    [
        (
            LimitHit(LimitKind.CONNECTIONS, 1000, 1000),
            A,
            "Too many connections to this server at the moment, try again later",
        ),
        (
            LimitHit(LimitKind.CONNECTIONS_PER_CLIENT, 20, 21, prefix=32),
            A,
            "Too many connections at once from 192.0.2.1: 20 allowed, try again when one of them has ended",
        ),
        (
            LimitHit(LimitKind.CONNECTIONS_PER_CLIENT, 20, 21, prefix=64),
            SIX_NEAR,
            "Too many connections at once from 2001:db8::/64: 20 allowed, try again when one of them has ended",
        ),
        (
            LimitHit(LimitKind.RATE_PER_CLIENT, 5, 6.04, 2.03, 24, "5s"),
            A,
            "Too many connections from 192.0.2.0/24: 6.0 per 5s, 5 allowed, try again in 3 s",
        ),
        (
            LimitHit(LimitKind.RATE_PER_CLIENT, 5, 5.1, 0.01, 32, "1m"),
            A,
            "Too many connections from 192.0.2.1: 5.1 per 1m, 5 allowed, try again in 1 s",
        ),
    ],
)
def test_the_sender_is_told_whom_what_and_when(hit: LimitHit, client: Any, said: str) -> None:
    assert text(hit, client) == said
