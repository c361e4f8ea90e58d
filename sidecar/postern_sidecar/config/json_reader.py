"""JSON (RFC 8259) with line numbers. The text is known to be JSON: `json.loads` has read it, or said where it is not.

Decides nothing beyond the bounds of `config.tree`. Raises Unparsable.
"""

from __future__ import annotations

import json
import re

from .problems import join
from .tree import Document, Members, Node, Unparsable, guard_depth, integer, text_problem

_SPACE = re.compile(r"[ \t\n\r]*")


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_int=integer, parse_constant=_constant)


def read(text: str) -> Document:
    try:
        _DECODER.decode(text)
    except json.JSONDecodeError as problem:
        raise Unparsable(problem.lineno, f"is not JSON: {problem.msg}", "correct it, or write YAML") from None
    except ValueError as problem:
        raise Unparsable(1, str(problem), "write a number") from None
    except RecursionError:
        guard_depth(len(text), 1)
    return _Reader(text).document()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._counted = 0  # newlines before here are in _line
        self._document = Document(Node(1, None))

    def document(self) -> Document:
        self._document.root = self._value("", 1)
        return self._document

    def _skip(self) -> str:
        """The next character that is not space."""
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._text[self._at]

    def _scalar(self) -> str | int | float | bool | None:
        value: str | int | float | bool | None
        value, self._at = _DECODER.raw_decode(self._text, self._at)
        return value

    def _value(self, path: str, depth: int) -> Node:
        character = self._skip()
        line = self._line
        guard_depth(depth, line)
        if character == "{":
            return Node(line, self._members(path, depth))
        if character == "[":
            return Node(line, self._items(path, depth))
        value = self._scalar()
        if isinstance(value, str) and (problem := text_problem(value, path, line)):
            self._document.problems.append(problem)
        return Node(line, value)

    def _members(self, path: str, depth: int) -> dict[str, Node]:
        members = Members(path, self._document.problems)
        self._at += 1
        while self._skip() != "}":
            if self._text[self._at] == ",":
                self._at += 1
                self._skip()
            line = self._line
            key = str(self._scalar())
            self._skip()
            self._at += 1  # the colon
            members.add(key, line, self._value(join(path, key), depth + 1))
        self._at += 1
        return members.nodes

    def _items(self, path: str, depth: int) -> list[Node]:
        items: list[Node] = []
        self._at += 1
        while self._skip() != "]":
            if self._text[self._at] == ",":
                self._at += 1
            items.append(self._value(join(path, len(items)), depth + 1))
        self._at += 1
        return items
