"""`postern-sidecar routes`: what the init container of Transparent runs, against the commands of the documentation."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from lab.policies import listener, through
from lab.program import Program
from lab.servers import postfix
from lab.servers.sidecar import SOURCES

if TYPE_CHECKING:
    from lab.laboratory import Lab
    from lab.program import Process

pytestmark = pytest.mark.real

NET_ADMIN = 12
SHOW = "ip rule; ip -6 rule; ip route show table 123; ip -6 route show table 123"


def routes(lab: Lab, *capabilities: int) -> Process:
    argv = [sys.executable, "-m", "postern_sidecar", "routes"]
    return lab.run(Program(argv=argv, capabilities=capabilities, env={"PYTHONPATH": str(SOURCES)}), check=False)


def shown(lab: Lab) -> list[str]:
    return [line for line in lab.shell(SHOW).log.lines if not line.startswith("+")]


@pytest.mark.parametrize("client", ["192.0.2.10", "2001:db8::10"])
def test_mail_comes_through(client: str, lab: Lab) -> None:
    assert routes(lab, NET_ADMIN).status == 0
    server = lab.postfix(master=postfix.service(2525) + postfix.service(2525, "::1"))
    lab.sidecar({"inbound": [listener("Transparent")]}, net_raw=True)
    with through(lab.outside, client) as talk:
        talk.deliver()
    (message,) = server.received()
    assert client in message["Received"]


def test_the_kernel_has_what_the_documented_commands_make(lab: Lab) -> None:
    """And so it takes them for its own: a second time, nothing is added."""
    assert routes(lab, NET_ADMIN).status == 0
    ours = shown(lab)
    lab.shell("ip rule del table 123; ip -6 rule del table 123; ip route flush table 123; ip -6 route flush table 123")
    assert shown(lab) != ours
    lab.route_transparent()
    assert shown(lab) == ours
    again = routes(lab, NET_ADMIN)
    assert (again.status, again.log.lines) == (0, [])
    assert shown(lab) == ours


def test_without_ipv6(lab: Lab) -> None:
    lab.shell("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
    try:
        assert routes(lab, NET_ADMIN).status == 0
        assert "local default dev lo scope host " in shown(lab)
    finally:
        lab.shell("echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6")


def test_without_the_capability(lab: Lab) -> None:
    process = routes(lab)
    assert process.status == 1
    assert "needs the capability NET_ADMIN" in str(process.log)
