"""Limits and rules on the real client, behind one load balancer, with a real mail server that sees who got in."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from lab.namespaces import BALANCER, BALANCER6, POD, POD6
from lab.policies import listener, through
from lab.servers import postfix
from lab.servers.balancers import Forward
from lab.snippets import snippet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.conversation import Conversation
    from lab.laboratory import Lab
    from lab.servers.sidecar import Sidecar

pytestmark = pytest.mark.real

CLIENT, OTHER = "192.0.2.10", "192.0.2.11"


def behind_haproxy(lab: Lab, **fields: Any) -> Sidecar:
    sidecar = lab.sidecar({"inbound": [listener(**fields)]})
    lab.haproxy(
        Forward(bind=(BALANCER, 25), to=(POD, 25), check=True),
        Forward(bind=(BALANCER6, 25), to=(POD6, 25), check=True),
    )
    return sidecar


def call(lab: Lab, source: str) -> Conversation:
    return lab.outside.talk((BALANCER6 if ":" in source else BALANCER, 25), source=source)


def attempts(lab: Lab, sources: Sequence[str]) -> list[int]:
    """One connection after another, each closed before the next: how they were greeted."""
    codes = []
    for source in sources:
        with call(lab, source) as client:
            codes.append(client.reply().code)
    return codes


def test_connections_of_one_client_at_once(lab: Lab) -> None:
    server = lab.postfix(master=snippet("postfix-proxyv2"))
    sidecar = behind_haproxy(lab, limits={"connectionsPerClient": 2})
    with call(lab, CLIENT) as first, call(lab, CLIENT) as second:
        first.expect(220)
        second.expect(220)
        with call(lab, CLIENT) as third:
            assert third.expect(421).text == (
                f"4.7.0 mail.example.org Too many connections at once from {CLIENT}: 2 allowed, "
                "try again when one of them has ended"
            )
        with call(lab, OTHER) as other:
            other.expect(220)
        second.command("QUIT", 221)
        second.close()
        sidecar.log.wait_for(rf" closed H=\[{CLIENT}\]")
        with call(lab, CLIENT) as third:
            third.expect(220)
    sidecar.log.wait_for(rf' refused H=\[{CLIENT}\]:\d+ PRX={BALANCER} R=connections_per_client C="421 4\.7\.0 ')
    assert sidecar.metric("postern_inbound_limited_total", kind="connections_per_client") == 1
    assert len(server.log.matches(rf"smtpd\[\d+\]: connect from unknown\[{CLIENT}\]")) == 3


def test_the_rate_of_one_client(lab: Lab) -> None:
    """Exim's strict ratelimit: of eight at once five get in, the refused ones count, and nobody else suffers."""
    server = lab.postfix(master=snippet("postfix-proxyv2"))
    sidecar = behind_haproxy(lab, limits={"ratePerClient": {"connections": 5, "per": "1h"}})
    assert attempts(lab, [CLIENT] * 8) == [220] * 5 + [421] * 3
    assert attempts(lab, [OTHER]) == [220]
    refused = rf' refused H=\[{CLIENT}\]:\d+ PRX={BALANCER} R=rate_per_client C="421 .* ([0-9.]+) per 1h, 5 allowed, '
    sidecar.log.wait_for(refused, times=3)
    assert [match[1] for match in sidecar.log.matches(refused)] == ["6.0", "7.0", "8.0"]
    assert len(server.log.matches(rf"smtpd\[\d+\]: connect from unknown\[{CLIENT}\]")) == 5


def test_the_most_specific_override_wins_field_by_field(lab: Lab) -> None:
    lab.postfix(master=snippet("postfix-proxyv2"))
    one_an_hour, three = {"connections": 1, "per": "1h"}, {"connections": 3, "per": "1h"}
    overrides = [
        {"clients": ["203.0.113.0/24"], "ratePerClient": three},
        {"clients": ["203.0.113.64/26", "2001:db8:5::/48"], "ratePerClient": {"connections": 2, "per": "1h"}},
        {"clients": ["203.0.113.65"], "connectionsPerClient": 1000},
    ]
    behind_haproxy(lab, limits={"ratePerClient": one_an_hour, "overrides": overrides})
    admitted = {
        source: attempts(lab, [source] * 4).count(220)
        for source in ("192.0.2.10", "203.0.113.7", "203.0.113.64", "203.0.113.65", "2001:db8:5::1", "2001:db8:6::1")
    }
    assert admitted == {
        "192.0.2.10": 1,
        "203.0.113.7": 3,
        "203.0.113.64": 2,
        "203.0.113.65": 1,  # its own override says nothing of the rate: that of `limits` holds
        "2001:db8:5::1": 2,
        "2001:db8:6::1": 1,
    }


