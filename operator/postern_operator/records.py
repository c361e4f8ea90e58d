"""Raw objects of the API server to records: the only reader of their shape but injection.

What is odd is left out or empty, whatever the object looks like; what is wrong with a policy is a `Problem` in its
record. A policy is judged as its sidecar would judge it, and by what the chart says: images, Transparent, the admin
port, a size that its ConfigMap can hold. A ConfigMap is judged by the same allowances, because more people may write
ConfigMaps than policies. Raises nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from postern_sidecar.config import ADMIN_PORT, InvalidPolicy, Problem, load, normalized
from postern_sidecar.config.checks import selector as selector_problems
from postern_sidecar.config.model import HandoverKind, LabelSelector, Policy
from postern_sidecar.config.problems import error, shown
from postern_sidecar.config.resource_checks import resources

from .model import (
    API_VERSION,
    CONFIG_HASH,
    CONTAINER,
    INIT_CONTAINER,
    INJECTION_JSON,
    KIND,
    MANAGED_BY,
    POLICY,
    POLICY_JSON,
    POLICY_UID,
    POSTERN,
    STATUS,
    UNPRIVILEGED_PORTS,
    VOLUME_CREDENTIALS,
    Candidate,
    ConfigMapRecord,
    Injection,
    Key,
    Owner,
    PodRecord,
    PolicyRecord,
    Stamp,
    config_map_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .settings import Sidecar

CONFIG_MAP_SIZE = 1 << 20
"""Octets of all values of a ConfigMap (validation.ValidateConfigMap in Kubernetes)."""
INJECTION_SIZE = 80 << 10
"""Kept free for injection.json: 256 routes, each with a Secret whose name has 253 characters, and 16 listeners."""
POLICY_SIZE = CONFIG_MAP_SIZE - INJECTION_SIZE
FIRST_UNPRIVILEGED = 1024  # of Linux, where no sysctl says otherwise

_T = TypeVar("_T")
_ENDED = ("Succeeded", "Failed")


def policy_record(raw: Mapping[str, Any], allowances: Sidecar) -> PolicyRecord:
    """`raw`: the object as parsed from JSON. What Kubernetes itself keeps in it (status, managedFields) is not judged:
    users did not write it."""
    metadata, spec = _mapping(raw.get("metadata")), raw.get("spec")
    key = key_of(metadata)
    policy, problems, warnings = _judged(key, spec)
    if policy is not None:
        problems = (*_refusals(policy, allowances), *_too_large(policy))
    fields = _mapping(spec)
    priority = fields.get("priority", 0)
    return PolicyRecord(
        key=key,
        uid=_text(metadata.get("uid")),
        generation=_whole(metadata.get("generation")),
        created=_text(metadata.get("creationTimestamp")),
        selector=_selector(fields.get("selector")),
        priority=_whole(priority),
        policy=policy,
        problems=problems,
        warnings=warnings,
        status=_mapping(raw.get("status")),
    )


def pod_record(raw: Mapping[str, Any]) -> PodRecord:
    metadata, spec, status = (_mapping(raw.get(part)) for part in ("metadata", "spec", "status"))
    annotations, labels = _texts(metadata.get("annotations")), _texts(metadata.get("labels"))
    sidecar = _named(spec.get("initContainers"), CONTAINER)
    running = _named(status.get("initContainerStatuses"), CONTAINER)
    return PodRecord(
        key=key_of(metadata),
        uid=_text(metadata.get("uid")),
        policy=labels.get(POLICY, ""),
        labels=labels,
        poke=annotations.get(CONFIG_HASH, ""),
        stamp=stamp_of(annotations.get(STATUS, "")),
        ip=_text(status.get("podIP")),
        started=running.get("started") is True,
        terminating=_terminating(metadata) or status.get("phase") in _ENDED,
        sysctl=_first_unprivileged(spec),
        transparent=bool(_named(spec.get("initContainers"), INIT_CONTAINER)),
        secrets=tuple(sorted(set(_secrets(spec)))),
        image=_text(sidecar.get("image")),
    )


def candidate(raw: Mapping[str, Any]) -> Candidate:
    """From a PartialObjectMetadata, or from any object."""
    metadata = _mapping(raw.get("metadata"))
    labels = _texts(metadata.get("labels"))
    return Candidate(
        key=key_of(metadata),
        uid=_text(metadata.get("uid")),
        labels=labels,
        policy=labels.get(POLICY, ""),
        terminating=_terminating(metadata),
        created=seconds(_text(metadata.get("creationTimestamp"))),
        owner=owner_of(metadata),
    )


def config_map_record(raw: Mapping[str, Any], allowances: Sidecar) -> ConfigMapRecord:
    """An injection that asks for more than the chart allows, or is another policy's, counts as broken: whoever may edit
    ConfigMaps could have written it."""
    metadata, data = _mapping(raw.get("metadata")), _texts(raw.get("data"))
    policy_json = data.get(POLICY_JSON)
    injection = injection_of(data.get(INJECTION_JSON, ""))
    if injection is not None and not _believable(injection, key_of(metadata).name, allowances):
        injection = None
    return ConfigMapRecord(
        ours=_texts(metadata.get("labels")).get(MANAGED_BY) == POSTERN,
        policy_uid=_texts(metadata.get("annotations")).get(POLICY_UID, ""),
        policy_json=None if policy_json is None else policy_json.encode(errors="replace"),
        injection=injection,
    )


def injection_of(text: str) -> Injection | None:
    """`injection.json`; None where it is missing or broken."""
    return _decoded(text, Injection)


def stamp_of(text: str) -> Stamp | None:
    """The annotation `postern.dev/status`; None where it is missing or broken."""
    return _decoded(text, Stamp)


def key_of(metadata: Mapping[str, Any]) -> Key:
    return Key(_text(metadata.get("namespace")), _text(metadata.get("name")))


def owner_of(metadata: Mapping[str, Any]) -> Owner | None:
    """The owner that is the controller; Kubernetes allows one."""
    for owner in _mappings(metadata.get("ownerReferences")):
        if owner.get("controller") is True:
            return Owner(*(_text(owner.get(field)) for field in ("apiVersion", "kind", "name", "uid")))
    return None


def seconds(timestamp: str) -> float:
    """RFC 3339 to seconds since the epoch; 0 where it is none."""
    try:
        moment = datetime.fromisoformat(timestamp)
        return moment.timestamp() if moment.tzinfo else 0.0
    except (ValueError, OverflowError):
        return 0.0


def image_allowed(image: str, prefixes: tuple[str, ...]) -> bool:
    """A prefix ends at a path, a tag or a digest: `registry/x` allows neither `registry/xevil` nor, as `registry`,
    another port's registry `registry:5000/x`."""
    return any(_under(image, prefix) for prefix in prefixes if prefix)


