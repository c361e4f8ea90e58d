"""Which addresses are not dialled, and what they are called."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from postern_sidecar.config.model import Outbound
from postern_sidecar.outbound.forbidden import KNOWN, Forbidden

if TYPE_CHECKING:
    from postern_sidecar.names import Address

POD = frozenset(map(ip_address, ["10.0.9.12", "2001:db8::12", "::ffff:10.0.9.13"]))


def forbidden(**fields: Any) -> Forbidden:
    outbound = msgspec.convert(fields, Outbound, dec_hook=lambda kind, value: kind(value))
    return Forbidden(outbound, POD)


REASONS = {
    "127.0.0.1": "loopback address",
    "127.255.255.254": "loopback address",
    "::1": "loopback address",
    "::ffff:127.0.0.1": "loopback address",
    "::127.0.0.1": "loopback address",
    "64:ff9b::127.0.0.1": "loopback address",
    "2002:7f00:1::": "loopback address",
    "0.0.0.0": "unspecified address",
    "0.0.0.1": "unspecified address",
    "::": "unspecified address",
    "::ffff:0.0.0.0": "unspecified address",
    "64:ff9b::": "unspecified address",
    "224.0.0.1": "multicast address",
    "239.255.255.255": "multicast address",
    "255.255.255.255": "multicast address",
    "ff02::1": "multicast address",
    "64:ff9b::224.0.0.1": "multicast address",
    "169.254.169.254": "link-local address",
    "fe80::1": "link-local address",
    "febf::1": "link-local address",
    "10.0.9.12": "own address",
    "10.0.9.13": "own address",
    "::ffff:10.0.9.12": "own address",
    "64:ff9b::10.0.9.12": "own address",
    "2002:a00:90c:1::1": "own address",
    "2001:db8::12": "own address",
    "192.0.2.1": None,
    "10.0.9.14": None,
    "128.0.0.1": None,
    "126.255.255.255": None,
    "1.0.0.0": None,
    "::ffff:192.0.2.1": None,
    "64:ff9b::192.0.2.1": None,
    "2002:c000:201::1": None,
    "2001:db8::13": None,
    "fec0::1": None,
    "fd00::1": None,
}


@pytest.mark.parametrize(("address", "reason"), REASONS.items())
def test_each_address(address: str, reason: str | None) -> None:
    assert forbidden().why(ip_address(address)) == reason


@pytest.mark.parametrize("address", [address for address, reason in REASONS.items() if reason])
def test_what_is_allowed_by_name_may_be_dialled(address: str) -> None:
    assert forbidden(allowAddresses=[address, "203.0.113.9"]).why(ip_address(address)) is None


def test_allowed_networks() -> None:
    it = forbidden(allowAddresses=["127.0.0.0/8"])
    assert it.why(ip_address("127.0.0.5")) is None
    assert it.why(ip_address("::ffff:127.0.0.5")) is None
    assert it.why(ip_address("64:ff9b::127.0.0.5")) is None
    assert it.why(ip_address("::1")) == "loopback address"


def test_addresses_that_the_policy_calls_own() -> None:
    it = forbidden(ownAddresses=["203.0.113.0/29", "2001:db8:1::/48"])
    assert it.why(ip_address("203.0.113.7")) == "own address"
    assert it.why(ip_address("64:ff9b::203.0.113.7")) == "own address"
    assert it.why(ip_address("203.0.113.8")) is None
    assert it.why(ip_address("2001:db8:1::25")) == "own address"
    both = forbidden(ownAddresses=["203.0.113.0/29"], allowAddresses=["203.0.113.7"])
    assert both.why(ip_address("203.0.113.7")) is None


def test_of_the_answers_only_the_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Address] = []
    monkeypatch.setattr(Forbidden, "_why", lambda _, address: asked.append(address))
    it = forbidden()
    addresses = [ip_address(number) for number in range(KNOWN + 1)]
    for address in (*addresses, addresses[-1], addresses[0]):
        it.why(address)
    assert asked == [*addresses, addresses[0]]
