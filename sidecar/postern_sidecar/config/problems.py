"""What is wrong with a policy: one value for each finding, and the words that findings share.

A `Problem` says where (file, line, path), what is wrong and what would be right. It knows nothing of how it was found.
`InvalidPolicy` and `Unreadable` are the only exceptions that a caller of `config.load` has to handle.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_SHOWN = 80
_MAX_LISTED = 20


class Severity(enum.Enum):
    ERROR = "error"  # the policy is refused
    WARNING = "warning"  # it is accepted; what it gives away is said


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. `path` is like `spec.inbound[0].proxyProtocol.requiredFrom[2]`; `file` is "" and `line` 0 where no
    file is known."""

    file: str
    line: int
    path: str
    message: str
    remedy: str
    severity: Severity = Severity.ERROR

    @property
    def warning(self) -> bool:
        return self.severity is Severity.WARNING

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part)
        what = f"{self.message}; {self.remedy}" if self.remedy else self.message
        kind = "warning" if self.warning else ""
        return _printable(": ".join(part for part in (place, kind, self.path, what) if part))


def _printable(text: str) -> str:
    """Parts of the file are quoted by libraries too, and a message is one line on somebody's terminal."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def error(path: str, message: str, remedy: str, line: int = 0) -> Problem:
    return Problem("", line, path, message, remedy)


def warning(path: str, message: str, remedy: str) -> Problem:
    return Problem("", 0, path, message, remedy, Severity.WARNING)


class InvalidPolicy(Exception):  # noqa: N818 - it is the policy that is wrong, not the program
    """The file is no policy that can be run. `problems` holds all of them, warnings too, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Unreadable(Exception):  # noqa: N818
    """There is no file to judge. The text names the file and the remedy."""


def join(path: str, step: str | int) -> str:
    """The path of a member (`str`) or an item (`int`) of what stands at `path`."""
    if isinstance(step, int):
        return f"{path}[{step}]"
    if not _PLAIN_KEY.fullmatch(step):
        return f"{path}[{shown(step)}]"
    return f"{path}.{step}" if path else step


def shown(value: object) -> str:
    """A value of the file in a message: escaped and bounded."""
    text = ascii(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 4]}...{text[0]}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that `name` was most probably meant to be, or ""."""
    from difflib import get_close_matches  # only where there is something to guess

    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else ""


def suggestion(name: str, known: Iterable[str]) -> str:
    """The remedy for a name that is none of `known`; a long list is left to the documentation."""
    names = tuple(known)
    guess = nearest(name, names)
    allowed = f"known here: {', '.join(names)}" if len(names) <= _MAX_LISTED else "docs/rules.md lists what is known"
    return f"did you mean {guess}? ({allowed})" if guess else allowed
