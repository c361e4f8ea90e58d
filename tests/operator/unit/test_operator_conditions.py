"""A policy's status: counts, each reason with its message, what is kept, what is told, and the laws that hold."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postern_operator.conditions import Judgement, checks, judge, transitions, unchanged, unheard
from postern_operator.conditions.view import view
from postern_operator.model import (
    Answer,
    Candidate,
    ConfigMapRecord,
    Inputs,
    Key,
    Notice,
    PodRecord,
    PolicyRecord,
    Rendered,
    Stamp,
)
from postern_operator.reasons import Accepted, Condition, Outdated, Programmed
from postern_operator.records import config_map_record, policy_record
from postern_operator.render import config_map, render
from postern_operator.settings import Sidecar
from postern_sidecar.config import Problem

if TYPE_CHECKING:
    import random

NOW = 1_800_000_000.0
STAMPED_NOW = "2027-01-15T08:00:00Z"
EARLIER = "2026-12-24T18:00:00Z"
CREATED = "2026-11-22T10:00:00Z"
MADE = 1_799_000_000.0  # after CREATED
ALLOWED = Sidecar(allow_transparent=True)
APP = {"app": "mail"}


def inbound(port: int = 25, handover: str = "ProxyV2") -> dict[str, Any]:
    return {"name": f"p{port}", "port": port, "backend": {"port": 2525, "handover": handover}}


def policy(
    name: str = "edge", *, status: dict[str, Any] | None = None, created: str = CREATED, **spec: Any
) -> PolicyRecord:
    metadata = {"name": name, "namespace": "mail", "uid": f"u-{name}", "generation": 4, "creationTimestamp": created}
    whole = {"selector": {"matchLabels": APP}, "inbound": [inbound()], **spec}
    return policy_record({"metadata": metadata, "spec": whole, "status": status or {}}, ALLOWED)


@dataclass
class Pod:
    """A pod in all its appearances; by default all is well with it."""

    name: str = "mail-0"
    policy: str = "edge"
    labels: dict[str, str] = field(default_factory=lambda: dict(APP))
    known: bool = True  # to the watch
    ended: bool = False
    terminating: bool = False
    started: bool = True
    sysctl: int = 25
    transparent: bool = False
    secrets: tuple[str, ...] = ()
    image: str = "r/p:1"
    stamp: str | None = "template"
    created: float = MADE
    hash: str | None = "target"  # None: never asked
    error: str = ""
    refused: str = ""
    failure: str = ""
    silent: float | None = None  # seconds

    @property
    def uid(self) -> str:
        return f"uid-{self.name}"

    @property
    def candidate(self) -> Candidate:
        return Candidate(
            Key("mail", self.name), self.uid, self.labels, self.policy, self.terminating, self.created, None
        )

    @property
    def record(self) -> PodRecord:
        return PodRecord(
            key=Key("mail", self.name),
            uid=self.uid,
            policy=self.policy,
            labels=self.labels,
            poke="",
            stamp=None if self.stamp is None else Stamp(version="1", policy_uid="u", spec_hash=self.stamp),
            ip="10.0.0.1",
            started=self.started,
            terminating=self.terminating or self.ended,
            sysctl=self.sysctl,
            transparent=self.transparent,
            secrets=self.secrets,
            image=self.image,
        )

    def answer(self, target: str) -> Answer | None:
        if self.hash is None:
            return None
        runs = target if self.hash == "target" else self.hash
        refused = target if self.refused == "target" else self.refused
        return Answer(NOW, runs, "1", self.error, refused, self.failure)


def world(record: PolicyRecord, *pods: Pod, **changes: Any) -> tuple[Inputs, Rendered | None]:
    """The cluster right after a reconciliation that went well, but for `changes`."""
    rendered = render(record)
    written = None if rendered is None else config_map_record(config_map(record, rendered), ALLOWED)
    target = rendered.hash if rendered else ""
    answers = {pod.uid: answer for pod in pods if (answer := pod.answer(target)) is not None}
    inputs = Inputs(
        record=record,
        rivals=(),
        namespace_enabled=True,
        config_map=written,
        candidates=tuple(pod.candidate for pod in pods),
        injected=tuple(pod.record for pod in pods if pod.known and pod.policy == record.key.name),
        answers=answers,
        since={pod.uid: NOW - pod.silent for pod in pods if pod.silent is not None},
        now=NOW,
        spec_hash="template",
    )
    return replace(inputs, **changes), rendered


def judged(record: PolicyRecord, *pods: Pod, **changes: Any) -> Judgement:
    judgement = judge(*world(record, *pods, **changes))
    assert judgement is not None
    return judgement


def condition(judgement: Judgement, kind: Condition) -> dict[str, Any]:
    return dict(next(one for one in judgement.conditions if one["type"] == kind.value))


def counts(judgement: Judgement) -> tuple[int, int, int]:
    return judgement.selected, judgement.injected, judgement.current


def pods(count: int, **fields: Any) -> list[Pod]:
    return [Pod(f"mail-{number}", **fields) for number in range(count)]


# Counts


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (Pod(), (1, 1, 1)),
        (Pod(labels={"app": "web"}), (0, 0, 0)),  # the LIST was of an older selector
        (Pod(labels={**APP, "postern.dev/inject": "disabled"}), (0, 0, 0)),
        (Pod(terminating=True), (0, 0, 0)),
        (Pod(ended=True), (0, 0, 0)),  # a metadata LIST does not tell
        (Pod(policy=""), (1, 0, 0)),
        (Pod(policy="other"), (1, 0, 0)),
        (Pod(image=""), (1, 0, 0)),  # the label without the container
        (Pod(known=False, hash=None), (1, 1, 0)),  # the watch has not brought it yet
        (Pod(hash=None), (1, 1, 0)),
        (Pod(hash="older"), (1, 1, 0)),
        (Pod(failure="timed out"), (1, 1, 1)),  # a moment's silence
        (Pod(failure="timed out", silent=29.9), (1, 1, 1)),
        (Pod(failure="timed out", silent=30.0), (1, 1, 0)),
        (Pod(silent=100.0), (1, 1, 1)),
    ],
)
def test_a_pod_is_counted(pod: Pod, expected: tuple[int, int, int]) -> None:
    assert counts(judged(policy(), pod)) == expected


def test_a_pod_that_a_rival_wins_is_not_selected() -> None:
    mine, theirs = Pod("a"), Pod("b", labels={**APP, "tier": "edge"})
    rival = policy("rival", priority=1, selector={"matchLabels": {"tier": "edge"}})
    assert counts(judged(policy(), mine, theirs, rivals=(rival,))) == (1, 1, 1)


def test_a_pod_that_is_not_matched_is_not_lost_either() -> None:
    """The LIST was of an older selector, or the pod's labels are newer."""
    rival = policy("rival", selector={"matchLabels": {"app": "web"}})
    judgement = judged(policy(), Pod(policy="rival", labels={"app": "web"}), rivals=(rival,))
    assert accepted(judgement) == ("True", "Accepted", "the policy is valid")


