"""A TCP connection to a next hop. Whether the address may be dialled was asked before (`outbound.forbidden`)."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from postern_sidecar.outbound.commands import Lost

from .channel import Channel

if TYPE_CHECKING:
    from postern_sidecar.names import Endpoint

    from .deadlines import Deadlines

_REASONS = {
    errno.ECONNREFUSED: "connect_refused",
    errno.EMFILE: "no_descriptors",
    errno.ENFILE: "no_descriptors",
    errno.ETIMEDOUT: "connect_timeout",
}


async def dial(deadlines: Deadlines, to: Endpoint, seconds: float) -> Channel | Lost:
    """Within `seconds`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            _, channel = await loop.create_connection(lambda: Channel(deadlines), str(to.address), to.port)
            return channel
    except TimeoutError as error:
        kernel = error.errno is not None  # ETIMEDOUT is a TimeoutError too
        return Lost("connect_timeout", str(error.strerror) if kernel else f"no answer within {seconds:g} s")
    except OSError as error:
        return Lost(_REASONS.get(error.errno or 0, "unreachable"), error.strerror or str(error))
