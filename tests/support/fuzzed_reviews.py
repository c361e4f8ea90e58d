"""AdmissionReviews that nobody would send, and what every answer to one must be.

    body = generate(Random(1))
    kind = check(body, status, answer)      # AssertionError where the answer is none

A review is a good one with up to six faults: values of wrong types, members missing or twice, other kinds, deep
nesting, octets that are no UTF-8, cut, huge. A body is seldom beyond 100 KB and at most 3 MB.
"""

from __future__ import annotations

import base64
import copy
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random

NAMESPACE = "mail"
UID = "705ab4f5-6393-11e8-b7cc-42010a800002"
_DEEP = "[" * 20_000 + "]" * 20_000
_TEXTS = (
    "",
    "CREATE",
    "DELETE",
    "Pod",
    "pods",
    "windows",
    "postern",
    "../../x",
    "\u0000",
    "\ud83d",
    "ü" * 300,
    "x" * 70_000,
)
_ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1 << 70,
    1e308,
    0.5,
    [],
    {},
    [[]],
    [None],
    {"": None},
    [{}],
    {"a": []},
)
_NAMES = (
    "hostNetwork", "initContainers", "volumes", "ports", "securityContext", "sysctls", "nodeSelector", "os",
    "lifecycle", "ownerReferences", "annotations", "labels", "name", "postern.dev/status", "postern.dev/inject",
    "dryRun", "subResource",
)  # fmt: skip


def review() -> dict[str, Any]:
    """A good one; its pod is selected by `app: mail`."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "mail-",
            "labels": {"app": "mail"},
            "annotations": {"a": "b"},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "mail", "uid": "u", "controller": True}
            ],
        },
        "spec": {
            "terminationGracePeriodSeconds": 30,
            "nodeSelector": {"disk": "ssd"},
            "securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1024"}]},
            "volumes": [{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
            "initContainers": [{"name": "first", "image": "i", "restartPolicy": "Always"}],
            "containers": [
                {
                    "name": "mail",
                    "image": "i",
                    "ports": [{"name": "smtp", "containerPort": 2525}],
                    "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
                    "volumeMounts": [{"name": "token", "mountPath": "/t"}],
                }
            ],
        },
    }
    request = {
        "uid": UID,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": NAMESPACE,
        "operation": "CREATE",
        "userInfo": {"username": "u", "groups": ["g"]},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions"},
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def generate(random: Random) -> bytes:
    made = review()
    for _ in range(random.choice((0, 1, 1, 1, 2, 3, 6))):
        _spoil(made, random)
    text = json.dumps(made, ensure_ascii=random.random() < 0.7)
    body = text.encode("utf-8", "surrogatepass")
    if random.random() < 0.35:
        body = random.choice(_OCTETS)(body, random)
    return body


def check(body: bytes, status: int, answer: bytes) -> str:
    """What it was: Injected, Skipped, Passed or Refused (a 400). Raises AssertionError."""
    if status == 400:
        assert body != json.dumps(review()).encode(), "a good review is no bad request"
        assert 0 < len(answer) < 4096
        assert answer.endswith(b"\n")
        return "Refused"
    assert status == 200
    answered = json.loads(answer)
    assert set(answered) == {"apiVersion", "kind", "response"}
    assert (answered["apiVersion"], answered["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response = answered["response"]
    assert set(response) <= {"uid", "allowed", "patch", "patchType", "warnings"}
    assert response["allowed"] is True, "Ignore: no pod is refused"
    # What the webhook does not read it need not refuse: a string there may be no UTF-8, or nested too deeply for us.
    try:
        asked = json.loads(body.decode(errors="replace"), strict=False)
    except RecursionError:
        return "Passed"
    assert response["uid"] == asked["request"]["uid"]
    warnings = response.get("warnings", [])
    assert all(isinstance(each, str) and 0 < len(each) <= 256 for each in warnings)
    assert len(warnings) <= 8
    if "patch" not in response:
        assert "patchType" not in response
        return "Skipped" if warnings else "Passed"
    assert response["patchType"] == "JSONPatch"
    pod = asked["request"]["object"]
    _apply(pod, json.loads(base64.b64decode(response["patch"], validate=True)))
    assert "postern" in [each.get("name") for each in pod["spec"]["initContainers"]]
    return "Injected"


def _apply(pod: dict[str, Any], patch: list[dict[str, Any]]) -> None:
    """RFC 6902, of which the answer uses add and replace of a map's members."""
    assert patch
    for operation in patch:
        assert operation["op"] in ("add", "replace")
        *above, last = (each.replace("~1", "/").replace("~0", "~") for each in operation["path"].split("/")[1:])
        place = pod
        for each in above:
            place = place[each]
        assert isinstance(place, dict)
        assert operation["op"] == "add" or last in place
        place[last] = operation["value"]


def _spoil(made: dict[str, Any], random: Random) -> None:
    places = [*_places(made)]
    if not places:
        return
    place, key = random.choice(places)
    kind = random.random()
    if kind < 0.3:
        place[key] = copy.deepcopy(random.choice(_ODD))
    elif kind < 0.5:
        place[key] = random.choice(_TEXTS)
    elif kind < 0.75:
        del place[key]
    elif isinstance(place, dict):
        source, name = random.choice(places)
        if source is not place or name != key:
            place[random.choice(_NAMES)] = copy.deepcopy(source[name])
    else:
        place.append(copy.deepcopy(random.choice(_ODD)))


def _places(node: Any) -> Any:
    """Every member and item: what holds it, and under which key."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield node, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _cut(body: bytes, random: Random) -> bytes:
    return body[: random.randrange(len(body))]


def _flipped(body: bytes, random: Random) -> bytes:
    made = bytearray(body)
    for _ in range(random.randint(1, 4)):
        made[random.randrange(len(made))] = random.randrange(256)
    return bytes(made)


def _twice(body: bytes, random: Random) -> bytes:
    """A member that is there twice: which one counts is nobody's promise, but one does."""
    name = random.choice((b'"request"', b'"uid"', b'"operation"', b'"spec"', b'"metadata"', b'"labels"'))
    value = random.choice((b"{}", b"null", b'"x"', b"[]"))
    return body.replace(name + b":", name + b": " + value + b", " + name + b":", 1)


def _nested(body: bytes, random: Random) -> bytes:
    deep = _DEEP if random.random() < 0.5 else '{"a":' * 20_000 + "1" + "}" * 20_000
    return random.choice((deep.encode(), body.replace(b"null", deep.encode(), 1)))


def _no_utf8(body: bytes, random: Random) -> bytes:
    at = body.find(b"mail", random.randrange(max(1, len(body))))
    return body[:at] + random.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80")) + body[at:]


def _huge(body: bytes, random: Random) -> bytes:
    if random.random() > 0.03:
        return body + b" " * random.randrange(4096)
    return body.replace(b'"b"', b'"' + b"x" * 3_000_000 + b'"', 1)


def _other(_body: bytes, random: Random) -> bytes:
    return random.choice(
        (b"", b"null", b"[]", b"{}", b"\x00" * 9, b"\x1f\x8b\x08", b"{" * 999, b'"x"', random.randbytes(64))
    )


_OCTETS = (_cut, _flipped, _flipped, _twice, _nested, _no_utf8, _huge, _other)
