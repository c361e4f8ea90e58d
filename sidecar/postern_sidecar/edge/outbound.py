"""`spec.outbound`, running: the resolver, what deliveries share, the doors; what a reload changes, and how it ends.

Imported only where a policy has an outbound section: it brings the libraries for certificates and DNS into memory.
Decisions are `outbound`'s, `lookup`'s and `dane`'s; what is here is which object knows which.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Final

from postern_sidecar.logline import Record
from postern_sidecar.outbound.commands import NO_DESCRIPTORS, Lost
from postern_sidecar.outbound.forbidden import Forbidden
from postern_sidecar.outbound.leg import Leg
from postern_sidecar.outbound.memory import Unreachable
from postern_sidecar.outbound.pool import MOST, Pool
from postern_sidecar.outbound.settings import Settings, World
from postern_sidecar.outbound.surroundings import Surroundings

from . import credentials, submission
from .admission import Admission
from .asker import AT_ONCE
from .deadlines import Deadlines
from .dial import dial
from .idle import IdleLinks
from .listener import TURNED_AWAY_AT_ONCE
from .outbound_metrics import OutboundCollector, OutboundCounts
from .perform import Performer
from .resolving import Resolving
from .transaction import Relay

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from postern_sidecar.answers import Answer, Question
    from postern_sidecar.config.model import DNS, Submission
    from postern_sidecar.config.model import Outbound as Section
    from postern_sidecar.names import Address, Endpoint
    from postern_sidecar.outbound.envelope import Sender
    from postern_sidecar.outbound.transaction import NextHop

    from .channel import Channel
    from .descriptors import Lent
CLOSING: Final = 5.0  # seconds for what was aborted to notice


class Outbound:
    """Made by `start`. `write` takes lines for the log, `next_id` names a submission in them; `on_quiet` is called when
    the doors are closed and the last delivery has ended. Raises BindError where `lent` has too few descriptors."""

    def __init__(
        self,
        settings: Settings,
        *,
        state_dir: Path,
        write: Callable[[Record], None],
        next_id: Callable[[], str],
        on_quiet: Callable[[], None],
        lent: Lent,
    ) -> None:
        loop = asyncio.get_running_loop()
        limits = settings.outbound.limits
        self._lent = lent
        _fit(lent, settings.outbound)
        self.counts = OutboundCounts()
        self.quiet = False
        self.terminating = False
        self._state_dir = state_dir
        self._write = write
        self._on_quiet = on_quiet
        self._world = World(loop.time, time.time, random.shuffle)
        self._unreachable = Unreachable()
        self._deadlines = Deadlines(loop)
        self._idle = IdleLinks(Pool(limits.reuse, limits.idle.seconds))
        self._admission = Admission(limits.per_destination)
        self._resolving = self._make_resolver(settings.outbound.dns)
        performer = Performer(self._ask, self._log, self._dial, self._idle, self._admission, self.counts)
        self._relay = Relay(settings, performer, self._leg_maker(settings), time.time, next_id, self._log)
        self._doors: submission.Submission
        self._ephemeral = False
        self._pressed = False
        self._retired: dict[asyncio.Task[None], submission.Submission] = {}  # their sessions end

    # Start and reload

    async def start(self, *, ephemeral: bool) -> None:
        """Raises BindError with nothing left behind."""
        self._ephemeral = ephemeral
        self._doors = await submission.serve(self._relay, self._lent, ephemeral=ephemeral)
        self._resolving.start()

    async def replace(self, settings: Settings) -> None:
        """What new transactions get. Those that run keep what they began with, but for the resolver: where its settings
        change, lookups under way fail (451). All or nothing: raises BindError."""
        before, where = self._relay.settings, settings.outbound.submission
        _fit(self._lent, settings.outbound)
        if _ports(where) != _ports(before.outbound.submission):
            doors = await submission.serve(
                self._relay, self._lent, where, ephemeral=self._ephemeral, before=self._doors
            )
            self._retire(self._doors)
            self._doors = doors
        self._relay.settings, self._relay.make_leg = settings, self._leg_maker(settings)
        limits = settings.outbound.limits
        self._idle.pool.reuse, self._idle.pool.idle = limits.reuse, limits.idle.seconds
        self._admission.places = limits.per_destination
        if settings.outbound.dns != before.outbound.dns:
            await self._resolving.close()
            self._resolving = self._make_resolver(settings.outbound.dns)
            self._resolving.start()

    def _retire(self, doors: submission.Submission) -> None:
        doors.stop()
        task = asyncio.get_running_loop().create_task(doors.drain())
        self._retired[task] = doors
        task.add_done_callback(self._retired.pop)

    def _make_resolver(self, dns: DNS) -> Resolving:
        def say(message: str) -> None:
            self._write(Record("dns", "", {"message": message}))

        return Resolving(dns, state_dir=self._state_dir, on_event=say, at_once=self._lent.questions)

    def _leg_maker(self, settings: Settings) -> Callable[[Sender, NextHop, str], Leg]:
        forbidden = Forbidden(settings.outbound, settings.own)
        around = Surroundings(settings, self._world, forbidden, self._unreachable, lambda: self._resolving.ready)
        return lambda sender, target, session: Leg(around, sender, target, session)

    async def _ask(self, questions: tuple[Question, ...]) -> tuple[Answer, ...]:
        return await self._resolving.ask(questions)

    async def _dial(self, to: Endpoint, seconds: float) -> Channel | Lost:
        """Idle connections make way for one that is wanted."""
        while not self._lent.next_hops.take():
            if not self._idle.drop_oldest():
                return Lost(NO_DESCRIPTORS, "all that outbound may have are in use: raise ulimit -n")
            await asyncio.sleep(0)  # the loop's next turn closes it
        return await dial(self._deadlines, to, seconds, self._lent.next_hops.give)

    def _log(self, record: Record) -> None:
        self.counts.record(record)
        self._write(record)

    # What others want to know

    @property
    def ready(self) -> tuple[bool, str]:
        """Whether mail is taken: the resolver has proved that it validates."""
        if self.terminating:
            return False, "stopping"
        return self._resolving.ready

    @property
    def addresses(self) -> dict[str, list[Endpoint]]:
        """Where the doors listen, "smtp" and "lmtp"."""
        return self._doors.addresses

    def collector(self) -> OutboundCollector:
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "postern_outbound_sessions": (
                "Open submission sessions.",
                lambda: sum(len(doors.house.sessions) for doors in self._all_doors()),
            ),
            "postern_outbound_idle_connections": ("Idle connections to next hops.", lambda: len(self._idle)),
            "postern_outbound_busy_destinations": ("Destinations with a transaction.", lambda: len(self._admission)),
        }
        return OutboundCollector(self.counts, lambda: self._resolving, gauges)

    # The end

    def terminate(self) -> None:
        """The doors close; deliveries run to their end. `on_quiet` tells when."""
        if not self.terminating:
            self.terminating = True
            self._retire(self._doors)
            for task in self._retired:
                task.add_done_callback(lambda _: self._look_whether_quiet())

    def press(self) -> None:
        """The grace is over: whatever is still on its way ends now. What has no answer gets none. Called again, it does
        not wait for what takes its time all the same."""
        self._cut()
        if self._pressed:
            self._be_quiet()
        self._pressed = True

    def _cut(self) -> None:
        for doors in self._all_doors():
            doors.close()
        self._relay.cut()

    def _all_doors(self) -> set[submission.Submission]:
        return {self._doors, *self._retired.values()}

    async def close(self) -> None:
        """Everything, at once."""
        self._cut()
        if self._retired:
            await asyncio.wait(self._retired, timeout=CLOSING)
        self._idle.close()
        self._deadlines.close()
        await self._resolving.close()

    def _look_whether_quiet(self) -> None:
        if not self._retired:
            self._be_quiet()

    def _be_quiet(self) -> None:
        if not self.quiet:
            self.quiet = True
            self._on_quiet()


def settings_of(
    section: Section,
    hostname: str,
    own: frozenset[Address],
    directory: Path | None,
    warn: Callable[[str], object],
) -> Settings:
    """What a policy means for deliveries; credentials are read now."""
    return Settings(section, hostname, own, credentials.load(directory, section.routes, warn))


def _ports(doors: Submission) -> tuple[int, int]:
    return doors.port, doors.lmtp_port


def _fit(lent: Lent, section: Section) -> None:
    """Those who are turned away for `limits.connections` linger beside the others. Raises BindError."""
    lent.fit(section.limits.connections + TURNED_AWAY_AT_ONCE, MOST, AT_ONCE)
