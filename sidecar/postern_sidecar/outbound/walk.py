"""Whose turn is it? The hosts of a next hop and their addresses, in the order to try them, and what came of each.

A preference's hosts are looked up together and then tried one by one, shuffled (RFC 5321 5.1); where one of them is
ourselves, it and all that are not preferred to it fall away (5.1), for mail that they have would only come back. An
address that must not be dialled, or that did not connect a moment ago, is passed over. Ten addresses and five sessions
are a transaction's lot (contracts section 5).

A submitter may take its time between RCPT and DATA. A host whose turn comes when its records' time to live is over is
looked up again: there may be TLSA records by then, and the old ones may be gone.

It knows no SMTP: `outbound.client` goes to one address, `outbound.leg` decides that a host will not do. Raises nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from postern_sidecar.lookup.exchangers import cut_at_own, groups
from postern_sidecar.lookup.exchangers import next_hop as look_up
from postern_sidecar.lookup.host import host as look_up_host
from postern_sidecar.lookup.hosts import Fault, NoNextHop
from postern_sidecar.names import Endpoint

from . import levels, record, replies
from .asking import one, together
from .budget import CONNECT
from .client import Goal, reach
from .commands import Log
from .failure import HostFailure, Verdict, decisive
from .plan import PoolKey

if TYPE_CHECKING:
    from datetime import date

    from postern_sidecar.config.model import Route
    from postern_sidecar.lookup.hosts import Exchanger, HostFacts, NextHop
    from postern_sidecar.names import Address, Domain
    from postern_sidecar.replies import Reply

    from .budget import Budget
    from .commands import Work
    from .link import Link
    from .plan import Plan
    from .surroundings import Surroundings

MOMENT: Final = 1.0  # seconds that an answer is good for, even one without a time to live: its first use
REFUSING: Final = frozenset({"connect_refused", "unreachable"})
"""Reasons of `Lost` that say something of the address however little time there was for it."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A place on the way where there is a session."""

    goal: Goal
    link: Link


@dataclass(frozen=True, slots=True)
class Known:
    """A host that was looked up, and what it must reach; `plan` is None where it has no address."""

    exchanger: Exchanger
    facts: HostFacts
    plan: Plan | levels.Refusal | None


def begin(
    session: str,
    around: Surroundings,
    target: Domain | Address,
    route: Route | None,
    budget: Budget,
    *,
    extended: bool = False,
) -> Work[Walk | Verdict]:
    """To the hosts of a next hop; or what is heard where there is none. `route`: the policy's for `target`."""
    via = None if route is None else route.via
    hop = yield from one(look_up(target, via=via, own=around.settings.outbound.own_names), budget)
    if isinstance(hop, NoNextHop):
        return Verdict(replies.FAULTS[hop.fault](target), hop.fault.value, hop.detail)
    return Walk(session, around, hop, route, budget, extended)


