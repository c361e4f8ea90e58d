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

from . import checks, json_reader, resource_checks, rule_checks, tree
from .model import Inbound, LabelSelector, Logging, Outbound, Policy, Route, Rule
from .problems import InvalidPolicy, Problem, Unreadable, error, join
from .tree import Document, Node, Unparsable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
        if "\n" not in text:  # as the operator writes it
            return policy, [replace(problem, line=1) for problem in found]
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
        value = json.loads(text, object_pairs_hook=_unique, parse_int=tree.integer, parse_constant=_no_constant)
        return _converted(value, Policy)
    except (ValueError, RecursionError):
        return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a key stands twice")
    return members


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


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
    from . import walk  # a sidecar in a cluster never needs it

    root = document.root
    pieces = tree.index(root)
    foreign = walk.foreign(root)
    if foreign:
        return None, [foreign]
    found = [*document.problems, *walk.problems(root)]
    policy = None
    if not found:
        policy = _converted(tree.plain(root), Policy)
        found = checks.check(policy)
    else:
        found += _sound_pieces(pieces, found)
    return policy, sorted(_with_lines(found, pieces), key=lambda problem: problem.line)


def _with_lines(found: Iterable[Problem], pieces: Mapping[str, Node]) -> Iterator[Problem]:
    """A path that is not in the file (a default, a missing field) gets the line of what it would stand in."""
    for problem in found:
        path = problem.path
        while path not in pieces:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        yield problem if problem.line else replace(problem, line=pieces[path].line)


def _sound_pieces(pieces: Mapping[str, Node], found: Iterable[Problem]) -> Iterator[Problem]:
    """What is wrong with the meaning of the parts whose shape is right."""
    sound = _Sound(pieces, [problem.path for problem in found])
    for path, kind, check in _PIECES:
        piece = sound.get(path, kind)
        if piece is not None:
            yield from check(piece)
    paths = sound.items("spec.inbound")
    if not paths and sound.absent("spec.inbound", []) and sound.absent("spec.outbound", None):
        yield from checks.nothing_to_do()
    listeners = [sound.get(path, Inbound) for path in paths]
    known = {number: inbound for number, inbound in enumerate(listeners) if inbound is not None}
    yield from checks.listeners(known)
    for path, inbound in zip(paths, listeners, strict=True):
        for where in sound.items(f"{path}.rules") if inbound is None else ():
            rule = sound.get(where, Rule)
            if rule is not None:
                yield from rule_checks.compiles(rule, where)
    if "spec.outbound" in pieces and not sound.absent("spec.outbound", None):
        yield from _sound_outbound(sound, known)


def _sound_outbound(sound: _Sound, listeners: Mapping[int, Inbound]) -> Iterator[Problem]:
    from . import outbound_checks, route_checks

    hostname = sound.get("spec.hostname", str)
    if hostname is not None or sound.absent("spec.hostname", None):
        yield from checks.outbound_hostname(hostname)
    whole = sound.get("spec.outbound", Outbound)
    if whole is not None:
        yield from outbound_checks.outbound(whole, listeners)
        return
    for section in outbound_checks.SECTIONS:
        piece = sound.get(f"spec.outbound.{section.name}", section.kind)
        if piece is not None:
            yield from section.check(piece)
    for path in sound.items(route_checks.PATH):
        route = sound.get(path, Route)
        if route is not None:
            yield from route_checks.route(route, path)


_PIECES: tuple[tuple[str, Any, Callable[[Any], Iterator[Problem]]], ...] = (
    ("metadata", dict[str, Any], checks.metadata),
    ("spec.hostname", str, checks.hostname),
    ("spec.selector", LabelSelector, checks.selector),
    ("spec.logging", Logging, checks.logging),
    (resource_checks.PATH, dict[str, Any], resource_checks.resources),
)


@dataclass(frozen=True, slots=True)
class _Sound:
    """The parts of a file that have no problem in them, by path."""

    pieces: Mapping[str, Node]
    broken: Sequence[str]

    def items(self, path: str) -> list[str]:
        """The paths of a list's items."""
        node = self.pieces.get(path)
        return (
            [join(path, number) for number in range(len(node.value))] if node and isinstance(node.value, list) else []
        )

    def absent(self, path: str, *nothing: object) -> bool:
        """A mapping is there and has nothing by this name, or one of `nothing`."""
        above, _, member = path.rpartition(".")
        mapping = self.pieces.get(above)
        if mapping is None or not isinstance(mapping.value, dict):
            return False
        return member not in mapping.value or mapping.value[member].value in nothing

    def get(self, path: str, kind: type[_T]) -> _T | None:
        node = self.pieces.get(path)
        if node is None or node.value is None or any(_within(problem, path) for problem in self.broken):
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
