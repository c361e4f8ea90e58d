"""Addresses that did not connect: for SECONDS nobody tries them again (contracts section 5, "Time").

An address with its port: one that refuses mail on 587 may take it on 25. At most MOST are remembered; the oldest is
forgotten first. The clock comes in, in monotonic seconds. Raises nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from postern_sidecar.names import Endpoint

SECONDS: Final = 60.0
MOST: Final = 4096  # 1.3 MiB (measured, IPv6); a delivery tries ten addresses at most


class Unreachable:
    """What did not connect, and why."""

    __slots__ = ("_most", "_until")

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._until: OrderedDict[Endpoint, tuple[float, str]] = OrderedDict()  # the oldest first

    def __len__(self) -> int:
        return len(self._until)

    def remember(self, endpoint: Endpoint, reason: str, now: float) -> None:
        """`reason`: `Lost.reason` of the attempt."""
        self._until.pop(endpoint, None)
        self._until[endpoint] = (now + SECONDS, reason)
        if len(self._until) > self._most:
            self._until.popitem(last=False)

    def why(self, endpoint: Endpoint, now: float) -> str | None:
        """The reason of a failure that is not old enough to be tried again."""
        known = self._until.get(endpoint)
        if known is None:
            return None
        until, reason = known
        if now < until:
            return reason
        del self._until[endpoint]
        return None

    def connected(self, endpoint: Endpoint) -> None:
        """It is reachable after all: somebody's attempt had begun before the failure."""
        self._until.pop(endpoint, None)