def injection_refusals(injection: Injection, allowances: Sidecar) -> Iterator[Problem]:
    """What the chart does not allow."""
    if injection.image and not image_allowed(injection.image, allowances.allowed_images):
        remedy = "let the cluster's administrator add its prefix to the chart's value sidecar.allowedImages"
        allowed = ", ".join(map(shown, allowances.allowed_images[:5])) or "none"
        yield error("spec.sidecar.image", f"{shown(injection.image)} is not allowed (allowed: {allowed})", remedy)
    if injection.transparent and not allowances.allow_transparent:
        remedy = "take ProxyV2, or let the cluster's administrator set the chart's value sidecar.allowTransparent"
        yield error("spec.inbound", "the hand-over Transparent is not allowed in this cluster", remedy)


def _judged(key: Key, spec: object) -> tuple[Policy | None, tuple[Problem, ...], tuple[Problem, ...]]:
    """The policy, its errors and its warnings."""
    place = {"name": key.name, "namespace": key.namespace} if key.namespace else {"name": key.name}
    manifest = {"apiVersion": API_VERSION, "kind": KIND, "metadata": place, "spec": spec}
    try:
        data = _json(manifest)
    except (TypeError, ValueError, RecursionError):
        return None, (error("", "is no JSON object", "write a MailProxyPolicy"),), ()
    if len(data) > CONFIG_MAP_SIZE:
        return None, (_oversize(len(data)),), ()
    try:
        loaded = load(data)
    except InvalidPolicy as refused:
        found = _without_place(refused.problems)
        errors = tuple(problem for problem in found if not problem.warning)
        return None, errors, tuple(problem for problem in found if problem.warning)
    return loaded.policy, (), _without_place(loaded.warnings)


