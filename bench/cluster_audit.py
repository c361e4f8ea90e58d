"""A control plane whose audit log also has what the operator reads, and when: the API server's clock is the bench's."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from cluster.control import ControlPlane

if TYPE_CHECKING:
    from collections.abc import Iterator

POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "None", "users": ["system:apiserver"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None"},
    ],
}
OPERATOR = ":postern-operator"


@dataclass(frozen=True, slots=True)
class Request:
    """`resource` as in RBAC. Times are seconds since the epoch."""

    user: str
    verb: str
    resource: str
    namespace: str
    name: str
    code: int
    received: float
    answered: float


class Observed(ControlPlane):
    def _prepare(self) -> None:
        super()._prepare()
        (self.folder / "audit.json").write_text(json.dumps(POLICY))

    def requests(self, since: int, *, user: str = "", verb: str = "", resource: str = "") -> list[Request]:
        """Since a `mark`, in the order of their answers; a watch is there when it has ended."""
        self._flush()
        return [
            request
            for request in self._read(since)
            if request.user.endswith(user) and verb in ("", request.verb) and resource in ("", request.resource)
        ]

    def _read(self, since: int) -> Iterator[Request]:
        with self._audit.open("rb") as log:
            log.seek(since)
            for line in log:
                if line.endswith(b"\n"):
                    yield _request(line)


def _request(line: bytes) -> Request:
    record = json.loads(line)
    target = record.get("objectRef", {})
    sub = target.get("subresource")
    return Request(
        record["user"]["username"],
        record["verb"],
        target.get("resource", "") + (f"/{sub}" if sub else ""),
        target.get("namespace", ""),
        target.get("name", ""),
        record.get("responseStatus", {}).get("code", 0),
        _seconds(record["requestReceivedTimestamp"]),
        _seconds(record["stageTimestamp"]),
    )


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def kinds(requests: list[Request]) -> dict[str, int]:
    """How many of each `verb resource`, the most frequent first."""
    return dict(Counter(f"{request.verb} {request.resource}".strip() for request in requests).most_common())
