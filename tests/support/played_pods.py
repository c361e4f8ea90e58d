"""Pods without a node, each with a real `postern-sidecar run`: the tests play kubelet and network.

    with PlayedPod(control_plane.admin, namespace, "mail-0", {"app": "mail"}, port, folder) as pod:
        pod.sync()   # the kubelet brings the ConfigMap's file

The pod's address is one of 127.0.0.0/8. What connects to its admin port reaches the sidecar, or what the test says
instead (`answer`). A pod that is created goes through the webhook, so it is injected as elsewhere.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import socketserver
import threading
from typing import TYPE_CHECKING, Any

from cluster.pods import create_pod, pod, run_pod
from sidecar_process import SidecarProcess

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from cluster.admin import Admin

_numbers = itertools.count(os.getpid() % 200 * 256 + 257)


def address() -> str:
    """A pod's, not used before in this process."""
    number = next(_numbers)
    return f"127.{64 + number // 65536 % 64}.{number // 256 % 256}.{number % 254 + 1}"


def config_of(value: Any) -> bytes:
    """An HTTP answer with this JSON."""
    body = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


class PlayedPod:
    def __init__(
        self, admin: Admin, namespace: str, name: str, labels: dict[str, str], port: int, folder: Path, **spec: Any
    ) -> None:
        self.admin, self.namespace, self.name, self.port = admin, namespace, name, port
        self.path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        self.created = create_pod(admin, pod(name, namespace, labels=labels, **spec))
        self.ip = address()
        self.folder = folder / name
        self.folder.mkdir()
        self.answer: bytes | None = None
        self._sidecar: SidecarProcess | None = None
        self._network: _Network | None = None

    @property
    def policy(self) -> str:
        label: str = self.created["metadata"].get("labels", {}).get("postern.dev/policy", "")
        return label

    @property
    def poke(self) -> str:
        annotations = self.admin.get(self.path)["metadata"].get("annotations", {})
        value: str = annotations.get("postern.dev/config-hash", "")
        return value

    def start(self) -> Self:
        """The file is there, the sidecar runs, and the pod's status says so."""
        self._sidecar = SidecarProcess(self.folder, self._delivered()).__enter__()
        self._network = _Network(self.ip, self.port, self)
        run_pod(self.admin, self.namespace, self.name, ip=self.ip)
        return self

    def sync(self) -> None:
        """What the kubelet does after a poke, or within two minutes."""
        assert self._sidecar is not None
        self._sidecar.write(self._delivered())

    def hang_up(self) -> None:
        """Nothing answers on the pod's address any more."""
        if self._network is not None:
            self._network.close()
            self._network = None

    def answer_for(self, connection: socket.socket) -> None:
        if self.answer is not None:
            connection.recv(4096)
            connection.sendall(self.answer)
            return
        assert self._sidecar is not None
        with socket.create_connection(("127.0.0.1", self._sidecar.ports["admin"]), 10) as inner:
            inner.sendall(connection.recv(4096))
            while part := inner.recv(65536):
                connection.sendall(part)

    def delete(self) -> None:
        self.admin.delete(self.path, missing_ok=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hang_up()
        if self._sidecar is not None:
            self._sidecar.__exit__(kind, value, trace)

    def _delivered(self) -> bytes:
        found = self.admin.get(f"/api/v1/namespaces/{self.namespace}/configmaps/postern-{self.policy}")
        text: str = found["data"]["policy.json"]
        return text.encode()


class _Network(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, ip: str, port: int, pod: PlayedPod) -> None:
        self.pod = pod
        super().__init__((ip, port), _Connection)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Who asked has gone."""


class _Connection(socketserver.BaseRequestHandler):
    server: _Network

    def handle(self) -> None:
        self.server.pod.answer_for(self.request)
