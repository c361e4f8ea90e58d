"""What the commands `check` and `tlsa --verify` need of the world: a policy, a resolver that is proved, connections.

Everything ends with the context: the embedded resolver is gone then, and its directory with it. Raises Unusable, before
anything was asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from postern_sidecar import config
from postern_sidecar.config.model import Outbound, ResolverKind
from postern_sidecar.lookup.selftest import Verdict
from postern_sidecar.outbound.forbidden import Forbidden
from postern_sidecar.outbound.memory import Unreachable
from postern_sidecar.outbound.pool import Pool
from postern_sidecar.outbound.settings import Settings, World
from postern_sidecar.outbound.surroundings import Surroundings

from . import credentials, unbound
from .addresses import own_addresses
from .admission import Admission
from .deadlines import Deadlines
from .dial import dial
from .hostname import system_hostname
from .idle import IdleLinks
from .outbound_metrics import OutboundCounts
from .perform import Performer
from .resolving import Resolving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

    from postern_sidecar.logline import Record
    from postern_sidecar.outbound.commands import Work

PROVED: Final = 30.0  # seconds for the self-test, with a cold cache and a resolver that is only just starting
SAID: Final = 5  # of the resolver's last words that are shown where it does not pass

T = TypeVar("T")


class Unusable(Exception):  # noqa: N818 - a verdict on what was asked
    """The command cannot begin; the text says why, and what to do."""


def settings(path: Path | None, directory: Path | None = None) -> Settings:
    """`path`: of a policy, None for the defaults. `directory`: of credentials. Raises Unusable."""
    if path is None:
        return Settings(Outbound(), system_hostname(), own_addresses())
    try:
        spec = config.load(path).policy.spec
    except (config.Unreadable, config.InvalidPolicy) as problem:
        raise Unusable(str(problem)) from None
    if spec.outbound is None:
        raise Unusable(f"{path}: has no spec.outbound, so it delivers nothing; leave --config out for the defaults")
    known = credentials.load(directory, spec.outbound.routes, complain)
    return Settings(spec.outbound, spec.hostname or system_hostname(), own_addresses(), known)


def complain(message: str) -> None:
    sys.stderr.write(f"postern-sidecar: {message}\n")


@dataclass(frozen=True, slots=True)
class Desk:
    """`perform` runs one inquiry; they share the resolver, and nothing else."""

    settings: Settings
    _resolving: Resolving
    _performer: Performer

    def surroundings(self) -> Surroundings:
        """Of one inquiry: an address that did not connect is tried again for the next one."""
        world = World(asyncio.get_running_loop().time, time.time, random.shuffle)
        forbidden = Forbidden(self.settings.outbound, self.settings.own)
        return Surroundings(self.settings, world, forbidden, Unreachable(), lambda: self._resolving.ready)

    async def perform(self, work: Work[T]) -> T:
        return await self._performer.perform(work)


@contextlib.asynccontextmanager
async def desk(chosen: Settings) -> AsyncIterator[Desk]:
    """With a resolver that has passed its self-test, or has had its time. Raises Unusable."""
    dns = chosen.outbound.dns
    if dns.resolver is ResolverKind.EMBEDDED:
        try:
            unbound.require(dns)
        except unbound.MissingError as missing:
            raise Unusable(str(missing)) from None
    loop = asyncio.get_running_loop()
    said: list[str] = []
    resolving = Resolving(dns, state_dir=None, on_event=said.append)
    deadlines = Deadlines(loop)
    performer = Performer(
        resolving.ask,
        _not_logged,
        functools.partial(dial, deadlines),
        IdleLinks(Pool(0, 0.0)),
        Admission(0),
        OutboundCounts(),
    )
    resolving.start()
    try:
        ready = await resolving.tested(PROVED)
        for line in said[-SAID:] if not ready or resolving.verdict is Verdict.UNPROVED else ():
            complain(line)
        yield Desk(chosen, resolving, performer)
    finally:
        deadlines.close()
        await resolving.close()


def _not_logged(_: Record) -> None:
    """The report has it all."""


def run(command: Coroutine[None, None, int]) -> int:
    """Its exit code; SIGTERM ends it as Ctrl-C does, with nothing left behind."""
    return asyncio.run(_until_told(command))


async def _until_told(command: Coroutine[None, None, int]) -> int:
    task = asyncio.ensure_future(command)
    loop = asyncio.get_running_loop()
    told = asyncio.Event()

    def stop() -> None:
        told.set()
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, stop)
    try:
        return await task
    except asyncio.CancelledError:
        if not told.is_set():
            raise
        return 128 + signal.SIGTERM
    except Unusable as reason:
        sys.stderr.write(f"{reason}\n")
        return 2
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
