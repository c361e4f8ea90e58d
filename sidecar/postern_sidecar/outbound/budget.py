"""How much one transaction may spend: connections, addresses and time (contracts section 5, "Codes" and "Time").

The time is what deliveries take, not what the submitter takes between its commands: `begin` and `pause` stand around
each piece of work. Raises nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SESSIONS: Final = 5
ADDRESSES: Final = 10
RCPT_PHASE: Final = 120.0
DATA_PHASE: Final = 110.0  # DATA and what a replay before it takes: Postfix waits 120 s (lmtp_data_init_timeout)

CONNECT: Final = 10.0
GREETING: Final = 30.0  # banner and EHLO, each
TLS: Final = 30.0
DATA: Final = 60.0
EARLY: Final = 1.0  # for a reply that has come already


@dataclass(slots=True)
class Budget:
    """`sessions`, `addresses`: what is left of each. `seconds`: what is left while nothing is done."""

    monotonic: Callable[[], float]
    sessions: int = SESSIONS
    addresses: int = ADDRESSES
    seconds: float = RCPT_PHASE
    _until: float = 0.0

    def begin(self) -> None:
        self._until = self.monotonic() + self.seconds

    def pause(self) -> None:
        self.seconds = self.left

    @property
    def left(self) -> float:
        """Seconds, while something is done."""
        return max(0.0, self._until - self.monotonic())

    def within(self, seconds: float) -> float:
        return min(seconds, self.left)

    @property
    def another_session(self) -> bool:
        return self.sessions > 0 and self.left > 0

    @property
    def another_address(self) -> bool:
        return self.another_session and self.addresses > 0
