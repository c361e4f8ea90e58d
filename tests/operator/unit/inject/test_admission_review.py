"""AdmissionReviews in, answers out: what the API server would make of them."""

from __future__ import annotations

import base64
import json
from typing import Any

import jsonpatch
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from injection_goldens import SETTINGS, VERSION, golden, names, result
from postern_operator.inject import Skipped
from postern_operator.model import Injection, Owner
from postern_operator.reasons import Skip
from postern_operator.review import Answered, NotAReview, Outcome, Request, answer, decide, failed, parse
from postern_operator.settings import FailurePolicy, Settings, Webhook

JSON = dict[str, Any]

POD = golden("job").pod
INJECTION = golden("job").injection
USUAL = golden("job").settings
FAIL = Settings(webhook=Webhook(failure_policy=FailurePolicy.FAIL))
NO_POLICY = Skipped(Skip.NO_POLICY, "no policy selects it")


def body(pod: object = POD, **changes: object) -> bytes:
    request = {
        "uid": "705ab4f5",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "mail",
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        **changes,
    }
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def response(answered: Answered) -> JSON:
    review = json.loads(answered.body)
    assert (review["apiVersion"], review["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    found: JSON = review["response"]
    return found


def patch(answered: Answered) -> list[JSON]:
    found = response(answered)
    assert found["patchType"] == "JSONPatch"
    operations: list[JSON] = json.loads(base64.b64decode(found["patch"], validate=True))
    return operations


def of_edge(_: Request) -> Injection:
    return INJECTION


def never(_: Request) -> Injection:
    raise AssertionError("nobody should look for a policy")


@pytest.mark.parametrize("name", names())
def test_the_patch_makes_the_injected_pod_of_what_was_sent(name: str) -> None:
    case = golden(name)
    answered = answer(body(case.pod), lambda _: case.injection, case.settings, VERSION)
    found = response(answered)
    assert (found["uid"], found["allowed"]) == ("705ab4f5", True)
    expected = result(case)
    if case.skipped:
        assert "patch" not in found
        assert found["warnings"] == [f"postern: no sidecar ({expected['skipped']}): {expected['message']}"]
        assert answered.facts.outcome is Skip(expected["skipped"])
        assert answered.facts.message == expected["message"]
        return
    assert jsonpatch.apply_patch(case.pod, patch(answered)) == expected["pod"]
    assert {each["op"] for each in patch(answered)} <= {"add", "replace"}
    assert found.get("warnings", []) == expected.get("warnings", [])
    assert answered.facts.outcome is Outcome.INJECTED


@pytest.mark.parametrize("name", [name for name in names() if not golden(name).skipped])
def test_an_injected_pod_gets_no_patch(name: str) -> None:
    case = golden(name)
    answered = answer(body(case.expected["pod"]), lambda _: case.injection, case.settings, VERSION)
    assert "patch" not in response(answered)
    assert answered.facts.outcome is Outcome.ALREADY_INJECTED


def test_facts() -> None:
    answered = answer(body(dryRun=True), of_edge, USUAL, VERSION)
    facts = answered.facts
    assert (facts.namespace, facts.name, facts.generate_name) == ("mail", "", "newsletter-")
    assert facts.owner == Owner("batch/v1", "Job", "newsletter", "1d")
    assert (facts.policy, facts.outcome, facts.message, facts.dry_run) == ("edge", Outcome.INJECTED, "", True)
    assert answered.problem is None
    named = answer(body(golden("postfix-with-outbound").pod, name="postfix"), of_edge, USUAL, VERSION).facts
    assert (named.name, named.generate_name, named.owner, named.dry_run) == ("postfix", "", None, False)


def test_labels_and_namespace_for_who_finds_the_policy() -> None:
    """The pod's own namespace may be empty, or another: the request's counts."""
    request = parse(body({**POD, "metadata": {**POD["metadata"], "namespace": "elsewhere"}}))
    assert request.namespace == "mail"
    assert request.labels == {"job-name": "newsletter"}
    assert parse(body({**POD, "metadata": {"labels": None}})).labels == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"operation": "UPDATE"},
        {"operation": "DELETE", "object": None},
        {"operation": "CONNECT"},
        {"subResource": "ephemeralcontainers"},
        {"subResource": "binding"},
        {"resource": {"group": "apps", "version": "v1", "resource": "deployments"}},
        {"resource": {"group": "", "version": "v1", "resource": "services"}},
        {"resource": {"group": "", "version": "v2", "resource": "pods"}},
    ],
)
def test_nothing_but_the_creation_of_a_pod(changes: JSON) -> None:
    answered = answer(body(**changes), never, FAIL, VERSION)
    assert response(answered) == {"uid": "705ab4f5", "allowed": True}
    assert answered.facts.outcome is Outcome.NOT_CONCERNED


