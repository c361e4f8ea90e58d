"""One AdmissionReview (admission.k8s.io/v1): bytes in, the answer's bytes out.

Decides which pods are asked for at all, turns an injection into a JSON patch (RFC 6902) and a skip into a warning, and
never fails a pod that it should not touch: what goes wrong in here lets the pod pass, unless the settings say Fail.
Which policy wins is the caller's to find, between `parse` and `decide`: it may need the network. What comes in is
hostile: anyone in the cluster can post a review. Raises NotAReview, from `parse`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from . import inject
from .inject import Skipped
from .model import INJECT, Injection
from .reasons import Skip
from .records import owner_of
from .settings import FailurePolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .model import Owner
    from .settings import Settings

JSON = dict[str, Any]

MAX_WARNING = 256
"""Characters: the API server cuts a warning there."""
MAX_WARNINGS = 8
"""And drops them all beyond 4,096 characters in sum."""


class NotAReview(Exception):  # noqa: N818 - it is the request that is wrong
    """The text says what the body is instead."""


class Outcome(enum.Enum):
    INJECTED = "Injected"
    ALREADY_INJECTED = "AlreadyInjected"
    NOT_CONCERNED = "NotConcerned"  # no creation of a pod


@dataclass(frozen=True, slots=True)
class Request:
    """`pod` is None where this is no creation of a pod: nothing to find, nothing to change. `skip`: known without a
    policy. `name` is "" with generateName."""

    uid: str
    namespace: str
    name: str
    generate_name: str
    dry_run: bool
    owner: Owner | None
    labels: Mapping[str, str]
    pod: JSON | None
    skip: Skipped | None


@dataclass(frozen=True, slots=True)
class Facts:
    """For Events and metrics. `policy`: the name, "" where none was found. `message`: of a skip."""

    namespace: str
    name: str
    generate_name: str
    owner: Owner | None
    policy: str
    outcome: Outcome | Skip
    message: str
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """`problem`: a fault of ours, for the log; the peer reads no more of it than its kind."""

    body: bytes
    facts: Facts
    problem: Exception | None = None


def parse(body: bytes) -> Request:
    """Raises NotAReview."""
    try:
        review = msgspec.json.decode(body, type=_Review)
    except msgspec.ValidationError as problem:
        raise NotAReview(f"not an AdmissionReview: {problem}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise NotAReview(f"not JSON: {problem}") from None
    if (review.api_version, review.kind) != ("admission.k8s.io/v1", "AdmissionReview"):
        raise NotAReview("not an AdmissionReview of admission.k8s.io/v1: set admissionReviewVersions to [v1]")
    asked = review.request
    if not asked.uid:
        raise NotAReview("not an AdmissionReview: request.uid is empty")
    concerned = (asked.operation, asked.resource, asked.sub_resource) == ("CREATE", _PODS, "")
    pod = _pod(asked.object) if concerned else None
    metadata = pod["metadata"] if pod else {}
    return Request(
        uid=asked.uid,
        namespace=asked.namespace,
        name=asked.name,
        generate_name=_text(metadata.get("generateName")),
        dry_run=asked.dry_run is True,
        owner=owner_of(metadata),
        labels=metadata.get("labels") or {},
        pod=pod,
        skip=_skip(pod) if pod else None,
    )


def decide(request: Request, found: Injection | Skipped, settings: Settings, version: str) -> Answered:
    """`found`: what the winning policy says, or why there is nothing of one; `request.skip` comes before it, and then
    only the policy's name counts."""
    if request.pod is None:
        return _answered(request, Outcome.NOT_CONCERNED)
    policy = found.policy
    refused = request.skip or (found if isinstance(found, Skipped) else None)
    if refused is not None:
        return _skipped(request, refused, policy)
    assert isinstance(found, Injection)  # noqa: S101 - for the type checker
    try:
        injected = inject.inject(request.pod, found, settings, version)
        patch = tuple(_patch(request.pod, injected.pod))
        outcome = Outcome.INJECTED if patch else Outcome.ALREADY_INJECTED
        return _answered(request, outcome, policy, patch=patch, warnings=injected.warnings)
    except Skipped as skipped:
        return _skipped(request, skipped, policy)
    except Exception as problem:  # a pod shall not fail for a fault of ours
        return failed(request, problem, settings, policy)


