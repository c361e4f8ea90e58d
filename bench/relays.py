"""How Postern, Postfix and Exim are set up to deliver with DANE: each as its documentation has it, each with its log.

Postern's log goes into a pipe that is read, as in a cluster, Postfix's too; Exim writes its own file, in memory.
Postfix and Exim have their spool in memory (tmpfs) or on the disk that the bench was given.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab import trees
from lab.accounts import etc
from lab.program import PATIENCE, Program
from lab.servers.postfix import FOLDERS, MASTER, service
from lab.servers.sidecar import SOURCES, manifest

from .destination import SELF_TEST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lab.laboratory import Lab
    from lab.program import Process

    from .gauges import Group, Groups

LOG = "/run/mail.log"
# `cat` is on a core of the rest and not in the group: what reads a log is not part of what wrote it.
LOGGED = ("sh", "-c", f'mkfifo -m 666 /run/log && {{ cat /run/log > {LOG} & }} && exec "$@" > /run/log 2>&1', "sh")
ON_DISK = ("sh", "-c", 'cp -a /var/spool/. "$0" && mount --bind "$0" /var/spool && exec "$@"')

POSTFIX = """\
compatibility_level = 3.6
maillog_file = /dev/stdout
myhostname = mail.example.org
mydestination =
inet_protocols = all
alias_maps =
alias_database =
mynetworks = 127.0.0.0/8
smtp_dns_support_level = dnssec
smtp_tls_security_level = dane
smtp_tls_loglevel = 1
"""
TUNED = """\
smtp_tls_connection_reuse = yes
initial_destination_concurrency = 20
"""
TLSPROXY = "tlsproxy  unix - - n -   0 tlsproxy\n"

EXIM = """\
primary_hostname = mail.example.org
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
smtp_accept_max = 200
acl_smtp_rcpt = accept
log_file_path = /var/log/exim4/%slog
keep_environment =
dns_dnssec_ok = 1
begin routers
dnslookup:
  driver = dnslookup
  transport = remote_smtp
  dnssec_request_domains = *
  no_more
begin transports
remote_smtp:
  driver = smtp
  hosts_try_dane = *
