"""How many connections a client may have and make: `Limiter` counts, `LimitHit` says which limit was met.

The client is the real one, after the header, and all of its `clientPrefix`. The rate is Exim's `ratelimit = LIMIT /
PER / per_conn / strict` (its specification, "Rate limiting incoming messages"; contracts section 2): a smoothed rate
r, in connections per `per`, renewed by every attempt, refused ones too. With i the time since the last attempt and
a = exp(-i/per):

    r' = (1 - a) * per/i + a * r,   at least 1;   refused if r' > connections

Not asked for here: the clock (`now` comes in, monotonic seconds), sockets, replies beyond their text.

The kept library for this, `limits` 5.8, has windows and no smoothed rate, so a sender that keeps trying would be let
in again with each window, which is what `strict` is there to prevent. Its memory storage has no bound on clients and
no eviction, starts threads of its own, and reads the clock itself.

Memory. At most `MAX_CLIENTS` clients are remembered (Exim's database grows until exim_tidydb). A remembered client
without a session takes 212 bytes (measured: Python 3.11, IPv6, a full table that evicts; 156 while it fills), so one
listener's table ends at 13 MiB, 18 for the moment in which its dictionary is rebuilt; a process under a walk through
10^6 prefixes grew by 23 MiB in all. When the table is full, the client without a session that was seen longest ago is
forgotten, and counted in `evictions`. Clients without a limit of their own are not remembered.

Raises KeyError where a session is released that was not admitted: a bug of ours.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from math import ceil, expm1, log
from typing import TYPE_CHECKING, Final

from postern_sidecar.inbound.networks import NetworkTable

if TYPE_CHECKING:
    from postern_sidecar.config.model import Limits, Override, Rate
    from postern_sidecar.inbound.networks import NetworkSet
    from postern_sidecar.names import Address

MAX_CLIENTS: Final = 65_536


class LimitKind(enum.Enum):
    """Which limit: `reason` in logs, `kind` in metrics."""

    CONNECTIONS = "connections"
    CONNECTIONS_PER_CLIENT = "connections_per_client"
    RATE_PER_CLIENT = "rate_per_client"


@dataclass(frozen=True, slots=True)
class LimitHit:
    """`measured` was more than `limit` allows.

    `retry_after`: seconds after which an attempt would be let in, where time is all that it takes.
    `prefix`: the length of the prefix that was counted. `per`: the rate's time, as the policy has it.
    """

    kind: LimitKind
    limit: int
    measured: float
    retry_after: float | None = None
    prefix: int = 0
    per: str = ""


def text(hit: LimitHit, client: Address) -> str:
    """What the sender is told, behind 421 4.7.0: who was counted, against what, and when to come again."""
    if hit.kind is LimitKind.CONNECTIONS:
        return "Too many connections to this server at the moment, try again later"
    whole = hit.prefix == client.max_prefixlen
    who = str(client) if whole else str(ip_network((client, hit.prefix), strict=False))
    if hit.kind is LimitKind.CONNECTIONS_PER_CLIENT:
        return f"Too many connections at once from {who}: {hit.limit} allowed, try again when one of them has ended"
    return (
        f"Too many connections from {who}: {hit.measured:.1f} per {hit.per}, {hit.limit} allowed, "
        f"try again in {max(1, ceil(hit.retry_after or 0))} s"
    )


@dataclass(frozen=True, slots=True)
class _Allowance:
    """What one client may do."""

    connections: int | None
    rate: Rate | None

    def __bool__(self) -> bool:
        return self.connections is not None or self.rate is not None


def _overridden(limits: Limits, override: Override) -> _Allowance:
    return _Allowance(
        override.connections_per_client or limits.connections_per_client,
        override.rate_per_client or limits.rate_per_client,
    )


# A smoothed rate (real) and when it was measured (imag). A complex number is the smallest object that holds two
# doubles (32 bytes; a tuple of two floats takes 104) and is nothing to the garbage collector, whose pauses would
# otherwise grow with the table.
_Mark = complex


def _renewed(mark: _Mark, now: float, per: float) -> _Mark:
    x = max(0.0, now - mark.imag) / per
    gone = -expm1(-x)  # 1 - a, exact where x is small
    burst = gone / x if x > 0.0 else 1.0  # (1 - a) * per/i; its limit at i = 0 is 1
    return complex(max(1.0, burst + (1.0 - gone) * mark.real), now)


def _wait(rate: float, limit: int, per: float) -> float:
    """Seconds after which one more attempt is within `limit`: an upper bound, at most a fraction of `per` too long.

    Where (1 - a) * per/i <= 1 is put for the first term of r', r' <= limit solves to i = per * ln(r / (limit - 1)).
    For limit 1 the first term is at most 1/2 from i = 2 * per on.
    """
    if limit > 1:
        return per * max(0.0, log(rate / (limit - 1)))
    return per * max(2.0, log(2.0 * rate))


class _Busy:
    """A client with sessions."""

    __slots__ = ("mark", "sessions")

    def __init__(self, mark: _Mark | None, sessions: int) -> None:
        self.mark = mark
        self.sessions = sessions


class Limiter:
    """One listener's counts.

    `accept` and `close` count sockets, from the first moment; `admit` and `release` count sessions of a known client.
    `exempt` are the peers that send headers: an identity that is one of them is a load balancer, not a client, and
    only `limits.connections` holds for it.
    """

    def __init__(self, limits: Limits, exempt: NetworkSet, max_clients: int = MAX_CLIENTS) -> None:
        self.sockets = 0
        self.sessions = 0
        self.evictions = 0
        self._limits = limits
        self._exempt = exempt
        self._max_clients = max_clients
        self._shift4 = 32 - limits.client_prefix.ipv4
        self._shift6 = 128 - limits.client_prefix.ipv6
        self._default = _Allowance(limits.connections_per_client, limits.rate_per_client)
        self._overrides = NetworkTable(
            (network, _overridden(limits, override))
            for override in limits.overrides
            for clients in override.clients
            for network in clients.networks
        )
        self._idle: OrderedDict[int, _Mark] = OrderedDict()  # the least recently seen first
        self._busy: dict[int, _Busy] = {}
        self._running: dict[int, int] = {}  # sessions by whole address: what a reload counts anew

    @property
    def clients(self) -> int:
        """How many clients are remembered."""
        return len(self._idle) + len(self._busy)

    def accept(self) -> LimitHit | None:
        """Count an accepted socket, of which nothing is known yet, against `limits.connections`."""
        if self.sockets >= self._limits.connections:
            return self._full(self.sockets)
        self.sockets += 1
        return None

    def close(self) -> None:
        """A socket that `accept` counted is gone."""
        self.sockets -= 1

    def admit(self, address: Address, now: float) -> LimitHit | None:
        """Count an attempt; None if the client may come in, and then its session is counted until `release`.

        An attempt that finds the listener full is not held against the client.
        """
        if self.sessions >= self._limits.connections:
            return self._full(self.sessions)
        allowance = self._allowance_of(address)
        if allowance is not None:
            hit = self._attempt(address, allowance, now)
            if hit is not None:
                return hit
        self.sessions += 1
        whole = _number(address)
        self._running[whole] = self._running.get(whole, 0) + 1
        return None

    def release(self, address: Address) -> None:
        """A session that `admit` let in has ended. Raises KeyError."""
        whole = _number(address)
        left = self._running[whole] - 1
        if left:
            self._running[whole] = left
        else:
            del self._running[whole]
        self.sessions -= 1
        key = self._key(address)
        busy = self._busy.get(key)
        if busy is None or self._allowance_of(address) is None:  # no limit, though others of its prefix may have one
            return
        busy.sessions -= 1
        if not busy.sessions:
            del self._busy[key]
            if busy.mark is not None:
                self._idle[key] = busy.mark

    def adopt(self, old: Limiter) -> None:
        """Take over, after a reload and before the first use, what `old` has counted.

        Sessions are counted anew by these limits. Rates go on only where everything about them is the same: a rate in
        another unit, or of another prefix, says nothing.
        """
        self.sockets, self.sessions, self.evictions = old.sockets, old.sessions, old.evictions
        self._running = dict(old._running)
        marks: dict[int, _Mark] = {}
        if _same_clients(self._limits, old._limits):
            marks.update(old._idle)
            marks.update((key, busy.mark) for key, busy in old._busy.items() if busy.mark is not None)
        for whole, sessions in self._running.items():
            address = _address(whole)
            if self._allowance_of(address) is None:
                continue
            key = self._key(address)
            busy = self._busy.setdefault(key, _Busy(marks.pop(key, None), 0))
            busy.sessions += sessions
        self._idle.update(marks)
        while self.clients > self._max_clients and self._forget_one():
            pass

    def _full(self, measured: int) -> LimitHit:
        return LimitHit(LimitKind.CONNECTIONS, self._limits.connections, measured)

    def _allowance_of(self, address: Address) -> _Allowance | None:
        override = self._overrides.get(address)
        allowance = self._default if override is None else override
        return allowance if allowance and address not in self._exempt else None

    def _key(self, address: Address) -> int:
        number = int(address)
        return ~(number >> self._shift4) if type(address) is IPv4Address else number >> self._shift6

    def _attempt(self, address: Address, allowance: _Allowance, now: float) -> LimitHit | None:
        key = self._key(address)
        busy = self._busy.get(key)
        mark = busy.mark if busy is not None else self._idle.pop(key, None)
        new = busy is None and mark is None
        if allowance.rate is not None:
            mark = complex(1.0, now) if mark is None else _renewed(mark, now, allowance.rate.per.seconds)
        if new and self.clients >= self._max_clients and not self._forget_one():
            # Only where more clients than the table holds have sessions at the same time. Unlimited is not an answer.
            return LimitHit(LimitKind.CONNECTIONS, self._max_clients, self.clients)
        hit = self._verdict(address, allowance, busy, mark)
        if busy is not None:
            busy.mark = mark
            busy.sessions += hit is None
        elif hit is None or mark is None:  # without a rate, who has no session is not refused
            self._busy[key] = _Busy(mark, 1)
        else:
            self._idle[key] = mark
        return hit

    def _verdict(
        self, address: Address, allowance: _Allowance, busy: _Busy | None, mark: _Mark | None
    ) -> LimitHit | None:
        most, rate = allowance.connections, allowance.rate
        if most is not None and busy is not None and busy.sessions >= most:
            return LimitHit(LimitKind.CONNECTIONS_PER_CLIENT, most, busy.sessions + 1, prefix=self._prefix(address))
        if rate is not None and mark is not None and mark.real > rate.connections:
            wait = _wait(mark.real, rate.connections, rate.per.seconds)
            return LimitHit(
                LimitKind.RATE_PER_CLIENT, rate.connections, mark.real, wait, self._prefix(address), str(rate.per)
            )
        return None

    def _prefix(self, address: Address) -> int:
        prefix = self._limits.client_prefix
        return prefix.ipv4 if address.version == 4 else prefix.ipv6

    def _forget_one(self) -> bool:
        if not self._idle:
            return False
        self._idle.popitem(last=False)
        self.evictions += 1
        return True


def _number(address: Address) -> int:
    """One number for each address of both families: IPv4 below zero."""
    return ~int(address) if type(address) is IPv4Address else int(address)


def _address(number: int) -> Address:
    return IPv4Address(~number) if number < 0 else IPv6Address(number)


def _same_clients(a: Limits, b: Limits) -> bool:
    return (a.client_prefix, a.rate_per_client, a.overrides) == (b.client_prefix, b.rate_per_client, b.overrides)
