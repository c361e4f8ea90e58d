"""The real ground: HAProxy, Postfix, NSD and Unbound from Debian's packages, unpacked and never installed, in network
namespaces.

The laboratory of the tests does all of it. Needs root, the unpacked packages, and a kernel that lets us make
namespaces: `why_not` says what is missing.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from scripts.stage.beyond import Destinations
from scripts.stage.ground import CLIENT, PATIENCE, Part, policy

from lab import trees
from lab.laboratory import Lab
from lab.namespaces import BALANCER, POD
from lab.servers.balancers import Forward
from lab.servers.postfix import service
from lab.trees import TreeMissingError
from postern_sidecar.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lab.conversation import Conversation
    from lab.mailserver import MailServer
    from lab.program import Log, Process
    from lab.servers.sidecar import Sidecar

TREES = ("haproxy", "iproute2", "nsd", "openssl", "postfix", "unbound")  # what `make demo` unpacks
CHECK = "  option smtpchk EHLO lb.example.net\n  option log-health-checks"
UNGUARDED = 2626  # Postfix as it would stand there without Postern


def why_not() -> str | None:
    """Why the real ground is not to be had here; None if it is."""
    if os.geteuid() != 0:
        return "this is not root"
    try:
        for name in TREES:
            trees.tree(name)
    except TreeMissingError as missing:
        return str(missing)
    except OSError:
        return "this is not Debian"
    try:
        probe = subprocess.run(
            ["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, text=True, check=False
        )
    except OSError as problem:
        return f"no namespaces: {problem}"
    if probe.returncode != 0:
        return f"no namespaces here: {probe.stderr.strip()} (a container needs --privileged)"
    return None


class Real:
    relays = True
    balancer = "HAProxy"
    server = "Postfix"
    balancer_address = BALANCER
    forger = "203.0.113.66"
    insider = "10.0.3.66"
    patience = PATIENCE
    notes: Sequence[str] = (
        (
            "All of them are the real programs, in network namespaces of their own: nothing here reaches the machine's "
            "network, and nothing stays behind."
        ),
    )

    def __init__(self) -> None:
        self.policy = ""
        self._lab = Lab()
        self._beyond: Destinations
        self._postfix: MailServer
        self._sidecar: Sidecar
        self._haproxy: Process

    def start(self) -> Iterator[Part]:
        lab = self._lab
        self._beyond = Destinations(lab)
        yield Part(f"Postfix {_version('postfix')}", "198.51.100.25:25", "TLS, for four mail domains", outbound=True)
        yield Part(f"NSD {_version('nsd')}", "192.0.2.53:53", "the root, .example and these, signed", outbound=True)
        lab.nameserver({CLIENT: "client.example.net", BALANCER: "lb.example.net"})
        behind = service(2525, smtpd_upstream_proxy_protocol="haproxy")
        self._postfix = lab.postfix(master=behind + service(UNGUARDED, POD))
        yield Part(f"Postfix {_version('postfix')}", "127.0.0.1:2525", "smtpd_upstream_proxy_protocol=haproxy")
        self.policy = policy(
            required="10.0.3.0/24", sidecar_port=25, backend_port=2525, outbound=self._beyond.section()
        )
        self._sidecar = lab.sidecar(text=self.policy)
        self.sidecar_log.wait_for(" dns .*self-test passed", timeout=PATIENCE)
        yield Part(f"Unbound {_version('unbound')}", "127.0.0.1", "the sidecar's own, validates", outbound=True)
        yield Part(f"postern-sidecar {VERSION}", "127.0.0.1:11025", "SMTP; LMTP on 11024", outbound=True)
        yield Part(f"postern-sidecar {VERSION}", f"{POD}:25", "the policy below")
        self._haproxy = lab.haproxy(
            Forward(bind=(BALANCER, 25), to=(POD, 25), send="v2", check=True, settings=CHECK),
            Forward(bind=(BALANCER, 26), to=(POD, UNGUARDED), send=None),
        )
        yield Part(f"HAProxy {_version('haproxy')}", f"{BALANCER}:25", "send-proxy-v2 check check-send-proxy")

    def close(self) -> None:
        self._lab.close()

    def through(self, client: str, *, past_postern: bool = False) -> Conversation:
        return self._lab.outside.talk((BALANCER, 26 if past_postern else 25), source=client, timeout=PATIENCE)

    def straight(self, source: str) -> Conversation:
        return self._lab.outside.talk((POD, 25), source=source, timeout=PATIENCE)

    def checked(self) -> str:
        return self._haproxy.log.wait_for(r"^Health check .* succeeded", timeout=PATIENCE).string

    @property
    def sidecar_log(self) -> Log:
        return self._sidecar.log

    @property
    def server_log(self) -> Log:
        return self._postfix.log

    def server_names(self, client: str) -> str:
        return rf"smtpd\[\d+\]: connect from \S+\[{client}\]$"

    def received(self, reply: str) -> str:
        name = reply.rpartition(" ")[2]
        self.server_log.wait_for(rf" {name}: .* status=sent \(delivered to maildir\)", timeout=PATIENCE)
        headers = [str(message["Received"]) for message in self._postfix.received()]
        (header,) = (header for header in headers if f" id {name}\n" in header)
        return header

    def metrics(self) -> str:
        return self._sidecar.get("/metrics").body

    def write_policy(self, text: str) -> None:
        self._sidecar.write_text(text)

    def check(self, domain: str) -> str:
        options = ["--config", str(self._sidecar.config)]
        ascii_only = {"PYTHONIOENCODING": "ascii"}
        return str(self._sidecar.command("check", *options, domain, check=False, env=ascii_only).log)

    @property
    def beyond(self) -> Destinations:
        return self._beyond


def _version(name: str) -> str:
    return ".".join(str(number) for number in trees.version(name))
