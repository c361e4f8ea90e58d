"""Connections of `check` to others than the API server: TLS to the webhook, TCP to backends. Time-limited, few at once.

Raises nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from .facts import Served

if TYPE_CHECKING:
    from collections.abc import Sequence

TLS_TIME = 5.0
CONNECT_TIME = 1.0


async def served(host: str, port: int, name: str, trusted: Sequence[x509.Certificate]) -> Served:
    """As the API server judges it: by the caBundle alone, for this name."""
    target = f"{host}:{port}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata="".join(each.public_bytes(Encoding.PEM).decode() for each in trusted))
    try:
        async with asyncio.timeout(TLS_TIME):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    except TimeoutError:
        return Served(target, f"no answer within {TLS_TIME:g} s")
    except ssl.SSLCertVerificationError as problem:
        return Served(target, f"its certificate is not what the API server trusts: {problem.verify_message}")
    except (OSError, ValueError) as problem:
        return Served(target, str(problem) or type(problem).__name__)
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return Served(target, expires=x509.load_der_x509_certificate(shown).not_valid_after_utc)
    finally:
        writer.transport.abort()


async def answers(address: str, port: int) -> bool:
    """Does it take a connection? Nothing is sent."""
    with contextlib.suppress(TimeoutError, OSError, ValueError):
        async with asyncio.timeout(CONNECT_TIME):
            _, writer = await asyncio.open_connection(address, port)
        writer.transport.abort()
        return True
    return False
