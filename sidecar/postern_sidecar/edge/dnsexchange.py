"""One question, one name server: over UDP, and over TCP where the answer is too long for it.

Sockets are connected, so that the kernel tells of a refusal at once (`edge.nameserver` says why), lets in no datagrams
of strangers, and picks a source port for each question. Time limits are the caller's.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from typing import TYPE_CHECKING, Final

from .dnswire import NotTheAnswerError, TruncatedError, failed, query, read

if TYPE_CHECKING:
    from postern_sidecar.answers import Answer, Question
    from postern_sidecar.names import Endpoint

STRAYS: Final = 32  # datagrams that are no answer, until the server counts as broken
_LARGEST: Final = 65535


async def exchange(server: Endpoint, question: Question) -> tuple[Answer, int]:
    """The answer and how many octets it had. Raises OSError: the server cannot be reached, or answers at random;
    ValueError: the question cannot be written."""
    number = secrets.randbelow(1 << 16)
    message = query(question, number)
    loop = asyncio.get_running_loop()
    with _socket(server, socket.SOCK_DGRAM) as sock:
        sock.connect((str(server.address), server.port))  # of UDP: nothing to wait for
        sock.send(message)
        for _ in range(STRAYS):
            wire = await loop.sock_recv(sock, _LARGEST)
            try:
                return read(question, number, wire), len(wire)
            except NotTheAnswerError:
                continue
            except TruncatedError:
                return await _exchange_long(server, question, number, message)
    raise OSError("answers that fit no question")


async def _exchange_long(server: Endpoint, question: Question, number: int, message: bytes) -> tuple[Answer, int]:
    loop = asyncio.get_running_loop()
    with _socket(server, socket.SOCK_STREAM) as sock:
        await loop.sock_connect(sock, (str(server.address), server.port))
        await loop.sock_sendall(sock, len(message).to_bytes(2, "big") + message)
        size = int.from_bytes(await _receive(sock, 2), "big")
        wire = await _receive(sock, size)
    try:
        return read(question, number, wire), size
    except NotTheAnswerError:
        return failed(question, "another question's answer over TCP"), size
    except TruncatedError:
        return failed(question, "truncated over TCP"), size


async def _receive(sock: socket.socket, size: int) -> bytes:
    """Exactly so many octets. Raises OSError."""
    data = bytearray()
    loop = asyncio.get_running_loop()
    while len(data) < size:
        more = await loop.sock_recv(sock, size - len(data))
        if not more:
            raise ConnectionResetError("closed before the whole answer")
        data += more
    return bytes(data)


def _socket(server: Endpoint, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET if server.address.version == 4 else socket.AF_INET6
    return socket.socket(family, kind | socket.SOCK_NONBLOCK)
