"""Wiring: a policy becomes listening ports, and signals, the file, the admin port and the drain socket reach them.

`run` and `drain` are what the command line calls. Decisions live below; what is here is order: what starts before what,
what a reload replaces, and how a drain ends. Exit status: 0 ended as asked, 1 failure, 2 configuration (contracts 3).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import uvloop

from postern_sidecar import config
from postern_sidecar.edge import admin, control, exposed, state
from postern_sidecar.edge.addresses import own_addresses
from postern_sidecar.edge.bind import BindError, listen
from postern_sidecar.edge.current import REFUSED, SOURCE_FILE, Current, load_at_start, now, refusal
from postern_sidecar.edge.descriptors import PER_LISTENER, Room, open_now, raise_limit
from postern_sidecar.edge.hostname import system_hostname
from postern_sidecar.edge.listener import ListeningPort, Shared, internal_error
from postern_sidecar.edge.log import LogWriter
from postern_sidecar.edge.metrics import Metrics
from postern_sidecar.edge.outbound_half import OutboundHalf
from postern_sidecar.edge.resolver import ReverseResolver
from postern_sidecar.edge.watch import watch
from postern_sidecar.inbound.limits import Limiter
from postern_sidecar.inbound.listener import Listener, listeners
from postern_sidecar.logline import Formatter, Record
from postern_sidecar.version import VERSION

if TYPE_CHECKING:
    import socket

    from postern_sidecar.config.model import Policy
    from postern_sidecar.config.options import Options

SWEEP = 0.2  # seconds between looks at what is overdue among sessions that are not handed over yet
SWEEPS_OF_SPLICES = 5  # every so many looks, also among those that are
Key = tuple[str, int]
"""What a listening port stays the same port by: the address and the port of the policy."""


def run(options: Options) -> int:
    """`postern-sidecar run`: until it is told to stop."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is somebody to reload: it would end the process
    try:
        current = load_at_start(options)
    except REFUSED as refused:
        sys.stderr.write(f"{refused}\npostern-sidecar: nothing was started\n")
        return 2
    # libuv would batch epoll_ctl through io_uring: measured, 7 % more CPU a session, and many containers forbid it.
    os.environ.setdefault("UV_USE_IO_URING", "0")
    try:
        return uvloop.run(_serve(options, current))
    except (BindError, OSError, ValueError) as error:
        sys.stderr.write(f"postern-sidecar: {error}\n")
        return 1


def drain(options: Options) -> int:
    """`postern-sidecar drain`: the preStop command."""
    return control.send_drain(options.state_dir)


async def _serve(options: Options, current: Current) -> int:
    sidecar = Sidecar(options, current)
    async with contextlib.AsyncExitStack() as stack:
        await sidecar.start(stack)
        await sidecar.stopped.wait()
    return 0


