"""Idle connections to next hops: which one a transaction may take, and how long one is kept.

A connection is taken only under the very key that it was kept with (contracts section 5, "Pool key"; RFC 7672 3.2.2);
a TLSA set that has changed makes another key. It carries `limits.reuse` transactions at most, and is idle for
`limits.idle` at most. All keys together keep MOST connections; when one more comes, the oldest goes.

Pure: what is to be closed is returned. The clock comes in, in monotonic seconds. Raises nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .link import Link
    from .plan import PoolKey

MOST: Final = 512  # a quarter of limits.connections; an idle TLS connection takes 45 KiB (measured)


@dataclass(slots=True)
class Pool:
    """`reuse`: transactions over one connection. `idle`: seconds. Both may be changed by a reload at any time."""

    reuse: int
    idle: float
    most: int = MOST
    _kept: OrderedDict[Link, float] = field(default_factory=OrderedDict)  # and since when, the oldest first
    _by_key: dict[PoolKey, list[Link]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, key: PoolKey, now: float) -> Link | None:
        """The one that was used last: the others may grow old and go. It is no longer in the pool."""
        links = self._by_key.get(key)
        if links is None or now >= self._kept[links[-1]] + self.idle:  # too old, then so are the others
            return None
        link = links[-1]
        self.remove(link)
        return link

    def keep(self, link: Link, now: float) -> list[Link]:
        """Returns those that are to be closed: this one, where it may not be kept, or an older one."""
        if link.key is None or link.used >= self.reuse:
            return [link]
        self._kept[link] = now
        self._by_key.setdefault(link.key, []).append(link)
        return [] if len(self._kept) <= self.most else [self._oldest()]

    def remove(self, link: Link) -> bool:
        """It was taken, or lost while idle. False: it was not here."""
        if self._kept.pop(link, None) is None:
            return False
        assert link.key is not None  # noqa: S101 - `keep` saw to it
        links = self._by_key[link.key]
        links.remove(link)
        if not links:
            del self._by_key[link.key]
        return True

    def expired(self, now: float) -> list[Link]:
        """Those that have been idle for too long; they are no longer in the pool."""
        old: list[Link] = []
        while self._kept and now >= next(iter(self._kept.values())) + self.idle:
            old.append(self._oldest())
        return old

    def oldest(self) -> Link | None:
        """To be closed for want of descriptors; it is no longer in the pool."""
        return self._oldest() if self._kept else None

    def clear(self) -> list[Link]:
        """All of them, at the end of the process."""
        links = list(self._kept)
        self._kept.clear()
        self._by_key.clear()
        return links

    def next_expiry(self) -> float | None:
        """When `expired` will have something to return."""
        return next(iter(self._kept.values())) + self.idle if self._kept else None

    def _oldest(self) -> Link:
        link = next(iter(self._kept))
        self.remove(link)
        return link