@pytest.mark.parametrize("name", ["skip-opted-out", "skip-host-network", "skip-mirror-pod", "skip-windows-by-os"])
def test_a_policy_is_not_looked_for_where_the_pod_says_no(name: str) -> None:
    assert answer(body(golden(name).pod), never, USUAL, VERSION).facts.outcome is Skip(golden(name).expected["skipped"])


@pytest.mark.parametrize("reason", [Skip.NO_POLICY, Skip.POLICY_INVALID])
def test_what_the_finder_says(reason: Skip) -> None:
    answered = answer(body(), lambda _: Skipped(reason, "because"), FAIL, VERSION)
    assert response(answered) == {
        "uid": "705ab4f5",
        "allowed": True,
        "warnings": [f"postern: no sidecar ({reason.value}): because"],
    }
    assert (answered.facts.outcome, answered.facts.policy) == (reason, "")


def test_a_skip_of_the_pod_names_the_policy_that_wanted_it() -> None:
    answered = answer(body(golden("skip-volume-of-that-name").pod), of_edge, USUAL, VERSION)
    assert answered.facts.policy == "edge"


BROKEN: list[JSON] = [
    {"metadata": {}, "spec": {}},
    {"metadata": {}, "spec": {"containers": 5}},
    {"metadata": {}, "spec": {"containers": [{}]}},
    {"metadata": {}, "spec": {"containers": [], "volumes": ["postern"]}},
    {"metadata": {}, "spec": {"containers": [], "os": "windows"}},
    {"metadata": {}, "spec": {"containers": [], "terminationGracePeriodSeconds": "soon"}},
]


@pytest.mark.parametrize("pod", BROKEN)
def test_a_fault_of_ours_lets_the_pod_pass(pod: JSON) -> None:
    answered = answer(body(pod), of_edge, USUAL, VERSION)
    found = response(answered)
    assert found["allowed"] is True
    assert "patch" not in found
    assert found["warnings"][0].startswith("postern: no sidecar (InternalError): ")
    assert answered.facts.outcome is Skip.INTERNAL_ERROR
    assert isinstance(answered.problem, KeyError | TypeError | AttributeError)


@pytest.mark.parametrize("pod", BROKEN)
def test_or_fails_it_where_the_chart_says_so(pod: JSON) -> None:
    answered = answer(body(pod), of_edge, FAIL, VERSION)
    found = response(answered)
    assert found["allowed"] is False
    assert found["status"]["code"] == 500
    assert "label it postern.dev/inject=disabled" in found["status"]["message"]
    assert "set webhook.failurePolicy to Ignore" in found["status"]["message"]
    assert (answered.facts.outcome, answered.facts.policy) == (Skip.INTERNAL_ERROR, "edge")
    assert answered.problem is not None


def test_a_finder_that_breaks_is_a_fault_of_ours_too() -> None:
    def broken(_: Request) -> Injection:
        raise TimeoutError("secret of the API server's")

    assert response(answer(body(), broken, USUAL, VERSION))["allowed"] is True
    refused = answer(body(), broken, FAIL, VERSION)
    assert response(refused)["allowed"] is False
    assert b"secret" not in refused.body  # the log's business, not the peer's
    assert failed(parse(body()), TimeoutError(), USUAL).facts.outcome is Skip.INTERNAL_ERROR


def test_warnings_are_short_and_few() -> None:
    ports = [{"name": f"p{number}", "containerPort": 25} for number in range(50)]
    pod = {"metadata": {}, "spec": {"containers": [{"name": "x" * 300, "image": "i", "ports": ports}]}}
    warnings = response(answer(body(pod), lambda _: golden("postfix").injection, USUAL, VERSION))["warnings"]
    assert [len(each) for each in warnings] == [256] * 8
    assert warnings[0].endswith("...")


