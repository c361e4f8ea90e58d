"""The one Kubernetes client: requests out, plain JSON in, errors of our own.

From the official client's async side come the credentials: what a kubeconfig or a ServiceAccount says, exec plugins and
all. The transport below it is aiohttp itself, as it is below that client: its own calls either build models (2 ms of
CPU an object, 259 MB for a list of 3,000 pods) or encode every body with `json` and leave error answers to the caller.
Every call has a time limit. Nothing is tried again here but once with fresh credentials after a 401: callers have a
queue. Raises KubeError and its kinds, nothing else.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec
from yarl import URL

from postern_sidecar.version import VERSION

from .model import FIELD_MANAGER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from typing import Self

    from multidict import CIMultiDictProxy

Object = dict[str, Any]
T = TypeVar("T")

CONNECTIONS: Final = 64
"""At once, of one replica; further calls wait for one within their time limit."""
KEPT_ALIVE: Final = 30.0
"""Seconds; the API server closes idle connections after some minutes."""
CREDENTIALS_FOR: Final = 60.0
"""Seconds between two looks at the token: kubelets renew it when a fifth of its life, 10 minutes at least, is left."""
MOST_OCTETS: Final = 64 << 20
"""Of one answer: a page of 500 objects stays below it, whatever their size is in practice."""
MOST_TEXT: Final = 500
"""Characters of a message of the API server: it repeats names and values that anybody may have chosen."""
MOST_WARNINGS: Final = 20
"""Of one answer."""
LONGEST_WAIT: Final = 30.0
"""Seconds that a Retry-After is followed for."""

_JSON: Final = "application/json"
_LISTED_METADATA: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
_METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
_SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_MINE: Final = ("fieldManager", FIELD_MANAGER)
_DRY: Final = ("dryRun", "All")


class KubeError(Exception):
    """The API server refused, or could not be asked. `status` is 0 where there was no answer."""

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class NotFound(KubeError): ...  # 404


class Conflict(KubeError): ...  # 409: it exists, or has changed since


class Unauthorized(KubeError): ...  # 401, with credentials that were read again; or there are none


class Forbidden(KubeError): ...  # 403


class Invalid(KubeError): ...  # 400, 422


class TooManyRequests(KubeError):  # 429, 503 with Retry-After
    retry_after: float = 1.0


class Unreachable(KubeError): ...  # no connection, no answer in time, 5xx


class Kube(Protocol):
    """Paths are URL paths (`paths`). `dry_run`: the server does everything but keep it."""

    async def get(self, path: str, *, timeout: float = 10.0) -> Object: ...

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
        """A LIST, page by page, each object at most once; `timeout` is a page's. Where the continuation has expired the
        rest is of a later moment: what was made meanwhile before that place is missing."""
        ...

    async def create(self, path: str, body: Object, *, dry_run: bool = False, timeout: float = 10.0) -> Object: ...

    async def update(self, path: str, body: Object, *, timeout: float = 10.0) -> Object:
        """PUT: Conflict where `metadata.resourceVersion` is no longer the object's."""
        ...

    async def apply(self, path: str, body: Object, *, force: bool = True, timeout: float = 10.0) -> Object:
        """Server-side apply as `model.FIELD_MANAGER`."""
        ...

    async def merge(self, path: str, body: Object, *, timeout: float = 10.0) -> None:
        """JSON merge patch; the answer is not parsed."""
        ...

    async def json_patch(self, path: str, operations: list[Object], *, timeout: float = 10.0) -> Object: ...

    async def delete(self, path: str, *, preconditions: Mapping[str, str] | None = None, timeout: float = 10.0) -> None:
        """`preconditions`: uid, resourceVersion."""
        ...


