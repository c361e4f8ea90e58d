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
    """Raises OSError. Whatever lies where the temporary file goes is removed, not followed: it may be a link."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = directory / f".{LAST_ACCEPTED}.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        temporary.replace(directory / LAST_ACCEPTED)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def last_accepted(directory: Path) -> bytes | None:
    try:
        return (directory / LAST_ACCEPTED).read_bytes()
    except OSError:
        return None
