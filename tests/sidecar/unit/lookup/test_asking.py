"""Several lookups at once ask what each asks alone, in fewer rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dns_table import table
from postern_sidecar.answers import Answer, Kind, Question, State
from postern_sidecar.lookup.asking import said, together
from postern_sidecar.names import ROOT, domain

if TYPE_CHECKING:
    from postern_sidecar.lookup.asking import Asking

DNS = table("""
    a.example  A  192.0.2.1
    b.example  A  192.0.2.2
    c.example  A  192.0.2.3
""")


def chain(*names: str) -> Asking[list[str]]:
    found = []
    for name in names:
        (answer,) = yield (Question(domain(name), Kind.A),)
        found += [str(record) for record in answer.records]
    return found


def test_together_each_gets_its_own_answers() -> None:
    asking = together([chain("a.example", "b.example", "c.example"), chain(), chain("c.example")])
    rounds = []
    try:
        questions = next(asking)
        while True:
            rounds.append([question.name for question in questions])
            questions = asking.send(tuple(map(DNS.answer, questions)))
    except StopIteration as done:
        results = done.value
    assert results == [["192.0.2.1", "192.0.2.2", "192.0.2.3"], [], ["192.0.2.3"]]
    assert rounds == [["a.example", "c.example"], ["b.example"], ["c.example"]]


def test_what_was_asked_and_said() -> None:
    question = Question(domain("mx.example.org"), Kind.TLSA)
    assert said(Answer(question, State.FAILED, detail="SERVFAIL")) == "TLSA mx.example.org: SERVFAIL"
    assert said(Answer(Question(ROOT, Kind.SOA), State.INSECURE)) == "SOA .: insecure"
