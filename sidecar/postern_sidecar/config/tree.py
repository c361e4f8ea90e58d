"""A manifest as data with line numbers: what the two readers make, and the bounds that both keep.

A `Node` knows where it stood and nothing of what it means. Bounds: depth (a reader recurses), and nodes after aliases
are expanded (nine lines of YAML can stand for 10^9 nodes). Readers raise `Unparsable`, the only exception that a caller
has to handle; what can be read on after (a duplicate key) is collected in `Document.problems`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .problems import Problem, error, join, shown

MAX_DEPTH = 64  # metadata.managedFields of a real object is about 12 deep
MAX_NODES = 100_000

Scalar = str | int | float | bool | None
Value = Scalar | list["Node"] | dict[str, "Node"]


@dataclass(slots=True)
class Node:
    """`line` is where its key stands, or itself where it has none; `size` counts the nodes below it, and itself."""

    line: int
    value: Value
    size: int = 1


@dataclass(slots=True)
class Document:
    root: Node
    problems: list[Problem] = field(default_factory=list)


class Unparsable(Exception):  # noqa: N818
    """This is neither YAML nor JSON, or not within the bounds: nothing else can be said of the file."""

    def __init__(self, line: int, message: str, remedy: str) -> None:
        super().__init__(message)
        self.problem = error("", message, remedy, line)


def guard_depth(depth: int, line: int) -> None:
    if depth > MAX_DEPTH:
        raise Unparsable(line, f"is nested more than {MAX_DEPTH} deep", "a policy is not")


class Members:
    """The members of a mapping as they are read. Of two with one key the first stays, the other is a problem."""

    __slots__ = ("_path", "_problems", "nodes")

    def __init__(self, path: str, problems: list[Problem]) -> None:
        self._path = path
        self._problems = problems
        self.nodes: dict[str, Node] = {}

    def add(self, key: str, line: int, node: Node) -> None:
        node.line = line
        first = self.nodes.setdefault(key, node)
        if first is not node:
            message = f"the key {shown(key)} stands here again, first on line {first.line}"
            self._problems.append(error(join(self._path, key), message, "keep one of the two", line))


def text_problem(text: str, path: str, line: int) -> Problem | None:
    """JSON can write half a surrogate pair, which no UTF-8 output could say again."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        return error(path, "has half a surrogate pair, which is no character", "write the character itself", line)
    return None


def integer(digits: str) -> int | float:
    """A decimal integer. One that is far out of every bound becomes a float: Python refuses to read very long ones."""
    return int(digits) if len(digits) <= 20 else float(digits)


def plain(node: Node) -> object:
    """The same without line numbers."""
    if isinstance(node.value, dict):
        return {key: plain(member) for key, member in node.value.items()}
    if isinstance(node.value, list):
        return [plain(item) for item in node.value]
    return node.value


def index(root: Node) -> dict[str, Node]:
    """Every node by its path."""
    found: dict[str, Node] = {}
    todo = [("", root)]
    while todo:
        path, node = todo.pop()
        found[path] = node
        if isinstance(node.value, dict):
            todo += [(join(path, key), member) for key, member in node.value.items()]
        elif isinstance(node.value, list):
            todo += [(join(path, number), item) for number, item in enumerate(node.value)]
    return found


def described(value: object) -> str:
    """What stands in the file, in a person's words."""
    match value:
        case None:
            return "empty"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {shown(value)}"
        case list():
            return "a list"
    return "a mapping"
