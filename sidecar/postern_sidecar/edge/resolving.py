"""The resolver of outbound mail: one that validates, and proves it before anybody relies on it.

Embedded (an Unbound of our own) or the servers that the policy lists; each of these passes the self-test or is not
asked. Until one has, and after a failed test, `ready` is False and every answer is FAILED: a resolver that does not
validate must never make DANE quietly not happen (contracts 5).

The test runs at start, whenever the embedded resolver starts again, every RETRY seconds while it fails, and about every
AGAIN while it passes. Its mind is `lookup.selftest`.

A listed server is somebody else's: it may stop validating between two tests, and then everything looks unsigned. So
what comes without AD is believed only if within the last DOUBT seconds, or behind it, the signed name came back secure.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Final, TypeVar

from postern_sidecar.answers import Kind, Question
from postern_sidecar.config.model import ResolverKind
from postern_sidecar.lookup.asking import said
from postern_sidecar.lookup.selftest import SelfTest, Verdict, self_test
from postern_sidecar.names import domain

from .asker import TRY, Asker, Counts
from .dnsexchange import exchange
from .dnswire import failed
from .unbound import Unbound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from postern_sidecar.answers import Answer
    from postern_sidecar.config.model import DNS
    from postern_sidecar.lookup.asking import Asking
    from postern_sidecar.names import Endpoint

RETRY: Final = 30.0  # seconds
AGAIN: Final = 3600.0
DOUBT: Final = 1.0
JITTER: Final = 0.1  # of AGAIN, either way: a thousand pods do not ask at the same moment
FOLDER: Final = "unbound"  # in the state directory

T = TypeVar("T")


class Resolving:
    """`on_event` takes lines for the log (the event `dns`). `state_dir` None: the embedded resolver keeps nothing.
    `at_once`: `Asker`'s.

    For metrics: `counts`, `restarts`, `verdict` (None: not known yet)."""

    def __init__(
        self,
        dns: DNS,
        *,
        state_dir: Path | None,
        on_event: Callable[[str], None],
        at_once: int | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.counts = Counts()
        self.verdict: Verdict | None = None
        self._dns = dns
        self._say = on_event
        self._chance = chance
        self._asker = Asker(counts=self.counts, at_once=at_once)
        self._candidates: tuple[Endpoint, ...] = ()
        self._why = "the resolver has not passed its self-test yet"
        self._told = ""
        self._wake = asyncio.Event()
        self._tested = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._looked = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._unbound: Unbound | None = None
        if dns.resolver is ResolverKind.EMBEDDED:
            folder = state_dir / FOLDER if state_dir is not None else None
            self._unbound = Unbound(dns, folder, on_up=self._up, on_down=self._down, say=on_event)

    def start(self) -> None:
        """Returns at once; `ready` tells when it is."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Returns when the embedded resolver is gone; questions on their way fail."""
        self._not_ready("the resolver is closed")
        tasks = {task for task in (self._task, self._looking) if task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._asker.close()

    async def ask(self, questions: tuple[Question, ...]) -> tuple[Answer, ...]:
        """Never raises. Without an answer in the cache each takes `asker.PATIENCE` seconds at most."""
        answers = await self._asker.ask(questions) if not self._why else ()
        if self._unbound is None and any(answer.usable and not answer.authentic for answer in answers):
            await self._look()
        if self._why:  # or meanwhile
            return tuple(failed(question, self._why) for question in questions)
        return answers

    @property
    def ready(self) -> tuple[bool, str]:
        """Whether the self-test is passed; if not, why."""
        return not self._why, self._why or "ok"

    @property
    def restarts(self) -> int:
        """Of the embedded resolver."""
        return self._unbound.restarts if self._unbound is not None else 0

    async def tested(self, seconds: float) -> bool:
        """Waits for the first verdict, so long at most. -> whether it is ready."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._tested.wait()
        return self.ready[0]

    async def _look(self) -> None:
        """Do the servers that are asked still validate? All who want to know share one look."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._looked + DOUBT:
            return
        if self._looking is None:
            self._looking = loop.create_task(self._look_at(self._asker.servers))
        await asyncio.wait({self._looking})

    async def _look_at(self, servers: tuple[Endpoint, ...]) -> None:
        try:
            answers = await asyncio.gather(*map(self._signed, servers))
            if servers is self._asker.servers:
                self._judge(servers, answers)
        finally:
            self._looking = None

    async def _signed(self, server: Endpoint) -> Answer:
        question = Question(domain(self._dns.self_test.secure), Kind.SOA)
        try:
            async with asyncio.timeout(TRY):
                answer, _ = await exchange(server, question)
                return answer
        except OSError as error:  # of which TimeoutError is one
            return failed(question, str(error))

    def _judge(self, servers: tuple[Endpoint, ...], answers: list[Answer]) -> None:
        self._looked = asyncio.get_running_loop().time()
        for server, answer in zip(servers, answers, strict=True):
            if not answer.authentic:
                self._wake.set()  # the test tells which of them may still be asked
            if answer.usable and not answer.authentic:
                self._not_ready(f"{server.address} no longer validates: {said(answer)}")

    async def _run(self) -> None:
        if self._unbound is None:
            self._candidates = tuple(server.endpoint for server in self._dns.servers)
            await self._keep_testing()
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._unbound.run())
            group.create_task(self._keep_testing())

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._not_ready("the resolver's supervision has ended")
            self._say(f"internal error, no mail is sent before a restart: {bug!r}")

    def _up(self, where: Endpoint) -> None:
        self._say(f"unbound serves on {where.address} port {where.port}")
        self._candidates = (where,)
        self._wake.set()

    def _down(self, why: str) -> None:
        self._candidates = ()
        self.verdict = None
        self._not_ready(f"unbound {why}")

    def _not_ready(self, why: str) -> None:
        self._why = why
        self._told = ""
        self._asker.servers = ()

    async def _keep_testing(self) -> None:
        while True:
            self._wake.clear()
            if self._candidates:
                await self._test(self._candidates)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause(not self._why, self._chance())):
                    await self._wake.wait()

    async def _test(self, servers: tuple[Endpoint, ...]) -> None:
        results = await asyncio.gather(*(self._test_one(server) for server in servers))
        if servers is not self._candidates:  # it has gone meanwhile, or another came
            return
        good = tuple(
            server for server, result in zip(servers, results, strict=True) if result.verdict is not Verdict.FAILED
        )
        self.verdict = _overall(results)
        self._tell(servers, results)
        if not good:
            self._not_ready(f"self-test failed: {results[0].detail}")
        elif self._why or good != self._asker.servers:
            self._asker.forget()
            self._asker.servers = good
            self._why = ""
        self._tested.set()

    async def _test_one(self, server: Endpoint) -> SelfTest:
        """With nothing remembered, and of this server alone."""
        asker = Asker((server,))
        wanted = self._dns.self_test
        return await drive(self_test(domain(wanted.secure), domain(wanted.bogus)), asker.ask)

    def _tell(self, servers: tuple[Endpoint, ...], results: list[SelfTest]) -> None:
        """A failure each time, anything else where it is news."""
        told = "; ".join(map(_words, servers, results))
        if told != self._told or self.verdict is Verdict.FAILED:
            self._say(told)
        self._told = told


