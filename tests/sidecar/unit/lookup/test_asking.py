"""A question, and what came of it, as a log has it."""

from __future__ import annotations

from postern_sidecar.answers import Answer, Kind, Question, State
from postern_sidecar.lookup.asking import said
from postern_sidecar.names import ROOT, domain


def test_what_was_asked_and_said() -> None:
    question = Question(domain("mx.example.org"), Kind.TLSA)
    assert said(Answer(question, State.FAILED, detail="SERVFAIL")) == "TLSA mx.example.org: SERVFAIL"
    assert said(Answer(Question(ROOT, Kind.SOA), State.INSECURE)) == "SOA .: insecure"
