"""A policy becomes the same bytes every time: the sidecar's file, what injection needs, and the ConfigMap of both."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import pytest

from postern_operator.model import Injection, Listener
from postern_operator.records import config_map_record, policy_record
from postern_operator.render import config_map, injection_json, injection_of, render
from postern_operator.settings import Sidecar
from postern_sidecar.config import load

ALLOWED = Sidecar(allow_transparent=True, allowed_images=("registry/",))
INBOUND = {"name": "smtp", "port": 25, "backend": {"port": 2525, "handover": "ProxyV2"}}
OUTBOUND = {
    "submission": {"port": 1025},
    "routes": [
        {"domains": ["a.example"], "via": "relay.example.org", "auth": {"secretName": "zebra"}},
        {"domains": ["b.example"], "via": "relay.example.org", "auth": {"secretName": "ant"}},
        {"domains": ["c.example"], "via": "relay.example.org", "auth": {"secretName": "zebra"}},
        {"domains": ["d.example"], "via": "relay.example.org"},
    ],
}
FULL: dict[str, Any] = {
    "selector": {"matchLabels": {"app": "mail"}},
    "priority": 3,
    "hostname": "mail.example.org",
    "inbound": [INBOUND, {"name": "t", "port": 587, "backend": {"port": 5587, "handover": "Transparent"}}],
    "outbound": OUTBOUND,
    "sidecar": {
        "image": "registry/p:1",
        "resources": {"requests": {"memory": "1Mi", "cpu": "1m"}},
        "holdMailServer": True,
    },
}


def raw_policy(spec: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": "edge", "namespace": "mail", "uid": "u-1", "generation": 1}, "spec": spec}


def test_the_file_is_the_normalized_policy_and_the_hash_is_of_its_bytes() -> None:
    rendered = render(policy_record(raw_policy(FULL), ALLOWED))
    assert rendered is not None
    assert rendered.hash == hashlib.sha256(rendered.policy_json).hexdigest()
    loaded = load(rendered.policy_json)
    assert loaded.policy.metadata == {"name": "edge", "namespace": "mail"}
    assert (loaded.policy.spec.selector, loaded.policy.spec.priority) == (None, 0)
    assert loaded.policy.spec.sidecar.image == ""
    assert [listener.port for listener in loaded.policy.spec.inbound] == [25, 587]


def test_the_injection_of_everything() -> None:
    rendered = render(policy_record(raw_policy(FULL), ALLOWED))
    assert rendered is not None
    assert rendered.injection == Injection(
        policy="edge",
        uid="u-1",
        hash=rendered.hash,
        listeners=(Listener(name="smtp", port=25), Listener(name="t", port=587)),
        transparent=True,
        outbound=True,
        submission_ports=(1025, 11024),
        secrets=("ant", "zebra"),
        image="registry/p:1",
        resources={"requests": {"memory": "1Mi", "cpu": "1m"}},
        hold_mail_server=True,
    )


def test_the_injection_of_little() -> None:
    rendered = render(policy_record(raw_policy({"inbound": [INBOUND]}), Sidecar()))
    assert rendered is not None
    assert rendered.injection == Injection(
        policy="edge", uid="u-1", hash=rendered.hash, listeners=(Listener(name="smtp", port=25),)
    )


def test_what_is_not_accepted_is_not_rendered() -> None:
    assert render(policy_record(raw_policy({"inbound": []}), ALLOWED)) is None  # has no meaning
    assert render(policy_record(raw_policy(FULL), Sidecar())) is None  # is not allowed here


def test_the_config_map() -> None:
    record = policy_record(raw_policy(FULL), ALLOWED)
    rendered = render(record)
    assert rendered is not None
    body = config_map(record, rendered)
    data = body.pop("data")
    assert body == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "postern-edge",
            "namespace": "mail",
            "labels": {"app.kubernetes.io/managed-by": "postern"},
            "annotations": {"postern.dev/policy-uid": "u-1"},
        },
    }
    assert sorted(data) == ["injection.json", "policy.json"]
    assert data["policy.json"].encode() == rendered.policy_json
    assert injection_of(data["injection.json"]) == rendered.injection


def test_the_config_map_reads_back_as_it_was() -> None:
    record = policy_record(raw_policy(FULL), ALLOWED)
    rendered = render(record)
    assert rendered is not None
    back = config_map_record(config_map(record, rendered), ALLOWED)
    assert (back.ours, back.policy_uid) == (True, "u-1")
    assert (back.policy_json, back.injection) == (rendered.policy_json, rendered.injection)


def shuffled(value: Any, chance: random.Random) -> Any:
    """Its mappings in another order."""
    if isinstance(value, dict):
        keys = list(value)
        chance.shuffle(keys)
        return {key: shuffled(value[key], chance) for key in keys}
    return [shuffled(item, chance) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_fields_changes_no_byte(seed: int) -> None:
    first = policy_record(raw_policy(FULL), ALLOWED)
    other = policy_record(shuffled(raw_policy(FULL), random.Random(seed)), ALLOWED)
    rendered, again = render(first), render(other)
    assert rendered is not None
    assert again is not None
    assert json.dumps(config_map(first, rendered)) == json.dumps(config_map(other, again))


def test_what_a_sidecar_never_reads_changes_no_hash_but_the_injection() -> None:
    changes: dict[str, Any] = {"selector": {"matchLabels": {"app": "web"}}, "priority": 4, "sidecar": {}}
    rendered = render(policy_record(raw_policy(FULL), ALLOWED))
    other = render(policy_record(raw_policy({**FULL, **changes}), ALLOWED))
    assert rendered is not None
    assert other is not None
    assert other.hash == rendered.hash
    assert injection_json(other.injection) != injection_json(rendered.injection)


def test_injection_json_is_camel_case_without_what_is_default() -> None:
    injection = Injection(policy="edge", uid="u-1", hash="aa", hold_mail_server=True)
    assert injection_json(injection) == '{"hash":"aa","holdMailServer":true,"policy":"edge","uid":"u-1"}'


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"policy":"edge"}', '{"policy":1,"uid":"u","hash":"h"}'])
def test_a_broken_injection_is_none(text: str) -> None:
    assert injection_of(text) is None
