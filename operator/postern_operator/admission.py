"""The webhook: HTTP over TLS around `review`, and the policy that a pod gets, from the caches or live.

Not through kopf's admission hook. Measured with a prototype and one fixed patch, reviews of 3 KB, 20 in parallel on two
quiet cores: through the hook's function 990 answers a second and a p99 of 33 ms, 5.2 times that of the small Go webhook
of bench/ in the same run (9,500 and 6.5 ms); aiohttp alone 12,000 and 3.7 ms. bench/admission.py measures this module.
The hook's life cycle did not earn its place either: it begins only after API discovery, and SIGTERM cancels it with
requests in flight.

A pod is injected by the winner of the cached policies. Where none selects it, the namespace's policies are listed live
(so that one `kubectl apply` of policy and Deployment works), and where the winner is invalid, its ConfigMap is asked
for what was accepted last; both within LOOKUP. What goes wrong in here lets the pod pass, unless the settings say Fail.

Anyone in the cluster can connect and post, so everything has a bound: connections, the time for a request, bodies and
how many large ones are held at once, lookups at once, namespaces remembered. A namespace that is not known to be
enabled has a lane of its own: forged ones do not delay real ones. `start` raises OSError, nothing else raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from aiohttp import web
from aiohttp.web_request import BaseRequest

from . import paths, records, render, review, select
from .inject import Skipped
from .kube import KubeError, NotFound
from .model import Key, config_map_name
from .reasons import Skip
from .review import NotAReview

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.streams import StreamReader

    from .cache import Cache
    from .kube import Kube
    from .model import Injection, PolicyRecord
    from .review import Answered, Facts, Request
    from .settings import Settings

log = logging.getLogger(__name__)
_silent = logging.Logger("aiohttp", logging.CRITICAL + 1)  # it logs a traceback for every request that is no HTTP

PATH = "/inject"
LOOKUP = 0.5
"""Seconds for all that is asked of the API server about one pod."""
ANSWER = 3.0
"""Seconds for an answer, below the chart's timeoutSeconds of 5."""
TRACEBACKS = 10.0
"""Seconds between two tracebacks in the log."""
REMEMBERED = 2.0
"""Seconds that a namespace's live list is good for."""
NAMESPACES = 512
"""Lists remembered."""
PAGES = 4
"""Of 500 policies each, of a live list: judging them all takes longer than anyone waits."""
LOOKUPS, STRANGERS = 8, 2
"""Lists at once: for namespaces known to be enabled, and for others."""

MAX_BODY = 10 << 20
"""As Linkerd's; the API server takes objects of 3 MiB at most, and sends two in an update."""
LARGE, LARGE_AT_ONCE = 128 << 10, 4
CONNECTIONS = 512
HANDSHAKE = 5.0
REQUEST = 10.0
"""Seconds from a connection's, or a request's, first octet to the last one of the answer."""
IDLE = 100.0
"""Seconds; Go's clients close theirs after 90, so that it is seldom us who close one that is about to be used."""
LINGER = 0.5
"""Seconds of a drain in which connections are still taken, and each is closed with an answer."""

_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)


class Observer(Protocol):
    """Metrics. `outcome`: the value of an Outcome or a Skip, or "NotAReview"."""

    def admission(self, outcome: str, seconds: float) -> None: ...


