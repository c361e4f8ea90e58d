"""Reading from disk, what a load costs, and that the short way and the long way agree."""

from __future__ import annotations

import base64
import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import fields

from postern_sidecar import config
from postern_sidecar.config.model import Outbound

DER = base64.b64encode(b"\x30\x81\x80" + bytes(128)).decode()
CA = f"-----BEGIN CERTIFICATE-----\n{DER}\n-----END CERTIFICATE-----\n"
FULL: dict[str, Any] = {
    "apiVersion": "postern.dev/v1alpha1",
    "kind": "MailProxyPolicy",
    "metadata": {"name": "edge", "namespace": "mail"},
    "spec": {
        "selector": {
            "matchLabels": {"app": "postfix"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["front"]}],
        },
        "hostname": "mail.example.net",
        "priority": 1,
        "inbound": [
            {
                "name": "smtp",
                "port": 25,
                "address": "10.0.0.1",
                "protocol": "SMTP",
                "backend": {"port": 2525, "handover": "ProxyV2", "address": "127.0.0.1"},
                "proxyProtocol": {"requiredFrom": ["10.0.0.0/8"], "timeout": "3s", "others": "Direct"},
                "limits": {
                    "ratePerClient": {"connections": 5, "per": "5s"},
                    "clientPrefix": {"ipv4": 32},
                    "overrides": [{"clients": ["203.0.113.0/24"], "connectionsPerClient": 200}],
                },
                "timeouts": {"idle": "15m"},
            }
        ],
        "outbound": {
            "submission": {"port": 11025, "lmtpPort": 11024, "bareNewline": "Reject"},
            "dane": {
                "try": ["*"],
                "require": ["*.bank.example"],
                "skip": [
                    {"match": "broken.example", "reason": "ticket 4711", "until": "2027-03-01", "level": "Encrypt"}
                ],
                "digests": ["SHA2-256"],
            },
            "tls": {"withoutDane": "Verify", "minVersion": "1.3", "ocsp": "Auto", "caBundle": CA},
            "dns": {
                "resolver": "Embedded",
                "servers": [],
                "acknowledgeTrustedPath": False,
                "trustAnchors": ["corp.example. IN DNSKEY 257 3 15 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="],
                "rootHints": [{"name": "ns.test", "addresses": ["10.0.0.1"]}],
                "stubs": [{"zone": "corp.example", "servers": ["10.0.0.53:53"], "insecure": False}],
                "forwards": [{"zone": ".", "servers": ["[fd00::53]:853"], "tlsName": "dns.example", "insecure": False}],
                "selfTest": {"secure": "a.corp.example", "bogus": "bogus.example"},
            },
            "routes": [
                {
                    "domains": ["*.corp.example"],
                    "via": "relay.corp.example:587",
                    "tlsOnConnect": False,
                    "auth": {"secretName": "relay"},
                },
                {"domains": ["b.example"], "via": "other.example:465"},
            ],
            "limits": {
                "connections": 100,
                "perDestination": 5,
                "messageSize": "10Mi",
                "reuse": 10,
                "idle": "5s",
                "finalTimeout": "570s",
            },
            "ownNames": ["mx.example.net"],
            "ownAddresses": ["192.0.2.25"],
            "allowAddresses": ["10.0.0.0/8"],
        },
        "logging": {"format": "Exim", "selectors": ["+proxy"]},
        "sidecar": {"holdMailServer": True, "image": "x", "resources": {"limits": {"cpu": "1"}}},
    },
}


def paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(below for key, member in members for below in paths(member, (*path, key)))]


_JUNK = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        25,
        70000,
        2.5,
        10**30,
        "",
        "3s",
        "10.0.0.1/8",
        "*",
        "::1",
        "Smtp",
        "a.example",
        "127.0.0.1:25",
        "2027-03-01",
        "1Mi",
        "Servers",
        1.2,
        "x" * 2000,
        "a\n",
        [],
        [1],
        {},
        {"a": 1},
    ]
)


def outcome(data: bytes) -> object:
    try:
        return config.load(data, "policy").policy
    except config.InvalidPolicy as refused:
        return [(problem.path, problem.message) for problem in refused.problems]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_the_short_way_and_the_long_way_agree(data: st.DataObject) -> None:
    """The long way converts what the walk finds nothing in; a difference between the two would raise or differ."""
    manifest = {"root": copy.deepcopy(FULL)}
    for _ in range(data.draw(st.integers(1, 2))):
        *above, last = ("root", *data.draw(st.sampled_from(paths(manifest["root"]))))
        target: Any = manifest
        for step in above:
            target = target[step]
        match data.draw(st.sampled_from(["replace", "add", "remove"])):
            case "remove" if len(above):
                del target[last]
            case "add" if isinstance(target[last], dict):
                target[last]["surplus"] = copy.deepcopy(data.draw(_JUNK))
            case _:
                target[last] = copy.deepcopy(data.draw(_JUNK))
    text = json.dumps(manifest["root"])
    quick, thorough = outcome(text.encode()), outcome(f"---\n{text}".encode())
    assert quick == thorough
    assert quick != []


def test_the_full_manifest_is_good() -> None:
    policy = config.load(json.dumps(FULL).encode()).policy
    assert policy.spec.inbound[0].limits.overrides[0].connections_per_client == 200
    assert policy.spec.selector is not None
    assert policy.spec.selector.match_expressions[0].values == ("front",)
    assert policy.spec.outbound is not None
    assert policy.spec.outbound.routes[1].implicit_tls


