"""Which pods a policy selects, and which policy wins a pod.

Label selectors are Kubernetes' own (`LabelSelector` of meta/v1): all of `matchLabels` and all of `matchExpressions`;
`NotIn` and `DoesNotExist` hold where the label is missing. Without a selector nothing is selected, nor with an empty
one, which in Kubernetes would select everything. Knows no namespaces: policies and pods of one are compared.
Raises nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from postern_sidecar.config.model import Operator

from .model import INJECT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from postern_sidecar.config.model import LabelExpression, LabelSelector

    from .model import PolicyRecord

Rank = tuple[int, str, str]


def selects(selector: LabelSelector | None, labels: Mapping[str, str]) -> bool:
    if selector is None or not (selector.match_labels or selector.match_expressions):
        return False
    wanted = all(labels.get(key) == value for key, value in selector.match_labels.items())
    return wanted and all(_holds(expression, labels) for expression in selector.match_expressions)


def query(selector: LabelSelector | None) -> str | None:
    """The selector as the API's `labelSelector`, unquoted for a URL; None where nothing is selected: "" would be
    everything."""
    if selector is None:
        return None
    terms = [f"{key}={value}" for key, value in sorted(selector.match_labels.items())]
    terms += [_term(expression) for expression in selector.match_expressions]
    return ",".join(terms) or None


def rank(policy: PolicyRecord) -> Rank:
    """The first wins: highest priority, then oldest, then by name."""
    return -policy.priority, policy.created, policy.key.name


def ordered(policies: Iterable[PolicyRecord]) -> list[PolicyRecord]:
    return sorted(policies, key=rank)


def winner(policies: Iterable[PolicyRecord], labels: Mapping[str, str]) -> PolicyRecord | None:
    """Of the policies of a pod's namespace. An invalid one wins too: its pods keep its last accepted configuration."""
    return min((policy for policy in policies if selects(policy.selector, labels)), key=rank, default=None)


def opted_out(labels: Mapping[str, str]) -> bool:
    return labels.get(INJECT) == "disabled"


def _holds(expression: LabelExpression, labels: Mapping[str, str]) -> bool:
    match expression.operator:
        case Operator.IN:
            return labels.get(expression.key) in expression.values
        case Operator.NOT_IN:
            return labels.get(expression.key) not in expression.values
        case Operator.EXISTS:
            return expression.key in labels
    return expression.key not in labels  # DoesNotExist


def _term(expression: LabelExpression) -> str:
    key, values = expression.key, ",".join(expression.values)
    match expression.operator:
        case Operator.IN:
            return f"{key} in ({values})"
        case Operator.NOT_IN:
            return f"{key} notin ({values})"
        case Operator.EXISTS:
            return key
    return f"!{key}"
