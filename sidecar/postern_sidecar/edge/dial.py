"""A TCP connection to a next hop. Whether the address may be dialled was asked before (`outbound.forbidden`)."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from postern_sidecar.outbound.commands import NO_DESCRIPTORS, Lost

from .channel import Channel

if TYPE_CHECKING:
    from collections.abc import Callable

    from postern_sidecar.names import Endpoint

    from .deadlines import Deadlines

_REASONS = {
    errno.ECONNREFUSED: "connect_refused",
    errno.EMFILE: NO_DESCRIPTORS,
    errno.ENFILE: NO_DESCRIPTORS,
    errno.ETIMEDOUT: "connect_timeout",
}


async def dial(
    deadlines: Deadlines, to: Endpoint, seconds: float, on_closed: Callable[[], None] | None = None
) -> Channel | Lost:
    """Within `seconds`. `on_closed` is called once, whatever becomes of it: when there is no socket any more."""
    loop = asyncio.get_running_loop()
    channel = Channel(deadlines, on_closed)
    connected = False
    try:
        async with asyncio.timeout(seconds):
            await loop.create_connection(lambda: channel, str(to.address), to.port)
        connected = True
        return channel
    except TimeoutError as error:
        kernel = error.errno is not None  # ETIMEDOUT is a TimeoutError too
        return Lost("connect_timeout", str(error.strerror) if kernel else f"no answer within {seconds:g} s")
    except OSError as error:
        return Lost(_REASONS.get(error.errno or 0, "unreachable"), error.strerror or str(error))
    finally:
        if not connected:
            channel.closed()