def _structs(kind: Any) -> list[type[Struct]]:
    """Those that a field's type is made of."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return [kind]
    return [struct for inner in get_args(kind) for struct in _structs(inner)]


def test_the_full_manifest_has_every_field_of_outbound() -> None:
    """So that what ties the two ways together meets every one."""
    named = {step for path in paths(FULL["spec"]["outbound"]) for step in path if isinstance(step, str)}
    structs: list[type[Struct]] = [Outbound]
    known = set[str]()
    while structs:
        for field in fields(structs.pop()):
            known.add(field.encode_name)
            structs += _structs(field.type)
    assert named == known


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(FULL))
    loaded = config.load(path)
    assert loaded.data == path.read_bytes()
    assert loaded.warnings == ()
    path.write_text(json.dumps(FULL, indent=1))
    assert config.load(path).policy == loaded.policy
    path.write_text("{}")
    with pytest.raises(config.InvalidPolicy) as caught:
        config.load(path)
    assert {problem.file for problem in caught.value.problems} == {str(path)}


def test_a_number_that_is_not_json() -> None:
    text = json.dumps(FULL | {"status": {"a": float("nan")}})
    with pytest.raises(config.InvalidPolicy, match=r"^policy.json:1: NaN is not JSON; write a number$"):
        config.load(text.encode(), "policy.json")


def test_messages_are_one_printable_line() -> None:
    manifest = copy.deepcopy(FULL)
    manifest["spec"]["inbound"][0]["rules"] = [{"name": "a", "when": "\x1b[2J", "action": "Log"}]
    with pytest.raises(config.InvalidPolicy) as caught:
        config.load(json.dumps(manifest).encode())
    told = [str(problem) for problem in caught.value.problems]
    assert "token recognition error at: '\\x1b'" in told[0]
    assert all(line.isprintable() for line in told)


def test_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "nothing.yaml"
    with pytest.raises(config.Unreadable, match=r"nothing\.yaml: there is no such file; give the path"):
        config.load(missing)
    with pytest.raises(config.Unreadable, match=r"is a directory; give the file in it, such as .*/policy\.json"):
        config.load(tmp_path)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(config.Unreadable, match=r"cannot be read: Too many levels of symbolic links"):
        config.load(loop)


def test_no_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(config.Unreadable, match="no permission; let the user that runs postern-sidecar read it"):
        config.read(Path("policy.yaml"))


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "sparse.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert len(config.read(path)) == config.source.MAX_SIZE + 1


def test_warnings_come_with_their_line() -> None:
    manifest = copy.deepcopy(FULL)
    manifest["spec"]["inbound"][0]["proxyProtocol"]["requiredFrom"] = ["*"]
    text = json.dumps(manifest, indent=1)
    loaded = config.load(text.encode(), "policy.json")
    (warning,) = loaded.warnings
    assert warning.warning
    assert text.splitlines()[warning.line - 1].strip() == '"*"'
    assert str(warning).startswith(
        f"policy.json:{warning.line}: warning: spec.inbound[0].proxyProtocol.requiredFrom[0]: *"
    )
    again = config.load(b"# first\n" + text.encode(), "policy.yaml")
    assert again.warnings[0].line == warning.line + 1


def test_check_needs_no_file() -> None:
    manifest = copy.deepcopy(FULL)
    manifest["spec"]["inbound"][0]["proxyProtocol"]["requiredFrom"] = ["*"]
    (found,) = config.check(config.load(json.dumps(manifest).encode()).policy)
    assert (found.file, found.line) == ("", 0)
    assert str(found).startswith("warning: spec.inbound[0]")


IMPORTED = """
import sys
from pathlib import Path
from postern_sidecar import config
try:
    config.load(Path(sys.argv[1]))
except config.InvalidPolicy:
    pass
heavy = {"ruamel.yaml", "cel_expr_python", "postern_sidecar.config.walk", "difflib", "argparse", "asyncio", "idna"}
heavy |= {"postern_sidecar.config.outbound_checks", "postern_sidecar.outbound", "cryptography"}
print(sorted(heavy & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "[]"),
        ({"rules": [{"name": "a", "when": "proxy_failed", "action": "Log"}]}, "['cel_expr_python']"),
        ({"proxyProtocol": {"requiredFrom": ["*"]}}, "[]"),
        ({"proxyProtocol": {"requiredFrom": "*"}}, "['postern_sidecar.config.walk']"),
        ({"outbound": FULL["spec"]["outbound"]}, "['postern_sidecar.config.outbound_checks']"),
        ({"outbound": {"ownNames": ["bücher.example"]}}, "['idna', 'postern_sidecar.config.outbound_checks']"),
    ],
)
def test_what_a_policy_does_not_need_is_not_imported(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    manifest = copy.deepcopy(FULL)
    outbound = change.pop("outbound", None)
    manifest["spec"] |= {"outbound": outbound}
    manifest["spec"]["inbound"][0] |= change
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(manifest))
    paths = ":".join(entry for entry in sys.path if entry)
    result = subprocess.run(
        [sys.executable, "-c", IMPORTED, path], env={"PYTHONPATH": paths}, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == expected
