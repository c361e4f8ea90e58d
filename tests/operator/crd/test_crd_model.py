"""The schema is the model: names, types, enumerations, defaults and bounds, field by field, both ways.

What the two say in different words is listed here: a scalar of the model is a string with a rule of its own, and an
empty default is left out (absence is the same, and every stored policy is shorter for it).
"""

from __future__ import annotations

import enum
import json
import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec import NODEFAULT, inspect

import crd_corpus
from postern_sidecar.config import model, scalars

if TYPE_CHECKING:
    from collections.abc import Iterator

Schema = dict[str, Any]

LENGTHS: dict[type, int] = {
    scalars.Duration: 32,
    scalars.IPAddress: 45,
    scalars.Network: 49,
    scalars.Sources: 49,
    scalars.Size: 20,
    scalars.Date: 10,
    scalars.Pattern: 256,  # *. and a name with its final dot
    scalars.Server: 53,  # [address]:port
    scalars.HostPort: 260,
}
"""The longest text that each can be."""
SAYS: dict[type, str] = {
    scalars.Duration: "is not a duration",
    scalars.IPAddress: "is not an IP address",
    scalars.Network: "is not a network",
    scalars.Sources: "is not a network",
    scalars.Size: "is not a size",
    scalars.Server: "is not a server",
    scalars.HostPort: "is not a relay",
}
"""The rule that reads it; the others have a pattern, because there may be very many of them."""
TOO_MANY_FOR_RULES = "spec.inbound[].limits.overrides[].clients[]"
BY_NAME = {
    "spec.inbound": ["name"],
    "spec.inbound[].rules": ["name"],
    "spec.outbound.dane.skip": ["match"],
    "spec.outbound.dns.rootHints": ["name"],
    "spec.outbound.dns.stubs": ["zone"],
    "spec.outbound.dns.forwards": ["zone"],
}
MORE_BOUNDS = {
    ("spec.selector.matchLabels{}", "maxLength", 63),
    ("spec.selector.matchExpressions[].values[]", "maxLength", 63),
    ("spec.outbound.dane.skip[].until", "minLength", 10),
}
"""What the model checks as a whole."""
_BOUNDS = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


@pytest.fixture(scope="module")
def spec(crd: Schema) -> Schema:
    (version,) = crd["spec"]["versions"]
    found: Schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def walk(shape: inspect.Type, schema: Schema, path: str) -> Iterator[tuple[str, inspect.Type, Schema]]:
    """Every value of the model beside its schema. A field that one of them lacks fails here."""
    shape = bare(shape)
    yield path, shape, schema
    match shape:
        case inspect.StructType():
            assert schema["properties"].keys() == {field.encode_name for field in shape.fields}, path
            for field in shape.fields:
                yield from walk(field.type, schema["properties"][field.encode_name], f"{path}.{field.encode_name}")
        case inspect.VarTupleType():
            yield from walk(shape.item_type, schema["items"], f"{path}[]")
        case inspect.DictType() if path != "spec.sidecar.resources":
            yield from walk(shape.value_type, schema["additionalProperties"], f"{path}{{}}")


def bare(shape: inspect.Type) -> inspect.Type:
    if isinstance(shape, inspect.Metadata):
        return bare(shape.type)
    return bare(shape.types[0]) if isinstance(shape, inspect.UnionType) else shape


def bounds(shape: inspect.Type) -> dict[str, int]:
    match shape:
        case inspect.IntType():
            found = {"minimum": shape.ge, "maximum": shape.le}
        case inspect.StrType():
            found = {"minLength": shape.min_length, "maxLength": shape.max_length}
        case inspect.VarTupleType():
            found = {"minItems": shape.min_length, "maxItems": shape.max_length}
        case inspect.DictType():
            found = {"minProperties": shape.min_length, "maxProperties": shape.max_length}
        case inspect.CustomType():
            found = {"maxLength": LENGTHS[shape.cls], "minLength": 1 if shape.cls is scalars.Pattern else None}
        case _:
            found = {}
    return {name: value for name, value in found.items() if value is not None}


def kind(shape: inspect.Type) -> str:
    match shape:
        case inspect.StructType() | inspect.DictType():
            return "object"
        case inspect.VarTupleType():
            return "array"
        case inspect.IntType():
            return "integer"
        case inspect.BoolType():
            return "boolean"
    return "string"


@pytest.fixture(scope="module")
def pairs(spec: Schema) -> list[tuple[str, inspect.Type, Schema]]:
    return list(walk(inspect.type_info(model.Spec), spec, "spec"))


def test_every_type(pairs: list[tuple[str, inspect.Type, Schema]]) -> None:
    assert {path: schema["type"] for path, _, schema in pairs} == {path: kind(shape) for path, shape, _ in pairs}
    assert len(pairs) > 140


def test_every_bound(pairs: list[tuple[str, inspect.Type, Schema]]) -> None:
    modelled = {(path, *bound) for path, shape, _ in pairs for bound in bounds(shape).items()}
    written = {(path, name, schema[name]) for path, _, schema in pairs for name in _BOUNDS if name in schema}
    assert written - MORE_BOUNDS == modelled


def test_every_list_and_string_is_bounded(crd: Schema) -> None:
    """Status and resources too."""
    (version,) = crd["spec"]["versions"]
    root = version["schema"]["openAPIV3Schema"]["properties"]
    for path, schema in [*below(root["spec"], "spec"), *below(root["status"], "status")]:
        if "enum" in schema:
            continue
        if schema.get("type") == "array":
            assert "maxItems" in schema, path
        if schema.get("type") == "string" or "x-kubernetes-int-or-string" in schema:
            assert "maxLength" in schema, path
        if "additionalProperties" in schema:
            assert "maxProperties" in schema, path