def test_only_what_carries_this_policys_sidecar_is_asked_for_more() -> None:
    bare, others = Pod("a", image="", sysctl=1024), Pod("b", policy="other", sysctl=1024)
    assert programmed(judged(policy(), bare))[1] == "NotInjected"
    assert programmed(judged(policy(), injected=(others.record,)))[1] == "Programmed"


def test_the_status_is_what_the_contract_says() -> None:
    record = policy()
    judgement, rendered = judged(record, *pods(2)), render(record)
    assert rendered is not None
    status = judgement.status()
    assert status["configHash"] == rendered.hash
    assert status["pods"] == {"selected": 2, "injected": 2, "current": 2}
    assert [one["type"] for one in status["conditions"]] == ["Accepted", "Programmed", "SidecarsOutdated"]
    assert [one["status"] for one in status["conditions"]] == ["True", "True", "False"]
    for one in status["conditions"]:
        assert sorted(one) == ["lastTransitionTime", "message", "observedGeneration", "reason", "status", "type"]
        assert (one["observedGeneration"], one["lastTransitionTime"]) == (4, STAMPED_NOW)
        assert one["message"]


# Accepted


def accepted(judgement: Judgement) -> tuple[str, str, str]:
    found = condition(judgement, Condition.ACCEPTED)
    return found["status"], found["reason"], found["message"]


