"""What the fields of a policy mean together: contradictions, loops, open relays by mistake. No field on its own.

Each check yields `Problem`s; `check` runs them all, the others are for the sound pieces of a file that is broken
elsewhere. Errors refuse the policy; warnings say what a soft value gives away. Listeners are
`config.listener_checks`, rules `config.rule_checks`, `spec.outbound` is `config.outbound_checks`. Raises nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from . import listener_checks, resource_checks, rule_checks
from .model import Inbound, LabelSelector, Logging, Operator, Outbound, Policy
from .problems import Problem, error, join, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.ASCII)  # RFC 1123
_HOSTNAME = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.ASCII | re.IGNORECASE)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", re.ASCII)
_MAX_NAME = 63  # the name becomes a label's value


def check(policy: Policy) -> list[Problem]:
    """Everything that is wrong with a policy whose shape is right, or worth a warning. Compiles its rules."""
    spec = policy.spec
    found = [*metadata(policy.metadata)]
    if spec.hostname is not None:
        found += hostname(spec.hostname)
    if spec.selector is not None:
        found += selector(spec.selector)
    if not spec.inbound and spec.outbound is None:
        found += nothing_to_do()
    found += listeners(dict(enumerate(spec.inbound)))
    if spec.outbound is not None:
        found += outbound_hostname(spec.hostname)
        found += outbound(spec.outbound, dict(enumerate(spec.inbound)))
    found += logging(spec.logging)
    found += resource_checks.resources(spec.sidecar.resources)
    return found


def metadata(fields: Mapping[str, object]) -> Iterator[Problem]:
    name, namespace = fields.get("name"), fields.get("namespace", "default")
    if name is None:
        yield error("metadata.name", "is required and missing", "give the policy a name, such as edge")
    elif not isinstance(name, str) or len(name) > _MAX_NAME or not _SUBDOMAIN.fullmatch(name):
        remedy = f"write at most {_MAX_NAME} lower-case letters, digits, inner hyphens and dots (RFC 1123)"
        yield error("metadata.name", f"{shown(name)} is not a policy's name", remedy)
    if not isinstance(namespace, str) or not re.fullmatch(_LABEL, namespace, re.ASCII):
        remedy = "write lower-case letters, digits and inner hyphens, as in mail"
        yield error("metadata.namespace", f"{shown(namespace)} is not a namespace's name", remedy)


def hostname(name: str) -> Iterator[Problem]:
    if len(name) > 253 or not _HOSTNAME.fullmatch(name):
        yield error("spec.hostname", f"{shown(name)} is not a host name", "write one like mail.example.net")


def outbound_hostname(name: str | None) -> Iterator[Problem]:
    """Destinations judge a client by its EHLO (RFC 5321 4.1.4); what is no host name at all `hostname` finds."""
    if name is None:
        yield error("spec.hostname", "is required with outbound and missing", "write one like mail.example.net")
    elif _HOSTNAME.fullmatch(name) and ("." not in name or name.rpartition(".")[2].isdigit()):
        message = f"{shown(name)} is not qualified, and with outbound other servers are greeted with it"
        yield error("spec.hostname", message, "write a name that they can look up, such as mail.example.net")


def selector(chosen: LabelSelector) -> Iterator[Problem]:
    path = "spec.selector"
    if not chosen.match_labels and not chosen.match_expressions:
        message = "is empty, which in Kubernetes would select every pod"
        yield error(path, message, "give matchLabels or matchExpressions, or leave selector out: then it selects none")
    for key, value in chosen.match_labels.items():
        yield from _label(key, (value,), join(f"{path}.matchLabels", key))
    for index, expression in enumerate(chosen.match_expressions):
        where = f"{path}.matchExpressions[{index}]"
        yield from _label(expression.key, expression.values, where)
        lists = expression.operator in (Operator.IN, Operator.NOT_IN)
        if lists != bool(expression.values):
            message = f"{expression.operator.value} {'needs' if lists else 'takes no'} values"
            remedy = "give at least one" if lists else "leave values out"
            yield error(f"{where}.values", message, remedy)


def _label(key: str, values: tuple[str, ...], path: str) -> Iterator[Problem]:
    prefix, slash, name = key.rpartition("/")
    prefix_fits = not slash or (len(prefix) <= 253 and _SUBDOMAIN.fullmatch(prefix))
    if not name or not prefix_fits or not _LABEL_VALUE.fullmatch(name):
        yield error(path, f"{shown(key)} is not a label's key", "write one like app or app.kubernetes.io/name")
    for value in values:
        if not _LABEL_VALUE.fullmatch(value):
            remedy = "at most 63 letters, digits and inner - _ . are allowed"
            yield error(path, f"{shown(value)} is not a label's value", remedy)


def nothing_to_do() -> Iterator[Problem]:
    message = "has neither a listener nor outbound, so there is nothing to do"
    yield error("spec", message, "give inbound, outbound, or both")


def listeners(known: Mapping[int, Inbound]) -> Iterator[Problem]:
    """By their index in `spec.inbound`; broken ones may be missing."""
    yield from listener_checks.together(known)
    for index, inbound in known.items():
        path = join("spec.inbound", index)
        yield from listener_checks.listener(inbound, path)
        yield from rule_checks.rules(inbound, path)


def outbound(chosen: Outbound, known: Mapping[int, Inbound]) -> Iterator[Problem]:
    """`known` are the listeners by their index; broken ones may be missing."""
    from . import outbound_checks  # a sidecar without outbound never needs it

    yield from outbound_checks.outbound(chosen, known)


def logging(chosen: Logging) -> Iterator[Problem]:
    for index, name in enumerate(chosen.selectors):
        if name in chosen.selectors[:index]:
            where = join("spec.logging.selectors", index)
            yield error(where, f"{name.value} stands there twice", "keep one of the two")