def test_an_ipv6_client_is_its_64(lab: Lab) -> None:
    lab.postfix(master=snippet("postfix-proxyv2"))
    sidecar = behind_haproxy(lab, limits={"ratePerClient": {"connections": 2, "per": "1h"}})
    same = ["2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:1:ffff::3", "2001:db8:0:2::1"]
    assert attempts(lab, same) == [220, 220, 421, 220]
    sidecar.log.wait_for(
        r"R=rate_per_client C=\"421 4\.7\.0 \S+ Too many connections from 2001:db8:0:1::/64: 3\.0 per 1h"
    )


def test_limits_of_clients_are_not_the_balancers(lab: Lab) -> None:
    lab.postfix(master=snippet("postfix-proxyv2"))
    strict = {"connectionsPerClient": 1, "ratePerClient": {"connections": 1, "per": "1h"}}
    behind_haproxy(lab, limits=strict)
    with contextlib.ExitStack() as stack:
        for number in range(1, 21):  # twenty clients at once through the one load balancer
            stack.enter_context(call(lab, f"198.51.100.{number}")).expect(220)


CONNECT_ACL = [
    {
        "name": "failed-proxy",
        "when": "proxy_session && proxy_host_address == ''",
        "action": "Log",
        "message": "Failed required proxy protocol negotiation from ${sender_host_name} [${sender_host_address}]",
    },
    {
        "name": "proxied",
        "when": "proxy_session && proxy_host_address != '' && proxy_host_address != sender_host_address",
        "action": "Log",
        "message": "Successfully proxied from ${sender_host_name} [${sender_host_address}] "
        "through proxy protocol host ${proxy_host_address}",
    },
    {
        "name": "possibly-more-clear",
        "when": "true",
        "action": "Log",
        "message": "Remote Source Address: ${sender_host_address}:${sender_host_port} "
        "Proxy Target Address: ${proxy_target_address}:${proxy_target_port} "
        "Proxy Internal Address: ${proxy_host_address}:${proxy_host_port} "
        "Internal Server Address: ${received_ip_address}:${received_port}",
    },
]


def test_the_connect_acl_of_2014_before_exim(lab: Lab) -> None:
    lab.nameserver({CLIENT: "client.example.net", BALANCER: "balancer.example.org"})
    server = lab.exim(main=snippet("exim-proxyv2"))
    sidecar = behind_haproxy(lab, rules=CONNECT_ACL, limits={"ratePerClient": {"connections": 5, "per": "5s"}})
    with call(lab, CLIENT) as client:
        port = client.address[1]
        client.deliver()
    server.log.wait_for(rf"<= \S+ H=client\.example\.net \(client\.test\) \[{CLIENT}\] .*PRX=127\.0\.0\.1")
    sidecar.log.wait_for(
        rf" H=client\.example\.net \[{CLIENT}\]:{port} Warning: Successfully proxied from client\.example\.net "
        rf"\[{CLIENT}\] through proxy protocol host {BALANCER}$"
    )
    sidecar.log.wait_for(
        rf" Warning: Remote Source Address: {CLIENT}:{port} Proxy Target Address: {BALANCER}:25 "
        rf"Proxy Internal Address: {BALANCER}:\d+ Internal Server Address: {POD}:25$"
    )
    assert not sidecar.log.matches("Failed required")
    with lab.outside.talk((POD, 25), source=BALANCER) as client:
        client.send("EHLO forgotten\r\n")
        client.expect(421)
    sidecar.log.wait_for(
        rf" H=\[{BALANCER}\]:\d+ Warning: Failed required proxy protocol negotiation from  \[{BALANCER}\]$"
    )
    assert not server.log.matches(BALANCER)
    with lab.outside.talk((POD, 25), source="192.0.2.12") as client:  # no load balancer: neither of the two
        client.deliver()
    server.log.wait_for(r"<= \S+ H=\(client\.test\) \[192\.0\.2\.12\]")
    assert sidecar.metric("postern_inbound_rule_hits_total", rule="failed-proxy", action="Log") == 1
    assert sidecar.metric("postern_inbound_rule_hits_total", rule="proxied", action="Log") == 1


