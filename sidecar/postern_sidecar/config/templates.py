"""Rule messages: text with `${name}` in it, compiled once.

`$${` stands for a literal `${`; any other `$` is itself. There is no expansion language here: that is what conditions
are for. The result is printable ASCII (RFC 5321 4.2: reply text), everything else as xNN behind a backslash, and
bounded, because some of the values were written by peers. Booleans read yes and no, as in Exim. `compile_template`
raises TemplateError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .problems import shown, suggestion
from .vocabulary import VARIABLES, Variable

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TEXT = 400  # octets; a reply line is at most 512 with its code, and a log field is cut at 256
_TOKEN = re.compile(r"(\$\$\{)|\$\{([^}]*)(\})?")
_UNPRINTABLE = re.compile(rb"[^ -~]")
_CUT_ESCAPE = re.compile(r"\\(x[0-9a-f]?)?\Z")


class TemplateError(Exception):
    """`problems` are pairs: what is wrong, and what would be right."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(message for message, _ in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Template:
    """`parts` alternates: text, name, text, ..., text."""

    parts: tuple[str, ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.parts[1::2])

    def fill(self, variables: Mapping[str, Variable]) -> str:
        words = [_word(variables[part]) if odd % 2 else part for odd, part in enumerate(self.parts)]
        return printable("".join(words))


def compile_template(text: str) -> Template:
    """Raises TemplateError."""
    parts = [""]
    problems: list[tuple[str, str]] = []
    end = 0
    for match in _TOKEN.finditer(text):
        parts[-1] += text[end : match.start()]
        end = match.end()
        escaped, name, closed = match.groups()
        if escaped:
            parts[-1] += "${"
        elif not closed:
            problems.append(("${ without its }", "close it, or write $${ for the two characters"))
        elif name not in VARIABLES:
            problems.append((f"unknown variable {shown(name)}", suggestion(name, VARIABLES)))
        else:
            parts += [name, ""]
    parts[-1] += text[end:]
    if problems:
        raise TemplateError(problems)
    return Template(tuple(parts))


def _word(value: Variable) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def printable(text: str) -> str:
    """At most MAX_TEXT characters of printable ASCII; an escape is never cut in two."""
    octets = text[:MAX_TEXT].encode("utf-8", "replace")
    escaped = _UNPRINTABLE.sub(lambda octet: b"\\x%02x" % octet[0][0], octets).decode("ascii")
    return escaped if len(escaped) <= MAX_TEXT else _CUT_ESCAPE.sub("", escaped[:MAX_TEXT])