def test_a_good_policy_is_accepted() -> None:
    assert accepted(judged(policy())) == ("True", "Accepted", "the policy is valid")


def test_an_invalid_policy_tells_all_that_is_wrong_up_to_a_bound() -> None:
    status, reason, message = accepted(judged(policy(inbound=[inbound(25, "ProxyV9")])))
    assert (status, reason) == ("False", "Invalid")
    assert message.startswith("spec.inbound[0].backend.handover: 'ProxyV9' is not allowed here; ")
    many = accepted(judged(policy(inbound=[{**inbound(25), f"typo{number}": 1} for number in range(7)])))[2]
    assert many.count("unknown field") == 5
    assert many.endswith("; and 2 more")


def test_a_policy_that_the_chart_does_not_allow_is_invalid() -> None:
    record = policy(sidecar={"image": "evil/x"})
    status, reason, message = accepted(judged(record))
    assert (status, reason) == ("False", "Invalid")
    assert "sidecar.allowedImages" in message


def test_a_policy_without_a_word_is_invalid_all_the_same() -> None:
    record = replace(policy(), policy=None)
    assert accepted(judged(record)) == ("False", "Invalid", "the policy cannot be read")


def test_a_policy_that_wins_none_is_conflicted() -> None:
    rival = policy("rival", priority=7)
    status, reason, message = accepted(judged(policy(), *pods(3, policy="rival"), rivals=(rival,)))
    assert (status, reason) == ("False", "Conflicted")
    assert "selects 3 pods and wins none: policy rival (priority 7) takes 3" in message
    assert "raise the priority, or narrow spec.selector" in message
    assert "selects 1 pod and" in accepted(judged(policy(), Pod(policy="rival"), rivals=(rival,)))[2]


def test_a_policy_that_loses_some_is_accepted_and_names_the_winners() -> None:
    rivals = tuple(
        policy(f"r{number}", priority=number + 1, selector={"matchLabels": {"tier": f"t{number}"}})
        for number in range(6)
    )
    lost = [Pod(f"l{number}", policy=f"r{number}", labels={**APP, "tier": f"t{number}"}) for number in range(6)]
    status, reason, message = accepted(judged(policy(), Pod("mine"), *lost, rivals=rivals))
    assert (status, reason) == ("True", "Accepted")
    assert message.startswith("wins 1 of the 7 pods that it selects: policy r0 (priority 1) takes 1, policy r1")
    assert message.endswith("and 1 more")


def test_a_policy_without_a_selector_says_that_it_selects_nothing() -> None:
    assert accepted(judged(policy(selector=None), Pod(policy="")))[1:] == (
        "Accepted",
        "there is no spec.selector, so no pod is selected",
    )


def test_warnings_stand_in_the_message() -> None:
    listener = {**inbound(), "proxyProtocol": {"requiredFrom": ["*"]}}
    status, _, message = accepted(judged(policy(inbound=[listener])))
    assert status == "True"
    assert "warning: spec.inbound[0].proxyProtocol.requiredFrom" in message


# Programmed


def programmed(judgement: Judgement) -> tuple[str, str, str]:
    found = condition(judgement, Condition.PROGRAMMED)
    return found["status"], found["reason"], found["message"]


@pytest.mark.parametrize(
    ("some", "message"),
    [
        ([], "the configuration is ready; no pod is selected"),
        (pods(2), "all 2 started sidecars run the configuration"),
        (
            [Pod("a"), Pod("b", started=False, hash=None)],
            "the started sidecar runs the configuration; 1 not started yet",
        ),
        ([Pod("a", started=False, hash=None)], "the configuration is ready; 1 sidecar has not started yet"),
        (
            [Pod("a", started=False, hash=None), Pod("b", started=False, hash=None)],
            "the configuration is ready; 2 sidecars have not started yet",
        ),
        ([Pod("a", failure="reset")], "the started sidecar runs the configuration"),
    ],
)
def test_a_policy_is_programmed(some: list[Pod], message: str) -> None:
    assert programmed(judged(policy(), *some)) == ("True", "Programmed", message)


