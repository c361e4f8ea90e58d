"""Reads the cluster into Facts: with few requests, in pages, some at once, all bounded.

What may not be read, or is not there, is said so in the facts; only a cluster that does not answer at all ends it.
Nothing is written: pods are created in dry runs. Raises KubeError from `gather`, where the API server cannot be asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from postern_sidecar.version import VERSION

from .. import paths, records, select
from ..kube import Forbidden, KubeError, NotFound
from ..model import CONTAINER, INJECT, MANAGED_BY, POLICY, POSTERN, Key, config_map_name
from ..reasons import Programmed
from ..settings import CertificateMode, InvalidSettings, Settings, Sidecar, Webhook, parsed
from . import pods, probing
from .facts import (
    INSTANCE,
    RELEASE,
    Count,
    Facts,
    HeldLease,
    Open,
    Place,
    Release,
    Served,
    Survey,
    Trial,
    Unread,
    bundle_of,
    first_webhook,
    octets,
)
from .rights import Right, expected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from ..kube import Client, Object
    from ..model import Candidate, ConfigMapRecord, PolicyRecord

T = TypeVar("T")

AT_ONCE: Final = 8
MOST_OBJECTS: Final = 20_000
"""Of any other LIST. Kubernetes itself is good for 10,000 namespaces."""
MOST_PODS: Final = 20_000
"""Of one namespace."""
MOST_POLICIES: Final = 5_000
MOST_PLACES: Final = 500
"""Namespaces with policies."""
MOST_LOOKED_AT: Final = 400
"""Pods read one by one, over all policies."""
MOST_TRIALS: Final = 5
MOST_BACKENDS: Final = 40
LEASE_PATIENCE: Final = 4.0
"""Seconds: a holder renews every second."""
DEFAULT_NAMESPACE: Final = "postern-system"
_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class Order:
    """The command line. `connect`: try backends; None where that is sensible, in a pod of the cluster."""

    settings: Settings | None = None
    release: str = ""
    namespaces: tuple[str, ...] = ()
    connect: bool | None = None


async def gather(kube: Client, order: Order) -> Facts:
    """Raises KubeError."""
    return await _Gathering(kube, order).facts()


def in_pod() -> bool:
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


class _Gathering:
    def __init__(self, kube: Client, order: Order) -> None:
        self._kube, self._order = kube, order
        self._places = asyncio.Semaphore(AT_ONCE)
        self._left = MOST_LOOKED_AT

    async def facts(self) -> Facts:
        version = await self._kube.get("/version")
        facts = Facts(now=datetime.now(UTC), version=VERSION, server=str(version.get("gitVersion", "")))
        facts = await self._release(facts)
        facts = await self._installation(facts)
        facts = replace(facts, served=await self._served(facts))
        facts = await self._policies(facts)
        facts = replace(facts, trials=await self._trials(facts))
        connect = in_pod() if self._order.connect is None else self._order.connect
        return await self._backends(facts) if connect else facts

    # -- reading -------------------------------------------------------------------------------------------------------

    async def _read(self, asked: Awaitable[T]) -> T | Unread | None:
        """None: there is none."""
        async with self._places:
            try:
                return await asked
            except NotFound:
                return None
            except KubeError as problem:
                return Unread(str(problem), isinstance(problem, Forbidden))

    async def _get(self, path: str) -> Object | Unread | None:
        return await self._read(self._kube.get(path))

    async def _each(
        self, path: str, take: Callable[[list[Object]], None], *, selector: str = "", full: bool = False
    ) -> Unread | None:
        """Page by page, until `take` raises _Enough."""
        async with self._places:
            try:
                pages = self._kube.pages(path, selector=selector, metadata_only=not full)
                async with contextlib.aclosing(pages) as each_page:  # type: ignore[type-var]
                    async for page in each_page:
                        take(page)
            except _Enough:
                return None
            except NotFound:  # of a kind that is not installed there is none
                return None
            except KubeError as problem:
                return Unread(str(problem), isinstance(problem, Forbidden))
        return None

    async def _all(self, path: str, *, selector: str = "", full: bool = False) -> tuple[Object, ...] | Unread:
        found: list[Object] = []

        def take(page: list[Object]) -> None:
            found.extend(page)
            if len(found) > MOST_OBJECTS:
                raise _Enough

        unread = await self._each(path, take, selector=selector, full=full)
        if len(found) > MOST_OBJECTS:
            return Unread(f"{path}: more than {MOST_OBJECTS} objects")
        return unread or tuple(found)

    # -- the release ---------------------------------------------------------------------------------------------------

    async def _release(self, facts: Facts) -> Facts:
        namespace = self._order.release or (self._order.settings.namespace if self._order.settings else "")
        found = await self._deployments(namespace)
        if isinstance(found, Unread) and found.forbidden and not namespace:
            namespace = _own_namespace()
            found = await self._deployments(namespace)
        facts = replace(facts, deployments=found)
        if isinstance(found, Unread):
            return await self._without_deployments(facts, namespace)
        if len(found) != 1:
            return facts
        (deployment,) = found
        namespace = deployment["metadata"]["namespace"]
        settings, problem = await self._settings(deployment)
        return replace(facts, release=Release(namespace, deployment, settings, problem))

    async def _deployments(self, namespace: str) -> tuple[Object, ...] | Unread:
        place = f"namespaces/{namespace}/" if namespace else ""
        return await self._all(f"/apis/apps/v1/{place}deployments", selector=RELEASE, full=True)

    async def _without_deployments(self, facts: Facts, namespace: str) -> Facts:
        """By the operator's pods, with the names that the chart would give."""
        found = await self._all(paths.pods(namespace), selector=RELEASE)
        problem = facts.deployments if isinstance(facts.deployments, Unread) else ""
        if isinstance(found, Unread) or not found:
            settings = self._order.settings or replace_namespace(Settings(), namespace or DEFAULT_NAMESPACE)
            return replace(facts, release=Release(settings.namespace, None, settings, problem))
        metadata = found[0]["metadata"]
        settings = self._order.settings or named_by_chart(metadata["namespace"], metadata["labels"].get(INSTANCE, ""))
        return replace(facts, release=Release(metadata["namespace"], None, settings, problem))

    async def _settings(self, deployment: Object) -> tuple[Settings, Unread | str]:
        """And what is wrong with them."""
        metadata = deployment["metadata"]
        fallback = named_by_chart(metadata["namespace"], metadata.get("labels", {}).get(INSTANCE, ""))
        if self._order.settings is not None:
            return self._order.settings, ""
        name = settings_name(deployment)
        found = await self._get(paths.config_map(Key(metadata["namespace"], name)))
        if found is None:
            return fallback, f"ConfigMap {name} with the operator's settings does not exist"
        if isinstance(found, Unread):
            return fallback, found
        try:
            return parsed((found.get("data") or {}).get("settings.yaml", "").encode(), f"ConfigMap {name}"), ""
        except InvalidSettings as problem:
            return fallback, str(problem)

    # -- what the chart installed --------------------------------------------------------------------------------------

    async def _installation(self, facts: Facts) -> Facts:
        crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/mailproxypolicies.postern.dev"
        release, settings = facts.release, facts.settings
        definition = await self._get(crd)
        if release is None:
            return replace(facts, definition=definition)
        namespace, service = release.namespace, settings.webhook.service
        async with asyncio.TaskGroup() as group:
            operators = group.create_task(self._all(paths.pods(namespace), selector=_of_release(release), full=True))
            configuration = group.create_task(self._get(paths.webhook_configuration(settings.webhook.configuration)))
            found = group.create_task(self._get(f"/api/v1/namespaces/{namespace}/services/{service}"))
            endpoints = group.create_task(self._endpoints(namespace, service))
            secret = group.create_task(self._secret(settings))
            lease = group.create_task(self._lease(settings))
            rights = group.create_task(self._rights(settings))
        return replace(
            facts,
            definition=definition,
            pods=operators.result(),
            configuration=configuration.result(),
            service=found.result(),
            endpoints=endpoints.result(),
            secret=secret.result(),
            lease=lease.result(),
            rights=rights.result(),
        )

    async def _endpoints(self, namespace: str, service: str) -> int | Unread:
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        found = await self._all(path, selector=f"kubernetes.io/service-name={service}", full=True)
        return found if isinstance(found, Unread) else sum(_ready_endpoints(each) for each in found)

    async def _secret(self, settings: Settings) -> Mapping[str, bytes] | Unread | None:
        if settings.webhook.certificates is not CertificateMode.OPERATOR:
            return None
        found = await self._get(paths.secret(Key(settings.namespace, settings.webhook.secret)))
        if found is None or isinstance(found, Unread):
            return found
        return {key: octets(value) for key, value in (found.get("data") or {}).items()}

    async def _lease(self, settings: Settings) -> HeldLease | Unread | None:
        path = paths.lease(Key(settings.namespace, settings.lease))
        first = found = await self._get(path)
        until = asyncio.get_running_loop().time() + LEASE_PATIENCE
        while isinstance(found, dict) and not _fresh(found) and _spec(found) == _spec(first):
            if asyncio.get_running_loop().time() >= until:
                return HeldLease(str(_spec(found).get("holderIdentity") or ""), False)
            await asyncio.sleep(0.5)
            found = await self._get(path)
        if found is None or isinstance(found, Unread):
            return found
        return HeldLease(str(_spec(found).get("holderIdentity") or ""), True)

    async def _rights(self, settings: Settings) -> Mapping[Right, bool] | Unread:
        found: dict[Right, bool] = {}

        async def ask(right: Right) -> Unread | None:
            answer = await self._read(self._kube.create(_REVIEWS, _review(right, settings)))
            if isinstance(answer, dict):
                found[right] = bool((answer.get("status") or {}).get("allowed"))
            return answer if isinstance(answer, Unread) else None

        first, *others = expected(settings)
        unread = await ask(first)
        if unread is not None:
            return unread
        problems = await asyncio.gather(*map(ask, others))
        return next((each for each in problems if each is not None), found)

    async def _served(self, facts: Facts) -> Served | Unread | None:
        """None: it cannot be reached from here, or there is nothing to trust it by."""
        webhook = first_webhook(facts)
        client = (webhook or {}).get("clientConfig") or {}
        trusted = bundle_of(webhook or {})
        if not trusted:
            return None
        if client.get("url"):
            with contextlib.suppress(ValueError):
                url = urlsplit(client["url"])
                return await probing.served(url.hostname or "", url.port or 443, url.hostname or "", trusted)
            return None
        service = client.get("service") or {}
        address = (_spec(facts.service) if isinstance(facts.service, dict) else {}).get("clusterIP")
        if not in_pod() or not address or address == "None":
            return None
        name = f"{service.get('name')}.{service.get('namespace')}.svc"
        return await probing.served(address, int(service.get("port") or 443), name, trusted)

    # -- policies and their pods ---------------------------------------------------------------------------------------

    async def _policies(self, facts: Facts) -> Facts:
        listed = await self._all(paths.namespaces())
        if isinstance(listed, Unread):
            facts = replace(facts, namespaces=listed)
        else:
            facts = replace(facts, namespaces={each["metadata"]["name"]: _labels(each) for each in listed})
        found = await self._listed_policies(facts.settings)
        if isinstance(found, Unread):
            return replace(facts, policies=found)
        raw, cut = found
        judge = _judge(facts)
        judged = await asyncio.to_thread(lambda: tuple(map(judge, raw)))
        wanted = self._order.namespaces
        judged = tuple(each for each in judged if not wanted or each.key.namespace in wanted)
        by_place: dict[str, list[PolicyRecord]] = {}
        for record in judged:
            by_place.setdefault(record.key.namespace, []).append(record)
        names = sorted({*by_place, *wanted})
        cut = cut or len(names) > MOST_PLACES
        names = names[:MOST_PLACES]
        places = await asyncio.gather(*(self._place(name, by_place.get(name, []), facts) for name in names))
        return replace(facts, policies=judged, cut=cut, places=dict(zip(names, places, strict=True)))

    async def _listed_policies(self, settings: Settings) -> tuple[list[Object], bool] | Unread:
        """And whether there are more."""
        found: list[Object] = []

        def take(page: list[Object]) -> None:
            found.extend(page)
            if len(found) > MOST_POLICIES:
                raise _Enough

        for namespace in self._order.namespaces or settings.watch_namespaces or ("",):
            unread = await self._each(paths.policies(namespace), take, full=True)
            if unread is not None:
                return unread
        return found[:MOST_POLICIES], len(found) > MOST_POLICIES

    async def _place(self, namespace: str, policies: list[PolicyRecord], facts: Facts) -> Place:
        counting = pods.Counting(policies, facts.settings)

        def take(page: list[Object]) -> None:
            counting.add(page)
            if counting.seen >= MOST_PODS:
                raise _Enough

        unread = await self._each(paths.pods(namespace), take)
        maps = await self._config_maps(namespace, policies)
        surveys: dict[str, Survey] | Unread
        if unread is not None:
            surveys = unread
        else:
            surveys = {record.key.name: await self._survey(record, counting, facts) for record in policies}
        return Place(
            surveys,
            maps,
            frozenset(counting.used),
            counting.seen >= MOST_PODS,
            await self._network_policies(namespace, policies),
        )

    async def _survey(self, record: PolicyRecord, counting: pods.Counting, facts: Facts) -> Survey:
        count = counting.counts[record.key.name]
        looked = count.bare[: max(0, self._left)]
        self._left -= len(looked)
        delivered = await self._delivered(record, facts) if looked and record.problems else None
        injection = delivered.injection if delivered is not None and delivered.ours else None
        raw = await asyncio.gather(*(self._get(paths.pod(each.key)) for each in looked))
        bare = []
        for candidate, each in zip(looked, raw, strict=True):
            if isinstance(each, Unread):
                continue
            seen = pods.looked_at(each, record, injection, facts.settings, VERSION) if each else None
            if seen is not None:
                bare.append(seen)
            else:
                _uncount(count, candidate)
        return counting.survey(record.key.name, bare)

    async def _delivered(self, record: PolicyRecord, facts: Facts) -> ConfigMapRecord | None:
        key = Key(record.key.namespace, config_map_name(record.key.name))
        raw = await self._get(paths.config_map(key))
        return records.config_map_record(raw, facts.settings.sidecar) if isinstance(raw, dict) else None

    async def _config_maps(self, namespace: str, policies: Iterable[PolicyRecord]) -> Mapping[str, bool] | Unread:
        listed = await self._all(paths.config_maps(namespace), selector=f"{MANAGED_BY}={POSTERN}")
        if isinstance(listed, Unread):
            return listed
        prefix = config_map_name("")
        names = (each["metadata"]["name"] for each in listed)
        found = {name.removeprefix(prefix): True for name in names if name.startswith(prefix)}
        absent = [each.key.name for each in policies if each.key.name not in found][: pods.LOOKED_AT]
        for name in absent:
            others = await self._get(paths.config_map(Key(namespace, config_map_name(name))))
            if isinstance(others, dict):
                found[name] = False
        return found

    async def _network_policies(self, namespace: str, policies: Iterable[PolicyRecord]) -> tuple[str, ...]:
        """Those that may keep the operator from sidecars; asked where a status says that some do not answer."""
        if not any(_unreachable(each) for each in policies):
            return ()
        path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
        found = await self._all(path, full=True)
        if isinstance(found, Unread):
            return ()
        return tuple(each["metadata"]["name"] for each in found if "Ingress" in (_spec(each).get("policyTypes") or ()))

    # -- trying --------------------------------------------------------------------------------------------------------

    async def _trials(self, facts: Facts) -> tuple[Trial, ...]:
        chosen: dict[str, tuple[PolicyRecord, dict[str, str]]] = {}
        for record in facts.known_policies():
            namespace = record.key.namespace
            if namespace in chosen or record.problems or facts.labels(namespace).get(INJECT) != "enabled":
                continue
            labels = pods.labels_for(record.selector)
            if labels is not None:
                chosen[namespace] = record, labels
            if len(chosen) == MOST_TRIALS:
                break
        tried = [self._trial(record, labels, facts) for record, labels in chosen.values()]
        return tuple(each for each in await asyncio.gather(*tried) if each is not None)

    async def _trial(self, record: PolicyRecord, labels: dict[str, str], facts: Facts) -> Trial | None:
        namespace = record.key.namespace
        rivals = [each for each in facts.known_policies() if each.key.namespace == namespace]
        winner = select.winner(rivals, labels) or record
        if winner.problems:
            return None
        body = pods.trial_pod(labels, facts.settings.sidecar.image)
        try:
            async with self._places:
                pod, warnings = await self._kube.rehearse(paths.pods(namespace), body, timeout=40.0)
        except KubeError as problem:
            return Trial(namespace, winner.key.name, refusal=str(problem))
        containers = [each.get("name") for each in _spec(pod).get("initContainers") or ()]
        policy = _labels(pod).get(POLICY, "") if CONTAINER in containers else ""
        return Trial(namespace, winner.key.name, policy, warnings)

    async def _backends(self, facts: Facts) -> Facts:
        targets = await self._targets(facts)
        doors = asyncio.Semaphore(AT_ONCE)

        async def attempt(target: Open) -> Open | None:
            async with doors:
                return target if await probing.answers(target.address, target.port) else None

        found = await asyncio.gather(*map(attempt, targets))
        opened = tuple(each for each in found if each is not None)
        return replace(facts, connected=True, tried=len(targets), open=opened)

    async def _targets(self, facts: Facts) -> list[Open]:
        """Two pods of each policy, MOST_BACKENDS in all."""
        targets: list[Open] = []
        for record in facts.known_policies():
            ports = backend_ports(record, facts.settings)
            if not ports or len(targets) >= MOST_BACKENDS:
                continue
            path, selector = paths.pods(record.key.namespace), f"{POLICY}={record.key.name}"
            listed = await self._few(path, selector)
            running = [each for each in map(records.pod_record, listed) if each.ip and not each.terminating][:2]
            targets += [Open(pod.key, record.key.name, pod.ip, port) for pod in running for port in ports]
        return targets[:MOST_BACKENDS]

    async def _few(self, path: str, selector: str) -> list[Object]:
        found: list[Object] = []

        def take(page: list[Object]) -> None:
            found.extend(page)
            raise _Enough

        await self._each(path, take, selector=selector, full=True)
        return found


