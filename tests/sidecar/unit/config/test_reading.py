"""Files: what the two readers make of text, which texts are no manifest, and the bounds."""

# ruff: noqa: E501 - a message stands whole, so that it can be searched for

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postern_sidecar import config
from postern_sidecar.config import json_reader, tree, yaml_reader

GOOD = """\
apiVersion: postern.dev/v1alpha1
kind: MailProxyPolicy
metadata: {name: edge}
spec:
  inbound:
  - name: smtp
    port: 25
    backend: {port: 2525, handover: ProxyV2}
"""


def problems(source: bytes | str, filename: str = "policy.yaml") -> list[str]:
    data = source.encode() if isinstance(source, str) else source
    with pytest.raises(config.InvalidPolicy) as caught:
        config.load(data, filename)
    assert str(caught.value) == "\n".join(str(problem) for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("1:30", "1:30"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("+7", 7),
        ("1_000", "1_000"),
        ("2026-01-01", "2026-01-01"),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".inf", float("inf")),
        ("-.INF", float("-inf")),
        ("9" * 5000, float("inf")),
        ("0x" + "f" * 30, "0x" + "f" * 30),
        ("'25'", "25"),
        ("!!str 25", "25"),
        ("! 25", "25"),
        ("!!int 25", 25),
    ],
)
def test_yaml_scalars_are_those_of_the_1_2_core_schema(text: str, value: object) -> None:
    document = yaml_reader.read(f"{{a: {text}}}")
    assert document.problems == []
    found = tree.plain(document.root)
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


def test_yaml_has_a_number_that_is_none() -> None:
    assert str(tree.plain(yaml_reader.read("[.NaN, .nan]").root)) == "[nan, nan]"


def test_an_alias_is_what_it_refers_to_with_lines_of_its_own() -> None:
    document = yaml_reader.read("a: &x\n  b: [1, 2]\nc: *x\nd:\n- *x\n")
    assert tree.plain(document.root) == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}, "d": [{"b": [1, 2]}]}
    known = {path: node.line for path, node in tree.index(document.root).items()}
    assert (known["a"], known["a.b[1]"], known["c"], known["d[0]"]) == (1, 2, 3, 5)


def test_json_lines() -> None:
    document = json_reader.read('{"a":\n [1,\n  {"b" :\n "x\\ny"} ],\n"c": {}, "d": [], "e": -1.5e2,\n"f": null}\n')
    assert tree.plain(document.root) == {"a": [1, {"b": "x\ny"}], "c": {}, "d": [], "e": -150.0, "f": None}
    known = {path: node.line for path, node in tree.index(document.root).items()}
    assert [known[path] for path in ("a", "a[0]", "a[1]", "a[1].b", "c", "f")] == [1, 2, 3, 3, 5, 6]


_SCALARS = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=8)
_TREES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@given(_TREES, st.sampled_from([None, 1]))
def test_json_reads_as_json(value: object, indent: int | None) -> None:
    document = json_reader.read(json.dumps(value, indent=indent))
    assert document.problems == []
    assert tree.plain(document.root) == value


