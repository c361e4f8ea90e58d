"""Fuzz the webhook: 100,000 AdmissionReviews through the function that answers its HTTP requests.

Every answer must be a valid one (`tests/support/fuzzed_reviews.py` says what that is), within the time limit. Nothing
listens where the operator would ask for policies, so that live lookups fail at once. The seed makes a run repeatable.

    python bench/fuzz_admission.py [--count 100000] [--seed 1]
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

sys.path.extend(str(Path(__file__).resolve().parents[1] / part) for part in ("operator", "sidecar", "tests/support"))

from fuzzed_reviews import check, generate
from postern_operator import kube
from postern_operator.admission import ANSWER
from webhook_world import alone, deaf

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from postern_operator.admission import Reply


async def run(count: int, seed: int, answer: Callable[[bytes], Awaitable[Reply]]) -> tuple[Counter[str], float]:
    """How often each came, and the longest time in seconds. Raises AssertionError at the first bad answer."""
    answers, longest = Counter[str](), 0.0
    for number in range(count):
        body = generate(Random(f"{seed} {number}"))
        began = time.monotonic()
        reply = await answer(body)
        took = time.monotonic() - began
        longest = max(longest, took)
        try:
            assert took < ANSWER
            answers[check(body, reply.status, reply.body)] += 1
        except Exception as error:
            error.add_note(f"case {number} of seed {seed}: {body[:4000]!r}\nanswer: {reply.body[:4000]!r}")
            raise
    return answers, longest


async def fuzz(count: int, seed: int) -> tuple[Counter[str], float]:
    with tempfile.TemporaryDirectory() as folder:
        async with kube.connected(str(deaf(Path(folder)))) as client:
            return await run(count, seed, alone(client).answer)


def main() -> None:
    """Print what became of the reviews; a failure is a traceback that shows the review."""
    parser = argparse.ArgumentParser(description="Fuzz the webhook with AdmissionReviews.")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # of lookups that fail, thousands of times
    began = time.monotonic()
    answers, longest = asyncio.run(fuzz(options.count, options.seed))
    for answer, times in sorted(answers.items()):
        print(f"{times:>9}  {answer}")
    took = time.monotonic() - began
    print(f"{answers.total():>9}  in {took:.1f} s, seed {options.seed}; the longest took {longest * 1000:.0f} ms")


if __name__ == "__main__":
    main()
