"""The laboratory's first process: it makes the namespaces, starts every program in them, and reports their ends.

Run by `laboratory.Lab` as `unshare --mount --net --pid --fork python supervisor.py FD`, so it is process 1 of its own
process namespace. It obeys requests on the socket FD until that is closed, which the end of pytest does however it
comes: Ctrl-C, a crash, SIGKILL. Then it exits, the kernel kills what it started, and with the last process go the
namespaces and every mount. Standard library only, one thread, so that it may fork.

Two network namespaces: `outside` (clients, load balancers) and `pod` (the sidecar and the mail server). Each program
also gets a process and a mount namespace of its own: killing its first process kills all of it, and its tree lies
over /usr without anyone else's seeing it.

Requests and answers are JSON objects, one a packet:
    {"start": Program's fields} + stdout's descriptor  -> {"started": pid}
    {"signal": pid, "number": n}                       -> {"done": true}
    {"open": pid, "path": p}                           -> {"done": true} + a descriptor of p as that program sees it
    {"erase": folder}: at the very end                 -> {"done": true}
    any that fails                                     -> {"error": text}
and unasked, once for each program: {"ended": pid, "status": exit code, negative for a signal}
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import kernel

HOSTS = ("outside", "pod")
NETNS = Path("/run/netns")  # where `ip -n NAME` looks
SCRATCH = Path("/run/layers")
LARGEST = 1 << 20
AN_OLD_FILE = 1_000_000_000.0  # Postfix waits for two seconds where its main.cf is younger than one

AT_ONCE = {"ipv6/conf/default/accept_dad": "0", "ipv6/conf/all/accept_dad": "0"}  # no second of waiting for a new link

SYSCTLS = {
    "outside": {
        **AT_ONCE,
        "ipv4/ip_forward": "1",
        "ipv6/conf/all/forwarding": "1",
        "ipv6/ip_nonlocal_bind": "1",  # a client has any address that is routed to `lo`
        "ipv4/ip_local_port_range": "1024 65535",
    },
    "pod": {
        **AT_ONCE,
        "ipv4/ip_unprivileged_port_start": "0",  # what the pod's sysctl does in a cluster
        "ipv4/ip_local_port_range": "1024 65535",
    },
}


class Supervisor:
    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.network: dict[str, int] = {}
        self.folder: str | None = None
        self.own_processes = os.open("/proc/self/ns/pid", os.O_RDONLY)

    def prepare(self) -> None:
        kernel.mount("tmpfs", Path("/run"), "tmpfs", "mode=755")
        kernel.mount("proc", Path("/proc"), "proc")
        NETNS.mkdir()
        SCRATCH.mkdir()
        for host in HOSTS:
            if host != HOSTS[0]:  # the first is the one that `unshare` made
                kernel.unshare(kernel.CLONE_NEWNET)
            place = NETNS / host
            place.touch()
            kernel.bind(Path("/proc/self/ns/net"), place)
            self.network[host] = os.open(place, os.O_RDONLY)
            for name, value in SYSCTLS[host].items():
                Path("/proc/sys/net", name).write_text(value)
        socket.send_fds(self.control, [b'{"ready": true}'], [self.network[host] for host in HOSTS])

    def serve(self) -> None:
        """Returns when the other side is gone."""
        while True:
            try:
                packet, descriptors, _, _ = socket.recv_fds(self.control, LARGEST, 4)
            except InterruptedError:
                continue
            if not packet:
                return
            try:
                answer, attached = self.obey(json.loads(packet), descriptors)
            except Exception as problem:  # whatever it is, the test that asked must see it
                answer, attached = {"error": f"{type(problem).__name__}: {problem}"}, []
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            socket.send_fds(self.control, [json.dumps(answer).encode()], attached)
            for descriptor in attached:
                os.close(descriptor)

    def obey(self, request: dict[str, Any], descriptors: list[int]) -> tuple[dict[str, Any], list[int]]:
        match request:
            case {"start": program}:
                return {"started": self.start(program, descriptors[0])}, []
            case {"signal": pid, "number": number}:
                os.kill(pid, number)
            case {"open": pid, "path": path}:
                return {"done": True}, [os.open(f"/proc/{pid}/root{path}", os.O_RDONLY)]
            case {"erase": folder}:
                self.folder = folder
            case _:
                raise ValueError(f"no such request: {request}")
        return {"done": True}, []

    def start(self, program: dict[str, Any], stdout: int) -> int:
        kernel.unshare(kernel.CLONE_NEWPID)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        try:
            pid = os.fork()
            if pid == 0:
                become(program, self.network[program["host"]], stdout)
        finally:
            kernel.setns(self.own_processes, kernel.CLONE_NEWPID)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        return pid

    def reap(self, *_: object) -> None:
        """SIGCHLD: also for orphans, which a first process inherits."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            report = {"ended": pid, "status": os.waitstatus_to_exitcode(status)}
            self.control.send(json.dumps(report).encode())


def become(program: dict[str, Any], network: int, stdout: int) -> None:
    """In the new process: never returns."""
    try:
        os.dup2(stdout, 1)
        os.dup2(stdout, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        kernel.setns(network, kernel.CLONE_NEWNET)
        kernel.unshare(kernel.CLONE_NEWNS)
        furnish(program)
        os.setsid()
        os.chdir(program["cwd"])
        if program["capabilities"] is not None:
            kernel.give_up_capabilities(program["capabilities"])
        os.closerange(3, 1024)
        os.execvpe(program["argv"][0], program["argv"], program["env"])  # noqa: S606 - no shell wanted
    except BaseException:  # a copy of the supervisor must never go on
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(127)


def furnish(program: dict[str, Any]) -> None:
    """The file system as this program sees it. All of it is in memory, but for what lies below."""
    kernel.mount("proc", Path("/proc"), "proc")
    kernel.mount("tmpfs", SCRATCH, "tmpfs", "mode=755")
    for name in ("etc", "var"):
        upper, work = SCRATCH / name, SCRATCH / f"{name}.work"
        upper.mkdir()
        work.mkdir()
        below = ":".join([*(f"{tree}/{name}" for tree in program["trees"] if Path(tree, name).is_dir()), f"/{name}"])
        kernel.mount("overlay", Path("/", name), "overlay", f"lowerdir={below},upperdir={upper},workdir={work}")
    if program["trees"]:
        below = ":".join([*(f"{tree}/usr" for tree in program["trees"]), "/usr"])
        kernel.mount("overlay", Path("/usr"), "overlay", f"lowerdir={below}")
    for place in program["empty"]:
        kernel.mount("tmpfs", Path(place), "tmpfs", "mode=755")
    for place, content in program["files"].items():
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).write_text(content)
        os.utime(place, (AN_OLD_FILE, AN_OLD_FILE))
    for name, owner, mode in program["folders"]:
        folder, entry = Path(name), pwd.getpwnam(owner)
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        folder.chmod(mode)


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as control:
        control.set_inheritable(False)
        supervisor = Supervisor(control)
        supervisor.prepare()
        signal.signal(signal.SIGCHLD, supervisor.reap)
        supervisor.serve()
    if supervisor.folder:
        shutil.rmtree(supervisor.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
