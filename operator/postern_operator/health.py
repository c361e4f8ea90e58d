"""Live, ready and the metrics, on a port of their own that the whole cluster can reach.

    GET /healthz    200 or 503: would a restart help
    GET /readyz     200 or 503: may reviews come here; the text names what is missing
    GET /metrics    Prometheus' text, or OpenMetrics

Ready: the webhook answers TLS with the certificate that is current, the caches were filled once, and the caBundle was
seen to hold our authority once. A watch that is behind or an API server that is gone never make a replica unready: all
replicas would leave the Service together, and with them injection. Live: the event loop turns, and no watch is older
than ten minutes.

`live` and `ready` judge and know no clock; `Health` asks. A connection has one request of 8 KiB and `LIFE` seconds,
and there are `CONNECTIONS` at once. `serve` raises OSError where the port is not to be had.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from .metrics import Metrics

log = logging.getLogger(__name__)

STALE: Final = 600.0
"""Seconds a watch may be behind before a restart is tried."""
BEAT: Final = 1.0
STUCK: Final = 30.0
"""Seconds without a turn of the event loop: kubelets give up on a probe earlier, so this is what they find after it."""
PROBED_FOR: Final = 5.0
"""Seconds that one connection to ourselves tells for, and a failed one:"""
FAILED_FOR: Final = 1.0
PROBE: Final = 1.0
LIFE: Final = 10.0
CONNECTIONS: Final = 64
MOST_LINE: Final = 2048
MOST_FIELD: Final = 8192


@dataclass(frozen=True, slots=True)
class Alive:
    """Ages in seconds, of the loop's last turn and of what each watch has told."""

    beat: float = 0.0
    watches: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fitness:
    """`served`: why the webhook does not answer as it should, "" where it does. `unfilled` names caches."""

    served: str = ""
    unfilled: tuple[str, ...] = ()
    trusted: bool = True


def live(alive: Alive) -> list[str]:
    """What only a restart would cure."""
    wrong = [f"the event loop has not turned for {alive.beat:.0f} s"] if alive.beat > STUCK else []
    return wrong + [
        f"the watch of {name} is {age:.0f} s behind" for name, age in sorted(alive.watches.items()) if age > STALE
    ]


def ready(fitness: Fitness) -> list[str]:
    """What is missing."""
    wrong = [f"the webhook: {fitness.served}"] if fitness.served else []
    if fitness.unfilled:
        wrong.append(f"not read yet: {', '.join(sorted(fitness.unfilled))} (is the API server reachable?)")
    if not fitness.trusted:
        wrong.append("the webhook configuration's caBundle does not hold our authority yet (the leader writes it)")
    return wrong


@dataclass(frozen=True, slots=True)
class Sources:
    """Whom `Health` asks. `webhook`: address and port to connect to; None before it listens. `certificate`: the current
    leaf as DER, b"" without one. `unfilled` names caches that have not been read; `trusted` is `certs.ready`."""

    webhook: Callable[[], tuple[str, int] | None]
    certificate: Callable[[], bytes]
    unfilled: Callable[[], tuple[str, ...]]
    trusted: Callable[[], bool]
    watch_ages: Callable[[], Mapping[str, float]]


