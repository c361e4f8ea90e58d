"""The table of cases through Postern's doors: SMTP and LMTP, with a resolver of its own and with a listed one. Each
case comes to what the RFC's sentence demands, by the reply, by the log and by what the destinations saw.

Of a policy and a resolver all cases run at once, through one sidecar, when the first of their tests asks for them. What
the destinations saw is looked at when it has ended, and with it every connection that it kept.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from dane.doors import DOORS, RESOLVERS, Door, Resolver, Result, through
from dane_cases import BY_NAME, CASES

if TYPE_CHECKING:
    from collections.abc import Callable

    from dane.case import Case
    from lab.danelab import DaneLab

    Find = Callable[[Case, Door, Resolver], Result]

pytestmark = pytest.mark.real

VERIFIED = {"dane": "dane", "verify": "yes", "encrypt": "no", "may": "no", "clear": None}


@pytest.fixture(scope="module")
def find(dane_lab: DaneLab) -> Find:
    """What became of a case."""
    known: dict[tuple[str, Resolver], dict[tuple[str, Door], Result]] = {}

    def find(case: Case, door: Door, resolver: Resolver) -> Result:
        run = case.policy, resolver
        if run not in known:
            known[run] = through(dane_lab, [each for each in CASES if each.policy == case.policy], *run)
        return known[run][case.name, door]

    return find


@pytest.mark.parametrize("resolver", RESOLVERS)
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", BY_NAME)
def test_a_case(dane_lab: DaneLab, find: Find, name: str, door: Door, resolver: Resolver) -> None:
    case = BY_NAME[name]
    result = find(case, door, resolver)
    assert re.match(case.expect.code, result.reply), f"{result.reply}\n{result.events}"
    assert_logged(case, result)
    assert_seen(dane_lab, case, result)


def assert_logged(case: Case, result: Result) -> None:
    expect, line = case.expect, result.delivery
    assert line["outcome"] == expect.outcome
    assert line["reply"] == on_one_line(result.reply)
    if expect.outcome != "delivered":
        return
    assert line["level"] == expect.level
    assert line.get("verified") == ("half-dane" if expect.half else VERIFIED[line["level"]])
    assert line["tls_out_dane"] == ("yes" if expect.level == "dane" else "no")
    assert ("tlsa" in line) == (expect.level == "dane" or expect.half)
    published = sum({1 << int(found[1]) for text in case.records if (found := re.search(r" TLSA ([23]) ", text))})
    usage = line["tls_out_tlsa_usage"]
    assert usage & ~published == 0
    assert (usage != 0) == ("tlsa" in line)
    if "tlsa" in line:
        assert usage & 1 << int(line["tlsa"].split()[0])


def on_one_line(reply: str) -> str:
    first, *more = reply.split("\r\n")
    return " ".join([f"{first[:3]} {first[4:]}", *(line[4:] for line in more)])


def assert_seen(dane_lab: DaneLab, case: Case, result: Result) -> None:
    """By the destinations: the message at one of them, or at none; the recipient never in clear text, unless that is
    the level; and at whom nobody was to connect, nobody did."""
    expect = case.expect
    if expect.at is None:
        assert result.taken == []
    else:
        (message,) = result.taken
        assert message.where.split()[0] in dane_lab.setting.both(case, expect.at)
        assert (message.tls is not None) == expect.tls
        if expect.sni is not None:
            assert message.sni == (case.domain if expect.sni == "@" else f"{expect.sni}.{case.domain}")
        elif expect.level == "dane":
            assert message.sni is not None
    if expect.level != "clear":
        named = [visit for visits in result.visits.values() for visit in visits if mentions(visit.commands, result)]
        assert all(visit.tls is not None for visit in named)
    for number in expect.untouched:
        assert result.visits[number] == []


def mentions(commands: list[str], result: Result) -> bool:
    return any(result.recipient in command for command in commands)


def test_what_is_not_authenticated_hears_of_nobody(dane_lab: DaneLab, find: Find) -> None:
    """Where a case fails before the level is reached, no destination heard MAIL."""
    failed = [case for case in CASES if case.expect.outcome != "delivered" and case.expect.check is None]
    for case in failed:
        visits = find(case, "SMTP", "Servers").visits
        heard = [line for each in visits.values() for visit in each for line in visit.commands]
        assert not [line for line in heard if line.upper().startswith("MAIL")], case.name
    assert len(failed) > 100
