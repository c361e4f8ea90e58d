"""TLS towards a next hop: contexts, and one connection's engine between two streams of bytes. No sockets here.

What a handshake brought is told, not judged: names and TLSA records are matched by whoever reads the `Handshake`. The
one verdict that OpenSSL gives is at level VERIFY, whether the chain leads to the CA bundle, with its own rules for
purpose, times and key strength; its callback only notes the first objection, so that no handshake fails for it.

Security level 1 (contracts section 5). No session is resumed (each verdict is of a full handshake), no renegotiation.
An `unrecognized_name` warning is not the end of a handshake (RFC 6066 3). Certificates of a peer together may have
100 KiB, OpenSSL's own bound. Raises TLSError.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from OpenSSL import SSL, crypto

from postern_sidecar.config.model import TLSVersion
from postern_sidecar.outbound.plan import Handshake, Level, Staple

if TYPE_CHECKING:
    from postern_sidecar.outbound.plan import Plan

CIPHERS: Final = b"DEFAULT:!aNULL:!eNULL:!PSK:!SRP:@SECLEVEL=1"
CONTEXTS: Final = 16  # the system's CA certificates take 20 ms and some MiB; a policy needs two contexts
RECORD: Final = 16384  # RFC 8446 5.1
OWED: Final = 16_384  # octets taken from the peer, behind which it is looked whether OpenSSL has an answer of its own
DETAIL: Final = 200

_VERSIONS = {
    TLSVersion.TLS_1_2: SSL.TLS1_2_VERSION,
    TLSVersion.TLS_1_3: SSL.TLS1_3_VERSION,
}
_PARTIAL_WRITE = 0x1  # SSL_MODE_ENABLE_PARTIAL_WRITE: a call for each record
_OBJECTIONS = {  # X509_V_ERR_*; pyOpenSSL gives only the numbers
    7: "certificate signature failure",
    9: "certificate is not yet valid",
    10: "certificate has expired",
    18: "self-signed certificate",
    19: "self-signed certificate in certificate chain",
    20: "unable to get local issuer certificate",
    21: "unable to verify the first certificate",
    22: "certificate chain too long",
    24: "invalid CA certificate",
    25: "path length constraint exceeded",
    26: "unsuitable certificate purpose",
    34: "unhandled critical extension",
    47: "permitted subtree violation",
    48: "excluded subtree violation",
    66: "EE certificate key too weak",
    67: "CA certificate key too weak",
    68: "CA signature digest algorithm too weak",
    79: "invalid CA certificate",
}


class TLSError(Exception):
    """TLS came to nothing. Its text is OpenSSL's reason, bounded."""


class _Seen:
    """What the callbacks of one handshake have noted."""

    __slots__ = ("objection", "staple")

    def __init__(self) -> None:
        self.staple = b""
        self.objection = ""


def _on_staple(connection: SSL.Connection, response: bytes, data: object) -> bool:
    del data
    connection.get_app_data().staple = response
    return True


def _on_certificate(connection: SSL.Connection, certificate: object, number: int, depth: int, good: int) -> bool:
    del certificate
    seen = connection.get_app_data()
    if not good and not seen.objection:
        text = _OBJECTIONS.get(number, f"X509_V_ERR {number}")
        seen.objection = text if depth == 0 else f"{text} (depth {depth})"
    return True


