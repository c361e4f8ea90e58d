"""An Unbound of our own: written its configuration, started, watched, started again, ended.

It listens on one port of loopback, TCP and UDP, that the kernel picks anew for each start. It counts as up when it has
said on its standard error that it serves (so nobody else has the port), and answers. One that ends, or no longer
answers, is started again after a wait that grows; the kernel kills it with this process, however that ends.
`lookup.recursor` decides what it is told, `edge.unboundlog` what of its log is passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import tempfile
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from postern_sidecar.answers import Kind, Question
from postern_sidecar.lookup import recursor
from postern_sidecar.names import Domain, Endpoint

from . import child
from .addresses import own_addresses
from .dnsexchange import exchange
from .unboundlog import LINE, UnboundLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from postern_sidecar.config.model import DNS

PROGRAM: Final = "unbound"
FOLDERS: Final = "/usr/local/sbin:/usr/sbin:/sbin"  # besides PATH: a user other than root has none of these there
ANCHOR_FILES: Final = ("/usr/share/dns/root.key", "/usr/share/dnssec-root/trusted-key.key")  # Debian's, Alpine's
HINTS_FILE: Final = "/usr/share/dns/root.hints"
BUNDLE_FILE: Final = "/etc/ssl/certs/ca-certificates.crt"

START: Final = 20.0  # seconds until it serves
EVERY: Final = 5.0  # seconds between looks whether it answers
PING: Final = 3.0  # seconds for one such answer, twice
FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 30.0
STABLE: Final = 60.0  # seconds of life after which the wait is FIRST_WAIT again

_LOOPBACK: Final = IPv4Address("127.0.0.1")
_ALIVE: Final = Question(Domain("localhost"), Kind.A)  # which Unbound answers without asking anybody


class MissingError(Exception):
    """Something that the resolver needs is not installed; the text says what, and how to get it."""


class Unbound:
    """`on_up(where)` once it can be asked, `on_down(why)` when it no longer can, or never could; `say` takes lines for
    the log. `directory` None: one of our own, removed in the end."""

    def __init__(
        self,
        dns: DNS,
        directory: Path | None,
        *,
        on_up: Callable[[Endpoint], None],
        on_down: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        self.restarts = 0
        self.pid: int | None = None
        self._dns = dns
        self._wanted = directory
        self._directory: Path | None = None
        self._on_up = on_up
        self._on_down = on_down
        self._lines = UnboundLog(say, f"<{dns.self_test.bogus.lower().rstrip('.')}.")
        self._say = say

    async def run(self) -> None:
        """Until it is cancelled. The child is gone then."""
        loop = asyncio.get_running_loop()
        wait = FIRST_WAIT
        with contextlib.ExitStack() as stack:
            while True:
                began = loop.time()
                why = await self._live(stack)
                self._on_down(why)
                if loop.time() - began >= STABLE:
                    wait = FIRST_WAIT
                self._say(f"unbound {why}; starting it again in {wait:g} s")
                await asyncio.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
                self.restarts += 1

    async def _live(self, stack: contextlib.ExitStack) -> str:
        """One life, and why it is over."""
        try:
            program, port = find(), free_port()
            directory = self._directory = self._directory or _directory(self._wanted, stack)
            self._write(directory, port)
            process = await child.start((program, "-d", "-p", "-c", str(directory / recursor.CONFIGURATION)), directory)
        except (OSError, ValueError, MissingError) as error:
            return f"cannot be started: {error}"
        self.pid = process.pid
        exited = asyncio.ensure_future(process.wait())
        serves = asyncio.Event()
        reading = asyncio.ensure_future(self._read(process.stderr, serves))
        try:
            why, up = await self._watch(Endpoint(_LOOPBACK, port), exited, serves)
            if exited.done():
                await asyncio.wait({reading}, timeout=child.GRACE)  # its last words
            else:  # SIGTERM means nothing to one that is frozen
                process.kill()
            if not up:  # whatever was wrong with the file that it keeps itself: it gets a fresh one
                (directory / recursor.ANCHOR).unlink(missing_ok=True)
        finally:
            await child.end(process, exited)
            self.pid = None
            reading.cancel()
            await asyncio.wait({reading})
        return why

    def _write(self, directory: Path, port: int) -> None:
        dns = self._dns
        over_tls = any(forward.tls_name for forward in dns.forwards)
        place = recursor.Place(
            port,
            str(directory),
            hints=HINTS_FILE if Path(HINTS_FILE).is_file() else "",
            bundle=(ssl.get_default_verify_paths().cafile or BUNDLE_FILE) if over_tls else "",
            ipv6=any(isinstance(address, IPv6Address) and _leads_out(address) for address in own_addresses()),
        )
        for name, text in recursor.files(dns, place).items():
            (directory / name).write_text(text, "ascii")
        anchor = directory / recursor.ANCHOR
        if recursor.needs_root_anchor(dns) and not anchor.exists():
            shutil.copyfile(_anchor_file(), anchor)

    async def _watch(self, where: Endpoint, exited: asyncio.Future[int], serves: asyncio.Event) -> tuple[str, bool]:
        """Until there is something wrong with it: what, and whether it was up before."""
        serving = asyncio.ensure_future(serves.wait())
        either: set[asyncio.Future[Any]] = {serving, exited}
        await asyncio.wait(either, timeout=START, return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        up = False
        while True:
            if exited.done():
                return _ending(exited.result(), up), up
            if not serves.is_set() or not await _answers(where):
                return f"does not answer on 127.0.0.1 port {where.port}", up
            if not up and not exited.done():
                up = True
                self._on_up(where)
            await asyncio.wait({exited}, timeout=EVERY)

    async def _read(self, stream: asyncio.StreamReader | None, serves: asyncio.Event) -> None:
        rest = b""
        while stream is not None and (data := await stream.read(4096)):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                if self._lines.take(line.decode("ascii", "backslashreplace"), asyncio.get_running_loop().time()):
                    serves.set()


def find() -> str:
    """The program's path. Raises MissingError."""
    path = shutil.which(PROGRAM, path=f"{os.environ.get('PATH', os.defpath)}:{FOLDERS}")
    if path is None:
        raise MissingError(
            f"there is no program `{PROGRAM}`: install it (Debian: unbound and dns-root-data), or set "
            "spec.outbound.dns.resolver: Servers"
        )
    return path


