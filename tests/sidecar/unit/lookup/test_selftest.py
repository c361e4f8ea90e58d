"""The resolver's self-test: contracts section 5, "Self-test", and each way to fail it."""

from __future__ import annotations

import pytest

from dns_table import Table, run, table
from postern_sidecar.answers import Answer, Kind, Question, State
from postern_sidecar.lookup.selftest import SelfTest, Verdict, self_test
from postern_sidecar.names import ROOT, domain

BOGUS = domain("broken.example")
ZONE = """
    .               SOA a.root
    broken.example  SOA ns.broken.example
"""


def verdict(dns: Table) -> SelfTest:
    found, asked = run(self_test(ROOT, BOGUS), dns)
    assert asked == [Question(ROOT, Kind.SOA), Question(BOGUS, Kind.SOA), Question(BOGUS, Kind.SOA, True)]
    return found


@pytest.mark.parametrize(
    ("dns", "expected"),
    [
        (table(ZONE, bogus=["broken.example"]), SelfTest(Verdict.PASSED)),
        (table(ZONE, failing=["broken.example"]), SelfTest(Verdict.UNPROVED, "SOA broken.example: SERVFAIL")),
        (table(ZONE), SelfTest(Verdict.FAILED, "SOA broken.example: secure, and must fail")),
        (
            table(ZONE, insecure=["broken.example"]),
            SelfTest(Verdict.FAILED, "SOA broken.example: insecure, and must fail"),
        ),
        (table(". SOA a.root"), SelfTest(Verdict.FAILED, "SOA broken.example: absent, and must fail")),
        (
            table(ZONE, bogus=["broken.example"], insecure=["."]),
            SelfTest(Verdict.FAILED, "SOA .: insecure, and must be secure: does it validate DNSSEC?"),
        ),
        (
            table(ZONE, bogus=["*"]),
            SelfTest(
                Verdict.FAILED, "SOA .: SERVFAIL: bogus, and must be secure: are its trust anchor and the clock right?"
            ),
        ),
        (
            table(ZONE, failing=["*"]),
            SelfTest(Verdict.FAILED, "SOA .: SERVFAIL, and must be secure: does it run, and reach the name servers?"),
        ),
        (
            table(ZONE).unsigned(),
            SelfTest(Verdict.FAILED, "SOA .: insecure, and must be secure: does it validate DNSSEC?"),
        ),
        (
            table("example A 192.0.2.1").unsigned(),
            SelfTest(Verdict.FAILED, "SOA .: absent, and must be secure: does it validate DNSSEC?"),
        ),
    ],
)
def test_verdicts(dns: Table, expected: SelfTest) -> None:
    assert verdict(dns) == expected


def test_below_a_zones_name_the_validated_denial_will_do() -> None:
    """A name is given that is signed, and no zone: `selfTest.secure: mail.corp.test`."""
    assert (
        verdict(table("x A 192.0.2.1\nbroken.example A 192.0.2.1", bogus=["broken.example"])).verdict is Verdict.PASSED
    )
    denied = table("broken.example A 192.0.2.1", bogus=["broken.example"], insecure=["."])
    assert verdict(denied).verdict is Verdict.FAILED


def test_a_resolver_that_names_the_forgery_has_proved_itself() -> None:
    """BOGUS says it: the question with CD may then time out."""
    asking = self_test(ROOT, BOGUS)
    signed, checked, unchecked = next(asking)
    states = (State.SECURE, State.BOGUS, State.FAILED)
    with pytest.raises(StopIteration) as done:
        asking.send(tuple(Answer(q, state) for q, state in zip((signed, checked, unchecked), states, strict=True)))
    assert done.value.value == SelfTest(Verdict.PASSED)


def test_withheld_without_checking_is_proof_even_where_nobody_says_bogus() -> None:
    """`Servers` answer SERVFAIL either way: what tells the two apart is the answer with CD."""
    asking = self_test(ROOT, BOGUS)
    signed, checked, unchecked = next(asking)
    states = (State.SECURE, State.FAILED, State.INSECURE)
    with pytest.raises(StopIteration) as done:
        asking.send(tuple(Answer(q, state) for q, state in zip((signed, checked, unchecked), states, strict=True)))
    assert done.value.value == SelfTest(Verdict.PASSED)
