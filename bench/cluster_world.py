"""What is in the cluster: namespaces, policies, and pods that were injected before the operator's start and run.

The pods are made by the operator's own `render` and `inject`, with the settings that the chart renders, so that they
are as large as real ones. None has a node; all pods of a policy share an address, at which the stand-in for the
sidecars answers.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec

from cluster.pods import pod
from postern_operator import inject, records, render, settings
from postern_sidecar.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Self

    from cluster.control import ControlPlane
    from cluster.release import Release
    from postern_operator.model import Rendered

Object = dict[str, Any]
GROUP = "/apis/postern.dev/v1alpha1"
KIND = {"apiVersion": "postern.dev/v1alpha1", "kind": "MailProxyPolicy"}
AT_ONCE = 32
SMALL = 2  # pods of a policy that is changed often
STARTED = {
    "started": True,
    "ready": True,
    "restartCount": 0,
    "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
}
MERGE = "application/merge-patch+json"


@dataclass(frozen=True)
class Policy:
    number: int
    namespace: str
    name: str
    pods: int

    @property
    def path(self) -> str:
        return f"{GROUP}/namespaces/{self.namespace}/mailproxypolicies/{self.name}"

    @property
    def labels(self) -> Mapping[str, str]:
        return {"app.kubernetes.io/name": "mail", "mail": self.name}

    @property
    def ip(self) -> str:
        """Of all its pods: loopback, and no other's."""
        return f"127.77.{self.number // 200}.{self.number % 200 + 1}"

    @property
    def pod_paths(self) -> list[str]:
        return [f"/api/v1/namespaces/{self.namespace}/pods/{self.name}-{number}" for number in range(self.pods)]


