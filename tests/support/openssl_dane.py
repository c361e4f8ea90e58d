"""What OpenSSL's own DANE code says of a chain and TLSA records: a second opinion, by ctypes on the system's libssl.

No handshake: the verification that libssl does inside one (`SSL_dane_*`, then `X509_verify_cert` with the parameters of
a TLS client), with the flags and the security level that Postfix's DANE has. Nothing of it is shared with
`cryptography`, which brings an OpenSSL of its own.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_size_t, c_ubyte, c_ulong, c_void_p
from typing import TYPE_CHECKING, NamedTuple

from postern_sidecar.answers import TLSA
from postern_sidecar.config.model import Digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

_NO_DANE_EE_NAMECHECKS = 1
_NO_PARTIAL_WILDCARDS = 4
_LEVEL = 1
_MATCHING = {Digest.SHA2_256: 1, Digest.SHA2_512: 2}


class Verdict(NamedTuple):
    """`usable`: of each record, whether libssl took it. `error`: X509_V_ERR_*, 0 where the peer is authenticated; then
    `record` matched at `depth`. None is None where no record was usable: there is nothing to verify with."""

    usable: tuple[bool, ...]
    error: int | None = None
    depth: int | None = None
    record: TLSA | None = None


def version() -> str:
    return str(_crypto().OpenSSL_version(0).decode())


def verify(
    chain: Sequence[bytes],
    records: Sequence[TLSA],
    names: Sequence[str],
    now: datetime,
    digests: Sequence[Digest] = (Digest.SHA2_512, Digest.SHA2_256),
) -> Verdict:
    """As `postern_sidecar.dane`; records of usage 0 and 1 are not given to libssl, for which they are PKIX."""
    session = _ssl().SSL_new(_context(tuple(digests)))
    try:
        base, *others = names or ("",)
        assert _ssl().SSL_dane_enable(session, base.encode() or None) == 1
        _ssl().SSL_set_hostflags(session, _NO_PARTIAL_WILDCARDS)
        for name in others:
            assert _ssl().SSL_add1_host(session, name.encode()) == 1
        usable = tuple(record.usage > 1 and _add(session, record) for record in records)
        return Verdict(usable, *_verify(session, chain, now)) if any(usable) else Verdict(usable)
    finally:
        _ssl().SSL_free(session)
        _crypto().ERR_clear_error()


def _add(session: c_void_p, record: TLSA) -> bool:
    """1: taken, 0: not; -1 for an empty Full(0), for which it finds no memory."""
    arguments = record.usage, record.selector, record.matching, record.data, len(record.data)
    return bool(_ssl().SSL_dane_tlsa_add(session, *arguments) == 1)


def _verify(session: c_void_p, chain: Sequence[bytes], now: datetime) -> tuple[int, int | None, TLSA | None]:
    crypto, ssl = _crypto(), _ssl()
    store, untrusted = crypto.X509_STORE_new(), crypto.OPENSSL_sk_new_null()
    context = crypto.X509_STORE_CTX_new()
    try:
        for der in chain:
            crypto.OPENSSL_sk_push(untrusted, _certificate(der))
        assert crypto.X509_STORE_CTX_init(context, store, _certificate(chain[0]), untrusted) == 1
        parameters = crypto.X509_STORE_CTX_get0_param(context)
        crypto.X509_VERIFY_PARAM_set_auth_level(parameters, _LEVEL)
        crypto.X509_STORE_CTX_set0_dane(context, ssl.SSL_get0_dane(session))
        assert crypto.X509_STORE_CTX_set_default(context, b"ssl_server") == 1
        assert crypto.X509_VERIFY_PARAM_set1(parameters, ssl.SSL_get0_param(session)) == 1
        crypto.X509_VERIFY_PARAM_set_time(parameters, int(now.timestamp()))
        if crypto.X509_verify_cert(context) > 0:
            return 0, ssl.SSL_get0_dane_authority(session, None, None), _matched(session)
        return crypto.X509_STORE_CTX_get_error(context), None, None
    finally:
        crypto.X509_STORE_CTX_free(context)
        crypto.OPENSSL_sk_free(untrusted)
        crypto.X509_STORE_free(store)


def _matched(session: c_void_p) -> TLSA:
    usage, selector, matching, data, size = c_ubyte(), c_ubyte(), c_ubyte(), c_void_p(), c_size_t()
    _ssl().SSL_get0_dane_tlsa(session, byref(usage), byref(selector), byref(matching), byref(data), byref(size))
    return TLSA(usage.value, selector.value, matching.value, ctypes.string_at(data, size.value))


@functools.lru_cache(maxsize=4096)
def _certificate(der: bytes) -> c_void_p:
    """For ever: the tests' certificates are few."""
    start = c_char_p(der)
    made = _crypto().d2i_X509(None, byref(start), len(der))
    assert made, "OpenSSL cannot read this certificate"
    return c_void_p(made)