class Ignorant:
    def admission(self, outcome: str, seconds: float) -> None:
        """Counts nothing."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes


class Admission:
    """`notice` hears of every answered review, for Events; it must not wait."""

    def __init__(
        self,
        kube: Kube,
        cache: Cache,
        settings: Settings,
        version: str,
        *,
        notice: Callable[[Facts], None] = lambda _facts: None,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        lookup: float = LOOKUP,
    ) -> None:
        self._lookup = lookup
        self._cache, self._settings, self._version = cache, settings, version
        self._notice, self._observer, self._clock = notice, observer or Ignorant(), clock
        self._live = Live(kube, cache, settings, clock, lookup)
        self._traceback_after = clock()

    async def answer(self, body: bytes) -> Reply:
        """Always one."""
        began = self._clock()
        try:
            request = review.parse(body)
        except NotAReview as problem:
            self._observer.admission("NotAReview", self._clock() - began)
            return Reply(400, f"{problem}\n".encode(errors="replace"))
        answered = await self._decided(request)
        if answered.problem is not None:
            self._broke(request, answered.problem)
        facts = answered.facts
        self._observer.admission(facts.outcome.value, self._clock() - began)
        if isinstance(facts.outcome, Skip):
            self._told(facts)
        return Reply(200, answered.body)

    async def _decided(self, request: Request) -> Answered:
        try:
            found = await self._found(request)
            return review.decide(request, found, self._settings, self._version)
        except Exception as problem:
            return review.failed(request, problem, self._settings)

    def _broke(self, request: Request, problem: Exception) -> None:
        """A traceback now and then: whoever finds out how to break a review can post thousands."""
        now = self._clock()
        traceback = problem if now >= self._traceback_after else None
        if traceback is not None:
            self._traceback_after = now + TRACEBACKS
        where, what = request.namespace, type(problem).__name__
        log.error("review %.64r, %.63r: an internal error: %s", request.uid, where, what, exc_info=traceback)

    async def _found(self, request: Request) -> Injection | Skipped:
        if request.pod is None:
            return _NOTHING
        namespace = request.namespace
        winner = select.winner(self._cache.policies_of(namespace), request.labels)
        if request.skip is not None:  # an Event wants to know whose pod it would have been
            return _NOTHING if winner is None else Skipped(Skip.NO_POLICY, "", winner.key.name)
        if winner is not None and (rendered := self._cache.rendered(winner.key)) is not None:
            return rendered.injection
        async with asyncio.timeout(ANSWER):
            return await self._looked_up(namespace, winner, request)

    async def _looked_up(self, namespace: str, winner: PolicyRecord | None, request: Request) -> Injection | Skipped:
        until = asyncio.get_running_loop().time() + self._lookup
        if winner is None:
            policies = await self._live.policies(namespace, until)
            if policies is None:
                message = f"namespace {namespace:.63}: its MailProxyPolicies could not be listed in time"
                return Skipped(Skip.NO_POLICY, message)
            winner = select.winner(policies, request.labels)
        if winner is None:
            return _NOTHING
        rendered = render.render(winner)
        if rendered is not None:
            return rendered.injection
        known = self._cache.injection_of(winner.key) or await self._live.injection(winner.key, until)
        name = winner.key.name
        return known or Skipped(
            Skip.POLICY_INVALID,
            f"MailProxyPolicy {name} is invalid and was never accepted: kubectl describe mpp {name}",
            name,
        )

    def _told(self, facts: Facts) -> None:
        usual = facts.outcome in (Skip.NO_POLICY, Skip.OPTED_OUT)
        if not usual and self._cache.namespace_enabled(facts.namespace):
            log.info("pod in %.63r: no sidecar: %s: %.256s", facts.namespace, facts.outcome.value, facts.message)
        try:
            self._notice(facts)
        except Exception:
            log.exception("an Event was lost")


_NOTHING = Skipped(Skip.NO_POLICY, "no MailProxyPolicy of the namespace selects the pod")


class Live:
    """What the caches do not have, asked of the API server: single flight, remembered, bounded."""

    def __init__(
        self, kube: Kube, cache: Cache, settings: Settings, clock: Callable[[], float], lookup: float = LOOKUP
    ) -> None:
        self._lookup = lookup
        self._kube, self._cache, self._settings, self._clock = kube, cache, settings, clock
        self._lists: OrderedDict[str, tuple[float, Sequence[PolicyRecord] | None]] = OrderedDict()
        self._running: dict[str, asyncio.Task[Sequence[PolicyRecord] | None]] = {}
        self._lanes = {True: asyncio.Semaphore(LOOKUPS), False: asyncio.Semaphore(STRANGERS)}

    async def policies(self, namespace: str, until: float) -> Sequence[PolicyRecord] | None:
        """None where they could not be listed by then."""
        if not _NAMESPACE.fullmatch(namespace):
            return ()
        known = self._lists.get(namespace)
        if known is not None and self._clock() < known[0]:
            return known[1]
        lane = self._lanes[self._cache.namespace_enabled(namespace)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                running = self._running.get(namespace)
                if running is None:
                    async with lane:
                        running = self._running.get(namespace) or self._begin(namespace)
                        return await asyncio.shield(running)
                return await asyncio.shield(running)
        return None

    async def injection(self, policy: Key, until: float) -> Injection | None:
        path = paths.config_map(Key(policy.namespace, config_map_name(policy.name)))
        try:
            async with asyncio.timeout_at(until):
                found = records.config_map_record(
                    await self._kube.get(path, timeout=self._lookup), self._settings.sidecar
                )
        except NotFound:
            return None
        except (KubeError, TimeoutError) as problem:
            log.warning("%s: not read in time: %s", path, problem)
            return None
        if not found.ours or found.injection is None:
            return None
        self._cache.remember_injection(policy, found.injection)
        return found.injection

    def _begin(self, namespace: str) -> asyncio.Task[Sequence[PolicyRecord] | None]:
        task = asyncio.create_task(self._listed(namespace))
        self._running[namespace] = task
        task.add_done_callback(lambda _task: self._running.pop(namespace, None))
        return task

    async def _listed(self, namespace: str) -> Sequence[PolicyRecord] | None:
        raw = []
        try:
            async with asyncio.timeout(self._lookup):
                pages = self._kube.pages(paths.policies(namespace), timeout=self._lookup)
                async with contextlib.aclosing(pages) as each_page:  # type: ignore[type-var]
                    read = 0
                    async for page in each_page:
                        raw += page
                        read += 1
                        if read == PAGES:
                            break
                found = await asyncio.to_thread(_judged, raw, self._settings)
        except (KubeError, TimeoutError) as problem:
            # Forged namespaces shall not fill the log.
            level = logging.WARNING if self._cache.namespace_enabled(namespace) else logging.DEBUG
            log.log(level, "policies of %s: not listed in time: %s", namespace, problem)
            return self._remember(namespace, None, LOOKUP)
        return self._remember(namespace, found, REMEMBERED)

    def _remember(
        self, namespace: str, found: Sequence[PolicyRecord] | None, seconds: float
    ) -> Sequence[PolicyRecord] | None:
        self._lists[namespace] = (self._clock() + seconds, found)
        self._lists.move_to_end(namespace)
        while len(self._lists) > NAMESPACES:
            self._lists.popitem(last=False)
        return found


def _judged(raw: Sequence[dict[str, object]], settings: Settings) -> Sequence[PolicyRecord]:
    return tuple(records.policy_record(each, settings.sidecar) for each in raw)


class Server:
    """POST /inject, nothing else. The context's certificate may change under it (`certs`)."""

    def __init__(
        self,
        admission: Admission,
        context: ssl.SSLContext,
        *,
        address: str = "",
        port: int = 0,
        connections: int = CONNECTIONS,
        request_time: float = REQUEST,
    ) -> None:
        self._admission, self._context, self._address, self._port = admission, context, address, port
        self._connections, self._request_time = connections, request_time
        self._guards: dict[object, _Guard] = {}  # by aiohttp's protocol
        self._opening: dict[asyncio.Task[None], socket.socket] = {}
        self._draining = False
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def port(self) -> int:
        assert self._listener is not None  # noqa: S101 - started
        return int(self._listener.getsockname()[1])

    @property
    def connections(self) -> int:
        return len(self._guards) + len(self._opening)

    async def start(self) -> None:
        """Raises OSError."""
        self._listener = _listener(self._address, self._port)
        handlers = web.Server(
            self._handle,
            request_factory=_request,
            handler_cancellation=True,
            access_log=None,
            logger=_silent,
            auto_decompress=False,
            keepalive_timeout=IDLE,
            lingering_time=1.0,
        )
        self._accepting = asyncio.create_task(self._accept(self._listener, handlers))

    async def drain(self, timeout: float = 8.0) -> None:
        """Answers say `Connection: close` from now on, and new connections are taken for a moment more; then what is
        idle is closed, what is in flight is finished, and the listener goes."""
        self._draining = True
        await asyncio.sleep(LINGER)
        for guard in list(self._guards.values()):
            guard.close_if_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        await self.close()

    async def close(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        for connection in self._opening.values():  # their handshakes fail; to cancel them would leave transports behind
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for guard in list(self._guards.values()):
            guard.abort()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for guard in list(self._guards.values()):  # of handshakes that were through at that moment
            guard.abort()
        await self._empty.wait()

    # -- connections ---------------------------------------------------------------------------------------------------

    async def _accept(self, listener: socket.socket, handlers: web.Server) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _peer = await loop.sock_accept(listener)
            except OSError as problem:  # out of descriptors, or the peer has gone
                log.warning("webhook: accept: %s", problem)
                await asyncio.sleep(0.1)
                continue
            if self.connections >= self._connections:
                connection.close()
                continue
            connection.setblocking(False)
            task = loop.create_task(self._open(connection, handlers))
            self._opening[task] = connection
            task.add_done_callback(self._opening.pop)

    async def _open(self, connection: socket.socket, handlers: web.Server) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                lambda: _Guard(self, handlers()),
                connection,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE,
                ssl_shutdown_timeout=1.0,
            )
        except OSError as problem:  # ssl.SSLError and TimeoutError are ones
            log.debug("webhook: handshake: %s", problem)
            connection.close()

    def opened(self, guard: _Guard) -> None:
        self._guards[guard.inner] = guard
        self._empty.clear()

    def lost(self, guard: _Guard) -> None:
        self._guards.pop(guard.inner, None)
        if not self._guards:
            self._empty.set()

    @property
    def request_time(self) -> float:
        return self._request_time

    # -- requests ------------------------------------------------------------------------------------------------------

    async def _handle(self, request: BaseRequest) -> web.StreamResponse:
        guard = self._guards[request.protocol]
        guard.busy = True
        try:
            response = await self._response(request)
        except Exception:
            log.exception("webhook: an internal error")
            raise
        if self._draining:
            response.force_close()
        # Written here and not by aiohttp afterwards, so that the connection is busy until the peer has it.
        await response.prepare(request)
        await response.write_eof()
        guard.idle()
        return response

    async def _response(self, request: BaseRequest) -> web.StreamResponse:
        if request.path != PATH:
            return _text(404, f"the webhook is at {PATH}\n")
        if request.method != "POST":
            return _text(405, "an AdmissionReview comes by POST\n", {"Allow": "POST"})
        length = request.content_length
        try:
            if length is not None and length <= LARGE:
                body = await request.read()
            elif length is not None and length > MAX_BODY:
                return _too_large()
            else:
                async with self._large:
                    return _answer(await self._admission.answer(await request.read()))
        except web.HTTPRequestEntityTooLarge:
            return _too_large()
        return _answer(await self._admission.answer(body))


