"""A changed configuration's way into the pods: annotations touched, so that kubelets look, and sidecars asked.

`Rollouts` keeps, of each policy, what its sidecars answered, when each was poked and asked, and when it is asked again;
`conditions` says who. Pokes come before questions: they make the new file arrive. A newer file ends the roll-out of the
older one. All in the background and bounded: 50 pokes and 200 questions at once over all policies. What a sidecar
answers is hostile: 2 s, 64 KiB, no redirect, and whatever is odd is a failure with a text. One replica's, while it
leads; `stop` ends everything. Raises nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Final, Protocol

import aiohttp
import msgspec
from msgspec import Meta
from yarl import URL

from . import conditions, paths
from .conditions.pace import ASK_CURRENT, ASK_FIRST
from .kube import Conflict, KubeError, NotFound, TooManyRequests
from .model import CONFIG_HASH, Answer

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine, Iterator, Sequence

    from .kube import Kube
    from .model import Inputs, Key, PodRecord

log = logging.getLogger(__name__)

POKES: Final = 50
QUESTIONS: Final = 200
TIME: Final = 2.0
"""Seconds for a question, connection and all."""
SIZE: Final = 64 << 10
HEARD_WITHIN: Final = 10.0
"""Seconds that a policy's first round of questions has: as long its status stays what the leader before has written."""
PATIENCE: Final = 30.0
"""Seconds that questions wait for their policy's pokes."""
POKE_TIME: Final = 10.0
TRIES: Final = 3
PACE: Final = 2500
"""Sidecars of one policy that a look at it a second may be about: a look is not free."""
EARLY: Final = 0.1
"""Of the time between two questions: by so much a current sidecar is asked early, together with others of its policy.
Each round has the whole policy looked at, and one a sidecar would be most of what the operator does at rest."""
MOST_TEXT: Final = 1024

Poke = tuple["PodRecord", str]


class Observer(Protocol):
    """Metrics: "written", "gone", "failed"; "answered", "failed"."""

    def poked(self, result: str) -> None: ...

    def asked(self, result: str) -> None: ...


class Ignorant:
    """Counts nothing."""

    def poked(self, result: str) -> None: ...

    def asked(self, result: str) -> None: ...


Asking = Callable[[str], Awaitable[Answer]]
"""The answer of the sidecar at an address."""


# -- what a sidecar says -----------------------------------------------------------------------------------------------

_Hash = Annotated[str, Meta(max_length=64)]


class _Refused(msgspec.Struct, frozen=True):
    message: str
    hash: _Hash = ""


class _Config(msgspec.Struct, frozen=True):
    """`/config` of a sidecar (contracts, section 3)."""

    hash: _Hash
    version: Annotated[str, Meta(max_length=64)]
    error: _Refused | None = None


def answer_of(body: bytes, at: float) -> Answer:
    try:
        said = msgspec.json.decode(body, type=_Config)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        return Answer(at=at, failure=_text(f"it does not answer as a sidecar does: {problem}"))
    if said.error is None:
        return Answer(at=at, hash=said.hash, version=_text(said.version))
    return Answer(
        at=at,
        hash=said.hash,
        version=_text(said.version),
        error=_text(said.error.message) or "no message",
        refused=said.error.hash,
    )


class Asker:
    """GET /config of a pod's address. No proxy, no redirect, no cookie; each connection once."""

    def __init__(self, port: int, *, seconds: float = TIME, now: Callable[[], float] = time.time) -> None:
        self._port, self._seconds, self._now = port, seconds, now
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, ip: str) -> Answer:
        try:
            address = ipaddress.ip_address(ip)
        except ValueError:
            return self._failure("its pod has no address")
        host = f"[{address}]" if address.version == 6 else str(address)
        try:
            async with asyncio.timeout(self._seconds):
                async with self._opened().get(
                    URL(f"http://{host}:{self._port}/config", encoded=True), allow_redirects=False
                ) as response:
                    if response.status != 200:
                        return self._failure(f"it answers {response.status}")
                    body = await _bounded(response)
        except TimeoutError:
            return self._failure(f"no answer within {self._seconds:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as problem:
            return self._failure(str(problem) or type(problem).__name__)
        if body is None:
            return self._failure(f"its answer has more than {SIZE} octets")
        return answer_of(body, self._now())

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=None),  # ours is around the whole question
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    def _failure(self, text: str) -> Answer:
        return Answer(at=self._now(), failure=_text(text))


