"""AdmissionReviews that nobody would send: 3,000 over TLS to a webhook that asks a real API server. `make fuzz` puts
100,000 through the same function without a socket."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import aiohttp
import pytest

from fuzzed_reviews import NAMESPACE, check, generate
from postern_operator.admission import ANSWER
from webhook_world import policy, replica, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.control import ControlPlane

pytestmark = pytest.mark.real
COUNT, PARALLEL = 3000, 20


@pytest.fixture
def release(control_plane: ControlPlane) -> Iterator[str]:
    with control_plane.namespace() as name:
        yield name


async def test_every_review_over_tls_has_a_valid_answer_in_time(control_plane: ControlPlane, release: str) -> None:
    bodies = iter([generate(Random(f"tls {number}")) for number in range(COUNT)])
    answers, slowest = Counter[str](), 0.0
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    loop = asyncio.get_running_loop()

    async def post(session: aiohttp.ClientSession) -> None:
        nonlocal slowest
        for body in bodies:
            began = loop.time()
            async with session.post("/inject", data=io.BytesIO(body)) as response:
                text = await response.read()
            slowest = max(slowest, loop.time() - began)
            answers[check(body, response.status, text)] += 1

    async with replica(control_plane, release) as one:
        one.policy(policy(NAMESPACE))
        await until(lambda: one.certificates.serving)
        url = f"https://127.0.0.1:{one.server.port}"
        async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(ssl=context)) as session:
            async with asyncio.TaskGroup() as group:
                for _ in range(PARALLEL):
                    group.create_task(post(session))
        await until(lambda: one.server.connections == 0)  # a session does not wait for its connections' end
        assert len(one.outcomes.heard) == COUNT
    assert answers.total() == COUNT
    assert set(answers) == {"Injected", "Passed", "Refused", "Skipped"}
    assert slowest < ANSWER + 2, "the chart's timeoutSeconds"