@dataclass(slots=True)
class Walk:
    """`extended`: a host without EHLO is of no use. `complete`: nothing was left out for want of time or lot. `known`:
    the hosts whose turn has come."""

    session: str
    around: Surroundings
    next_hop: NextHop
    route: Route | None
    budget: Budget
    extended: bool = False
    failures: list[HostFailure] = field(default_factory=list)
    complete: bool = True
    known: list[Known] = field(default_factory=list)
    _groups: list[list[Exchanger]] = field(default_factory=list)
    _hosts: list[tuple[Exchanger, HostFacts]] = field(default_factory=list)
    _goals: list[Goal] = field(default_factory=list)
    _looked: float = 0.0  # when `_hosts` were looked up, monotonic
    _until: float = 0.0  # so long may what `_goals` were made of be believed
    _tried: set[tuple[Domain | Address, Endpoint]] = field(default_factory=set)
    _today: date = field(init=False)  # one day for the lookups and the plans made of them

    def __post_init__(self) -> None:
        self._groups = groups(self.next_hop.exchangers)
        self._today = datetime.fromtimestamp(self.around.world.wall(), UTC).date()

    def onward(self) -> Work[Stop | None]:
        """The next host's session; None where there is none left, or left to try."""
        while (goal := (yield from self.next_goal())) is not None:
            stop = yield from self._reach(goal, pooled=True)
            if stop is not None:
                return stop
        return None

    def next_goal(self) -> Work[Goal | None]:
        """The next address that is to be dialled."""
        while (goal := (yield from self._next_address())) is not None:
            failure = self._not_dialled(goal)
            if failure is None:
                self.budget.addresses -= 1
                return goal
            yield from self.note(failure)
        return None

    def afresh(self, stop: Stop) -> Work[Stop | None]:
        """The same address once more, by a connection of its own: the idle one had died unseen, and was none."""
        self.budget.sessions += 1
        return (yield from self._reach(stop.goal, pooled=False))

    def note(self, failure: HostFailure) -> Work[None]:
        """A host was of no use."""
        self.failures.append(failure)
        yield Log(record.attempt(self.session, failure))

    @property
    def verdict(self) -> Verdict:
        """What the submitter is told when there is no host left."""
        last = decisive(self.failures, complete=self.complete)
        if last is None:
            return Verdict(replies.NO_TIME(self.next_hop.domain), "too_many_hosts")
        return Verdict(last.reply, last.reason, last.detail, last.host, last.endpoint, last.link)

    # The next address

    def _next_address(self) -> Work[Goal | None]:
        while True:
            if not (self._goals or self._hosts or self._groups):
                return None
            if not self.budget.another_address:
                self.complete = False
                return None
            if self._goals:
                if self.around.world.monotonic() < self._until:
                    goal = self._goals.pop(0)
                    self._tried.add((goal.host, goal.endpoint))
                    return goal
                outdated = self.known.pop()
                self._goals, self._hosts = [], [(outdated.exchanger, outdated.facts), *self._hosts]
            if self._hosts:
                exchanger, facts = self._hosts.pop(0)
                yield from self._plan(exchanger, (yield from self._still(exchanger, facts)))
            else:
                yield from self._look_up(self._groups.pop(0))

    def _look_up(self, group: list[Exchanger]) -> Work[None]:
        self.around.world.shuffle(group)  # type: ignore[arg-type]
        facts = yield from together(
            [look_up_host(each.name, each.port, dane_wanted=self._wish(each).asks) for each in group], self.budget
        )
        self._hosts = list(zip(group, facts, strict=True))
        self._looked = self.around.world.monotonic()
        if not self.next_hop.routed and not cut_at_own(self._hosts, self._is_own):
            self._hosts, self._groups = [], []
            reply = replies.LOOP(self.next_hop.domain)
            yield from self.note(HostFailure(group[0].name, Fault.LOOP.value, reply, connected=False))

    def _still(self, exchanger: Exchanger, facts: HostFacts) -> Work[HostFacts]:
        """What may be believed of a host now."""
        looked = self._looked
        if facts.fault is None and self.around.world.monotonic() >= looked + max(facts.tlsa_ttl, MOMENT):
            wanted = self._wish(exchanger).asks
            facts = yield from one(look_up_host(exchanger.name, exchanger.port, dane_wanted=wanted), self.budget)
            looked = self.around.world.monotonic()
        self._until = looked + max(facts.tlsa_ttl, MOMENT)
        return facts

    def _is_own(self, address: Address) -> bool:
        return self.around.forbidden.why(address) == "own address"

    def same_rules(self, domain: Domain | Address) -> bool:
        """A route may serve domains of which the policy demands different things."""
        other = replace(self.next_hop, domain=domain)
        return all(
            levels.wants_dane(other, each, self.around.settings, self._today) == self._wish(each)
            for each in self.next_hop.exchangers
        )

    def _wish(self, exchanger: Exchanger) -> levels.DaneWish:
        return levels.wants_dane(self.next_hop, exchanger, self.around.settings, self._today)

    def _plan(self, exchanger: Exchanger, facts: HostFacts) -> Work[None]:
        if facts.fault is not None:
            self.known.append(Known(exchanger, facts, None))
            reply = self._no_address(facts.fault)
            yield from self.note(HostFailure(exchanger.name, facts.fault.value, reply, facts.detail, connected=False))
            return
        plan = levels.plan(self.next_hop, exchanger, facts, self.around.settings, self._today)
        self.known.append(Known(exchanger, facts, plan))
        if isinstance(plan, levels.Refusal):
            reply = replies.NOT_SECURED._replace(enhanced=plan.code)(exchanger.name)
            yield from self.note(HostFailure(exchanger.name, plan.reason, reply, plan.message))
            return
        places = (Endpoint(address, exchanger.port) for address in facts.addresses)
        self._goals = [
            self._goal(exchanger, place, plan) for place in places if (exchanger.name, place) not in self._tried
        ]

    def _no_address(self, fault: Fault) -> Reply:
        """Of an MX host, or of the domain itself. A route's relay is the policy's fault, and that bounces nothing."""
        domain = self.next_hop.domain
        if self.next_hop.routed:
            return replies.DNS_FAILED(domain)
        if fault is Fault.NO_SUCH_DOMAIN and not self.next_hop.implicit:
            return replies.NO_ADDRESS(domain)
        return replies.FAULTS[fault](domain)

    def _goal(self, exchanger: Exchanger, endpoint: Endpoint, plan: Plan) -> Goal:
        route = self.route
        secret = route.auth.secret_name if route is not None and route.auth is not None else ""
        implicit = route is not None and route.implicit_tls
        credentials = self.around.settings.credentials.get(secret)
        hostname = self.around.settings.hostname
        key = PoolKey(*endpoint, implicit, self.next_hop.secure, plan, hostname, secret, credentials)
        return Goal(self.session, exchanger.name, endpoint, plan, key, credentials, self.extended)

    # One address

    def _not_dialled(self, goal: Goal) -> HostFailure | None:
        why = self.around.forbidden.why(goal.endpoint.address)
        if why is not None:
            self.budget.addresses -= 1
            reply = replies.FORBIDDEN(goal.endpoint.address)
            return goal.failure("address_not_allowed", reply, why)
        reason = self.around.unreachable.why(goal.endpoint, self.around.world.monotonic())
        if reason is None:
            return None
        self.budget.addresses -= 1
        return goal.failure(reason, replies.NOT_CONNECTED(goal.host), "not tried again within 60 s", connected=False)

    def _reach(self, goal: Goal, *, pooled: bool) -> Work[Stop | None]:
        whole = self.budget.left >= CONNECT
        result = yield from reach(goal, self.budget, pooled=pooled)
        if not isinstance(result, HostFailure):
            self.around.unreachable.connected(goal.endpoint)
            return Stop(goal, result)
        yield from self.note(result)
        if not result.connected and (result.reason in REFUSING or (whole and result.reason == "connect_timeout")):
            self.around.unreachable.remember(goal.endpoint, result.reason, self.around.world.monotonic())
        return None