FOREIGN = ConfigMapRecord(ours=False, policy_uid="", policy_json=None, injection=None)
OURS = ConfigMapRecord(ours=True, policy_uid="u-edge", policy_json=b"earlier", injection=None)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (OURS, "sidecars keep the last accepted configuration"),
        (None, "no configuration was accepted earlier"),
        (FOREIGN, "no configuration was accepted earlier"),
        (replace(OURS, policy_json=None), "no configuration was accepted earlier"),
    ],
)
def test_an_invalid_policy_is_not_programmed(written: ConfigMapRecord | None, kept: str) -> None:
    judgement = judged(policy(inbound=[]), Pod(), config_map=written)
    status, reason, message = programmed(judgement)
    assert (status, reason) == ("False", "NotAccepted")
    assert message.startswith(kept)


def test_the_hash_of_an_invalid_policy_is_the_delivered_files() -> None:
    judgement = judged(policy(inbound=[]), Pod(), config_map=OURS)
    assert judgement.config_hash == hashlib.sha256(b"earlier").hexdigest()
    runs = judged(policy(inbound=[]), Pod(hash=judgement.config_hash), config_map=OURS)
    assert counts(runs) == (1, 1, 1)
    nothing = judged(policy(inbound=[]), Pod(hash=""), config_map=None)
    assert (nothing.config_hash, nothing.current) == ("", 0)
    assert "configHash" not in nothing.status()


def test_a_conflicted_policy_is_not_programmed() -> None:
    rival = policy("rival", priority=7)
    assert programmed(judged(policy(), Pod(policy="rival"), rivals=(rival,)))[1:] == (
        "NotAccepted",
        "its pods belong to other policies; the condition Accepted says why",
    )


def test_a_namespace_without_the_label() -> None:
    assert programmed(judged(policy(), namespace_enabled=False)) == (
        "False",
        "NamespaceNotEnabled",
        "no pod of namespace mail is injected: kubectl label namespace mail postern.dev/inject=enabled",
    )


def test_a_config_map_that_is_not_ours() -> None:
    status, reason, message = programmed(judged(policy(), config_map=FOREIGN))
    assert (status, reason) == ("False", "ConfigMapConflict")
    assert "ConfigMap postern-edge" in message


def test_a_sidecar_that_refuses_is_quoted() -> None:
    said = "policy.json:1: spec.x:\n unknown\x1b[31m field " + "x" * 1000
    refusing = [
        Pod("a", hash="older", error=said, refused="target"),
        Pod("b", hash="older", error="no", refused="target"),
    ]
    status, reason, message = programmed(judged(policy(), Pod("0"), *reversed(refusing)))
    assert (status, reason) == ("False", "SidecarRejected")
    assert message.startswith(
        "2 sidecars refused the configuration and kept the one before: a, b. a says: policy.json:1:"
    )
    assert "spec.x: unknown?[31m field xxx" in message
    assert "xxx..." in message
    assert len(message) < 700


def test_what_a_sidecar_refused_before_does_not_count() -> None:
    assert programmed(judged(policy(), Pod(error="no", refused="older")))[1] == "Programmed"
    assert programmed(judged(policy(), Pod(hash="x", error="no", refused="older")))[1] == "Pending"
    assert programmed(judged(policy(), Pod(hash="x", error="", refused="target")))[1] == "Pending"


SECRETS = [
    {"domains": [f"{name}.example"], "via": "relay.example.org", "auth": {"secretName": name}} for name in ("s1", "s2")
]
ROUTES = {"hostname": "mail.example.org", "outbound": {"routes": SECRETS}}
LOW_DOOR = {"hostname": "mail.example.org", "outbound": {"submission": {"port": 24}}}


