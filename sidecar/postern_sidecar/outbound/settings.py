"""What a policy's `spec.outbound` means for a delivery, and what a delivery needs of the world besides commands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from postern_sidecar.config.model import Outbound, Route
    from postern_sidecar.names import Address, Domain


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of a Secret, for AUTH on a route."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """`hostname`: for EHLO and Received. `own`: the pod's own addresses. `credentials`: by the Secret's name; one that
    is missing there could not be read."""

    outbound: Outbound
    hostname: str
    own: frozenset[Address] = frozenset()
    credentials: Mapping[str, Credentials] = field(default_factory=dict)

    def route(self, name: Domain) -> Route | None:
        """The route for a mail domain: the most specific pattern wins, of equal ones the first."""
        fits = [
            (specificity, -number, route)
            for number, route in enumerate(self.outbound.routes)
            for pattern in route.domains
            if (specificity := pattern.fits(name)) is not None
        ]
        return max(fits, key=lambda fit: fit[:2])[2] if fits else None


@dataclass(frozen=True, slots=True)
class World:
    """Clocks and chance. `monotonic` and `wall` are in seconds, `wall` since 1970; `shuffle` works in place."""

    monotonic: Callable[[], float]
    wall: Callable[[], float]
    shuffle: Callable[[list[object]], None]
