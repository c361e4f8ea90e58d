"""docs/policy.md and docs/rules.md say what the model and the vocabulary say, and their examples load."""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from msgspec import NODEFAULT, inspect

from postern_sidecar import config
from postern_sidecar.config.expressions import MAX_MATCHES, MAX_NETWORKS, MAX_REPETITIONS
from postern_sidecar.config.scalars import Scalar
from postern_sidecar.config.templates import MAX_TEXT
from postern_sidecar.config.vocabulary import FUNCTIONS, VARIABLES
from postern_sidecar.config.walk import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parents[4] / "docs"
POLICY = (DOCS / "policy.md").read_text()
RULES = (DOCS / "rules.md").read_text()


class Row(NamedTuple):
    kind: str
    default: str
    meaning: str


ROWS = {
    cells[0].strip(" `"): Row(*(cell.strip() for cell in cells[1:]))
    for line in POLICY.splitlines()
    if line.startswith("| `") and len(cells := line.strip("|").split(" |")[:4]) == 4
}


def fields(shape: inspect.Type, path: str = "") -> Iterator[tuple[str, inspect.Field]]:
    """Every field that holds a value, by its path."""
    if isinstance(shape, inspect.StructType):
        for field in shape.fields:
            kind = bare(field.type)
            where = f"{path}{field.encode_name}"
            if not isinstance(kind, inspect.StructType):
                yield where, field
            yield from fields(kind, f"{where}.")
    elif isinstance(shape, inspect.VarTupleType):
        yield from fields(bare(shape.item_type), f"{path.removesuffix('.')}[].")


def bare(shape: inspect.Type) -> inspect.Type:
    """Without what wraps it."""
    while isinstance(shape, inspect.Metadata | inspect.UnionType):
        shape = shape.type if isinstance(shape, inspect.Metadata) else shape.types[0]
    return shape


FIELDS = dict(fields(schema()))


def test_the_page_has_every_field_and_no_other() -> None:
    assert set(ROWS) == set(FIELDS)
    assert len(FIELDS) > 90


def written(value: object) -> str:
    match value:
        case bool():
            return f"`{str(value).lower()}`"
        case enum.Enum():
            return f"`{value.value}`"
        case tuple():
            return f"`[{', '.join(written(item).strip('`') for item in value)}]`"
        case dict():
            return "`{}`"
        case str():
            return f"`{value}`" if value else '`""`'
        case int() | Scalar():
            return f"`{value}`"
    raise TypeError(value)


@pytest.mark.parametrize("path", FIELDS)
def test_defaults(path: str) -> None:
    field, told = FIELDS[path], ROWS[path].default
    if field.required:
        assert told == "required"
    elif field.default is None:  # what happens then is said in words
        assert told not in ("", "required")
        assert "`" not in told
    elif field.default_factory is not NODEFAULT:
        assert told == written(field.default_factory())
    else:
        assert told == written(field.default)


@pytest.mark.parametrize("path", FIELDS)
def test_types(path: str) -> None:
    """Every allowed value and every bound stands there."""
    shape, told = bare(FIELDS[path].type), ROWS[path].kind
    choices = bare(shape.item_type) if isinstance(shape, inspect.VarTupleType) else shape
    if isinstance(choices, inspect.EnumType):
        assert re.findall("`([^`]+)`", told) == [item.value for item in choices.cls]
    elif isinstance(choices, inspect.LiteralType):
        assert told == f"`{choices.values[0]}`"
    numbers = re.findall(r"-?\b\d+\b", told)
    bounds: list[int | None] = []
    if isinstance(shape, inspect.IntType):
        bounds = [shape.ge, shape.le]
    elif isinstance(shape, inspect.StrType | inspect.VarTupleType):
        bounds = [shape.min_length, shape.max_length]
    assert {str(bound) for bound in bounds if bound} <= set(numbers)
    if isinstance(shape, inspect.BoolType):
        assert told == "boolean"


def test_what_softer_values_give_up() -> None:
    """A field whose other values are less strict says what they cost."""
    softer = {
        "earlyTalkers",
        "acknowledgeClientHidden",
        "acknowledgeRemoteBackend",
        "acknowledgeNoStartTLS",
        "requiredFrom",
        "timeout",
        "onFailure",
        "unknown",
        "allowSources",
        "ipv6",
        "bareNewline",
        "try",
        "level",
        "digests",
        "withoutDane",
        "ocsp",
        "resolver",
        "acknowledgeTrustedPath",
        "insecure",
        "allowAddresses",
    }
    assert {path.rpartition(".")[2] for path, row in ROWS.items() if "**give" in row.meaning.lower()} == softer


def examples(page: str) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_the_least_policy_loads() -> None:
    (text,) = examples(POLICY)
    assert config.load(text.encode()).warnings == ()


def test_the_messages_shown_are_those_that_are_printed() -> None:
    text = examples(POLICY)[0].replace("10.0.0.0/8", "10.0.0.1/8")
    for change in (("", ""), ("proxyProtocol:", "proxyprotocol:")):
        with pytest.raises(config.InvalidPolicy) as caught:
            config.load(text.replace(*change).encode(), "policy.yaml")
        (problem,) = caught.value.problems
        message = str(problem).partition(": ")[2]
        assert f": {message}\n" in POLICY


@pytest.mark.parametrize("text", examples(RULES))
def test_rules_load(text: str) -> None:
    indented = "".join(f"    {line}\n" for line in text.splitlines())
    policy = examples(POLICY)[0] + indented
    assert config.load(policy.encode()).warnings == ()


def test_variables() -> None:
    types = {str: "string", int: "int", bool: "bool"}
    told = re.findall(r"^\| `(\w+)` \| (string|int|bool) \| ", RULES, re.MULTILINE)
    assert told == [(name, types[kind]) for name, kind in VARIABLES.items()]


def test_functions_and_bounds() -> None:
    for name in FUNCTIONS:
        assert f"`{name}(" in RULES
    bounds = RULES.partition("## Bounds")[2]
    for words in (
        f"more than {MAX_MATCHES} times",
        f"more than {MAX_REPETITIONS} in all",
        f"more than {MAX_NETWORKS} networks",
        f"cut at {MAX_TEXT} characters",
    ):
        assert words in bounds
