"""What a running process has used, read from /proc as that process sees itself (proc(5))."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.program import Process

ITSELF = "/proc/1"  # in the laboratory each program is the first of a process namespace of its own


def cpu_seconds(process: Process) -> float:
    """On a processor so far, in user and system mode, all of its threads: to the nanosecond, unlike `stat`'s ticks."""
    folder = process.open(f"{ITSELF}/task")
    try:
        return sum(_running(folder, thread) for thread in os.listdir(folder)) / 1e9  # noqa: PTH208 - a descriptor
    finally:
        os.close(folder)


def _running(folder: int, thread: str) -> int:
    descriptor = os.open(f"{thread}/schedstat", os.O_RDONLY, dir_fd=folder)
    with open(descriptor) as stream:  # noqa: PTH123 - likewise
        return int(stream.read().split()[0])


def resident(process: Process) -> int:
    """Octets of memory that it has in RAM, shared libraries with it (VmRSS)."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", process.read(f"{ITSELF}/status"), re.MULTILINE)
    if found is None:
        raise AssertionError(f"{process.log.name} is gone. Its log:\n{process.log}")
    return int(found[1]) * 1024
