"""What the bench runs on: the laboratory's two hosts, the first balancer, the sink, and the three ways between them.

    outside: smtp-source or load, 192.0.2.1 -> HAProxy, 10.0.3.7, on the other core
    pod:     X at 10.0.9.12, on a core of its own -> sink at 127.0.0.1, on the other core

All three ways stand at once; one that is not used costs nothing. Raises NoCompilerError, NotRootError,
TreeMissingError, each with the remedy in its message.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from lab import trees
from lab.namespaces import BALANCER, POD, Namespaces, ip
from lab.program import Program

from . import hops
from .machine import raise_limit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from lab.host import Address
    from lab.program import Process

    from .machine import Cores

SOURCES = Path(__file__).resolve().parent / "c"
FLAGS = ("-std=gnu17", "-O2", "-Wall", "-Wextra", "-Werror")
CLIENT = "192.0.2.1"  # a client's address, and where the first balancer listens: a client there has it as its own
SINK = ("127.0.0.1", hops.SINK_PORT)
CONGESTION = "/proc/sys/net/ipv4/tcp_congestion_control"
SINK_OUTSIDE = (POD, hops.SINK_PORT)  # for the way with nothing in between


class NoCompilerError(Exception):
    """The sink and the load generator are small C programs: Python would be the bottleneck."""


@dataclass(frozen=True)
class Way:
    """What stands between the first balancer and the mail server."""

    name: str
    entry: Address  # the first balancer's
    address: Address  # its own: takes PROXY v2
    process: Process | None  # None: nothing in between


class Ground:
    def __init__(self, cores: Cores) -> None:
        raise_limit()
        self.cores = cores
        self.lab = Namespaces()
        try:
            self._furnish()
        except BaseException:
            self.lab.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lab.close()

    @property
    def haproxy_version(self) -> str:
        return ".".join(map(str, trees.version("haproxy")))

    def _furnish(self) -> None:
        self._sink, self._load = (compiled(name, self.lab.folder) for name in ("sink", "load"))
        for host in ("outside", "pod"):  # no pacing; every kernel lets a namespace have it
            self.lab.run(Program(argv=["sh", "-c", f"echo reno > {CONGESTION}"], host=host))
        # Else a client's own address towards an address of that network would be the network's first.
        self.lab.run(ip("address", "add", f"{CLIENT}/32", "dev", "lo"))
        argv = [str(self._sink), CLIENT, *(f"{host}:{port}" for host, port in (SINK, SINK_OUTSIDE))]
        sink = self.lab.start(Program(argv=argv), "sink")
        sink.log.wait_for(r"^listening on \d+ \d+$")

    def ways(self) -> tuple[Way, ...]:
        """nothing, HAProxy, Postern: in the order in which each round takes them."""
        haproxy, postern = (POD, 601), (POD, 602)
        ways = (
            Way("nothing", (CLIENT, 500), SINK_OUTSIDE, None),
            Way("HAProxy", (CLIENT, 501), haproxy, self.haproxy(haproxy)),
            Way("Postern", (CLIENT, 502), postern, self.postern(postern)),
        )
        hops.balancer(self.lab, {way.entry: way.address for way in ways})
        return ways

    def haproxy(self, address: Address) -> Process:
        return hops.haproxy(self.lab, address, self.cores.measured)

    def postern(self, address: Address, *, rules: Sequence[dict[str, str]] = ()) -> Process:
        return hops.postern(self.lab, address, self.cores.measured, rules)

    def load(self, *arguments: str) -> Process:
        """Starts the bench's own client on the outside."""
        return self.lab.start(Program(argv=[str(self._load), *arguments], host="outside"), "load")

    def load_past_the_balancer(self, *arguments: str) -> Process:
        """The same, opening with the header that the balancer would have sent."""
        return self.load("-p", CLIENT, "-b", BALANCER, *arguments)


def compiled(name: str, folder: Path, *libraries: str) -> Path:
    """The program made of bench/c/NAME.c. Raises NoCompilerError."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoCompilerError("the bench compiles its mail sink and its client: apt-get install gcc libc6-dev")
    program = folder / name
    result = subprocess.run(
        [compiler, *FLAGS, "-o", str(program), str(SOURCES / f"{name}.c"), *libraries],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise NoCompilerError(f"{compiler} cannot compile bench/c/{name}.c (libc6-dev missing?):\n{result.stderr}")
    return program
