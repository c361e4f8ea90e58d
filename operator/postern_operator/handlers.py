"""kopf's part: three watches that fill the cache and put policies on the queue. kopf writes nothing, anywhere.

Selectors of pods and namespaces work at the API server. The session is ours, so that a token that was renewed is read
again, a 401 and a 404 (the CRD is gone) are waited out, a LIST whose continuation has expired is begun anew, and the
last sign of life of each watch is known, bookmarks included. `watching` runs the tasks of kopf itself, for
`kopf.operator` cancels in the end every task of the loop that was made after its start. `watching` raises what ends
kopf; nothing else raises.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import kopf

from . import kube, records
from .cache import Resource
from .gather import INJECT_ENABLED
from .kube import KubeError
from .model import API_VERSION, GROUP, INJECT, PLURAL, POLICY, Key
from .reconcile import touch, touch_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from .cache import Cache
    from .kube import Credentials
    from .queue import Queue
    from .settings import Settings

log = logging.getLogger(__name__)

VERSION: Final = API_VERSION.partition("/")[2]
CREDENTIALS_FOR: Final = 60.0
"""Seconds; the kubelet renews a token long before its end."""
AGAIN: Final = 1.0
CHUNK: Final = 500
END: Final = 5.0
"""Seconds for kopf to end."""

Handler = Any  # kopf's protocols of handlers want more than a handler takes


class Watches:
    """When each watch was last heard of. A watch that was never opened is as old as the process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard = dict.fromkeys(Resource, clock())

    def heard(self, resource: Resource) -> None:
        self._heard[resource] = self._clock()

    def ages(self) -> Mapping[str, float]:
        """Seconds, by the resource's name."""
        now = self._clock()
        return {resource.value: now - heard for resource, heard in self._heard.items()}


# -- what the watches tell ---------------------------------------------------------------------------------------------


class Told:
    """Events into cache and queue."""

    def __init__(self, cache: Cache, queue: Queue[Key], settings: Settings) -> None:
        self._cache, self._queue, self._settings = cache, queue, settings

    async def policy(self, event: Mapping[str, Any], **_: object) -> None:
        raw, metadata, key, uid, version = _parts(event)
        if event["type"] == "DELETED":
            if self._cache.remove(Resource.POLICIES, key, uid):
                touch(self._queue, self._cache, key)
            return
        if not self._cache.is_news(Resource.POLICIES, key, uid, version):
            return
        before = self._cache.policy(key)
        if before is not None and (before.uid, before.generation) == (uid, metadata.get("generation")):
            # Judging a policy costs milliseconds, and its status changes more often than itself.
            self._cache.put_status(key, uid, before.generation, raw.get("status") or {}, version)
            self._queue.add(key)
        elif self._cache.put_policy(records.policy_record(raw, self._settings.sidecar), version):
            touch(self._queue, self._cache, key)

    async def pod(self, event: Mapping[str, Any], **_: object) -> None:
        raw, _metadata, key, uid, version = _parts(event)
        before = self._cache.pod(key)
        if event["type"] == "DELETED":
            if self._cache.remove(Resource.PODS, key, uid) and before is not None:
                self._queue.add(Key(key.namespace, before.policy), 0.1)
            return
        if not self._cache.is_news(Resource.PODS, key, uid, version):
            return
        record = records.pod_record(raw)
        # A change of the poke alone is our own, and comes once for each pod of a roll-out.
        known = before and replace(before, poke=record.poke)
        if self._cache.put_pod(record, version) and record != known:
            for policy in {record.policy, before.policy if before else record.policy}:
                self._queue.add(Key(key.namespace, policy), 0.1)

    async def namespace(self, event: Mapping[str, Any], **_: object) -> None:
        _raw, metadata, key, uid, version = _parts(event)
        key = Key("", key.name)
        enabled = (metadata.get("labels") or {}).get(INJECT) == "enabled"
        if event["type"] == "DELETED" or not enabled:
            changed = self._cache.remove(Resource.NAMESPACES, key, uid)
        else:
            before = self._cache.namespace_enabled(key.name)
            changed = self._cache.put_namespace(key.name, uid, version) and not before
        if changed:
            touch_all(self._queue, self._cache.policies_of(key.name))


def _parts(event: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any], Key, str, str]:
    raw = event["object"]
    metadata = raw.get("metadata") or {}
    return raw, metadata, records.key_of(metadata), metadata.get("uid", ""), metadata.get("resourceVersion", "")


# -- kopf --------------------------------------------------------------------------------------------------------------


def registry(told: Told, watches: Watches) -> kopf.OperatorRegistry:
    made = kopf.OperatorRegistry()
    policy: Handler = told.policy
    pod: Handler = told.pod
    namespace: Handler = told.namespace
    # The versions are named: without them kopf reads every API group.
    kopf.on.event(GROUP, VERSION, PLURAL, registry=made, id="policy")(policy)
    kopf.on.event("", "v1", "pods", registry=made, id="pod")(pod)
    kopf.on.event("", "v1", "namespaces", registry=made, id="namespace")(namespace)

    async def login(**_: object) -> kopf.AiohttpSession:
        session = Session(watches)
        return kopf.AiohttpSession(server=await session.open(), aiohttp_session=session.client)

    handler: Handler = login
    kopf.on.login(registry=made, id="login", errors=kopf.ErrorsMode.TEMPORARY, backoff=AGAIN)(handler)
    return made