def _json(manifest: object) -> bytes:
    text = json.dumps(manifest, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which the policy's reader names
        return json.dumps(manifest, separators=(",", ":")).encode()


def _without_place(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """There is no file, and all of it is on one line."""
    return tuple(replace(problem, file="", line=0) for problem in problems)


def _refusals(policy: Policy, allowances: Sidecar) -> Iterator[Problem]:
    sidecar = policy.spec.sidecar
    transparent = any(inbound.backend.handover is HandoverKind.TRANSPARENT for inbound in policy.spec.inbound)
    asked = Injection(policy="", uid="", hash="", transparent=transparent, image=sidecar.image)
    yield from injection_refusals(asked, allowances)
    if allowances.admin_port != ADMIN_PORT:  # that one every sidecar keeps free
        yield from _on_the_admin_port(policy, allowances.admin_port)


def _on_the_admin_port(policy: Policy, admin_port: int) -> Iterator[Problem]:
    outbound = policy.spec.outbound
    taken = {f"spec.inbound[{index}].port": inbound.port for index, inbound in enumerate(policy.spec.inbound)}
    if outbound is not None:
        taken["spec.outbound.submission.port"] = outbound.submission.port
        taken["spec.outbound.submission.lmtpPort"] = outbound.submission.lmtp_port
    for path, port in taken.items():
        if port == admin_port:
            remedy = "take another port, or let the cluster's administrator change the chart's value sidecar.adminPort"
            yield error(path, f"{port} is the sidecar's admin port in this cluster", remedy)


def _too_large(policy: Policy) -> Iterator[Problem]:
    size = len(normalized(policy))
    if size > POLICY_SIZE:
        yield _oversize(size)


def _oversize(size: int) -> Problem:
    remedy = "shorten its lists of patterns and networks, or split it into several policies"
    return error("spec", f"has {size} octets, and a ConfigMap has room for {POLICY_SIZE}", remedy)


def _believable(injection: Injection, name: str, allowances: Sidecar) -> bool:
    names = {listener.name for listener in injection.listeners}
    return (
        config_map_name(injection.policy) == name
        and len(names) == len(injection.listeners)
        and not any(injection_refusals(injection, allowances))
        and not any(resources(injection.resources))
    )


def _selector(value: object) -> LabelSelector | None:
    try:
        selector = msgspec.convert(value, LabelSelector)
    except (msgspec.ValidationError, RecursionError):
        return None
    return None if any(selector_problems(selector)) else selector


def _under(image: str, prefix: str) -> bool:
    rest = image.removeprefix(prefix)
    if rest == image:
        return False
    if not rest or prefix.endswith("/") or rest.startswith("/"):
        return True
    return rest[0] in ":@" and "/" not in rest


def _first_unprivileged(spec: Mapping[str, Any]) -> int:
    for sysctl in _mappings(_mapping(spec.get("securityContext")).get("sysctls")):
        value = _text(sysctl.get("value"))
        if sysctl.get("name") == UNPRIVILEGED_PORTS and re.fullmatch(r"[0-9]{1,5}", value, re.ASCII):
            return int(value)
    return FIRST_UNPRIVILEGED


def _secrets(spec: Mapping[str, Any]) -> Iterator[str]:
    """Those that our volumes of credentials carry, each on its own or projected into one."""
    for volume in _mappings(spec.get("volumes")):
        if not _text(volume.get("name")).startswith(VOLUME_CREDENTIALS):
            continue
        yield from filter(None, [_text(_mapping(volume.get("secret")).get("secretName"))])
        for source in _mappings(_mapping(volume.get("projected")).get("sources")):
            yield from filter(None, [_text(_mapping(source.get("secret")).get("name"))])


def _terminating(metadata: Mapping[str, Any]) -> bool:
    return bool(metadata.get("deletionTimestamp"))


def _named(items: object, name: str) -> Mapping[str, Any]:
    """The first of that name, or nothing."""
    return next((item for item in _mappings(items) if item.get("name") == name), {})


def _mappings(value: object) -> Iterator[Mapping[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: object) -> dict[str, str]:
    return {key: text for key, text in _mapping(value).items() if isinstance(text, str)}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _decoded(text: str, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