class Health:
    """What was so once stays so: `unfilled` and `trusted` are not asked again after that."""

    def __init__(self, sources: Sources, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sources = sources
        self._clock = clock
        self._beat = clock()
        self._filled = self._trusted = False
        self._probe_next = clock()
        self._served = ""
        self._probing = asyncio.Lock()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE  # it is compared octet by octet

    async def beat(self) -> None:
        """To run for as long as the process does."""
        while True:
            self._beat = self._clock()
            await asyncio.sleep(BEAT)

    def live(self) -> list[str]:
        return live(Alive(self._clock() - self._beat, self._sources.watch_ages()))

    async def ready(self) -> list[str]:
        unfilled = () if self._filled else self._sources.unfilled()
        self._filled = not unfilled
        self._trusted = self._trusted or self._sources.trusted()
        return ready(Fitness(await self._webhook(), unfilled, self._trusted))

    async def _webhook(self) -> str:
        """One connection to ourselves for all who ask within some seconds: anyone may ask."""
        async with self._probing:
            if self._clock() >= self._probe_next:
                self._served = await self._probe()
                self._probe_next = self._clock() + (FAILED_FOR if self._served else PROBED_FOR)
            return self._served

    async def _probe(self) -> str:
        where = self._sources.webhook()
        if where is None:
            return "it does not listen yet"
        if not self._sources.certificate():
            return "there is no certificate yet"
        before = self._sources.certificate()
        try:
            async with asyncio.timeout(PROBE):
                served = await self._served_by(*where)
        except TimeoutError:
            return f"no TLS answer on port {where[1]} within {PROBE:g} s"
        except OSError as problem:  # ssl.SSLError is one
            return f"no TLS on port {where[1]}: {problem.strerror or type(problem).__name__}"
        if served in (before, self._sources.certificate()):  # it may be changed at this very moment
            return ""
        return "it answers with another certificate than the current one"

    async def _served_by(self, address: str, port: int) -> bytes | None:
        _reader, writer = await asyncio.open_connection(address or "localhost", port, ssl=self._tls)
        try:
            certificate: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        finally:
            writer.transport.abort()
        return certificate


@contextlib.asynccontextmanager
async def serve(health: Health, metrics: Metrics, address: str, port: int) -> AsyncIterator[int]:
    """Inside the block, which gets the port that was bound. An empty address is all of them. Raises OSError."""
    quiet = logging.Logger("requests that are none")  # aiohttp has a traceback for each, and anyone can send them
    quiet.disabled = True
    answers = web.Server(
        _Pages(health, metrics).handle,
        access_log=None,
        logger=quiet,
        max_line_size=MOST_LINE,
        max_field_size=MOST_FIELD,
        lingering_time=0.0,
        keepalive_timeout=0.0,
        auto_decompress=False,
        handler_cancellation=True,
    )
    guards: set[_Guard] = set()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Guard(answers(), guards), address or None, port, backlog=CONNECTIONS
    )
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await answers.shutdown(timeout=1.0)
        for guard in list(guards):
            guard.abort()


class _Pages:
    def __init__(self, health: Health, metrics: Metrics) -> None:
        self._health = health
        self._metrics = metrics

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            response = await self._answer(request)
        except Exception:
            log.exception("%.64r: an internal error", request.path)
            response = web.Response(status=500, text="internal error\n")
        response.force_close()
        return response

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text="GET or HEAD\n", headers={"Allow": "GET, HEAD"})
        match request.path:
            case "/healthz":
                return _said(self._health.live(), "alive")
            case "/readyz":
                return _said(await self._health.ready(), "ready")
            case "/metrics":
                page, kind = self._metrics.render(request.headers.get("Accept", ""))
                return web.Response(body=page, headers={"Content-Type": kind})
        return web.Response(status=404, text="there are /healthz, /readyz and /metrics\n")


def _said(wrong: list[str], right: str) -> web.Response:
    return web.Response(status=503 if wrong else 200, text="\n".join([*(wrong or [right]), ""]))


class _Guard(asyncio.Protocol):
    """A connection: aiohttp's protocol, and the limits that aiohttp does not have. One too many is closed at once."""

    def __init__(self, inner: asyncio.Protocol, all_of_them: set[_Guard]) -> None:
        self._inner = inner
        self._all = all_of_them
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        if len(self._all) >= CONNECTIONS:
            self._transport.abort()
            return
        self._all.add(self)
        self._timer = asyncio.get_running_loop().call_later(LIFE, self._transport.abort)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._timer is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._timer is not None else None

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is None:
            return
        self._timer.cancel()
        self._all.discard(self)
        self._inner.connection_lost(exc)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