def test_keys_are_escaped() -> None:
    pod = {"metadata": {"labels": {}, "annotations": {"a/b~c": "kept"}}, "spec": {"containers": [{"name": "a"}]}}
    operations = patch(answer(body(pod), of_edge, USUAL, VERSION))
    assert "/metadata/annotations/postern.dev~1status" in {each["path"] for each in operations}
    assert jsonpatch.apply_patch(pod, operations)["metadata"]["annotations"]["a/b~c"] == "kept"


def test_parts_that_are_not_there_are_added_whole() -> None:
    operations = patch(answer(body({"metadata": {}, "spec": {"containers": [{"name": "a"}]}}), of_edge, USUAL, VERSION))
    assert {each["path"] for each in operations if each["op"] == "add"} >= {"/metadata/labels", "/metadata/annotations"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"apiVersion": "\xff"}', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not an AdmissionReview"),
        (b"[]", "not an AdmissionReview"),
        (b"{}", "not an AdmissionReview"),
        (b'{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}', "not an AdmissionReview"),
        (
            b'{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": null}',
            "not an AdmissionReview",
        ),
        (body().replace(b"admission.k8s.io/v1", b"admission.k8s.io/v1beta1"), "set admissionReviewVersions"),
        (body(uid=""), "request.uid is empty"),
        (body(uid=7), "not an AdmissionReview"),
        (body(None), "request.object is not a pod"),
        (body([]), "request.object is not a pod"),
        (body({"metadata": {"labels": {"a": 1}}, "spec": {}}), "request.object is not a pod"),
        (body({"metadata": {}, "spec": []}), "request.object is not a pod"),
        (body({"metadata": {}}), "request.object is not a pod"),
        (body("POD").replace(b'"POD"', b'{"metadata": {}, "spec": {"x": "\xff"}}'), "request.object is not a pod"),
        # How deep JSON may be is the interpreter's to say.
        (body("POD").replace(b'"POD"', b"[" * 5000 + b"]" * 5000), "not JSON|request.object is not a pod"),
    ],
)
def test_what_is_no_review(data: bytes, said: str) -> None:
    with pytest.raises(NotAReview, match=said):
        parse(data)


def test_decide_takes_a_skip_that_was_known_before() -> None:
    request = parse(body(golden("skip-opted-out").pod))
    assert decide(request, INJECTION, USUAL, VERSION).facts.outcome is Skip.OPTED_OUT


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)
KEYS = [
    "metadata", "spec", "labels", "annotations", "containers", "initContainers", "volumes", "name", "ports",
    "containerPort", "securityContext", "sysctls", "value", "lifecycle", "preStop", "postern.dev/status", "protocol",
    "ownerReferences", "terminationGracePeriodSeconds", "imagePullSecrets", "os", "nodeSelector",
]  # fmt: skip
VALUES = ["postern", "postern-config", "net.ipv4.ip_unprivileged_port_start", "TCP", 25, True, None, "windows"]
podlike = st.recursive(
    st.sampled_from(VALUES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=40,
)


@settings(max_examples=400)
@given(st.builds(lambda pod, spec: {**pod, "spec": spec}, st.fixed_dictionaries({"metadata": podlike}), podlike))
def test_whatever_the_pod_is_the_answer_is_one(pod: JSON) -> None:
    try:
        answered = answer(body(pod), lambda _: golden("hold-mail-server").injection, USUAL, VERSION)
    except NotAReview:
        return
    found = response(answered)
    assert (found["uid"], found["allowed"]) == ("705ab4f5", True)
    assert all(len(each) <= 256 for each in found.get("warnings", []))
    if "patch" in found:
        jsonpatch.apply_patch(pod, patch(answered))


@settings(max_examples=200)
@given(st.binary() | st.builds(lambda value: json.dumps(value).encode(), anything))
def test_whatever_the_body_is(data: bytes) -> None:
    with pytest.raises(NotAReview):
        parse(data)


def test_settings_of_the_goldens_are_those_of_the_operator() -> None:
    assert SETTINGS["sidecar"]["image"] == USUAL.sidecar.image
