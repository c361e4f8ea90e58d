"""`postern-operator inject`: what the webhook would do, without a cluster.

Reads manifests (YAML or JSON, several documents, lists), injects into pods and pod templates as `review` would, and
writes the manifests, a diff or JSON; reasons go to standard error. Policies come from `--policy` and from the manifests
themselves, as in one `kubectl apply`. That a namespace has the label is taken for granted. Raises nothing.
"""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from postern_sidecar.config import InvalidPolicy, Problem
from postern_sidecar.config import load as load_policy

from . import inject, select
from .inject import Skipped
from .model import API_VERSION, KIND, PolicyRecord
from .reasons import Skip
from .records import policy_record
from .render import render

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .model import Injection
    from .settings import Settings

JSON = dict[str, Any]

MAX_SIZE = 64 << 20
"""Octets of one file: a manifest has a few KiB, and an API server takes 3 MiB."""

_TEMPLATES = {
    "Pod": (),
    "PodTemplate": ("template",),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    **dict.fromkeys(
        ("Deployment", "StatefulSet", "DaemonSet", "Job", "ReplicaSet", "ReplicationController"), ("spec", "template")
    ),
}


@dataclass(frozen=True, slots=True)
class Order:
    """The command line. A file "-" is standard input. `output`: manifest, diff or json."""

    files: tuple[str, ...]
    policies: tuple[str, ...] = ()
    output: str = "manifest"


class Unreadable(Exception):  # noqa: N818 - it is the file that is wrong
    """The text names the file and what is wrong with it."""


def run(order: Order, settings: Settings, version: str) -> int:
    """The exit status: 0 all were injected, 1 something was skipped, or a policy is wrong; 2 nothing could be read."""
    try:
        documents = [(name, each) for name in order.files for each in _documents(name)]
        policies = _Policies(settings)
        for name in order.policies:
            policies.add_file(name)
    except Unreadable as problem:
        print(problem, file=sys.stderr)
        return 2
    for name, document in documents:
        policies.add_from(name, document)
    work = _Work(policies, settings, version)
    results = [(document, work.injected(document)) for _, document in documents]
    if not work.seen:
        print(f"{', '.join(order.files)}: no pod, and nothing with a pod template", file=sys.stderr)
        return 2
    _WRITERS[order.output](results)
    return 1 if work.skipped or policies.wrong else 0


@dataclass(slots=True)
class _Policies:
    settings: Settings
    records: list[PolicyRecord] = field(default_factory=list)
    wrong: bool = False

    def add_file(self, name: str) -> None:
        """Raises Unreadable."""
        found = False
        for document in _documents(name):
            found = self.add_from(name, document) or found
        if not found:
            raise Unreadable(f"{name}: no {KIND} of {API_VERSION}")

    def add_from(self, name: str, document: JSON) -> bool:
        """Whether there was one."""
        found = [each for each in _flat(document) if each.get("kind") == KIND and each.get("apiVersion") == API_VERSION]
        for each in found:
            record = policy_record(each, self.settings.sidecar)
            self.records.append(record)
            problems = [*record.problems, *_unknown(each), *record.warnings]
            for problem in problems:
                print(f"{name}: {KIND} {record.key.name}: {problem}", file=sys.stderr)
            self.wrong = self.wrong or any(not problem.warning for problem in problems)
        return bool(found)

    def find(self, namespace: str, labels: JSON) -> Injection:
        """As the webhook finds it. Raises Skipped."""
        here = [each for each in self.records if not namespace or each.key.namespace in ("", namespace)]
        winner = select.winner(here, labels)
        if winner is None:
            raise Skipped(Skip.NO_POLICY, _why_none(here, namespace))
        rendered = render(winner)
        if rendered is None:
            raise Skipped(
                Skip.POLICY_INVALID, f"{KIND} {winner.key.name} is invalid: postern-sidecar validate says why"
            )
        return rendered.injection


def _unknown(manifest: JSON) -> list[Problem]:
    """What is wrong outside `spec`: a record, made of what an API server has accepted, does not look there."""
    try:
        load_policy(msgspec.json.encode({**manifest, "spec": manifest.get("spec")}))
    except InvalidPolicy as refused:
        return [each for each in refused.problems if not each.path.startswith("spec")]
    return []


def _why_none(policies: Sequence[PolicyRecord], namespace: str) -> str:
    if not policies:
        return f"there is no {KIND}" + (f" of namespace {namespace}" if namespace else "")
    said = [f"{each.key.name} has no selector" for each in policies if each.selector is None]
    return "; ".join(said) or f"no selector matches its labels ({', '.join(each.key.name for each in policies)})"


