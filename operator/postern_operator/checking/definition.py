"""Is the CustomResourceDefinition in the cluster the one of this operator?

Fields are compared, those of the sidecar's own model with those of the served schema: a field that the schema lacks is
dropped by the API server without a word, and one that only the schema has is dropped by the sidecar with an error.
Rules and bounds of the schema are not compared: the operator judges each policy again. Raises nothing.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from msgspec import inspect

from postern_sidecar.config.model import Spec

from ..model import API_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VERSION = API_VERSION.rpartition("/")[2]


def served(definition: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The version that this operator reads, where it is served."""
    versions = (definition.get("spec") or {}).get("versions") or ()
    return next((each for each in versions if each.get("name") == VERSION and each.get("served")), None)


def fields_of_schema(version: Mapping[str, Any]) -> frozenset[str]:
    schema = (version.get("schema") or {}).get("openAPIV3Schema") or {}
    return frozenset(_of_schema((schema.get("properties") or {}).get("spec") or {}, "spec"))


@functools.cache
def fields_of_model() -> frozenset[str]:
    return frozenset(_of_type(inspect.type_info(Spec), "spec"))


def _of_schema(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    if "items" in schema:
        yield from _of_schema(schema["items"], path)
    for name, below in (schema.get("properties") or {}).items():
        yield f"{path}.{name}"
        if f"{path}.{name}" != "spec.sidecar.resources":  # Kubernetes' own, not a field of ours below
            yield from _of_schema(below, f"{path}.{name}")


def _of_type(kind: inspect.Type, path: str) -> Iterator[str]:
    match kind:
        case inspect.StructType():
            for field in kind.fields:
                yield f"{path}.{field.encode_name}"
                yield from _of_type(field.type, f"{path}.{field.encode_name}")
        case inspect.VarTupleType() | inspect.ListType():
            yield from _of_type(kind.item_type, path)
        case inspect.UnionType():
            for each in kind.types:
                yield from _of_type(each, path)
        case inspect.Metadata():
            yield from _of_type(kind.type, path)
        case _:
            return
