"""The sidecar's resources, which the API server would read in every pod: what it would refuse there is refused here."""

from __future__ import annotations

from typing import Any

import pytest

from postern_sidecar.config.resource_checks import resources

CASES: list[tuple[Any, list[str]]] = [
    ({}, []),
    ({"limits": {}, "requests": {}}, []),
    ({"limits": {"cpu": 1, "memory": "256Mi"}, "requests": {"cpu": "50m", "ephemeral-storage": "1.5G"}}, []),
    ({"requests": {"cpu": "1"}, "limits": {"cpu": "1000m"}}, []),
    ({"zzz": []}, ["zzz: unknown field 'zzz'; known here: limits, requests"]),
    ({"limit": {}}, ["limit: unknown field 'limit'; did you mean limits? (known here: limits, requests)"]),
    ({"limits": ["cpu"]}, ["limits: is not a mapping; write one such as {cpu: 500m, memory: 128Mi}"]),
    (
        {"limits": {"memori": 1}},
        ["limits.memori: unknown field 'memori'; did you mean memory? (known here: cpu, memory, ephemeral-storage)"],
    ),
    *(
        ({"limits": {"cpu": value}}, [f"limits.cpu: {value!r} is not a quantity; write one like 50m, 1 or 64Mi"])
        for value in ("", "one", "-1", "1.0000", "1mi", "1" * 16, "1 ", 0.5, True, None, -1, 10**15 + 1)
    ),
    (
        {"limits": {"memory": "1Gi"}, "requests": {"memory": "1025Mi"}},
        ["requests.memory: is above its limit; raise the limit, or ask for less"],
    ),
]


@pytest.mark.parametrize(("chosen", "expected"), CASES, ids=range(len(CASES)))
def test_resources(chosen: dict[str, Any], expected: list[str]) -> None:
    assert [str(problem) for problem in resources(chosen)] == [f"spec.sidecar.resources.{line}" for line in expected]
