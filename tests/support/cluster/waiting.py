"""Waiting for what no watch tells: a condition asked for again and again, with a deadline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
STEP = 0.02


def eventually(condition: Callable[[], T], timeout: float = 20.0, *, message: str = "") -> T:
    """The first true value of `condition()`. AssertionError at the deadline, with the last value, or with the
    AssertionError that the condition raised itself: it may be a function full of `assert`, ending in `return True`."""
    until = time.monotonic() + timeout
    while True:
        failure: AssertionError | None = None
        value: T | None = None
        try:
            value = condition()
            if value:
                return value
        except AssertionError as problem:
            failure = problem
        if time.monotonic() > until:
            what = message or "the condition did not come true"
            raise AssertionError(f"{what} within {timeout:g} s; the last: {failure or repr(value)}") from failure
        time.sleep(STEP)