@dataclass(frozen=True, slots=True)
class Credentials:
    """Whom to ask, and as whom. `authorization` is a header's value or ""; files are paths or ""."""

    server: str
    authorization: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    verify: bool = True
    server_name: str = ""
    proxy: str = ""

    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file or None)
        # API servers' certificates are older than Python 3.13's stricter reading of RFC 5280 (no key identifiers).
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self.load(context)
        return context

    def load(self, context: ssl.SSLContext) -> None:
        """Files that were renewed serve the connections that are made from now on."""
        if self.ca_file:
            context.load_verify_locations(self.ca_file)
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file or None)


async def credentials(kubeconfig: str = "") -> Credentials:
    """As kubectl finds them: the file that is named, $KUBECONFIG, the pod's ServiceAccount, ~/.kube/config. Every file
    is read again, every exec plugin run. Raises Unauthorized, which says what is missing."""
    # Here, for what asks nothing (`inject`) need not pay for them: 20 MB, which kopf brings anyway, without any model.
    from kubernetes.aio.client.configuration import Configuration
    from kubernetes.aio.config.incluster_config import InClusterConfigLoader
    from kubernetes.aio.config.kube_config import load_kube_config

    found = Configuration()
    name = kubeconfig or os.environ.get("KUBECONFIG", "")
    try:
        if not name and os.environ.get("KUBERNETES_SERVICE_HOST"):
            account = Path(_SERVICE_ACCOUNT)
            loader = InClusterConfigLoader(  # type: ignore[no-untyped-call]
                str(account / "token"), str(account / "ca.crt"), try_refresh_token=False
            )
            await asyncio.to_thread(loader.load_and_set, found)
        else:
            name = name or str(Path.home() / ".kube/config")
            await load_kube_config(name, client_configuration=found, persist_config=False)  # type: ignore[no-untyped-call]
    except Exception as problem:  # a malformed file makes the loader raise anything
        source = name or "this pod's ServiceAccount"
        raise Unauthorized(f"no credentials for a cluster in {source}: {_printable(str(problem))}") from None
    return Credentials(
        found.host,
        str(found.api_key.get("BearerToken", "")).strip(),
        found.ssl_ca_cert or "",
        found.cert_file or "",
        found.key_file or "",
        bool(found.verify_ssl),
        found.tls_server_name or "",
        found.proxy or "",
    )


@asynccontextmanager
async def connected(kubeconfig: str = "", *, connections: int = CONNECTIONS) -> AsyncIterator[Client]:
    """A client for as long as it is needed."""
    client = await Client.connect(kubeconfig, connections=connections)
    try:
        yield client
    finally:
        await client.close()


