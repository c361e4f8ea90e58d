"""Outbound over reloads: the one that the policy has, if it has any, and those that it had and that still deliver.

`edge.outbound` is imported with the first policy that has `spec.outbound`: it brings the libraries for certificates and
DNS into memory, and most sidecars never need them.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from postern_sidecar.logline import Record

from .bind import BindError
from .descriptors import Lent
from .hostname import system_hostname

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from postern_sidecar.config.model import Policy
    from postern_sidecar.config.options import Options
    from postern_sidecar.names import Address, Endpoint

    from .descriptors import Room
    from .metrics import Metrics
    from .outbound import Outbound


class OutboundHalf:
    """`write` takes lines for the log; `on_quiet` is called whenever one of them has nothing to deliver any more."""

    def __init__(
        self,
        options: Options,
        metrics: Metrics,
        write: Callable[[Record], None],
        on_quiet: Callable[[], None],
        room: Room,
    ) -> None:
        self._options = options
        self._metrics = metrics
        self._write = write
        self._on_quiet = on_quiet
        self._lent = Lent(room)
        self._current: Outbound | None = None
        self._left: list[Outbound] = []  # no longer in the policy, deliveries left
        self._ids = itertools.count(1)  # of submissions, unique in the process

    async def install(self, policy: Policy, own: frozenset[Address]) -> None:
        """Raises BindError with nothing changed."""
        section = policy.spec.outbound
        if section is None:
            self._leave()
            return
        from . import outbound

        options = self._options
        hostname = policy.spec.hostname or system_hostname()
        settings = outbound.settings_of(section, hostname, own, options.credentials, self._warn)
        if self._current is not None:
            await self._current.replace(settings)
            return
        try:
            started = outbound.Outbound(
                settings,
                state_dir=options.state_dir,
                write=self._write,
                next_id=lambda: f"o{next(self._ids):04x}",
                on_quiet=self._on_quiet,
                lent=self._lent,
            )
            await started.start(ephemeral=options.ephemeral_ports)
        except BindError:
            self._give_back()
            raise
        self._current = started
        self._metrics.outbound(started.collector())

    def _leave(self) -> None:
        if self._current is not None:
            self._current.terminate()
            self._left.append(self._current)
            self._current = None
            self._metrics.outbound(None)

    def _give_back(self) -> None:
        """Descriptors, where no outbound is left."""
        if not self._all:
            self._lent.give_back()

    def _warn(self, message: str) -> None:
        self._write(Record("warning", "", {"message": message}))

    @property
    def _all(self) -> Sequence[Outbound]:
        return [*self._left, *([self._current] if self._current is not None else [])]

    @property
    def addresses(self) -> Mapping[str, Sequence[Endpoint]]:
        """Where the doors listen, "smtp" and "lmtp"."""
        return self._current.addresses if self._current is not None else {}

    @property
    def ready(self) -> tuple[bool, str]:
        if self._current is None:
            return False, "this configuration has no outbound"
        return self._current.ready

    @property
    def quiet(self) -> bool:
        """Nothing is delivered any more."""
        return all(outbound.quiet for outbound in self._all)

    def terminate(self) -> None:
        """The doors close; deliveries run to their end."""
        for outbound in self._all:
            outbound.terminate()

    def press(self) -> None:
        """The grace is over: deliveries end now."""
        for outbound in self._all:
            outbound.press()

    def sweep(self, spawn: Callable[[Coroutine[None, None, None]], object]) -> None:
        """Close those that are no longer in the policy and have nothing left to deliver."""
        for outbound in [outbound for outbound in self._left if outbound.quiet]:
            self._left.remove(outbound)
            spawn(self._end(outbound))

    async def _end(self, outbound: Outbound) -> None:
        await outbound.close()
        self._give_back()

    async def close(self) -> None:
        """Everything, at once."""
        for outbound in self._all:
            await outbound.close()
