"""The shape of a policy: every unknown, missing, mistyped or out-of-bounds value of a tree, each with its line.

The model (`config.model`) is the only list of fields, types and bounds; this module walks it by `msgspec.inspect` and
puts what it finds into words. A tree without a finding converts to a `Policy` without an error, and only such a tree: a
test holds the two together. What fields mean together is `config.checks`. Raises nothing.
"""

from __future__ import annotations

import enum
import re
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING

from msgspec import inspect

from .model import Policy
from .problems import Problem, error, join, nearest, shown, suggestion
from .tree import Node, described

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_QUOTED_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)


@cache
def schema() -> inspect.StructType:
    shape = inspect.type_info(Policy)
    assert isinstance(shape, inspect.StructType)  # noqa: S101 - for the type checker
    return shape


def problems(root: Node) -> Iterator[Problem]:
    """All of them, in the order of the model."""
    if root.value is None:
        yield error("", "the file is empty", "write a MailProxyPolicy manifest into it", root.line)
        return
    yield from _value(root, schema(), "")


def foreign(root: Node) -> Problem | None:
    """Of another kind of object nothing else is worth saying."""
    kind = root.value.get("kind") if isinstance(root.value, dict) else None
    if kind is None or not isinstance(kind.value, str) or kind.value == "MailProxyPolicy":
        return None
    return error("kind", f"this is a {shown(kind.value)[1:-1]}", "give a file with a MailProxyPolicy", kind.line)


def _value(node: Node, shape: inspect.Type, path: str, hint: str = "") -> Iterator[Problem]:
    """`hint`: the words that describe a pattern."""
    match shape:
        case inspect.Metadata():
            yield from _value(node, shape.type, path, _description(shape))
        case inspect.UnionType():  # only `X | None` in the model
            if node.value is not None:
                yield from _value(node, shape.types[0], path, hint)
        case inspect.AnyType():
            pass
        case _:
            found = _collection(node, shape, path) or _leaf(node, shape, path, hint)
            if found is None:
                remedy = f"write {expected(shape, hint)}{_quotes(node.value, shape)}"
                yield error(path, f"is {described(node.value)}", remedy, node.line)
            else:
                yield from found


def _collection(node: Node, shape: inspect.Type, path: str) -> Iterator[Problem] | None:
    """None: the value is of another type."""
    match shape, node.value:
        case inspect.StructType(), dict(members):
            return _struct(node, members, shape, path)
        case inspect.DictType(), dict(members):
            bounds = _bounds(node, len(members), shape.min_length, shape.max_length, "members", path)
            named = ((join(path, key), member) for key, member in members.items())
            return chain(bounds, _each(named, shape.value_type))
        case inspect.VarTupleType(), list(items):
            bounds = _bounds(node, len(items), shape.min_length, shape.max_length, "items", path)
            numbered = ((join(path, index), item) for index, item in enumerate(items))
            return chain(bounds, _each(numbered, shape.item_type))
    return None


def _meant(name: str, fields: Iterable[str]) -> str:
    guess = nearest(name, fields)
    return f"did you mean {guess}?" if guess else suggestion(name, fields)


def _each(nodes: Iterable[tuple[str, Node]], shape: inspect.Type) -> Iterator[Problem]:
    for path, node in nodes:
        yield from _value(node, shape, path)


def _leaf(node: Node, shape: inspect.Type, path: str, hint: str) -> Iterator[Problem] | None:
    """None: the value is of another type."""
    match shape, node.value:
        case (inspect.EnumType() | inspect.LiteralType(), str(text)):
            return _choice(node, text, shape, path)
        case inspect.CustomType(), str(text):
            return _scalar(node, text, shape, path)
        case inspect.StrType(), str(text):
            return _text(node, text, shape, path, hint)
        case inspect.BoolType(), bool():
            return iter(())
        case inspect.IntType(), int(number) if not isinstance(number, bool):
            return _bounds(node, number, shape.ge, shape.le, "", path)
    return None


def _choice(node: Node, text: str, shape: inspect.EnumType | inspect.LiteralType, path: str) -> Iterator[Problem]:
    if text not in _choices(shape):
        yield error(path, f"{shown(text)} is not allowed here", suggestion(text, _choices(shape)), node.line)


