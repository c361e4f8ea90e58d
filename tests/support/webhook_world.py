"""A webhook of the operator's beside a real API server, in the process of the test.

    async with replica(control_plane, namespace) as one:
        configure(control_plane.admin, name, one.port, [namespace])

The API server finds it by `clientConfig.url` on 127.0.0.1; the caBundle comes from the operator's own code.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.admin import ApiError
from cluster.waiting import eventually
from postern_operator import certs, kube, records
from postern_operator.admission import Admission, Server
from postern_operator.cache import Cache
from postern_operator.events import Events
from postern_operator.metrics import Metrics
from postern_operator.settings import FailurePolicy, Settings, Sidecar, Webhook

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from cluster.admin import Admin
    from cluster.control import ControlPlane
    from postern_operator.review import Facts
    from postern_operator.rotation import Lifetimes

Object = dict[str, Any]
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
WEBHOOK = "inject.postern.dev"


@dataclass
class Outcomes:
    """What the metrics heard, before the operator's own hear it."""

    metrics: Metrics
    heard: list[str] = field(default_factory=list)

    def admission(self, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.heard.append(outcome)
        self.metrics.admission(outcome, seconds)


@dataclass
class Replica:
    client: kube.Client
    settings: Settings
    cache: Cache
    context: ssl.SSLContext
    certificates: certs.Certificates
    admission: Admission
    server: Server
    outcomes: Outcomes
    facts: list[Facts]  # of every skip
    events: Events
    metrics: Metrics

    def policy(self, raw: Object) -> None:
        """As the watch would tell the cache."""
        record = records.policy_record(raw, self.settings.sidecar)
        self.cache.put_policy(record, raw["metadata"].get("resourceVersion", "1"))


@contextlib.asynccontextmanager
async def replica(
    control_plane: ControlPlane,
    namespace: str,
    *,
    configuration: str = "",
    leads: Callable[[], bool] = lambda: True,
    lifetimes: Lifetimes | None = None,
    failure_policy: FailurePolicy = FailurePolicy.IGNORE,
) -> AsyncIterator[Replica]:
    """`namespace` is the release's; `configuration`: the webhook configuration's name, the namespace's by default."""
    webhook = Webhook(configuration=configuration or namespace, host="127.0.0.1", failure_policy=failure_policy)
    settings = Settings(namespace=namespace, webhook=webhook, sidecar=Sidecar(image="registry.test/postern-sidecar:1"))
    async with kube.connected(str(control_plane.kubeconfig)) as client:
        context, cache, metrics, facts = certs.server_context(), Cache(), Metrics("1.0.0"), list[Any]()
        outcomes = Outcomes(metrics)
        events = Events(client, enabled=cache.namespace_enabled, policies=cache.policies_of, instance="operator-0")

        def notice(skipped: Facts) -> None:
            facts.append(skipped)
            events.skipped(skipped)

        certificates = certs.Certificates(client, settings, context, may_write=leads, lifetimes=lifetimes, poll=0.1)
        admission = Admission(client, cache, settings, "1.0.0", notice=notice, observer=outcomes, lookup=2.5)
        server = Server(admission, context, address="127.0.0.1")
        await server.start()
        running = [asyncio.create_task(certificates.run()), asyncio.create_task(events.run())]
        try:
            yield Replica(
                client, settings, cache, context, certificates, admission, server, outcomes, facts, events, metrics
            )
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await server.close()


def alone(client: kube.Client) -> Admission:
    """The webhook's function with one policy in the cache."""
    cache, settings = Cache(), Settings()
    cache.put_policy(records.policy_record(policy("mail"), settings.sidecar), "1")
    return Admission(client, cache, settings, "1.0.0")


def deaf(folder: Path) -> Path:
    """A kubeconfig of an API server that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = f"http://127.0.0.1:{taken.getsockname()[1]}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "none", "cluster": {"server": server}}],
        "users": [{"name": "none", "user": {"token": "none"}}],
        "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
        "current-context": "none",
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


async def until(condition: Callable[[], object], timeout: float = 30.0) -> None:
    """A condition of this process or of the cluster, which no watch tells; it may block."""
    await asyncio.to_thread(eventually, condition, timeout)


def webhook(port: int, namespaces: Sequence[str], *, name: str = WEBHOOK, failure_policy: str = "Fail") -> Object:
    """Fail: what goes wrong shows as a pod that is refused."""
    expression = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [*namespaces]}
    return {
        "name": name,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "NoneOnDryRun",
        "reinvocationPolicy": "IfNeeded",
        "failurePolicy": failure_policy,
        "timeoutSeconds": 5,
        "clientConfig": {"url": f"https://127.0.0.1:{port}/inject"},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
        "namespaceSelector": {"matchExpressions": [expression]},
    }


@contextlib.contextmanager
def configured(admin: Admin, name: str, *webhooks: Object) -> Iterator[str]:
    """A webhook configuration; its path."""
    body = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [*webhooks],
    }
    admin.create(CONFIGURATIONS, body)
    try:
        yield f"{CONFIGURATIONS}/{name}"
    finally:
        with contextlib.suppress(ApiError):
            admin.delete(f"{CONFIGURATIONS}/{name}")


def policy(namespace: str, name: str = "edge", *, app: str = "mail", port: int = 25, **spec: object) -> Object:
    listener = {"name": "smtp", "port": port, "backend": {"port": 2525, "handover": "ProxyV2"}}
    return {
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "MailProxyPolicy",
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": app}}, "inbound": [listener], **spec},
    }


def pod(name: str = "", *, app: str = "mail", **spec: object) -> Object:
    metadata = {"name": name} if name else {"generateName": "mail-"}
    containers = [{"name": "mail", "image": "registry.test/mail:1"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata, "labels": {"app": app}},
        "spec": {"containers": containers, **spec},
    }


def pods(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


def first_container(made: Object) -> str:
    """The first init container's name, "" without one."""
    containers: list[Object] = made["spec"].get("initContainers") or [{}]
    return str(containers[0].get("name", ""))
