"""Reading a policy: the file's bytes to a `Policy`, or all that is wrong with it at once.

JSON that is right takes a short way, without positions: that is what a sidecar in a cluster reads, and reads again at
each reload. Everything else is read with line numbers (`json_reader`, `yaml_reader`), walked (`walk`) and checked
(`checks`); what is broken in one place does not hide what is wrong in another.
Raises InvalidPolicy and Unreadable, nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from . import checks, json_reader, rule_checks, tree
from .model import Inbound, LabelSelector, Logging, Policy, Rule
from .problems import InvalidPolicy, Problem, Unreadable, error, join
from .tree import Document, Node, Unparsable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

MAX_SIZE = 1 << 20
"""Octets of a file: a ConfigMap holds no more."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Loaded:
    """`data` is the file as it was read: its hash is the configuration's."""

    policy: Policy
    data: bytes
    warnings: tuple[Problem, ...]


def load(source: Path | bytes, filename: str = "") -> Loaded:
    """Raises InvalidPolicy, and for a path Unreadable. `filename` is the name in messages."""
    data = source if isinstance(source, bytes) else read(source)
    filename = filename or ("policy" if isinstance(source, bytes) else str(source))
    policy, found = _judge(data, filename)
    found = tuple(replace(problem, file=filename) for problem in found)
    if policy is None or not all(problem.warning for problem in found):
        raise InvalidPolicy(found)
    return Loaded(policy, data, tuple(found))


def read(path: Path) -> bytes:
    """The file's bytes, one more than allowed at most. Raises Unreadable, which names the remedy."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_SIZE + 1)
    except FileNotFoundError:
        raise Unreadable(f"{path}: there is no such file; give the path of a MailProxyPolicy manifest") from None
    except IsADirectoryError:
        raise Unreadable(f"{path}: is a directory; give the file in it, such as {path / 'policy.json'}") from None
    except PermissionError:
        raise Unreadable(f"{path}: no permission; let the user that runs postern-sidecar read it") from None
    except OSError as problem:
        raise Unreadable(f"{path}: cannot be read: {problem.strerror}") from None


def _judge(data: bytes, filename: str) -> tuple[Policy | None, Sequence[Problem]]:
    """The policy, if its shape is right, and what was found, in the order of the file."""
    if len(data) > MAX_SIZE:
        return None, [error("", f"is larger than {MAX_SIZE} octets", "a policy is not; is this the right file?")]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        return None, [error("", f"is not UTF-8 at octet {problem.start}", "save the file as UTF-8", line)]
    policy = _quickly(text)
    if policy is not None:
        found = checks.check(policy)
        if not found:
            return policy, ()
    try:
        document = _parse(text, filename)
    except Unparsable as problem:
        return None, [problem.problem]
    return _thoroughly(document)


def _quickly(text: str) -> Policy | None:
    """The policy in JSON that is right; None for everything else, whatever it is."""
    if not text.lstrip().startswith("{") or "\\ud" in text.lower():
        return None
    try:
        return _converted(json.loads(text, object_pairs_hook=_unique), Policy)
    except (ValueError, RecursionError):
        return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a key stands twice")
    return members


def _parse(text: str, filename: str) -> Document:
    if filename.endswith(".json"):
        return json_reader.read(text)
    if text.lstrip().startswith("{"):
        try:
            return json_reader.read(text)
        except Unparsable:
            pass  # YAML may begin so too
    from . import yaml_reader

    return yaml_reader.read(text)


def _thoroughly(document: Document) -> tuple[Policy | None, Sequence[Problem]]:
    from . import walk  # not before it is needed: msgspec.inspect stays out of a sidecar's memory

    root = document.root
    found = [*document.problems, *walk.problems(root)]
    policy = None
    if not found:
        policy = _converted(tree.plain(root), Policy)
        found = checks.check(policy)
    else:
        found += _sound_pieces(root, found)
    known = tree.lines(root)
    found = [problem if problem.line else replace(problem, line=_line(problem.path, known)) for problem in found]
    return policy, sorted(found, key=lambda problem: problem.line)


def _line(path: str, known: dict[str, int]) -> int:
    """Of a path that is not in the file (a default, a missing field): the line of what it would stand in."""
    while path not in known:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return known[path]


def _sound_pieces(root: Node, found: Iterable[Problem]) -> Iterator[Problem]:
    """What is wrong with the meaning of the parts whose shape is right."""
    broken = [problem.path for problem in found]
    pieces = _Pieces(root, broken)
    metadata = pieces.get("metadata", dict[str, Any])
    if metadata is not None:
        yield from checks.metadata(metadata)
    hostname = pieces.get("spec.hostname", str)
    if hostname is not None:
        yield from checks.hostname(hostname)
    selector = pieces.get("spec.selector", LabelSelector)
    if selector is not None:
        yield from checks.selector(selector)
    logging = pieces.get("spec.logging", Logging)
    if logging is not None:
        yield from checks.logging(logging)
    count = pieces.count("spec.inbound")
    listeners = {index: pieces.get(join("spec.inbound", index), Inbound) for index in range(count)}
    yield from checks.listeners({index: inbound for index, inbound in listeners.items() if inbound is not None})
    for index, inbound in listeners.items():
        if inbound is None:
            yield from _sound_rules(pieces, join(join("spec.inbound", index), "rules"))


def _sound_rules(pieces: _Pieces, path: str) -> Iterator[Problem]:
    for index in range(pieces.count(path)):
        rule = pieces.get(join(path, index), Rule)
        if rule is not None:
            yield from rule_checks.compiles(rule, join(path, index))


class _Pieces:
    """The parts of a tree by path, without those that have a problem in them."""

    def __init__(self, root: Node, broken: list[str]) -> None:
        self._broken = broken
        self._root = root

    def _at(self, path: str) -> Node | None:
        node: Node | None = self._root
        for step in path.replace("[", ".").replace("]", "").split("."):
            if node is not None and isinstance(node.value, dict):
                node = node.value.get(step)
            elif node is not None and isinstance(node.value, list):
                node = node.value[int(step)]
            else:
                return None
        return node

    def count(self, path: str) -> int:
        node = self._at(path)
        return len(node.value) if node is not None and isinstance(node.value, list) else 0

    def get(self, path: str, kind: type[_T]) -> _T | None:
        node = self._at(path)
        if node is None or any(_within(problem, path) for problem in self._broken):
            return None
        return _converted(tree.plain(node), kind)


def _within(path: str, part: str) -> bool:
    return path == part or path.startswith((f"{part}.", f"{part}["))


def _converted(value: object, kind: type[_T]) -> _T:
    """Raises msgspec.ValidationError, a ValueError."""
    return msgspec.convert(value, kind, dec_hook=_scalar)


def _scalar(kind: type[Any], text: object) -> Any:
    if not isinstance(text, str):
        raise ValueError(f"{kind.EXPECTED} is text")
    return kind(text)
