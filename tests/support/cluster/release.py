"""The chart, installed by helm, and its operator, run as its Deployment says: what the Deployment controller, the
kubelet and the Service do elsewhere.

    with Release(control_plane, values={"operator": {"replicas": 1}}) as release:
        release.operators[0].get("/metrics")
        release.upgrade({"sidecar": {"allowTransparent": True}})

Each replica is a pod in the API server, made from the Deployment's template, and a process: the container's arguments
and environment, its volumes as folders, a token of the release's own ServiceAccount that is bound to the pod. So what
it may do is what the chart's RBAC says. Only its ports and addresses are others, because all replicas share this
machine's loopback. A process that ends is not started again: a test says what happens next.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from .control import TAKEN, TRIES
from .pods import run_pod
from .process import Program, free_port
from .service import Service
from .waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from .admin import Object
    from .control import ControlPlane

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "postern"
PROGRAM = (sys.executable, "-m", "postern_operator")  # the image's entry point
SOURCES = f"{ROOT / 'operator'}{os.pathsep}{ROOT / 'sidecar'}"
DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/mailproxypolicies.postern.dev"
READY = 30.0


class Operator:
    """One replica."""

    def __init__(self, pod: str, grace: float, program: Program, webhook_port: int, health_port: int) -> None:
        self.pod = pod
        self.grace = grace  # seconds from SIGTERM to SIGKILL
        self.program = program
        self.webhook_port = webhook_port
        self.health_port = health_port

    @property
    def log(self) -> str:
        return self.program.log

    @property
    def running(self) -> bool:
        return self.program.running

    @property
    def ready(self) -> bool:
        return self.ask("/readyz")[0] == 200

    def get(self, path: str) -> str:
        """/metrics, /healthz, ...: what it says, whatever the status."""
        return self.ask(path)[1]

    def ask(self, path: str) -> tuple[int, str]:
        """Status and text; 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as problem:
            with problem:
                return problem.code, problem.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""


