"""URL paths of the objects that the operator touches.

A name that came from outside stays one segment. One that would make the path another's ("", ".", "..": the collection,
or what is above it) raises ValueError.
"""

from __future__ import annotations

from urllib.parse import quote

from .model import Key, config_map_name


def policies(namespace: str = "") -> str:
    """All of them, or one namespace's."""
    return f"/apis/postern.dev/v1alpha1/{_in(namespace)}mailproxypolicies"


def policy(key: Key) -> str:
    return f"{policies(key.namespace)}/{_segment(key.name)}"


def pods(namespace: str = "") -> str:
    return f"/api/v1/{_in(namespace)}pods"


def pod(key: Key) -> str:
    return f"{pods(key.namespace)}/{_segment(key.name)}"


def config_maps(namespace: str = "") -> str:
    return f"/api/v1/{_in(namespace)}configmaps"


def config_map(key: Key) -> str:
    return f"{config_maps(key.namespace)}/{_segment(key.name)}"


def delivered(policy: Key) -> str:
    """The ConfigMap of the policy."""
    return config_map(Key(policy.namespace, config_map_name(policy.name)))


def namespaces() -> str:
    return "/api/v1/namespaces"


def namespace(name: str) -> str:
    return f"{namespaces()}/{_segment(name)}"


def secret(key: Key) -> str:
    return f"/api/v1/namespaces/{_segment(key.namespace)}/secrets/{_segment(key.name)}"


def secrets(namespace: str) -> str:
    return f"/api/v1/namespaces/{_segment(namespace)}/secrets"


def leases(namespace: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{_segment(namespace)}/leases"


def lease(key: Key) -> str:
    return f"{leases(key.namespace)}/{_segment(key.name)}"


def events(namespace: str) -> str:
    return f"/apis/events.k8s.io/v1/namespaces/{_segment(namespace)}/events"


def webhook_configuration(name: str) -> str:
    return f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{_segment(name)}"


def _in(namespace: str) -> str:
    return f"namespaces/{_segment(namespace)}/" if namespace else ""


def _segment(name: str) -> str:
    if name in ("", ".", ".."):
        raise ValueError(f"{name!r} is no object's name")
    return quote(name, safe="")
