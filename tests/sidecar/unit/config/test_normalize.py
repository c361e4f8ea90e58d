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


OUTBOUND_DEFAULTS: dict[str, Any] = {
    "submission": {"port": 11025, "lmtpPort": 11024, "bareNewline": None},
    "dane": {"try": ["*"], "require": [], "skip": [], "digests": ["SHA2-512", "SHA2-256"]},
    "tls": {"withoutDane": "Opportunistic", "minVersion": "1.2", "ocsp": "Auto", "caBundle": ""},
    "dns": {
        "resolver": "Embedded",
        "servers": [],
        "acknowledgeTrustedPath": False,
        "trustAnchors": [],
        "rootHints": [],
        "stubs": [],
        "forwards": [],
        "selfTest": {"secure": ".", "bogus": "dnssec-failed.org"},
    },
    "routes": [],
    "limits": {
        "connections": 2000,
        "perDestination": 20,
        "messageSize": "52428800",
        "reuse": 100,
        "idle": "5000ms",
        "finalTimeout": "9m30s",
    },
    "ownNames": [],
    "ownAddresses": [],
    "allowAddresses": [],
}


@pytest.mark.parametrize("section", [{}, OUTBOUND_DEFAULTS], ids=["nothing", "defaults in other spellings"])
def test_outbound_that_says_nothing_is_there_all_the_same(section: dict[str, Any]) -> None:
    spec = json.loads(config.normalized(policy(hostname="a.example", outbound=section)))["spec"]
    assert spec["outbound"] == {}


def test_no_outbound_is_not_there() -> None:
    assert config.normalized(policy(outbound=None)).decode() == LEAST


OUTBOUND: dict[str, Any] = {
    "submission": {"bareNewline": "Normalize", "lmtpPort": 24},
    "dane": {
        "try": ["*.Example.org"],
        "require": ["bücher.example"],
        "skip": [{"match": "a.b", "reason": "ä", "until": "2027-03-01", "level": "Opportunistic"}],
        "digests": ["SHA2-256", "SHA2-512"],
    },
    "tls": {"minVersion": "1.3", "ocsp": "Off", "withoutDane": "Encrypt"},
    "dns": {
        "forwards": [{"zone": ".", "servers": ["[fd00:0::53]:853", "10.0.0.53"], "tlsName": "dns.example"}],
        "stubs": [{"zone": "corp.test", "servers": ["10.0.0.53:53"], "insecure": True}],
        "selfTest": {"secure": "org"},
    },
    "routes": [
        {"domains": ["*.corp.example"], "via": "Relay.corp.example:0587", "auth": {"secretName": "relay"}},
        {"domains": ["c.example"], "via": "[2001:db8:0::1]", "tlsOnConnect": False},
    ],
    "limits": {"messageSize": "10M", "idle": "1000ms"},
    "ownAddresses": ["::ffff:192.0.2.0/120"],
}


def test_outbound_that_differs_stays_as_it_was_written() -> None:
    given = policy(hostname="a.example", outbound=OUTBOUND)
    data = config.normalized(given)
    assert json.loads(data)["spec"]["outbound"] == OUTBOUND
    delivered = config.load(data, "policy.json").policy
    assert delivered.spec == given.spec
    assert config.normalized(delivered) == data


def test_fields_of_a_listed_struct_are_left_out_at_their_default() -> None:
    skip = {"match": "a.b", "reason": "x", "until": "2027-03-01"}
    route = {"domains": ["a.b"], "via": "a.example"}
    stub = {"zone": "a", "servers": ["10.0.0.1"]}
    said: dict[str, Any] = {
        "dane": {"skip": [skip | {"level": "Encrypt"}]},
        "dns": {"stubs": [stub | {"insecure": False}], "forwards": [stub | {"zone": "b", "tlsName": ""}]},
        "routes": [route | {"tlsOnConnect": None, "auth": None}],
    }
    spec = json.loads(config.normalized(policy(hostname="a.example", outbound=said)))["spec"]
    assert spec["outbound"] == {
        "dane": {"skip": [skip]},
        "dns": {"stubs": [stub], "forwards": [stub | {"zone": "b"}]},
        "routes": [route],
    }


def test_a_policy_without_a_namespace() -> None:
    text = LEAST.replace(',"namespace":"mail"', "")
    assert config.normalized(config.load(text.encode()).policy).decode() == text


def test_the_hash_is_of_the_bytes() -> None:
    assert config.config_hash(b"x") == hashlib.sha256(b"x").hexdigest()
