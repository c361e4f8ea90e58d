"""One side of the laboratory's network, and connections made from there.

A socket belongs to the network namespace in which it was made, whoever uses it afterwards: so only its making happens
in a thread that lives over there.
"""

from __future__ import annotations

import asyncio
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from . import kernel
from .conversation import Conversation

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")
Address = tuple[str, int]


class Host:
    def __init__(self, name: str, namespace: int) -> None:
        self.name = name
        self._over_there = ThreadPoolExecutor(
            1, thread_name_prefix=name, initializer=kernel.setns, initargs=(namespace, kernel.CLONE_NEWNET)
        )

    def close(self) -> None:
        self._over_there.shutdown()

    def call(self, function: Callable[[], Result]) -> Result:
        """Runs something that makes sockets of its own; it must be brief, for calls wait for one another."""
        return self._over_there.submit(function).result()

    def new_socket(self, address: str, *, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """A new socket of the family of `address`."""
        family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
        return self.call(lambda: socket.socket(family, kind))

    def connect(self, to: Address, *, source: str | None = None, timeout: float = 20.0) -> socket.socket:
        """A connected socket; `source` is the client's address, any of `Lab.CLIENTS` on `outside`."""
        sock = self.new_socket(to[0])
        try:
            sock.settimeout(timeout)
            if source is not None:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((source, 0))
            sock.connect(to)
        except BaseException:
            sock.close()
            raise
        return sock

    def listens_on(self, port: int) -> bool:
        """Whether something listens on that TCP port, on any address (proc(5): state 0A, addresses in hexadecimal)."""

        def tables() -> str:
            return "".join(Path(f"/proc/thread-self/net/{table}").read_text() for table in ("tcp", "tcp6"))

        return re.search(rf":{port:04X} \w+:0000 0A ", self.call(tables)) is not None

    def talk(self, to: Address, *, source: str | None = None, timeout: float = 20.0) -> Conversation:
        """The same, for SMTP and its like: lines and replies."""
        return Conversation(self.connect(to, source=source, timeout=timeout))

    def listen(self, on: Address, *, backlog: int = 1024) -> socket.socket:
        """A listening socket; port 0 takes a free one."""
        sock = self.new_socket(on[0])
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(on)
            sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        return sock

    async def open_connection(
        self, to: Address, *, source: str | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = self.new_socket(to[0])
        sock.setblocking(False)
        if source is not None:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(sock, to)
        return await asyncio.open_connection(sock=sock)
