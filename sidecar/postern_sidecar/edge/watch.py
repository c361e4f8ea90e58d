"""Noticing that a file has changed, whatever changed it: an editor, `mv`, or the kubelet's swap of `..data`.

The kubelet replaces a symlink two steps above the file, editors replace inodes, network file systems send no events:
looking at what the path leads to now is right for all of them, and costs one stat each time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

INTERVAL = 0.5  # seconds

Stamp = tuple[int, int, int, int] | None


def stamp(path: Path) -> Stamp:
    """What tells one state of the file from another; None while there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


async def watch(path: Path, seen: Stamp, changed: Callable[[], Awaitable[None]]) -> None:
    """Call `changed` after each change since `seen`. A file that is gone is no change: it is about to come back."""
    while True:
        await asyncio.sleep(INTERVAL)
        now = stamp(path)
        if now is not None and now != seen:
            seen = now
            await changed()
