"""The one Kubernetes client: requests out, plain JSON in, errors of our own.

Behind it is the official client's async side, without its models: they cost 2 ms of CPU an object. Every call has a
time limit. Raises KubeError and its kinds, nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

Object = dict[str, Any]


class KubeError(Exception):
    """The API server refused, or could not be asked. `status` is 0 where there was no answer."""

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class NotFound(KubeError): ...  # 404


class Conflict(KubeError): ...  # 409: it exists, or has changed since


class Forbidden(KubeError): ...  # 403


class Invalid(KubeError): ...  # 400, 422


class TooManyRequests(KubeError):  # 429, 503 with Retry-After
    retry_after: float = 1.0


class Unreachable(KubeError): ...  # no connection, no answer in time, 5xx


class Kube(Protocol):
    """Paths are URL paths (`paths`). `dry_run`: the server does everything but keep it."""

    async def get(self, path: str, *, timeout: float = 10.0) -> Object: ...

    def pages(
        self, path: str, *, selector: str = "", metadata_only: bool = False, limit: int = 500, timeout: float = 10.0
    ) -> AsyncIterator[list[Object]]:
        """A LIST, page by page; an expired continuation starts anew once, and says so by Conflict if it does again."""
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
