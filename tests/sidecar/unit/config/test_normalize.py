"""What the operator delivers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from postern_sidecar import config


def policy(**spec: Any) -> config.Policy:
    listener = {"name": "smtp", "port": 25, "backend": {"port": 2525, "handover": "ProxyV2"}}
    listener |= spec.pop("listener", {})
    metadata = {"name": "edge", "namespace": "mail", "uid": "x", "labels": {"a": "b"}}
    manifest = {
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "MailProxyPolicy",
        "metadata": metadata,
        "spec": {"inbound": [listener], **spec},
        "status": {"configHash": "3f9c"},
    }
    return config.load(json.dumps(manifest).encode()).policy


LEAST = (
    '{"apiVersion":"postern.dev/v1alpha1","kind":"MailProxyPolicy","metadata":{"name":"edge","namespace":"mail"},'
    '"spec":{"inbound":[{"backend":{"handover":"ProxyV2","port":2525},"name":"smtp","port":25}]}}'
)

DEFAULTS: dict[str, Any] = {
    "protocol": "SMTP",
    "address": None,
    "tlsOnConnect": False,
    "earlyTalkers": "Refuse",
    "reverseDNS": "Auto",
    "rules": [],
    "backend": {"port": 2525, "handover": "ProxyV2", "address": "127.0.0.1", "address6": "0:0::1"},
    "proxyProtocol": {"requiredFrom": [], "others": "Direct", "timeout": "3000ms", "onFailure": "Defer421"},
    "limits": {"connections": 1000, "clientPrefix": {"ipv4": 32, "ipv6": 64}, "connectionsPerClient": None},
    "timeouts": {"idle": None, "banner": "300s", "halfClosed": "1m"},
}


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"listener": DEFAULTS},
        {"selector": {"matchLabels": {"app": "x"}}, "priority": 5, "sidecar": {"image": "x", "holdMailServer": True}},
        {"logging": {"format": "Exim", "selectors": ["+proxy"]}, "hostname": None},
    ],
)
def test_the_least_that_can_be_said(spec: dict[str, Any]) -> None:
    assert config.normalized(policy(**spec)).decode() == LEAST


def test_what_differs_stays_as_it_was_written() -> None:
    changed = policy(
        hostname="mail.example.net",
        logging={"selectors": ["+proxy", "+probes"]},
        listener={
            "address": "0:0::1",
            "protocol": "IMAP",
            "proxyProtocol": {"requiredFrom": ["10.0.0.0/8", "fd00::/8"], "timeout": "4000ms"},
            "limits": {"overrides": [{"clients": ["192.0.2.1"], "ratePerClient": {"connections": 1, "per": "1m0s"}}]},
            "rules": [{"name": "a", "when": "proxy_failed", "action": "Log", "message": "ä"}],
        },
    )
    assert json.loads(config.normalized(changed))["spec"] == {
        "hostname": "mail.example.net",
        "logging": {"selectors": ["+proxy", "+probes"]},
        "inbound": [
            {
                "name": "smtp",
                "port": 25,
                "address": "0:0::1",
                "protocol": "IMAP",
                "backend": {"port": 2525, "handover": "ProxyV2"},
                "proxyProtocol": {"requiredFrom": ["10.0.0.0/8", "fd00::/8"], "timeout": "4000ms"},
                "limits": {
                    "overrides": [{"clients": ["192.0.2.1"], "ratePerClient": {"connections": 1, "per": "1m0s"}}]
                },
                "rules": [{"name": "a", "when": "proxy_failed", "action": "Log", "message": "ä"}],
            }
        ],
    }
    assert "ä".encode() in config.normalized(changed)


def test_a_sidecar_reads_the_same_from_it() -> None:
    given = policy(hostname="a.example", listener=DEFAULTS | {"protocol": "POP3"}, logging={"format": "JSON"})
    delivered = config.load(config.normalized(given), "policy.json").policy
    assert delivered.spec == given.spec
    assert config.normalized(delivered) == config.normalized(given)


def test_a_policy_without_a_namespace() -> None:
    text = LEAST.replace(',"namespace":"mail"', "")
    assert config.normalized(config.load(text.encode()).policy).decode() == text


def test_the_hash_is_of_the_bytes() -> None:
    assert config.config_hash(b"x") == hashlib.sha256(b"x").hexdigest()
