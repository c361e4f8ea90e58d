"""A listener's rules: order, errors, what each variable is for every kind of client, and the 2014 text's examples."""

from __future__ import annotations

import pytest

from postern_sidecar.config.model import Action, Rule
from postern_sidecar.config.vocabulary import ABSENT, ALIASES, VARIABLES
from postern_sidecar.inbound.client import Client
from postern_sidecar.inbound.rules import Hit, Judgement, Rules, variables
from postern_sidecar.names import HostName, NameStatus, endpoint
from postern_sidecar.proxyproto import tlv
from postern_sidecar.proxyproto.header import Command, Family, Header, Transport

BALANCER = endpoint(("10.0.3.7", 51000))
HERE = endpoint(("10.0.9.12", 25))
SENDER = endpoint(("192.0.2.4", 40211))
TARGET = endpoint(("198.51.100.25", 25))
AUTHORITY = b"\x02\x00\x0bexample.net"
OWN_TYPE = b"\xe3\x00\x01x"
PROXIED = Header(2, Command.PROXY, Family.INET, Transport.STREAM, SENDER, TARGET, AUTHORITY + OWN_TYPE)
LOCAL = Header(2, Command.LOCAL, Family.UNSPEC, Transport.UNSPEC)
UNSPEC = Header(1, Command.PROXY, Family.UNSPEC, Transport.UNSPEC)
NAMED = HostName(NameStatus.VERIFIED, "mail.example.net", "mail.example.net")


def proxied() -> Client:
    return Client(BALANCER, HERE, SENDER, proxy_session=True, header=PROXIED, target=TARGET, host_name=NAMED)


def failed() -> Client:
    return Client(BALANCER, HERE, BALANCER, proxy_session=True, proxy_failed="timeout")


def direct() -> Client:
    return Client(SENDER, HERE, SENDER)


def probe() -> Client:
    return Client(BALANCER, HERE, BALANCER, proxy_session=True, header=LOCAL)


def use_peer() -> Client:
    return Client(BALANCER, HERE, BALANCER, proxy_session=True, header=UNSPEC)


def refused_source() -> Client:
    """A header that was read, and names a source that nobody may claim."""
    return Client(BALANCER, HERE, BALANCER, proxy_session=True, proxy_failed="source_not_allowed", header=PROXIED)


BASE = {"received_ip_address": "10.0.9.12", "received_port": 25}
FROM_SENDER = BASE | {"sender_host_address": "192.0.2.4", "sender_host_port": 40211}
FROM_BALANCER = BASE | {"sender_host_address": "10.0.3.7", "sender_host_port": 51000, "proxy_session": True}
BALANCER_KNOWN = {
    "proxy_host_address": "10.0.3.7",
    "proxy_host_port": 51000,
    "proxy_local_address": "10.0.3.7",
    "proxy_local_port": 51000,
}


@pytest.mark.parametrize(
    ("client", "present"),
    [
        (direct(), FROM_SENDER),
        (failed(), FROM_BALANCER | {"proxy_failed": True}),
        (refused_source(), FROM_BALANCER | {"proxy_failed": True}),
        (probe(), FROM_BALANCER | BALANCER_KNOWN),
        (use_peer(), FROM_BALANCER | BALANCER_KNOWN),
        (
            proxied(),
            FROM_SENDER
            | BALANCER_KNOWN
            | {
                "sender_host_name": "mail.example.net",
                "proxy_session": True,
                "proxy_target_address": "198.51.100.25",
                "proxy_target_port": 25,
                "proxy_external_address": "198.51.100.25",
                "proxy_external_port": 25,
                "proxy_authority": "example.net",
            },
        ),
    ],
    ids=["direct", "failed", "refused source", "probe", "use peer", "proxied"],
)
def test_variables(client: Client, present: dict[str, object]) -> None:
    found = variables(client)
    assert found == ABSENT | present
    assert all(type(value) is VARIABLES[name] for name, value in found.items())


def test_the_vocabulary_has_every_variable_of_a_header() -> None:
    assert tlv.VARIABLES.items() <= VARIABLES.items()
    of_the_client = {name for name in VARIABLES if name not in tlv.VARIABLES and name not in ALIASES}
    told = {name for make in (proxied, failed) for name, value in variables(make()).items() if value != ABSENT[name]}
    assert of_the_client <= told