@pytest.mark.parametrize(
    ("spec", "pod", "missing"),
    [
        ({}, Pod(sysctl=26), "the sysctl for port 25"),
        ({"inbound": [inbound(587), inbound(465)]}, Pod(sysctl=1024), "the sysctl for port 465"),
        (LOW_DOOR, Pod(sysctl=25), "the sysctl for port 24"),
        ({"inbound": [inbound(25, "Transparent")]}, Pod(), "the init container of Transparent"),
        (ROUTES, Pod(secrets=("s2", "s3")), "Secret s1"),
        (ROUTES, Pod(sysctl=1024), "Secret s1, Secret s2, the sysctl for port 25"),
        (ROUTES, Pod(secrets=("s1", "s2")), ""),
        ({"inbound": [inbound(25, "Transparent")]}, Pod(transparent=True), ""),
        ({"inbound": [inbound(1025)]}, Pod(sysctl=1024), ""),
        ({"hostname": "mail.example.org", "outbound": {}, "inbound": []}, Pod(sysctl=1024), ""),
    ],
)
def test_a_pod_that_lacks_what_the_configuration_needs(spec: dict[str, Any], pod: Pod, missing: str) -> None:
    status, reason, message = programmed(judged(policy(**spec), pod))
    if missing:
        assert (status, reason) == ("False", "RestartRequired")
        assert message.startswith(f"1 pod made before this configuration: mail-0. Missing: {missing}. Restart")
    else:
        assert (status, reason) == ("True", "Programmed")


def test_five_pods_are_named() -> None:
    message = programmed(judged(policy(), *pods(7, sysctl=1024)))[2]
    assert (
        "7 pods made before this configuration: mail-0, mail-1, mail-2, mail-3, mail-4 and 2 more. Missing" in message
    )
    assert "mail-4. Missing" in programmed(judged(policy(), *pods(5, sysctl=1024)))[2]


def test_pods_without_a_sidecar() -> None:
    older = Pod("b", policy="", created=0.0)
    status, reason, message = programmed(
        judged(policy(), Pod("a", policy=""), older, Pod("c", policy="past"), Pod("d"))
    )
    assert (status, reason) == ("False", "NotInjected")
    assert message.startswith(
        "2 pods without a sidecar: a, b (1 made before the policy). "
        "1 pod with the sidecar of another policy (past) until made again: c. Events of their owners say why, "
        "postern-operator check and postern-operator inject too; "
    )
    alone = programmed(judged(policy(), Pod("c", policy="past")))[2]
    assert alone.startswith("1 pod with the sidecar of another policy")
    bare = programmed(judged(policy(), Pod("c", image="")))[2]
    assert bare.startswith("1 pod without a sidecar: c. Events")


def test_sidecars_that_do_not_answer() -> None:
    silent = [Pod(name, hash="", failure="connect: timed out", silent=30.0) for name in ("b", "a")]
    status, reason, message = programmed(judged(policy(), *silent, Pod("c")))
    assert (status, reason) == ("False", "Unreachable")
    assert message.startswith("2 started sidecars not answering the operator for 30 s: a, b. a: connect: timed out. ")
    assert "NetworkPolicy of namespace mail" in message
    assert programmed(judged(policy(), Pod(started=False, hash="", failure="x", silent=60.0)))[1] == "Programmed"
    assert programmed(judged(policy(), Pod(hash="", failure="x", silent=29.0)))[1] == "Pending"


def test_only_started_sidecars_are_pending() -> None:
    some = [*pods(2), Pod("old", hash="older"), Pod("new", hash=None), Pod("starts", started=False, hash=None)]
    status, reason, message = programmed(judged(policy(), *some))
    assert (status, reason) == ("False", "Pending")
    assert message.startswith("2 of 4 started sidecars still to take the configuration: new, old. ")


@pytest.mark.parametrize("written", [None, OURS])
def test_a_config_map_that_is_not_written_yet_is_pending(written: ConfigMapRecord | None) -> None:
    assert programmed(judged(policy(), config_map=written))[1:] == (
        "Pending",
        "ConfigMap postern-edge is being written",
    )


def test_a_pod_keeps_the_policy_that_it_was_injected_with() -> None:
    """It is another's by now, or opted out, and still runs this configuration."""
    elsewhere = Pod("b", labels={"app": "web"}, hash="older")
    judgement = judged(policy(), Pod("a"), elsewhere)
    assert counts(judgement) == (1, 1, 1)
    assert programmed(judgement)[1] == "Pending"


