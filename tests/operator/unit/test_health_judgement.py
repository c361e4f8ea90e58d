"""Live and ready: what is judged from what is known."""

from __future__ import annotations

import pytest

from postern_operator.health import STALE, STUCK, Alive, Fitness, live, ready


@pytest.mark.parametrize(
    ("alive", "texts"),
    [
        (Alive(), []),
        (Alive(STUCK, {"pods": STALE}), []),
        (Alive(STUCK + 1), ["the event loop has not turned for 31 s"]),
        (Alive(0.0, {"pods": STALE + 1, "namespaces": 5.0}), ["the watch of pods is 601 s behind"]),
        (
            Alive(99.0, {"pods": 700.0, "a": 800.0}),
            [
                "the event loop has not turned for 99 s",
                "the watch of a is 800 s behind",
                "the watch of pods is 700 s behind",
            ],
        ),
    ],
)
def test_live(alive: Alive, texts: list[str]) -> None:
    assert live(alive) == texts


@pytest.mark.parametrize(
    ("fitness", "texts"),
    [
        (Fitness(), []),
        (Fitness(served="it does not listen yet"), ["the webhook: it does not listen yet"]),
        (
            Fitness(unfilled=("pods", "namespaces")),
            ["not read yet: namespaces, pods (is the API server reachable?)"],
        ),
        (
            Fitness(trusted=False),
            ["the webhook configuration's caBundle does not hold our authority yet (the leader writes it)"],
        ),
    ],
)
def test_ready(fitness: Fitness, texts: list[str]) -> None:
    assert ready(fitness) == texts


def test_all_that_is_missing_is_said() -> None:
    assert len(ready(Fitness("no", ("pods",), trusted=False))) == 3
