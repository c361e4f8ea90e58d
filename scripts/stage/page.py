"""What the demo writes: a claim, a sentence of what happens, and the evidence word for word.

Plain text of at most 100 columns. On a terminal there is some weight (bold, dim, green, red; none with NO_COLOR or
TERM=dumb) and a pause after each step, so that one can read along; into a pipe it runs as fast as it can.
"""

from __future__ import annotations

import shutil
import textwrap
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDEST = 100
NARROWEST = 60
INDENT = "   "
LABEL = 14  # columns for who said it
LAST = 12  # lines of a log that are worth showing where something went wrong

BOLD, DIM, RED, GREEN = "1", "2", "31", "32"


class Page:
    def __init__(self, stream: TextIO, *, width: int = WIDEST, colour: bool = False, pace: float = 0.0) -> None:
        self._stream = stream
        self._width = width
        self._colour = colour
        self._pace = pace

    @classmethod
    def on(cls, stream: TextIO, environ: Mapping[str, str]) -> Page:
        """As the stream deserves it; NO_COLOR as in no-color.org."""
        if not stream.isatty():
            return cls(stream)
        width = max(NARROWEST, min(WIDEST, shutil.get_terminal_size().columns))
        colour = not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        return cls(stream, width=width, colour=colour, pace=0.4)

    def pause(self, beats: float = 1.0) -> None:
        if self._pace:
            time.sleep(self._pace * beats)

    def blank(self) -> None:
        self._write("")

    def title(self, text: str) -> None:
        self._write(self._paint(BOLD, text))

    def claim(self, number: int, text: str, saying: str) -> None:
        self.blank()
        self._write(self._paint(BOLD, f"{number:<{len(INDENT)}}{text}"))
        self.paragraph(saying)
        self.pause()

    def paragraph(self, text: str) -> None:
        for line in textwrap.wrap(text, self._width - len(INDENT), break_on_hyphens=False):
            self._write(INDENT + line)

    def plain(self, text: str) -> None:
        """Lines that are shown as they stand: a file, a table."""
        for line in text.splitlines():
            self._write(f"{INDENT}{line}".rstrip())

    def evidence(self, who: str, text: str, *, mark: str = "", width: int = LABEL) -> None:
        """`text` is another program's, word for word; only line ends are ours. `mark` is what to look at in it."""
        label = f"{who:<{width}}"
        for line in self._wrapped(text, len(INDENT) + width):
            shown = line.replace(mark, self._paint(BOLD, mark)) if mark else line
            self._write(f"{INDENT}{self._paint(DIM, label)}{shown}".rstrip())
            label = " " * width
        self.pause(0.3)

    def row(self, *cells: str, widths: Sequence[int]) -> None:
        """The last cell may be long."""
        *first, last = cells
        left = "".join(f"{cell:<{width}}" for cell, width in zip(first, widths, strict=True))
        for line in self._wrapped(last, len(INDENT) + len(left)):
            self._write(f"{INDENT}{left}{line}")
            left = " " * len(left)

    def held(self, text: str) -> None:
        self._write(f"{INDENT}{self._paint(GREEN, 'held')}      {text}")

    def not_held(self, text: str) -> None:
        """`text` may be long: a whole log, of which the beginning says what was missed and the end what was there."""
        first, *rest = text.splitlines() or [""]
        self._write(f"{INDENT}{self._paint(RED, 'NOT HELD')}  {first}")
        for line in ["...", *rest[-LAST:]] if len(rest) > LAST else rest:
            self._write(f"{INDENT}          {line}")

    def good(self, text: str) -> None:
        self._write(self._paint(GREEN, text))

    def bad(self, text: str) -> None:
        self._write(self._paint(RED, text))

    def _wrapped(self, text: str, left: int) -> list[str]:
        lines: list[str] = []
        for line in text.expandtabs(2).splitlines():
            lines += textwrap.wrap(line, self._width - left, subsequent_indent="  ", break_on_hyphens=False) or [""]
        return lines

    def _paint(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._colour else text

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()
