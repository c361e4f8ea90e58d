"""Rule conditions in CEL (cel-spec), compiled once against the vocabulary: a type error is found when a policy is read.

The library (cel-expr-python) is imported with the first expression and not before: it costs 6 MB that a policy without
rules does not need.

Evaluation is bounded by what may be compiled, so that no rule can hold up the event loop (measured, one core):
- 1024 characters (the model's bound), and 32 levels of nesting (the library's own);
- `all`, `exists`, `map`, `filter` not inside one another: six nested ones come to 10^6 steps, and a chain of
  `.map(x, x + x)` doubles its text each time;
- `matches` takes a literal pattern, not inside a macro, with counted repetitions of at most 256 in all and none of a
  group, and no Unicode class: RE2 never backtracks, but the library compiles a pattern again for each evaluation, which
  takes 200 ms for `\\pL{256}` and 2 ms within these bounds;
- `in_network` takes a literal list, so a bad network is found when the policy is read.

Raises ExpressionError from `compile_expression` and EvaluationError from `Expression.evaluate`, nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from . import celast
from .problems import shown, suggestion
from .scalars import Network
from .vocabulary import FUNCTIONS, VARIABLES, Variable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cel_expr_python import cel  # type: ignore[import-untyped]

    from postern_sidecar.names import IPNetwork

MAX_MATCHES = 8  # calls of `matches` in one expression
MAX_REPETITIONS = 256
MAX_NETWORKS = 128

_REPORTED = re.compile(r"ERROR: <input>:(-?[0-9]+):(-?[0-9]+): (.*)")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")
_UNICODE_CLASS = re.compile(r"(?<!\\)(?:\\\\)*\\[pP]")
_REPETITION = re.compile(r"(.?)\{([0-9]+)(?:,([0-9]*))?\}", re.DOTALL)
_BUILT_IN = ("matches", "startsWith", "endsWith", "contains", "size", "string", "int", "has", "all", "exists")
_TOO_DEEP = ("is nested too deep, or has too many operators in a row", "write several rules")


@dataclass(frozen=True, slots=True)
class Finding:
    """`line` and `column` count from 1 inside the expression; 0 where the finding is about all of it."""

    line: int
    column: int
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.message}" if self.line else self.message


class ExpressionError(Exception):
    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("; ".join(str(finding) for finding in findings))
        self.findings = tuple(findings)


class EvaluationError(Exception):
    """The expression has no value for these variables: a division by zero, text that is no number."""


@dataclass(frozen=True, slots=True)
class Expression:
    """`names` are the variables that it can look at."""

    text: str
    names: frozenset[str]
    _program: cel.Expression

    def evaluate(self, variables: Mapping[str, Variable]) -> bool:
        """Raises EvaluationError."""
        try:
            value = self._program.eval(data={name: variables[name] for name in self.names}).value()
        except RuntimeError as problem:
            raise EvaluationError(_tidy(str(problem))) from None
        if not isinstance(value, bool):  # the type is bool, so this is the library's error value
            raise EvaluationError(_tidy(str(value)))
        return value


def compile_expression(text: str) -> Expression:
    """Raises ExpressionError with all that is wrong."""
    environment = _environment()
    try:
        # Parsed before it is checked, so that nothing over the bounds ever gets as far as the planner.
        shape = celast.shape(environment.compile(text, disable_check=True).serialize())
    except RuntimeError as problem:
        raise ExpressionError(list(_reported(str(problem)))) from None
    findings = list(_over_the_bounds(shape))
    if findings:
        raise ExpressionError(findings)
    try:
        program = environment.compile(text)
    except RuntimeError as problem:
        raise ExpressionError(list(_reported(str(problem)))) from None
    kind = program.return_type().name()
    if kind != "BOOL":
        remedy = "compare it with something, so that it is true or false"
        raise ExpressionError([Finding(0, 0, f"the result is of type {kind.lower()}, not bool", remedy)])
    return Expression(text, frozenset(shape.names & VARIABLES.keys()), program)


@cache
def _environment() -> cel.Env:
    from cel_expr_python import cel

    types = {str: cel.Type.STRING, int: cel.Type.INT, bool: cel.Type.BOOL}
    in_network = cel.Overload(
        "in_network_string_list",
        return_type=cel.Type.BOOL,
        parameters=[cel.Type.STRING, cel.Type.List(cel.Type.STRING)],
        impl=_in_network,
    )
    return cel.NewEnv(
        variables={name: types[kind] for name, kind in VARIABLES.items()},
        functions=[cel.FunctionDecl("in_network", [in_network])],
    )


def _in_network(address: str, networks: list[str]) -> bool:
    """An absent address is in no network. Text that is no address raises: the rule then has no value."""
    if not address:
        return False
    known = ip_address(address)
    return any(known in network for network in _networks(tuple(networks)))


@lru_cache(maxsize=256)
def _networks(texts: tuple[str, ...]) -> tuple[IPNetwork, ...]:
    return tuple(network for text in texts for network in Network(text).networks)


def _over_the_bounds(shape: celast.Shape) -> Iterator[Finding]:
    if shape.nested:
        message = "a macro (all, exists, exists_one, map, filter) stands inside another one"
        yield Finding(0, 0, message, "write two rules, or join the conditions with && and ||")
    matches = [call for call in shape.calls if call.function == "matches"]
    if len(matches) > MAX_MATCHES:
        message = f"matches is called {len(matches)} times"
        yield Finding(0, 0, message, f"at most {MAX_MATCHES} in one expression; join patterns with |")
    for call in matches:
        yield from _bad_pattern(call)
    for call in shape.calls:
        if call.function == "in_network":
            yield from _bad_networks(call)


def _bad_pattern(call: celast.Call) -> Iterator[Finding]:
    pattern = call.arguments[-1] if call.arguments else None
    if call.looped:
        yield Finding(0, 0, "matches stands inside a macro", "join the patterns with | instead")
    elif not isinstance(pattern, str):
        yield Finding(0, 0, "the pattern of matches is not a literal", "write the pattern itself, in quotes")
    else:
        counts = [(before, int((most or least)[:9])) for before, least, most in _REPETITION.findall(pattern)]
        if any(before == ")" for before, _ in counts):
            yield Finding(0, 0, f"{shown(pattern)} counts the repetitions of a group", "use * or +")
        elif sum(count for _, count in counts) > MAX_REPETITIONS:
            message = f"{shown(pattern)} has counted repetitions of more than {MAX_REPETITIONS} in all"
            yield Finding(0, 0, message, "use * or +")
        elif _UNICODE_CLASS.search(pattern):
            message = f"{shown(pattern)} has a Unicode class"
            yield Finding(0, 0, message, "use one like [a-z]: the values are printable ASCII")
        else:
            yield from _unparsable_pattern(pattern)


def _unparsable_pattern(pattern: str) -> Iterator[Finding]:
    """RE2 compiles a pattern when it is first evaluated; tried here, so that the policy's author hears of it."""
    probe = _environment().compile("sender_host_name.matches(proxy_authority)")
    value = probe.eval(data={"sender_host_name": "", "proxy_authority": pattern}).value()
    if not isinstance(value, bool):
        message = f"{shown(pattern)} is not a regular expression: {_tidy(str(value)).rpartition(': ')[0]}"
        yield Finding(0, 0, message, "RE2's syntax holds, which has no look-around and no back-references")