WRONG: dict[Programmed, tuple[dict[str, Any], dict[str, Any], Pod | None]] = {
    Programmed.NOT_ACCEPTED: ({"sidecar": {"image": "evil/x"}}, {}, None),
    Programmed.NAMESPACE_NOT_ENABLED: ({}, {"namespace_enabled": False}, None),
    Programmed.CONFIG_MAP_CONFLICT: ({}, {"config_map": FOREIGN}, None),
    Programmed.SIDECAR_REJECTED: ({}, {}, Pod("p1", hash="older", error="no", refused="target")),
    Programmed.RESTART_REQUIRED: ({}, {}, Pod("p2", sysctl=1024)),
    Programmed.NOT_INJECTED: ({}, {}, Pod("p3", policy="")),
    Programmed.UNREACHABLE: ({}, {}, Pod("p4", hash="", failure="x", silent=60.0)),
    Programmed.PENDING: ({}, {}, Pod("p5", hash="older")),
}


def test_the_first_reason_of_the_list_is_told() -> None:
    reasons = list(WRONG)
    assert reasons == [reason for reason in Programmed if reason is not Programmed.PROGRAMMED]
    for at, reason in enumerate(reasons):
        spec: dict[str, Any] = {}
        changes: dict[str, Any] = {}
        some: list[Pod] = []
        for later in reasons[at:]:  # this one and all behind it are wrong
            more, change, pod = WRONG[later]
            spec |= more
            changes |= change
            some += [pod] if pod else []
        assert programmed(judged(policy(**spec), *some, **changes))[1] == reason.value


def test_each_check_stands_on_its_own() -> None:
    """Of a policy that is not accepted the later ones say nothing wrong, whoever asks them."""
    seen = view(*world(policy(inbound=[]), Pod(sysctl=1024)))
    assert checks.restart_is_required(seen) is None
    finding = checks.sidecars_are_pending(seen)
    assert finding is not None
    assert finding.reason is Programmed.PENDING


# SidecarsOutdated


def outdated(judgement: Judgement) -> tuple[str, str, str]:
    found = condition(judgement, Condition.SIDECARS_OUTDATED)
    return found["status"], found["reason"], found["message"]


def test_older_sidecars_leave_the_policy_programmed() -> None:
    judgement = judged(policy(), Pod("a"), Pod("b", stamp="older", image="r/p:0"), Pod("c", stamp=None))
    status, reason, message = outdated(judgement)
    assert (status, reason) == ("True", "OlderSidecars")
    assert message.startswith("2 pods with an older image or template: b, c (image r/p:0, r/p:1). They work on")
    assert programmed(judgement)[0] == "True"


def test_sidecars_of_today() -> None:
    assert outdated(judged(policy(), Pod()))[:2] == ("False", "UpToDate")
    assert outdated(judged(policy(), Pod(stamp="older"), spec_hash=""))[:2] == ("False", "UpToDate")


# What is kept, written and told


def before(**changes: Any) -> dict[str, Any]:
    """A status as it stands, good, of EARLIER, with somebody else's condition."""
    judgement = judged(policy(), Pod())
    status = judgement.status()
    for one in status["conditions"]:
        one["lastTransitionTime"] = EARLIER
    return {**status, **changes}


def test_the_time_of_a_transition_is_kept_while_the_status_is_the_same() -> None:
    judgement = judged(policy(status=before()), Pod(hash="older"))
    assert condition(judgement, Condition.ACCEPTED)["lastTransitionTime"] == EARLIER
    assert condition(judgement, Condition.PROGRAMMED)["lastTransitionTime"] == STAMPED_NOW
    assert not unchanged(before(), judgement)
    same = judged(policy(status=before()), Pod(stamp="older"))
    assert condition(same, Condition.PROGRAMMED)["lastTransitionTime"] == EARLIER
    assert condition(same, Condition.SIDECARS_OUTDATED)["lastTransitionTime"] == STAMPED_NOW


def test_another_reason_with_the_same_status_is_no_transition_in_time() -> None:
    status = judged(policy(), Pod(hash="older")).status()
    for one in status["conditions"]:
        one["lastTransitionTime"] = EARLIER
    judgement = judged(policy(status=status), Pod(policy=""))
    assert programmed(judgement)[1] == "NotInjected"
    assert condition(judgement, Condition.PROGRAMMED)["lastTransitionTime"] == EARLIER


@pytest.mark.parametrize("broken", [None, 5, "", []])
def test_a_transition_without_a_time_gets_one(broken: object) -> None:
    status = before()
    status["conditions"][1]["lastTransitionTime"] = broken
    assert condition(judged(policy(status=status), Pod()), Condition.PROGRAMMED)["lastTransitionTime"] == STAMPED_NOW