NAMED = [
    {
        "name": "dynamic",
        "when": "sender_host_name.matches('^dyn-')",
        "action": "Refuse",
        "message": "${sender_host_name} is a dynamic address",
    },
    {
        "name": "nameless",
        "when": "sender_host_name == '' && !in_network(sender_host_address, ['198.51.100.0/24'])",
        "action": "Defer",
        "message": "[${sender_host_address}] has no name that leads back to it",
    },
]


def test_rules_on_verified_names(lab: Lab) -> None:
    """The name that counts leads back: a liar's does not, and a name server that fails is no name either."""
    lab.nameserver(
        {"192.0.2.1": "mx.example.net", "192.0.2.2": "dyn-2.example.net", "192.0.2.3": "mx.example.net"},
        hosts={"mx.example.net": ["192.0.2.1"], "dyn-2.example.net": ["192.0.2.2"]},
        failing=["192.0.2.4"],
    )
    server = lab.postfix(master=snippet("postfix-proxyv2"))
    sidecar = behind_haproxy(lab, rules=NAMED)
    replies = {}
    for last in (1, 2, 3, 4, 5):
        with call(lab, f"192.0.2.{last}") as client:
            replies[last] = client.reply()
    with call(lab, "198.51.100.1") as client:
        client.expect(220)
    assert replies[1].code == 220
    assert replies[2] == (554, "5.7.1 dyn-2.example.net is a dynamic address")
    for last in (3, 4, 5):
        assert replies[last] == (421, f"4.7.0 mail.example.org [192.0.2.{last}] has no name that leads back to it")
    sidecar.log.wait_for(
        r' refused H=dyn-2\.example\.net \[192\.0\.2\.2\]:\d+ .* R=rule C="554 .*" detail="rule dynamic"'
    )
    assert sidecar.metric("postern_inbound_rule_hits_total", rule="nameless", action="Defer") == 3
    seen = {match[1] for match in server.log.matches(r"smtpd\[\d+\]: connect from \S+\[(.*)\]")}
    assert seen - {"127.0.0.1"} == {"192.0.2.1", "198.51.100.1"}  # 127.0.0.1: the sidecar itself, for a check


def test_a_name_server_that_is_down_holds_nobody_up(lab: Lab) -> None:
    lab.postfix(master=snippet("postfix-proxyv2"))
    sidecar = lab.sidecar({"inbound": [listener(rules=NAMED)]})
    with through(lab.outside, CLIENT) as client:
        client.expect(421)
    sidecar.log.wait_for(r' refused .* R=rule .* detail="rule nameless"')
    with through(lab.outside, "198.51.100.1") as client:
        client.deliver()
    took = sidecar.log.wait_for(r" closed H=\[198\.51\.100\.1\].* D=(\d+\.\d+)s")[1]
    assert float(took) < 2.5


def test_a_name_that_no_decision_needs_holds_nobody_up(lab: Lab) -> None:
    """+host_lookup: the session goes on while the name is looked up, and the line waits for it."""
    lab.nameserver({CLIENT: "client.example.net"})
    lab.postfix(master=snippet("postfix-proxyv2"))
    sidecar = lab.sidecar({"inbound": [listener()], "logging": {"selectors": ["+proxy", "+host_lookup"]}})
    with through(lab.outside, CLIENT) as client:
        client.deliver()
    sidecar.log.wait_for(rf" connect H=client\.example\.net \[{CLIENT}\]:40211 ")


def test_a_mail_server_that_anybody_can_reach_is_said(lab: Lab) -> None:
    lab.postfix(master="2525 inet n - n - - smtpd\n  -o smtpd_upstream_proxy_protocol=haproxy\n")
    sidecar = lab.sidecar({"inbound": [listener()]})
    said = sidecar.log.wait_for(r" backend_exposed name=smtp message=\"(.*)\"")[1]
    assert "port 2525 is open on 10.0.9.12, fd00:9::12" in said
    assert "loopback only" in said
    assert sidecar.metric("postern_inbound_backend_exposed", listener="smtp") == 1


def test_a_mail_server_on_loopback_is_not_exposed(lab: Lab) -> None:
    lab.postfix(master=postfix.service(2525, smtpd_upstream_proxy_protocol="haproxy"))
    sidecar = lab.sidecar({"inbound": [listener()]})
    with through(lab.outside, CLIENT) as client:
        client.deliver()
    assert sidecar.metric("postern_inbound_backend_exposed", listener="smtp") == 0
    assert not sidecar.log.matches("backend_exposed")
