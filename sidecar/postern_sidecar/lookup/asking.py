"""How a question gets out and its answer in: `lookup`'s generators yield questions and are sent answers.

    answers = yield (Question(name, Kind.A), Question(name, Kind.AAAA))     # asked at once, answered in this order

Whoever drives one asks a resolver, a test's table, or a cache. Nothing here raises.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TypeVar

from postern_sidecar.answers import Answer, Question

T = TypeVar("T")
Asking = Generator[tuple[Question, ...], tuple[Answer, ...], T]


def together(askings: Sequence[Asking[T]]) -> Asking[list[T]]:
    """Several at once: each round asks what all of them wait for. -> their results, in the order given."""
    results: dict[int, T] = {}
    waiting = {number: _resumed(asking, None, number, results) for number, asking in enumerate(askings)}
    while waiting := {number: questions for number, questions in waiting.items() if questions}:
        answers = yield tuple(question for questions in waiting.values() for question in questions)
        for number, questions in waiting.items():
            waiting[number] = _resumed(askings[number], answers[: len(questions)], number, results)
            answers = answers[len(questions) :]
    return [results[number] for number in range(len(askings))]


def _resumed(
    asking: Asking[T], answers: tuple[Answer, ...] | None, number: int, results: dict[int, T]
) -> tuple[Question, ...]:
    """What it asks next; () when it has ended, and left its result."""
    try:
        return next(asking) if answers is None else asking.send(answers)
    except StopIteration as done:
        results[number] = done.value
        return ()


def said(answer: Answer) -> str:
    """The question and what came of it, for logs: `TLSA _25._tcp.mx.example.org: SERVFAIL`."""
    question = answer.question
    return f"{question.kind.value} {question.name or '.'}: {answer.detail or answer.state.value}"