def test_others_conditions_are_neither_written_nor_looked_at() -> None:
    theirs = {"type": "Reviewed", "status": "True", "observedGeneration": 99}
    status = before()
    status["conditions"].insert(0, theirs)
    judgement = judged(policy(status=status), Pod())
    assert unchanged(status, judgement)
    assert "Reviewed" not in {one["type"] for one in judgement.conditions}


def test_a_newer_generation_is_not_written_over() -> None:
    status = before()
    status["conditions"][1]["observedGeneration"] = 5
    assert judge(*world(policy(status=status), Pod())) is None
    status["conditions"][1]["observedGeneration"] = 4
    assert judge(*world(policy(status=status), Pod())) is not None


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"conditions": None},
        {"conditions": "x"},
        {"conditions": [None, "x", {"type": None}, {}]},
        {"conditions": [{"type": ["Accepted"]}, {"type": {}}]},
        {"conditions": [{"type": "Accepted", "observedGeneration": "9"}]},
        {"pods": "x", "configHash": 7},
    ],
)
def test_an_odd_status_is_written_anew(status: dict[str, Any]) -> None:
    judgement = judged(policy(status=status), Pod())
    assert not unchanged(status, judgement)
    assert len(judgement.conditions) == 3


def test_nothing_is_written_when_nothing_changed() -> None:
    judgement = judged(policy(status=before()), Pod())
    assert unchanged(before(), judgement)
    assert unchanged(before(conditions=before()["conditions"][::-1]), judgement)
    with_more = before()
    with_more["conditions"][0]["later"] = "of a newer operator"
    assert unchanged(with_more, judgement)


@pytest.mark.parametrize(
    "change",
    [
        {"configHash": "other"},
        {"pods": {"selected": 1, "injected": 1, "current": 0}},
        {"conditions": before()["conditions"][:2]},
        {"conditions": [{**one, "observedGeneration": 3} for one in before()["conditions"]]},
        {"conditions": [{**one, "message": "other"} for one in before()["conditions"]]},
    ],
)
def test_what_changed_is_written(change: dict[str, Any]) -> None:
    assert not unchanged(before(**change), judged(policy(status=before()), Pod()))


@pytest.mark.parametrize(
    ("change", "pod", "expected"),
    [
        ({}, Pod(hash=None), True),
        ({}, Pod(hash=None, stamp="older"), True),
        ({}, Pod(), False),
        ({}, Pod(hash=None, sysctl=1024), False),
        ({"configHash": "other"}, Pod(hash=None), False),
        ({"conditions": []}, Pod(hash=None), False),
        ({"conditions": [{**one, "observedGeneration": 3} for one in before()["conditions"]]}, Pod(hash=None), False),
        ({"conditions": [{**one, "status": "False"} for one in before()["conditions"]]}, Pod(hash=None), False),
    ],
)
def test_sidecars_that_are_only_unheard_are_no_news(change: dict[str, Any], pod: Pod, expected: bool) -> None:
    status = before(**change)
    assert unheard(status, judged(policy(status=status), pod)) is expected


def reasons(notices: tuple[Notice, ...]) -> list[tuple[bool, str]]:
    return [(notice.warning, notice.reason) for notice in notices]


GOOD = [Pod()]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (None, GOOD, [(False, "Accepted"), (False, "Programmed")]),
        (GOOD, GOOD, []),
        (GOOD, [Pod(hash="older")], []),  # Pending passes by itself
        ([Pod(hash="older")], GOOD, [(False, "Programmed")]),
        (GOOD, [Pod(policy="")], [(True, "NotInjected")]),
        ([Pod(policy="")], [Pod(policy=""), Pod("b", policy="")], []),  # another message only
        ([Pod(policy="")], [Pod(sysctl=1024)], [(True, "RestartRequired")]),
        (GOOD, [Pod(stamp="older")], [(True, "OlderSidecars")]),
        ([Pod(stamp="older")], GOOD, [(False, "UpToDate")]),
    ],
)
def test_transitions_are_told_once(old: list[Pod] | None, new: list[Pod], expected: list[tuple[bool, str]]) -> None:
    status = {} if old is None else judged(policy(), *old).status()
    judgement = judged(policy(status=status), *new)
    assert reasons(transitions(status, judgement)) == expected
    assert transitions(judgement.status(), judgement) == ()