@dataclass(slots=True)
class _Work:
    policies: _Policies
    settings: Settings
    version: str
    seen: int = 0
    skipped: int = 0

    def injected(self, document: JSON) -> JSON:
        """The document with its pods injected; it says on standard error what happened to each."""
        if _is_list(document):
            items = [self.injected(each) if isinstance(each, dict) else each for each in document["items"]]
            return {**document, "items": items}
        path = _TEMPLATES.get(str(document.get("kind")))
        pod = None if path is None else _at(document, path)
        if path is None or pod is None:
            return document
        self.seen += 1
        metadata = document.get("metadata") or {}
        name = f"{document['kind']} {metadata.get('name') or metadata.get('generateName', '')}"
        try:
            new, policy, warnings = self._one(pod, metadata.get("namespace") or "")
        except Skipped as skipped:
            self.skipped += 1
            print(f"{name}: skipped ({skipped.reason.value}): {skipped}", file=sys.stderr)
            return document
        print(f"{name}: injected by {KIND} {policy}", file=sys.stderr)
        for warning in warnings:
            print(f"{name}: warning: {warning}", file=sys.stderr)
        return _with(document, path, new)

    def _one(self, pod: JSON, namespace: str) -> tuple[JSON, str, tuple[str, ...]]:
        """Raises Skipped."""
        try:
            inject.exclude(pod)
            found = self.policies.find(namespace, (pod.get("metadata") or {}).get("labels") or {})
            done = inject.inject(pod, found, self.settings, self.version)
        except (KeyError, TypeError, AttributeError, ValueError) as problem:
            message = f"this is no pod that an API server would take: {type(problem).__name__} {problem}"
            raise Skipped(Skip.INTERNAL_ERROR, message) from None
        return done.pod, found.policy, done.warnings


# -- reading -----------------------------------------------------------------------------------------------------------


def _documents(name: str) -> list[JSON]:
    """Raises Unreadable."""
    shown = "standard input" if name == "-" else name
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_SIZE + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_SIZE + 1)
        if len(data) > MAX_SIZE:
            raise Unreadable(f"{shown}: larger than {MAX_SIZE >> 20} MiB")
        documents = _parsed(data.decode(), shown)
    except OSError as problem:
        raise Unreadable(f"{shown}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise Unreadable(f"{shown}: not UTF-8") from None
    for each in documents:
        if not isinstance(each, dict):
            raise Unreadable(f"{shown}: a document that is not a mapping; give Kubernetes manifests")
    return documents


def _parsed(text: str, shown: str) -> list[Any]:
    """Without what is empty. Raises Unreadable."""
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import SafeConstructor
    from ruamel.yaml.error import YAMLError

    class Constructor(SafeConstructor):
        """A date stays text, as in JSON."""

    Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = Constructor
    try:
        return [each for each in yaml.load_all(text) if each is not None]
    except YAMLError as problem:
        raise Unreadable(f"{shown}: not YAML: {' '.join(str(problem).split())}") from None
    except (RecursionError, ValueError, OverflowError, AssertionError) as problem:
        raise Unreadable(f"{shown}: not YAML: {type(problem).__name__}") from None


def _is_list(document: JSON) -> bool:
    return str(document.get("kind", "")).endswith("List") and isinstance(document.get("items"), list)


def _flat(document: JSON) -> Iterator[JSON]:
    if not _is_list(document):
        yield document
        return
    for each in document["items"]:
        if isinstance(each, dict):
            yield from _flat(each)


def _at(document: JSON, path: tuple[str, ...]) -> JSON | None:
    """The pod; None where there is none."""
    found: Any = document
    for step in path:
        found = found.get(step) if isinstance(found, dict) else None
    return found if isinstance(found, dict) and isinstance(found.get("spec"), dict) else None


def _with(document: JSON, path: tuple[str, ...], pod: JSON) -> JSON:
    if not path:
        return pod
    return {**document, path[0]: _with(document[path[0]], path[1:], pod)}


# -- writing -----------------------------------------------------------------------------------------------------------

_Results = list[tuple[JSON, JSON]]


def _yaml(document: JSON) -> str:
    return msgspec.yaml.encode(document).decode()


def _manifest(results: _Results) -> None:
    print("---\n".join(_yaml(new) for _, new in results), end="")


def _diff(results: _Results) -> None:
    for old, new in results:
        name = f"{old.get('kind')}/{(old.get('metadata') or {}).get('name', '')}"
        lines = difflib.unified_diff(
            _yaml(old).splitlines(), _yaml(new).splitlines(), name, f"{name} injected", lineterm=""
        )
        for line in lines:
            print(line)


def _json(results: _Results) -> None:
    items = [new for _, new in results]
    whole = items[0] if len(items) == 1 else {"apiVersion": "v1", "kind": "List", "items": items}
    print(msgspec.json.format(msgspec.json.encode(whole)).decode())


_WRITERS = {"manifest": _manifest, "diff": _diff, "json": _json}
OUTPUTS = tuple(_WRITERS)
