"""Questions to name servers whose AD bit is believed: the embedded resolver, or those that a policy lists.

A server that does not answer, refuses or fails is followed by the next one. One whose validation failed is not, or the
next ones would be asked until one believes it. So after a SERVFAIL the same server is asked with CD (RFC 4035
3.2.2): if it has an answer then, it was validation that withheld it, and the answer is BOGUS.

Bounded are the time of a question, the questions under way and those that wait for their turn; the same question is
asked once, whoever waits for it. An answer from the cache costs no turn of the loop. Nothing here raises.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Final

from postern_sidecar.answers import Answer, State

from .answercache import AnswerCache
from .dnsexchange import exchange
from .dnswire import failed, servfail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from postern_sidecar.answers import Question
    from postern_sidecar.names import Endpoint

PATIENCE: Final = 10.0  # seconds for a question in all
TRY: Final = 2.5  # seconds for one server, until the next one's turn, or its own again
AT_ONCE: Final = 256  # questions under way, a socket each, or two
WAITING: Final = 4096  # and those that wait for their turn
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Counts:
    """What was asked. Answers from the cache are in `cached` only."""

    def __init__(self) -> None:
        self.lookups: Counter[tuple[str, str]] = Counter()
        """By type (`A`, `TLSA`) and state (`secure`, `failed`)."""
        self.cached = 0
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def asked(self, answer: Answer, seconds: float) -> None:
        self.lookups[answer.question.kind.value, answer.state.value] += 1
        self.seconds += seconds
        self.buckets[bisect_left(BUCKETS, seconds)] += 1


class Asker:
    """`servers`: in the order to ask them; without one, every question that the cache cannot answer fails at once.
    `at_once`: questions under way, where descriptors are too few for AT_ONCE."""

    def __init__(
        self,
        servers: Iterable[Endpoint] = (),
        *,
        counts: Counts | None = None,
        at_once: int | None = None,
        now: Callable[[], float] | None = None,
    ) -> None:
        self.servers = tuple(servers)
        self._counts = Counts() if counts is None else counts
        self._cache = AnswerCache()
        self._now = now or asyncio.get_running_loop().time
        self._under_way: dict[Question, asyncio.Task[Answer]] = {}
        self._tasks: set[asyncio.Task[Answer]] = set()  # these, and those that `forget` took out of there
        self._at_once = AT_ONCE if at_once is None else at_once
        self._turns = asyncio.Semaphore(self._at_once)
        self._closed = False

    async def ask(self, questions: tuple[Question, ...]) -> tuple[Answer, ...]:
        """The answers in the order of the questions, which are asked at once."""
        now = self._now()
        found: list[Answer] = []
        for question in questions:
            answer = self._cache.get(question, now)
            if answer is None:
                return await self._ask(questions, now)
            found.append(answer)
        self._counts.cached += len(found)
        return tuple(found)

    def forget(self) -> None:
        """What is kept; what is under way will not be kept either."""
        self._cache.clear()
        self._under_way.clear()

    async def close(self) -> None:
        """Who waits gets a failure."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _ask(self, questions: tuple[Question, ...], now: float) -> tuple[Answer, ...]:
        answers = [self._cached(question, now) or self._begin(question) for question in questions]
        # The tasks are everybody's: one who gives up waiting does not end them.
        waited_for = {answer for answer in answers if isinstance(answer, asyncio.Task)}
        if waited_for:
            await asyncio.wait(waited_for)
        return tuple(
            _result(question, answer) if isinstance(answer, asyncio.Task) else answer
            for question, answer in zip(questions, answers, strict=True)
        )

    def _cached(self, question: Question, now: float) -> Answer | None:
        answer = self._cache.get(question, now)
        self._counts.cached += answer is not None
        return answer

    def _begin(self, question: Question) -> asyncio.Task[Answer] | Answer:
        if (task := self._under_way.get(question)) is not None:
            return task
        if self._closed or not self.servers:
            return failed(question, "there is no resolver now")
        if len(self._tasks) >= self._at_once + WAITING:
            return failed(question, "too many questions at once")
        task = asyncio.get_running_loop().create_task(self._find(question))
        self._under_way[question] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _find(self, question: Question) -> Answer:
        began = self._now()
        answer, octets = failed(question, f"no answer in {PATIENCE:g} s"), 0
        try:
            async with asyncio.timeout(PATIENCE), self._turns:
                answer, octets = await self._go_round(question)
        except TimeoutError:
            pass
        finally:
            current = self._under_way.get(question) is asyncio.current_task()
            if current:
                del self._under_way[question]
        now = self._now()
        self._counts.asked(answer, now - began)
        return self._cache.put(answer, octets, now) if current else answer

    async def _go_round(self, question: Question) -> tuple[Answer, int]:
        """Ask each server, and those again that were only silent. Until PATIENCE ends it."""
        left = list(self.servers)
        result = failed(question, "there is no resolver now"), 0
        while left:
            for server in list(left):
                try:
                    result = await _ask_one(server, question)
                except TimeoutError:
                    continue
                except OSError as error:
                    result = failed(question, f"{server.address}: {error.strerror or error}"), 0
                except ValueError as error:
                    return failed(question, str(error)), 0
                if result[0].state is not State.FAILED:
                    return result
                left.remove(server)
        return result


async def _ask_one(server: Endpoint, question: Question) -> tuple[Answer, int]:
    """Raises OSError, TimeoutError and ValueError."""
    async with asyncio.timeout(TRY):
        answer, octets = await exchange(server, question)
    if servfail(answer) and not question.checking_disabled:
        with contextlib.suppress(OSError):  # of which TimeoutError is one
            async with asyncio.timeout(TRY):
                unchecked, _ = await exchange(server, question._replace(checking_disabled=True))
            if unchecked.usable:
                answer = Answer(question, State.BOGUS, detail=f"{answer.detail}; not validated, there is an answer")
    return answer, octets


def _result(question: Question, task: asyncio.Task[Answer]) -> Answer:
    return failed(question, "there is no resolver any more") if task.cancelled() else task.result()