def failed(request: Request, problem: Exception, settings: Settings, policy: str = "") -> Answered:
    """Where the lookup, or injection, broke."""
    what = f"internal error: {type(problem).__name__}"
    if settings.webhook.failure_policy is FailurePolicy.IGNORE:
        skipped = Skipped(Skip.INTERNAL_ERROR, f"{what}; the operator's log has more")
        return replace(_skipped(request, skipped, policy), problem=problem)
    message = (
        f"postern: {what}; the operator's log has more. To have this pod without the sidecar, label it "
        f"{INJECT}=disabled; to let pods pass when this happens, set webhook.failurePolicy to Ignore"
    )
    refused = _answered(request, Skip.INTERNAL_ERROR, policy, message=message, refused=True)
    return replace(refused, problem=problem)


def answer(body: bytes, find: Callable[[Request], Injection | Skipped], settings: Settings, version: str) -> Answered:
    """All of it, where the policy can be found without waiting. Raises NotAReview."""
    request = parse(body)
    if request.pod is None or request.skip is not None:
        return decide(request, Skipped(Skip.NO_POLICY, ""), settings, version)
    try:
        found = find(request)
    except Exception as problem:  # as in decide
        return failed(request, problem, settings)
    return decide(request, found, settings, version)


# -- the review --------------------------------------------------------------------------------------------------------


class _Resource(msgspec.Struct, frozen=True):
    group: str = ""
    version: str = ""
    resource: str = ""


_PODS = _Resource("", "v1", "pods")


class _Request(msgspec.Struct, frozen=True, rename="camel"):
    uid: str
    resource: _Resource
    operation: str
    namespace: str = ""
    name: str = ""
    sub_resource: str = ""
    dry_run: bool | None = None
    object: msgspec.Raw = msgspec.Raw(b"null")


class _Review(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    request: _Request


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """What is read of a pod's metadata, for its types."""

    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _Pod(msgspec.Struct, frozen=True):
    metadata: _Metadata
    spec: JSON


def _pod(raw: msgspec.Raw) -> JSON:
    """Raises NotAReview."""
    try:
        pod: JSON = msgspec.json.decode(raw, type=JSON)
        msgspec.convert(pod, _Pod)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise NotAReview(f"request.object is not a pod: {problem}") from None
    return pod


def _skip(pod: JSON) -> Skipped | None:
    try:
        inject.exclude(pod)
    except Skipped as skipped:
        return skipped
    except Exception:  # `decide` meets it again, and says so
        return None
    return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


# -- the answer --------------------------------------------------------------------------------------------------------


def _skipped(request: Request, why: Skipped, policy: str) -> Answered:
    warning = f"postern: no sidecar ({why.reason.value}): {why.message}"
    return _answered(request, why.reason, policy, message=why.message, warnings=(warning,))


def _answered(
    request: Request,
    outcome: Outcome | Skip,
    policy: str = "",
    *,
    message: str = "",
    patch: Iterable[JSON] = (),
    warnings: Iterable[str] = (),
    refused: bool = False,
) -> Answered:
    response: JSON = {"uid": request.uid, "allowed": not refused}
    if refused:
        response["status"] = {"code": 500, "message": message}
    patch = list(patch)
    if patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = msgspec.json.encode(patch)  # bytes: msgspec writes base64
    shown = [_shortened(each) for each in warnings][:MAX_WARNINGS]
    if shown:
        response["warnings"] = shown
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
    facts = Facts(
        request.namespace,
        request.name,
        request.generate_name,
        request.owner,
        policy,
        outcome,
        message,
        request.dry_run,
    )
    return Answered(msgspec.json.encode(review), facts)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_WARNING else text[: MAX_WARNING - 3] + "..."


def _patch(old: JSON, new: JSON) -> Iterable[JSON]:
    """What injection changes: keys of metadata's maps, and of spec. Nothing else, and it removes nothing there."""
    for key in ("labels", "annotations"):
        yield from _changes(f"/metadata/{key}", old["metadata"].get(key), new["metadata"][key])
    yield from _changes("/spec", old["spec"], new["spec"])


def _changes(path: str, old: JSON | None, new: JSON) -> Iterable[JSON]:
    if old is None:
        yield {"op": "add", "path": path, "value": new}
        return
    for key, value in new.items():
        place = f"{path}/{key.replace('/', '~1')}"  # RFC 6901; a key that injection changes has no ~
        if key not in old:
            yield {"op": "add", "path": place, "value": value}
        elif old[key] != value:
            yield {"op": "replace", "path": place, "value": value}