def rule(name: str, when: str, action: Action = Action.LOG, message: str = "") -> Rule:
    return Rule(name=name, when=when, action=action, message=message)


def judge(client: Client, *rules: Rule) -> Judgement:
    return Rules.compile(rules).evaluate(variables(client))


def test_nothing_matches() -> None:
    assert judge(direct(), rule("a", "proxy_failed"), rule("b", "proxy_session", Action.REFUSE)) == Judgement()


def test_the_first_that_decides_ends_it() -> None:
    judgement = judge(
        proxied(),
        rule("log", "true", message="from ${sender_host_address}"),
        rule("no", "false", Action.REFUSE),
        rule("defer", "true", Action.DEFER, "later"),
        rule("refuse", "true", Action.REFUSE, "never"),
        rule("behind", "true"),
    )
    log, defer = Hit("log", Action.LOG, "from 192.0.2.4"), Hit("defer", Action.DEFER, "later")
    assert judgement == Judgement(hits=(log, defer), verdict=defer)


FAILS = "1 / proxy_target_port == 0"


@pytest.mark.parametrize("action", [Action.REFUSE, Action.DEFER])
def test_a_rule_that_fails_never_lets_a_client_through(action: Action) -> None:
    judgement = judge(direct(), rule("a", FAILS, action, "hello"), rule("b", "true", Action.REFUSE))
    error = Hit("a", action, "divide by zero", failed=True)
    assert judgement == Judgement(errors=(error,), verdict=error)


def test_a_log_rule_that_fails_does_not_match_and_is_reported() -> None:
    judgement = judge(direct(), rule("a", FAILS), rule("b", "true", message="b"), rule("c", FAILS))
    assert judgement == Judgement(
        hits=(Hit("b", Action.LOG, "b"),),
        errors=tuple(Hit(name, Action.LOG, "divide by zero", failed=True) for name in "ac"),
    )


def test_uses() -> None:
    rules = Rules.compile([rule("a", "proxy_failed", message="${sender_host_name}"), rule("b", "sender_host_port > 0")])
    assert [rules.uses(name) for name in ("proxy_failed", "sender_host_name", "sender_host_port")] == [True] * 3
    assert not rules.uses("sender_host_address")


# The 2014 text, section 3: "in my connect ACL, I have"

FAILED_2014 = rule(
    "failed",
    'proxy_session && proxy_host_address == ""',
    message="Failed required proxy protocol negotiation from ${sender_host_name} [${sender_host_address}]",
)
PROXIED_2014 = rule(
    "proxied",
    'proxy_session && proxy_host_address != "" && proxy_host_address != sender_host_address',
    message="Successfully proxied from ${sender_host_name} [${sender_host_address}] "
    "through proxy protocol host ${proxy_host_address}",
)


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (failed(), ["Failed required proxy protocol negotiation from  [10.0.3.7]"]),
        (refused_source(), ["Failed required proxy protocol negotiation from  [10.0.3.7]"]),
        (
            proxied(),
            ["Successfully proxied from mail.example.net [192.0.2.4] through proxy protocol host 10.0.3.7"],
        ),
        (probe(), []),  # "don't log health probes from the proxy itself"
        (use_peer(), []),
        (direct(), []),
    ],
    ids=["failed", "refused source", "proxied", "probe", "use peer", "direct"],
)
def test_the_acl_of_2014(client: Client, expected: list[str]) -> None:
    judgement = judge(client, FAILED_2014, PROXIED_2014)
    assert [hit.message for hit in judgement.hits] == expected
    assert judgement.verdict is None
    assert judgement.errors == ()


def test_possibly_more_clear() -> None:
    """The 2014 text's third example: four lines that say every address."""
    lines = rule(
        "addresses",
        "true",
        message="Remote ${sender_host_address}:${sender_host_port} Target ${proxy_target_address}:${proxy_target_port} "
        "Internal ${proxy_host_address}:${proxy_host_port} Server ${received_ip_address}:${received_port}",
    )
    (hit,) = judge(proxied(), lines).hits
    assert hit.message == "Remote 192.0.2.4:40211 Target 198.51.100.25:25 Internal 10.0.3.7:51000 Server 10.0.9.12:25"
