"""A policy to what is delivered: the file that sidecars read, what injection needs, and the ConfigMap with both.

The same policy gives the same bytes, whatever order its fields came in. The ConfigMap has no owner: with one, a policy
that is deleted and made again would take its file away under running pods. That the result fits into a ConfigMap is
`records`' business. Raises nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from postern_sidecar.config import config_hash, normalized
from postern_sidecar.config.model import HandoverKind

from .model import (
    INJECTION_JSON,
    MANAGED_BY,
    POLICY_JSON,
    POLICY_UID,
    POSTERN,
    Injection,
    Listener,
    Rendered,
    config_map_name,
)
from .records import injection_of

if TYPE_CHECKING:
    from postern_sidecar.config.model import Outbound, Policy

    from .model import PolicyRecord

__all__ = ["config_map", "injection_json", "injection_of", "render"]


def render(record: PolicyRecord) -> Rendered | None:
    """None where the policy may not be accepted."""
    if record.policy is None or record.problems:
        return None
    policy_json = normalized(record.policy)
    file_hash = config_hash(policy_json)
    return Rendered(policy_json, file_hash, _injection(record, record.policy, file_hash))


def config_map(record: PolicyRecord, rendered: Rendered) -> dict[str, Any]:
    """The body of a server-side apply."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": config_map_name(record.key.name),
            "namespace": record.key.namespace,
            "labels": {MANAGED_BY: POSTERN},
            "annotations": {POLICY_UID: record.uid},
        },
        "data": {POLICY_JSON: rendered.policy_json.decode(), INJECTION_JSON: injection_json(rendered.injection)},
    }


def injection_json(injection: Injection) -> str:
    return json.dumps(msgspec.to_builtins(injection), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _injection(record: PolicyRecord, policy: Policy, file_hash: str) -> Injection:
    spec = policy.spec
    doors = () if spec.outbound is None else (spec.outbound.submission.port, spec.outbound.submission.lmtp_port)
    return Injection(
        policy=record.key.name,
        uid=record.uid,
        hash=file_hash,
        listeners=tuple(Listener(name=inbound.name, port=inbound.port) for inbound in spec.inbound),
        transparent=any(inbound.backend.handover is HandoverKind.TRANSPARENT for inbound in spec.inbound),
        outbound=spec.outbound is not None,
        submission_ports=doors,
        secrets=() if spec.outbound is None else _secrets(spec.outbound),
        image=spec.sidecar.image,
        resources=spec.sidecar.resources,
        hold_mail_server=spec.sidecar.hold_mail_server,
    )


def _secrets(outbound: Outbound) -> tuple[str, ...]:
    return tuple(sorted({route.auth.secret_name for route in outbound.routes if route.auth is not None}))
