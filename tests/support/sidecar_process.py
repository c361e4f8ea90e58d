"""A sidecar on loopback as its own process, without root: for tests of the edge and of the command line.

Ports are chosen by the kernel; the `listening` lines name them. The client's side is `lab.conversation`, the backend's
is `ScriptedServer`: a mail server that does what no real one would admit to.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lab.conversation import Conversation
from lab.program import Log

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping

PATIENCE = 20.0
ROOT = Path(__file__).resolve().parents[2]
LOAD_BALANCER = "127.0.0.1"  # who sends headers in these tests
STRANGER = "127.0.0.9"  # who does not


def policy(*listeners: Mapping[str, Any], logging: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A manifest with these listeners; 127.0.0.1 is a load balancer for all of them."""
    inbound = []
    for number, listener in enumerate(listeners):
        proxy = {"requiredFrom": [LOAD_BALANCER], **listener.get("proxyProtocol", {})}
        inbound.append({"name": f"in{number}", "port": 2525 + number, **listener, "proxyProtocol": proxy})
    spec = {"hostname": "mail.example.net", "inbound": inbound, "logging": dict(logging or {})}
    return {
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "MailProxyPolicy",
        "metadata": {"name": "test"},
        "spec": spec,
    }


class SidecarProcess:
    """`postern-sidecar run`, started and listening. Use as a context manager."""

    def __init__(
        self,
        folder: Path,
        manifest: Mapping[str, Any] | bytes,
        *options: str,
        files: int | None = None,
        listens: bool = True,
        ephemeral: bool = True,
    ) -> None:
        self.file = folder / "policy.json"
        self.state = folder / "state"
        self.write(manifest)
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))) if files else None
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "postern_sidecar", "run", "--config", str(self.file)),
                *(("--ephemeral-ports",) if ephemeral else ()),
                *("--admin", "127.0.0.1:0", "--state-dir", str(self.state), *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join((str(ROOT / "sidecar"), os.environ.get("PYTHONPATH", ""))),
                "PYTHONUNBUFFERED": "1",
            },
            preexec_fn=limit,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.log = Log(os.dup(self.process.stdout.fileno()), "sidecar")
        self.errors = Log(os.dup(self.process.stderr.fileno()), "sidecar's standard error")
        self.process.stdout.close()
        self.process.stderr.close()
        self.ports: dict[str, int] = {}
        if listens:
            self.find_ports()

    def find_ports(self) -> None:
        """Read from the log which ports there are, up to the last `config` line."""
        try:
            self.log.wait_for(r"(?:^| )config |\"event\":\"config\"")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.errors}") from None
        for line in self.log.lines:
            if line.startswith("{"):
                event = json.loads(line)
                if event["event"] == "listening":
                    self.ports[event["name"]] = event["port"]
            elif " listening " in line:
                fields = dict(item.split("=", 1) for item in line.split() if "=" in item)
                self.ports[fields["name"]] = int(fields["port"])

    def write(self, manifest: Mapping[str, Any] | bytes) -> None:
        """Replace the file as `mv` does."""
        content = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        temporary = self.file.with_suffix(".new")
        temporary.write_bytes(content)
        temporary.replace(self.file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        self.log.wait_for_end()
        self.errors.wait_for_end()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def client(self, name: str = "in0", *, source: str = LOAD_BALANCER) -> Conversation:
        """A connection to a listener, from an address of 127.0.0.0/8."""
        sock = socket.create_connection(("127.0.0.1", self.ports[name]), PATIENCE, source_address=(source, 0))
        return Conversation(sock)

    def get(self, path: str, timeout: float = PATIENCE) -> tuple[int, str]:
        """An answer of the admin port."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['admin']}{path}", timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """The value of a sample, its labels included in the name; 0 where there is none."""
        _, text = self.get("/metrics")
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.rsplit(" ", 1)[0] == name)

    @property
    def resident(self) -> int:
        """Octets of memory."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text("ascii").split()
        return int(fields[1]) * resource.getpagesize()


class ScriptedServer:
    """A backend on loopback; each connection runs `script` in a thread of its own."""

    def __init__(self, script: Callable[[Conversation], None]) -> None:
        self._script = script
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._connections: list[socket.socket] = []
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="backend", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            sock.settimeout(PATIENCE)
            self._connections.append(sock)
            threading.Thread(target=self._serve, args=(sock,), name="backend session", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, AssertionError, ValueError), Conversation(sock) as conversation:
            self._script(conversation)

    def stop(self) -> None:
        """No more connections, and an end to those there are."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for sock in self._connections:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def proxy_line(server: Conversation) -> str:
    """What a PROXY v1 hand-over said to this backend."""
    return server.line()


def smtp(server: Conversation) -> None:
    """A small, honest mail server behind ProxyV1; its banner repeats the identity that it was handed."""
    header = proxy_line(server)
    server.send(f"220 {header}\r\n")
    while line := server.line():
        verb = line.split(" ")[0].upper()
        if verb == "QUIT":
            server.send("221 bye\r\n")
            return
        if verb == "DATA":
            server.send("354 go\r\n")
            while server.line() not in (".", ""):
                pass
        server.send("250 ok\r\n")


def proxied(client: Conversation, source: str = "192.0.2.4", port: int = 40211) -> Conversation:
    """Send a PROXY v1 header for `source` ahead of everything else."""
    family, target = ("TCP6", "2001:db8::25") if ":" in source else ("TCP4", "198.51.100.25")
    client.send(f"PROXY {family} {source} {target} {port} 25\r\n")
    return client


def reset(client: Conversation) -> None:
    """Close with RST, as a client whose machine has gone."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
