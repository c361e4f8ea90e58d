"""How a question gets out and its answer in: `lookup`'s generators yield questions and are sent answers.

    answers = yield (Question(name, Kind.A), Question(name, Kind.AAAA))     # asked at once, answered in this order

Whoever drives one asks a resolver, a test's table, or a cache. Nothing here raises.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from postern_sidecar.answers import Answer, Question

T = TypeVar("T")
Asking = Generator[tuple[Question, ...], tuple[Answer, ...], T]


def said(answer: Answer) -> str:
    """The question and what came of it, for logs: `TLSA _25._tcp.mx.example.org: SERVFAIL`."""
    question = answer.question
    return f"{question.kind.value} {question.name or '.'}: {answer.detail or answer.state.value}"