async def _bounded(response: aiohttp.ClientResponse) -> bytes | None:
    body = b""
    async for part in response.content.iter_any():
        body += part
        if len(body) > SIZE:
            return None
    return body


# -- roll-outs ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sidecar:
    """`since`: seconds since the epoch, when it was first found not to answer; the others by the monotonic clock.
    `poke`: the value that we wrote last, which the watch may not have told yet."""

    answer: Answer | None = None
    since: float = 0.0
    attempt: int = 0
    due: float = 0.0
    asking: bool = False
    poke: str = ""
    poked: float = 0.0
    heard: bool = False  # it has been asked since it was poked


@dataclass(slots=True)
class _Rollout:
    begun: float
    heard: bool = False  # every sidecar has been asked once, or it would have taken too long
    target: str = ""
    sidecars: dict[str, _Sidecar] = field(default_factory=dict)
    poking: asyncio.Task[None] | None = None
    poking_since: float = 0.0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class Rollouts:
    """`changed(key, after)`: the policy is to be looked at again, in so many seconds. `every`: the longest that a
    sidecar is not asked."""

    def __init__(
        self,
        kube: Kube,
        ask: Asking,
        changed: Callable[[Key, float], None],
        *,
        every: float = 1.1 * ASK_CURRENT,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._kube, self._ask, self._changed = kube, ask, changed
        self._every, self._observer = every, observer or Ignorant()
        self._clock, self._chance = clock, chance
        self._rollouts: dict[Key, _Rollout] = {}
        self._poke_places = asyncio.Semaphore(POKES)
        self._ask_places = asyncio.Semaphore(QUESTIONS)

    @property
    def pending(self) -> int:
        """Started sidecars that were asked and do not run what they should, over all policies."""
        return sum(
            sidecar.answer is not None and sidecar.answer.hash != rollout.target
            for rollout in self._rollouts.values()
            if rollout.target
            for sidecar in rollout.sidecars.values()
        )

    @property
    def busy(self) -> int:
        """Rounds of questions and pokes under way."""
        return sum(len(rollout.tasks) for rollout in self._rollouts.values())

    def answers(self, key: Key) -> dict[str, Answer]:
        """By UID."""
        known = self._sidecars(key).items()
        return {uid: sidecar.answer for uid, sidecar in known if sidecar.answer is not None}

    def since(self, key: Key) -> dict[str, float]:
        return {uid: sidecar.since for uid, sidecar in self._sidecars(key).items() if sidecar.since}

    def proceed(self, inputs: Inputs, target: str) -> float | None:
        """Pokes and asks whose turn it is; seconds until the next turn. `target`: the hash of what is delivered,
        "" where nothing is to be brought about."""
        now = self._clock()
        rollout = self._rollouts.setdefault(inputs.record.key, _Rollout(now))
        self._prune(rollout, inputs.injected)
        if target != rollout.target:
            self._aim(rollout, target, now)
        turns = [*self._poke(rollout, inputs, now), *self._question(rollout, inputs, now)]
        return max(_slack(inputs), min(turns) - now) if turns else None

    def is_new(self, inputs: Inputs) -> bool:
        """This replica has just begun with the policy, and has not asked every sidecar that can answer."""
        rollout = self._rollouts.get(inputs.record.key)
        if rollout is None or rollout.heard:
            return False
        late = self._clock() - rollout.begun >= HEARD_WITHIN
        rollout.heard = late or all(pod.uid in inputs.answers for pod in conditions.to_ask(inputs))
        return not rollout.heard

    def forget(self, key: Key) -> None:
        """The policy is gone; its sidecars are nobody's business now."""
        rollout = self._rollouts.pop(key, None)
        if rollout is not None:
            for task in rollout.tasks:
                task.cancel()

    async def stop(self) -> None:
        """Nothing runs any more; what is known is forgotten, because another replica may poke meanwhile."""
        tasks = [task for rollout in self._rollouts.values() for task in rollout.tasks]
        self._rollouts.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _sidecars(self, key: Key) -> dict[str, _Sidecar]:
        rollout = self._rollouts.get(key)
        return rollout.sidecars if rollout else {}

    @staticmethod
    def _prune(rollout: _Rollout, pods: Collection[PodRecord]) -> None:
        present = {pod.uid for pod in pods}
        for uid in rollout.sidecars.keys() - present:
            del rollout.sidecars[uid]
        for uid in present - rollout.sidecars.keys():
            rollout.sidecars[uid] = _Sidecar()

    @staticmethod
    def _aim(rollout: _Rollout, target: str, now: float) -> None:
        rollout.target = target
        if rollout.poking is not None:
            rollout.poking.cancel()
            rollout.poking = None
        for sidecar in rollout.sidecars.values():
            sidecar.attempt, sidecar.due = 0, now + ASK_FIRST

    # -- pokes ---------------------------------------------------------------------------------------------------------

    def _poke(self, rollout: _Rollout, inputs: Inputs, now: float) -> Iterator[float]:
        """Yields when there is something to poke next."""
        target = rollout.target
        if not target or (rollout.poking is not None and not rollout.poking.done()):
            return
        known = rollout.sidecars
        pods = tuple(
            replace(pod, poke=known[pod.uid].poke) if known[pod.uid].poke.startswith(target) else pod
            for pod in inputs.injected
            if _may_be_poked(pod, known[pod.uid], target)
        )
        since = {pod.uid: now - known[pod.uid].poked for pod in pods if known[pod.uid].poked}
        pokes = conditions.to_poke(replace(inputs, injected=pods), target, since)
        if pokes:
            rollout.poking_since = now
            rollout.poking = self._spawn(rollout, self._poke_all(inputs.record.key, rollout, pokes))
            return
        for pod in pods:
            answer, sidecar = known[pod.uid].answer, known[pod.uid]
            wait = conditions.poke_after(target, pod.poke)
            if pod.started and wait is not None and sidecar.poked and (answer is None or answer.hash != target):
                yield sidecar.poked + wait

    async def _poke_all(self, key: Key, rollout: _Rollout, pokes: Sequence[Poke]) -> None:
        waiting = iter(pokes)
        failed = 0

        async def poker() -> None:
            nonlocal failed
            for pod, value in waiting:
                async with self._poke_places:
                    written = await self._poke_one(pod, value)
                failed += not written
                sidecar = rollout.sidecars.get(pod.uid)
                if written and sidecar is not None:
                    sidecar.poke, sidecar.poked, sidecar.heard = value, self._clock(), False
                    sidecar.due = min(sidecar.due, sidecar.poked + ASK_FIRST)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(POKES, len(pokes))):
                group.create_task(poker())
        if failed:
            log.warning("%s: %d of %d pods could not be told of the new configuration", key, failed, len(pokes))
        self._changed(key, 2.0 if failed else ASK_FIRST)

    async def _poke_one(self, pod: PodRecord, value: str) -> bool:
        """A pod that is gone needs none."""
        body = {"metadata": {"uid": pod.uid, "annotations": {CONFIG_HASH: value}}}
        for attempt in range(TRIES):
            try:
                await self._kube.merge(paths.pod(pod.key), body, timeout=POKE_TIME)
            except (NotFound, Conflict):
                self._observer.poked("gone")
                return True
            except TooManyRequests as busy:
                await asyncio.sleep(busy.retry_after * (1.0 + 0.25 * self._chance()))
            except KubeError as problem:
                if attempt == 0:
                    log.info("poke of pod %s: %s", pod.key, problem)
                if problem.status:  # refused: asking again changes nothing
                    break
                await asyncio.sleep(0.5 * (1.0 + self._chance()))
            else:
                self._observer.poked("written")
                return True
        self._observer.poked("failed")
        return False

    # -- questions -----------------------------------------------------------------------------------------------------

    def _question(self, rollout: _Rollout, inputs: Inputs, now: float) -> Iterator[float]:
        """Yields when somebody is to be asked next."""
        asked = conditions.to_ask(inputs)
        poking = rollout.poking is not None and not rollout.poking.done()
        if poking and now - rollout.poking_since < PATIENCE:
            if asked:
                yield rollout.poking_since + PATIENCE
            return
        due = []
        for pod in asked:
            sidecar = rollout.sidecars[pod.uid]
            if sidecar.asking:
                continue
            current = sidecar.answer is not None and sidecar.answer.hash == rollout.target
            if sidecar.due <= now + max(_slack(inputs), EARLY * min(self._every, ASK_CURRENT) if current else 0.0):
                due.append(pod)
            else:
                yield sidecar.due
        for pod in due:
            rollout.sidecars[pod.uid].asking = True
        if due:
            self._spawn(rollout, self._ask_all(inputs.record.key, rollout, due))

    async def _ask_all(self, key: Key, rollout: _Rollout, pods: Sequence[PodRecord]) -> None:
        waiting = iter(pods)
        pause = 0.1 + len(pods) / PACE
        work = False

        async def asker() -> None:
            nonlocal work
            for pod in waiting:
                async with self._ask_places:
                    asked = self._clock()
                    answer = await self._ask(pod.ip)
                self._observer.asked("failed" if answer.failure else "answered")
                sidecar = rollout.sidecars.get(pod.uid)
                if sidecar is None:
                    continue
                sidecar.heard = asked >= sidecar.poked
                news = self._take(rollout, sidecar, answer)
                if news:
                    self._changed(key, pause)
                work |= news or sidecar.attempt > 0  # of one that is not current

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(QUESTIONS, len(pods))):
                    group.create_task(asker())
        finally:
            for pod in pods:
                if (sidecar := rollout.sidecars.get(pod.uid)) is not None:
                    sidecar.asking = False
        dues = (rollout.sidecars[pod.uid].due for pod in pods if pod.uid in rollout.sidecars)
        self._changed(key, pause if work else max(pause, min(dues, default=0.0) - self._clock()))

    def _take(self, rollout: _Rollout, sidecar: _Sidecar, answer: Answer) -> bool:
        """Is it news? A sidecar that does not answer is what it was, until it has been silent for long."""
        before = sidecar.answer
        if answer.failure:
            sidecar.since = sidecar.since or answer.at
            if before is not None:
                answer = replace(before, at=answer.at, failure=answer.failure)
        else:
            sidecar.since = 0.0
        current = answer.hash == rollout.target and not answer.failure
        sidecar.attempt = 0 if current else sidecar.attempt + 1
        wait = min(conditions.ask_after(current, sidecar.attempt, self._chance()), self._every)
        sidecar.answer, sidecar.due, sidecar.asking = answer, self._clock() + wait, False
        return before is None or bool(answer.failure) or replace(before, at=0.0) != replace(answer, at=0.0)

    def _spawn(self, rollout: _Rollout, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        rollout.tasks.add(task)
        task.add_done_callback(rollout.tasks.discard)
        task.add_done_callback(_tell)
        return task


def _slack(inputs: Inputs) -> float:
    """Seconds: who is due so soon has his turn now."""
    return 0.05 + len(inputs.injected) / PACE


def _may_be_poked(pod: PodRecord, sidecar: _Sidecar, target: str) -> bool:
    """A pod that was poked for this file, perhaps by another replica, is poked again only when it has said since that
    it does not run it: pokes of many pods take longer than the first pause, and would never let the questions come."""
    if not (pod.poke.startswith(target) or sidecar.poke.startswith(target)):
        return True
    return not pod.started or (sidecar.heard and not sidecar.asking)


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (problem := task.exception()) is not None:
        log.error("a roll-out: an internal error", exc_info=problem)


def _text(text: str) -> str:
    safe = "".join(character if character.isprintable() else "?" for character in text[:MOST_TEXT])
    return " ".join(safe.split())
