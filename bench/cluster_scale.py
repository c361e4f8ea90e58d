"""The operator's scale: many pods and policies on a real API server, sidecars answered by a stand-in.

What is measured and how to read it: README.md beside this file. Two control planes, one after the other: many policies,
and one policy with all pods. A run fails, and says where, if a status does not become right; a figure short of its
target does not fail it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.binaries import VERSION as KUBERNETES
from cluster.process import Program, free_port
from cluster.release import PROGRAM, SOURCES, Release
from cluster.waiting import eventually
from postern_sidecar.version import VERSION

from . import cluster_bare
from .cluster_audit import OPERATOR, Observed, kinds
from .cluster_results import Change, Creation, Everything, Rest, ScaleResults, Sizes, Start, Tables
from .cluster_world import Api, Policy, World, all_of, mail_pod, spread
from .machine import raise_limit, saying, take_priority
from .results import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cluster.release import Operator

Object = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
FULL = Sizes(
    namespaces=50,
    policies=200,
    pods=5000,
    large=500,
    repeats=3,
    changes=1000,
    rest=60.0,
    created=200,
    bare=2500,
    official=1250,
)
QUICK = Sizes(
    namespaces=2,
    policies=4,
    pods=30,
    large=12,
    repeats=1,
    changes=10,
    rest=1.0,
    created=4,
    bare=30,
    official=10,
)
PATIENCE = 180.0
LIMIT = 470.0
"""Seconds for all of it: five minutes are usual. On a machine that is busier than that no figure says anything."""
PARALLEL = 20
STEP = 0.2
"""Between two looks of the bench at all statuses, each of which costs the API server some 10 ms."""


def run(*, quick: bool) -> ScaleResults:
    take_priority()
    raise_limit()
    sizes = QUICK if quick else FULL
    with _limited():
        many = _Many(sizes).run()
        everything = _All(sizes).run()
    versions = f"Python {sys.version.split()[0]}, Kubernetes {KUBERNETES}"
    now = Run(os.uname().release, len(os.sched_getaffinity(0)), versions, time.strftime("%Y-%m-%d"))
    return ScaleResults(run=now, sizes=sizes, everything=everything, **many)


class TooBusyError(Exception):
    """No AssertionError: who waits for a condition takes those as "not yet"."""


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def over(*_: object) -> None:
        raise TooBusyError(f"not done after {LIMIT:g} s: the machine is too busy, or the operator stands still")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- a cluster, with its sidecars and its operator ---------------------------------------------------------------------


class _Cluster:
    def __init__(self, stack: contextlib.ExitStack, policies: Sequence[Policy]) -> None:
        with saying("control plane"):
            self.control_plane = stack.enter_context(Observed())
            self.port = free_port()
            values = {"operator": {"replicas": 1}, "sidecar": {"adminPort": self.port}}
            self.tables = self.control_plane.folder / "tables.json"
            env = {"PYTHONPATH": os.pathsep.join([SOURCES, str(ROOT)]), "POSTERN_TABLES": str(self.tables)}
            program = (*PROGRAM[:2], "bench.cluster_tables")
            self.release = stack.enter_context(
                Release(self.control_plane, values=values, start=False, program=program, env=env)
            )
        self.admin = self.control_plane.admin
        self.policies = policies
        pods = sum(policy.pods for policy in policies)
        with saying(f"{pods:,} pods of {len(policies)} policies"):
            self.world = World(self.control_plane, self.release, policies)
            self.world.build()
        self._sidecars(stack)

    def _sidecars(self, stack: contextlib.ExitStack) -> None:
        file = self.control_plane.folder / "sidecars.json"
        config = json.loads(self.control_plane.kubeconfig.read_text())
        names = {f"{policy.namespace}/postern-{policy.name}": policy for policy in self.policies}
        given = {
            "url": self.control_plane.url,
            "ca": str(self.control_plane.ca),
            "token": config["users"][0]["user"]["token"],
            "port": self.port,
            "version": VERSION,
            "policies": {name: [each.ip, self.world.rendered[each.name].hash] for name, each in names.items()},
        }
        file.write_text(json.dumps(given))
        argv = [sys.executable, "-m", "bench.cluster_sidecars", str(file)]
        program = Program(argv, self.control_plane.folder / "sidecars.log", cwd=ROOT)
        stack.callback(program.kill)

        def listens() -> bool:
            assert program.running, program.end_of_log
            return "ready" in program.log

        eventually(listens, 30.0)

    @property
    def operator(self) -> Operator:
        return self.release.operators[0]

    @property
    def pid(self) -> int:
        return self.operator.program.pid

    def start(self) -> Start:
        began = time.time()
        operator = self.release.add(wait=False)

        def is_ready() -> bool:
            time.sleep(STEP / 4)
            assert operator.running, operator.program.end_of_log
            return operator.ready

        eventually(is_ready, PATIENCE)
        ready = time.time() - began
        self.release.wait_ready(operator)
        self.settle()
        return Start(ready, time.time() - began, self.cpu(), self.resident(), self.peak())

    def settle(self) -> None:
        """Until each status is right, and of the policy as it is now."""
        names = {policy.name: policy for policy in self.policies}

        def all_right() -> bool:
            time.sleep(STEP)
            assert self.operator.running, self.operator.program.end_of_log
            found = self.admin.list("/apis/postern.dev/v1alpha1/mailproxypolicies")
            wrong = [each for each in found if not _is_right(each, names[each["metadata"]["name"]].pods)]
            assert not wrong, f"{len(wrong)} of {len(found)} are not right: {json.dumps(wrong[0].get('status'))}"
            return len(found) == len(names)

        eventually(all_right, PATIENCE)

    def change(self, policy: Policy, value: int) -> None:
        operation = {"op": "replace", "path": "/spec/inbound/0/limits/connections", "value": value}
        self.admin.json_patch(policy.path, [operation])

    def measured_change(self, policy: Policy, value: int) -> Change:
        used, mark = self.cpu(), self.control_plane.mark()
        self.change(policy, value)
        self.admin.wait(policy.path, lambda each: _is_right(each, policy.pods), PATIENCE)
        used = self.cpu() - used
        requests = self.control_plane.requests(mark)
        (changed,) = [each for each in requests if each.verb == "patch" and each.resource == "mailproxypolicies"]
        mine = [each for each in requests if each.user.endswith(OPERATOR)]
        pokes = [each for each in mine if each.resource == "pods" and each.verb == "patch" and each.code == 200]
        statuses = [each for each in mine if each.resource == "mailproxypolicies/status" and each.name == policy.name]
        assert len({each.name for each in pokes}) == policy.pods, f"{len(pokes)} pokes of {policy.pods} pods"
        first, last = min(each.received for each in pokes), max(each.answered for each in pokes)
        return Change(
            pods=policy.pods,
            last_poke=last - changed.received,
            programmed=max(each.answered for each in statuses) - changed.received,
            rate=len(pokes) / (last - first),
            cpu=used,
            reads=len(mine) - len(pokes),
        )

    def look(self, changes: int) -> Tables:
        resident = self.resident()
        self.tables.unlink(missing_ok=True)
        self.operator.program.signal(signal.SIGUSR2)

        def is_written() -> bool:
            assert self.tables.exists(), (
                f"nothing is written. The operator's log ends:\n{self.operator.program.end_of_log}"
            )
            return True

        eventually(is_written, 30.0)
        found = json.loads(self.tables.read_text())
        return Tables(changes, resident, found["objects"], found["blocks"], found["tables"])

    # -- the operator's process ----------------------------------------------------------------------------------------

    def cpu(self) -> float:
        """Seconds on a processor, those of threads that have ended with them (proc(5), stat)."""
        return cluster_bare.cpu_seconds(self.pid)

    def resident(self) -> int:
        return self._memory("VmRSS")

    def peak(self) -> int:
        return self._memory("VmHWM")

    def _memory(self, field: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"the operator is gone. Its log ends:\n{self.operator.program.end_of_log}")


def _is_right(policy: Object, pods: int) -> bool:
    status = policy.get("status", {})
    generation = policy["metadata"]["generation"]
    good = [
        condition["status"] == "True"
        for condition in status.get("conditions", [])
        if condition["type"] in ("Accepted", "Programmed") and condition["observedGeneration"] == generation
    ]
    return good == [True, True] and status["pods"] == dict.fromkeys(("selected", "injected", "current"), pods)


# -- many policies -----------------------------------------------------------------------------------------------------


class _Many:
    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes

    def run(self) -> dict[str, Any]:
        sizes = self._sizes
        with contextlib.ExitStack() as stack:
            policies = spread(sizes.namespaces, sizes.policies, sizes.pods, sizes.large)
            cluster = self._cluster = _Cluster(stack, policies)
            with saying("start"):
                start = cluster.start()
            with saying(f"changes of the policy with {sizes.large} pods"):
                large = tuple(cluster.measured_change(policies[0], 900 - turn) for turn in range(sizes.repeats))
            with saying(f"{sizes.changes:,} changes"):
                tables, change_cpu = self._changes(policies[-(sizes.policies // 2) :])
            with saying("rest"):
                rest = self._rest()
            with saying("pods, with and without the webhook"):
                creations = asyncio.run(self._creations(policies[1]))
            return {
                "start": start,
                "large": large,
                "tables": tables,
                "change_cpu": change_cpu,
                "rest": rest,
                "creations": creations,
            }

    def _changes(self, small: Sequence[Policy]) -> tuple[tuple[Tables, ...], float]:
        """Two tables: after a fifth, when everything has been done once, and after all."""
        cluster, done, tables = self._cluster, 0, []
        used = cluster.cpu()
        for turn in range(self._sizes.changes // len(small)):
            for policy in small:
                cluster.change(policy, 800 - turn)
            cluster.settle()
            done += len(small)
            if done in (self._sizes.changes // 5, self._sizes.changes):
                tables.append(cluster.look(done))
        return tuple(tables), (cluster.cpu() - used) / done

    def _rest(self) -> Rest:
        cluster = self._cluster
        used, mark, began = cluster.cpu(), cluster.control_plane.mark(), time.monotonic()
        time.sleep(self._sizes.rest)
        used, seconds = cluster.cpu() - used, time.monotonic() - began
        requests = cluster.control_plane.requests(mark, user=OPERATOR)
        return Rest(seconds, used, len(requests), kinds(requests))

    async def _creations(self, policy: Policy) -> tuple[Creation, ...]:
        """The same pods in two namespaces; a namespace that is not enabled is none of the webhook's."""
        cluster = self._cluster
        outside = "elsewhere"
        cluster.world.add_namespace(outside, enabled=False)
        self._straight_to_the_operator()
        bodies = {True: mail_pod(policy, ""), False: mail_pod(policy, "")}
        bodies[False]["metadata"]["namespace"] = outside
        times: dict[tuple[int, bool], list[float]] = {}
        walls: dict[tuple[int, bool], float] = {}
        async with Api(cluster.control_plane) as api:
            await _create(api, bodies[True], "warm", 3, 1)
            for parallel in (1, PARALLEL):
                for turn in range(4):  # in turns: the machine's other work is in both
                    for webhook in (True, False):
                        began = time.perf_counter()
                        names = f"{'in' if webhook else 'out'}-{parallel}-{turn}"
                        some = await _create(api, bodies[webhook], names, self._sizes.created // 4, parallel)
                        key = (parallel, webhook)
                        walls[key] = walls.get(key, 0.0) + time.perf_counter() - began
                        times.setdefault(key, []).extend(some)
        return tuple(
            Creation(
                parallel, webhook, statistics.median(some) * 1e3, _p99(some) * 1e3, len(some) / walls[parallel, webhook]
            )
            for (parallel, webhook), some in times.items()
        )

    def _straight_to_the_operator(self) -> None:
        """What plays the Service is a relay in this process: it would be part of each figure."""
        cluster = self._cluster
        path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
        (found,) = [each for each in cluster.admin.get(path)["items"] if "postern" in each["metadata"]["name"]]
        port = cluster.operator.webhook_port
        old = found["webhooks"][0]["clientConfig"]["url"]
        new = f"https://127.0.0.1:{port}/{old.split('/', 3)[3]}" if old.count("/") > 2 else f"https://127.0.0.1:{port}"
        operation = {"op": "replace", "path": "/webhooks/0/clientConfig/url", "value": new}
        cluster.admin.json_patch(f"{path}/{found['metadata']['name']}", [operation])
        body = mail_pod(cluster.policies[1], "probe")
        where = f"/api/v1/namespaces/{body['metadata']['namespace']}/pods"

        def is_asked() -> bool:
            answer = cluster.admin.create(where, body, dry_run=True)
            return "postern.dev/policy" in answer["metadata"]["labels"]

        eventually(is_asked, 30.0)


async def _create(api: Api, body: Object, prefix: str, count: int, parallel: int) -> list[float]:
    """Seconds of each. AssertionError where a pod that should have a sidecar has none, or the other way round."""
    path = f"/api/v1/namespaces/{body['metadata']['namespace']}/pods"
    wanted = body["metadata"]["namespace"] != "elsewhere"
    found: list[float] = []

    async def one(number: int) -> None:
        named = {**body, "metadata": {**body["metadata"], "name": f"{prefix}-{number}"}}
        began = time.perf_counter()
        answer = await api.ask("POST", path, named)
        found.append(time.perf_counter() - began)
        assert (b'"postern.dev/policy"' in answer) == wanted, "the webhook was not where it should be"

    def each(number: int) -> Callable[[], Any]:
        return lambda: one(number)

    await all_of(map(each, range(count)), parallel)
    return found


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[max(0, -(-99 * len(values) // 100) - 1)]


# -- one policy with all pods ------------------------------------------------------------------------------------------


class _All:
    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes

    def run(self) -> Everything:
        policy = Policy(0, "mail-0", "policy-0", self._sizes.pods)
        with contextlib.ExitStack() as stack:
            cluster = _Cluster(stack, [policy])
            value = cluster.world.rendered[policy.name].hash
            with saying("a bare client"):
                bare = [self._patched(cluster, policy, "bare", f"{value}.1", self._sizes.bare)]
                official = self._patched(cluster, policy, "official", f"{value}.2", self._sizes.official)
            with saying("start"):
                cluster.start()
            with saying(f"changes of the policy with {policy.pods:,} pods"):
                changes = tuple(cluster.measured_change(policy, 900 - turn) for turn in range(2))
            peak = cluster.peak()
            cluster.release.terminate()
            with saying("a bare client"):
                bare.append(self._patched(cluster, policy, "bare", f"{value}.3", self._sizes.bare))
                unchecked = self._patched(cluster, policy, "bare", f"{value}.4", self._sizes.official, admin=True)
            return Everything(changes, tuple(bare), official, unchecked, peak)

    @staticmethod
    def _patched(
        cluster: _Cluster, policy: Policy, kind: str, value: str, patches: int, *, admin: bool = False
    ) -> cluster_bare.Client:
        """In a process of its own, as the operator is."""
        control_plane, release = cluster.control_plane, cluster.release
        account = release.template()["spec"]["serviceAccountName"]
        kubeconfig = control_plane.kubeconfig
        if not admin:
            kubeconfig = control_plane.kubeconfig_for(control_plane.token(release.namespace, account))
        file = control_plane.folder / "bare.json"
        given = {"kubeconfig": str(kubeconfig), "kind": kind, "value": value, "paths": policy.pod_paths[:patches]}
        file.write_text(json.dumps(given))
        mark = control_plane.mark()
        argv = [sys.executable, "-m", "bench.cluster_bare", str(file)]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        some = [each for each in control_plane.requests(mark, verb="patch", resource="pods") if each.code == 200]
        assert len(some) == patches, f"{len(some)} of {patches} patches"
        seconds = max(each.answered for each in some) - min(each.received for each in some)
        return cluster_bare.Client(patches / seconds, float(done.stdout) / patches)
