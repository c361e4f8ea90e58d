"""Conditions: what compiles, what is said of what does not, what they evaluate to, and that no one can take long."""

from __future__ import annotations

import pytest

from postern_sidecar.config.expressions import (
    MAX_NETWORKS,
    EvaluationError,
    ExpressionError,
    compile_expression,
)
from postern_sidecar.config.vocabulary import ABSENT, ALIASES, VARIABLES, Variable

VALUES: dict[str, Variable] = ABSENT | {
    "sender_host_address": "192.0.2.4",
    "sender_host_port": 40211,
    "sender_host_name": "mail.example.net",
    "proxy_session": True,
    "proxy_host_address": "fd00::7",
}


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("proxy_session", {"proxy_session"}, True),
        ("proxy_session && proxy_failed", {"proxy_session", "proxy_failed"}, False),
        ("true", set(), True),
        ("'sender_host_name' == 'x'", set(), False),
        (".sender_host_name == 'mail.example.net'", {"sender_host_name"}, True),
        ("false && sender_host_port > 1", {"sender_host_port"}, False),
        ("proxy_session ? sender_host_port == 40211 : false", {"proxy_session", "sender_host_port"}, True),
        ("sender_host_name.endsWith('.example.net')", {"sender_host_name"}, True),
        ("sender_host_name.matches('^mail[0-9]*\\\\.')", {"sender_host_name"}, True),
        ("matches(sender_host_name, 'x{2,3}y{4}z{5,}')", {"sender_host_name"}, False),
        ("['a', sender_host_name].exists(n, n.startsWith('mail'))", {"sender_host_name"}, True),
        ("{'a': sender_host_name}['a'].size() == 16 && has({'a': 1}.a)", {"sender_host_name"}, True),
        ("google.protobuf.StringValue{value: sender_host_name} == 'mail.example.net'", {"sender_host_name"}, True),
        ("-sender_host_port < 0 && 1.5 < 2.0 && b'a' != b'b'", {"sender_host_port"}, True),
        ("in_network(sender_host_address, ['192.0.2.0/24'])", {"sender_host_address"}, True),
        ("in_network(sender_host_address, ['192.0.2.5', '::/0'])", {"sender_host_address"}, False),
        ("in_network(sender_host_address, ['::ffff:192.0.2.0/120'])", {"sender_host_address"}, True),
        ("in_network(proxy_host_address, ['10.0.0.0/8', 'fd00::/8'])", {"proxy_host_address"}, True),
        ("in_network(proxy_target_address, ['0.0.0.0/0', '::/0'])", {"proxy_target_address"}, False),
        ("in_network(sender_host_address, [])", {"sender_host_address"}, False),
    ],
)
def test_values(text: str, names: set[str], expected: bool) -> None:
    expression = compile_expression(text)
    assert expression.names == names
    assert expression.evaluate(VALUES) is expected


def test_every_variable_has_its_type_and_a_value_when_absent() -> None:
    literals = {str: "''", int: "0", bool: "false"}
    for name, kind in VARIABLES.items():
        assert compile_expression(f"{name} == {literals[kind]}").evaluate(ABSENT), name
        with pytest.raises(ExpressionError, match="no matching overload"):
            compile_expression(f"{name} == 1.5")
    assert ALIASES.keys() | set(ALIASES.values()) < VARIABLES.keys()
    assert all(VARIABLES[alias] is VARIABLES[name] for alias, name in ALIASES.items())


DOCUMENTED = "docs/rules.md lists what is known"
LITERALS = "write one like ['10.0.0.0/8', 'fd00::/8']"
OVERLOAD = "docs/rules.md has the types of the variables and functions"
C = "CEL is like C: && || ! == 'text'"
DEEP = ("is nested too deep, or has too many operators in a row", "write several rules")
MACRO = (
    "a macro (all, exists, exists_one, map, filter) stands inside another one",
    "write two rules, or join the conditions with && and ||",
)


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        (
            "sender_host_nam == ''",
            [("line 1, column 1: 'sender_host_nam' is not known", f"did you mean sender_host_name? ({DOCUMENTED})")],
        ),
        (
            "\n  x == 1 ||\n  zz == 2",
            [("line 2, column 3: 'x' is not known", DOCUMENTED), ("line 3, column 3: 'zz' is not known", DOCUMENTED)],
        ),
        ("x == 1 || x == 2", [("line 1, column 1: 'x' is not known", DOCUMENTED)]),
        (
            "in_netwrok('a', ['::1'])",
            [("line 1, column 11: 'in_netwrok' is not known", f"did you mean in_network? ({DOCUMENTED})")],
        ),
        (
            "sender_host_name.startWith('a')",
            [("line 1, column 27: 'startWith' is not known", f"did you mean startsWith? ({DOCUMENTED})")],
        ),
        (
            "sender_host_name == 3",
            [("line 1, column 18: found no matching overload for '_==_' applied to '(string, int)'", OVERLOAD)],
        ),
        ("proxy_failed &&", [("line 1, column 16: Syntax error: mismatched input '<EOF>'", C)]),
        ("", [("line 1, column 1: Syntax error: mismatched input '<EOF>'", C)]),
        (
            "sender_host_port",
            [("the result is of type int, not bool", "compare it with something, so that it is true or false")],
        ),
        (
            "dyn(true)",
            [("the result is of type dyn, not bool", "compare it with something, so that it is true or false")],
        ),
        ("matches('a')", [("line 1, column 8: matches does not take these arguments", "see docs/rules.md")]),
        ("matches()", [("the pattern of matches is not a literal", "write the pattern itself, in quotes")]),
        (
            "sender_host_name.matches(proxy_authority)",
            [("the pattern of matches is not a literal", "write the pattern itself, in quotes")],
        ),
        (
            "sender_host_name.matches(1)",
            [("the pattern of matches is not a literal", "write the pattern itself, in quotes")],
        ),
        (
            "sender_host_name.matches('(a')",
            [
                (
                    "'(a' is not a regular expression: invalid regular expression: missing )",
                    "RE2's syntax holds, which has no look-around and no back-references",
                )
            ],
        ),
        (
            "sender_host_name.matches('(?=a)')",
            [
                (
                    "'(?=a)' is not a regular expression: invalid regular expression: invalid perl operator",
                    "RE2's syntax holds, which has no look-around and no back-references",
                )
            ],
        ),
        ("in_network()", [("the second argument of in_network is not a list of literals", LITERALS)]),
        (
            "in_network(sender_host_address, '::1')",
            [("the second argument of in_network is not a list of literals", LITERALS)],
        ),
        (
            "in_network(sender_host_address, [proxy_host_address])",
            [("the second argument of in_network is not a list of literals", LITERALS)],
        ),
        (
            "in_network(sender_host_address, ['10.0.0.1/8', 'x'])",
            [
                ("in_network: '10.0.0.1/8' has host bits set", "the network is 10.0.0.0/8"),
                ("in_network: 'x' is not an IP address", "write one like 127.0.0.1 or ::1"),
            ],
        ),
        (
            "in_network(sender_host_address, [" + "'::1'," * (MAX_NETWORKS + 1) + "])",
            [(f"in_network has {MAX_NETWORKS + 1} networks", f"at most {MAX_NETWORKS} in one list")],
        ),
    ],
)
def test_what_does_not_compile(text: str, findings: list[tuple[str, str]]) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text)
    assert [(str(finding), finding.remedy) for finding in caught.value.findings] == findings
    assert str(caught.value) == "; ".join(message for message, _ in findings)


