"""A program on the host that ends with the tests, however these end: Ctrl-C, a crash, SIGKILL.

The kernel sends it SIGKILL when the thread that started it is gone (PR_SET_PDEATHSIG). So one thread starts all of
them, and lives for as long as the process does.
"""

from __future__ import annotations

import os
import queue
import random
import socket
import subprocess
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping, Sequence

PATIENCE = 20.0  # seconds to end after SIGTERM
LOG_SHOWN = 8_000  # characters of a log's end, in a failure's text
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


class Program:
    """A running program; its standard output and error go to a file."""

    def __init__(
        self, argv: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.argv = [str(part) for part in argv]
        self.name = Path(self.argv[0]).name
        self.log_path = log
        self._process = _start(self.argv, log, {**os.environ, **(env or {})}, cwd)
        self.pid = self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="backslashreplace")

    @property
    def end_of_log(self) -> str:
        return self.log[-LOG_SHOWN:]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit code, negative for a signal; AssertionError with its log if it goes on."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        raise AssertionError(f"{self.name} still runs after {timeout:g} s. Its log ends:\n{self.end_of_log}")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self, timeout: float = PATIENCE) -> int:
        """SIGTERM, and SIGKILL where that has not helped. Its exit code."""
        self._process.terminate()
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()


def free_port() -> int:
    """One that nothing listens on, below those that the kernel gives to outgoing connections: so it stays free while
    its owner restarts. Another program may still take it first: whoever uses it tries again then."""
    lowest = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32768
    for _ in range(200):
        port = random.randrange(min(10_000, lowest - 2_000), lowest)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port below {lowest} is free on 127.0.0.1")


_Order = tuple["Future[subprocess.Popen[bytes]]", list[str], Path, dict[str, str], Path | None]
_orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
_starter_lock = threading.Lock()
_starter: threading.Thread | None = None


def _start(argv: list[str], log: Path, env: dict[str, str], cwd: Path | None) -> subprocess.Popen[bytes]:
    global _starter
    with _starter_lock:
        if _starter is None:
            _starter = threading.Thread(target=_serve, name="starts programs", daemon=True)
            _starter.start()
    started: Future[subprocess.Popen[bytes]] = Future()
    _orders.put((started, argv, log, env, cwd))
    return started.result()


def _serve() -> None:
    while True:
        started, argv, log, env, cwd = _orders.get()
        try:
            with log.open("ab") as output:
                process = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", "--", *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=env,
                    cwd=cwd,
                    start_new_session=True,  # a terminal's Ctrl-C is for pytest, which then stops them in order
                )
            started.set_result(process)
        except BaseException as problem:
            started.set_exception(problem)
