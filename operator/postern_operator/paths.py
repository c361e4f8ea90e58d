"""URL paths of the objects that the operator touches. Raises nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .model import Key


def policies(namespace: str = "") -> str:
    """All of them, or one namespace's."""
    return f"/apis/postern.dev/v1alpha1/{_in(namespace)}mailproxypolicies"


def policy(key: Key) -> str:
    return f"{policies(key.namespace)}/{key.name}"


def pods(namespace: str = "") -> str:
    return f"/api/v1/{_in(namespace)}pods"


def pod(key: Key) -> str:
    return f"{pods(key.namespace)}/{key.name}"


def config_maps(namespace: str = "") -> str:
    return f"/api/v1/{_in(namespace)}configmaps"


def config_map(key: Key) -> str:
    return f"{config_maps(key.namespace)}/{key.name}"


def namespaces() -> str:
    return "/api/v1/namespaces"


def namespace(name: str) -> str:
    return f"{namespaces()}/{name}"


def secret(key: Key) -> str:
    return f"/api/v1/namespaces/{key.namespace}/secrets/{key.name}"


def secrets(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets"


def leases(namespace: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


def lease(key: Key) -> str:
    return f"{leases(key.namespace)}/{key.name}"


def events(namespace: str) -> str:
    return f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"


def webhook_configuration(name: str) -> str:
    return f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{name}"


def _in(namespace: str) -> str:
    return f"namespaces/{namespace}/" if namespace else ""
