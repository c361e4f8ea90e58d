"""A small client of the API server for tests: JSON in, JSON out, synchronous, from any thread, over kept connections.

It shares nothing with the operator's client, so that a fault there does not hide itself here. Raises ApiError.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
import urllib.parse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

Object = dict[str, Any]
TIMEOUT = 30.0
AGENT = "postern-tests"
_JSON = "application/json"
_MERGE = "application/merge-patch+json"
_APPLY = "application/apply-patch+yaml"
_PATCH = "application/json-patch+json"


class ApiError(Exception):
    """The API server refused. `body` is its Status object, or the text that it sent instead."""

    def __init__(self, status: int, body: Object | str) -> None:
        self.status = status
        self.body = body
        super().__init__(f"{status}: {self.message}")

    @property
    def message(self) -> str:
        return str(self.body.get("message", "")) if isinstance(self.body, dict) else self.body

    @property
    def reason(self) -> str:
        return str(self.body.get("reason", "")) if isinstance(self.body, dict) else ""


class Admin:
    """`token` decides who asks. Paths are URL paths; a query may follow them."""

    def __init__(self, url: str, ca: Path, token: str, *, timeout: float = TIMEOUT) -> None:
        self.url = url
        self._timeout = timeout
        parts = urllib.parse.urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._context = ssl.create_default_context(cafile=str(ca))
        self._token = token
        self._idle: list[http.client.HTTPSConnection] = []
        self._lock = threading.Lock()

    def get(self, path: str) -> Object:
        return self.request("GET", path)

    def text(self, path: str) -> str:
        """An answer that is no JSON: /readyz, /metrics."""
        return self._exchange("GET", path, None, {}).decode()

    def list(self, path: str, selector: str = "") -> list[Object]:
        """The items; they carry no kind, as in any list."""
        items: list[Object] = self.get(_with(path, labelSelector=selector))["items"]
        return items

    def exists(self, path: str) -> bool:
        try:
            self.get(path)
        except ApiError as problem:
            if problem.status == 404:
                return False
            raise
        return True

    def create(self, path: str, body: Object, *, dry_run: bool = False, strict: bool = True) -> Object:
        return self.request("POST", _with(path, dryRun=_all(dry_run), fieldValidation=_strict(strict)), body)

    def update(self, path: str, body: Object) -> Object:
        return self.request("PUT", path, body)

    def apply(self, path: str, body: Object, manager: str = "test", *, force: bool = True) -> Object:
        """Server-side apply."""
        return self.request(
            "PATCH", _with(path, fieldManager=manager, force=str(force).lower()), body, content_type=_APPLY
        )

    def merge(self, path: str, body: Object) -> Object:
        """JSON merge patch."""
        return self.request("PATCH", path, body, content_type=_MERGE)

    def status(self, path: str, body: Object) -> Object:
        """JSON merge patch of the status subresource; `body` is what stands under `status`."""
        return self.merge(f"{path}/status", {"status": body})

    def json_patch(self, path: str, operations: Sequence[Object]) -> Object:
        return self.request("PATCH", path, operations, content_type=_PATCH)

    def delete(self, path: str, *, grace: int | None = 0, missing_ok: bool = False) -> None:
        """`grace` None: the object's own period, in which a pod with a node stays as terminating."""
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        try:
            self.request("DELETE", path, body)
        except ApiError as problem:
            if not (missing_ok and problem.status == 404):
                raise

    def wait(self, path: str, until: Callable[[Object], object], timeout: float = 20.0) -> Object:
        """The object, as soon as `until` says so of it, by watching it; it need not exist yet. AssertionError with its
        last state at the deadline."""
        last: Object = {}
        for event in self.watch(path, timeout):
            last = {} if event["type"] in ("ABSENT", "DELETED") else event["object"]
            if last and until(last):
                return last
        raise AssertionError(f"{path} did not get there within {timeout:g} s; the last: {json.dumps(last, indent=1)}")

    def wait_gone(self, path: str, timeout: float = 20.0) -> None:
        for event in self.watch(path, timeout):
            if event["type"] in ("ABSENT", "DELETED"):
                return
        raise AssertionError(f"{path} is still there after {timeout:g} s")

    def watch(self, path: str, timeout: float = 20.0) -> Iterator[Object]:
        """Events of one object until the time is over. What is there already comes as ADDED; nothing, as ABSENT."""
        collection, _, name = path.rpartition("/")
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            listed = self.get(_with(collection, fieldSelector=f"metadata.name={name}"))
            for item in listed["items"]:
                yield {"type": "ADDED", "object": item}
            if not listed["items"]:
                yield {"type": "ABSENT", "object": {}}
            query = {
                "watch": "1",
                "resourceVersion": listed["metadata"]["resourceVersion"],
                "timeoutSeconds": str(max(1, round(left))),
            }
            yield from self._stream(_with(collection, fieldSelector=f"metadata.name={name}", **query), left)

    def _stream(self, path: str, timeout: float) -> Iterator[Object]:
        connection = http.client.HTTPSConnection(self._host, self._port, context=self._context, timeout=timeout)
        try:
            connection.request("GET", path, headers=self._headers())
            with connection.getresponse() as response:
                if response.status != 200:
                    raise ApiError(response.status, _parsed(response.read()))
                while line := response.readline():
                    event: Object = json.loads(line)
                    if event["type"] == "ERROR":
                        return
                    yield event
        except TimeoutError:
            return
        finally:
            connection.close()

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = _JSON,
        accept: str = _JSON,
        agent: str = AGENT,
    ) -> Object:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type, "Accept": accept, "User-Agent": agent}
        answer = _parsed(self._exchange(method, path, data, headers))
        if isinstance(answer, str):
            raise ApiError(200, answer)
        return answer

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}", "Accept": _JSON, "User-Agent": AGENT}

    def _exchange(self, method: str, path: str, data: bytes | None, headers: dict[str, str]) -> bytes:
        while True:
            with self._lock:
                kept = self._idle.pop() if self._idle else None
            connection = kept or http.client.HTTPSConnection(
                self._host, self._port, context=self._context, timeout=self._timeout
            )
            try:
                connection.request(method, path, data, {**self._headers(), **headers})
                with connection.getresponse() as response:
                    content, status, closing = response.read(), response.status, response.will_close
            except (ConnectionError, http.client.RemoteDisconnected, ssl.SSLError):
                connection.close()
                if kept:  # the server was restarted since: this connection says nothing about it
                    continue
                raise
            except BaseException:
                connection.close()
                raise
            if closing:
                connection.close()
            else:
                with self._lock:
                    self._idle.append(connection)
            if status >= 300:
                raise ApiError(status, _parsed(content))
            return content


def _parsed(content: bytes) -> Object | str:
    try:
        value = json.loads(content)
    except ValueError:
        return content.decode(errors="backslashreplace")
    return value if isinstance(value, dict) else content.decode()


def _with(path: str, **query: str) -> str:
    given = urllib.parse.urlencode({key: value for key, value in query.items() if value})
    return f"{path}{'&' if '?' in path else '?'}{given}" if given else path


def _all(dry_run: bool) -> str:
    return "All" if dry_run else ""


def _strict(strict: bool) -> str:
    return "Strict" if strict else ""