class NoDiffs(kopf.DiffBaseStorage):
    """kopf copies each object at each event twice to know what has changed, a quarter of the operator's time when
    thousands of pods change. Only handlers of changes look at that, and there are none."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:  # noqa: ARG002
        return {}

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:  # noqa: ARG002
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """There is nothing to be kept."""


def operator_settings() -> kopf.OperatorSettings:
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.posting.loggers = False
    made.scanning.disabled = True  # the application waits for the CRD; namespaces are named
    made.networking.error_backoffs = itertools.repeat(1.0)
    made.networking.request_timeout = 30.0
    made.networking.connect_timeout = 5.0
    made.watching.chunk_size = CHUNK
    made.watching.label_selectors["v1", "pods"] = POLICY
    made.watching.label_selectors["v1", "namespaces"] = INJECT_ENABLED
    made.queueing.idle_timeout = 0.1  # a worker an object stays that long, and there may be thousands
    made.persistence.diffbase_storage = NoDiffs()
    return made


async def watching(told: Told, watches: Watches, namespaces: tuple[str, ...], started: Callable[[], None]) -> None:
    """Until it is cancelled. kopf takes the signals when it starts; `started` takes them back."""
    tasks = await kopf.spawn_tasks(
        registry=registry(told, watches),
        settings=operator_settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
    )
    started()
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise RuntimeError(f"kopf has ended by itself: {', '.join(task.get_name() for task in done)}")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=END)


# -- its session -------------------------------------------------------------------------------------------------------


class Session:
    """An aiohttp session for kopf."""

    client: aiohttp.ClientSession
    _credentials: Credentials

    def __init__(self, watches: Watches) -> None:
        self._watches = watches
        self._read_at = 0.0
        self._complained_at = 0.0

    async def open(self) -> str:
        """The server's URL. Raises Unauthorized, which kopf tries again."""
        found = self._credentials = await kube.credentials()
        self._read_at = time.monotonic()
        self._tls = found.tls()
        self.client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=found.proxy or None,
            middlewares=(self._authorized,),
        )
        return found.server

    async def _authorized(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        while True:
            credentials = await self._current()
            if credentials.authorization:
                request.headers["Authorization"] = credentials.authorization
            response = await handler(request)
            resource = _resource(request.url.path)
            if response.status == 401:
                self._complain("the API server does not know our credentials (401); they are read again until it does")
                self._read_at = 0.0
            elif response.status == 404 and resource is not None:
                self._complain(f"the API server has no {resource.value} (404): is the CRD gone? Asked until it has")
            else:
                return await self._noted(resource, request, response)
            response.close()
            await asyncio.sleep(AGAIN)

    def _complain(self, trouble: str) -> None:
        if time.monotonic() - self._complained_at > CREDENTIALS_FOR:
            self._complained_at = time.monotonic()
            log.error("%s", trouble)

    async def _current(self) -> Credentials:
        if time.monotonic() - self._read_at >= CREDENTIALS_FOR:
            self._read_at = time.monotonic()
            try:
                found = await kube.credentials()
                await asyncio.to_thread(found.load, self._tls)
            except (KubeError, OSError):
                return self._credentials  # a file that is just being replaced
            self._credentials = found
        return self._credentials

    async def _noted(
        self, resource: Resource | None, request: aiohttp.ClientRequest, response: aiohttp.ClientResponse
    ) -> aiohttp.ClientResponse:
        watch = "watch" in request.url.query
        if response.status == 410 and resource is not None and not watch:
            response.close()
            await asyncio.sleep(AGAIN)
            # kopf's error of a body that ends too early: it begins the LIST anew, and does not end.
            raise aiohttp.ClientPayloadError(f"the LIST of {resource.value} took too long: its continuation is gone")
        if resource is None or response.status >= 300:
            return response
        self._watches.heard(resource)
        if watch:
            content: Any = _Noted(response.content, lambda: self._watches.heard(resource))
            response.content = content
        return response


# The API server writes an ERROR in one piece, and nothing after it.
_ERROR: Final = b'{"type":"ERROR"'
_CODE_410: Final = b'"code":410'
_TOO_OLD: Final = b'{"type":"ERROR","object":{"kind":"Status","code":410}}\n'


class _Noted:
    """A body that says when something of it has come. An ERROR that would end kopf becomes one after which it lists
    anew: 410."""

    def __init__(self, content: aiohttp.StreamReader, heard: Callable[[], None]) -> None:
        self._content, self._heard = content, heard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        async for part in self._content.iter_chunked(size):
            self._heard()
            error = part.rfind(_ERROR)
            if error < 0 or (error and part[error - 1 : error] != b"\n") or _CODE_410 in part[error:]:
                yield part
                continue
            log.warning("a watch ends, and is begun anew: %.300r", part[error:])
            await asyncio.sleep(AGAIN)
            yield part[:error] + _TOO_OLD
            return


def _resource(path: str) -> Resource | None:
    last = path.rpartition("/")[2]
    return next((resource for resource in Resource if resource.value == last), None)