def require(dns: DNS) -> None:
    """All that it needs is installed. Raises MissingError."""
    find()
    if recursor.needs_root_anchor(dns):
        _anchor_file()


def free_port() -> int:
    """A port of loopback that nobody has, neither for TCP nor for UDP. Raises OSError."""
    for _ in range(16):
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind((str(_LOOPBACK), 0))
            port = int(tcp.getsockname()[1])
            with contextlib.suppress(OSError):
                udp.bind((str(_LOOPBACK), port))
                return port
    raise OSError("no port of 127.0.0.1 is free for TCP and UDP")


def _anchor_file() -> str:
    for path in ANCHOR_FILES:
        if Path(path).is_file():
            return path
    raise MissingError(
        f"there is no trust anchor of the root in {' or '.join(ANCHOR_FILES)}: install it (Debian: dns-root-data), or "
        "set spec.outbound.dns.trustAnchors"
    )


def _directory(wanted: Path | None, stack: contextlib.ExitStack) -> Path:
    """A private directory: the wanted one, else one of our own, removed with `stack`. Raises OSError."""
    if wanted is not None:
        with contextlib.suppress(OSError):
            wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
            wanted.chmod(0o700)
            if os.access(wanted, os.W_OK):
                return wanted
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postern-dns-")))


async def _answers(where: Endpoint) -> bool:
    for _ in range(2):
        with contextlib.suppress(OSError):  # of which TimeoutError is one
            async with asyncio.timeout(PING):
                await exchange(where, _ALIVE)
                return True
    return False


def _ending(status: int, up: bool) -> str:
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return how if up else f"{how} before it served"


def _leads_out(address: IPv6Address) -> bool:
    return not (address.is_loopback or address.is_link_local)
