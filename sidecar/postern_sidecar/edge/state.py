"""The last accepted configuration, kept in the state directory (contracts section 3).

Written whole or not at all: a reader never sees half of it. A state directory that cannot be written is no reason not
to run; the caller says so in the log.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LAST_ACCEPTED = "last-accepted"


def keep(directory: Path, content: bytes) -> None:
    """Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = directory / f".{LAST_ACCEPTED}.{os.getpid()}"
    temporary.write_bytes(content)
    temporary.replace(directory / LAST_ACCEPTED)


def last_accepted(directory: Path) -> bytes | None:
    try:
        return (directory / LAST_ACCEPTED).read_bytes()
    except OSError:
        return None