def _struct(node: Node, members: dict[str, Node], shape: inspect.StructType, path: str) -> Iterator[Problem]:
    fields = {field.encode_name: field for field in shape.fields}
    for name, member in members.items():
        if name not in fields:
            yield error(join(path, name), f"unknown field {shown(name)}", _meant(name, fields), member.line)
    for name, field in fields.items():
        if name in members:
            yield from _value(members[name], field.type, join(path, name))
        elif field.required:
            remedy = f"write {expected(field.type)}"
            yield error(join(path, name), "is required and missing", remedy, node.line)


def _bounds(node: Node, size: int, least: int | None, most: int | None, unit: str, path: str) -> Iterator[Problem]:
    if (least is not None and size < least) or (most is not None and size > most):
        message = f"has {size} {unit}" if unit else f"{size} is out of bounds"
        yield error(path, message, f"{_range(least, most)} {unit} are allowed".replace("  ", " "), node.line)


def _text(node: Node, value: str, shape: inspect.StrType, path: str, hint: str) -> Iterator[Problem]:
    found = list(_bounds(node, len(value), shape.min_length, shape.max_length, "characters", path))
    if not found and shape.pattern and not re.search(shape.pattern, value):
        found = [error(path, f"{shown(value)} is not allowed here", f"write {expected(shape, hint)}", node.line)]
    yield from found


def _scalar(node: Node, value: str, shape: inspect.CustomType, path: str) -> Iterator[Problem]:
    try:
        shape.cls(value)
    except ValueError as problem:
        message, _, remedy = str(problem).rpartition("; ")
        yield error(path, message, remedy, node.line)


def _quotes(value: object, shape: inspect.Type) -> str:
    """YAML's quotes make text of a number or a boolean, and a version without them is a number."""
    if isinstance(shape, inspect.EnumType) and isinstance(value, float) and str(value) in _choices(shape):
        return f': "{value}", in quotes'
    if not isinstance(value, str):
        return ""
    number = isinstance(shape, inspect.IntType) and _QUOTED_NUMBER.fullmatch(value)
    boolean = isinstance(shape, inspect.BoolType) and value in ("true", "false")
    if number or boolean:
        return f": {value}, without quotes"
    return ": in YAML 1.2 this word is text" if isinstance(shape, inspect.BoolType) else ""


def _choices(shape: inspect.EnumType | inspect.LiteralType) -> tuple[str, ...]:
    values: Iterable[object] = shape.values if isinstance(shape, inspect.LiteralType) else shape.cls
    return tuple(str(item.value if isinstance(item, enum.Enum) else item) for item in values)


def _range(least: int | None, most: int | None) -> str:
    if least is None:
        return f"at most {most}"
    return f"at least {least}" if most is None else f"{least} to {most}"


def expected(shape: inspect.Type, hint: str = "") -> str:
    """What would be right, in a person's words."""
    match shape:
        case inspect.Metadata():
            return expected(shape.type, _description(shape))
        case inspect.UnionType():
            return expected(shape.types[0], hint)
        case inspect.StructType():
            required = [field.encode_name for field in shape.fields if field.required]
            return f"a mapping with {', '.join(required)}" if required else "a mapping"
        case inspect.VarTupleType():
            return f"a list, each item {expected(shape.item_type)}"
        case inspect.EnumType() | inspect.LiteralType():
            choices = _choices(shape)
            return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
        case inspect.CustomType():
            return str(vars(shape.cls)["EXPECTED"])
        case inspect.IntType():
            return "a whole number" if shape.ge is None else f"a whole number, {_range(shape.ge, shape.le)}"
        case inspect.StrType():
            return _expected_text(shape, hint)
        case inspect.BoolType():
            return "true or false"
    return "a mapping"


def _description(shape: inspect.Metadata) -> str:
    return str((shape.extra_json_schema or {}).get("description", ""))


def _expected_text(shape: inspect.StrType, hint: str) -> str:
    words = f"text: {hint}" if hint else "text"
    if shape.max_length is None:
        return words
    return f"{words}, {_range(shape.min_length, shape.max_length)} characters"