@functools.lru_cache(maxsize=CONTEXTS)
def _context(version: TLSVersion, verify: bool, ca_bundle: str) -> SSL.Context:
    """Raises crypto.Error and ValueError for a CA bundle that is none."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_cipher_list(CIPHERS)
    context.set_min_proto_version(_VERSIONS[version])
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.clear_mode(_PARTIAL_WRITE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_ocsp_client_callback(_on_staple)
    if not verify:
        context.set_verify(SSL.VERIFY_NONE)
        return context
    context.set_verify(SSL.VERIFY_PEER, _on_certificate)
    if ca_bundle:
        _add_authorities(context, ca_bundle)
    else:
        context.set_default_verify_paths()
    return context


def _add_authorities(context: SSL.Context, bundle: str) -> None:
    from cryptography.x509 import load_pem_x509_certificates

    store = context.get_cert_store()
    assert store is not None  # noqa: S101 - a context has one
    for certificate in load_pem_x509_certificates(bundle.encode()):
        store.add_cert(crypto.X509.from_cryptography(certificate))


def context_for(plan: Plan) -> SSL.Context:
    """Raises TLSError."""
    verify = plan.level is Level.VERIFY
    try:
        return _context(plan.min_version or TLSVersion.TLS_1_2, verify, plan.ca_bundle if verify else "")
    except (crypto.Error, ValueError) as error:
        raise TLSError("the CA bundle cannot be read") from error


class Engine:
    """One connection. Bytes of the peer go into `handshake` and then `decrypt`; what they return goes to the peer."""

    __slots__ = ("_connection", "_seen", "_taken")

    def __init__(self, plan: Plan) -> None:
        """Raises TLSError."""
        self._seen = _Seen()
        self._taken = 0
        self._connection = connection = SSL.Connection(context_for(plan), None)
        connection.set_app_data(self._seen)
        connection.set_connect_state()
        if plan.sni is not None:
            connection.set_tlsext_host_name(plan.sni.encode("ascii"))
        if plan.staple is not Staple.NOT_ASKED:
            connection.request_ocsp()

    def handshake(self, data: bytes) -> bool:
        """Whether it is done. Behind each call `outgoing` has bytes for the peer. Raises TLSError."""
        connection = self._connection
        if data:
            connection.bio_write(data)
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise TLSError(_reason(error)) from None
        return True

    def outgoing(self) -> bytes:
        """Bytes for the peer that nothing has returned yet."""
        pieces: list[bytes] = []
        try:
            while True:
                pieces.append(self._connection.bio_read(4 * RECORD))
        except SSL.Error:
            return b"".join(pieces)

    def result(self, now: float) -> Handshake:
        """Of a handshake that is done."""
        connection = self._connection
        chain = connection.get_peer_cert_chain() or []
        name = connection.get_protocol_version_name().replace("TLSv", "TLS")
        return Handshake(
            version="TLS1.0" if name == "TLS1" else name,
            cipher=connection.get_cipher_name() or "",
            chain=tuple(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate) for certificate in chain),
            staple=self._seen.staple,
            trust=self._seen.objection,
            now=now,
        )

    def encrypt(self, data: bytes) -> bytes:
        """Raises TLSError."""
        connection = self._connection
        self._taken = 0
        try:
            connection.send(data)
            room = len(data) + (len(data) // RECORD + 2) * 256
            sent = connection.bio_read(room)
        except SSL.Error as error:
            raise TLSError(_reason(error)) from None
        return sent if len(sent) < room else sent + self.outgoing()

    def decrypt(self, data: bytes) -> tuple[bytes, bool]:
        """What the peer said, and whether it says no more. Raises TLSError."""
        connection = self._connection
        self._taken += len(data)
        if data:
            connection.bio_write(data)
        pieces: list[bytes] = []
        try:
            while True:
                pieces.append(connection.recv(RECORD))
        except SSL.WantReadError:
            ended = False
        except SSL.ZeroReturnError:
            ended = True
        except SSL.Error as error:
            raise TLSError(_reason(error)) from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), ended

    def owed(self) -> bytes:
        """OpenSSL's own answers, a refused renegotiation's say, where so much came that they could be many: they wait
        in memory until something is sent."""
        if self._taken < OWED:
            return b""
        self._taken = 0
        return self.outgoing()

    def farewell(self) -> bytes:
        """close_notify."""
        try:
            self._connection.shutdown()
        except SSL.Error:
            return b""
        return self.outgoing()


def _reason(error: SSL.Error) -> str:
    """OpenSSL's last words: [(library, function, reason), ...]."""
    if isinstance(error, SSL.SysCallError):
        return "the connection ended"
    queue = error.args[0] if error.args else []
    return "; ".join(str(entry[-1]) for entry in queue)[:DETAIL] or type(error).__name__
