"""The policy as the operator delivers it: the same meaning in the fewest bytes, so that an older sidecar meets no field
that it does not need (contracts section 1).

Sorted keys, compact JSON in UTF-8, of `metadata` only name and namespace; values that equal their default are left out,
by meaning and not by spelling, and so is what a sidecar never reads: selector, priority, sidecar, status.
Raises nothing.
"""

from __future__ import annotations

import enum
import hashlib
import json
from typing import TYPE_CHECKING

from msgspec import NODEFAULT, Struct
from msgspec.structs import fields

from .scalars import Scalar

if TYPE_CHECKING:
    from .model import Policy

_UNREAD = frozenset(("selector", "priority", "sidecar"))


def normalized(policy: Policy) -> bytes:
    spec = _members(policy.spec)
    manifest = {
        "apiVersion": policy.api_version,
        "kind": policy.kind,
        "metadata": {key: policy.metadata[key] for key in ("name", "namespace") if key in policy.metadata},
        "spec": {key: value for key, value in spec.items() if key not in _UNREAD},
    }
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def config_hash(file: bytes) -> str:
    """`configHash`: of the exact bytes of the file, not of what they mean."""
    return hashlib.sha256(file).hexdigest()


def _members(struct: Struct) -> dict[str, object]:
    values = ((field, getattr(struct, field.name)) for field in fields(struct))
    return {
        field.encode_name: _plain(value)
        for field, value in values
        if field.default is NODEFAULT or value != field.default
    }


def _plain(value: object) -> object:
    match value:
        case Struct():
            return _members(value)
        case enum.Enum():
            return value.value
        case Scalar():
            return str(value)
        case tuple():
            return [_plain(item) for item in value]
    return value
