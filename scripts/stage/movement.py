"""Which of the sidecar's metrics of mail moved between two looks at /metrics, and by how much.

Histogram buckets and sums are left out, and so are the labels `listener` and `handover`: the demo has one of each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_SAMPLE = re.compile(r"^(postern_(?:inbound|outbound|dane|dns)_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_THE_SAME = ("listener", "handover")
_LEFT_OUT = ("_bucket", "_sum", "_created")

Sample = tuple[str, str]  # name, labels


@dataclass(frozen=True)
class Moved:
    name: str
    labels: str
    before: int
    after: int

    @property
    def by(self) -> int:
        return self.after - self.before

    def label(self, name: str) -> str:
        labels: dict[str, str] = dict(_LABEL.findall(self.labels))
        return labels.get(name, "")

    def __str__(self) -> str:
        return f"{self.name}{{{self.labels}}}" if self.labels else self.name


def samples(text: str) -> dict[Sample, int]:
    """The samples of a text in Prometheus' format; all of them are whole numbers."""
    found: dict[Sample, int] = {}
    for name, labels, value in _SAMPLE.findall(text):
        if not name.endswith(_LEFT_OUT):
            pairs = [f'{key}="{text}"' for key, text in _LABEL.findall(labels) if key not in _THE_SAME]
            key = name, ",".join(pairs)
            found[key] = found.get(key, 0) + int(float(value))
    return found


def moved(before: Mapping[Sample, int], after: Mapping[Sample, int]) -> list[Moved]:
    """Those that are not what they were; what was not there was 0. By name, the greatest movement first."""
    changes = [Moved(*key, before.get(key, 0), value) for key, value in after.items()]
    return sorted((each for each in changes if each.by), key=lambda each: (each.name, -each.by, each.labels))
