"""A pod and an Injection to the injected pod, or why not.

Decides everything that stands in an injected pod: the native sidecar (first, and again first after other webhooks), the
init container of Transparent, volumes, the sysctl for low ports, label and annotations. Idempotent: what was injected
comes out as it went in, with what others put into it since. It refuses to know policies (`select`, `render`), the
cluster and the review that a pod came in. The API server's text is trusted in its types: it has decoded the pod before.
A container or volume is ours where the pod's stamp names it; a forged stamp only has us overwrite more.

Sources: Kubernetes' "Sidecar Containers" and "Pod Security Standards" pages; contracts, section 6. Raises Skipped.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from .model import (
    CONFIG_HASH,
    CONTAINER,
    INIT_CONTAINER,
    INJECT,
    POLICY,
    STATUS,
    UNPRIVILEGED_PORTS,
    VOLUME_CONFIG,
    VOLUME_CREDENTIALS,
    VOLUME_EMPTY,
    VOLUME_RUN,
    Injection,
    Stamp,
    config_map_name,
)
from .reasons import Skip
from .records import stamp_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .settings import Settings

JSON = dict[str, Any]

CONFIG_DIRECTORY = "/etc/postern"
STATE_DIRECTORY = "/run/postern"
CREDENTIALS_DIRECTORY = "/etc/postern/credentials"
"""Inside a read-only mount: the kubelet makes the mount point in the volume before (its MakeNestedMountpoints)."""
TOKEN_DIRECTORY = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - where one would be
ADMIN_PORT_NAME = "postern-admin"
STATE_SIZE = "64Mi"
"""Of the last accepted policy and Unbound's files: some hundred KiB. A pod beyond it is evicted, so with room."""

_CONTAINERS = (INIT_CONTAINER, CONTAINER)
_VOLUMES = (VOLUME_CONFIG, VOLUME_RUN, VOLUME_CREDENTIALS, VOLUME_EMPTY)
_FOREIGN = (
    "envFrom",
    "imagePullPolicy",
    "resources",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "volumeDevices",
)
"""What others set in our containers, and may: the API server's defaults, AlwaysPullImages, a vertical autoscaler."""
_FOREIGN_SECURITY = ("runAsUser", "runAsGroup", "seLinuxOptions", "appArmorProfile", "procMount")
"""Likewise in their securityContext, where we leave it open: OpenShift."""


@dataclass(frozen=True, slots=True)
class Injected:
    """`warnings` are for who creates the pod."""

    pod: JSON
    warnings: tuple[str, ...] = ()