class Release:
    """`values` are the chart's; webhook.url is added. `start` False: installed, and no operator runs yet. `namespace`:
    one that is there; without, a fresh one. `program`: another version's command line. `flags`: helm install's."""

    def __init__(
        self,
        control_plane: ControlPlane,
        *,
        chart: Path | str = CHART,
        values: Mapping[str, Any] | None = None,
        namespace: str = "",
        name: str = "postern",
        program: Sequence[str] = PROGRAM,
        env: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
        start: bool = True,
    ) -> None:
        self.control_plane = control_plane
        self.admin = control_plane.admin
        self.name = name
        self.program = program
        self.env = dict(env or {})
        self.operators: list[Operator] = []
        self._ready: dict[str, int] = {}
        self._numbers = itertools.count(1)
        self._undo = contextlib.ExitStack()
        try:
            self.namespace = namespace or self._undo.enter_context(control_plane.namespace())
            self.service = Service()
            self._undo.callback(self.service.close)
            self._undo.callback(self._remove)
            self._clear()
            self._helm("install", chart, values or {}, flags)
            if start:
                self.start()
        except BaseException:
            self.close()
            raise

    # -- helm ----------------------------------------------------------------------------------------------------------

    def upgrade(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        chart: Path | str = CHART,
        program: Sequence[str] | None = None,
        roll: bool = True,
    ) -> None:
        """`values` are all that there are: none is kept from before. The replicas are replaced if the template is
        another, or the program."""
        before = self.template()
        self._helm("upgrade", chart, values or {})
        self._follow(before, program, roll)

    def rollback(self, revision: int = 0, *, program: Sequence[str] | None = None, roll: bool = True) -> None:
        """0: the revision before."""
        before = self.template()
        self.control_plane.helm("rollback", self.name, str(revision), "--namespace", self.namespace)
        self._follow(before, program, roll)

    def uninstall(self) -> None:
        """helm's deletion, and then the operators' end: their rights are gone by then, as elsewhere."""
        self.control_plane.helm("uninstall", self.name, "--namespace", self.namespace)
        for operator in list(self.operators):
            self._end(operator)

    def deployment(self) -> Object:
        selector = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component=operator"
        (found,) = self.admin.list(f"/apis/apps/v1/namespaces/{self.namespace}/deployments", selector)
        return found

    def template(self) -> Object:
        template: Object = self.deployment()["spec"]["template"]
        return template

    # -- replicas ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """As many as the Deployment wants, at once; back when all are ready."""
        count = self.deployment()["spec"]["replicas"]
        for operator in [self.add(wait=False) for _ in range(count - len(self.operators))]:
            self.wait_ready(operator)

    def add(self, *, wait: bool = True) -> Operator:
        """One replica more."""
        template = self.template()
        pod = self._create_pod(template)
        operator = self._launch(template, pod)
        self.operators.append(operator)
        if wait:
            self.wait_ready(operator)
        return operator

    def wait_ready(self, operator: Operator, timeout: float = READY) -> None:
        """Then the Service sends to it."""

        def is_ready() -> bool:
            if not operator.running:
                raise ReplicaEndedError(f"the operator ended. Its log ends:\n{operator.program.end_of_log}")
            return operator.ready

        try:
            eventually(is_ready, timeout)
        except AssertionError:
            said = operator.ask("/readyz")
            raise AssertionError(
                f"the operator is not ready after {timeout:g} s: {said}. Its log ends:\n{operator.program.end_of_log}"
            ) from None
        run_pod(self.admin, self.namespace, operator.pod)
        self._ready[operator.pod] = operator.webhook_port
        self._publish()

    def terminate(self, index: int = 0) -> int:
        """As a pod is deleted: out of the Service (for which its preStop hook waits), SIGTERM, SIGKILL when its time is
        over. Its exit code."""
        return self._end(self.operators[index])

    def kill(self, index: int = 0) -> None:
        """SIGKILL, and gone."""
        operator = self.operators[index]
        operator.program.kill()
        self._end(operator)

    def restart(self, operator: Operator) -> Operator:
        """What the kubelet does when a container has ended: another one in the same pod. It is not waited for."""
        pod = self.admin.get(f"/api/v1/namespaces/{self.namespace}/pods/{operator.pod}")
        self._ready.pop(operator.pod, None)
        self._publish()
        fresh = self._launch(self.template(), pod)
        self.operators[self.operators.index(operator)] = fresh
        return fresh

    def log(self, index: int = 0) -> str:
        return self.operators[index].log

    def close(self) -> None:
        """Nothing of it is left, the definition and every policy included."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _helm(self, verb: str, chart: Path | str, values: Mapping[str, Any], flags: Sequence[str] = ()) -> None:
        webhook = {"url": self.service.url, **values.get("webhook", {})}
        given = json.dumps({**values, "webhook": webhook})
        self.control_plane.helm(
            verb, self.name, str(chart), "--namespace", self.namespace, "--values", "-", *flags, input=given
        )

    def _follow(self, before: Object, program: Sequence[str] | None, roll: bool) -> None:
        changed = self.template() != before or (program is not None and program != self.program)
        self.program = program or self.program
        if roll and changed:
            self.roll()

    def roll(self) -> None:
        """A rolling update: one more, and when it is ready, one of the old ones less."""
        for old in list(self.operators):
            self.add()
            self._end(old)

    def _create_pod(self, template: Object) -> Object:
        metadata = {**template["metadata"], "generateName": f"{self.name}-operator-"}
        metadata.pop("creationTimestamp", None)
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        return self.admin.create(f"/api/v1/namespaces/{self.namespace}/pods", body)

    def _launch(self, template: Object, pod: Object) -> Operator:
        name = pod["metadata"]["name"]
        (container,) = template["spec"]["containers"]
        for attempt in range(1, TRIES + 1):
            folder = self.control_plane.folder / f"{name}-{next(self._numbers)}"
            folder.mkdir()
            webhook_port, health_port = free_port(), free_port()
            mounts = self._mount(folder, template["spec"]["volumes"], container["volumeMounts"])
            settings = mounts["/etc/postern-operator"] / "settings.yaml"
            settings.write_bytes(_relocated(settings.read_bytes(), webhook_port, health_port, mounts))
            env = {
                "PATH": "/usr/bin:/bin",
                "LC_ALL": "C.UTF-8",
                "HOME": str(folder),
                "PYTHONPATH": SOURCES,
                "KUBECONFIG": str(self._credentials(pod)),
                "TMPDIR": str(mounts.get("/tmp", folder)),
                **_environment(container.get("env", []), pod),
                **self.env,
            }
            arguments = [_moved(argument, mounts) for argument in container["args"]]
            argv = ["env", "-i", *(f"{key}={value}" for key, value in env.items()), *self.program, *arguments]
            program = Program(argv, folder / "log", cwd=folder)
            grace = float(pod["spec"]["terminationGracePeriodSeconds"])
            operator = Operator(name, grace, program, webhook_port, health_port)
            if attempt == TRIES or not self._port_was_taken(operator):
                return operator
            operator.program.kill()
        raise AssertionError("unreachable")

    def _port_was_taken(self, operator: Operator) -> bool:
        """Once it listens, or has ended, that is known."""
        try:
            eventually(lambda: not operator.running or operator.ask("/healthz")[0], READY)
        except AssertionError:
            end = operator.program.end_of_log
            operator.program.kill()
            raise AssertionError(
                f"nothing answers /healthz after {READY:g} s. The operator's log ends:\n{end}"
            ) from None
        return not operator.running and TAKEN in operator.log.lower()

    def _mount(self, folder: Path, volumes: list[Object], mounts: list[Object]) -> dict[str, Path]:
        """Folders for the container's volumes, by their paths in it."""
        places: dict[str, Path] = {}
        by_name = {volume["name"]: volume for volume in volumes}
        for mount in mounts:
            place = folder / mount["name"]
            place.mkdir()
            volume = by_name[mount["name"]]
            for source in volume.get("projected", {}).get("sources", [volume]):
                self._fill(place, source)
            places[mount["mountPath"]] = place
        return places

    def _fill(self, place: Path, source: Object) -> None:
        base = f"/api/v1/namespaces/{self.namespace}"
        if source.get("configMap"):
            given = source["configMap"]
            content = self.admin.get(f"{base}/configmaps/{given['name']}").get("data", {})
            files = {key: value.encode() for key, value in content.items()}
        elif source.get("secret"):
            given = source["secret"]
            content = self.admin.get(f"{base}/secrets/{given.get('name') or given['secretName']}").get("data", {})
            files = {key: base64.b64decode(value) for key, value in content.items()}
        else:
            return
        for item in given.get("items") or [{"key": key, "path": key} for key in files]:
            target = place / item["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(files[item["key"]])

    def _credentials(self, pod: Object) -> Path:
        return self.control_plane.kubeconfig_for(self._token(pod), self.namespace)

    def _token(self, pod: Object) -> str:
        """Bound to the pod, as the kubelet's are."""
        reference = {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        account = pod["spec"]["serviceAccountName"]
        answer = self.admin.create(
            f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": 3600, "boundObjectRef": reference},
            },
        )
        token: str = answer["status"]["token"]
        return token

    def _end(self, operator: Operator) -> int:
        self._ready.pop(operator.pod, None)
        self._publish()
        code = operator.program.stop(timeout=operator.grace)
        self.operators.remove(operator)
        with contextlib.suppress(OSError):  # the API server is away: the pod goes with its namespace
            self.admin.delete(f"/api/v1/namespaces/{self.namespace}/pods/{operator.pod}", missing_ok=True)
        return code

    def _publish(self) -> None:
        self.service.targets = tuple(self._ready.values())

    def _clear(self) -> None:
        """A definition that a test has applied by itself is in the way: helm takes over none that is not its own."""
        if not self.admin.exists(DEFINITION):
            return
        if "meta.helm.sh/release-name" not in (self.admin.get(DEFINITION)["metadata"].get("annotations") or {}):
            self._remove_definition()

    def _remove(self) -> None:
        for operator in self.operators:
            operator.program.kill()
        self.operators.clear()
        self.control_plane.helm("uninstall", self.name, "--namespace", self.namespace, "--ignore-not-found")
        self._remove_definition()

    def _remove_definition(self) -> None:
        self.admin.delete(DEFINITION, missing_ok=True)
        self.admin.wait_gone(DEFINITION)


class ReplicaEndedError(Exception):
    """It ended before it was ready; the text ends with its log's end."""


def _relocated(settings: bytes, webhook_port: int, health_port: int, mounts: Mapping[str, Path]) -> bytes:
    """The same settings for a process that shares an address with the other replicas."""
    given: Object = msgspec.yaml.decode(settings)
    webhook: Object = given.setdefault("webhook", {})
    webhook |= {"address": "127.0.0.1", "port": webhook_port}
    webhook["certificatesDir"] = _moved(webhook.get("certificatesDir", "/etc/postern-operator/tls"), mounts)
    given |= {"healthAddress": "127.0.0.1", "healthPort": health_port}
    return json.dumps(given).encode()


def _moved(text: str, mounts: Mapping[str, Path]) -> str:
    for path, place in mounts.items():
        if text == path or text.startswith(f"{path}/"):
            return str(place) + text.removeprefix(path)
    return text


def _environment(variables: list[Object], pod: Object) -> dict[str, str]:
    fields = {"metadata.name": pod["metadata"]["name"], "metadata.namespace": pod["metadata"]["namespace"]}
    return {
        variable["name"]: variable["value"]
        if "value" in variable
        else fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        for variable in variables
    }
