"""Transparent where something is missing: the client comes back later, and the log says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.namespaces import POD
from lab.policies import listener, through
from lab.servers import postfix

if TYPE_CHECKING:
    from lab.laboratory import Lab

pytestmark = pytest.mark.real

CLIENT, CLIENT6 = "192.0.2.10", "2001:db8::10"
NOT_NOW = b"421 4.3.2 mail.example.org service not available, try again later\r\n"
LISTENER = listener("Transparent", timeouts={"backendConnect": "300ms"})
BOTH = postfix.service(2525) + postfix.service(2525, "::1")


@pytest.mark.parametrize("client", [CLIENT, CLIENT6])
def test_without_net_raw(lab: Lab, client: str) -> None:
    lab.route_transparent()
    server = lab.postfix(master=BOTH)
    sidecar = lab.sidecar({"inbound": [LISTENER]})
    with through(lab.outside, client) as talk:
        assert talk.rest() == NOT_NOW
    sidecar.log.wait_for(rf' refused H=\[{client}\]:40211 .* R=no_permission C="421 .*" detail=".*NET_RAW.*"')
    assert not server.log.matches("connect from")


@pytest.mark.parametrize("client", [CLIENT, CLIENT6])
def test_without_the_routing_rules(lab: Lab, client: str) -> None:
    lab.postfix(master=BOTH)
    sidecar = lab.sidecar({"inbound": [LISTENER]}, net_raw=True)
    with through(lab.outside, client) as talk:
        assert talk.rest() == NOT_NOW
    sidecar.log.wait_for(rf' refused H=\[{client}\]:40211 .* R=backend_timeout C="421 .*" detail=".*routing rules.*"')
    assert sidecar.metric("postern_inbound_connections_total", outcome="backend_failed") == 1


def test_a_server_that_listens_on_one_family_only(lab: Lab) -> None:
    lab.route_transparent()
    server = lab.postfix(master=postfix.service(2525))
    sidecar = lab.sidecar({"inbound": [LISTENER]}, net_raw=True)
    with through(lab.outside, CLIENT6) as talk:
        assert talk.rest() == NOT_NOW
    sidecar.log.wait_for(rf' refused H=\[{CLIENT6}\]:40211 .* R=backend_refused C="421 .*" detail=".*address6.*"')
    with through(lab.outside, CLIENT) as talk:
        talk.deliver()
    (message,) = server.received()
    assert f"[{CLIENT}]" in message["Received"]


def test_the_servers_port_is_the_clients_own_where_that_is_free(lab: Lab) -> None:
    """Two sessions of one identity: the first keeps the port, the second still has the address."""
    lab.route_transparent()
    server = lab.postfix(master=BOTH, main="smtpd_client_port_logging = yes\n")
    lab.sidecar({"inbound": [LISTENER]}, net_raw=True)
    with through(lab.outside, CLIENT) as first, through(lab.outside, CLIENT) as second:
        first.expect(220)
        second.expect(220)
    server.log.wait_for(rf" connect from unknown\[{CLIENT}\]:40211$")
    server.log.wait_for(rf" connect from unknown\[{CLIENT}\]:(?!40211$)\d+$")


def test_a_client_that_comes_without_a_balancer(lab: Lab) -> None:
    """Its own connection to the sidecar stands, and the one to the server has the same source."""
    lab.route_transparent()
    server = lab.postfix(master=BOTH, main="smtpd_client_port_logging = yes\n")
    lab.sidecar({"inbound": [LISTENER]}, net_raw=True)
    with lab.outside.talk((POD, 25), source=CLIENT) as talk:
        port = talk.address[1]
        talk.deliver()
    server.log.wait_for(rf" connect from unknown\[{CLIENT}\]:{port}$")
