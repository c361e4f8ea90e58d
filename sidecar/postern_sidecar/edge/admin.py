"""The admin port: health, metrics and configuration over HTTP/1.1 (contracts section 3), by h11 on asyncio's streams.

    GET /healthz    200 or 503: is the process alive
    GET /readyz     200 or 503: should traffic come; ?scope=outbound asks for the submission ports alone
    GET /metrics    Prometheus' text format
    GET /config     what runs: hash, loadedAt, version, source, error
    GET /drained    answers when the last inbound session of a drain has gone: 200, or 503 after ?timeout= seconds

What the answers say is the `AdminState`'s; this module knows HTTP and its bounds, since the port is open to the whole
cluster. A request has `MAX_REQUEST` bytes and `REQUEST_TIME` seconds, there are `MAX_CONNECTIONS` at once, and those
that wait for a drain never take all of them, so /healthz keeps answering. A wait ends when its client leaves.

Raises bind.BindError, naming --admin, where the port is not to be had.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import parse_qs, urlsplit

import h11
import msgspec

from postern_sidecar.config import ADMIN_PORT

from .bind import listen
from .metrics import CONTENT_TYPE as METRICS_TYPE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

MAX_REQUEST: Final = 8192
REQUEST_TIME: Final = 10.0
MAX_CONNECTIONS: Final = 64
MAX_WAITING: Final = 32
LINGER: Final = 1.0
MAX_LEFT_OVER: Final = 65_536
DRAIN_TIME: Final = 600.0
MAX_DRAIN_TIME: Final = 3600.0
_CHUNK: Final = 4096
_TEXT: Final = "text/plain; charset=utf-8"


class Exposition(Protocol):
    def render(self) -> bytes: ...


class AdminState(Protocol):
    """What the port tells of. Answers of `healthy` and `ready` have a line of text with them."""

    @property
    def metrics(self) -> Exposition: ...

    def healthy(self) -> tuple[bool, str]: ...

    def ready(self, scope: str | None) -> tuple[bool, str]: ...

    def config(self) -> Mapping[str, Any]: ...

    async def wait_drained(self, seconds: float) -> bool:
        """Whether a drain has begun and its last inbound session has gone, at the latest after `seconds`."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    content_type: str = _TEXT
    headers: tuple[tuple[str, str], ...] = ()


def _said(good: bool, text: str) -> _Answer:
    return _Answer(200 if good else 503, text.encode() + b"\n")


_NOT_FOUND = _Answer(404, b"there are /healthz, /readyz, /metrics, /config and /drained\n")
_NOT_ALLOWED = _Answer(405, b"GET or HEAD\n", headers=(("Allow", "GET, HEAD"),))
_BUSY = _Answer(503, b"too many connections to the admin port\n")
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,3})?", re.ASCII)


@contextlib.asynccontextmanager
async def serve(
    state: AdminState, where: tuple[str, int] | None = None, ephemeral: bool = False
) -> AsyncIterator[tuple[str, int]]:
    """Serve inside the block, which gets the address and port that were bound.

    `where`: None is all addresses on `ADMIN_PORT`, an empty address all addresses. `ephemeral`: port 0. Raises
    BindError.
    """
    host, port = where or ("", ADMIN_PORT)
    sock = listen(ip_address(host) if host else None, 0 if ephemeral else port, "--admin")
    bound = sock.getsockname()[:2]
    admin = _Admin(state)
    server = await asyncio.start_server(admin.accept, sock=sock, limit=MAX_REQUEST)
    try:
        yield bound[0], bound[1]
    finally:
        server.close()
        await admin.close()


