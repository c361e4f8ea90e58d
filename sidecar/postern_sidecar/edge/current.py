"""The configuration that runs: the file, or where it is refused at start the copy of the last accepted one.

What `/config` says of it comes from here (contracts section 3). `load_at_start` raises those of REFUSED.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from postern_sidecar import config

from . import state
from .watch import Stamp, stamp

if TYPE_CHECKING:
    from postern_sidecar.config.model import Policy
    from postern_sidecar.config.options import Options

SOURCE_FILE: Final = "file"
SOURCE_LAST: Final = "lastAccepted"
REFUSED = (config.InvalidPolicy, config.Unreadable)


@dataclass(frozen=True, slots=True)
class Current:
    """An accepted configuration, and where it came from."""

    loaded: config.Loaded
    source: str
    refused: dict[str, str] | None = None  # what /config says of a file that was not taken
    seen: Stamp = None  # at start, the file's from before it was read: what differs from that is a change

    @property
    def policy(self) -> Policy:
        return self.loaded.policy

    @property
    def hash(self) -> str:
        return config.config_hash(self.loaded.data)


def load_at_start(options: Options) -> Current:
    """The file, or the copy of the last accepted one where the file is refused. Raises Unreadable and InvalidPolicy."""
    seen = stamp(options.config)
    data, name = config.read(options.config), str(options.config)
    try:
        return Current(config.load(data, name), SOURCE_FILE, seen=seen)
    except config.InvalidPolicy as refused:
        copy = state.last_accepted(options.state_dir)
        if copy is None:
            raise
        try:
            loaded = config.load(copy, f"last accepted copy of {name}")
        except config.InvalidPolicy:
            raise refused from None
        return Current(loaded, SOURCE_LAST, refusal(data, refused), seen)


def refusal(data: bytes, refused: Exception) -> dict[str, str]:
    """`error` of /config."""
    return {"hash": config.config_hash(data), "message": str(refused), "at": now()}


def now() -> str:
    """RFC 3339."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
