"""`spec.sidecar.resources`: what the API server would refuse in every pod that the policy is for is refused here, so
that no policy keeps pods from starting. The sidecar never reads it. Raises nothing.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from .problems import Problem, error, join, shown, suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PATH = "spec.sidecar.resources"
_PARTS = ("limits", "requests")
_NAMES = ("cpu", "memory", "ephemeral-storage")
_MOST = 10**15  # as a number; a float carries it exactly
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)(m|[kMGTPE]|[KMGTPE]i)?", re.ASCII)
_SCALE = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)},
}


def resources(chosen: Mapping[str, Any]) -> Iterator[Problem]:
    amounts: dict[tuple[str, str], Decimal] = {}
    for part, members in chosen.items():
        path = join(PATH, part)
        if part not in _PARTS:
            yield error(path, f"unknown field {shown(part)}", suggestion(part, _PARTS))
        elif not isinstance(members, dict):
            yield error(path, "is not a mapping", "write one such as {cpu: 500m, memory: 128Mi}")
        else:
            yield from _amounts(members, part, path, amounts)
    for name in _NAMES:
        request, limit = amounts.get(("requests", name)), amounts.get(("limits", name))
        if request is not None and limit is not None and request > limit:
            where = join(join(PATH, "requests"), name)
            yield error(where, "is above its limit", "raise the limit, or ask for less")


def _amounts(
    members: Mapping[str, Any], part: str, path: str, amounts: dict[tuple[str, str], Decimal]
) -> Iterator[Problem]:
    for name, value in members.items():
        amount = _quantity(value)
        where = join(path, name)
        if name not in _NAMES:
            yield error(where, f"unknown field {shown(name)}", suggestion(name, _NAMES))
        elif amount is None:
            yield error(where, f"{shown(value)} is not a quantity", "write one like 50m, 1 or 64Mi")
        else:
            amounts[part, name] = amount


def _quantity(value: object) -> Decimal | None:
    """Of Kubernetes' quantities those that people write; None for others."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value) if 0 <= value <= _MOST else None
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    return Decimal(match[1]) * _SCALE[match[2] or ""] if match else None
