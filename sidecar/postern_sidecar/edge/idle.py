"""The pool, as the loop keeps it: `outbound.pool` decides, this closes what is old, and what its peer closes.

A peer has nothing to say to an idle connection. One that speaks (421, before it closes) or goes is dropped at once, so
that whoever takes a connection out of here has reason to believe that it is alive.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from postern_sidecar.outbound.link import Link
    from postern_sidecar.outbound.plan import PoolKey
    from postern_sidecar.outbound.pool import Pool

    from .channel import Channel


def channel_of(link: Link) -> Channel:
    return cast("Channel", link.channel)


class IdleLinks:
    """Idle connections of one event loop."""

    __slots__ = ("_loop", "_timer", "pool")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self.pool)

    def take(self, key: PoolKey) -> Link | None:
        link = self.pool.take(key, self._loop.time())
        if link is not None:
            channel_of(link).on_idle = None
        return link

    def keep(self, link: Link) -> None:
        channel = channel_of(link)
        if channel.pending_reply:  # it is out of step, or gone
            channel.close()
            return
        channel.on_idle = lambda _: self._lost(link)
        for out in self.pool.keep(link, self._loop.time()):
            channel_of(out).close(quit=True)
        self._watch()

    def drop_oldest(self) -> bool:
        """At once: somebody has no descriptor. False: there is none here."""
        link = self.pool.oldest()
        if link is not None:
            channel_of(link).close()
        return link is not None

    def close(self) -> None:
        """All of them: the process ends."""
        for link in self.pool.clear():
            channel_of(link).close(quit=True)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _lost(self, link: Link) -> None:
        self.pool.remove(link)
        channel_of(link).close()

    def _watch(self) -> None:
        when = self.pool.next_expiry()
        if self._timer is None and when is not None:
            self._timer = self._loop.call_at(when, self._expire)

    def _expire(self) -> None:
        self._timer = None
        for link in self.pool.expired(self._loop.time() + 0.001):  # uvloop's timers count milliseconds
            channel_of(link).close(quit=True)
        self._watch()