class _Admin:
    def __init__(self, state: AdminState) -> None:
        self._state = state
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = 0

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(reader, writer)
        work = connection.turn_away() if len(self._tasks) >= MAX_CONNECTIONS else self._converse(connection)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            task.get_loop().call_exception_handler({"message": "the admin port failed", "exception": bug})

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _converse(self, connection: _Connection) -> None:
        async with connection:
            while (request := await connection.request()) is not None:
                try:
                    answer = await connection.unless_it_leaves(self._answer(request))
                except Exception:
                    await connection.send(request, _Answer(500, b"internal error\n"))
                    raise
                if answer is None or not await connection.send(request, answer):
                    return

    async def _answer(self, request: h11.Request) -> _Answer:
        if request.method not in (b"GET", b"HEAD"):
            return _NOT_ALLOWED
        target = urlsplit(request.target.decode("latin-1"))
        query = {key: values[-1] for key, values in parse_qs(target.query, keep_blank_values=True).items()}
        match target.path:
            case "/healthz":
                return _said(*self._state.healthy())
            case "/readyz":
                return self._ready(query.get("scope"))
            case "/metrics":
                return _Answer(200, self._state.metrics.render(), METRICS_TYPE)
            case "/config":
                return _Answer(200, msgspec.json.encode(self._state.config()) + b"\n", "application/json")
            case "/drained":
                return await self._drained(query.get("timeout"))
        return _NOT_FOUND

    def _ready(self, scope: str | None) -> _Answer:
        if scope not in (None, "outbound"):
            return _Answer(400, b"the only scope is outbound\n")
        return _said(*self._state.ready(scope))

    async def _drained(self, timeout: str | None) -> _Answer:
        """More than the longest wait is that wait: a preStop hook that failed at once would end the mail server."""
        if timeout is not None and not _SECONDS.fullmatch(timeout):
            return _Answer(400, b"timeout is a number of seconds, 3600 at most\n")
        if self._waiting >= MAX_WAITING:
            return _Answer(503, b"too many wait for the drain already\n")
        seconds = DRAIN_TIME if timeout is None else min(float(timeout), MAX_DRAIN_TIME)
        self._waiting += 1
        try:
            drained = await self._state.wait_drained(seconds)
        finally:
            self._waiting -= 1
        return _said(drained, "drained" if drained else f"not drained after {seconds:g} s")


class _Connection:
    """One client: requests in, answers out, each in its time. Leaving the block closes it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        """Close, for good after `REQUEST_TIME`. What a client does to its connection is no error of ours."""
        self._writer.close()
        try:
            async with asyncio.timeout(REQUEST_TIME):
                await self._writer.wait_closed()
        except (TimeoutError, OSError):
            self._writer.transport.abort()
        return isinstance(error, (TimeoutError, OSError))

    async def turn_away(self) -> None:
        async with self:
            await self._refuse(_BUSY)

    async def request(self) -> h11.Request | None:
        """The next request with its body read; None: there is none. Raises TimeoutError and OSError."""
        try:
            async with asyncio.timeout(REQUEST_TIME):
                return await self._read_request()
        except h11.RemoteProtocolError as error:
            if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                await self._refuse(_Answer(error.error_status_hint, b"bad request\n"))
            return None

    async def _refuse(self, answer: _Answer) -> None:
        """Answer and be done; what still comes is read for a moment, since a reset would take the answer away."""
        await self._write(answer, b"GET", close=True)
        self._writer.write_eof()
        left = MAX_LEFT_OVER
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while left > 0 and (data := await self._reader.read(_CHUNK)):
                    left -= len(data)

    async def _read_request(self) -> h11.Request | None:
        request, body = None, 0
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(_CHUNK))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += len(event.data)
                if body > MAX_REQUEST:
                    raise h11.RemoteProtocolError("too long", error_status_hint=413)
            elif isinstance(event, h11.EndOfMessage):
                return request
            else:
                return None

    async def unless_it_leaves(self, work: Any) -> _Answer | None:
        """The answer, or None where the client has left before there was one."""
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self._until_it_leaves())
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            for task in (working, leaving):
                task.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)

    async def _until_it_leaves(self) -> None:
        """What it sends in the meantime is its next request; more than one of those is not kept."""
        early = 0
        while early <= MAX_REQUEST:
            try:
                data = await self._reader.read(_CHUNK)
            except OSError:
                return
            if not data:
                return
            early += len(data)
            self._http.receive_data(data)

    async def send(self, request: h11.Request, answer: _Answer) -> bool:
        """Whether the connection takes another request. Raises TimeoutError and OSError."""
        await self._write(answer, request.method)
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def _write(self, answer: _Answer, method: bytes, *, close: bool = False) -> None:
        headers = [
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("Cache-Control", "no-store"),
            *answer.headers,
            *([("Connection", "close")] if close else []),
        ]
        events: list[h11.Event] = [h11.Response(status_code=answer.status, headers=headers)]
        if method != b"HEAD":
            events.append(h11.Data(data=answer.body))
        events.append(h11.EndOfMessage())
        self._writer.write(b"".join(self._http.send(event) or b"" for event in events))
        async with asyncio.timeout(REQUEST_TIME):
            await self._writer.drain()