class Sidecar:
    """One running sidecar. `current` is the configuration that new connections get."""

    def __init__(self, options: Options, current: Current) -> None:
        self.options = options
        self.current = current
        self.loaded_at = now()
        self.error = current.refused
        self.loop = asyncio.get_running_loop()
        self.stopped = asyncio.Event()
        self.drained = asyncio.Event()
        self.draining_since: float | None = None
        self.terminating = False
        self.own = own_addresses()
        self.ports: dict[Key, ListeningPort] = {}
        self.exposure = exposed.Exposure()
        self.retired: list[ListeningPort] = []  # no longer listening, sessions left
        self.metrics = Metrics(VERSION)
        self.formatter = _formatter(current.policy)
        self.output = LogWriter(sys.stdout.fileno(), self.loop, self._lost_lines, self.metrics.log_dropped)
        limit = raise_limit()
        in_use = open_now() + PER_LISTENER * len(current.policy.spec.inbound)
        self.room = Room(limit, in_use, self._pause_accepting, self._resume_accepting)
        self.outbound = OutboundHalf(options, self.metrics, self.log, self._look_whether_drained, self.room)
        ids = itertools.count(1)
        self.shared = Shared(
            loop=self.loop,
            room=self.room,
            metrics=self.metrics,
            resolver=ReverseResolver(),
            write=self.log,
            next_id=lambda: f"c{next(ids):04x}",
            on_idle=self._look_whether_drained,
        )
        self._reloading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    # Start

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Raises BindError with nothing left behind."""
        stack.callback(self.output.close)
        stack.push_async_callback(self.outbound.close)
        await self._install(self.current.policy)
        stack.callback(self._close_ports)
        host, port = await stack.enter_async_context(
            admin.serve(self, self.options.admin, self.options.ephemeral_ports)
        )
        self.event("listening", name="admin", address=host, port=port)
        await self._serve_control(stack)
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self.terminate)
        self.loop.add_signal_handler(signal.SIGHUP, lambda: self.spawn(self.reload()))
        self._keep()
        self._announce()
        self.spawn(watch(self.options.config, self.current.seen, self.reload))
        self.spawn(self._sweep())
        self.spawn(self._keep_looking_for_exposure())
        stack.callback(self._cancel_tasks)
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)  # a session leaves no cycle behind: looking for them can wait

    async def _serve_control(self, stack: contextlib.AsyncExitStack) -> None:
        path = self.options.state_dir / control.SOCKET
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            await stack.enter_async_context(control.serve(path, self.drain))
        except OSError as error:
            self.event("warning", message=f"no drain socket in {path.parent}: {error.strerror}; set --state-dir")

    def _announce(self) -> None:
        for port in self.ports.values():
            bound = port.bound
            self.event("listening", name=port.listener.inbound.name, address=bound.address, port=bound.port)
        for door, addresses in self.outbound.addresses.items():
            for bound in addresses:
                self.event("listening", name=f"submission-{door}", address=bound.address, port=bound.port)
        for warning in self.current.loaded.warnings:
            self.event("warning", message=str(warning))
        if self.error is not None:
            self.event("config_refused", message=self.error["message"], running=self.current.source)
        self.event("config", hash=self.current.hash, source=self.current.source)

    # Configuration

    async def _install(self, policy: Policy) -> None:
        """Make `policy` what new connections get. All or nothing. Raises BindError."""
        made = listeners(policy, policy.spec.hostname or system_hostname(), self.own)
        wanted = {_key(listener): listener for listener in made}
        gone = {key: self.ports[key] for key in self.ports.keys() - wanted.keys()}
        new = [listener for key, listener in wanted.items() if key not in self.ports]
        fresh = await self._bind_fresh(policy, new, gone)
        for key, port in gone.items():
            del self.ports[key]
            port.close()
            self.retired.append(port)
        for key, port in self.ports.items():
            port.replace(wanted[key])
        self.ports |= fresh
        self.metrics.unwatch_all()
        for port in self.ports.values():
            port.present()
        for port in fresh.values():
            await port.resume()
        self.exposure.forget()
        self.spawn(self._look_for_exposure())

    async def _bind_fresh(
        self, policy: Policy, new: list[Listener], gone: dict[Key, ListeningPort]
    ) -> dict[Key, ListeningPort]:
        """The new listeners, bound, and the outbound side as `policy` has it. Where one of `gone` has the same port
        number on another address, that one has to make way first; it gets its port back if the new ones are not to be
        had. Raises BindError."""
        numbers = {listener.inbound.port for listener in new}
        in_the_way = [port for (_, number), port in gone.items() if number in numbers]
        fresh: dict[Key, ListeningPort] = {}
        for port in in_the_way:
            port.close()
        try:
            for listener in new:
                sock = self._listen(listener)
                limiter = Limiter(listener.inbound.limits, listener.required)
                fresh[_key(listener)] = ListeningPort(self.shared, listener, limiter, sock)
            await self.outbound.install(policy, self.own)
        except BindError:
            for port in fresh.values():
                port.close()
            for port in in_the_way:
                await port.reopen(self._listen(port.listener))
            raise
        return fresh

    def _listen(self, listener: Listener) -> socket.socket:
        inbound = listener.inbound
        address = inbound.address.address if inbound.address is not None else None
        number = 0 if self.options.ephemeral_ports else inbound.port
        return listen(address, number, f"spec.inbound[name={inbound.name}].port")

    async def reload(self) -> None:
        """Take the file as it is now, or refuse it whole and keep what runs. One at a time: the watch and SIGHUP may
        both call."""
        async with self._reloading:
            await self._reload()

    async def _reload(self) -> None:
        data = b""
        try:
            data = config.read(self.options.config)
            loaded = config.load(data, str(self.options.config))
            if self.draining_since is None:
                self.own = own_addresses()
                await self._install(loaded.policy)
        except (*REFUSED, BindError) as refused:
            self.error = refusal(data, refused)
            self.metrics.config_refused()
            self.event("config_refused", message=str(refused), running=self.current.hash)
            return
        self.current = Current(loaded, SOURCE_FILE)
        self.loaded_at, self.error = now(), None
        self.formatter = _formatter(loaded.policy)
        self._keep()
        self._announce()

    def _keep(self) -> None:
        self.metrics.config_loaded(self.current.hash, self.current.source, time.time())
        if self.current.source is not SOURCE_FILE:
            return
        try:
            state.keep(self.options.state_dir, self.current.loaded.data)
        except OSError as error:
            self.event(
                "warning", message=f"cannot keep the configuration in {self.options.state_dir}: {error.strerror}"
            )

    async def _look_for_exposure(self) -> None:
        """Servers whose port is open past the sidecar; what is known already is not said again."""
        for port in list(self.ports.values()):
            backend = port.listener.inbound.backend
            if not backend.address.address.is_loopback:
                continue
            found = await exposed.exposed_addresses(backend.port, self.own)
            self.metrics.exposed(port.listener.inbound.name, bool(found))
            if self.exposure.news(port.listener.inbound.name, found):
                self.event(
                    "backend_exposed",
                    name=port.listener.inbound.name,
                    message=f"the mail server's port {backend.port} is open on {', '.join(map(str, found))}: clients "
                    "can get past the sidecar and claim any address; make the server listen on loopback only",
                )

    async def _keep_looking_for_exposure(self) -> None:
        while True:
            await asyncio.sleep(exposed.EVERY)
            await self._look_for_exposure()

    # Drain and the end

    def drain(self) -> None:
        """Inbound listens on for `--drain-delay` seconds, then no more; sessions run to their end."""
        if self.draining_since is None:
            self.draining_since = self.loop.time()
            self.event("drain", message=f"accepting for {self.options.drain_delay:g} s more")
            self.loop.call_later(self.options.drain_delay, self._close_ports)

    def terminate(self) -> None:
        """SIGTERM or SIGINT: stop as soon as the sessions have ended, at last after `--grace`. A second one: now."""
        if self.terminating:
            self.stopped.set()
            return
        self.terminating = True
        if self.draining_since is None:
            self.draining_since = self.loop.time()
            self.event("drain", message=f"stopping; sessions have {self.options.grace:g} s")
        self._close_ports()
        self.outbound.terminate()

    def _close_ports(self) -> None:
        for port in self.ports.values():
            port.close()
        self._look_whether_drained()

    def _look_whether_drained(self) -> None:
        if self.draining_since is None or not all(port.closing and port.quiet for port in self._all_ports()):
            return
        self.drained.set()
        if self.terminating and self.outbound.quiet:
            self.stopped.set()

    def _all_ports(self) -> list[ListeningPort]:
        return [*self.ports.values(), *self.retired]

    async def _sweep(self) -> None:
        """End what is overdue, and, when a drain's grace is over, the rest in its order."""
        for turn in itertools.count():
            await asyncio.sleep(SWEEP)
            try:
                self._look(self.loop.time(), turn)
            except Exception as bug:  # with the sweep, time-outs and the end of a drain would be gone
                self.bug(bug)

    def _look(self, now: float, turn: int) -> None:
        for port in self._all_ports():
            port.sweep_sessions(now)
        if turn % SWEEPS_OF_SPLICES == 0:
            self._sweep_splices(now)

    def _sweep_splices(self, now: float) -> None:
        self.retired = [port for port in self.retired if port.open]
        self.outbound.sweep(self.spawn)
        for port in self._all_ports():
            port.sweep_splices(now)
            if self.draining_since is not None and now >= self.draining_since + self.options.grace:
                port.press(now, self.draining_since + self.options.grace)
        if self.terminating and self.draining_since is not None and now >= self.draining_since + self.options.grace:
            self.outbound.press()

    def _pause_accepting(self) -> None:
        self.event("descriptors", message="out of file descriptors for sessions: accepting pauses; raise ulimit -n")
        for port in self.ports.values():
            port.pause()

    def _resume_accepting(self) -> None:
        for port in self.ports.values():
            self.spawn(port.resume())

    # What admin asks (edge.admin.AdminState)

    def healthy(self) -> tuple[bool, str]:
        """A port lost to somebody else in a reload comes back with the restart that a liveness probe brings."""
        lost = [port.listener.inbound.name for port in self.ports.values() if port.closing]
        if lost and self.draining_since is None:
            return False, f"not listening: {', '.join(lost)}"
        return True, "ok"

    def ready(self, scope: str | None) -> tuple[bool, str]:
        if self.draining_since is not None:
            return False, "draining"
        if scope is None and self.ports:
            return True, "ok"  # a DNS fault must not take inbound mail down (contracts section 3)
        return self.outbound.ready

    def config(self) -> dict[str, Any]:
        return {
            "hash": self.current.hash,
            "loadedAt": self.loaded_at,
            "version": VERSION,
            "source": self.current.source,
            "error": self.error,
        }

    async def wait_drained(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.drained.wait(), seconds)
        return self.drained.is_set()

    # Logs and tasks

    def log(self, record: Record) -> None:
        self.output.write(self.formatter.line(record, time.time()))

    def _lost_lines(self, lines: int) -> bytes:
        return self.formatter.line(Record("log_dropped", "", {"lines": lines}), time.time())

    def event(self, event: str, **fields: object) -> None:
        """A line that belongs to no session."""
        self.log(Record(event, "", fields))

    def spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self.bug(bug)

    def bug(self, bug: BaseException) -> None:
        """A bug of ours is said in the log, and ends nothing but what it was found in."""
        self.log(internal_error(bug))

    def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()


def _formatter(policy: Policy) -> Formatter:
    logging = policy.spec.logging
    return Formatter(logging.format.value, [selector.value for selector in logging.selectors])


def _key(listener: Listener) -> Key:
    return str(listener.inbound.address or ""), listener.inbound.port
