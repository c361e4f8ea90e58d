"""Which pod may be evicted, as a table; whose turn it is; what is remembered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from postern_operator import eviction, records
from postern_operator.eviction import Memory
from postern_operator.model import CONTAINER, POLICY, Candidate, Injection, Key, Listener, Owner, PolicyRecord
from postern_operator.settings import Settings
from postern_sidecar.config.model import LabelSelector

NOW = 1767226000.0
READY = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}  # 1767225600
INJECTION = Injection("edge", "uid-edge", "0" * 64, (Listener("mx", 25),), image="registry.test/sidecar:1")
OWNER = Owner("apps/v1", "ReplicaSet", "mail", "uid-mail")
POD = Candidate(Key("mail", "mail-0"), "uid-0", {"app": "mail"}, "", False, 1.0, OWNER)


def policy(name: str = "edge", priority: int = 0, **labels: str) -> PolicyRecord:
    selector = LabelSelector(match_labels=labels or {"app": "mail"})
    return PolicyRecord(Key("mail", name), f"uid-{name}", 1, "2026", selector, priority, None)


EDGE = policy()


def whole(spec: dict[str, Any] | None = None, status: Any = None, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "mail", "name": "mail-0", "uid": "uid-0", "labels": {"app": "mail"}, **metadata},
        "spec": {"containers": [{"name": "mta", "image": "registry.test/mta"}], **(spec or {})},
        "status": {"conditions": [READY]} if status is None else status,
    }


@pytest.mark.parametrize(
    ("pod", "rivals", "expected"),
    [
        (POD, [], OWNER),
        (replace(POD, owner=None), [], None),
        (replace(POD, owner=replace(OWNER, uid="")), [], None),
        (replace(POD, owner=replace(OWNER, kind="Job")), [], None),
        (replace(POD, owner=replace(OWNER, kind="Node")), [], None),
        (replace(POD, policy="edge"), [], None),
        (replace(POD, terminating=True), [], None),
        (replace(POD, labels={"app": "mail", "postern.dev/inject": "disabled"}), [], None),
        (replace(POD, labels={"app": "web"}), [], None),
        (POD, [policy("other", priority=1)], None),
        (POD, [policy("other", priority=-1)], OWNER),
        (POD, [policy("other", priority=1, app="web")], OWNER),
    ],
    ids=str,
)
def test_bare(pod: Candidate, rivals: list[PolicyRecord], expected: Owner | None) -> None:
    assert eviction.bare(pod, EDGE, [*rivals, EDGE]) == expected


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (whole(), True),
        (whole(uid="uid-1"), False),  # made anew since
        (whole(labels={"app": "web"}), False),  # changed since
        (whole(labels={"app": "mail", "postern.dev/inject": "disabled"}), False),
        (whole(deletionTimestamp="2026-01-01T00:00:00Z"), False),
        (whole(status={}), False),
        (whole(status={"conditions": None}), False),
        (whole(status={"conditions": [{**READY, "type": "Initialized"}]}), False),
        (whole(status={"conditions": [{**READY, "status": "False"}]}), False),
        (whole(status={"conditions": [{**READY, "lastTransitionTime": None}]}), False),
        (whole(status={"conditions": [{**READY, "lastTransitionTime": "lately"}]}), False),
        (whole(status={"conditions": [{**READY, "lastTransitionTime": "2026-01-01T00:01:40Z"}]}), True),
        (whole(status={"conditions": [{**READY, "lastTransitionTime": "2026-01-01T00:01:41Z"}]}), False),
        (whole(status={"conditions": [{**READY, "lastTransitionTime": "2027-01-01T00:00:00Z"}]}), False),
        (whole(spec={"hostNetwork": True}), False),
        (whole(spec={"os": {"name": "windows"}}), False),
        (whole(annotations={"kubernetes.io/config.mirror": "x"}), False),
        (whole(spec={"volumes": [{"name": "postern-run", "emptyDir": {}}]}), False),
    ],
    ids=str,
)
def test_evictable(pod: dict[str, Any], expected: bool) -> None:
    assert eviction.evictable(POD, pod, INJECTION, Settings(), NOW) is expected


def test_a_successor_is_a_pod_that_nobody_owns_and_that_runs_nowhere() -> None:
    pod = whole(
        spec={"nodeName": "node1", "ephemeralContainers": [{}], "hostname": "mail"},
        name="m" * 60,
        annotations={"a": "b"},
        ownerReferences=[{"uid": "uid-mail"}],
        finalizers=["f"],
        resourceVersion="7",
    )
    assert eviction.successor(pod) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": "mail",
            "generateName": "m" * 50 + "-",
            "labels": {"app": "mail"},
            "annotations": {"a": "b"},
        },
        "spec": {"containers": pod["spec"]["containers"], "hostname": "mail"},
    }


@pytest.mark.parametrize(
    ("labels", "containers", "expected"),
    [
        ({POLICY: "edge"}, [{"name": "first"}, {"name": CONTAINER}], True),
        ({POLICY: "other"}, [{"name": CONTAINER}], False),
        ({POLICY: "edge"}, [{"name": "first"}], False),
        ({POLICY: "edge"}, None, False),
        (None, [{"name": CONTAINER}], False),
    ],
)
def test_what_a_dry_run_says(labels: Any, containers: Any, expected: bool) -> None:
    made = {"metadata": {"labels": labels}, "spec": {"initContainers": containers}}
    assert eviction.injected(made, EDGE) is expected


def test_the_request_names_the_pod_and_no_other_of_its_name() -> None:
    assert records.key_of(eviction.request(POD)["metadata"]) == POD.key
    assert eviction.request(POD)["deleteOptions"] == {"preconditions": {"uid": "uid-0"}}


# -- turns -------------------------------------------------------------------------------------------------------------


def bare(owner: str, *pods: str) -> list[eviction.Bare]:
    of = replace(OWNER, name=owner, uid=owner)
    return [(EDGE, replace(POD, key=Key("mail", pod), uid=pod, owner=of), of) for pod in pods]


def uids(turns: Any) -> list[list[str]]:
    return [[pod.uid for _, pod, _ in pods] for pods in turns]


def test_owners_have_their_pods_together_whichever_policies_these_have_the_oldest_first() -> None:
    (one,), (two,), (three,) = bare("a", "a-0"), bare("b", "b-0"), bare("a", "a-1")
    elder = (policy("other"), replace(three[1], created=0.5), three[2])
    assert uids(eviction.owned([one, two, elder])) == [["a-1", "a-0"], ["b-0"]]


def test_one_an_owner_and_pause() -> None:
    memory = Memory(600.0)
    assert memory.may("a", 0.0)
    memory.evicted("a", bare("a", "a-0"), 0.0)
    assert [memory.may("a", at) for at in (0.0, 599.0, 600.0)] == [False, False, True]
    assert memory.may("b", 0.0)


def test_never_again_once_a_pod_came_without_a_sidecar() -> None:
    memory = Memory(600.0)
    assert not memory.hopeless(bare("a", "a-0", "a-1"))
    memory.evicted("a", bare("a", "a-0", "a-1"), 0.0)
    assert not memory.hopeless(bare("a", "a-1"))
    assert memory.hopeless(bare("a", "a-1", "a-2"))
    assert not memory.hopeless(bare("a", "a-1", "a-2")), "told once"
    assert not memory.may("a", 1e9)
    assert uids(memory.turns([bare("a", "a-1"), bare("b", "b-0")], 1e9)) == [["b-0"]]


def test_memory_forgets_who_was_seen_last_the_longest_ago() -> None:
    memory = Memory(600.0, owners=2)
    memory.evicted("a", bare("a", "a-0"), 0.0)
    memory.evicted("b", bare("b", "b-0"), 0.0)
    assert memory.hopeless(bare("a", "a-1"))
    memory.evicted("c", bare("c", "c-0"), 0.0)
    assert len(memory) == 2
    assert [memory.may(owner, 599.0) for owner in ("a", "b", "c")] == [False, True, False]


def test_those_that_were_looked_at_wait_for_the_others() -> None:
    memory = Memory(600.0)
    owners = [bare("a", *(f"a-{n}" for n in range(6))), bare("b", "b-0")]
    first = list(memory.turns(owners, 0.0))
    assert uids(first) == [["a-0", "a-1", "a-2", "a-3"], ["b-0"]]
    for _, pod, _ in first[0]:
        memory.looked(pod)
    second = list(memory.turns(owners, 0.0))
    assert uids(second) == [["b-0"], ["a-4", "a-5", "a-0", "a-1"]]
    for _, pod, _ in second[1]:
        memory.looked(pod)
    assert uids(memory.turns(owners, 0.0)) == [["b-0"], ["a-2", "a-3", "a-0", "a-1"]]


def test_looks_are_remembered_of_pods_that_are_there_only() -> None:
    memory = Memory(600.0)
    for number in range(100):
        (pod,) = bare("a", f"a-{number}")
        for _ in memory.turns([[pod]], 0.0):
            memory.looked(pod[1])
    assert len(memory._looked) == 1