def spread(namespaces: int, policies: int, pods: int, large: int) -> list[Policy]:
    """The first policy has `large` pods, the second half SMALL each, the others share the rest."""
    small = policies // 2
    middle = policies - small - 1
    rest = pods - large - SMALL * small
    sizes = [large, *(rest // middle + (number < rest % middle) for number in range(middle)), *[SMALL] * small]
    return [
        Policy(number, f"mail-{number % namespaces}", f"policy-{number}", size) for number, size in enumerate(sizes)
    ]


def manifest(policy: Policy) -> Object:
    """Two listeners and outbound, as a site has them."""
    return {
        **KIND,
        "metadata": {"name": policy.name, "namespace": policy.namespace},
        "spec": {
            "hostname": f"mx{policy.number}.example.com",
            "selector": {"matchLabels": {"mail": policy.name}},
            "inbound": [
                {
                    "name": "smtp",
                    "port": 25,
                    "backend": {"port": 2525, "handover": "ProxyV2"},
                    "proxyProtocol": {"requiredFrom": ["10.0.0.0/8", "192.0.2.0/24"]},
                    "limits": {"connections": 1000},
                    "rules": [
                        {"name": "lists", "when": "sender_host_name == ''", "action": "Log", "message": "no name"}
                    ],
                },
                {
                    "name": "imaps",
                    "port": 993,
                    "protocol": "IMAP",
                    "tlsOnConnect": True,
                    "backend": {"port": 9930, "handover": "ProxyV2"},
                    "proxyProtocol": {"requiredFrom": ["10.0.0.0/8"]},
                },
            ],
            "outbound": {"dane": {"require": ["bank.example", "*.partner.example"]}},
        },
    }


def mail_pod(policy: Policy, name: str) -> Object:
    """Not injected yet."""
    container = {
        "name": "mail",
        "image": "registry.invalid/mail/postfix:3.10.4",
        "args": ["postfix", "start-fg"],
        "env": [{"name": f"MAIL_{number}", "value": f"value-{number}"} for number in range(8)],
        "ports": [{"name": "smtp", "containerPort": 2525}, {"name": "imap", "containerPort": 9930}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        "readinessProbe": {"tcpSocket": {"port": 2525}},
        "volumeMounts": [{"name": "spool", "mountPath": "/var/spool/postfix"}],
    }
    return pod(
        name,
        policy.namespace,
        labels={**policy.labels, "pod-template-hash": "7c5ddbdf54"},
        annotations={"prometheus.io/scrape": "true", "prometheus.io/port": "15925"},
        containers=[container],
        volumes=[{"name": "spool", "emptyDir": {}}],
    )


class Api:
    """A plain client: aiohttp, bytes out, bytes in, `AT_ONCE` requests at a time."""

    def __init__(self, control_plane: ControlPlane, token: str = "") -> None:
        self.url = control_plane.url
        self._context = ssl.create_default_context(cafile=str(control_plane.ca))
        config = json.loads(control_plane.kubeconfig.read_text())
        self._token = token or config["users"][0]["user"]["token"]

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._context),
            headers={"Authorization": f"Bearer {self._token}", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, method: str, path: str, body: object = None, kind: str = "application/json") -> bytes:
        """AssertionError where the API server refuses."""
        headers = {"Content-Type": kind}
        data = None if body is None else msgspec.json.encode(body)
        async with self._session.request(method, self.url + path, data=data, headers=headers) as response:
            answer = await response.read()
        if response.status >= 300:
            raise AssertionError(f"{method} {path}: {response.status}: {answer[:500].decode(errors='replace')}")
        return answer


async def all_of(work: Iterable[Callable[[], Awaitable[object]]], at_once: int = AT_ONCE) -> None:
    """So many at a time."""
    waiting = iter(work)

    async def worker() -> None:
        for each in waiting:
            await each()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker())
    except* AssertionError as failures:
        raise AssertionError(str(failures.exceptions[0])) from None


class World:
    """`rendered` is by policy: what the operator will deliver first."""

    def __init__(self, control_plane: ControlPlane, release: Release, policies: Sequence[Policy]) -> None:
        self.control_plane, self.policies = control_plane, policies
        self.namespaces = sorted({policy.namespace for policy in policies})
        self.settings = _settings(release)
        self.rendered: dict[str, Rendered] = {}

    def build(self) -> None:
        """The namespaces are enabled last: until then no webhook is called."""
        asyncio.run(self._build())
        for name in self.namespaces:
            self._namespace(name, enabled=True)

    def _namespace(self, name: str, *, enabled: bool) -> None:
        labels = {"postern.dev/inject": "enabled"} if enabled else {}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        self.control_plane.admin.apply(f"/api/v1/namespaces/{name}", body)

    def add_namespace(self, name: str, *, enabled: bool) -> None:
        self._namespace(name, enabled=enabled)
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        self.control_plane.admin.create(f"/api/v1/namespaces/{name}/serviceaccounts", account)

    async def _build(self) -> None:
        for name in self.namespaces:
            self.add_namespace(name, enabled=False)
        async with Api(self.control_plane) as api:
            await all_of(self._policies(api))
            await all_of(self._pods(api))

    def _policies(self, api: Api) -> Iterator[Callable[[], Awaitable[object]]]:
        async def create(policy: Policy) -> None:
            raw = json.loads(await api.ask("POST", policy.path.rpartition("/")[0], manifest(policy)))
            rendered = render.render(records.policy_record(raw, self.settings.sidecar))
            assert rendered is not None, "the bench's own policy is refused"
            self.rendered[policy.name] = rendered

        return (lambda policy=policy: create(policy) for policy in self.policies)  # type: ignore[misc]

    def _pods(self, api: Api) -> Iterator[Callable[[], Awaitable[object]]]:
        async def create(policy: Policy, body: Object, path: str) -> None:
            body["metadata"]["name"] = path.rpartition("/")[2]
            await api.ask("POST", path.rpartition("/")[0], body)
            await api.ask("PATCH", f"{path}/status", {"status": _running(body, policy.ip)}, MERGE)

        for policy in self.policies:
            injection = self.rendered[policy.name].injection
            injected = inject.inject(mail_pod(policy, "name"), injection, self.settings, VERSION).pod
            for path in policy.pod_paths:
                body = {**injected, "metadata": dict(injected["metadata"])}
                yield lambda policy=policy, body=body, path=path: create(policy, body, path)  # type: ignore[misc]


def _settings(release: Release) -> settings.Settings:
    for config_map in release.admin.list(f"/api/v1/namespaces/{release.namespace}/configmaps"):
        if text := config_map.get("data", {}).get("settings.yaml"):
            return settings.parsed(text.encode(), "settings.yaml")
    raise AssertionError("the release has no ConfigMap with settings.yaml")


def _running(body: Object, ip: str) -> Object:
    spec = body["spec"]
    condition = {"lastTransitionTime": "2026-01-01T00:00:00Z", "lastProbeTime": None, "status": "True"}
    return {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "startTime": "2026-01-01T00:00:00Z",
        "conditions": [{"type": kind, **condition} for kind in ("Initialized", "Ready", "ContainersReady")],
        "initContainerStatuses": [_status(container) for container in spec["initContainers"]],
        "containerStatuses": [_status(container) for container in spec["containers"]],
    }


def _status(container: Object) -> Object:
    return {"name": container["name"], "image": container["image"], "imageID": container["image"], **STARTED}
