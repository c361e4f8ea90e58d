"""What a running process has used, read from /proc as that process sees itself (proc(5)); and what a group of them has,
those that have ended with them, which only the kernel's control groups know."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

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


def program_resident(process: Process, name: str) -> int:
    """The same of all that run a program of that name among its descendants."""
    total = 0
    folder = process.open("/proc")
    try:
        numbers = [entry for entry in os.listdir(folder) if entry.isdigit()]  # noqa: PTH208 - a descriptor
    finally:
        os.close(folder)
    for number in numbers:
        status = process.read(f"/proc/{number}/status")
        found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        if found and re.match(rf"Name:\s+{re.escape(name)}\n", status):
            total += int(found[1]) * 1024
    return total


class NoControlGroupsError(Exception):
    """A mail server's processes come and go: without control groups nobody knows what they used."""


class Group:
    """A control group (version 2) of one mail server's processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    @property
    def joined(self) -> tuple[str, ...]:
        """What stands before a command line, to start it in the group."""
        return ("sh", "-c", f'echo 0 > {self.folder}/cgroup.procs && exec "$@"', "sh")

    def cpu_seconds(self) -> float:
        """On a processor so far, once it has come to rest: mail servers clear up behind a message."""
        used = -1.0
        while (now := self._used()) - used > 0.001:
            used = now
            time.sleep(0.05)
        return now

    def _used(self) -> float:
        found = re.search(r"^usage_usec (\d+)", (self.folder / "cpu.stat").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) / 1e6


class Groups:
    """Those of a run. They are removed at its end, which must be behind that of all that ran in them."""

    def __init__(self) -> None:
        self._root = _root()
        self._made: list[Group] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for group in self._made:
            group.folder.rmdir()

    def make(self) -> Group:
        group = Group(self._root / f"postern-bench-{os.getpid()}-{len(self._made)}")
        self._made.append(group)
        return group


def _root() -> Path:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2" and os.access(place, os.W_OK):
            return Path(place)
    raise NoControlGroupsError(
        "the bench counts processor time by control groups: mount -t cgroup2 none /sys/fs/cgroup"
    )