class _Enough(Exception):  # noqa: N818 - not an error
    """No further page is wanted."""


_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


def named_by_chart(namespace: str, instance: str) -> Settings:
    """The defaults for a release of that name: `postern.fullname` of the chart, without an override."""
    name = (instance if POSTERN in instance else f"{instance[:32].rstrip('-')}-{POSTERN}")[:40].rstrip("-")
    if not instance:
        name = POSTERN
    webhook = Webhook(configuration=name, service=f"{name}-webhook", secret=f"{name}-webhook-tls")
    operator = f"{name}-operator"
    return Settings(namespace=namespace, service_account=operator, lease=operator, webhook=webhook)


def replace_namespace(settings: Settings, namespace: str) -> Settings:
    return named_by_chart(namespace, "") if settings.namespace != namespace else settings


def settings_name(deployment: Mapping[str, Any]) -> str:
    """The ConfigMap that the template mounts."""
    spec = _spec(_spec(deployment).get("template") or {})
    for volume in spec.get("volumes") or ():
        for source in (volume.get("projected") or {}).get("sources") or ():
            name = (source.get("configMap") or {}).get("name")
            if volume.get("name") == "settings" and isinstance(name, str):
                return name
    return f"{deployment['metadata']['name']}-settings"


def backend_ports(record: PolicyRecord, settings: Settings) -> tuple[int, ...]:
    """Of backends that shall be reached through the sidecar only: those on loopback, whose ports are no listener's."""
    if record.policy is None:
        return ()
    listeners = {each.port for each in record.policy.spec.inbound} | {settings.sidecar.admin_port}
    inside = (each.backend for each in record.policy.spec.inbound if each.backend.address.address.is_loopback)
    return tuple(sorted({backend.port for backend in inside} - listeners))