begin retry
* * F,2h,15m; G,16h,1h,1.5; F,4d,6h
"""

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Relay:
    """`door`: its port in the pod; `lmtp` is that door's protocol. `proofs`: what its log says once for each message
    that went to an authenticated server, `doubt` what it says where a connection was not."""

    name: str
    door: int
    process: Process
    group: Group
    log: str
    proof: str
    doubt: str
    lmtp: bool = False

    def delivered(self) -> int:
        """So many messages, by its own log. Raises AssertionError where one went without DANE."""
        text = self.process.read(self.log)
        doubt = re.search(self.doubt, text, re.MULTILINE)
        if doubt is not None:
            raise AssertionError(f"{self.name} says: {doubt[0]}")
        return len(re.findall(self.proof, text, re.MULTILINE))

    def end(self) -> None:
        self.process.kill()


class Relays:
    """Starts them, on one core, each in a control group of its own."""

    def __init__(self, lab: Lab, groups: Groups, core: int, disk: Path) -> None:
        self._lab = lab
        self._groups = groups
        self._core = core
        self._disk = disk
        self._etc = etc() | {"/etc/resolv.conf": "nameserver 127.0.0.1\noptions attempts:1 trust-ad\n"}

    def postern(self, name: str, *, embedded: Mapping[str, Any] | None = None, **limits: int) -> tuple[Relay, Relay]:
        """Both of its doors; with an inbound listener beside them. `embedded`: `spec.outbound.dns`, for the resolver of
        its own; else it asks the laboratory's."""
        number = next(_numbers)
        ports = {"admin": 700 + number, "smtp": 800 + number, "lmtp": 900 + number, "inbound": 1000 + number}
        folder = self._lab.folder / f"relay-{number}"
        (folder / "state").mkdir(parents=True)
        config = folder / "policy.json"
        dns = {"resolver": "Servers", "servers": ["127.0.0.1:53"]} if embedded is None else dict(embedded)
        config.write_text(json.dumps(manifest(_policy(ports, {**dns, "selfTest": SELF_TEST}, limits))))
        where = [
            "--config",
            str(config),
            "--state-dir",
            str(folder / "state"),
            "--admin",
            f"127.0.0.1:{ports['admin']}",
        ]
        process, group = self._start(
            "postern",
            [*LOGGED],
            [sys.executable, "-m", "postern_sidecar", "run", *where],
            tree="unbound",
            env={"PYTHONPATH": str(SOURCES), "HOME": os.environ.get("HOME", "/")},
        )
        self._lab.wait_for_port(process, ports["smtp"], "pod")
        self._ready(process, ports["admin"])
        proof, doubt = r" => \S+ .* CV=dane ", r" => (?!.* CV=dane ).*$| == .*$| \*\* .*$|Traceback"
        doors = [
            Relay(f"{name}{title}", ports[door], process, group, LOG, proof, doubt, lmtp=door == "lmtp")
            for door, title in (("smtp", ""), ("lmtp", ", LMTP door"))
        ]
        return doors[0], doors[1]

    def postfix(self, name: str, *, disk: bool = False, tuned: bool = False) -> Relay:
        port = 1100 + next(_numbers)
        files = {
            "/etc/postfix/main.cf": POSTFIX + (TUNED if tuned else ""),
            "/etc/postfix/master.cf": MASTER + (TLSPROXY if tuned else "") + service(port),
        }
        process, group = self._start(
            "postfix",
            [*LOGGED, *self._spool(disk=disk)],
            ["/usr/lib/postfix/sbin/master", "-i"],
            tree="postfix",
            files=files,
            folders=FOLDERS,
        )
        self._lab.wait_for_port(process, port, "pod")
        proof, doubt = r"status=sent ", r"^.*(?:Untrusted|Anonymous|Trusted) TLS connection .*$|^.*status=(?!sent).*$"
        return Relay(name, port, process, group, LOG, proof, doubt)

    def exim(self, name: str, *, disk: bool = False) -> Relay:
        port = 1100 + next(_numbers)
        process, group = self._start(
            "exim",
            [*self._spool(disk=disk)],
            ["exim4", "-bdf"],
            tree="exim",
            files={"/etc/exim4/exim4.conf": EXIM.format(port=port)},
            folders=[
                ("/run/exim4", "Debian-exim", 0o755),
                ("/var/spool/exim4", "Debian-exim", 0o750),
                ("/var/log/exim4", "Debian-exim", 0o755),
            ],
        )
        self._lab.wait_for_port(process, port, "pod")
        proof, doubt = r" => .* CV=dane ", r"^.* => (?!.* CV=dane ).*$|^.* == .*$|^.* \*\* .*$"
        return Relay(name, port, process, group, "/var/log/exim4/mainlog", proof, doubt)

    def _spool(self, *, disk: bool) -> Sequence[str]:
        if not disk:
            return ()
        folder = self._disk / f"spool-{next(_numbers)}"
        folder.mkdir()
        folder.chmod(0o755)
        return (*ON_DISK, str(folder))

    def _start(
        self,
        name: str,
        before: Sequence[str],
        argv: Sequence[str],
        *,
        tree: str,
        files: Mapping[str, str] | None = None,
        folders: Sequence[tuple[str, str, int]] = (),
        env: Mapping[str, str] | None = None,
    ) -> tuple[Process, Group]:
        group = self._groups.make()
        program = Program(
            argv=[*before, *group.joined, "taskset", "--cpu-list", str(self._core), *argv],
            trees=[trees.tree(tree)],
            empty=["/run", "/var/spool", "/var/lib", "/var/log"],
            files={**self._etc, **(files or {})},
            folders=folders,
            env=env or {},
        )
        return self._lab.start(program, name), group

    def _ready(self, process: Process, admin: int) -> None:
        """Its resolver has proved that it validates: until then it takes no mail."""
        until = time.monotonic() + PATIENCE
        while not self._answers(admin):
            assert not process.ended_within(0.01), f"Postern has ended:\n{process.log}"
            assert time.monotonic() < until, f"Postern does not get ready:\n{process.read(LOG)}"

    def _answers(self, admin: int) -> bool:
        with self._lab.pod.connect(("127.0.0.1", admin)) as sock, sock.makefile("rb") as stream:
            sock.sendall(b"GET /readyz?scope=outbound HTTP/1.0\r\n\r\n")
            return b" 200 " in stream.readline()


def _policy(ports: Mapping[str, int], dns: Mapping[str, Any], limits: Mapping[str, int]) -> dict[str, Any]:
    return {
        "hostname": "mail.example.org",
        "inbound": [
            {
                "name": "smtp",
                "port": ports["inbound"],
                "backend": {"port": 525, "handover": "ProxyV2"},
                "proxyProtocol": {"requiredFrom": ["10.0.3.7/32"]},
            }
        ],
        "outbound": {
            "submission": {"port": ports["smtp"], "lmtpPort": ports["lmtp"]},
            "dns": dict(dns),
            "limits": {"messageSize": "64Mi", **limits},
        },
    }
