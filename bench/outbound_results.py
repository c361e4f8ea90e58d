"""The figures of an outbound run: medians over rounds, and ratios within a round, as in `results`."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .results import Run

POSTERN, LMTP, FRESH = "Postern", "Postern, LMTP door", "Postern, a connection each"
POSTFIX, POSTFIX_TMPFS, TUNED = "Postfix", "Postfix, tmpfs", "Postfix, tuned, tmpfs"
EXIM, EXIM_TMPFS = "Exim", "Exim, tmpfs"


@dataclass(frozen=True)
class Delivered:
    """`messages` were with the destination `wall` seconds after the first was begun, and took `cpu` seconds of all the
    relay's processes."""

    messages: int
    wall: float
    cpu: float
    handshakes: int

    @property
    def rate(self) -> float:
        return self.messages / self.wall

    @property
    def cost(self) -> float:
        """Milliseconds of a processor for each."""
        return self.cpu / self.messages * 1e3

    @property
    def busy(self) -> float:
        return self.cpu / self.wall


@dataclass(frozen=True)
class Round:
    """By the relay's name."""

    small: Mapping[str, Delivered]
    large: Mapping[str, Delivered]


@dataclass(frozen=True)
class Footprint:
    """Octets of resident memory of Postern, inbound and outbound: just started; after deliveries; the most while one
    large message passes slowly, and before it. `unbound`: the embedded resolver's own, at rest."""

    started: int
    at_rest: int
    before: int
    passing: int
    unbound: int


@dataclass(frozen=True)
class OutboundResults:
    """`first`: milliseconds of first messages, in the order of the rounds."""

    run: Run
    rounds: tuple[Round, ...]
    first: Mapping[str, tuple[float, ...]]
    octets: int  # of a large message
    footprint: Footprint

    def middle(self, figure: Callable[[Round], float]) -> float:
        return median(figure(each) for each in self.rounds)
