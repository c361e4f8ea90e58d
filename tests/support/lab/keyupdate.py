"""A TLS 1.3 server that asks for new keys again and again (RFC 8446 4.6.3): by ctypes on the system's libssl, because
neither Python's ssl nor pyOpenSSL can."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from pathlib import Path

_UPDATE_REQUESTED = 1
_PEM = 1


def flood(sock: socket.socket, chain_and_key: Path, *, most: int) -> int:
    """As many as the peer lets it say. It reads nothing behind the handshake."""
    ssl = ctypes.CDLL(ctypes.util.find_library("ssl"))
    for name in ("TLS_server_method", "SSL_CTX_new", "SSL_new"):
        getattr(ssl, name).restype = ctypes.c_void_p
    method = ctypes.c_void_p(ssl.TLS_server_method())
    context = ctypes.c_void_p(ssl.SSL_CTX_new(method))
    file = str(chain_and_key).encode()
    assert ssl.SSL_CTX_use_certificate_chain_file(context, file) == 1
    assert ssl.SSL_CTX_use_PrivateKey_file(context, file, _PEM) == 1
    session = ctypes.c_void_p(ssl.SSL_new(context))
    sock.setblocking(True)
    try:
        ssl.SSL_set_fd(session, sock.fileno())
        if ssl.SSL_accept(session) != 1:
            return 0
        for number in range(most):
            if ssl.SSL_key_update(session, _UPDATE_REQUESTED) != 1 or ssl.SSL_do_handshake(session) != 1:
                return number
        return most
    finally:
        ssl.SSL_free(session)
        ssl.SSL_CTX_free(context)
