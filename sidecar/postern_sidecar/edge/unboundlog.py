"""What Unbound says on its standard error, as far as it is worth a line in the log: errors, warnings, and validations
that failed. LINES of them a MINUTE; what more there is, is counted. The clock comes in.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

LINES: Final = 20
MINUTE: Final = 60.0
LINE: Final = 400  # characters
_LOGGED: Final = re.compile(r"\[\d+\] unbound\[\d+:\w+\] (?:([a-z ]+): )?(.*)")
_DULL: Final = frozenset({"debug", "info", "notice", "query", "reply"})
_SERVES: Final = "start of service"
_FAILURE: Final = "validation failure"


class UnboundLog:
    """`expected`: the name that the self-test breaks on, as Unbound writes it."""

    def __init__(self, say: Callable[[str], None], expected: str) -> None:
        self._expected = f"{_FAILURE} {expected} "
        self._say = say
        self._since = 0.0
        self._said = 0
        self._left_out = 0

    def take(self, line: str, now: float) -> bool:
        """True: it says that it serves."""
        found = _LOGGED.fullmatch(line)
        level, text = (found[1] or "", found[2]) if found else ("", line)
        if text.startswith(_SERVES):
            return True
        failure = text.startswith(_FAILURE) and not text.startswith(self._expected)
        if text and (level not in _DULL or failure):
            self._forward(text[:LINE], now)
        return False

    def _forward(self, text: str, now: float) -> None:
        if now - self._since >= MINUTE:
            if self._left_out:
                self._say(f"unbound said {self._left_out} lines more")
            self._since, self._said, self._left_out = now, 0, 0
        if self._said < LINES:
            self._said += 1
            self._say(f"unbound: {text}")
        else:
            self._left_out += 1
