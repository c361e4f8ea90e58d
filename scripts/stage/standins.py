"""The ground that any Linux machine with Python has: loopback, no root, nothing unpacked.

A small load balancer in this process stands in for HAProxy, aiosmtpd in a child for Postfix. The sidecar is the real
one, in a child. Ports are free ones.
"""

from __future__ import annotations

import contextlib
import email
import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.stage import leash, mailserver
from scripts.stage.balancer import Balancer
from scripts.stage.ground import PATIENCE, Beyond, Part, policy

from lab.conversation import Conversation
from lab.program import Log
from postern_sidecar.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]


class StandIns:
    relays = False
    balancer = "the balancer"
    server = "aiosmtpd"
    balancer_address = "127.0.0.1"
    forger = "127.0.0.66"
    insider = "127.0.0.1"
    patience = PATIENCE

    def __init__(self, why: str) -> None:
        self.policy = ""
        self.notes: Sequence[str] = (
            (
                f"What is different: {why}. So a small load balancer in Python stands in for HAProxy, and aiosmtpd for "
                "Postfix (the Received header is the demo's own there). The sidecar is the real one."
            ),
            (
                "All of it is on loopback and free ports, so who the clients are is the balancer's word: it claims "
                "192.0.2.10 and others, which are kept for documentation. As root on Debian, `make demo` runs the real "
                "HAProxy and Postfix."
            ),
            (
                "And there is no outbound half: DANE needs a signed DNS and a resolver that validates it, for which "
                "there is no honest stand-in. As root on Debian these are NSD, Unbound, and Postfix as the destination."
            ),
        )
        self.folder = Path(tempfile.mkdtemp(prefix="postern-demo-"))
        self._file = self.folder / "policy.yaml"
        self._children: list[subprocess.Popen[bytes]] = []
        self._logs: list[Log] = []
        self._balancers: list[Balancer] = []
        self._ports: dict[str, int] = {}

    def start(self) -> Iterator[Part]:
        self._logs.append(self._run("aiosmtpd", mailserver.__file__, self._mailbox()))
        ready = self.server_log.wait_for(r"^aiosmtpd (\S+) listening behind=(\d+) alone=(\d+)$")
        behind, alone = int(ready[2]), int(ready[3])
        yield Part(f"aiosmtpd {ready[1]}", f"127.0.0.1:{behind}", "proxy_protocol_timeout=5.0")
        self.policy = policy(required="127.0.0.1", sidecar_port=25, backend_port=behind, address="127.0.0.1")
        self.write_policy(self.policy)
        where = ["--config", str(self._file), "--state-dir", str(self.folder / "state")]
        ports = ["--admin", "127.0.0.1:0", "--ephemeral-ports"]
        self._logs.append(self._run("sidecar", "postern_sidecar", "run", *where, *ports))
        self.sidecar_log.wait_for(r" config hash=")
        for match in self.sidecar_log.matches(r" listening name=(\S+) .*port=(\d+)"):
            self._ports[match[1]] = int(match[2])
        yield Part(f"postern-sidecar {VERSION}", f"127.0.0.1:{self._ports['smtp']}", "the policy below, a free port")
        self._balancers += [Balancer(self._ports["smtp"], header=True), Balancer(alone, header=False)]
        yield Part("balancer", f"127.0.0.1:{self._balancers[0].address[1]}", "sends PROXY v2, checks every 100 ms")

    def close(self) -> None:
        for balancer in self._balancers:
            balancer.stop()
        for child in self._children:
            child.kill()
            child.wait()
            if child.stdin:
                child.stdin.close()
        for log in self._logs:
            log.wait_for_end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def through(self, client: str, *, past_postern: bool = False) -> Conversation:
        return Conversation(self._balancers[1 if past_postern else 0].connect(client, timeout=PATIENCE))

    def straight(self, source: str) -> Conversation:
        to = ("127.0.0.1", self._ports["smtp"])
        return Conversation(socket.create_connection(to, PATIENCE, source_address=(source, 0)))

    def checked(self) -> str:
        return self._balancers[0].last_check(PATIENCE)

    @property
    def server_log(self) -> Log:
        return self._logs[0]

    @property
    def sidecar_log(self) -> Log:
        return self._logs[1]

    def server_names(self, client: str) -> str:
        return rf"message \d+ from \S+, client=\[{re.escape(client)}\]"

    def received(self, reply: str) -> str:
        name = reply.rpartition(" ")[2]
        message = email.message_from_bytes((self.folder / "mail" / f"{name}.eml").read_bytes())
        return str(message["Received"])

    def metrics(self) -> str:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._ports["admin"], PATIENCE)) as connection:
            connection.request("GET", "/metrics", headers={"Connection": "close"})
            return connection.getresponse().read().decode()

    def write_policy(self, text: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(text)
        new.replace(self._file)

    def check(self, domain: str) -> str:
        raise NotImplementedError(f"nothing is known about {domain} here")

    @property
    def beyond(self) -> Beyond:
        raise NotImplementedError("there is no outbound half here")

    def _mailbox(self) -> str:
        folder = self.folder / "mail"
        folder.mkdir()
        return str(folder)

    def _run(self, name: str, *program: str) -> Log:
        """In a session of its own: Ctrl-C is for the demo, which then ends this too, and so does the leash."""
        reading, writing = os.pipe()
        try:
            child = subprocess.Popen(
                [sys.executable, "-P", "-u", leash.__file__, *program],
                stdin=subprocess.PIPE,
                stdout=writing,
                stderr=writing,
                env={**os.environ, "PYTHONPATH": str(ROOT / "sidecar"), "TZ": "UTC"},
                start_new_session=True,
            )
        finally:
            os.close(writing)
        self._children.append(child)
        return Log(reading, name)
