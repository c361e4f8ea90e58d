"""Transparent: which server address a client is taken to, and what the log advises where that fails."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from playbook import SENDER, TARGET, Playbook, listener
from postern_sidecar.inbound.events import ClientSent, Connect, ConnectFailed, Event, Happened
from postern_sidecar.names import Endpoint
from postern_sidecar.proxyproto.writer import v2

SENDER6 = Endpoint(ip_address("2001:db8::4"), 40211)
TARGET6 = Endpoint(ip_address("2001:db8::25"), 25)


@pytest.mark.parametrize(
    ("sender", "target", "server"), [(SENDER, TARGET, "127.0.0.1"), (SENDER6, TARGET6, "::1")], ids=["IPv4", "IPv6"]
)
def test_a_client_connects_as_itself_to_the_server_of_its_family(
    sender: Endpoint, target: Endpoint, server: str
) -> None:
    play = Playbook(listener(handover="Transparent"))
    assert Connect(Endpoint(ip_address(server), 2525), sender) in play(ClientSent(v2(sender, target)))


@pytest.mark.parametrize(
    ("failure", "advice"),
    [
        (ConnectFailed("no_permission"), "NET_RAW"),
        (ConnectFailed("backend_refused"), "backend.address6"),
        (Happened.TIMED_OUT, "routing rules"),
        (ConnectFailed("backend_unreachable"), ""),
    ],
)
def test_the_log_names_the_remedy(failure: Event, advice: str) -> None:
    play = Playbook(listener(handover="Transparent"))
    play(ClientSent(v2(SENDER, TARGET)))
    play(failure)
    detail = str(play.records[-1]["detail"])
    assert advice in detail if advice else not detail