TEN = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"
STARS = "use * or +"
EXPENSIVE = [
    (f"{TEN}.all(a, {TEN}.all(b, {TEN}.all(c, {TEN}.all(d, a + b + c + d >= 0))))", MACRO),  # 10,000 steps
    ("['aaaa']" + ".map(x, x + x)" * 25 + "[0].size() > 0", MACRO),  # 128 MB of text
    ("[[1], [2]].filter(x, x.exists(y, y > 1)).size() > 0", MACRO),
    (
        "sender_host_name.matches('[a-z]{1,999}[a-z]{1,999}')",
        ("'[a-z]{1,999}[a-z]{1,999}' has counted repetitions of more than 256 in all", STARS),
    ),
    (
        "sender_host_name.matches('a{9999999999999999}')",
        ("'a{9999999999999999}' has counted repetitions of more than 256 in all", STARS),
    ),
    (
        "sender_host_name.matches('a{200,}b{57}')",
        ("'a{200,}b{57}' has counted repetitions of more than 256 in all", STARS),
    ),
    ("sender_host_name.matches('((a{10}){10}){10}')", ("'((a{10}){10}){10}' counts the repetitions of a group", STARS)),
    (
        r"sender_host_name.matches('\\pL{200}')",
        (r"'\\pL{200}' has a Unicode class", "use one like [a-z]: the values are printable ASCII"),
    ),
    (
        "['a'].all(x, sender_host_name.matches('b'))",
        ("matches stands inside a macro", "join the patterns with | instead"),
    ),
    (
        " || ".join(["sender_host_name.matches('b')"] * 9),
        ("matches is called 9 times", "at most 8 in one expression; join patterns with |"),
    ),
    ("(" * 100 + "true" + ")" * 100, DEEP),
    ("1" + " + 1" * 100 + " == 101", DEEP),
]


@pytest.mark.parametrize(("text", "finding"), EXPENSIVE)
def test_an_expensive_expression_does_not_compile(text: str, finding: tuple[str, str]) -> None:
    """Each of these compiles in CEL; the comment or the name says what evaluating it would cost."""
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text)
    assert [(found.message, found.remedy) for found in caught.value.findings] == [finding]


def test_the_bounds_are_met() -> None:
    networks = ", ".join(["'10.0.0.0/8'"] * MAX_NETWORKS)
    assert not compile_expression(f"in_network(sender_host_address, [{networks}])").evaluate(VALUES)
    assert not compile_expression("sender_host_name.matches('a{200}b{56}')").evaluate(VALUES)
    assert compile_expression(r"!sender_host_name.matches('\\\\pL')").evaluate(VALUES), "a backslash, then pL"
    matches = " && ".join(["sender_host_name.matches('mail')"] * 8)
    assert compile_expression(matches).evaluate(VALUES)
    assert compile_expression("[1].all(x, x > 0) && [2].all(x, x > 0)").evaluate(VALUES), "beside is not inside"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / proxy_host_port == 1", "divide by zero"),
        ("int(sender_host_name) == 1", "cannot convert string to int"),
        ("in_network(sender_host_name, ['::1'])", "'mail.example.net' does not appear to be an IPv4 or IPv6 address"),
        ("[1][sender_host_port] == 1", "Index error: index=40211 size=1"),
    ],
)
def test_an_expression_without_a_value(text: str, message: str) -> None:
    expression = compile_expression(text)
    with pytest.raises(EvaluationError) as caught:
        expression.evaluate(VALUES)
    assert str(caught.value) == message


def test_the_librarys_exceptions_are_evaluation_errors() -> None:
    """It raises where it runs out of its own bounds, and returns an error value elsewhere."""

    class Program:
        def eval(self, **_: object) -> object:
            raise RuntimeError("INTERNAL: Iteration budget exceeded [INTERNAL]")

    from postern_sidecar.config.expressions import Expression

    with pytest.raises(EvaluationError, match=r"^Iteration budget exceeded$"):
        Expression("true", frozenset(), Program()).evaluate({})