class Client:
    """Kube on a real API server. Many calls at once; one event loop."""

    def __init__(self, found: Credentials, kubeconfig: str, connections: int) -> None:
        self._kubeconfig = kubeconfig
        self._credentials = found
        self._read_at = time.monotonic()
        self._reading = asyncio.Lock()
        self._server = found.server.rstrip("/")
        self._tls = found.tls()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ssl=self._tls, keepalive_timeout=KEPT_ALIVE),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Compressing costs the API server more than the cluster's network pays for it.
            headers={"User-Agent": f"{FIELD_MANAGER}/{VERSION}", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None),  # ours is around the whole call
            read_bufsize=1 << 18,
        )

    @classmethod
    async def connect(cls, kubeconfig: str = "", *, connections: int = CONNECTIONS) -> Self:
        """Reads credentials; the API server is not asked yet. Raises Unauthorized."""
        found = await credentials(kubeconfig)
        try:
            return cls(found, kubeconfig, connections)
        except (OSError, ValueError) as problem:  # ssl.SSLError is an OSError
            raise Unauthorized(f"the cluster's CA, certificate or key: {_printable(str(problem))}") from None

    async def close(self) -> None:
        await self._session.close()

    async def get(self, path: str, *, timeout: float = 10.0) -> Object:
        return _object(await self._call("GET", path, timeout=timeout))

    async def pages(
        self,
        path: str,
        *,
        selector: str = "",
        fields: str = "",
        metadata_only: bool = False,
        limit: int = 500,
        timeout: float = 10.0,
    ) -> AsyncIterator[list[Object]]:
        accept = _LISTED_METADATA if metadata_only else _JSON
        chosen = (("labelSelector", selector), ("fieldSelector", fields))
        asked = [("limit", str(limit)), *(choice for choice in chosen if choice[1])]
        token = ""
        while True:
            query = [*asked, ("continue", token)] if token else asked
            try:
                page = _decoded(await self._call("GET", path, query, accept=accept, timeout=timeout), _Page)
            except _Expired as expired:
                if not expired.token or expired.token == token:
                    raise Conflict(str(expired), expired.status, expired.reason) from None
                token = expired.token
                continue
            yield page.items or []
            token = page.metadata.token
            if not token:
                return

    async def create(self, path: str, body: Object, *, dry_run: bool = False, timeout: float = 10.0) -> Object:
        query = [_MINE, _DRY] if dry_run else [_MINE]
        return _object(await self._call("POST", path, query, body, timeout=timeout))

    async def rehearse(self, path: str, body: Object, *, timeout: float = 10.0) -> tuple[Object, tuple[str, ...]]:
        """`create` in a dry run, and the warnings of those who admitted it, MOST_WARNINGS at most."""
        answer, fields = await self._exchange("POST", path, [_MINE, _DRY], body, timeout=timeout)
        return _object(answer), tuple(map(_warning, fields.getall("Warning", [])[:MOST_WARNINGS]))

    async def update(self, path: str, body: Object, *, timeout: float = 10.0) -> Object:
        return _object(await self._call("PUT", path, [_MINE], body, timeout=timeout))

    async def apply(self, path: str, body: Object, *, force: bool = True, timeout: float = 10.0) -> Object:
        query = [_MINE, ("force", "true" if force else "false")]
        # JSON is YAML, and the API server reads it faster.
        return _object(await self._call("PATCH", path, query, body, "application/apply-patch+yaml", timeout=timeout))

    async def merge(self, path: str, body: Object, *, timeout: float = 10.0) -> None:
        await self._call("PATCH", path, [_MINE], body, "application/merge-patch+json", _METADATA, timeout=timeout)

    async def json_patch(self, path: str, operations: list[Object], *, timeout: float = 10.0) -> Object:
        kind = "application/json-patch+json"
        return _object(await self._call("PATCH", path, [_MINE], operations, kind, timeout=timeout))

    async def delete(self, path: str, *, preconditions: Mapping[str, str] | None = None, timeout: float = 10.0) -> None:
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": dict(preconditions or {})}
        await self._call("DELETE", path, [], options, timeout=timeout)

    async def _call(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]] | None = None,
        body: Object | list[Object] | None = None,
        kind: str = _JSON,
        accept: str = _JSON,
        *,
        timeout: float,
    ) -> bytes:
        """The answer's body."""
        answer, _ = await self._exchange(method, path, query, body, kind, accept, timeout=timeout)
        return answer

    async def _exchange(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]] | None = None,
        body: Object | list[Object] | None = None,
        kind: str = _JSON,
        accept: str = _JSON,
        *,
        timeout: float,
    ) -> tuple[bytes, CIMultiDictProxy[str]]:
        """Body and fields. One time limit over waiting for a connection, credentials, and both tries."""
        url = URL(f"{self._server}{path}?{urlencode(query)}" if query else f"{self._server}{path}", encoded=True)
        data = None if body is None else msgspec.json.encode(body)
        headers = {"Accept": accept} if data is None else {"Accept": accept, "Content-Type": kind}
        try:
            async with asyncio.timeout(timeout):
                used = await self._current()
                status, fields, answer = await self._send(method, url, headers, data, used)
                if status == 401:
                    used = await self._current(refused=used)
                    status, fields, answer = await self._send(method, url, headers, data, used)
        except TimeoutError:
            raise Unreachable(f"{method} {path}: no answer within {timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as problem:
            raise Unreachable(f"{method} {path}: {_printable(str(problem) or type(problem).__name__)}") from None
        if status < 300:
            return answer, fields
        raise _error(f"{method} {path}", status, fields, answer)

    async def _send(
        self, method: str, url: URL, headers: dict[str, str], data: bytes | None, used: Credentials
    ) -> tuple[int, CIMultiDictProxy[str], bytes]:
        sent = {**headers, "Authorization": used.authorization} if used.authorization else headers
        async with self._session.request(
            method,
            url,
            data=data,
            headers=sent,
            allow_redirects=False,
            proxy=used.proxy or None,
            server_hostname=used.server_name or None,
        ) as response:
            return response.status, response.headers, await _bounded(response)

    async def _current(self, refused: Credentials | None = None) -> Credentials:
        """Credentials that are young enough, and others than those that were `refused`, where there are."""
        if refused is not self._credentials and time.monotonic() - self._read_at < CREDENTIALS_FOR:
            return self._credentials
        async with self._reading:
            if refused is not self._credentials and time.monotonic() - self._read_at < CREDENTIALS_FOR:
                return self._credentials  # somebody else has read them meanwhile
            try:
                self._credentials = await credentials(self._kubeconfig)
                await asyncio.to_thread(self._credentials.load, self._tls)
            except (Unauthorized, OSError):
                # A file that is just being replaced. What the old one gave may serve still; the answer tells.
                pass
            self._read_at = time.monotonic()
            return self._credentials


class _Meta(msgspec.Struct, frozen=True):
    token: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct, frozen=True):
    items: list[Object] | None  # null: an empty PartialObjectMetadataList
    metadata: _Meta = _Meta()


