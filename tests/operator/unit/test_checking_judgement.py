"""The checks of `postern-operator check`, in tables: facts in, verdicts out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from postern_operator.checking import cluster, definition, pods, policies, report, webhook
from postern_operator.checking.command import CHECKS
from postern_operator.checking.facts import (
    Bare,
    Facts,
    HeldLease,
    Open,
    Place,
    Release,
    Served,
    Survey,
    Trial,
    Unread,
)
from postern_operator.checking.gathering import backend_ports, named_by_chart, settings_name
from postern_operator.checking.report import Result
from postern_operator.checking.rights import MOST_NAMESPACES, Right, expected
from postern_operator.model import Key, PolicyRecord
from postern_operator.reasons import Skip
from postern_operator.records import policy_record
from postern_operator.render import render
from postern_operator.settings import CertificateMode, Settings, Webhook
from postern_sidecar.config.model import LabelExpression, LabelSelector, Operator

ROOT = Path(__file__).parents[3]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
REFUSED = Unread("403: forbidden", forbidden=True)
BROKEN = Unread("no answer within 10 s")
ENABLED = {"postern.dev/inject": "enabled"}
Object = dict[str, Any]


def crd() -> Object:
    found: Object = YAML(typ="safe").load((ROOT / "crds/mailproxypolicies.postern.dev.yaml").read_text())
    good = {"Established": "True", "NamesAccepted": "True", "NonStructuralSchema": "False"}
    found["status"] = {"conditions": [{"type": kind, "status": status} for kind, status in good.items()]}
    return found


def operator_pod(name: str = "a", *, ready: bool = True, image: str = "i:1", waiting: str = "") -> Object:
    status: Object = {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]}
    if waiting:
        status["containerStatuses"] = [{"state": {"waiting": {"reason": waiting}}}]
    spec = {"containers": [{"name": "operator", "image": image}, {"name": "mesh", "image": "m"}]}
    return {"metadata": {"name": name, "namespace": "s"}, "spec": spec, "status": status}


def release(**settings: Any) -> Release:
    deployment = {
        "metadata": {"name": "postern-operator", "namespace": "s", "labels": {"app.kubernetes.io/version": "1"}},
        "spec": {"replicas": 2},
    }
    return Release("s", deployment, Settings(namespace="s", **settings))


def facts(**fields: Any) -> Facts:
    return Facts(**{"now": NOW, "version": "1", "server": "v1.36.3", "release": release(), **fields})


def policy(name: str = "edge", *, handover: str = "ProxyV2", status: Object | None = None, **spec: Any) -> PolicyRecord:
    listener = {"name": "smtp", "port": 25, "backend": {"port": 2525, "handover": handover}}
    metadata = {"name": name, "namespace": "mail", "generation": 2, "creationTimestamp": "2026-01-01T00:00:00Z"}
    whole = {"selector": {"matchLabels": {"app": "mail"}}, "inbound": [listener], **spec}
    return policy_record({"metadata": metadata, "spec": whole, "status": status or {}}, Settings().sidecar)


def condition(kind: str, status: str, reason: str = "R", *, generation: int = 2) -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": "m", "observedGeneration": generation}


def verdicts(identifier: str, given: Facts) -> list[tuple[str, str]]:
    (check,) = (each for each in CHECKS if each.id == identifier)
    entries = report.evaluate([check], given)
    return [(entry.result.value, entry.message) for entry in entries]


def one(identifier: str, given: Facts) -> tuple[str, str]:
    (found,) = verdicts(identifier, given)
    return found


def test_identifiers_are_unique_and_documented() -> None:
    names = [check.id for check in CHECKS]
    assert len(set(names)) == len(names)
    documented = (ROOT / "docs/operator-check.md").read_text()
    assert [name for name in names if f"`{name}`" not in documented] == []


def test_nothing_known_is_never_good() -> None:
    """Facts that nobody read: errors and what was skipped, but no tick for what was not looked at."""
    entries = report.evaluate(CHECKS, Facts(now=NOW, version="1", server="v1.36.3"))
    good = {entry.id for entry in entries if entry.result is Result.OK}
    assert good == {"api-version", "namespaces-of-policies"}


def test_forbidden_everywhere_is_skipped_everywhere() -> None:
    parts = ("deployments", "definition", "pods", "lease", "rights", "configuration", "service", "endpoints", "secret")
    given = facts(**dict.fromkeys((*parts, "namespaces", "policies", "served"), REFUSED))
    entries = report.evaluate(CHECKS, given)
    assert {entry.result for entry in entries if entry.id not in ("api-version", "operator-settings")} <= {
        Result.SKIPPED,
        Result.OK,
    }
    assert report.status(entries, strict=True) == 0


def test_an_api_server_that_fails_midway_is_an_error() -> None:
    for identifier, part in (
        ("crd-established", "definition"),
        ("release", "deployments"),
        ("operator-ready", "pods"),
        ("lease", "lease"),
        ("rights", "rights"),
        ("webhook", "configuration"),
        ("webhook-service", "service"),
        ("certificates", "secret"),
        ("namespaces", "namespaces"),
        ("namespaces-of-policies", "policies"),
    ):
        result, message = one(identifier, facts(**{part: BROKEN}))
        assert (result, "could not be read: no answer" in message) == ("error", True), identifier


@pytest.mark.parametrize(
    ("server", "result", "message"),
    [
        ("v1.33.0", "ok", "is v1.33.0"),
        ("v1.36.3-gke.1", "ok", "is v1.36.3"),
        ("v2.0.0", "ok", "v2.0.0"),
        ("v1.32.9", "error", "is v1.32.9"),
        ("v1.9.0", "error", "is v1.9.0"),
        ("odd", "warning", "'odd'"),
        (BROKEN, "error", "cannot be asked: no answer"),
    ],
)
def test_api_version(server: str | Unread, result: str, message: str) -> None:
    found = one("api-version", facts(server=server))
    assert (found[0], message in found[1]) == (result, True)


def test_the_definition_of_this_repository_is_ours() -> None:
    assert definition.fields_of_schema(crd()["spec"]["versions"][0]) == definition.fields_of_model()
    assert "spec.outbound.dns.stubs.servers" in definition.fields_of_model()
    given = facts(definition=crd())
    assert one("crd-established", given)[0] == one("crd-version", given)[0] == "ok"


def test_definitions_that_are_not() -> None:
    unserved, bare, dying, refused = crd(), crd(), crd(), crd()
    unserved["spec"]["versions"][0]["served"] = False
    bare["spec"]["versions"][0]["subresources"] = {}
    dying["metadata"]["deletionTimestamp"] = "now"
    refused["status"]["conditions"][1] = {"type": "NamesAccepted", "status": "False", "message": "mpp is taken"}
    assert "does not serve v1alpha1" in one("crd-version", facts(definition=unserved))[1]
    assert "lacks the subresource status" in one("crd-version", facts(definition=bare))[1]
    assert "is being deleted" in one("crd-established", facts(definition=dying))[1]
    assert "NamesAccepted is False: mpp is taken" in one("crd-established", facts(definition=refused))[1]
    assert (
        "Established is False: not set" in verdicts("crd-established", facts(definition={**crd(), "status": {}}))[0][1]
    )
    assert one("crd-established", facts(definition=None))[1].endswith("is not installed")


def test_operator_pods() -> None:
    ready, not_ready = operator_pod("a"), operator_pod("b", ready=False, waiting="CrashLoopBackOff")
    going = {**operator_pod("c"), "metadata": {"name": "c", "namespace": "s", "deletionTimestamp": "now"}}
    assert one("operator-ready", facts(pods=(ready, operator_pod("b"))))[0] == "ok"
    result, message = one("operator-ready", facts(pods=(ready, not_ready, going)))
    assert (result, message) == ("warning", "1 of the operator's 2 pods are ready; b: CrashLoopBackOff")
    assert one("operator-ready", facts(pods=(not_ready,)))[0] == "error"
    assert one("operator-ready", facts(pods=()))[0] == "error"
    scaled = release()
    assert scaled.deployment is not None
    scaled.deployment["spec"]["replicas"] = 0
    assert "wants 0 replicas" in one("operator-ready", facts(release=scaled))[1]


def test_versions() -> None:
    mixed = facts(pods=(operator_pod("a"), operator_pod("b", image="i:2")), version="2")
    assert verdicts("operator-version", mixed) == [
        ("warning", "the operator's pods have different images: i:1, i:2"),
        ("warning", "the operator is version 1, and this command 2"),
    ]
    assert one("operator-version", facts(pods=(operator_pod(),)))[0] == "ok"


def test_settings() -> None:
    assert one("operator-settings", facts())[0] == "ok"
    assert one("operator-settings", facts(release=replace(release(), problem=REFUSED)))[0] == "skipped"
    result, message = one("operator-settings", facts(release=replace(release(), problem="there is no such setting")))
    assert (result, message) == ("error", "the operator's settings: there is no such setting")


def test_leases() -> None:
    held = facts(lease=HeldLease("a", True), pods=(operator_pod("a"),))
    assert one("lease", held)[0] == "ok"
    assert "which is no pod" in one("lease", replace(held, lease=HeldLease("x", True)))[1]
    assert one("lease", replace(held, pods=REFUSED))[0] == "ok"


def test_rights_that_are_missing_are_grouped() -> None:
    asked = dict.fromkeys(expected(release().settings), True)
    asked |= {Right("", "pods", "", "", "patch"): False, Right("", "pods", "", "", "watch"): False}
    asked[Right("coordination.k8s.io", "leases", "s", "postern-operator", "update")] = False
    assert [message for _, message in verdicts("rights", facts(rights=asked))] == [
        "ServiceAccount s/postern-operator may not watch, patch pods",
        "ServiceAccount s/postern-operator may not update leases.coordination.k8s.io postern-operator in namespace s",
    ]


def test_rights_in_many_namespaces_are_bounded() -> None:
    names = tuple(f"n{number}" for number in range(MOST_NAMESPACES + 5))
    given = facts(release=release(watch_namespaces=names))
    assert len({right.namespace for right in expected(given.settings)}) == MOST_NAMESPACES + 2
    assert one("rights", given)[0] == "skipped"


# -- the webhook -------------------------------------------------------------------------------------------------------

SELECTOR = {
    "matchExpressions": [
        {"key": "postern.dev/inject", "operator": "In", "values": ["enabled"]},
        {
            "key": "kubernetes.io/metadata.name",
            "operator": "NotIn",
            "values": ["kube-system", "kube-node-lease", "kube-public", "s"],
        },
    ]
}


def configuration(**fields: Any) -> Object:
    one = {
        "name": "inject.postern.dev",
        "failurePolicy": "Ignore",
        "clientConfig": {"service": {"name": "postern-webhook", "namespace": "s"}},
        "rules": [{"resources": ["pods"], "operations": ["CREATE"]}],
        "namespaceSelector": SELECTOR,
    }
    return {"webhooks": [{**one, **fields}]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "the API server asks the webhook about new pods"),
        ({"name": "x"}, "has no webhook inject.postern.dev"),
        ({"rules": [{"resources": ["pods"], "operations": ["UPDATE"]}]}, "does not ask about the creation of pods"),
        ({"failurePolicy": "Fail"}, "failurePolicy is Fail, and the operator's settings say Ignore"),
    ],
)
def test_the_configuration(fields: Object, message: str) -> None:
    assert message in one("webhook", facts(configuration=configuration(**fields)))[1]


def test_what_depends_on_settings_is_not_judged_without_them() -> None:
    unknown = replace(release(), problem=REFUSED)
    given = placed(policy(), Survey(1, 1, 0, 1), release=unknown, configuration=configuration(failurePolicy="Fail"))
    assert one("sidecars-current", given)[0] == "skipped"
    assert one("sidecars-current", replace(given, release=release()))[0] == "warning"
    assert one("webhook", given)[0] == "ok"


@pytest.mark.parametrize(
    ("selector", "count"),
    [
        (SELECTOR, 0),
        ({}, 4),
        ({"matchExpressions": SELECTOR["matchExpressions"][:1]}, 4),
        ({"matchLabels": {"a": "b"}}, 0),
    ],
)
def test_locked_out(selector: Object, count: int) -> None:
    found = verdicts("webhook-lock-out", facts(configuration=configuration(namespaceSelector=selector)))
    assert sum(result == "error" for result, _ in found) == count


def test_namespaces_that_the_webhook_leaves_out() -> None:
    places = {name: Place({}, {}) for name in ("mail", "kube-system", "plain")}
    labels = {"mail": ENABLED, "kube-system": ENABLED, "plain": {}}
    given = facts(configuration=configuration(), namespaces=labels, places=places)
    assert [message for _, message in verdicts("webhook-namespaces", given)] == [
        "namespace kube-system is enabled, and the webhook leaves it out always: its pods are not injected"
    ]
    narrow = configuration(namespaceSelector={"matchLabels": {"team": "a"}})
    assert (
        "leaves out the enabled namespace mail"
        in verdicts("webhook-namespaces", replace(given, configuration=narrow))[0][1]
    )


def test_the_service() -> None:
    given = facts(configuration=configuration(), service={"spec": {}}, endpoints=1)
    assert one("webhook-service", given)[0] == "ok"
    assert "has no ready endpoint" in one("webhook-service", replace(given, endpoints=0))[1]
    assert "does not exist" in one("webhook-service", replace(given, service=None))[1]
    assert one("webhook-service", replace(given, endpoints=REFUSED))[0] == "skipped"
    other = configuration(clientConfig={"service": {"name": "x", "namespace": "y"}})
    assert "points to Service y/x" in one("webhook-service", replace(given, configuration=other))[1]


def test_certificates_of_cert_manager_are_not_judged_here() -> None:
    mode = Webhook(certificates=CertificateMode.CERT_MANAGER)
    given = facts(release=release(webhook=mode), configuration=configuration())
    assert one("certificates", given)[0] == "skipped"
    assert "is empty" in one("webhook-ca", given)[1]
    broken = configuration(clientConfig={"caBundle": "bm90IFBFTQ=="})
    assert "is broken" in one("webhook-ca", replace(given, configuration=broken))[1]


@pytest.mark.parametrize(
    ("served", "result", "message"),
    [
        (None, "skipped", "cannot be reached from outside"),
        (
            Served("h:1", "certificate has expired"),
            "error",
            "the webhook at h:1 cannot be used: certificate has expired",
        ),
        (Served("h:1", expires=NOW + timedelta(days=3)), "ok", "valid for 72 more hours"),
        (Served("h:1", expires=NOW + timedelta(hours=59)), "warning", "valid for 59 more hours"),
        (Served("h:1", expires=NOW), "error", "expired 2026-01-01 00:00"),
        (REFUSED, "skipped", "403"),
    ],
)
def test_what_is_served(served: Served | Unread | None, result: str, message: str) -> None:
    found = one("webhook-tls", facts(configuration=configuration(), served=served))
    assert (found[0], message in found[1]) == (result, True)


@pytest.mark.parametrize(
    ("trial", "result", "message"),
    [
        (Trial("n", "edge", "edge"), "ok", "comes out with the sidecar of policy edge"),
        (Trial("n", "edge"), "error", "without a sidecar: the API server did not reach the webhook"),
        (Trial("n", "edge", "old"), "error", "comes out with the sidecar of policy old"),
        (
            Trial("n", "edge", "", ("postern: no sidecar (NoPolicy): none", "other's")),
            "error",
            "without a sidecar: postern: no sidecar (NoPolicy): none",
        ),
        (Trial("n", "edge", refusal="POST: 403: forbidden: may not"), "skipped", "cannot be tried"),
        (Trial("n", "edge", refusal="POST: 400: quota"), "warning", "cannot be tried: POST: 400: quota"),
        (Trial("n", "edge", refusal='500: failed calling webhook "inject.postern.dev"'), "error", "webhook failed"),
    ],
)
def test_trials(trial: Trial, result: str, message: str) -> None:
    found = one("injection", facts(trials=(trial,)))
    assert (found[0], message in found[1]) == (result, True)


# -- policies and pods -------------------------------------------------------------------------------------------------


def placed(record: PolicyRecord, survey: Survey = Survey(1, 1), **fields: Any) -> Facts:  # noqa: B008 - frozen
    place = Place({record.key.name: survey}, {record.key.name: True})
    given: Object = {"policies": (record,), "places": {"mail": place}, "namespaces": {"mail": ENABLED}}
    return facts(**{**given, **fields})


@pytest.mark.parametrize(
    ("status", "expected_verdicts"),
    [
        ([], [("error", "the operator has not looked at policy mail/edge")]),
        (
            [condition("Accepted", "True", generation=1)],
            [("error", "the operator has not looked at the newest generation of policy mail/edge")],
        ),
        ([condition("Accepted", "True")], [("ok", "all policies are accepted")]),
        (
            [condition("Accepted", "False", "Conflicted")],
            [("error", "policy mail/edge is not accepted: Conflicted: m")],
        ),
    ],
)
def test_accepted(status: list[Object], expected_verdicts: list[tuple[str, str]]) -> None:
    assert verdicts("policies-accepted", placed(policy(status={"conditions": status}))) == expected_verdicts


def test_a_policy_that_this_version_would_refuse() -> None:
    record = policy(status={"conditions": [condition("Accepted", "True")]}, sidecar={"image": "evil"})
    result, message = one("policies-accepted", placed(record))
    assert (result, "would not be accepted by this version" in message) == ("warning", True)


@pytest.mark.parametrize(
    ("reason", "result"),
    [
        ("Pending", "warning"),
        ("SidecarRejected", "error"),
        ("Unreachable", "error"),
        ("NotAccepted", "ok"),
        ("NamespaceNotEnabled", "ok"),
    ],
)
def test_programmed(reason: str, result: str) -> None:
    record = policy(status={"conditions": [condition("Programmed", "False", reason)]})
    assert one("policies-programmed", placed(record))[0] == result


def test_namespaces() -> None:
    assert one("namespaces", facts(namespaces={"a": {}}))[0] == "warning"
    assert one("namespaces", facts(namespaces={"a": ENABLED, "b": {}})) == ("ok", "1 namespace enabled: a")
    watched = facts(release=release(watch_namespaces=("x",)), policies=(policy(),), namespaces={"mail": ENABLED})
    assert "does not watch it" in one("namespaces-of-policies", watched)[1]
    unread = facts(policies=(policy(),), namespaces=REFUSED)
    assert one("namespaces-of-policies", unread)[0] == "ok"
    assert one("namespaces-of-policies", facts(policies=(), cut=True))[0] == "skipped"


def test_policies_without_pods() -> None:
    assert one("policies-select", placed(policy()))[0] == "ok"
    assert one("policies-select", placed(policy(), Survey()))[0] == "warning"
    assert "has no selector" in one("policies-select", placed(policy(selector=None), Survey()))[1]
    unseen = Place({"edge": Survey()}, {}, cut=True)
    assert one("policies-select", placed(policy(), places={"mail": unseen}))[0] == "ok"


@pytest.mark.parametrize(("level", "result"), [("privileged", "ok"), ("baseline", "error"), ("restricted", "error")])
def test_pod_security(level: str, result: str) -> None:
    labels = {"mail": {**ENABLED, policies.ENFORCE: level}}
    assert one("pod-security", placed(policy(handover="Transparent"), namespaces=labels))[0] == result
    assert one("pod-security", placed(policy(), namespaces=labels))[0] == "ok"


@pytest.mark.parametrize(
    ("maps", "used", "result", "message"),
    [
        ({"edge": True}, (), "ok", "all policies have"),
        ({}, (), "error", "is missing"),
        ({"edge": False}, (), "error", "is not Postern's"),
        ({"edge": True, "gone": True}, (), "warning", "left over"),
        ({"edge": True, "gone": True}, ("gone",), "ok", "all policies have"),
        ({"edge": True, "gone": False}, (), "ok", "all policies have"),
        (REFUSED, (), "skipped", "403"),
    ],
)
def test_config_maps(maps: Any, used: tuple[str, ...], result: str, message: str) -> None:
    place = Place({"edge": Survey()}, maps, frozenset(used))
    found = one("config-maps", placed(policy(), places={"mail": place}))
    assert (found[0], message in found[1]) == (result, True)


def test_a_config_map_is_not_missing_where_none_is_written() -> None:
    place = Place({}, {})
    assert one("config-maps", placed(policy(), places={"mail": place}, namespaces={"mail": {}}))[0] == "ok"
    assert one("config-maps", placed(policy(sidecar={"image": "x"}), places={"mail": place}))[0] == "ok"


def test_pods_without_sidecars_by_reason() -> None:
    older = "it is older than the policy"
    bare = [Bare(Key("mail", f"p{number}"), None, older) for number in range(7)]
    bare += [Bare(Key("mail", "h"), Skip.HOST_NETWORK, "take it out"), Bare(Key("mail", "o"), None, "", "other")]
    found = verdicts("pods-injected", placed(policy(), Survey(40, 0, 40, 0, tuple(bare))))
    assert found == [
        (
            "error",
            f"7 pods of policy mail/edge without its sidecar: p0, p1, p2, p3, p4 and 2 more: {older}",
        ),
        ("error", "1 pod of policy mail/edge without its sidecar: h: HostNetwork: take it out"),
        (
            "error",
            "1 pod of policy mail/edge without its sidecar: o: made with the sidecar of policy other, which it keeps",
        ),
        ("error", "31 more pods of policy mail/edge without its sidecar, not looked at one by one"),
    ]
    assert one("pods-injected", placed(policy(), Survey(40, 0, 40)))[0] == "warning"
    assert one("pods-injected", placed(policy()))[0] == "ok"
    assert verdicts("pods-injected", placed(policy(), places={"mail": Place(REFUSED, {})}))[0][0] == "skipped"
    assert verdicts("pods-injected", placed(policy(), places={"mail": Place({}, {}, cut=True)}))[0][0] == "skipped"


def test_open_backends() -> None:
    opened = Open(Key("mail", "p"), "edge", "10.0.0.1", 2525)
    given = placed(policy(), connected=True, tried=3)
    assert one("backends", given)[0] == "ok"
    assert one("backends", replace(given, open=(opened,)))[0] == "warning"
    assert one("backends", replace(given, tried=0)) == ("ok", "no running pod has a backend to try")
    assert one("backends", replace(given, connected=False))[0] == "skipped"


def test_which_backends_are_tried() -> None:
    assert backend_ports(policy(), Settings()) == (2525,)
    far = {"port": 2525, "handover": "ProxyV2", "address": "10.0.0.1", "acknowledgeRemoteBackend": True}
    assert backend_ports(policy(inbound=[{"name": "smtp", "port": 25, "backend": far}]), Settings()) == ()
    assert backend_ports(policy(inbound=7), Settings()) == ()


# -- counting pods -----------------------------------------------------------------------------------------------------


def metadata(name: str, labels: dict[str, str], **fields: Any) -> Object:
    return {"metadata": {"name": name, "namespace": "mail", "labels": labels, **fields}}


def test_thousands_of_pods_are_counted_and_few_kept() -> None:
    counting = pods.Counting([policy()], Settings())
    for start in range(0, 10_000, 500):
        counting.add(metadata(f"p{start + number}", {"app": "mail"}) for number in range(500))
    counting.add(metadata(f"i{number}", {"app": "mail", "postern.dev/policy": "edge"}) for number in range(5_000))
    survey = counting.survey("edge", ())
    assert (survey.selected, survey.missing, survey.injected, survey.outdated) == (15_000, 10_000, 5_000, 5_000)
    assert (len(counting.counts["edge"].bare), len(survey.samples)) == (pods.LOOKED_AT, pods.SAMPLES)


def test_which_pods_count() -> None:
    first, second = policy("a", priority=5), policy("b")
    counting = pods.Counting([first, second], Settings())
    counting.add(
        [
            metadata("wins", {"app": "mail"}),
            metadata("out", {"app": "mail", "postern.dev/inject": "disabled"}),
            metadata("going", {"app": "mail"}, deletionTimestamp="now"),
            metadata("else", {"app": "web", "postern.dev/policy": "used"}),
            metadata("other", {"app": "mail", "postern.dev/policy": "b"}),
        ]
    )
    assert (counting.counts["a"].selected, counting.counts["a"].missing) == (2, 2)
    assert counting.counts["b"].selected == 0
    assert counting.used == {"used", "b"}


def raw_pod(**spec: Any) -> Object:
    return {
        "metadata": {"name": "p", "namespace": "mail", "labels": {}, "creationTimestamp": "2026-01-02T00:00:00Z"},
        "spec": {"containers": [{"name": "c", "image": "i"}], **spec},
    }


def test_why_a_pod_has_no_sidecar() -> None:
    record = policy()

    def why(raw: Object, which: PolicyRecord = record) -> Bare | None:
        return pods.looked_at(raw, which, None, Settings(), "1")

    found = why(raw_pod())
    assert found is not None
    assert "it would be injected today" in found.message
    old = raw_pod()
    old["metadata"]["creationTimestamp"] = "2025-01-02T00:00:00Z"
    assert why(old) == Bare(Key("mail", "p"), None, "it is older than the policy")
    skipped = why(raw_pod(hostNetwork=True))
    assert skipped is not None
    assert skipped.skip is Skip.HOST_NETWORK
    assert why({**raw_pod(), "status": {"phase": "Succeeded"}}) is None
    labelled = raw_pod()
    labelled["metadata"]["labels"] = {"postern.dev/policy": "other"}
    assert why(labelled) == Bare(Key("mail", "p"), None, "", "other")
    invalid = policy(sidecar={"image": "evil"})
    refused = why(raw_pod(), invalid)
    assert refused is not None
    assert refused.skip is Skip.POLICY_INVALID
    rendered = render(record)
    assert rendered is not None
    kept = pods.looked_at(raw_pod(), invalid, rendered.injection, Settings(), "1")
    assert kept is not None
    assert kept.skip is None
    odd = why(raw_pod(containers=[{"name": 1}]))
    assert odd is not None


@pytest.mark.parametrize(
    ("labels", "expressions", "expected_labels"),
    [
        ({"a": "b"}, [], {"a": "b"}),
        ({}, [("k", Operator.IN, ("x", "y")), ("k", Operator.NOT_IN, ("x",))], {"k": "y"}),
        ({}, [("k", Operator.IN, ("x", "y")), ("k", Operator.IN, ("y", "z"))], {"k": "y"}),
        ({}, [("k", Operator.EXISTS, ())], {"k": "postern-check"}),
        ({"k": "v"}, [("k", Operator.EXISTS, ()), ("n", Operator.DOES_NOT_EXIST, ())], {"k": "v"}),
        ({"k": "v"}, [("k", Operator.NOT_IN, ("v",))], None),
        ({"k": "v"}, [("k", Operator.DOES_NOT_EXIST, ())], None),
        ({"postern.dev/inject": "disabled"}, [], None),
        ({}, [], None),
    ],
)
def test_labels_for_a_trial(
    labels: dict[str, str], expressions: list[tuple[str, Operator, tuple[str, ...]]], expected_labels: object
) -> None:
    terms = tuple(LabelExpression(key=key, operator=operator, values=values) for key, operator, values in expressions)
    assert pods.labels_for(LabelSelector(match_labels=labels, match_expressions=terms)) == expected_labels


def test_labels_for_no_selector() -> None:
    assert pods.labels_for(None) is None


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("instance", "name"), [("", "postern"), ("postern", "postern"), ("mail", "mail-postern")])
def test_names_of_a_release(instance: str, name: str) -> None:
    settings = named_by_chart("s", instance)
    assert (settings.namespace, settings.lease, settings.webhook.configuration) == ("s", f"{name}-operator", name)


def test_the_name_of_the_settings() -> None:
    volume = {"name": "settings", "projected": {"sources": [{"secret": {}}, {"configMap": {"name": "x"}}]}}
    template = {"spec": {"volumes": [{"name": "tmp"}, volume]}}
    assert settings_name({"metadata": {"name": "d"}, "spec": {"template": template}}) == "x"
    assert settings_name({"metadata": {"name": "d"}, "spec": {}}) == "d-settings"


# -- the report --------------------------------------------------------------------------------------------------------


def test_a_check_has_a_bounded_number_of_entries() -> None:
    missing = {Right("", f"r{number:02}", "", "", "get"): False for number in range(report.MOST + 30)}
    found = verdicts("rights", facts(rights=missing))
    assert len(found) == report.MOST + 1
    assert found[-1] == ("error", "and 30 more of this kind")


def test_what_others_wrote_is_printable_and_bounded() -> None:
    condition_ = condition("Accepted", "False", "\x1b[31m" + "x" * 5000)
    _, message = one("policies-accepted", placed(policy(status={"conditions": [condition_]})))
    assert len(message) == report.MOST_TEXT
    assert message.isprintable()


def test_status_and_text() -> None:
    warned = facts(namespaces={"a": {}})
    entries = report.evaluate([each for each in CHECKS if each.id in ("api-version", "namespaces")], warned)
    assert (report.status(entries, strict=False), report.status(entries, strict=True)) == (0, 1)
    assert report.as_text(entries, ascii_only=True) == (
        "Kubernetes\n"
        "  [ok] the API server is v1.36.3\n"
        "\n"
        "Namespaces\n"
        "  [warning] no namespace has the label postern.dev/inject=enabled: no pod is injected\n"
        "      kubectl label namespace NAME postern.dev/inject=enabled\n"
        "\n"
        "Result: 1 warning"
    )


def test_categories_are_not_torn_apart() -> None:
    categories = [check.category for check in (*cluster.CHECKS, *webhook.CHECKS, *policies.CHECKS)]
    assert list(dict.fromkeys(categories)) == [
        "Kubernetes",
        "Definition",
        "Operator",
        "Webhook",
        "Namespaces",
        "Policies",
        "Pods",
    ]
    assert categories == sorted(categories, key=list(dict.fromkeys(categories)).index)
