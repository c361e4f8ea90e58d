"""Durations, addresses and networks: what they come to, and that they compare by meaning."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from postern_sidecar.config.model import Inbound
from postern_sidecar.config.scalars import Duration, IPAddress, Network, Sources
from postern_sidecar.config.source import _converted


@pytest.mark.parametrize(
    ("text", "seconds"), [("3s", 3), ("500ms", 0.5), ("1m30s", 90), ("24h", 86400), ("1h1m1s1ms", 3661.001), ("0s", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration(text).seconds == pytest.approx(seconds)
    assert str(Duration(text)) == text


@pytest.mark.parametrize("text", ["", "3", "s", "3S", "3 s", "-3s", "1.5s", "3s\n", "٣s", "24h1ms", "1" * 33 + "s"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        Duration(text)


def test_the_same_meaning_is_equal() -> None:
    assert {Duration("60s"), Duration("1m"), Duration("60000ms")} == {Duration("1m")}
    assert IPAddress("::ffff:127.0.0.1") == IPAddress("127.0.0.1")
    assert Network("192.0.2.1") == Network("192.0.2.1/32")
    assert Sources("*") != Sources("0.0.0.0/0")
    assert Duration("1m") != "1m"
    assert repr(Duration("1m")) == "Duration('1m')"


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.1", "10.0.0.1/32"),
        ("FD00::/8", "fd00::/8"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ("::/0", "::/0"),
    ],
)
def test_networks(text: str, network: str) -> None:
    assert Network(text).networks == (ip_network(network),)
    assert str(Sources(text)) == text


def test_idle_is_what_the_protocol_needs() -> None:
    least = {"name": "a", "port": 1, "backend": {"port": 2, "handover": "ProxyV2"}}
    assert _converted(least, Inbound).idle == 15 * 60
    assert _converted(least | {"protocol": "IMAP"}, Inbound).idle == 31 * 60
    assert _converted(least | {"protocol": "IMAP", "timeouts": {"idle": "5s"}}, Inbound).idle == 5
