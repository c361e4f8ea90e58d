"""A listener's rules: Exim's connect ACL, in CEL (design section 8, contracts section 2).

They run in their order, on values that are known by then. A Log rule that matches is a hit and nothing more; the first
Refuse or Defer rule that matches decides, and those behind it are not looked at. An evaluation error never lets a
client through that a rule might have stopped: in a Refuse or Defer rule it decides to defer, in a Log rule it does not
match; every error is reported. How a verdict is said on the wire is not known here.
`Rules.compile` raises ExpressionError and TemplateError, which a checked policy does not; nothing else is raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from postern_sidecar.config.expressions import EvaluationError, Expression, compile_expression
from postern_sidecar.config.model import Action
from postern_sidecar.config.templates import Template, compile_template
from postern_sidecar.config.vocabulary import ABSENT, ALIASES, Variable
from postern_sidecar.proxyproto import tlv

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from postern_sidecar.config.model import Rule

    from .client import Client


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule that matched, or failed (`failed`: it has no value; `message` is then why, for the log only)."""

    rule: str
    action: Action
    message: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """`hits`: the rules that matched, in order, the deciding one last. `errors`: those that failed, likewise.
    `verdict`: the one of either that decides, which is never a Log rule; None lets the client in."""

    hits: tuple[Hit, ...] = ()
    errors: tuple[Hit, ...] = ()
    verdict: Hit | None = None


@dataclass(frozen=True, slots=True)
class _Compiled:
    name: str
    action: Action
    condition: Expression
    message: Template

    def apply(self, variables: Mapping[str, Variable]) -> Hit | None:
        try:
            if not self.condition.evaluate(variables):
                return None
        except EvaluationError as problem:
            return Hit(self.name, self.action, str(problem), failed=True)
        return Hit(self.name, self.action, self.message.fill(variables))


@dataclass(frozen=True, slots=True)
class Rules:
    _rules: tuple[_Compiled, ...]

    @classmethod
    def compile(cls, rules: Iterable[Rule]) -> Rules:
        """Raises ExpressionError, TemplateError."""
        return cls(
            tuple(
                _Compiled(rule.name, rule.action, compile_expression(rule.when), compile_template(rule.message))
                for rule in rules
            )
        )

    def uses(self, name: str) -> bool:
        """Whether any condition or message looks at this variable."""
        return any(name in rule.condition.names | rule.message.names for rule in self._rules)

    def evaluate(self, variables: Mapping[str, Variable]) -> Judgement:
        """`variables` has every name of the vocabulary."""
        hits: list[Hit] = []
        errors: list[Hit] = []
        for rule in self._rules:
            hit = rule.apply(variables)
            if hit is not None:
                (errors if hit.failed else hits).append(hit)
                if rule.action is not Action.LOG:
                    return Judgement(tuple(hits), tuple(errors), hit)
        return Judgement(tuple(hits), tuple(errors))


def variables(client: Client) -> dict[str, Variable]:
    """Every name of the vocabulary, with "", 0 or false for what is absent."""
    known = ABSENT | {
        "sender_host_address": str(client.sender.address),
        "sender_host_port": client.sender.port,
        "sender_host_name": client.verified_name,
        "received_ip_address": str(client.local.address),
        "received_port": client.local.port,
        "proxy_session": client.proxy_session,
        "proxy_failed": bool(client.proxy_failed),
    }
    if client.header is not None and not client.proxy_failed:
        # The 2014 test for a failure, "proxy_session is true but proxy_host_address is empty", holds: also where the
        # header named nobody (UsePeer, a forwarded probe) it was a good one, and the peer is the load balancer.
        known["proxy_host_address"] = str(client.peer.address)
        known["proxy_host_port"] = client.peer.port
        known |= {name: value for name, value in tlv.variables(client.header).items() if name in ABSENT}
    if client.target is not None:
        known["proxy_target_address"] = str(client.target.address)
        known["proxy_target_port"] = client.target.port
    for alias, name in ALIASES.items():
        known[alias] = known[name]
    return known