def _bad_networks(call: celast.Call) -> Iterator[Finding]:
    networks = call.arguments[-1] if call.arguments else None
    if not isinstance(networks, tuple):
        message = "the second argument of in_network is not a list of literals"
        yield Finding(0, 0, message, "write one like ['10.0.0.0/8', 'fd00::/8']")
        return
    if len(networks) > MAX_NETWORKS:
        yield Finding(0, 0, f"in_network has {len(networks)} networks", f"at most {MAX_NETWORKS} in one list")
    for text in networks:
        try:
            Network(text)
        except ValueError as problem:
            message, _, remedy = str(problem).partition("; ")
            yield Finding(0, 0, f"in_network: {message}", remedy)


def _reported(text: str) -> Iterator[Finding]:
    """The library's own complaints. Its text is `INVALID_ARGUMENT: ERROR: <input>:1:18: what`, an excerpt, and more."""
    seen = set()
    for line, column, said in _REPORTED.findall(text):
        message, remedy = _explained(said)
        if message not in seen:
            seen.add(message)
            known = 0 < int(line) < 2**31
            yield Finding(int(line) if known else 0, int(column) if known else 0, message, remedy)
    if not seen:
        yield Finding(0, 0, *(_TOO_DEEP if "recursion limit" in text else (_tidy(text), "write it in a simpler way")))


def _explained(said: str) -> tuple[str, str]:
    undeclared = _UNDECLARED.match(said)
    if undeclared:
        name = undeclared[1]
        known = (*VARIABLES, *FUNCTIONS, *_BUILT_IN)
        if name in known:
            return f"{name} does not take these arguments", "see docs/rules.md"
        return f"{shown(name)} is not known", suggestion(name, known)
    if "recursion depth" in said:
        return _TOO_DEEP
    if said.startswith("Syntax error"):
        return said.partition(" expecting {")[0], "CEL is like C: && || ! == 'text'"
    return said, "docs/rules.md has the types of the variables and functions"


def _tidy(text: str) -> str:
    """Without the library's status words."""
    return re.sub(r"^[A-Z_]+: | \[[A-Z_]+\]$", "", text).partition("\n")[0]
