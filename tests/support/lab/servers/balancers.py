"""The load balancers of the laboratory: HAProxy, which speaks both versions and checks; nginx, which sends v1."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Literal

from .. import trees
from ..namespaces import BALANCER, BALANCER6, Namespaces
from ..program import Process, Program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..host import Address

HAPROXY = """\
global
  log stdout format raw local0
defaults
  mode tcp
  log global
  option tcplog
  timeout connect 5s
  timeout client 1m
  timeout server 1m
"""

NGINX = """\
daemon off;
error_log stderr info;
pid /run/nginx.pid;
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
events { worker_connections 4096; }
stream {
  log_format plain '$remote_addr -> $upstream_addr $status';
  access_log /dev/stdout plain;
"""


@dataclass(frozen=True, kw_only=True)
class Forward:
    """One port of a load balancer."""

    bind: Address
    to: Address
    send: Literal["v1", "v2"] | None = "v2"
    check: bool = False  # HAProxy: every 100 ms, on v2 with a LOCAL header
    options: str = ""  # HAProxy: more words on the server's line, such as "proxy-v2-options crc32c,unique-id"
    accept: str = ""  # HAProxy: more words on the bind line, such as "ssl crt /etc/ssl/mail.pem"
    settings: str = ""  # HAProxy: more lines for this port, such as "option smtpchk"


def _joined(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _source(to: Address) -> str:
    """The balancer's own address towards the pod; on one host the kernel's choice is right."""
    address = ip_address(to[0])
    if address.is_loopback:
        return ""
    return BALANCER6 if address.version == 6 else BALANCER


def haproxy(lab: Namespaces, etc: Mapping[str, str], forwards: Sequence[Forward], *, host: str) -> Process:
    config = HAPROXY
    for number, forward in enumerate(forwards):
        options = {"v1": " send-proxy", "v2": " send-proxy-v2", None: ""}[forward.send]
        if forward.check:
            options += " check inter 100ms" + (" check-send-proxy" if forward.send else "")
        options += f" {forward.options}"
        if source := _source(forward.to):
            options += f" source {_joined((source, 0))}"
        config += f"listen port{number}\n  bind {_joined(forward.bind)} {forward.accept}\n{forward.settings}\n"
        config += f"  server backend {_joined(forward.to)}{options}\n"
    program = Program(
        argv=["haproxy", "-db", "-f", "/etc/haproxy/haproxy.cfg"],
        host=host,
        trees=[trees.tree("haproxy")],
        files={**etc, "/etc/haproxy/haproxy.cfg": config},
    )
    return _listening(lab, program, "haproxy", forwards)


def nginx(lab: Namespaces, etc: Mapping[str, str], forwards: Sequence[Forward], *, host: str) -> Process:
    config = NGINX
    for forward in forwards:
        if forward.send == "v2" or forward.check or forward.options or forward.accept or forward.settings:
            raise ValueError("nginx's stream module sends version 1 and makes no checks")
        config += f"  server {{ listen {_joined(forward.bind)}; proxy_pass {_joined(forward.to)};"
        config += " proxy_protocol on;" if forward.send else ""
        config += f" proxy_bind {source}; }}\n" if (source := _source(forward.to)) else " }\n"
    program = Program(
        argv=["nginx", "-c", "/etc/nginx/nginx.conf"],
        host=host,
        trees=[trees.tree("nginx")],
        empty=["/run", "/var/lib", "/var/log"],
        folders=[("/var/lib/nginx", "www-data", 0o755), ("/var/log/nginx", "www-data", 0o755)],
        files={**etc, "/etc/nginx/nginx.conf": config + "}\n"},
    )
    return _listening(lab, program, "nginx", forwards)


def _listening(lab: Namespaces, program: Program, name: str, forwards: Sequence[Forward]) -> Process:
    process = lab.start(program, name)
    for forward in forwards:
        lab.wait_for_port(process, forward.bind[1], program.host)
    return process