class Skipped(Exception):  # noqa: N818 - a decision, not an error
    """This pod gets no sidecar. The text says what to do. `policy`: the one that selects it, where known."""

    def __init__(self, reason: Skip, message: str, policy: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.policy = policy


def inject(pod: JSON, injection: Injection, settings: Settings, version: str) -> Injected:
    """The injected pod: a new object, which shares what is unchanged with the old one. Raises Skipped."""
    exclude(pod)
    spec: JSON = pod["spec"]
    old = _stamp(pod)
    _name_conflict(spec, injection, old)
    _reserved_port(spec, injection, settings)
    template = _template(injection, settings, _grace(spec))
    stamp = Stamp(
        version=version,
        policy_uid=injection.uid,
        spec_hash=template_hash(injection, settings),
        init_containers=tuple(each["name"] for each in template.containers),
        volumes=tuple(each["name"] for each in template.volumes),
        sysctl=_adds_sysctl(spec, template.unprivileged, old),
        hooks=_hooked(spec, old) if injection.hold_mail_server else (),
    )
    metadata = _metadata(pod.get("metadata") or {}, injection, stamp)
    return Injected(
        {**pod, "metadata": metadata, "spec": _spec(spec, template, stamp, old, settings)},
        tuple(_warnings(spec, injection)),
    )


def exclude(pod: JSON) -> None:
    """What can be said without a policy. Raises Skipped."""
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    if (metadata.get("labels") or {}).get(INJECT) == "disabled":
        raise Skipped(Skip.OPTED_OUT, f"the pod has the label {INJECT}=disabled")
    if "kubernetes.io/config.mirror" in (metadata.get("annotations") or {}):
        raise Skipped(Skip.MIRROR_POD, "a static pod is its node's: it cannot be changed here")
    windows = (spec.get("os") or {}).get("name"), (spec.get("nodeSelector") or {}).get("kubernetes.io/os")
    if "windows" in windows:
        raise Skipped(Skip.WINDOWS_POD, "the sidecar runs on Linux only")
    if spec.get("hostNetwork"):
        raise Skipped(
            Skip.HOST_NETWORK, "with hostNetwork the submission ports would be open to the whole node; take it out"
        )


def template_hash(injection: Injection, settings: Settings) -> str:
    """SHA-256 of what would be injected now, whatever the pod: differs where a sidecar is older than its template."""
    template = _template(injection, settings, _DEFAULT_GRACE)
    whole = [template.containers, template.volumes, template.unprivileged, injection.hold_mail_server]
    return hashlib.sha256(msgspec.json.encode(whole, order="sorted")).hexdigest()


# -- what is injected --------------------------------------------------------------------------------------------------

_DEFAULT_GRACE = 20
_DEFAULT_TERMINATION = 30
_MARGIN = 10  # seconds of the pod's termination that are left for the end of the sidecar itself
_LONGEST_GRACE = 86400  # the command line's bound


@dataclass(frozen=True, slots=True)
class _Template:
    """`containers` in their order; `unprivileged`: the first port that must not need root, or None."""

    containers: tuple[JSON, ...]
    volumes: tuple[JSON, ...]
    unprivileged: int | None


def _template(injection: Injection, settings: Settings, grace: int) -> _Template:
    router = (_router(injection, settings),) if injection.transparent else ()
    containers = (*router, _sidecar(injection, settings, grace))
    low = min([settings.sidecar.admin_port, *(each.port for each in injection.listeners), *injection.submission_ports])
    return _Template(containers, tuple(_volumes(injection)), low if low < 1024 else None)


def _sidecar(injection: Injection, settings: Settings, grace: int) -> JSON:
    admin = settings.sidecar.admin_port
    arguments = ["run", "--config", f"{CONFIG_DIRECTORY}/policy.json", "--state-dir", STATE_DIRECTORY]
    arguments += ["--grace", str(grace), "--admin", f":{admin}"]
    mounts = [
        {"name": VOLUME_CONFIG, "mountPath": CONFIG_DIRECTORY, "readOnly": True},
        {"name": VOLUME_RUN, "mountPath": STATE_DIRECTORY},
        _no_token(),
    ]
    if injection.secrets:
        arguments += ["--credentials", CREDENTIALS_DIRECTORY]
        mounts.append({"name": VOLUME_CREDENTIALS, "mountPath": CREDENTIALS_DIRECTORY, "readOnly": True})
    return {
        "name": CONTAINER,
        **_image(injection, settings),
        "args": arguments,
        "restartPolicy": "Always",
        # The root file system is read-only, and `postern-sidecar check`, run by hand in here, wants a directory.
        "env": [{"name": "TMPDIR", "value": STATE_DIRECTORY}],
        "ports": [*_listener_ports(injection), _port(ADMIN_PORT_NAME, admin)],
        # The pod's other containers wait for the first: a second counts. A minute, for a node that is out of CPU.
        "startupProbe": _probe("/healthz", admin, period=1, timeout=1, failures=60),
        # Half a minute: a loop that has stopped does not come back, and a restart ends every session.
        "livenessProbe": _probe("/healthz", admin, period=10, timeout=5, failures=3),
        # The drain does not wait for it: a pod that is deleted leaves its Services at once.
        "readinessProbe": _probe("/readyz", admin, period=5, timeout=2, failures=2),
        "lifecycle": {"preStop": {"exec": {"command": ["postern-sidecar", "drain"]}}},
        "resources": injection.resources or settings.sidecar.resources,
        "securityContext": _root("NET_RAW") if injection.transparent else _restricted(settings),
        "volumeMounts": mounts,
    }


def _router(injection: Injection, settings: Settings) -> JSON:
    """Before the sidecar: the routing rules of Transparent."""
    return {
        "name": INIT_CONTAINER,
        **_image(injection, settings),
        "args": ["routes"],
        "resources": injection.resources or settings.sidecar.resources,
        "securityContext": _root("NET_ADMIN"),
        "volumeMounts": [_no_token()],
    }


def _image(injection: Injection, settings: Settings) -> JSON:
    image: JSON = {"image": injection.image or settings.sidecar.image}
    if settings.sidecar.image_pull_policy:
        image["imagePullPolicy"] = settings.sidecar.image_pull_policy
    return image


def _no_token() -> JSON:
    """The ServiceAccount plug-in adds the pod's API token only where nothing is mounted on its path."""
    return {"name": VOLUME_EMPTY, "mountPath": TOKEN_DIRECTORY, "readOnly": True}


def _listener_ports(injection: Injection) -> Iterable[JSON]:
    return (_port(f"pp-{each.name}", each.port) for each in injection.listeners)


def _port(name: str, number: int) -> JSON:
    """A DNS label may have two hyphens in a row, a port's name may not: such a listener's port has none."""
    port: JSON = {"containerPort": number, "protocol": "TCP"}
    return port if "--" in name else {"name": name, **port}


def _probe(path: str, port: int, *, period: int, timeout: int, failures: int) -> JSON:
    return {
        "httpGet": {"path": path, "port": port, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "successThreshold": 1,
        "failureThreshold": failures,
    }


def _restricted(settings: Settings) -> JSON:
    """What Pod Security `restricted` asks for."""
    user = settings.sidecar.run_as_user
    return {
        "runAsNonRoot": True,
        **({} if user is None else {"runAsUser": user}),
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _root(capability: str) -> JSON:
    """One capability needs uid 0: Kubernetes gives no ambient ones, and file capabilities die with
    allowPrivilegeEscalation."""
    return {
        "runAsNonRoot": False,
        "runAsUser": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": [capability]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _volumes(injection: Injection) -> Iterable[JSON]:
    # Not optional: a pod whose ConfigMap is not written yet waits for it.
    yield {"name": VOLUME_CONFIG, "configMap": {"name": config_map_name(injection.policy), "defaultMode": 0o644}}
    yield {"name": VOLUME_RUN, "emptyDir": {"sizeLimit": STATE_SIZE}}
    yield {"name": VOLUME_EMPTY, "emptyDir": {}}
    if injection.secrets:
        sources = [_credentials(name) for name in injection.secrets]
        yield {"name": VOLUME_CREDENTIALS, "projected": {"sources": sources, "defaultMode": 0o644}}


def _credentials(secret: str) -> JSON:
    """Optional: without it the mail over its route is deferred; a pod that does not start would take none at all."""
    items = [{"key": key, "path": f"{secret}/{key}"} for key in ("username", "password")]
    return {"secret": {"name": secret, "items": items, "optional": True}}


def _grace(spec: JSON) -> int:
    termination = spec.get("terminationGracePeriodSeconds")
    seconds = _DEFAULT_TERMINATION if termination is None else termination
    return int(min(max(seconds - _MARGIN, 1), _LONGEST_GRACE))


# -- why not -----------------------------------------------------------------------------------------------------------


_REMEDY = f"rename it, or label the pod {INJECT}=disabled"


def _name_conflict(spec: JSON, injection: Injection, old: Stamp | None) -> None:
    """Somebody else's things with our names. Raises Skipped."""
    mine = (set(old.init_containers), set(old.volumes)) if old else (set(), set())
    for what, present, names in (
        ("a container", _names(spec, "containers"), set(_CONTAINERS)),
        ("an init container", _names(spec, "initContainers"), set(_CONTAINERS) - mine[0]),
        ("a volume", _names(spec, "volumes"), set(_VOLUMES) - mine[1]),
    ):
        for name in present:
            if name in names:
                raise Skipped(Skip.NAME_CONFLICT, f"the pod has {what} {name} of its own; {_REMEDY}")
    reserved = {f"pp-{each.name}" for each in injection.listeners} | {ADMIN_PORT_NAME}
    for each in _others(spec):
        for port in each.get("ports") or ():
            if port.get("name") in reserved:
                raise Skipped(
                    Skip.NAME_CONFLICT,
                    f"container {each['name']} has a port named {port['name']}, and a Service would reach it instead "
                    f"of the sidecar; {_REMEDY}",
                )


def _names(spec: JSON, key: str) -> list[str]:
    return [each["name"] for each in spec.get(key) or ()]


def _reserved_port(spec: JSON, injection: Injection, settings: Settings) -> None:
    """Raises Skipped."""
    reserved = {settings.sidecar.admin_port: "admin port"}
    reserved.update(dict.fromkeys(injection.submission_ports, "submission port"))
    for container, port in _declared(spec):
        if port in reserved:
            raise Skipped(
                Skip.RESERVED_PORT,
                f"container {container} declares port {port}, the sidecar's {reserved[port]}; move one of them",
            )


def _warnings(spec: JSON, injection: Injection) -> Iterable[str]:
    names = {each.port: each.name for each in injection.listeners}
    for container, port in _declared(spec):
        if port in names:
            yield (
                f"container {container} declares port {port}, where the sidecar listens (inbound {names[port]}): the "
                "server belongs on the policy's backend port, on loopback"
            )


def _declared(spec: JSON) -> Iterable[tuple[str, int]]:
    """TCP ports of all containers but ours."""
    for container in _others(spec):
        for port in container.get("ports") or ():
            if port.get("protocol", "TCP") == "TCP":
                yield container["name"], port["containerPort"]


def _others(spec: JSON) -> Iterable[JSON]:
    yield from spec.get("containers") or ()
    yield from (each for each in spec.get("initContainers") or () if each["name"] not in _CONTAINERS)


def _adds_sysctl(spec: JSON, wanted: int | None, old: Stamp | None) -> bool:
    """Whether the pod needs one of us. Raises Skipped where it has one that does not do."""
    if wanted is None:
        return False
    found = _sysctl(spec)
    if found is None or (old is not None and old.sysctl):
        return True
    if re.fullmatch("[0-9]{1,5}", found) and int(found) <= wanted:
        return False
    raise Skipped(
        Skip.SYSCTL_CONFLICT,
        f"the pod sets {UNPRIVILEGED_PORTS}={found}, and the sidecar listens on {wanted} without root; set it to "
        f"{wanted} or lower, or leave it out",
    )


def _sysctl(spec: JSON) -> str | None:
    for each in (spec.get("securityContext") or {}).get("sysctls") or ():
        if each["name"] == UNPRIVILEGED_PORTS:
            return str(each["value"])
    return None


# -- putting it in -----------------------------------------------------------------------------------------------------


def _stamp(pod: JSON) -> Stamp | None:
    """What the pod says of an injection before this one; None where it says nothing, or nonsense."""
    return stamp_of(((pod.get("metadata") or {}).get("annotations") or {}).get(STATUS) or "")


def _metadata(metadata: JSON, injection: Injection, stamp: Stamp) -> JSON:
    annotations = dict(metadata.get("annotations") or {})
    if not re.fullmatch(re.escape(injection.hash) + r"\.[0-9]+", annotations.get(CONFIG_HASH, "")):
        annotations[CONFIG_HASH] = f"{injection.hash}.0"
    annotations[STATUS] = msgspec.json.encode(stamp).decode()
    return {
        **metadata,
        "labels": {**(metadata.get("labels") or {}), POLICY: injection.policy},
        "annotations": annotations,
    }


def _spec(spec: JSON, template: _Template, stamp: Stamp, old: Stamp | None, settings: Settings) -> JSON:
    same = stamp == old
    present = spec.get("initContainers") or []
    found = {each["name"]: each for each in present}
    ours = [_joined(each, found.get(each["name"], {}), same=same) for each in template.containers]
    new = {
        **spec,
        "initContainers": ours + [each for each in present if each["name"] not in _CONTAINERS],
        "containers": _with_hooks(spec["containers"], stamp, old, settings),
        "volumes": _placed(
            [
                each
                for each in spec.get("volumes") or ()
                if each["name"] not in _VOLUMES or each["name"] in stamp.volumes
            ],
            template.volumes,
            "name",
        ),
    }
    security = _with_sysctl(spec.get("securityContext") or {}, template.unprivileged, stamp, old)
    if security or "securityContext" in spec:
        new["securityContext"] = security
    secrets = [{"name": name} for name in settings.sidecar.image_pull_secrets]
    if secrets:
        new["imagePullSecrets"] = _placed(spec.get("imagePullSecrets") or [], secrets, "name")
    return new


def _joined(ours: JSON, found: JSON, *, same: bool) -> JSON:
    """Our container, with what others put into the one that is there. Where that one is of another template (not
    `same`), what it has besides may be ours of then: only lists are taken over, and of these what never was ours."""
    joined = dict(ours)
    if same:
        joined.update({key: found[key] for key in _FOREIGN if key in found})
        security = found.get("securityContext") or {}
        kept = {key: security[key] for key in _FOREIGN_SECURITY if key in security}
        joined["securityContext"] = {**ours["securityContext"], **kept, **ours["securityContext"]}
    for key, identity, once_ours in _LISTS:
        here = [each for each in found.get(key) or () if same or not once_ours(each)]
        mixed = _placed(here, ours.get(key, ()), identity)
        if mixed:
            joined[key] = mixed
    return joined


_LISTS: tuple[tuple[str, str, Callable[[JSON], bool]], ...] = (
    ("env", "name", lambda each: each["name"] == "TMPDIR"),
    ("ports", "containerPort", lambda each: str(each.get("name", "")).startswith(("pp-", ADMIN_PORT_NAME))),
    ("volumeMounts", "mountPath", lambda each: each["name"] in _VOLUMES),
)
"""Of a container: what tells two items apart, and what only we put there."""


def _placed(found: Sequence[JSON], ours: Iterable[JSON], identity: str) -> list[JSON]:
    """Ours where it already is, else at the end; what others have stays where it is."""
    wanted = {each[identity]: each for each in ours}
    placed = [wanted.pop(each.get(identity), each) for each in found]
    return [*placed, *wanted.values()]


def _with_sysctl(security: JSON, wanted: int | None, stamp: Stamp, old: Stamp | None) -> JSON:
    """The pod's securityContext."""
    present = security.get("sysctls") or []
    if stamp.sysctl:
        sysctls = _placed(present, [{"name": UNPRIVILEGED_PORTS, "value": str(wanted)}], "name")
    elif old is not None and old.sysctl and wanted is None:
        sysctls = [each for each in present if each["name"] != UNPRIVILEGED_PORTS]
    else:
        return security
    rest = {key: value for key, value in security.items() if key != "sysctls"}
    return {**rest, "sysctls": sysctls} if sysctls else rest


_DRAINED = "/drained"


def _hook(settings: Settings) -> JSON:
    """Answers when the last session of a drain has gone: the mail server lives on until then."""
    return {"httpGet": {"path": _DRAINED, "port": settings.sidecar.admin_port, "scheme": "HTTP"}}


def _hooked(spec: JSON, old: Stamp | None) -> tuple[str, ...]:
    """The containers that wait for the drain because we say so."""
    return tuple(each["name"] for each in spec["containers"] if not _pre_stop(each) or _is_our_hook(each, old))


def _pre_stop(container: JSON) -> JSON | None:
    hook: JSON | None = (container.get("lifecycle") or {}).get("preStop")
    return hook


def _is_our_hook(container: JSON, old: Stamp | None) -> bool:
    hook = _pre_stop(container) or {}
    return old is not None and container["name"] in old.hooks and (hook.get("httpGet") or {}).get("path") == _DRAINED


def _with_hooks(containers: Iterable[JSON], stamp: Stamp, old: Stamp | None, settings: Settings) -> list[JSON]:
    return [_with_hook(each, stamp, old, settings) for each in containers]


def _with_hook(container: JSON, stamp: Stamp, old: Stamp | None, settings: Settings) -> JSON:
    lifecycle = container.get("lifecycle") or {}
    if container["name"] in stamp.hooks:
        return {**container, "lifecycle": {**lifecycle, "preStop": _hook(settings)}}
    if not _is_our_hook(container, old):
        return container
    rest = {key: value for key, value in lifecycle.items() if key != "preStop"}
    without = {key: value for key, value in container.items() if key != "lifecycle"}
    return {**without, "lifecycle": rest} if rest else without