class _Guard(asyncio.Protocol):
    """A connection: aiohttp's protocol, in a time limit that aiohttp does not have."""

    def __init__(self, server: Server, inner: asyncio.Protocol) -> None:
        self._server, self.inner = server, inner
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not of that class
        self._server.opened(self)
        self._start()
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._timer is None:
            self._start()
        self.busy = True
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._server.lost(self)
        self.inner.connection_lost(exc)

    def idle(self) -> None:
        self.busy = False
        self._stop()

    def close_if_idle(self) -> None:
        if not self.busy and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._server.request_time, self.abort)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> BaseRequest:
    loop = asyncio.get_running_loop()
    return BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY)


def _answer(reply: Reply) -> web.Response:
    kind = "application/json" if reply.status == 200 else "text/plain"
    return web.Response(status=reply.status, body=reply.body, content_type=kind)


def _text(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    """The body that came with it was not read."""
    response = web.Response(status=status, text=text, headers=headers)
    response.force_close()
    return response


def _too_large() -> web.Response:
    return _text(413, f"an AdmissionReview has {MAX_BODY} octets at most\n")


def _listener(address: str, port: int) -> socket.socket:
    """All addresses, both families where the kernel has both, if `address` is ""."""
    both = not address and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family, backlog=256, dualstack_ipv6=both)
    listener.setblocking(False)
    return listener
