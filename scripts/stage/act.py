"""What an act of the demo is: it claims something, does it, shows the evidence, and requires that this bears it out.

It raises NotHeld, or the laboratory's AssertionError, where the claim does not hold.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scripts.stage.ground import Ground
    from scripts.stage.movement import Sample
    from scripts.stage.page import Page


class NotHeld(Exception):  # noqa: N818 - a finding, not an error
    """The evidence does not bear the claim out."""


@dataclass
class Stage:
    page: Page
    ground: Ground
    before: dict[Sample, int]
    outcomes: Counter[str] = field(default_factory=Counter)  # of the connections that the acts have made
    deliveries: Counter[str] = field(default_factory=Counter)  # and of recipients: outcome and level
    kept: list[tuple[str, str, str]] = field(default_factory=list)  # for the summary: label, evidence, mark
    changes: list[str] = field(default_factory=list)  # and the metrics

    def show(self, who: str, text: str, *, mark: str = "", keep: str = "") -> None:
        """Evidence; with `keep`, also in the summary, under that name."""
        self.page.evidence(who, text, mark=mark)
        if keep:
            self.kept.append((keep, text, mark))

    def logged(self, pattern: str, *, times: int = 1) -> str:
        return self.ground.sidecar_log.wait_for(pattern, times=times, timeout=self.ground.patience).string

    def server_logged(self, pattern: str) -> str:
        return self.ground.server_log.wait_for(pattern, timeout=self.ground.patience).string

    def beyond_logged(self, pattern: str) -> str:
        return self.ground.beyond.log.wait_for(pattern, timeout=self.ground.patience).string


@dataclass(frozen=True)
class Act:
    claim: str
    saying: str
    play: Callable[[Stage], None]
    quiet: bool = False  # what it shows stands in the summary


def require(holds: bool, text: str) -> None:
    if not holds:
        raise NotHeld(text)


def looks(stage: Stage) -> Iterator[str]:
    """The metrics, again and again, until the demo's patience ends: things are counted after their peer has gone."""
    until = time.monotonic() + stage.ground.patience
    yield stage.ground.metrics()
    while time.monotonic() < until:
        time.sleep(0.05)
        yield stage.ground.metrics()
