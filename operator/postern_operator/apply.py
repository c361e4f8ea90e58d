"""The operator's writes of ConfigMaps and statuses: server-side apply, and only what differs.

A ConfigMap without our label is never touched: it is created where there is none, and changed only in the version that
was read. A status is ours in the fields that we set; what others put beside them stays. Raises KubeError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import paths, render
from .model import API_VERSION, KIND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .kube import Kube, Object
    from .model import ConfigMapRecord, Key, PolicyRecord, Rendered


def differs(found: ConfigMapRecord | None, record: PolicyRecord, rendered: Rendered) -> bool:
    """Has the policy's ConfigMap to be written?"""
    if found is None:
        return True
    wanted = (record.uid, rendered.policy_json, rendered.injection)
    return (found.policy_uid, found.policy_json, found.injection) != wanted


async def config_map(kube: Kube, record: PolicyRecord, rendered: Rendered, version: str) -> Object:
    """`version`: of the one that was read, "" where there was none. Conflict: it is another now, or there is one."""
    body = render.config_map(record, rendered)
    if not version:
        return await kube.create(paths.config_maps(record.key.namespace), body)
    body["metadata"]["resourceVersion"] = version
    return await kube.apply(paths.delivered(record.key), body)


async def delete_config_map(kube: Kube, key: Key, uid: str, version: str) -> None:
    """Of the policy `key`. Conflict: it has changed since it was read."""
    preconditions = {"uid": uid, "resourceVersion": version}
    await kube.delete(paths.delivered(key), preconditions=preconditions)


async def status(kube: Kube, record: PolicyRecord, fields: Mapping[str, Any]) -> Object:
    """Conflict: the policy has been deleted and made again."""
    body: Object = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": record.key.name, "namespace": record.key.namespace, "uid": record.uid},
        "status": dict(fields),
    }
    return await kube.apply(f"{paths.policy(record.key)}/status", body)
