"""YAML 1.2 (core schema, section 10.3.2) with line numbers, from ruamel.yaml's events.

ruamel.yaml scans and parses; composing and resolving are done here, because its own composer recurses without a bound
and its resolver also knows what YAML 1.2 does not: merge keys, timestamps, `1_000`. So `on`, `yes` and `1:30` are text
and `010` is ten. Refused, each with a reason: aliases that expand without end, tags, several documents, directives.
Raises Unparsable.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .problems import error, join, shown
from .tree import (
    MAX_NODES,
    Document,
    Members,
    Node,
    Scalar,
    Unparsable,
    described,
    guard_depth,
    integer,
    text_problem,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ruamel.yaml.events import Event

_INTEGER = re.compile(r"[-+]?[0-9]+", re.ASCII)
_OTHER_INTEGER = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", re.ASCII
)
_DOT_BEFORE_A_NAME = re.compile(r"\.(?=[iInN])")
_NAMED: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_CORE = frozenset(f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "int", "float", "bool", "null"))
_TEXT = frozenset(("tag:yaml.org,2002:str", "!"))


def resolve(text: str) -> Scalar:
    """What a plain scalar means in the core schema."""
    if text in _NAMED:
        return _NAMED[text]
    if _INTEGER.fullmatch(text):
        return integer(text)
    if _OTHER_INTEGER.fullmatch(text) and len(text) <= 20:
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(_DOT_BEFORE_A_NAME.sub("", text))
    return text


def read(text: str) -> Document:
    return _Composer(_events(text)).document()


def _events(text: str) -> Iterator[Any]:
    from ruamel.yaml import YAML  # 6 MB that a sidecar in a cluster never needs
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.reader import ReaderError

    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as problem:
        line = problem.problem_mark.line + 1 if problem.problem_mark else 0
        said = " ".join(str(part) for part in (problem.context, problem.problem) if part)
        raise Unparsable(line, f"is not YAML: {said}", "correct the indentation or the quotes there") from None
    except ReaderError as problem:
        line = text.count("\n", 0, problem.position) + 1
        message = f"has a character that YAML forbids, U+{problem.character:04X}"
        raise Unparsable(line, message, "take it out, or write it as an escape in double quotes") from None
    except (ValueError, OverflowError, AssertionError):  # ruamel's own slips, for \UFFFFFFFF and %YAML 1.9
        message = "is not YAML 1.2: an escape beyond U+10FFFF, or a %YAML directive of another version"
        raise Unparsable(0, message, "take it out") from None


class _Composer:
    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, Node] = {}
        self._document = Document(Node(1, None))

    def document(self) -> Document:
        next(self._events)  # the stream's start
        start = next(self._events)
        if type(start).__name__ != "DocumentStartEvent":
            raise Unparsable(1, "the file is empty", "write a MailProxyPolicy manifest into it")
        if start.version not in (None, (1, 2)):
            self._complain("", start, "declares another YAML version", "leave the %YAML line out; the file is YAML 1.2")
        self._document.root = self._node(next(self._events), "", 1)
        next(self._events)  # the document's end
        after = next(self._events)
        if type(after).__name__ != "StreamEndEvent":
            self._complain("", after, "a second document begins here", "write one policy to a file")
        return self._document

    def _complain(self, path: str, event: Event, message: str, remedy: str) -> None:
        self._document.problems.append(error(path, message, remedy, event.start_mark.line + 1))

    def _node(self, event: Any, path: str, depth: int) -> Node:
        line = event.start_mark.line + 1
        guard_depth(depth, line)
        kind = type(event).__name__
        if kind == "AliasEvent":
            return self._alias(event, path, line)
        self._check_tag(event, path)
        if kind == "ScalarEvent":
            node = Node(line, self._scalar(event, path))
        elif kind == "MappingStartEvent":
            node = self._mapping(path, line, depth)
        else:
            node = self._sequence(path, line, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: Any, path: str, line: int) -> Node:
        target = self._anchors.get(event.anchor)
        if target is None:
            self._complain(path, event, f"*{event.anchor} refers to nothing before it", f"write &{event.anchor} first")
            return Node(line, None)
        return Node(line, target.value, target.size)

    def _check_tag(self, event: Any, path: str) -> None:
        if event.tag is not None and event.tag not in _CORE | _TEXT:
            self._complain(path, event, f"has the tag {shown(event.tag)}", "leave it out: a policy is plain YAML")

    def _scalar(self, event: Any, path: str) -> Scalar:
        text: str = event.value
        problem = text_problem(text, path, event.start_mark.line + 1)
        if problem is not None:
            self._document.problems.append(problem)
        return resolve(text) if event.style is None and event.tag not in _TEXT else text

    def _mapping(self, path: str, line: int, depth: int) -> Node:
        members = Members(path, self._document.problems)
        node = Node(line, members.nodes)
        while type(event := next(self._events)).__name__ != "MappingEndEvent":
            key = self._key(event, path, depth)
            member = self._node(next(self._events), join(path, key), depth + 1)
            members.add(key, event.start_mark.line + 1, member)
            self._grow(node, member)
        return node

    def _key(self, event: Any, path: str, depth: int) -> str:
        value = self._node(event, path, depth + 1).value
        if not isinstance(value, str):
            self._complain(path, event, f"has a key that is {described(value)}", "write text, in quotes if need be")
            return described(value)
        if value == "<<":
            self._complain(path, event, "has a merge key, <<, which YAML 1.2 does not know", "write the fields out")
        return value

    def _sequence(self, path: str, line: int, depth: int) -> Node:
        items: list[Node] = []
        node = Node(line, items)
        while type(event := next(self._events)).__name__ != "SequenceEndEvent":
            item = self._node(event, join(path, len(items)), depth + 1)
            items.append(item)
            self._grow(node, item)
        return node

    def _grow(self, node: Node, member: Node) -> None:
        node.size += member.size
        if node.size > MAX_NODES:
            message = f"comes to more than {MAX_NODES} values when its aliases are expanded"
            raise Unparsable(node.line, message, "write out what is meant")