def _own_namespace() -> str:
    try:
        return _ACCOUNT.read_text().strip() or DEFAULT_NAMESPACE
    except OSError:
        return DEFAULT_NAMESPACE


def _of_release(release: Release) -> str:
    instance = ((release.deployment or {}).get("metadata", {}).get("labels") or {}).get(INSTANCE)
    return f"{RELEASE},{INSTANCE}={instance}" if instance else RELEASE


def _review(right: Right, settings: Settings) -> Object:
    resource, _, subresource = right.resource.partition("/")
    attributes = {
        "group": right.group,
        "resource": resource,
        "subresource": subresource,
        "namespace": right.namespace,
        "name": right.name,
        "verb": right.verb,
    }
    account = f"system:serviceaccount:{settings.namespace}:{settings.service_account}"
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{settings.namespace}", "system:authenticated"]
    spec = {"user": account, "groups": groups, "resourceAttributes": attributes}
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}


def _judge(facts: Facts) -> Callable[[Object], PolicyRecord]:
    """Where it is not known what the chart allows, everything is allowed."""
    if facts.settings_known:
        return lambda raw: records.policy_record(raw, facts.settings.sidecar)
    allowing = Sidecar(allow_transparent=True)

    def judged(raw: Object) -> PolicyRecord:
        spec = raw.get("spec") or {}
        sidecar = {key: value for key, value in (spec.get("sidecar") or {}).items() if key != "image"}
        return records.policy_record({**raw, "spec": {**spec, "sidecar": sidecar}}, allowing)

    return judged


def _ready_endpoints(slice_: Mapping[str, Any]) -> int:
    return sum((each.get("conditions") or {}).get("ready") is not False for each in slice_.get("endpoints") or ())


def _fresh(lease: Mapping[str, Any]) -> bool:
    spec = _spec(lease)
    age = abs(datetime.now(UTC).timestamp() - records.seconds(str(spec.get("renewTime") or "")))
    return bool(spec.get("holderIdentity")) and age < float(spec.get("leaseDurationSeconds") or 0)


def _unreachable(record: PolicyRecord) -> bool:
    conditions = record.status.get("conditions") or ()
    return any(each.get("reason") == Programmed.UNREACHABLE.value for each in conditions if isinstance(each, dict))


def _uncount(count: Count, candidate: Candidate) -> None:
    """It has ended, or is gone."""
    count.selected -= 1
    count.missing -= 1
    count.bare.remove(candidate)


def _spec(found: Any) -> Mapping[str, Any]:
    return (found.get("spec") or {}) if isinstance(found, dict) else {}


def _labels(found: Mapping[str, Any]) -> Mapping[str, str]:
    return (found.get("metadata") or {}).get("labels") or {}
