"""A connection of the sink's: octets to and from the peer, in clear and then within TLS.

TLS by pyOpenSSL over memory BIOs, for it can staple, send any chain, and speak old versions.
"""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL

if TYPE_CHECKING:
    import asyncio

VERSIONS = {
    "1.0": SSL.TLS1_VERSION,
    "1.1": SSL.TLS1_1_VERSION,
    "1.2": SSL.TLS1_2_VERSION,
    "1.3": SSL.TLS1_3_VERSION,
}


class OverError(Exception):
    """The session is over; the argument says why."""


def context(spec: dict[str, Any]) -> SSL.Context:
    """`chain` and `key` (PEM), `staple` (base64), `min` and `max` (TLS versions), `ciphers`."""
    made = SSL.Context(SSL.TLS_SERVER_METHOD)
    made.set_cipher_list(spec.get("ciphers", "ALL:@SECLEVEL=0").encode())
    made.set_min_proto_version(VERSIONS[spec.get("min", "1.0")])
    made.set_max_proto_version(VERSIONS[spec.get("max", "1.3")])
    certificates = x509.load_pem_x509_certificates(spec["chain"].encode())
    made.use_certificate(certificates[0])
    for certificate in certificates[1:]:
        made.add_extra_chain_cert(certificate)
    made.use_privatekey(serialization.load_pem_private_key(spec["key"].encode(), None))  # type: ignore[arg-type]
    if spec.get("staple"):
        made.set_ocsp_server_callback(lambda _, data: data or b"", base64.b64decode(spec["staple"]))
    return made


class Channel:
    """Octets to and from the peer, with or without TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.tls: SSL.Connection | None = None
        self._reader = reader
        self._buffer = b""

    async def read(self) -> bytes:
        if self._buffer:
            found, self._buffer = self._buffer, b""
            return found
        if self.tls is None:
            found = await self._reader.read(262144)
        else:
            found = await self._decrypted(self.tls)
        if not found:
            raise OverError("closed by the peer")
        return found

    async def line(self) -> bytes:
        collected = b""
        while b"\n" not in collected:
            collected += await self.read()
        line, _, self._buffer = collected.partition(b"\n")
        return line.rstrip(b"\r")

    def unread(self, octets: bytes) -> None:
        self._buffer = octets + self._buffer

    async def write(self, octets: bytes) -> None:
        if self.tls is not None:
            self.tls.sendall(octets)
            self._flush(self.tls)
        else:
            self.writer.write(octets)
        await self.writer.drain()

    async def handshake(self, spec: dict[str, Any]) -> str | None:
        """The server name that the client asked for."""
        names: list[str] = []
        own = context(spec)

        def asked(which: SSL.Connection) -> None:
            name = (which.get_servername() or b"").decode()
            names.append(name)
            if name in spec.get("sni", {}):
                which.set_context(context({**spec, **spec["sni"][name]}))

        own.set_tlsext_servername_callback(asked)
        connection = SSL.Connection(own)
        connection.set_accept_state()
        while True:
            try:
                connection.do_handshake()
            except SSL.WantReadError:
                self._flush(connection)
                await self._fill(connection)
            except SSL.Error as error:
                self._flush(connection)
                await self.writer.drain()
                raise OverError(f"handshake: {error.args}") from None
            else:
                break
        self._flush(connection)
        self.tls = connection
        self._buffer = b""  # RFC 3207 4.2: what came in clear is forgotten
        return (names[0] or None) if names else None

    async def _decrypted(self, tls: SSL.Connection) -> bytes:
        while True:
            try:
                return tls.recv(262144)
            except SSL.WantReadError:
                self._flush(tls)
                await self._fill(tls)
            except SSL.ZeroReturnError:
                return b""
            except SSL.Error as error:
                raise OverError(f"TLS: {error.args}") from None

    async def _fill(self, tls: SSL.Connection) -> None:
        cipher = await self._reader.read(262144)
        if not cipher:
            raise OverError("closed by the peer, within TLS")
        tls.bio_write(cipher)

    def _flush(self, tls: SSL.Connection) -> None:
        with contextlib.suppress(SSL.WantReadError):
            while True:
                self.writer.write(tls.bio_read(65536))
