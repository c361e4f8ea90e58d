"""The differential test: generated chains and TLSA sets, judged here and by OpenSSL's own DANE code.

No disagreement, or each one explained in `dane_chains._on_purpose`. By hand, with more of them: bench/fuzz_dane.py.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dane_chains
import openssl_dane
from certificates import NOW, issue
from dane_chains import check, generate, record


@settings(max_examples=2000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**48 - 1).map(Random))
def test_openssl_agrees(random: Random) -> None:
    case = generate(random)
    try:
        check(case)
    except AssertionError as error:
        error.add_note(str(case))
        raise


def test_the_cases_reach_every_verdict() -> None:
    """A generator that makes only nonsense would prove nothing."""
    said = {check(generate(Random(seed))) for seed in range(3000)}
    assert {
        "no usable record",
        *(f"authenticated by usage 2 at depth {depth}" for depth in range(4)),
        "authenticated by usage 3 at depth 0",
        *(f"refused certificate_{fault}" for fault in ("chain", "constraints", "expired", "name", "not_yet_valid")),
        "refused certificate_purpose",
        "refused certificate_weak",
        "refused tlsa_mismatch",
    } <= said


def test_a_disagreement_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = issue()
    case = dane_chains.Case((leaf.der,), (record(leaf, 3, 1, 1),), (), dane_chains.ORDERS[0])
    assert check(case) == "authenticated by usage 3 at depth 0"
    monkeypatch.setattr(dane_chains, "verify", lambda *_: openssl_dane.Verdict((True,), 65))
    with pytest.raises(AssertionError, match="OpenSSL: Verdict"):
        check(case)


def test_the_second_opinion_is_libssls() -> None:
    leaf, other = issue(), issue("other.example")
    assert openssl_dane.version().startswith("OpenSSL 3")
    assert openssl_dane.verify([leaf.der], [record(other, 3, 1, 1)], [], NOW).error == 65
