"""Addresses that did not connect, for a minute, and not too many of them."""

from __future__ import annotations

from ipaddress import IPv4Address

from postern_sidecar.names import Endpoint
from postern_sidecar.outbound.memory import Unreachable

HERE = Endpoint(IPv4Address("192.0.2.1"), 25)
SUBMISSION = HERE._replace(port=587)


def test_for_sixty_seconds() -> None:
    it = Unreachable()
    assert it.why(HERE, 0) is None
    it.remember(HERE, "connect_timeout", 100)
    assert it.why(HERE, 159.9) == "connect_timeout"
    assert it.why(SUBMISSION, 159.9) is None
    assert it.why(HERE, 160) is None
    assert len(it) == 0


def test_a_new_failure_counts_anew() -> None:
    it = Unreachable()
    it.remember(HERE, "connect_timeout", 0)
    it.remember(HERE, "connect_refused", 50)
    assert it.why(HERE, 100) == "connect_refused"


def test_who_connects_after_all_is_forgotten() -> None:
    it = Unreachable()
    it.remember(HERE, "connect_timeout", 0)
    it.connected(HERE)
    it.connected(SUBMISSION)
    assert it.why(HERE, 1) is None


def test_the_oldest_is_forgotten_when_there_are_too_many() -> None:
    it = Unreachable(most=3)
    many = [HERE._replace(port=port) for port in range(4)]
    for endpoint in many[:3]:
        it.remember(endpoint, "unreachable", 0)
    it.remember(many[0], "unreachable", 1)  # the youngest now
    it.remember(many[3], "unreachable", 2)
    assert len(it) == 3
    assert [it.why(endpoint, 3) is not None for endpoint in many] == [True, False, True, True]
