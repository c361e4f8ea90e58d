"""When a pod is poked and a sidecar asked: numbers only, the clock and chance are the caller's.

A poke is a change of the annotation `postern.dev/config-hash`, which makes the kubelet sync the pod's volumes at once.
It may look before its own view of the ConfigMap is new, hence the second look; after five the kubelet's own sync, a
minute or two, is left to bring the file. Raises nothing.
"""

from __future__ import annotations

import re
from math import inf
from typing import TYPE_CHECKING

from .view import sidecars

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..model import Inputs, PodRecord

MAX_POKES = 5
ASK_CURRENT = 60.0
ASK_FIRST = 0.25
_POKE = re.compile(r"([0-9a-f]{64})(?:\.([0-9]{1,3}))?", re.ASCII)


def next_poke(target: str, previous: str, since: float) -> str | None:
    """The annotation's next value for a sidecar that does not run `target`, or None: not now, or no more.

    `previous` is its value, `since` how many seconds ago it was written."""
    wait = poke_after(target, previous)
    return None if wait is None or since < wait else f"{target}.{_count(target, previous) + 1}"


def poke_after(target: str, previous: str) -> float | None:
    """How many seconds after `previous` was written the next poke is due: at once if it was for another file, then 1,
    2, 4 and 8; None after the fifth."""
    count = _count(target, previous)
    if previous == "" or not previous.startswith(target):
        return 0.0
    if count >= MAX_POKES:
        return None
    return float(2 ** max(count - 1, 0))


def ask_after(current: bool, attempt: int, chance: float) -> float:
    """Seconds until a sidecar is asked again: a minute once it is current; after a change soon, then ever later.

    `attempt`: how often it has been asked since the change. `chance`: in [0, 1), spreads sidecars by a tenth."""
    wait = ASK_CURRENT if current else min(ASK_FIRST * 2.0 ** min(max(attempt, 0), 16), ASK_CURRENT)
    return wait * (0.9 + 0.2 * chance)


def to_ask(inputs: Inputs) -> tuple[PodRecord, ...]:
    """The sidecars that can answer."""
    return tuple(pod for pod in sidecars(inputs) if pod.started and pod.ip)


def to_poke(inputs: Inputs, target: str, since: Mapping[str, float]) -> tuple[tuple[PodRecord, str], ...]:
    """The pods to poke now, each with the value. `since`: by UID, how many seconds ago a pod was poked; a pod that is
    not in it was poked long ago, or by another replica.

    A pod whose sidecar has not started is poked once: it reads the file when it starts."""
    found = []
    for pod in sidecars(inputs) if target else ():
        answer = inputs.answers.get(pod.uid)
        if answer is not None and answer.hash == target:
            continue
        value = next_poke(target, pod.poke, since.get(pod.uid, inf))
        if value is not None and (pod.started or not pod.poke.startswith(target)):
            found.append((pod, value))
    return tuple(found)


def _count(target: str, previous: str) -> int:
    """How many pokes for `target` the annotation tells of; a pod is made with none: `<hash>.0`."""
    match = _POKE.fullmatch(previous)
    return int(match[2] or 0) if match and match[1] == target else 0
