"""A program that runs in the laboratory: what it needs, what it wrote, and how it ends."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

PATIENCE = 20.0  # seconds: far above what anything takes here, and a test fails with the whole log after it


@dataclass(frozen=True, kw_only=True)
class Program:
    """What to run, and the file system that it is to see."""

    argv: Sequence[str]
    host: str = "pod"  # or "outside"
    trees: Sequence[Path] = ()  # unpacked packages, laid over /usr, /etc and /var
    files: Mapping[str, str] = field(default_factory=dict)
    folders: Sequence[tuple[str, str, int]] = ()  # path, owner, mode
    empty: Sequence[str] = ("/run",)  # places that start empty, in memory
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    capabilities: Sequence[int] | None = None  # None: all of root's

    def request(self) -> dict[str, Any]:
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC", **self.env}
        return {**dataclasses.asdict(self), "trees": [str(tree) for tree in self.trees], "env": env}


class Log:
    """What a program wrote, line by line, and a way to wait for more of it. Any thread may ask."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.name = name
        self._lines: list[str] = []
        self._ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, args=(descriptor,), name=f"log of {name}", daemon=True)
        self._reader.start()

    def __str__(self) -> str:
        with self._news:
            return "\n".join(self._lines)

    @property
    def lines(self) -> list[str]:
        with self._news:
            return list(self._lines)

    def matches(self, pattern: str) -> list[re.Match[str]]:
        """One a line."""
        return [match for line in self.lines if (match := re.search(pattern, line))]

    def wait_for(self, pattern: str, *, times: int = 1, timeout: float = PATIENCE) -> re.Match[str]:
        """The match in the `times`-th line that has one; AssertionError with the whole log where none comes."""
        until = time.monotonic() + timeout
        found: list[re.Match[str]] = []
        seen = 0
        with self._news:
            while True:
                found += [match for line in self._lines[seen:] if (match := re.search(pattern, line))]
                seen = len(self._lines)
                if len(found) >= times:
                    return found[times - 1]
                left = until - time.monotonic()
                if self._ended or left <= 0:
                    why = "it ended" if self._ended else f"{timeout:g} s passed"
                    text = "\n".join(self._lines)
                    raise AssertionError(f"{self.name}: {why} before {times} x {pattern!r}. Its log:\n{text}")
                self._news.wait(left)

    def wait_for_end(self) -> None:
        self._reader.join(PATIENCE)

    def _read(self, descriptor: int) -> None:
        with open(descriptor, encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            for line in stream:
                with self._news:
                    self._lines.append(line.rstrip("\r\n"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


class Process:
    """A running program. All that it started ends with it."""

    def __init__(self, pid: int, log: Log, ask: Callable[[dict[str, Any]], list[int]]) -> None:
        self.pid = pid  # as the supervisor sees it
        self.log = log
        self.status: int | None = None  # exit code, negative for a signal
        self._ask = ask
        self._over = threading.Event()

    def ended(self, status: int) -> None:
        self.status = status
        self._over.set()

    @property
    def running(self) -> bool:
        return not self._over.is_set()

    def ended_within(self, timeout: float) -> bool:
        return self._over.wait(timeout)

    def signal(self, number: signal.Signals) -> None:
        self._ask({"signal": self.pid, "number": int(number)})

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit status, once it has ended and its log is complete."""
        if not self._over.wait(timeout) or self.status is None:
            raise AssertionError(f"{self.log.name} still runs after {timeout:g} s. Its log:\n{self.log}")
        self.log.wait_for_end()
        return self.status

    def kill(self) -> None:
        """Ends it and all of its children at once, as the kernel's memory killer would."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self, timeout: float = PATIENCE) -> int:
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def open(self, path: str) -> int:
        """A descriptor of a file or folder that only this program sees."""
        (descriptor,) = self._ask({"open": self.pid, "path": path})
        return descriptor

    def read(self, path: str) -> str:
        with open(self.open(path), encoding="utf-8", errors="backslashreplace") as stream:  # noqa: PTH123
            return stream.read()

    def read_folder(self, path: str) -> dict[str, str]:
        """The files in a folder by name, without its sub-folders."""
        folder = self.open(path)
        try:
            names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
        finally:
            os.close(folder)
        return {name: self.read(f"{path}/{name}") for name in names}