BAD: list[tuple[str, str | bytes, list[str]]] = [
    ("empty.yaml", "", ["empty.yaml:1: the file is empty; write a MailProxyPolicy manifest into it"]),
    ("comment.yaml", "# nothing\n", ["comment.yaml:1: the file is empty; write a MailProxyPolicy manifest into it"]),
    ("dashes.yaml", "---\n", ["dashes.yaml:2: the file is empty; write a MailProxyPolicy manifest into it"]),
    ("empty.json", "", ["empty.json:1: is not JSON: Expecting value; correct it, or write YAML"]),
    ("latin1.yaml", b"a: 1\nb: \xe9\n", ["latin1.yaml:2: is not UTF-8 at octet 8; save the file as UTF-8"]),
    (
        "big.yaml",
        b"#" * (config.source.MAX_SIZE + 1),
        [f"big.yaml: is larger than {1 << 20} octets; a policy is not; is this the right file?"],
    ),
    (
        "quotes.json",
        "{\n\"a\": 'x'}",
        ["quotes.json:2: is not JSON: Expecting value; correct it, or write YAML"],
    ),
    ("nan.json", '{"a": NaN}', ["nan.json:1: NaN is not JSON; write a number"]),
    ("deep.json", "[" * 100_000, ["deep.json:1: is nested more than 64 deep; a policy is not"]),
    ("deep.json", "\n" + "[" * 65 + "]" * 65, ["deep.json:2: is nested more than 64 deep; a policy is not"]),
    ("deep.yaml", "\n" + "[" * 65 + "]" * 65, ["deep.yaml:2: is nested more than 64 deep; a policy is not"]),
    (
        "tab.yaml",
        "a:\n\t- 1\n",
        [
            (
                "tab.yaml:2: is not YAML: while scanning for the next token found character '\\t' that cannot start any "
                "token; correct the indentation or the quotes there"
            )
        ],
    ),
    (
        "bell.yaml",
        "a: 1\nb: \a\n",
        [
            (
                "bell.yaml:2: has a character that YAML forbids, U+0007; "
                "take it out, or write it as an escape in double quotes"
            )
        ],
    ),
    (
        "bomb.yaml",
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
        ["bomb.yaml:5: comes to more than 100000 values when its aliases are expanded; write out what is meant"],
    ),
    (
        "escape.yaml",
        'a: "\\UFFFFFFFF"',
        [
            (
                "escape.yaml: is not YAML 1.2: an escape beyond U+10FFFF, or a %YAML directive of another version; "
                "take it out"
            )
        ],
    ),
    (
        "version.yaml",
        "%YAML 1.9\n---\na: 1\n",
        [
            (
                "version.yaml: is not YAML 1.2: an escape beyond U+10FFFF, or a %YAML directive of another version; "
                "take it out"
            )
        ],
    ),
    ("list.yaml", "- 1\n", ["list.yaml:1: is a list; write a mapping with apiVersion, kind, metadata, spec"]),
    (
        "kind.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nspec: {}\n",
        ["kind.yaml:2: kind: this is a Deployment; give a file with a MailProxyPolicy"],
    ),
    (
        "number.yaml",
        "kind: 5\napiVersion: postern.dev/v1\nmetadata: {name: x}\nspec: {}\n",
        [
            "number.yaml:1: kind: is the number 5; write MailProxyPolicy",
            (
                "number.yaml:2: apiVersion: 'postern.dev/v1' is not allowed here; "
                "did you mean postern.dev/v1alpha1? (known here: postern.dev/v1alpha1)"
            ),
            "number.yaml:4: spec: has neither a listener nor outbound, so there is nothing to do; give inbound, outbound, or both",
        ],
    ),
]


@pytest.mark.parametrize(("filename", "text", "expected"), BAD, ids=[f"{i}-{row[0]}" for i, row in enumerate(BAD)])
def test_no_manifest(filename: str, text: str | bytes, expected: list[str]) -> None:
    found = problems(text, filename)
    assert found == expected


APPENDED: list[tuple[str, list[str]]] = [
    ("kind: MailProxyPolicy\n", ["9: kind: the key 'kind' stands here again, first on line 2; keep one of the two"]),
    ("---\na: 1\n", ["9: a second document begins here; write one policy to a file"]),
    ("status: {a: *nowhere}\n", ["9: status.a: *nowhere refers to nothing before it; write &nowhere first"]),
    ("status: &s {a: *s}\n", ["9: status.a: *s refers to nothing before it; write &s first"]),
    ("status: {a: !foo 1}\n", ["9: status.a: has the tag '!foo'; leave it out: a policy is plain YAML"]),
    (
        "status: {a: !!binary aGk=}\n",
        ["9: status.a: has the tag 'tag:yaml.org,2002:binary'; leave it out: a policy is plain YAML"],
    ),
    (
        "status:\n  <<: {a: 1}\n",
        ["10: status: has a merge key, <<, which YAML 1.2 does not know; write the fields out"],
    ),
    ("status: {1: a}\n", ["9: status: has a key that is the number 1; write text, in quotes if need be"]),
    ("status: {~: a}\n", ["9: status: has a key that is empty; write text, in quotes if need be"]),
    ("status: {[a]: b}\n", ["9: status: has a key that is a list; write text, in quotes if need be"]),
    ("status: {{a: 1}: b}\n", ["9: status: has a key that is a mapping; write text, in quotes if need be"]),
    (
        'status: {a.b/c: 1, "a.b/c": 2}\n',
        ["9: status['a.b/c']: the key 'a.b/c' stands here again, first on line 9; keep one of the two"],
    ),
]


