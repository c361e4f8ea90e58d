"""Objects of the API server become records, whatever they look like; a policy's problems are all there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postern_operator.model import Injection, Key, Listener, Owner, Stamp
from postern_operator.records import (
    POLICY_SIZE,
    candidate,
    config_map_record,
    image_allowed,
    injection_of,
    pod_record,
    policy_record,
    seconds,
    stamp_of,
)
from postern_operator.render import injection_json, render
from postern_operator.settings import Sidecar
from postern_sidecar.config import normalized

PLAIN = Sidecar()
INBOUND = {"name": "smtp", "port": 25, "backend": {"port": 2525, "handover": "ProxyV2"}}
TRANSPARENT = {"name": "smtp", "port": 25, "backend": {"port": 2525, "handover": "Transparent"}}


def raw_policy(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "MailProxyPolicy",
        "metadata": {
            "name": "edge",
            "namespace": "mail",
            "uid": "u-1",
            "generation": 7,
            "creationTimestamp": "2026-11-22T10:00:00Z",
            "resourceVersion": "12",
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
        },
        "spec": {"selector": {"matchLabels": {"app": "mail"}}, "inbound": [INBOUND], **spec},
        "status": {"configHash": "old"},
    }


def test_a_good_policy() -> None:
    record = policy_record(raw_policy(priority=5), PLAIN)
    assert (record.key, record.uid, record.generation) == (Key("mail", "edge"), "u-1", 7)
    assert record.created == "2026-11-22T10:00:00Z"
    assert record.priority == 5
    assert record.selector is not None
    assert record.selector.match_labels == {"app": "mail"}
    assert (record.problems, record.warnings) == ((), ())
    assert record.status == {"configHash": "old"}
    assert record.policy is not None
    assert (record.policy.name, record.policy.namespace) == ("edge", "mail")
    assert record.policy.spec.inbound[0].port == 25


def test_all_that_a_sidecar_would_refuse_is_a_problem_without_a_line() -> None:
    record = policy_record(raw_policy(inbound=[{**INBOUND, "port": 0}, {**INBOUND, "typo": 1}], priority=3), PLAIN)
    assert record.policy is None
    assert len(record.problems) >= 2
    assert {(problem.file, problem.line) for problem in record.problems} == {("", 0)}
    assert "spec.inbound[1].typo" in {problem.path for problem in record.problems}
    assert record.priority == 3  # whatever else is wrong
    assert record.selector is not None


def test_rules_are_compiled() -> None:
    rule = {"name": "r", "when": "no_such_name == 1", "action": "Log"}
    (problem,) = policy_record(raw_policy(inbound=[{**INBOUND, "rules": [rule]}]), PLAIN).problems
    assert problem.path == "spec.inbound[0].rules[0].when"


def test_warnings_are_no_problems() -> None:
    record = policy_record(raw_policy(inbound=[{**INBOUND, "proxyProtocol": {"requiredFrom": ["*"]}}]), PLAIN)
    assert record.policy is not None
    assert record.problems == ()
    assert [(problem.warning, problem.file, problem.line) for problem in record.warnings] == [(True, "", 0)]
    broken = policy_record(
        raw_policy(hostname="not a name", inbound=[{**INBOUND, "proxyProtocol": {"requiredFrom": ["*"]}}]), PLAIN
    )
    assert [problem.path for problem in broken.problems] == ["spec.hostname"]
    assert len(broken.warnings) == 1


@pytest.mark.parametrize(
    "selector",
    [
        None,
        {},
        [],
        "app=mail",
        {"matchLabels": {"app": 1}},
        {"matchLabels": {"not a key": "x"}},
        {"matchLabels": {"app": "mail,tier=x"}},  # would be another query
        {"matchExpressions": [{"key": "app", "operator": "In"}]},
        {"unknown": {}},
    ],
)
def test_a_selector_that_the_api_server_would_refuse_selects_nothing(selector: object) -> None:
    assert policy_record(raw_policy(selector=selector), PLAIN).selector is None


@pytest.mark.parametrize("priority", [None, "1", True, 1.5])
def test_a_priority_that_is_no_number_is_zero(priority: object) -> None:
    record = policy_record(raw_policy(priority=priority), PLAIN)
    assert record.priority == 0
    assert [problem.path for problem in record.problems] == ["spec.priority"]


@pytest.mark.parametrize(
    ("image", "prefixes", "allowed"),
    [
        ("registry/x", ("registry/x",), True),
        ("registry/x:1.0", ("registry/x",), True),
        ("registry/x@sha256:aa", ("registry/x",), True),
        ("registry/x:1.0@sha256:aa", ("registry/x",), True),
        ("registry/x/y:1", ("registry/x",), True),
        ("registry/x/y:1", ("other", "registry/"), True),
        ("registry/x:1.0", ("registry/x:1.0",), True),
        ("registry/xevil", ("registry/x",), False),
        ("registry/x-evil:1", ("registry/x",), False),
        ("registry/x.evil", ("registry/x",), False),
        ("registry/x:1.01", ("registry/x:1.0",), False),
        ("registry.evil.example/x", ("registry",), False),
        ("registry:5000/x", ("registry",), False),  # another port is another registry
        ("registry@evil/x", ("registry",), False),
        ("registry:5000/x:1", ("registry:5000/x",), True),
        ("evil/registry/x", ("registry/x",), False),
        ("evil/x", ("registry/",), False),
        ("/x", ("registry",), False),
        ("anything", ("",), False),
        ("anything", (), False),
    ],
)
def test_an_image_is_allowed_under_a_prefix(image: str, prefixes: tuple[str, ...], allowed: bool) -> None:
    assert image_allowed(image, prefixes) is allowed
    record = policy_record(raw_policy(sidecar={"image": image}), Sidecar(allowed_images=prefixes))
    assert [problem.path for problem in record.problems] == ([] if allowed else ["spec.sidecar.image"])
    assert record.policy is not None
    if not allowed:
        assert "sidecar.allowedImages" in record.problems[0].remedy


def test_transparent_needs_the_administrators_word() -> None:
    raw = raw_policy(inbound=[TRANSPARENT])
    (problem,) = policy_record(raw, PLAIN).problems
    assert (problem.path, problem.warning) == ("spec.inbound", False)
    assert "sidecar.allowTransparent" in problem.remedy
    assert policy_record(raw, Sidecar(allow_transparent=True)).problems == ()


def test_the_charts_admin_port_is_kept_free() -> None:
    smtp, other = INBOUND, {**INBOUND, "name": "other", "port": 2626}
    outbound = {"submission": {"port": 11025, "lmtpPort": 11024}}
    raw = raw_policy(hostname="mail.example.net", inbound=[smtp, other], outbound=outbound)
    for port, path in [
        (25, "spec.inbound[0].port"),
        (2626, "spec.inbound[1].port"),
        (11025, "spec.outbound.submission.port"),
        (11024, "spec.outbound.submission.lmtpPort"),
    ]:
        (problem,) = policy_record(raw, Sidecar(admin_port=port)).problems
        assert (problem.path, problem.warning) == (path, False)
        assert f"{port} is the sidecar's admin port" in problem.message
        assert "sidecar.adminPort" in problem.remedy
    assert policy_record(raw, Sidecar(admin_port=15999)).problems == ()
    assert policy_record(raw_policy(), Sidecar(admin_port=11025)).problems == ()  # no outbound, no door
    (usual,) = policy_record(raw_policy(inbound=[{**INBOUND, "port": 15925}]), PLAIN).problems
    assert usual.path == "spec.inbound[0].port"


@pytest.mark.parametrize(
    ("resources", "paths"),
    [
        ({}, []),
        ({"limits": {"cpu": 1, "memory": "256Mi"}, "requests": {"cpu": "50m", "memory": "64Mi"}}, []),
        ({"requests": {"cpu": "0.5", "ephemeral-storage": "1G"}}, []),
        ({"limits": {"cpu": "1"}, "requests": {"cpu": "1000m"}}, []),
        ({"limits": {"cpu": "1"}, "requests": {"cpu": "1001m"}}, ["spec.sidecar.resources.requests.cpu"]),
        ({"limits": {"memory": "1G"}, "requests": {"memory": "1Gi"}}, ["spec.sidecar.resources.requests.memory"]),
        ({"claims": [{"name": "gpu"}]}, ["spec.sidecar.resources.claims"]),
        ({"limits": ["cpu"]}, ["spec.sidecar.resources.limits"]),
        ({"limits": {"cpu": "lots"}}, ["spec.sidecar.resources.limits.cpu"]),
        ({"limits": {"cpu": True}}, ["spec.sidecar.resources.limits.cpu"]),
        ({"limits": {"cpu": -1}}, ["spec.sidecar.resources.limits.cpu"]),
        ({"limits": {"cpu": 10**30}}, ["spec.sidecar.resources.limits.cpu"]),
        ({"limits": {"cpu": None}}, ["spec.sidecar.resources.limits.cpu"]),
        ({"limits": {"nvidia.com/gpu": 1}}, ["spec.sidecar.resources.limits['nvidia.com/gpu']"]),
    ],
)
def test_resources_that_would_make_every_pod_fail_are_a_problem(resources: dict[str, Any], paths: list[str]) -> None:
    record = policy_record(raw_policy(sidecar={"resources": resources}), PLAIN)
    assert [problem.path for problem in record.problems] == paths
    assert (record.policy is None) is bool(paths)


def patterns(count: int, length: int) -> list[str]:
    """Domains of `length` characters."""
    return [f"{number:05d}{'a' * 50}.{'b' * 60}.{'c' * 60}.{'d' * 60}"[:length] for number in range(count)]


def large(count: int) -> dict[str, Any]:
    every = patterns(count, 230)
    routes = [{"domains": every[at : at + 1000], "via": "relay.example.org:25"} for at in range(0, count, 1000)]
    return raw_policy(hostname="mail.example.org", outbound={"routes": routes})


def test_a_policy_that_no_config_map_can_hold_is_a_problem() -> None:
    fits, exceeds, beyond = (policy_record(large(count), PLAIN) for count in (4100, 4200, 4700))
    assert fits.problems == ()
    assert fits.policy is not None
    assert exceeds.policy is not None
    assert len(normalized(fits.policy)) <= POLICY_SIZE < len(normalized(exceeds.policy))
    assert beyond.policy is None
    for record in (exceeds, beyond):
        (problem,) = record.problems
        assert problem.path == "spec"
        assert "ConfigMap" in problem.message
        assert "split" in problem.remedy


def test_the_largest_injection_json_has_room() -> None:
    longest = [f"{number:03d}{'s' * 250}" for number in range(256)]
    routes = [
        {"domains": [f"d{number}.example"], "via": "relay.example.org", "auth": {"secretName": name}}
        for number, name in enumerate(longest)
    ]
    inbound = [{**INBOUND, "name": f"l{number:011d}", "port": 10000 + number} for number in range(16)]
    resources = {part: dict.fromkeys(("cpu", "memory", "ephemeral-storage"), "1") for part in ("limits", "requests")}
    image = "r/" + "i" * 510
    raw = raw_policy(
        hostname="mail.example.org",
        inbound=inbound,
        outbound={"routes": routes},
        sidecar={"image": image, "resources": resources},
    )
    record = policy_record(raw, Sidecar(allowed_images=("r/",)))
    rendered = render(record)
    assert record.problems == ()
    assert rendered is not None
    text = injection_json(rendered.injection)
    assert len(text) + POLICY_SIZE <= 1 << 20
    assert injection_of(text) == rendered.injection


@pytest.mark.parametrize(
    "spec",
    [None, [], "text", 5, {"inbound": {1, 2}}, {"inbound": [float("nan")]}, {"hostname": "\ud800"}, {"\ud800": 1}],
)
def test_a_spec_that_is_none_is_a_problem(spec: object) -> None:
    record = policy_record({"metadata": {"name": "edge"}, "spec": spec}, PLAIN)
    assert record.policy is None
    assert record.problems
    assert record.key == Key("", "edge")


def test_a_spec_nested_without_end_is_a_problem() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for spec in ({"sidecar": {"resources": {"limits": deep}}}, {"selector": deep}):
        record = policy_record({"metadata": {"name": "edge"}, "spec": spec}, PLAIN)
        assert record.policy is None
        assert record.problems


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
NAMES = [
    *("metadata", "spec", "status", "data", "labels", "annotations", "name", "namespace", "ownerReferences"),
    *("controller", "initContainers", "initContainerStatuses", "volumes", "projected", "sources", "secret"),
    *("securityContext", "sysctls", "selector", "priority", "inbound", "sidecar", "resources", "creationTimestamp"),
]
odd = st.recursive(
    json_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), odd, max_size=6))
def test_no_object_is_too_odd(raw: dict[str, Any]) -> None:
    assert policy_record(raw, PLAIN).problems
    pod_record(raw)
    candidate(raw)
    config_map_record(raw, PLAIN)


STAMP = Stamp(version="1", policy_uid="u-1", spec_hash="h", init_containers=("postern",), sysctl=True)


def raw_pod() -> dict[str, Any]:
    return {
        "metadata": {
            "name": "mail-0",
            "namespace": "mail",
            "uid": "p-1",
            "labels": {"app": "mail", "postern.dev/policy": "edge", "odd": 3},
            "annotations": {
                "postern.dev/config-hash": "aa.0",
                "postern.dev/status": '{"version":"1","policyUid":"u-1","specHash":"h","initContainers":["postern"],'
                '"sysctl":true,"later":1}',
            },
        },
        "spec": {
            "initContainers": [{"name": "first"}, {"name": "postern-init"}, {"name": "postern", "image": "r/p:1"}],
            "securityContext": {
                "sysctls": [{"name": "x"}, {"name": "net.ipv4.ip_unprivileged_port_start", "value": "25"}]
            },
            "volumes": [
                {"name": "postern-config", "configMap": {"name": "postern-edge"}},
                {"name": "other", "secret": {"secretName": "foreign"}},
                {
                    "name": "postern-credentials",
                    "projected": {"sources": [{"secret": {"name": "b"}}, {"secret": {"name": "a"}}, {"configMap": {}}]},
                },
                {"name": "postern-credentials-2", "secret": {"secretName": "c"}},
            ],
        },
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.9",
            "initContainerStatuses": [{"name": "postern", "started": True}],
        },
    }


def test_an_injected_pod() -> None:
    pod = pod_record(raw_pod())
    assert (pod.key, pod.uid, pod.policy) == (Key("mail", "mail-0"), "p-1", "edge")
    assert pod.labels == {"app": "mail", "postern.dev/policy": "edge"}
    assert (pod.poke, pod.stamp) == ("aa.0", STAMP)
    assert (pod.ip, pod.started, pod.terminating) == ("10.0.0.9", True, False)
    assert (pod.sysctl, pod.transparent, pod.secrets, pod.image) == (25, True, ("a", "b", "c"), "r/p:1")


def test_a_pod_that_has_nothing_of_ours() -> None:
    pod = pod_record({"metadata": {"name": "mail-0", "namespace": "mail"}, "spec": {}, "status": {}})
    assert (pod.policy, pod.poke, pod.stamp, pod.ip, pod.image) == ("", "", None, "", "")
    assert (pod.started, pod.terminating, pod.sysctl, pod.transparent, pod.secrets) == (False, False, 1024, False, ())


@pytest.mark.parametrize("value", ["", "low", "-1", "100000", "\u0661", 25, None])
def test_a_sysctl_that_is_no_port_counts_as_none(value: object) -> None:
    raw = raw_pod()
    raw["spec"]["securityContext"]["sysctls"][1]["value"] = value
    assert pod_record(raw).sysctl == 1024


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("metadata", {"deletionTimestamp": "2026-11-22T10:00:00Z"}),
        ("status", {"phase": "Succeeded"}),
        ("status", {"phase": "Failed"}),
    ],
)
def test_a_pod_that_ends_or_has_ended_is_terminating(where: str, change: dict[str, Any]) -> None:
    raw = raw_pod()
    raw[where] |= change
    assert pod_record(raw).terminating


def test_a_candidate_from_partial_object_metadata() -> None:
    owners = [
        {"kind": "Node", "controller": False},
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "mail", "uid": "o-1", "controller": True},
    ]
    metadata = {
        "name": "mail-0",
        "namespace": "mail",
        "uid": "p-1",
        "labels": {"postern.dev/policy": "edge"},
        "creationTimestamp": "1970-01-01T00:01:00Z",
        "ownerReferences": owners,
    }
    found = candidate({"kind": "PartialObjectMetadata", "metadata": metadata})
    assert (found.key, found.uid, found.policy) == (Key("mail", "mail-0"), "p-1", "edge")
    assert (found.created, found.terminating) == (60.0, False)
    assert found.owner == Owner("apps/v1", "StatefulSet", "mail", "o-1")
    gone = candidate({"metadata": {**metadata, "ownerReferences": owners[:1], "deletionTimestamp": "x"}})
    assert (gone.terminating, gone.owner) == (True, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:10Z", 10.0),
        ("1970-01-01T01:00:10+01:00", 10.0),
        ("1970-01-01T00:00:10.5Z", 10.5),
        ("1970-01-01T00:00:10", 0.0),
        ("yesterday", 0.0),
        ("", 0.0),
    ],
)
def test_a_timestamp_is_seconds(text: str, expected: float) -> None:
    assert seconds(text) == expected


GOOD = Injection(policy="edge", uid="u-1", hash="aa", listeners=(Listener(name="smtp", port=25),), secrets=("a",))


def raw_config_map(injection: str = injection_json(GOOD), **metadata: Any) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "postern"}
    annotations = {"postern.dev/policy-uid": "u-1"}
    place = {"name": "postern-edge", "labels": labels, "annotations": annotations, **metadata}
    return {"metadata": place, "data": {"policy.json": "{}", "injection.json": injection}}


def test_our_config_map() -> None:
    record = config_map_record(raw_config_map(), PLAIN)
    assert (record.ours, record.policy_uid, record.policy_json) == (True, "u-1", b"{}")
    assert record.injection == GOOD


def test_somebody_elses_config_map() -> None:
    for labels in ({}, {"app.kubernetes.io/managed-by": "Helm"}, None):
        assert not config_map_record(raw_config_map(labels=labels), PLAIN).ours
    bare = config_map_record({"metadata": {"name": "postern-edge"}}, PLAIN)
    assert (bare.ours, bare.policy_uid, bare.policy_json, bare.injection) == (False, "", None, None)


def changed(**fields: object) -> str:
    return json.dumps({**json.loads(injection_json(GOOD)), **fields})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "\ud800",
        "[" * 100_000,
        changed(policy="other"),
        changed(transparent=True),
        changed(image="evil/image:1"),
        changed(resources={"limits": {"cpu": "lots"}}),
        changed(listeners=[{"name": "smtp", "port": 0}]),
        changed(listeners=[{"name": "UPPER", "port": 25}]),
        changed(listeners=[{"name": "smtp", "port": 25}, {"name": "smtp", "port": 26}]),
        changed(listeners=[{"name": f"l{number}", "port": 25} for number in range(17)]),
        changed(secrets=["not a name"]),
        changed(secrets=["a"] * 257),
        changed(submissionPorts=[70000]),
        changed(submissionPorts=[1, 2, 3]),
    ],
)
def test_an_injection_that_no_accepted_policy_gives_is_not_believed(text: str) -> None:
    record = config_map_record(raw_config_map(text), PLAIN)
    assert record.ours
    assert record.injection is None


def test_an_injection_is_believed_within_what_the_chart_allows() -> None:
    text = changed(transparent=True, image="good/image:1", unknown="of a newer operator")
    allowances = Sidecar(allow_transparent=True, allowed_images=("good",))
    injection = config_map_record(raw_config_map(text), allowances).injection
    assert injection is not None
    assert (injection.transparent, injection.image) == (True, "good/image:1")


@pytest.mark.parametrize("text", ["", "x", "{}", '{"version": 1, "policyUid": "u", "specHash": "h"}'])
def test_a_broken_stamp_is_none(text: str) -> None:
    assert stamp_of(text) is None
