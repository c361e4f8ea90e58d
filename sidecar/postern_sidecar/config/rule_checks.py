"""Rules: that conditions and messages compile, and that names are unique. The CEL library comes in with the first rule.

Raises nothing; `config.expressions` and `config.templates` say what is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .expressions import ExpressionError, compile_expression
from .model import Inbound, ReverseDNS, Rule
from .problems import Problem, error
from .templates import TemplateError, compile_template

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = "sender_host_name"


def rules(inbound: Inbound, path: str) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, rule in enumerate(inbound.rules):
        where = f"{path}.rules[{index}]"
        if first.setdefault(rule.name, index) != index:
            message = f"rules[{first[rule.name]}] has the name {rule.name} too"
            yield error(f"{where}.name", message, "give each rule a name of its own: logs and metrics show it")
        yield from compiles(rule, where)
        if inbound.reverse_dns is ReverseDNS.NEVER:
            yield from _name_is_never_known(rule, where)


def compiles(rule: Rule, path: str) -> Iterator[Problem]:
    try:
        compile_expression(rule.when)
    except ExpressionError as problem:
        for finding in problem.findings:
            yield error(f"{path}.when", str(finding), finding.remedy)
    try:
        compile_template(rule.message)
    except TemplateError as problem:
        for message, remedy in problem.problems:
            yield error(f"{path}.message", message, remedy)


def _name_is_never_known(rule: Rule, path: str) -> Iterator[Problem]:
    try:
        names = compile_expression(rule.when).names
    except ExpressionError:
        return
    if _NAME in names:
        message = f"looks at {_NAME}, which reverseDNS: Never keeps empty"
        yield error(f"{path}.when", message, "leave reverseDNS out, or the name")
