"""The laboratory that tests use: real mail servers and load balancers, each with one call.

    with Lab() as lab:
        postfix = lab.postfix(master=service(2525, smtpd_upstream_proxy_protocol="haproxy"))
        sidecar = lab.sidecar({"inbound": [...]})
        lab.haproxy(Forward(bind=(BALANCER, 25), to=(POD, 25), send="v2", check=True))
        with lab.outside.talk((BALANCER, 25), source="192.0.2.10") as client:
            client.deliver()
        postfix.log.wait_for(r"connect from .*\\[192\\.0\\.2\\.10\\]")

A server's method returns when the server accepts connections. Everything ends with the `with` block, and if the
tests are interrupted or killed.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from . import certificate, trees
from .accounts import etc
from .destinations import Sink
from .mailserver import MailServer
from .namespaces import Namespaces
from .program import PATIENCE, Process, Program
from .servers import balancers, dovecot, exim, nameserver, opensmtpd, postfix, unbound
from .servers.nsd import NameServers
from .servers.sidecar import Sidecar
from .snippets import snippet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from .destinations import Behaviour
    from .host import Address
    from .servers.balancers import Forward
    from .world import World


class Lab(Namespaces):
    def __init__(self) -> None:
        super().__init__()
        self._sidecars: list[Sidecar] = []
        try:
            self._etc = {**etc(), **certificate.files(self)}
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        for sidecar in self._sidecars:
            if error is None and "Traceback" in str(sidecar.log):
                raise AssertionError(f"the sidecar met a bug of its own:\n{sidecar.log}")

    def postfix(
        self, *, master: str, main: str = "", host: str = "pod", files: Mapping[str, str] | None = None
    ) -> MailServer:
        """`master`: services for master.cf (see `postfix.service`); `main`: lines for main.cf; `files`: more of them,
        by path."""
        return postfix.start(self, {**self._etc, **(files or {})}, master=master, main=main, host=host)

    def exim(
        self,
        *,
        main: str,
        routers: str = "",
        transports: str = "",
        host: str = "pod",
        files: Mapping[str, str] | None = None,
    ) -> MailServer:
        """`main`: options for the main section, `local_interfaces` among them. `routers`, if there are any, come before
        the box's, and 127.0.0.1 may relay then. `files`: more of them, by path."""
        etc = {**self._etc, **(files or {})}
        return exim.start(self, etc, main=main, routers=routers, transports=transports, host=host)

    def opensmtpd(self, *, listen: str, port: int = 2525, host: str = "pod") -> MailServer:
        """`listen`: lines of smtpd.conf, on `port`."""
        return opensmtpd.start(self, self._etc, listen=listen, port=port, host=host)

    def dovecot(self, *, listeners: str, host: str = "pod") -> MailServer:
        """`listeners`: settings in the language that `dovecot.syntax()` names."""
        return dovecot.start(self, self._etc, listeners=listeners, host=host)

    def aiosmtpd(self, *, program: str, port: int = 2525, host: str = "pod") -> MailServer:
        """`program`: Python text that serves on `port`."""
        process = self.python(program, host=host, name="aiosmtpd")
        self.wait_for_port(process, port, host)
        return MailServer(process)

    def haproxy(self, *forwards: Forward, host: str = "outside") -> Process:
        return balancers.haproxy(self, self._etc, forwards, host=host)

    def nginx(self, *forwards: Forward, host: str = "outside") -> Process:
        return balancers.nginx(self, self._etc, forwards, host=host)

    def sidecar(
        self,
        spec: Mapping[str, Any] | None = None,
        *,
        text: str | None = None,
        arguments: Sequence[str] = (),
        net_raw: bool = False,
        internet: World | None = None,
        wait: bool = True,
    ) -> Sidecar:
        """A sidecar with a policy of this `spec`, or with this file (`text`); `net_raw` is for Transparent. `internet`:
        the world whose root is the one that its system knows; without it, the real one, which is out of reach."""
        filename = "policy.json" if text is None else "policy.yaml"
        system = [] if internet is None else [unbound.root_files(internet, self.folder / "internet")]
        sidecar = Sidecar(self, self._etc, filename=filename, arguments=arguments, net_raw=net_raw, system=system)
        if text is not None:
            sidecar.write_text(text)
        else:
            sidecar.write(spec or {})
        sidecar.start(wait=wait)
        self._sidecars.append(sidecar)
        return sidecar

    def nameserver(
        self,
        pointers: Mapping[str, str] | None = None,
        *,
        hosts: Mapping[str, Sequence[str]] | None = None,
        failing: Sequence[str] = (),
    ) -> Process:
        """What the pod's resolver knows. Its log has an "asked" line for each question.

        `pointers` maps addresses to names; `hosts` names to addresses, by default the way back; `failing` are the
        addresses and names that get SERVFAIL.
        """
        pointers = pointers or {}
        if hosts is None:
            hosts = {
                name: [address for address, other in pointers.items() if other == name] for name in pointers.values()
            }
        table = json.dumps({"pointers": dict(pointers), "hosts": dict(hosts), "failing": list(failing)})
        program = Program(argv=[sys.executable, "-u", nameserver.__file__, table], files=self._etc)
        process = self.start(program, "nameserver")
        process.log.wait_for("^ready$")
        return process

    def nsd(self, world: World) -> NameServers:
        """Serves the world's zones, as they are now and after each `reload`."""
        return NameServers(self, self._etc, world)

    def unbound(
        self, world: World, *, extra: str = "", port: int = 53, host: str = "pod", anchor: bool = True
    ) -> Process:
        """A resolver on 127.0.0.1 that validates from the world's root, or without `anchor` one that does not.
        `extra`: lines for its server section."""
        return unbound.start(self, self._etc, world, extra=extra, port=port, host=host, anchor=anchor)

    def sink(self, table: Mapping[Address, Behaviour]) -> Sink:
        """SMTP destinations on `outside`, all in one process."""
        sink = Sink(self, self._etc, table)
        sink.wait()
        return sink

    def swaks(self, *arguments: str, host: str = "outside", timeout: float = PATIENCE) -> Process:
        """Runs swaks to its end, whatever its status; its transcript is the log."""
        program = Program(argv=["swaks", *arguments], host=host, trees=[trees.tree("swaks")], files=self._etc)
        return self.run(program, timeout=timeout, check=False)

    def python(self, text: str, *, host: str = "pod", name: str = "python") -> Process:
        """Starts a Python program of the tests' own, with this interpreter's packages."""
        return self.start(Program(argv=[sys.executable, "-u", "-c", text], host=host, files=self._etc), name)

    def shell(self, commands: str, *, host: str = "pod") -> Process:
        """Runs commands of a system administrator to their end; the first that fails fails the test."""
        program = Program(argv=["sh", "-exc", commands], host=host, trees=[trees.tree("iproute2")], empty=())
        return self.run(program)

    def route_transparent(self) -> None:
        """The pod's routing rules for hand-over Transparent, as docs/backends.md gives them."""
        self.shell(snippet("transparent-rules"))
