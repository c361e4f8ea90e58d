"""Fuzz the DANE verifier: generated chains and TLSA sets, against OpenSSL's own DANE code.

A run fails at the first case on which the two disagree and `dane_chains._on_purpose` does not say why. The seed makes a
run repeatable but for the certificates' keys, which are new each time.

    python bench/fuzz_dane.py [--count 20000] [--seed 1]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

sys.path.extend(str(Path(__file__).resolve().parents[1] / part) for part in ("sidecar", "tests/support"))

import openssl_dane
from dane_chains import check, generate


def run(count: int, seed: int) -> Counter[str]:
    """How often each was said. Raises AssertionError at the first disagreement."""
    answers: Counter[str] = Counter()
    for number in range(count):
        case = generate(Random(f"{seed} {number}"))
        try:
            answers[check(case)] += 1
        except Exception as error:
            error.add_note(f"case {number} of seed {seed}:\n{case}")
            raise
    return answers


def main() -> None:
    """Print what became of the cases; a failure is a traceback that shows the case."""
    parser = argparse.ArgumentParser(description="Fuzz the DANE verifier against OpenSSL.")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    answers = run(options.count, options.seed)
    for answer, times in sorted(answers.items()):
        print(f"{times:>9}  {answer}")
    took = time.monotonic() - began
    print(f"{answers.total():>9}  in {took:.1f} s, seed {options.seed}, {openssl_dane.version()}, no disagreement")


if __name__ == "__main__":
    main()
