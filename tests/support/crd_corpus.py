"""Policies good and bad, each with what the API server and `postern-sidecar validate` say of it.

The cases lie beside the CRD's tests (tests/operator/crd/corpus), each a base and a change:

    - {is: "port 0", base: inbound, set: {"spec.inbound[0].port": 0}, at: "spec.inbound[0].port"}

`set` puts values at paths, making mappings on the way; `drop` takes them away. The verdict is one of
    good: true      both accept
    at: PATH        both refuse, at this place; the API server in words of its own
    says: TEXT      as well: both refuse in these words
    only: TEXT      as well: what the model alone can see, the class operator-only. The API server accepts, and the
                    operator says Accepted=False, reason Invalid. TEXT begins its message
    mends: PATH     the API server drops a null before it judges, and keeps 7.0 as 7: the operator never sees it; in a
                    file it is refused
Long values are written {text: [PART, TIMES, END, BEGIN]}, {list: [ITEM, TIMES]}, {count: [ITEM, TIMES]} where {} in its
texts is the number, and {keys: [TIMES, VALUE]}. Raises ValueError for a case that is none of these.
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

FOLDER = Path(__file__).parents[1] / "operator/crd/corpus"
_STEP = re.compile(r"\.?([A-Za-z][A-Za-z0-9]*)|\[([0-9]+)\]", re.ASCII)
_VERDICTS = {"good", "at", "says", "only", "mends"}


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    manifest: dict[str, Any]
    good: bool = False
    at: str = ""
    says: str = ""
    only: str | None = None
    mends: str = ""

    @property
    def stored(self) -> bool:
        """The API server accepts it."""
        return self.good or self.only is not None or bool(self.mends)

    @property
    def data(self) -> bytes:
        return json.dumps(self.manifest, ensure_ascii=False).encode()


@cache
def cases(folder: Path = FOLDER) -> tuple[Case, ...]:
    bases = _read(folder / "bases.yaml")
    found = [
        _case(entry, bases[entry.get("base", file["base"])])
        for path in sorted(folder.glob("*.yaml"))
        if path.name != "bases.yaml"
        for file in [_read(path)]
        for entry in file["cases"]
    ]
    names = [case.name for case in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"cases with one name: {sorted(twice)}")
    return tuple(found)


def good(folder: Path = FOLDER) -> tuple[Case, ...]:
    return tuple(case for case in cases(folder) if case.good)


def _read(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def _case(entry: dict[str, Any], base: dict[str, Any]) -> Case:
    verdict = {key: entry[key] for key in _VERDICTS if key in entry}
    unknown = entry.keys() - _VERDICTS - {"is", "base", "set", "drop"}
    if unknown or not verdict:
        raise ValueError(f"{entry['is']}: {sorted(unknown) or 'no verdict'}")
    manifest = copy.deepcopy(base)
    for path, value in entry.get("set", {}).items():
        _put(manifest, _steps(path), _value(value))
    for path in entry.get("drop", ()):
        *above, last = _steps(path)
        del _descend(manifest, above)[last]
    return Case(entry["is"], manifest, **verdict)


def _steps(path: str) -> list[str | int]:
    return [name or int(number) for name, number in _STEP.findall(path)]


def _descend(value: Any, steps: list[str | int]) -> Any:
    for step in steps:
        value = value[step] if isinstance(step, int) else value.setdefault(step, {})
    return value


def _put(manifest: dict[str, Any], steps: list[str | int], value: object) -> None:
    _descend(manifest, steps[:-1])[steps[-1]] = value


def _value(value: Any) -> Any:
    match value:
        case {"text": [str(part), int(times), *rest]}:
            end, begin = [*rest, "", ""][:2]
            return begin + part * times + end
        case {"list": [item, int(times)]}:
            return [item] * times
        case {"count": [item, int(times)]}:
            return [_numbered(item, number) for number in range(times)]
        case {"keys": [int(times), item]}:
            return {f"key{number}": item for number in range(times)}
        case dict():
            return {key: _value(member) for key, member in value.items()}
        case list():
            return [_value(item) for item in value]
    return value


def _numbered(value: Any, number: int) -> Any:
    match value:
        case str():
            return value.replace("{}", str(number))
        case dict():
            return {key: _numbered(member, number) for key, member in value.items()}
        case list():
            return [_numbered(item, number) for item in value]
    return value