class _Refusal(msgspec.Struct, frozen=True):
    """`Status` of the API server."""

    message: str = ""
    reason: str = ""
    metadata: _Meta = _Meta()


class _Expired(KubeError):
    """410: a continuation is too old; `token` goes on in the present."""

    token: str = ""


_KINDS: Final[Mapping[int, type[KubeError]]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: _Expired,
    422: Invalid,
    429: TooManyRequests,
}


def _error(asked: str, status: int, fields: Mapping[str, str], answer: bytes) -> KubeError:
    """Proxies before an API server, and an API server that is just starting, answer without a Status."""
    try:
        said = msgspec.json.decode(answer, type=_Refusal)
    except (msgspec.DecodeError, ValueError):
        said = _Refusal(answer[:MOST_TEXT].decode(errors="replace"))
    message = _printable(said.message) or "no message"
    kind = _KINDS.get(status, Unreachable if status >= 500 else KubeError)
    if status == 503 and "Retry-After" in fields:
        kind = TooManyRequests
    error = kind(f"{asked}: {status}: {message}", status, _printable(said.reason))
    if isinstance(error, TooManyRequests):
        error.retry_after = _wait(fields.get("Retry-After", ""))
    if isinstance(error, _Expired):
        error.token = said.metadata.token
    return error


def _warning(field: str) -> str:
    """The text of a Warning: 299 - "text" (RFC 9111 obsoleted it, Kubernetes keeps to it)."""
    _, _, text = field.partition('"')
    return _printable(re.sub(r"\\(.)", r"\1", text.removesuffix('"')))


def _wait(seconds: str) -> float:
    """Retry-After; the API server gives whole seconds."""
    return min(float(seconds), LONGEST_WAIT) if seconds.isascii() and seconds.isdigit() else TooManyRequests.retry_after


def _printable(text: str) -> str:
    """For a log line and a status: no control characters, and an end."""
    text = "".join(c if c.isprintable() else "?" for c in text[: MOST_TEXT + 1])
    return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 3]}..."


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > MOST_OCTETS:
            raise ValueError(f"the answer has more than {MOST_OCTETS >> 20} MiB")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _object(answer: bytes) -> Object:
    return _decoded(answer, dict[str, Any])


def _decoded(answer: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.DecodeError, ValueError) as problem:
        raise Unreachable(f"not an answer of an API server: {_printable(str(problem))}") from None