def pause(passed: bool, chance: float) -> float:
    """Seconds until the next test; `chance` in [0, 1)."""
    return AGAIN * (1 - JITTER + 2 * JITTER * chance) if passed else RETRY


async def drive(asking: Asking[T], ask: Callable[[tuple[Question, ...]], Awaitable[tuple[Answer, ...]]]) -> T:
    """Ask what `asking` wants to know until it has its result."""
    try:
        questions = next(asking)
        while True:
            questions = asking.send(await ask(questions))
    except StopIteration as end:
        result: T = end.value
        return result


def _overall(results: list[SelfTest]) -> Verdict:
    """PASSED only where a server has passed, FAILED only where none will be asked."""
    verdicts = {result.verdict for result in results}
    return next(verdict for verdict in (Verdict.PASSED, Verdict.UNPROVED, Verdict.FAILED) if verdict in verdicts)


def _words(server: Endpoint, result: SelfTest) -> str:
    who = f"resolver {server.address} port {server.port}"
    match result.verdict:
        case Verdict.PASSED:
            return f"{who}: self-test passed"
        case Verdict.UNPROVED:
            return f"{who}: self-test passed, but nobody could say whether a forged answer would fail ({result.detail})"
        case Verdict.FAILED:
            return f"{who}: self-test failed, it is not used: {result.detail}"
