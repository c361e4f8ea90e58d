"""What reached the API server, from its audit log: the writes of each user, to count them."""

from __future__ import annotations

import json
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Writes alone: reads would be most of the log. What the server does to itself is left out.
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "None", "users": ["system:apiserver"]},
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None"},
    ],
}


_POD = "authentication.kubernetes.io/pod-name"


@dataclass(frozen=True, slots=True)
class Write:
    """`resource` as in RBAC: `pods`, `pods/status`, `serviceaccounts/token`. `code` is the HTTP status. `pod`: to which
    the token is bound, if any. `at`: when it was asked, RFC 3339 in UTC, so that it sorts as text."""

    user: str
    verb: str
    resource: str
    group: str
    namespace: str
    name: str
    code: int
    dry_run: bool
    agent: str
    pod: str
    at: str

    @property
    def kept(self) -> bool:
        """It was not refused, and no dry run. Whether it changed anything, only the object tells."""
        return self.code < 300 and not self.dry_run


def read(path: Path, start: int) -> Iterator[Write]:
    """From an offset in bytes on; a line that is being written is left for later."""
    with path.open("rb") as log:
        log.seek(start)
        for line in log:
            if line.endswith(b"\n"):
                yield _write(json.loads(line))


def _write(record: dict[str, Any]) -> Write:
    target = record.get("objectRef", {})
    resource, sub = target.get("resource", ""), target.get("subresource", "")
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(record["requestURI"]).query)
    return Write(
        user=record["user"]["username"],
        verb=record["verb"],
        resource=f"{resource}/{sub}" if sub else resource,
        group=target.get("apiGroup", ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=record.get("responseStatus", {}).get("code", 0),
        dry_run="dryRun" in query,
        agent=record.get("userAgent", ""),
        pod=next(iter(record["user"].get("extra", {}).get(_POD, [])), ""),
        at=record["requestReceivedTimestamp"],
    )