def below(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, member in schema.get("properties", {}).items():
        yield from below(member, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if key in schema:
            yield from below(schema[key], f"{path}{mark}")


def test_every_enumeration(pairs: list[tuple[str, inspect.Type, Schema]]) -> None:
    modelled = {
        path: [item.value for item in shape.cls] for path, shape, _ in pairs if isinstance(shape, inspect.EnumType)
    }
    assert {path: schema["enum"] for path, _, schema in pairs if "enum" in schema} == modelled


def test_every_required_field_and_every_default(pairs: list[tuple[str, inspect.Type, Schema]]) -> None:
    for path, shape, schema in pairs:
        if not isinstance(shape, inspect.StructType):
            continue
        required = {field.encode_name for field in shape.fields if field.required}
        assert set(schema.get("required", ())) == required, path
        for field in shape.fields:
            here = schema["properties"][field.encode_name]
            assert here.get("default") == default(field), f"{path}.{field.encode_name}"


def default(field: inspect.Field) -> object:
    """As JSON; None: the schema has none. A structure's own defaults stand at its fields."""
    value = field.default if field.default is not NODEFAULT else None
    if field.default_factory is not NODEFAULT:
        value = field.default_factory()
    match value:
        case None | "" | () | {}:
            return None
        case msgspec.Struct():
            assert value == type(value)()
            return {}
        case enum.Enum():
            return value.value
        case scalars.Scalar():
            return str(value)
        case tuple():
            return [item.value if isinstance(item, enum.Enum) else str(item) for item in value]
    return value


def test_every_pattern(pairs: list[tuple[str, inspect.Type, Schema]]) -> None:
    r"""Go's `$` is Python's `\Z`."""
    patterns = {
        path: shape.pattern.replace(r"\Z", "$")
        for path, shape, _ in pairs
        if isinstance(shape, inspect.StrType) and shape.pattern
    }
    written = {
        path: schema["pattern"]
        for path, shape, schema in pairs
        if isinstance(shape, inspect.StrType) and "pattern" in schema
    }
    written.pop("spec.selector.matchExpressions[].values[]")  # the model checks it as a whole
    assert written == patterns


def test_every_scalar_is_read_by_its_rule(pairs: list[tuple[str, inspect.Type, Schema]]) -> None:
    for path, shape, schema in pairs:
        if isinstance(shape, inspect.CustomType) and path != TOO_MANY_FOR_RULES and shape.cls in SAYS:
            rules = schema["x-kubernetes-validations"]
            assert any(SAYS[shape.cls] in rule["message"] for rule in rules), path
        elif isinstance(shape, inspect.CustomType):
            assert "pattern" in json.dumps(schema), path


def test_every_list_says_how_it_is_merged(pairs: list[tuple[str, inspect.Type, Schema]]) -> None:
    lists = {path: schema for path, shape, schema in pairs if isinstance(shape, inspect.VarTupleType)}
    assert {schema["x-kubernetes-list-type"] for schema in lists.values()} == {"map", "set", "atomic"}
    keys = {path: schema.get("x-kubernetes-list-map-keys") for path, schema in lists.items()}
    assert {path: names for path, names in keys.items() if names} == BY_NAME
    assert all((schema["x-kubernetes-list-type"] == "map") is (path in BY_NAME) for path, schema in lists.items())


def test_every_field_is_explained(pairs: list[tuple[str, inspect.Type, Schema]]) -> None:
    for path, _, schema in pairs:
        if not path.endswith(("values[]", "matchLabels{}")):
            assert len(schema.get("description", "")) >= 5, path


def test_every_rule_says_what_to_do(crd: Schema) -> None:
    (version,) = crd["spec"]["versions"]
    rules = [
        rule
        for _, schema in below(version["schema"]["openAPIV3Schema"], "")
        for rule in schema.get("x-kubernetes-validations", ())
    ]
    assert len(rules) > 80
    for rule in rules:
        assert "; " in rule["message"], rule
        assert "; " in rule.get("messageExpression", "; "), rule
        assert rule.get("reason", "FieldValueInvalid") != "FieldValueDuplicate"  # it would drop the message


def test_every_rule_has_a_case(crd: Schema) -> None:
    """By its place and its remedy: each rule is seen to refuse something, in the words of the model."""
    (version,) = crd["spec"]["versions"]
    seen = {(re.sub(r"\[[0-9]+\]", "[]", case.at), remedy(case.says)) for case in crd_corpus.cases() if case.says}
    unseen = [
        (path, rule["message"])
        for path, schema in below(version["schema"]["openAPIV3Schema"], "")
        for rule in schema.get("x-kubernetes-validations", ())
        if not any(same_place(at, path) and said == remedy(rule["message"]) for at, said in seen)
    ]
    assert unseen == []


def same_place(at: str, rule: str) -> bool:
    """A rule on a list, or on a mapping, is about what stands in it; the model names an expression for its key."""
    here = rule.removeprefix(".").removesuffix("{}")
    return at.startswith(here) or here.startswith(f"{at}.")


def remedy(text: str) -> str:
    """What stands after the message; a network's own name is part of it only where a rule can know it."""
    said = text.rpartition("; ")[2]
    return "the network" if "the network" in said else said
