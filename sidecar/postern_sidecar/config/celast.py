"""What a CEL expression is made of, read from the serialized tree of the CEL library before anything is evaluated.

The library gives no tree, only its bytes: `cel.expr.ParsedExpr` (cel-spec, proto/cel/expr/syntax.proto), whose field
numbers are fixed for good. They are read here without a protobuf library. Works on a stack, because depth is not ours
to bound. It knows neither types nor policies. Raises nothing for bytes that the CEL library wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANY_VALUE = 2  # google.protobuf.Any.value
_PARSED_EXPR = 2  # ParsedExpr.expr
_CONST, _IDENT, _SELECT, _CALL, _LIST, _STRUCT, _COMPREHENSION = range(3, 10)  # Expr's kinds
_CONST_STRING = 6
_CALL_TARGET, _CALL_FUNCTION, _CALL_ARGUMENT = 1, 2, 3
_LIST_ELEMENT = 1
_STRUCT_ENTRY, _ENTRY_MAP_KEY, _ENTRY_VALUE = 2, 3, 4
_CHILDREN = {
    _SELECT: (1,),  # operand
    _CALL: (_CALL_TARGET, _CALL_ARGUMENT),
    _LIST: (_LIST_ELEMENT,),
    _COMPREHENSION: (2, 4, 5, 6, 7),  # iter_range, accu_init, loop_condition, loop_step, result
}


@dataclass(frozen=True, slots=True)
class Call:
    """`arguments` are text literals, tuples of them (list literals), or None for anything else; of a method call
    the target is the first. `looped`: it stands inside a comprehension."""

    function: str
    arguments: tuple[str | tuple[str, ...] | None, ...]
    looped: bool


@dataclass(slots=True)
class Shape:
    """`names`: identifiers, those that macros bind among them. `nested`: a comprehension stands inside another one."""

    names: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    nested: bool = False


def shape(serialized: bytes) -> Shape:
    parsed = _first(serialized, _ANY_VALUE)
    todo = [(_first(parsed, _PARSED_EXPR), False)]
    found = Shape()
    while todo:
        expression, looped = todo.pop()
        for kind, body in _fields(expression):
            if kind == _IDENT:
                found.names.add(_first(body, 1).decode().lstrip("."))
            elif kind == _CALL:
                found.calls.append(_call(body, looped))
            elif kind == _COMPREHENSION:
                found.nested |= looped
                looped = True
            todo += [(child, looped) for child in _children(kind, body)]
    return found


def _children(kind: int, body: bytes) -> Iterator[bytes]:
    if kind == _STRUCT:
        for number, entry in _fields(body):
            if number == _STRUCT_ENTRY:
                yield from (child for part, child in _fields(entry) if part in (_ENTRY_MAP_KEY, _ENTRY_VALUE))
        return
    wanted = _CHILDREN.get(kind, ())
    yield from (child for number, child in _fields(body) if number in wanted)


def _call(body: bytes, looped: bool) -> Call:
    parts = list(_fields(body))
    function = next(part.decode() for number, part in parts if number == _CALL_FUNCTION)
    arguments = [part for number, part in parts if number in (_CALL_TARGET, _CALL_ARGUMENT)]
    return Call(function, tuple(_literal(argument) for argument in arguments), looped)


def _literal(expression: bytes) -> str | tuple[str, ...] | None:
    for kind, body in _fields(expression):
        if kind == _CONST:
            return next((part.decode() for number, part in _fields(body) if number == _CONST_STRING), None)
        if kind == _LIST:
            items = [_literal(part) for number, part in _fields(body) if number == _LIST_ELEMENT]
            texts = tuple(item for item in items if isinstance(item, str))
            return texts if len(texts) == len(items) else None
    return None


def _first(message: bytes, wanted: int) -> bytes:
    return next(body for number, body in _fields(message) if number == wanted)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a protobuf message; the others (numbers) are passed over."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        match tag & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case _:
                size, at = _varint(message, at)
                yield tag >> 3, message[at : at + size]
                at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        octet = message[at]
        at += 1
        value |= (octet & 0x7F) << shift
        shift += 7
        if octet < 0x80:
            return value, at