def test_an_invalid_policy_is_told_once_and_not_twice() -> None:
    notices = transitions(before(), judged(policy(inbound=[]), Pod()))
    assert reasons(notices) == [(True, "Invalid")]  # and not NotAccepted too


def test_each_reason_is_told_but_those_that_say_nothing_new() -> None:
    told = set()
    quiet = {Programmed.NOT_ACCEPTED.value, Programmed.PENDING.value}
    for reason in (*Accepted, *Programmed, *Outdated):
        made = {"type": "Programmed", "status": "False", "reason": reason.value}
        notices = transitions({"conditions": [{"type": "Programmed", "reason": "?"}]}, Judgement((made,), "", 0, 0, 0))
        told |= {notice.reason for notice in notices}
    assert told == {reason.value for reason in (*Accepted, *Programmed, *Outdated)} - quiet


def test_a_message_is_bounded_and_printable() -> None:
    record = replace(policy(), problems=(Problem("", 0, "spec", "x" * 3000, ""),))
    message = accepted(judged(record))[2]
    assert message == "spec: " + "x" * 2039 + "..."
    said = judged(policy(), Pod(hash="", failure="\x1b[31m\n\u202e" + "y" * 400, silent=60.0))
    assert "?[31m ?yyy" in programmed(said)[2]
    assert programmed(said)[2].count("y") < 330


# Laws

some_pods = st.lists(
    st.builds(
        Pod,
        name=st.sampled_from("abcdefgh"),
        policy=st.sampled_from(["edge", "edge", "edge", "rival", ""]),
        labels=st.sampled_from([APP, {**APP, "tier": "edge"}, {"app": "web"}]),
        known=st.booleans(),
        ended=st.booleans(),
        started=st.booleans(),
        sysctl=st.sampled_from([25, 25, 1024]),
        image=st.sampled_from(["r/p:1", ""]),
        stamp=st.sampled_from(["template", "older", None]),
        hash=st.sampled_from(["target", "target", "older", None]),
        error=st.sampled_from(["", "no\n"]),
        refused=st.sampled_from(["", "target"]),
        failure=st.sampled_from(["", "reset"]),
        silent=st.sampled_from([None, 1.0, 60.0]),
    ),
    unique_by=lambda pod: pod.name,
    max_size=6,
)
RIVALS = (
    policy("rival", priority=1, selector={"matchLabels": {"tier": "edge"}}),
    policy("twin", priority=1, selector={"matchLabels": {"tier": "edge"}}),
)
specs = st.sampled_from([{}, {"inbound": []}, {"sidecar": {"image": "evil/x"}}, {"selector": None}])


@settings(max_examples=200, deadline=None)
@given(some_pods, specs, st.booleans())
def test_a_judgement_of_its_own_output_changes_nothing(some: list[Pod], spec: dict[str, Any], enabled: bool) -> None:
    first = judged(policy(**spec), *some, rivals=RIVALS, namespace_enabled=enabled)
    status = first.status()
    since = {pod.uid: NOW - pod.silent for pod in some if pod.silent is not None and pod.silent >= 30}
    again = judged(
        policy(status=status, **spec), *some, rivals=RIVALS, namespace_enabled=enabled, now=NOW + 5, since=since
    )
    assert again == first
    assert unchanged(status, again)
    assert transitions(status, again) == ()
    assert first.current <= first.injected <= first.selected


@settings(max_examples=200, deadline=None)
@given(some_pods, specs, st.randoms(use_true_random=False))
def test_the_order_of_what_is_read_changes_nothing(
    some: list[Pod], spec: dict[str, Any], chance: random.Random
) -> None:
    inputs, rendered = world(policy(**spec), *some, rivals=RIVALS)
    mixed: dict[str, Any] = {
        name: tuple(chance.sample(getattr(inputs, name), len(getattr(inputs, name))))
        for name in ("rivals", "candidates", "injected")
    }
    assert judge(replace(inputs, **mixed), rendered) == judge(inputs, rendered)