@functools.cache
def _context(digests: tuple[Digest, ...]) -> c_void_p:
    context = c_void_p(_ssl().SSL_CTX_new(_ssl().TLS_client_method()))
    assert _ssl().SSL_CTX_dane_enable(context) == 1
    _ssl().SSL_CTX_dane_set_flags(context, _NO_DANE_EE_NAMECHECKS)
    for digest, hashing in ((Digest.SHA2_256, _crypto().EVP_sha256()), (Digest.SHA2_512, _crypto().EVP_sha512())):
        counts = digest in digests
        ordinal = len(digests) - digests.index(digest) if counts else 0
        set_ = _ssl().SSL_CTX_dane_mtype_set(context, hashing if counts else None, _MATCHING[digest], ordinal)
        assert set_ == 1
    return context


@functools.cache
def _crypto() -> ctypes.CDLL:
    return _library(
        "crypto",
        pointers="X509_STORE_new OPENSSL_sk_new_null X509_STORE_CTX_new X509_STORE_CTX_get0_param d2i_X509 "
        "EVP_sha256 EVP_sha512",
        arguments={
            "OPENSSL_sk_push": [c_void_p, c_void_p],
            "OPENSSL_sk_free": [c_void_p],
            "X509_STORE_free": [c_void_p],
            "X509_STORE_CTX_free": [c_void_p],
            "X509_STORE_CTX_init": [c_void_p, c_void_p, c_void_p, c_void_p],
            "X509_STORE_CTX_get0_param": [c_void_p],
            "X509_STORE_CTX_set0_dane": [c_void_p, c_void_p],
            "X509_STORE_CTX_set_default": [c_void_p, c_char_p],
            "X509_STORE_CTX_get_error": [c_void_p],
            "X509_VERIFY_PARAM_set_auth_level": [c_void_p, c_int],
            "X509_VERIFY_PARAM_set1": [c_void_p, c_void_p],
            "X509_VERIFY_PARAM_set_time": [c_void_p, c_long],
            "X509_verify_cert": [c_void_p],
            "d2i_X509": [c_void_p, POINTER(c_char_p), c_long],
            "OpenSSL_version": [c_int],
        },
        strings="OpenSSL_version",
    )


@functools.cache
def _ssl() -> ctypes.CDLL:
    return _library(
        "ssl",
        pointers="TLS_client_method SSL_CTX_new SSL_new SSL_get0_dane SSL_get0_param",
        arguments={
            "SSL_CTX_new": [c_void_p],
            "SSL_CTX_dane_enable": [c_void_p],
            "SSL_CTX_dane_set_flags": [c_void_p, c_ulong],
            "SSL_CTX_dane_mtype_set": [c_void_p, c_void_p, c_ubyte, c_ubyte],
            "SSL_new": [c_void_p],
            "SSL_free": [c_void_p],
            "SSL_dane_enable": [c_void_p, c_char_p],
            "SSL_set_hostflags": [c_void_p, c_int],
            "SSL_add1_host": [c_void_p, c_char_p],
            "SSL_dane_tlsa_add": [c_void_p, c_ubyte, c_ubyte, c_ubyte, c_char_p, c_size_t],
            "SSL_get0_dane": [c_void_p],
            "SSL_get0_param": [c_void_p],
            "SSL_get0_dane_authority": [c_void_p, c_void_p, c_void_p],
            "SSL_get0_dane_tlsa": [c_void_p, *(POINTER(c_ubyte),) * 3, POINTER(c_void_p), POINTER(c_size_t)],
        },
    )


def _library(name: str, *, pointers: str, arguments: dict[str, list[object]], strings: str = "") -> ctypes.CDLL:
    found = ctypes.util.find_library(name)
    assert found, f"no lib{name} on this system"
    library = ctypes.CDLL(found)
    for function in pointers.split():
        getattr(library, function).restype = c_void_p
    for function, types in arguments.items():
        getattr(library, function).argtypes = types
    for function in strings.split():
        getattr(library, function).restype = c_char_p
    return library
