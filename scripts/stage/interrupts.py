"""Ctrl-C, and SIGTERM and SIGHUP likewise: an interruption comes once, and only where all that was made can be undone.

Outside `allowed()` it waits; nothing interrupts the tidying up.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    def __init__(self) -> None:
        self._allowed = False
        self._pending = False

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """The signals are ours, inside; the handlers of before are back afterwards."""
        before = {number: signal.signal(number, self._came) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Raises KeyboardInterrupt, at once if a signal has waited."""
        self._allowed = True
        try:
            self.check()
            yield
            self.check()  # it may have come where Python drops exceptions, in a destructor
        finally:
            self._allowed = False

    def check(self) -> None:
        """Raises KeyboardInterrupt if a signal has waited."""
        if self._pending:
            self._interrupt()

    def _came(self, _number: int, _frame: FrameType | None) -> None:
        self._pending = True
        if self._allowed:
            self._interrupt()

    def _interrupt(self) -> None:
        self._allowed = False
        raise KeyboardInterrupt
