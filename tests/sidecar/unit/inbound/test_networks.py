"""Networks: membership and longest prefix, against a plain reading of the same lists."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postern_sidecar.inbound.networks import NetworkSet, NetworkTable

if TYPE_CHECKING:
    from postern_sidecar.names import Address, IPNetwork

TABLE = NetworkTable(
    (ip_network(network), network)
    for network in (
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.3/32",
        "2001:db8::/32",
        "2001:db8:0:1::/64",
        "2001:db8::1/128",
    )
)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "0.0.0.0/0"),
        ("10.255.255.255", "10.0.0.0/8"),
        ("11.0.0.0", "0.0.0.0/0"),
        ("10.1.2.2", "10.1.0.0/16"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("2001:db8::2", "2001:db8::/32"),
        ("2001:db8:0:1:ffff::", "2001:db8:0:1::/64"),
        ("2001:db9::", None),
        ("::", None),
    ],
)
def test_the_most_specific_network_wins(address: str, network: str | None) -> None:
    assert TABLE.get(ip_address(address)) == network


def test_an_empty_table_knows_nobody() -> None:
    assert NetworkTable[str]().get(ip_address("10.0.0.1")) is None


def test_of_two_values_for_a_network_the_first_counts() -> None:
    network = ip_network("10.0.0.0/8")
    assert NetworkTable([(network, "first"), (network, "second")]).get(ip_address("10.0.0.1")) == "first"


SET = NetworkSet(map(ip_network, ("10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/25", "192.0.2.128/25", "fd00::/8")))


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("9.255.255.255", False),
        ("10.0.0.0", True),
        ("10.1.2.3", True),
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("192.0.2.255", True),
        ("192.0.3.0", False),
        ("0.0.0.0", False),
        ("255.255.255.255", False),
        ("fd12::1", True),
        ("fe00::", False),
        ("::a00:1", False),  # the number of 10.0.0.1, in the other family
    ],
)
def test_membership(address: str, inside: bool) -> None:
    assert (ip_address(address) in SET) is inside


def test_an_empty_set_is_false_and_holds_nobody() -> None:
    assert not NetworkSet()
    assert ip_address("10.0.0.1") not in NetworkSet()
    assert ip_address("::1") not in NetworkSet()
    assert NetworkSet([ip_network("::/0")])
    assert ip_address("10.0.0.1") not in NetworkSet([ip_network("::/0")])


def test_a_mapped_network_is_the_ipv4_network_that_it_stands_for() -> None:
    mapped = ip_network("::ffff:10.0.0.0/104")
    assert ip_address("10.9.9.9") in NetworkSet([mapped])
    assert ip_address("11.0.0.0") not in NetworkSet([mapped])
    assert NetworkTable([(mapped, "ten")]).get(ip_address("10.9.9.9")) == "ten"


# Few addresses with long common prefixes, or hardly an address would lie in a network.
_V4 = st.integers(0, 255).map(lambda n: IPv4Address(0x0A000000 + n * 3))
_V6 = st.integers(0, 255).map(lambda n: IPv6Address((0xFD00 << 112) + (n * 3 << 60)))
_ADDRESSES: st.SearchStrategy[Address] = st.one_of(_V4, _V6)


@st.composite
def _network_lists(draw: st.DrawFn) -> list[IPNetwork]:
    networks: list[IPNetwork] = []
    for address in draw(st.lists(_ADDRESSES, max_size=8)):
        length = draw(st.integers(0, address.max_prefixlen))
        kind = IPv4Network if isinstance(address, IPv4Address) else IPv6Network
        networks.append(kind((int(address), length), strict=False))
    return networks


@given(_network_lists(), st.lists(_ADDRESSES, min_size=1, max_size=8))
def test_both_agree_with_a_linear_search(networks: list[IPNetwork], addresses: list[Address]) -> None:
    members = NetworkSet(networks)
    table = NetworkTable((network, network) for network in networks)
    for address in addresses:
        holding = [network for network in networks if address in network]
        assert (address in members) is bool(holding)
        assert table.get(address) == max(holding, key=lambda n: n.prefixlen, default=None)
