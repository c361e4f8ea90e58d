"""What goldens do not say: that it holds for pods that nobody has thought of, and what makes a template another."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from injection_goldens import VERSION, golden
from postern_operator.inject import Skipped, inject, template_hash
from postern_operator.model import STATUS, UNPRIVILEGED_PORTS, Injection, Listener, Stamp
from postern_operator.records import pod_record, stamp_of
from postern_operator.settings import Settings, Sidecar
from postern_sidecar.edge import credentials

JSON = dict[str, Any]

INJECTION = golden("postfix").injection
NAMES = st.sampled_from(["a", "b", "c", "postfix", "postern-like"])
HOOKS: list[JSON] = [{}, {"lifecycle": {"postStart": {}}}, {"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}]


@st.composite
def pods(draw: st.DrawFn) -> JSON:
    def containers(least: int) -> list[JSON]:
        chosen = draw(st.lists(NAMES, min_size=least, max_size=3, unique=True))
        return [{"name": name, "image": "i", **draw(st.sampled_from(HOOKS))} for name in chosen]

    spec: JSON = {"containers": containers(1)}
    if draw(st.booleans()):
        spec["initContainers"] = containers(0)
    if draw(st.booleans()):
        spec["volumes"] = [{"name": name, "emptyDir": {}} for name in draw(st.lists(NAMES, max_size=3, unique=True))]
    if draw(st.booleans()):
        spec["terminationGracePeriodSeconds"] = draw(st.integers(0, 10**6))
    if draw(st.booleans()):
        spec["securityContext"] = draw(st.sampled_from([{}, {"sysctls": []}, {"fsGroup": 5}]))
    return {"metadata": {"labels": draw(st.dictionaries(NAMES, NAMES, max_size=2))}, "spec": spec}


injections = st.builds(
    Injection,
    policy=NAMES,
    uid=NAMES,
    hash=st.sampled_from(["0" * 64, "1" * 64]),
    listeners=st.sampled_from([(), (Listener(name="smtp", port=25),), (Listener(name="imap", port=143),)]),
    transparent=st.booleans(),
    outbound=st.booleans(),
    submission_ports=st.sampled_from([(), (11025, 11024)]),
    secrets=st.sampled_from([(), ("relay",)]),
    hold_mail_server=st.booleans(),
)
configured = st.builds(
    lambda secrets, port, policy: Settings(
        sidecar=Sidecar(image_pull_secrets=secrets, admin_port=port, image_pull_policy=policy)
    ),
    st.sampled_from([(), ("registry",)]),
    st.sampled_from([15925, 100]),
    st.sampled_from(["", "Always"]),
)


@given(pods(), injections, configured)
def test_twice_is_once(pod: JSON, injection: Injection, chosen: Settings) -> None:
    once = inject(pod, injection, chosen, VERSION).pod
    assert inject(once, injection, chosen, VERSION).pod == once


@given(pods(), injections, configured, st.data())
def test_what_others_add_behind_us_stays_and_changes_nothing(
    pod: JSON, injection: Injection, chosen: Settings, data: st.DataObject
) -> None:
    """Anywhere in the lists: only the order of our containers is restored."""
    once = inject(pod, injection, chosen, VERSION).pod
    spec = dict(once["spec"])
    own = [each["name"] for each in once["spec"]["initContainers"] if each["name"] in ("postern-init", "postern")]
    sidecar = dict(next(each for each in spec["initContainers"] if each["name"] == "postern"))
    sidecar.update(
        env=_with(data, sidecar["env"], {"name": "MESH", "value": "1"}),
        ports=_with(data, sidecar["ports"], {"name": "mesh", "containerPort": 15090}),
        volumeMounts=_with(data, sidecar["volumeMounts"], {"name": "mesh", "mountPath": "/mesh"}),
        resources={"limits": {"cpu": "7"}},
        imagePullPolicy="Always",
        terminationMessagePath="/dev/termination-log",
    )
    sidecar["securityContext"] = {**sidecar["securityContext"], "seLinuxOptions": {"level": "s0"}}
    others = [sidecar if each["name"] == "postern" else each for each in spec["initContainers"]]
    spec["volumes"] = _with(data, spec["volumes"], {"name": "mesh", "emptyDir": {}})
    spec["initContainers"] = _with(data, others, {"name": "mesh", "image": "m"})
    mixed = {**once, "spec": spec}
    again = inject(mixed, injection, chosen, VERSION).pod
    found = [each["name"] for each in again["spec"]["initContainers"]]
    assert found[: len(own)] == own
    assert sorted(found) == sorted(each["name"] for each in spec["initContainers"])
    assert next(each for each in again["spec"]["initContainers"] if each["name"] == "postern") == sidecar
    rest = {key: value for key, value in again["spec"].items() if key != "initContainers"}
    assert rest == {key: value for key, value in spec.items() if key != "initContainers"}
    assert again["metadata"] == once["metadata"]


@given(pods(), injections, injections, configured, configured)
def test_after_another_template_it_is_as_if_there_had_been_none(
    pod: JSON, first: Injection, second: Injection, before: Settings, after: Settings
) -> None:
    """Up to the order of volumes, pull secrets (which are left), and empty maps."""
    twice = inject(inject(pod, first, before, VERSION).pod, second, after, "9").pod
    at_once = inject(pod, second, after, "9").pod
    assert _comparable(twice) == _comparable(at_once)


@given(pods(), injections, configured)
def test_a_record_reads_what_injection_wrote(pod: JSON, injection: Injection, chosen: Settings) -> None:
    record = pod_record(inject(pod, injection, chosen, VERSION).pod)
    assert (record.policy, record.poke) == (injection.policy, f"{injection.hash}.0")
    assert record.stamp is not None
    assert record.stamp.spec_hash == template_hash(injection, chosen)
    assert (record.stamp.version, record.stamp.policy_uid) == (VERSION, injection.uid)
    assert record.secrets == injection.secrets
    assert record.transparent is injection.transparent
    assert record.image == chosen.sidecar.image
    assert record.sysctl == min([1024, chosen.sidecar.admin_port, *(each.port for each in injection.listeners)])


def test_a_poke_that_is_current_is_left() -> None:
    case = golden("postfix")
    pod = {**case.expected["pod"]}
    pod["metadata"] = {
        **pod["metadata"],
        "annotations": {**pod["metadata"]["annotations"], "postern.dev/config-hash": f"{case.injection.hash}.4"},
    }
    assert inject(pod, case.injection, case.settings, VERSION).pod == pod


def test_the_hash_of_the_template_knows_no_pod() -> None:
    stamps = {
        _stamp(inject(golden(name).pod, golden(name).injection, golden(name).settings, VERSION).pod).spec_hash
        for name in ("postfix", "grace-0", "grace-600", "init-containers", "forged")
    }
    assert stamps == {template_hash(INJECTION, golden("postfix").settings)}


CHANGES: dict[str, tuple[Injection, Settings]] = {
    "image": (INJECTION, Settings(sidecar=Sidecar(image="other"))),
    "user": (INJECTION, Settings(sidecar=Sidecar(run_as_user=None))),
    "admin port": (INJECTION, Settings(sidecar=Sidecar(admin_port=15926))),
    "listener": (Injection(policy="edge", uid="", hash="", listeners=(Listener(name="tls", port=465),)), Settings()),
    "transparent": (Injection(policy="edge", uid="", hash="", transparent=True), Settings()),
    "secrets": (Injection(policy="edge", uid="", hash="", secrets=("relay",)), Settings()),
    "resources": (Injection(policy="edge", uid="", hash="", resources={"limits": {"cpu": "2"}}), Settings()),
    "hold": (Injection(policy="edge", uid="", hash="", hold_mail_server=True), Settings()),
    "none": (Injection(policy="edge", uid="", hash=""), Settings()),
}


def test_every_change_of_the_template_is_another_hash() -> None:
    assert len({template_hash(*each) for each in CHANGES.values()}) == len(CHANGES)


def test_a_new_configuration_is_no_new_template() -> None:
    changed = Injection(policy="edge", uid=INJECTION.uid, hash="00", listeners=INJECTION.listeners)
    assert template_hash(changed, Settings()) == template_hash(INJECTION, Settings())


@pytest.mark.parametrize(
    "change",
    [
        {"securityContext": {"runAsUser": 0, "privileged": True}},
        {"args": ["run", "--config", "/tmp/mine"]},
        {"command": ["sh"]},
        {"image": "registry.example/evil:1"},
        {"lifecycle": {}},
        {"restartPolicy": "Never"},
    ],
)
def test_with_our_own_stamp_too_the_rest_is_ours(change: JSON) -> None:
    """A stamp can be copied: what it vouches for is what others may set, no more."""
    case = golden("postfix")
    pod = case.expected["pod"]
    (sidecar,) = pod["spec"]["initContainers"]
    forged = {**pod, "spec": {**pod["spec"], "initContainers": [{**sidecar, **change}]}}
    assert inject(forged, case.injection, case.settings, VERSION).pod == pod


def test_the_token_of_the_service_account_is_covered_up() -> None:
    """Whatever is mounted there by somebody else, in every container of ours."""
    case = golden("transparent")
    for container in inject(case.pod, case.injection, case.settings, VERSION).pod["spec"]["initContainers"][:2]:
        mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        assert mounts["/var/run/secrets/kubernetes.io/serviceaccount"] == "postern-empty"


@settings(max_examples=300)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    )
)
def test_a_stamp_of_anything_is_read_or_not(value: object) -> None:
    pod = {"metadata": {"annotations": {STATUS: str(value)}}, "spec": {"containers": [{"name": "a"}]}}
    assert stamp_of(str(value)) is None
    assert _stamp(inject(pod, INJECTION, Settings(), VERSION).pod).version == VERSION


def test_credentials_are_where_the_sidecar_looks_without_being_told() -> None:
    """So that a `postern-sidecar check`, run by hand in there, finds them."""
    case = golden("credentials")
    sidecar = inject(case.pod, case.injection, case.settings, VERSION).pod["spec"]["initContainers"][0]
    mounts = {each["name"]: each["mountPath"] for each in sidecar["volumeMounts"]}
    assert mounts["postern-credentials"] == str(credentials.DIRECTORY)


def test_skipped_says_why() -> None:
    with pytest.raises(Skipped, match=r"label the pod postern\.dev/inject=disabled"):
        inject({"spec": {"containers": [{"name": "postern"}]}}, INJECTION, Settings(), VERSION)


def _with(data: st.DataObject, items: list[JSON], item: JSON) -> list[JSON]:
    place = data.draw(st.integers(0, len(items)))
    return [*items[:place], item, *items[place:]]


def _stamp(pod: JSON) -> Stamp:
    stamp = stamp_of(pod["metadata"]["annotations"][STATUS])
    assert stamp is not None
    return stamp


def _comparable(pod: JSON) -> JSON:
    spec = {key: value for key, value in pod["spec"].items() if key != "imagePullSecrets"}
    security = spec.pop("securityContext", None) or {}
    return {
        **pod,
        "spec": {
            **spec,
            "volumes": sorted(spec["volumes"], key=lambda each: str(each["name"])),
            "containers": [{**each, "lifecycle": each.get("lifecycle") or {}} for each in spec["containers"]],
            "securityContext": {key: value for key, value in security.items() if value},
        },
    }


def test_a_submission_port_below_1024_gets_the_sysctl_too() -> None:
    injection = Injection(policy="edge", uid="u-1", hash="0" * 64, outbound=True, submission_ports=(587, 11024))
    pod = inject({"spec": {"containers": [{"name": "app"}]}}, injection, Settings(), VERSION).pod
    assert {"name": UNPRIVILEGED_PORTS, "value": "587"} in pod["spec"]["securityContext"]["sysctls"]
