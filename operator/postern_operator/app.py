"""The wiring of `postern-operator run`: settings to objects, objects to tasks, and their end in the right order.

Health answers first and last. Certificates and the webhook need no Lease and no cache; kopf's watches begin when the
API server and the CRD are there; the Lease is campaigned for when the caches are filled, and whoever holds it
reconciles. SIGTERM: the Lease is given up, the webhook drained, the rest stopped, exit 0. A part that ends by itself
ends the process with 1: there is no half of an operator. POSTERN_FAILPOINT, POSTERN_RESYNC and POSTERN_LEASE are for
tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import uvloop

from postern_sidecar.config.expressions import compile_expression
from postern_sidecar.version import VERSION

from . import certs, paths
from .admission import Admission, Server
from .cache import Cache
from .certs import Certificates
from .events import Events
from .evict import Evictions
from .gather import Gathering
from .handlers import Told, Watches, watching
from .health import Health, Sources, serve
from .kube import Client, KubeError, NotFound, TooManyRequests, Unauthorized
from .lease import Elector, Times
from .metrics import Metrics, Watched
from .model import Key
from .queue import Queue
from .reconcile import EVERY, Reconciler, Resync
from .rollout import Asker, Rollouts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping

    from .kube import Kube, Object
    from .settings import Settings

log = logging.getLogger(__name__)

FAILURE: Final = 1
MISCONFIGURED: Final = 2
RELEASE: Final = 8.0
"""Seconds for the leader's work to end and the Lease to be released; beyond that it runs out by itself."""
DRAIN: Final = 15.0
AGAIN: Final = 1.0
REPEATED: Final = 60.0
"""Seconds in which kopf says the same thing once."""


def run(settings: Settings) -> int:
    """The exit status: 0 ended as asked, 1 a part has failed, 2 the settings."""
    log_to_stdout()
    problem = misconfigured(settings)
    if problem:
        log.error("settings: %s", problem)
        return MISCONFIGURED
    compile_expression("true")  # imports CEL, which takes longer than a live lookup may stand still
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status, stuck = runner.run(_ended_whole(settings))
        if stuck:  # the runner would wait for them for ever
            sys.stdout.flush()
            os._exit(status)
    return status


def misconfigured(settings: Settings) -> str:
    """What no schema sees, or ""."""
    if settings.webhook.port and settings.webhook.port == settings.health_port:
        return f"webhook.port and healthPort are both {settings.health_port}: give them different ports"
    for name in ("namespace", "lease"):
        if not getattr(settings, name):
            return f"{name} is empty: the chart's settings.yaml names it"
    return misfailing(os.environ.get(FAILPOINT, ""))


# -- the parts ---------------------------------------------------------------------------------------------------------


