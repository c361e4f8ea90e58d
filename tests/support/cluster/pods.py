"""Pods without a node: manifests, and the status that a kubelet would have written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .admin import Admin, Object

IMAGE = "registry.invalid/mail:1"
NODE = "node1"  # there is none: a pod's status names it, and deleting such a pod takes grace 0


def pod(
    name: str,
    namespace: str,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    **spec: Any,
) -> Object:
    """A manifest. `spec`: fields of the pod's spec, as the API writes them (`hostNetwork=True`); one container `app`
    where they name none. A name that ends in "-" is a generateName."""
    metadata: Object = {"namespace": namespace}
    metadata["generateName" if name.endswith("-") else "name"] = name
    if labels:
        metadata["labels"] = dict(labels)
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [{"name": "app", "image": IMAGE}], **spec},
    }


def create_pod(admin: Admin, manifest: Object, *, dry_run: bool = False) -> Object:
    return admin.create(f"/api/v1/namespaces/{manifest['metadata']['namespace']}/pods", manifest, dry_run=dry_run)


def run_pod(admin: Admin, namespace: str, name: str, *, ip: str = "127.0.0.1", ready: bool = True) -> Object:
    """Gives an existing pod the status of one that runs: phase, address, and each container started, native sidecars
    (initContainers that restart always) too; other init containers have ended. `ready` False: started, not ready."""
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    spec = admin.get(path)["spec"]
    init = [
        _running(container, ready) if container.get("restartPolicy") == "Always" else _ended(container)
        for container in spec.get("initContainers", [])
    ]
    condition = {"lastTransitionTime": "2026-01-01T00:00:00Z", "lastProbeTime": None}
    return admin.status(
        path,
        {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "startTime": "2026-01-01T00:00:00Z",
            "conditions": [
                {"type": "Initialized", "status": "True", **condition},
                {"type": "Ready", "status": str(ready), **condition},
                {"type": "ContainersReady", "status": str(ready), **condition},
            ],
            "initContainerStatuses": init,
            "containerStatuses": [_running(container, ready) for container in spec["containers"]],
        },
    )


def _running(container: Object, ready: bool) -> Object:
    state = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    return {**_named(container), "started": True, "ready": ready, "state": state}


def _ended(container: Object) -> Object:
    state = {"terminated": {"exitCode": 0, "reason": "Completed"}}
    return {**_named(container), "started": False, "ready": True, "state": state}


def _named(container: Object) -> Object:
    image = container["image"]
    return {"name": container["name"], "image": image, "imageID": image, "restartCount": 0}
