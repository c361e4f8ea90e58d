"""The laboratory's ground: two hosts with a cable between them, and programs that run on them.

    outside  192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24, 2001:db8::/32   the clients: any of these addresses
             10.0.3.0/24, fd00:3::/64                                       the load balancers
             10.0.9.1, fd00:9::1
    pod      10.0.9.12, fd00:9::12                                          the sidecar and the mail servers

Both have a loopback of their own, every port is free, and nothing here can reach the machine's network or be reached
from it. Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from . import supervisor, trees
from .host import Host
from .program import PATIENCE, Log, Process, Program

if TYPE_CHECKING:
    from types import TracebackType

POD = "10.0.9.12"
POD6 = "fd00:9::12"
BALANCER = "10.0.3.7"
BALANCER6 = "fd00:3::7"
CLIENTS = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")

# On the loopback device a prefix makes every address of it our own; IPv6 wants a route for that.
OUTSIDE_COMMANDS = """\
link add up0 type veth peer name eth0 netns pod
link set lo up
link set up0 up
address add 192.0.2.0/24 dev lo
address add 198.51.100.0/24 dev lo
address add 203.0.113.0/24 dev lo
address add 10.0.3.0/24 dev lo
route add local 2001:db8::/32 dev lo
route add local fd00:3::/64 dev lo
address add 10.0.9.1/24 dev up0
address add fd00:9::1/64 dev up0 nodad
"""
POD_COMMANDS = """\
link set lo up
link set eth0 up
address add 10.0.9.12/24 dev eth0
address add fd00:9::12/64 dev eth0 nodad
route add default via 10.0.9.1
route add default via fd00:9::1
"""


class NotRootError(Exception):
    """Namespaces and mounts are root's to make."""


class Namespaces:
    """The network and the programs in it, for as long as the `with` block lasts, and never longer than this process."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise NotRootError("the tests with real mail servers make network and mount namespaces: run them as root")
        self.folder = Path(tempfile.mkdtemp(prefix="postern-lab-"))
        self.folder.chmod(0o755)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._supervisor = subprocess.Popen(
                [
                    *("unshare", "--mount", "--net", "--pid", "--fork"),
                    *(sys.executable, "-I", "-S", supervisor.__file__, str(theirs.fileno())),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is pytest's: its teardown ends the laboratory
            )
        self._hosts: list[Host] = []
        self._processes: dict[int, Process] = {}
        self._ended_early: dict[int, int] = {}
        self._answer: tuple[dict[str, Any], list[int]] | None = None
        self._gone = False
        self._asking = threading.Lock()
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="supervisor's answers", daemon=True)
        try:
            self.outside, self.pod = self._meet()
            self._reader.start()
            self._ask({"erase": str(self.folder)})
            self.run(ip("-batch", "-", commands=OUTSIDE_COMMANDS))
            self.run(ip("-n", "pod", "-batch", "-", commands=POD_COMMANDS))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every program. Returns when the last is gone, with its namespaces and mounts."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        self._supervisor.wait()  # the kernel ends a process namespace's first process after all others
        if self._reader.is_alive():
            self._reader.join()
        self._control.close()
        for process in self._processes.values():
            process.log.wait_for_end()
        for host in self._hosts:
            host.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The process whose end is the end of everything here."""
        return self._supervisor.pid

    def start(self, program: Program, name: str) -> Process:
        reading, writing = os.pipe()
        os.fchmod(writing, 0o666)  # servers open /dev/stdout again after they became another user
        log = Log(reading, name)
        try:
            answer, _ = self._request({"start": program.request()}, [writing])
        finally:
            os.close(writing)
        process = Process(answer["started"], log, self._ask)
        with self._news:
            self._processes[process.pid] = process
            if process.pid in self._ended_early:
                process.ended(self._ended_early.pop(process.pid))
        return process

    def run(self, program: Program, *, timeout: float = PATIENCE, check: bool = True) -> Process:
        """Runs a program to its end."""
        process = self.start(program, Path(program.argv[0]).name)
        status = process.wait(timeout)
        if check and status != 0:
            raise AssertionError(f"{' '.join(program.argv)} ended with {status}:\n{process.log}")
        return process

    def wait_for_port(self, process: Process, port: int, host: str, *, timeout: float = PATIENCE) -> None:
        """For servers that do not say when they are ready: asks the kernel, without a connection, which they'd log."""
        side = {"outside": self.outside, "pod": self.pod}[host]
        until = time.monotonic() + timeout
        while not side.listens_on(port):
            if process.ended_within(0.005) or time.monotonic() > until:
                raise AssertionError(f"{process.log.name} does not listen on port {port}. Its log:\n{process.log}")

    def _meet(self) -> tuple[Host, Host]:
        packet, namespaces, _, _ = socket.recv_fds(self._control, supervisor.LARGEST, len(supervisor.HOSTS))
        if not packet:
            status = self._supervisor.wait()
            raise RuntimeError(
                f"namespaces could not be made (status {status}): see standard error. A container needs --privileged"
            )
        self._hosts += [Host(name, fd) for name, fd in zip(supervisor.HOSTS, namespaces, strict=True)]
        for host, fd in zip(self._hosts, namespaces, strict=True):
            host.call(lambda: None)  # its thread has moved over: the descriptor is no longer needed
            os.close(fd)
        outside, pod = self._hosts
        return outside, pod

    def _ask(self, request: dict[str, Any]) -> list[int]:
        return self._request(request, [])[1]

    def _request(self, request: dict[str, Any], descriptors: list[int]) -> tuple[dict[str, Any], list[int]]:
        with self._asking:
            socket.send_fds(self._control, [json.dumps(request).encode()], descriptors)
            with self._news:
                self._news.wait_for(lambda: self._answer is not None or self._gone, PATIENCE)
                if self._answer is None:
                    raise RuntimeError("the laboratory's supervisor does not answer: see standard error")
                (answer, received), self._answer = self._answer, None
        if "error" in answer:
            raise RuntimeError(f"the laboratory's supervisor: {answer['error']}")
        return answer, received

    def _read(self) -> None:
        while True:
            packet, descriptors, _, _ = socket.recv_fds(self._control, supervisor.LARGEST, 4)
            if not packet:
                with self._news:
                    self._gone = True
                    self._news.notify_all()
                return
            message = json.loads(packet)
            with self._news:
                if "ended" not in message:
                    self._answer = (message, descriptors)
                elif process := self._processes.get(message["ended"]):
                    process.ended(message["status"])
                else:  # before `start` learned of it, or an orphan
                    self._ended_early[message["ended"]] = message["status"]
                self._news.notify_all()


def ip(*arguments: str, commands: str = "", host: str = "outside") -> Program:
    """An `ip` command; `commands` is its standard input."""
    argv = ["sh", "-c", 'exec ip "$@" < /etc/ip-commands', "ip", *arguments]
    return Program(argv=argv, host=host, trees=[trees.tree("iproute2")], files={"/etc/ip-commands": commands}, empty=())
