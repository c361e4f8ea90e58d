"""What all deliveries of a sidecar share, beside commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .forbidden import Forbidden
    from .memory import Unreachable
    from .settings import Settings, World


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`ready`: whether the resolver's self-test has passed, and if not, why."""

    settings: Settings
    world: World
    forbidden: Forbidden
    unreachable: Unreachable
    ready: Callable[[], tuple[bool, str]]