@pytest.mark.parametrize(("text", "expected"), APPENDED, ids=[row[0].strip() for row in APPENDED])
def test_a_good_manifest_with_something_added(text: str, expected: list[str]) -> None:
    config.load(GOOD.encode())
    assert problems(GOOD + text) == [f"policy.yaml:{line}" for line in expected]


def test_another_yaml_version_is_refused() -> None:
    remedy = "leave the %YAML line out; the file is YAML 1.2"
    assert problems(f"%YAML 1.1\n---\n{GOOD}") == [f"policy.yaml:2: declares another YAML version; {remedy}"]
    assert config.load(f"%YAML 1.2\n---\n{GOOD}".encode()).policy.name == "edge"


def test_a_byte_order_mark_is_no_character() -> None:
    assert config.load(b"\xef\xbb\xbf" + GOOD.encode()).policy.name == "edge"


def as_json(text: str = GOOD) -> str:
    return json.dumps(tree.plain(yaml_reader.read(text).root))


def test_json_under_any_name() -> None:
    for name in ("policy.json", "policy.yaml", "-"):
        assert config.load(as_json().encode(), name).policy == config.load(GOOD.encode()).policy


def test_yaml_that_begins_like_json() -> None:
    flow = "{apiVersion: postern.dev/v1alpha1, kind: MailProxyPolicy, metadata: {name: x}, spec: {inbound: []}}"
    assert problems(flow) == [
        "policy.yaml:1: spec: has neither a listener nor outbound, so there is nothing to do; give inbound, outbound, or both"
    ]


def test_json_with_a_key_that_stands_twice() -> None:
    text = as_json().replace('"port": 25,', '"port": 26,\n"port": 25,')
    expected = "spec.inbound[0].port: the key 'port' stands here again, first on line 1; keep one of the two"
    assert problems(text, "policy.json") == [f"policy.json:2: {expected}"]


@pytest.mark.parametrize("name", ["policy.json", "policy.yaml"])
def test_half_a_surrogate_pair(name: str) -> None:
    text = as_json().replace('"edge"', '"edge", "annotations": {"a": "\\uD83D"}')
    (found,) = problems(text, name)
    assert "metadata.annotations.a: has half a surrogate pair, which is no character" in found
    whole = text.replace("\\uD83D", "\\uD83D\\uDE00")
    assert config.load(whole.encode(), name).policy.metadata["annotations"] == {"a": "\U0001f600"}


def test_half_a_surrogate_pair_in_yaml() -> None:
    expected = "status.a: has half a surrogate pair, which is no character; write the character itself"
    assert problems(GOOD + 'status: {a: "\\uD83D"}\n') == [f"policy.yaml:9: {expected}"]


def test_what_kubectl_prints_passes() -> None:
    text = GOOD.replace(
        "metadata: {name: edge}",
        """\
metadata:
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: |
      {"apiVersion":"postern.dev/v1alpha1"}
  creationTimestamp: "2026-11-22T09:25:06Z"
  deletionTimestamp: null
  generation: 3
  managedFields:
  - fieldsV1: {"f:spec": {".": {}, "k:{\\"name\\":\\"smtp\\"}": {}}}
  name: edge
  namespace: mail
  uid: 0b8e1f3a-0000-4000-8000-000000000000""",
    )
    text += "status:\n  configHash: 3f9c\n  conditions:\n  - {type: Accepted, status: 'True'}\n"
    policy = config.load(text.encode()).policy
    assert (policy.name, policy.namespace) == ("edge", "mail")
