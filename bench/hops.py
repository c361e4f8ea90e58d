"""How HAProxy and Postern are set up: as equals. Both take PROXY v2, hand it on, log each session to a pipe that is
read, and keep count of every client's connections against limits that nobody reaches."""

from __future__ import annotations

import itertools
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from lab import trees
from lab.namespaces import BALANCER
from lab.program import Program
from lab.servers.sidecar import SOURCES, manifest

from .machine import most_sessions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lab.host import Address
    from lab.namespaces import Namespaces
    from lab.program import Process

SINK_PORT = 525  # like every port of the bench below those that connections take for themselves
DEFAULTS = """\
global
  maxconn {sessions}
  log stdout format raw local0
defaults
  mode tcp
  timeout connect 5s
  timeout client 15m
  timeout server 15m
"""

# `session`, not `connection`: only then is src the client's of the header.
HAPROXY = """\
frontend smtp
  bind {host}:{port} accept-proxy
  log global
  option tcplog
  stick-table type ip size 64k expire 1m store conn_cur,conn_rate(5s)
  tcp-request session track-sc0 src
  tcp-request session reject if {{ sc_conn_cur(0) gt 100000 }} || {{ sc_conn_rate(0) gt 1000000 }}
  default_backend mail
backend mail
  server sink 127.0.0.1:{sink} send-proxy-v2
"""

LIMITS = {
    "connections": 100_000,
    "connectionsPerClient": 100_000,
    "ratePerClient": {"connections": 1_000_000, "per": "5s"},
}

RULES = (
    {"name": "failed-proxy", "when": "proxy_failed", "action": "Log", "message": "no proxy header"},
    {
        "name": "blocked",
        "when": 'in_network(sender_host_address, ["203.0.113.0/24"])',
        "action": "Refuse",
        "message": "not from ${sender_host_address}",
    },
)

# The log goes into a pipe, as in a cluster; `cat` reads it on a core of the rest, in a few microseconds a line.
LOGGED = ("sh", "-c", 'mkfifo /run/log && { cat /run/log > /dev/null & } && exec "$@" > /run/log', "sh")

_numbers = itertools.count(1)


def balancer(lab: Namespaces, ways: Mapping[Address, Address]) -> Process:
    """The first hop, the same for every way: a port for each."""
    config = DEFAULTS.format(sessions=most_sessions())
    for number, (entry, to) in enumerate(ways.items()):
        config += f"listen way{number}\n  bind {entry[0]}:{entry[1]}\n"
        config += f"  server x {to[0]}:{to[1]} send-proxy-v2 source {BALANCER}\n"
    process = _haproxy(lab, [], config, host="outside")
    for _, port in ways:
        lab.wait_for_port(process, port, "outside")
    return process


def haproxy(lab: Namespaces, address: Address, core: int) -> Process:
    """What one would use instead of Postern: a second HAProxy in the pod."""
    config = (DEFAULTS + HAPROXY).format(sessions=most_sessions(), host=address[0], port=address[1], sink=SINK_PORT)
    process = _haproxy(lab, _measured(core), config, host="pod")
    lab.wait_for_port(process, address[1], "pod")
    return process


def _measured(core: int) -> list[str]:
    """What stands before a hop's command line: on that core alone."""
    return [*LOGGED, "taskset", "--cpu-list", str(core)]


def _haproxy(lab: Namespaces, prefix: Sequence[str], config: str, *, host: str) -> Process:
    place = "/etc/haproxy/haproxy.cfg"
    argv = [*prefix, "haproxy", "-db", "-q", "-f", place]
    return lab.start(Program(argv=argv, host=host, trees=[trees.tree("haproxy")], files={place: config}), "haproxy")


def postern(lab: Namespaces, address: Address, core: int, rules: Sequence[dict[str, str]]) -> Process:
    folder = lab.folder / f"postern-{next(_numbers)}"
    folder.mkdir()
    config = folder / "policy.json"
    config.write_text(json.dumps(manifest(_policy(address, rules))))
    run = [
        "run",
        "--config",
        str(config),
        "--state-dir",
        str(folder / "state"),
        "--admin",
        f"127.0.0.1:{address[1] + 100}",
    ]
    program = Program(
        argv=[*_measured(core), sys.executable, "-m", "postern_sidecar", *run],
        env={"PYTHONPATH": str(SOURCES), "HOME": os.environ.get("HOME", "/")},
    )
    process = lab.start(program, "postern")
    lab.wait_for_port(process, address[1], "pod")
    return process


def _policy(address: Address, rules: Sequence[dict[str, str]]) -> dict[str, Any]:
    listener = {
        "name": "smtp",
        "port": address[1],
        "backend": {"port": SINK_PORT, "handover": "ProxyV2"},
        "proxyProtocol": {"requiredFrom": [f"{BALANCER}/32"]},
        "limits": LIMITS,
        "rules": list(rules),
    }
    return {"hostname": "mail.example.org", "inbound": [listener]}
