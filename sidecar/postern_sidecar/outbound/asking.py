"""How a leg drives `lookup`'s generators: their questions become `Ask` commands, each with what is left of the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from .commands import Ask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from postern_sidecar.answers import Question
    from postern_sidecar.lookup.asking import Asking

    from .budget import Budget
    from .commands import Work

T = TypeVar("T")


def together(askings: Sequence[Asking[T]], budget: Budget) -> Work[list[T]]:
    """What all of them come to; what they want to know at the same time is asked at once."""
    if len(askings) == 1:
        return [(yield from one(askings[0], budget))]
    results: dict[int, T] = {}
    waiting: dict[int, Any] = dict.fromkeys(range(len(askings)))  # and the answers that each is to be sent
    while waiting:
        wanted: dict[int, tuple[Question, ...]] = {}
        for number, answers in waiting.items():
            try:
                wanted[number] = askings[number].send(answers)
            except StopIteration as done:
                results[number] = done.value
        known: list[Any] = []
        if wanted:
            asked = tuple(question for questions in wanted.values() for question in questions)
            known += yield Ask(asked, budget.left)
        waiting = {}
        for number, questions in wanted.items():
            waiting[number], known = tuple(known[: len(questions)]), known[len(questions) :]
    return [results[number] for number in range(len(askings))]


def one(asking: Asking[T], budget: Budget) -> Work[T]:
    known: Any = None
    try:
        while True:
            known = yield Ask(asking.send(known), budget.left)
    except StopIteration as done:
        result: T = done.value
        return result