class Operator:
    """All objects of one replica. `every`: seconds between resyncs."""

    def __init__(self, settings: Settings, kube: Kube, metrics: Metrics, *, identity: str, every: float) -> None:
        self.settings, self.kube = settings, kube
        self.cache, self.watches = Cache(), Watches()
        self.queue: Queue[Key] = Queue(observe=metrics.reconciled)
        self.elector = Elector(kube, Key(settings.namespace, settings.lease), identity, times=lease_times())
        self.events = Events(
            kube,
            enabled=self.cache.namespace_enabled,
            policies=self.cache.policies_of,
            instance=identity,
            count=metrics.event,
        )
        self.tls = certs.server_context()
        self.certificates = Certificates(kube, settings, self.tls, may_write=lambda: self.elector.is_leader)
        admission = Admission(kube, self.cache, settings, VERSION, notice=self.events.skipped, observer=metrics)
        self.webhook = Server(admission, self.tls, address=settings.webhook.address, port=settings.webhook.port)
        self.told = Told(self.cache, self.queue, settings)
        self.asker = Asker(settings.sidecar.admin_port)
        self.rollouts = Rollouts(kube, self.asker, self.queue.add, every=1.1 * every, observer=metrics)
        gathering = Gathering(kube, self.cache, settings, every=every)
        self.reconciler = Reconciler(kube, self.cache, gathering, self.rollouts, self.events, settings, every=every)
        self.evictions = Evictions(
            kube, self.cache, settings, observer=metrics, notice=self.events.evicted, every=every
        )
        self.resync = Resync(kube, self.cache, gathering, self.queue, settings.watch_namespaces, every=every)
        metrics.watched = Watched(
            queue_depth=lambda: self.queue.overdue,
            watch_ages=self.watches.ages,
            certificate_expiry=self._expiry,
            sidecars_pending=lambda: self.rollouts.pending,
            leader=lambda: self.elector.is_leader,
        )

    def _expiry(self) -> float | None:
        expires = self.certificates.expires
        return expires.timestamp() if expires else None

    async def watch(self, started: Callable[[], None]) -> None:
        await reachable(self.kube, self.settings.watch_namespaces)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.resync.hold(), name="resync")
            group.create_task(watching(self.told, self.watches, self.settings.watch_namespaces, started), name="kopf")

    async def lead(self) -> None:
        await self.resync.until_filled()
        await self.elector.lead(self._write)

    async def _write(self) -> None:
        """The Lease is ours. Cancelled when it is not any more; nothing is written after this has ended."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.resync.lead(), name="resync of ConfigMaps")
                group.create_task(self.queue.run(self.reconciler.reconcile), name="queue")
                if self.settings.evict_uninjected:
                    group.create_task(self.evictions.run(), name="evictions")
        finally:
            await self.rollouts.stop()


def lease_times() -> Times:
    """POSTERN_LEASE: seconds until another replica takes over, for tests that kill."""
    duration = os.environ.get("POSTERN_LEASE", "")
    return Times() if not duration else Times(float(duration), float(duration) * 2 / 3, float(duration) / 15)


async def reachable(kube: Kube, namespaces: tuple[str, ...]) -> None:
    """Until the API server serves policies: kopf looks at what there is only once."""
    said = ""
    while True:
        wait = AGAIN
        try:
            async for _ in kube.pages(paths.policies(namespaces[0] if namespaces else ""), limit=1, metadata_only=True):
                break
        except NotFound:
            trouble = "the CRD mailproxypolicies.postern.dev is not there; the chart installs it (crds.enabled)"
        except KubeError as problem:
            trouble = str(problem)
            if isinstance(problem, TooManyRequests):
                wait = max(wait, problem.retry_after)
        else:
            return
        if trouble != said:
            log.warning("waiting for the API server: %s", trouble)
            said = trouble
        await asyncio.sleep(wait)


# -- life --------------------------------------------------------------------------------------------------------------


async def _ended_whole(settings: Settings) -> tuple[int, bool]:
    """The exit status, and whether something runs on though it was cancelled: kopf, after an error of its own."""
    status = await _run(settings)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=AGAIN)
    return status, any(not task.done() for task in left)


async def _run(settings: Settings) -> int:
    stop = asyncio.Event()
    take_signals(stop)
    log.info("postern-operator %s", VERSION)
    metrics, replica = Metrics(VERSION), Replica()
    try:
        async with contextlib.AsyncExitStack() as stack:
            health = replica.health(settings)
            await stack.enter_async_context(serve(health, metrics, settings.health_address, settings.health_port))
            beat = asyncio.create_task(health.beat(), name="health")
            stack.push_async_callback(_ended, beat, RELEASE)
            client = await _connected(stop)
            if client is None:
                return 0
            stack.push_async_callback(client.close)
            identity = os.environ.get("POD_NAME") or os.uname().nodename
            every = float(os.environ.get("POSTERN_RESYNC") or EVERY)
            operator = Operator(settings, failing(client), metrics, identity=identity, every=every)
            stack.push_async_callback(operator.asker.close)
            await operator.webhook.start()
            replica.operator = operator
            return await _live(operator, stop)
    except OSError as problem:
        log.error("cannot listen: %s", problem)
        return FAILURE


class Replica:
    """What health asks, from before there are credentials."""

    operator: Operator | None = None

    def health(self, settings: Settings) -> Health:
        return Health(
            Sources(
                webhook=lambda: (settings.webhook.address, self.operator.webhook.port) if self.operator else None,
                certificate=lambda: self.operator.certificates.serving if self.operator else b"",
                unfilled=lambda: self.operator.resync.unfilled if self.operator else ("credentials",),
                trusted=lambda: self.operator is not None and self.operator.certificates.ready,
                watch_ages=lambda: self.operator.watches.ages() if self.operator else {},
            )
        )


async def _connected(stop: asyncio.Event) -> Client | None:
    """None: asked to end before there were credentials."""
    said = ""
    while not stop.is_set():
        try:
            return await Client.connect()
        except Unauthorized as problem:
            if str(problem) != said:
                log.warning("waiting: %s", problem)
                said = str(problem)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AGAIN):
                await stop.wait()
    return None


async def _live(operator: Operator, stop: asyncio.Event) -> int:
    parts: dict[str, Coroutine[Any, Any, None]] = {
        "certificates": operator.certificates.run(),
        "events": operator.events.run(),
        "watches": operator.watch(lambda: take_signals(stop)),
        "lease": operator.lead(),
    }
    tasks = {name: asyncio.create_task(part, name=name) for name, part in parts.items()}
    asked = asyncio.create_task(stop.wait(), name="signal")
    done, _ = await asyncio.wait([*tasks.values(), asked], return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    broken = [task for task in done if task is not asked]
    for task in broken:
        log.error("%s has ended: %s: the process ends", task.get_name(), _reason(task), exc_info=_traceback(task))
    if not broken:
        log.info("ending: asked to")
    await _ended(tasks.pop("lease"), RELEASE)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN):
            await operator.webhook.drain()
    for task in tasks.values():
        task.cancel()
    for task in tasks.values():
        await _ended(task, RELEASE)
    return FAILURE if broken else 0


async def _ended(task: asyncio.Task[None], timeout: float) -> None:
    task.cancel()
    await asyncio.wait({task}, timeout=timeout)
    if not task.done():
        log.error("%s does not end", task.get_name())


def _reason(task: asyncio.Task[Any]) -> str:
    if task.cancelled():
        return "cancelled"
    problem = task.exception()
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return f"{type(problem).__name__}: {problem}" if problem else "without a reason"


def _traceback(task: asyncio.Task[Any]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


def take_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


# -- failpoints --------------------------------------------------------------------------------------------------------

FAILPOINTS: Final = (
    "configmap-create",
    "configmap-apply",
    "configmap-delete",
    "status",
    "poke",
    "event",
    "lease-create",
    "lease-update",
    "secret-create",
    "secret-update",
    "cabundle",
)
"""POSTERN_FAILPOINT is `before:NAME` or `after:NAME`, `:N` behind it for the N-th such write. SIGKILL: a node dies."""

FAILPOINT: Final = "POSTERN_FAILPOINT"
_FAILPOINT: Final = re.compile(r"(before|after):([a-z-]+)(?::([1-9][0-9]{0,5}))?", re.ASCII)

_VERBS: Final[Mapping[tuple[str, str], str]] = {
    ("create", "configmaps"): "configmap-create",
    ("apply", "configmaps"): "configmap-apply",
    ("delete", "configmaps"): "configmap-delete",
    ("apply", "mailproxypolicies"): "status",
    ("merge", "pods"): "poke",
    ("create", "events"): "event",
    ("create", "leases"): "lease-create",
    ("update", "leases"): "lease-update",
    ("create", "secrets"): "secret-create",
    ("update", "secrets"): "secret-update",
    ("json_patch", "mutatingwebhookconfigurations"): "cabundle",
}


def misfailing(text: str) -> str:
    """What is wrong with a failpoint, or ""."""
    match = _FAILPOINT.fullmatch(text)
    if not text or (match is not None and match[2] in FAILPOINTS):
        return ""
    return (
        f"{FAILPOINT} {text!r}: before or after, a colon, one of {', '.join(FAILPOINTS)}, perhaps a colon and a number"
    )


def failing(kube: Kube) -> Kube:
    """The same, or one that kills the process at the write that the environment names."""
    match = _FAILPOINT.fullmatch(os.environ.get(FAILPOINT, ""))
    return kube if match is None else Failpoint(kube, match[1] == "after", match[2], int(match[3] or 1))


class Failpoint:
    """Kube."""

    def __init__(self, kube: Kube, after: bool, name: str, count: int) -> None:
        self._kube, self._after, self._name, self._left = kube, after, name, count

    async def get(self, path: str, *, timeout: float = 10.0) -> Object:
        return await self._kube.get(path, timeout=timeout)

    def pages(
        self,
        path: str,
        *,
        selector: str = "",
        fields: str = "",
        metadata_only: bool = False,
        limit: int = 500,
        timeout: float = 10.0,
    ) -> AsyncIterator[list[Object]]:
        return self._kube.pages(
            path, selector=selector, fields=fields, metadata_only=metadata_only, limit=limit, timeout=timeout
        )

    async def create(self, path: str, body: Object, *, dry_run: bool = False, timeout: float = 10.0) -> Object:
        with self._around("create", path):
            return await self._kube.create(path, body, dry_run=dry_run, timeout=timeout)

    async def update(self, path: str, body: Object, *, timeout: float = 10.0) -> Object:
        with self._around("update", path):
            return await self._kube.update(path, body, timeout=timeout)

    async def apply(self, path: str, body: Object, *, force: bool = True, timeout: float = 10.0) -> Object:
        with self._around("apply", path):
            return await self._kube.apply(path, body, force=force, timeout=timeout)

    async def merge(self, path: str, body: Object, *, timeout: float = 10.0) -> None:
        with self._around("merge", path):
            await self._kube.merge(path, body, timeout=timeout)

    async def json_patch(self, path: str, operations: list[Object], *, timeout: float = 10.0) -> Object:
        with self._around("json_patch", path):
            return await self._kube.json_patch(path, operations, timeout=timeout)

    async def delete(self, path: str, *, preconditions: Mapping[str, str] | None = None, timeout: float = 10.0) -> None:
        with self._around("delete", path):
            await self._kube.delete(path, preconditions=preconditions, timeout=timeout)

    @contextlib.contextmanager
    def _around(self, verb: str, path: str) -> Iterator[None]:
        here = any(_VERBS.get((verb, part)) == self._name for part in path.split("/"))
        self._left -= here
        last = here and self._left == 0
        if last and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        yield
        if last:
            os.kill(os.getpid(), signal.SIGKILL)


# -- logs --------------------------------------------------------------------------------------------------------------


def log_to_stdout() -> None:
    """One line a record: time in UTC, level, part, text. Of kopf only what is wrong, and not every second."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    kopfs = logging.getLogger("kopf")
    kopfs.setLevel(logging.WARNING)
    handler.addFilter(_Seldom())


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        part = record.name.removeprefix("postern_operator.")
        safe = "\n  ".join("".join(c if c.isprintable() else "?" for c in line) for line in text.splitlines())
        return f"{moment}.{int(record.msecs):03d}Z {record.levelname:<7} {part}: {safe}"


@dataclass(slots=True)
class _Said:
    text: str = ""
    at: float = 0.0


class _Seldom(logging.Filter):
    """kopf repeats a failed request each second, with a number in it."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, _Said] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("kopf"):
            return True
        text = "".join(c for c in record.getMessage() if not c.isdigit())[:200]
        said = self._said.setdefault(f"{record.name}:{record.lineno}", _Said())
        if len(self._said) > 256:
            self._said.clear()
        if said.text == text and record.created - said.at < REPEATED:
            return False
        said.text, said.at = text, record.created
        return True
