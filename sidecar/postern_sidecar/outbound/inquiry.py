"""What would happen to mail for a domain? The way of a delivery, without MAIL (`postern-sidecar check`).

    report = yield from inquire(around, target)

It decides nothing itself: the next hop, whose turn it is, the level of a host, the handshake and what a failure comes
to are `outbound.walk`'s, `levels`', `client`'s and `failure`'s, as for a message. So the outcome is the one that a
delivery would have, within a delivery's time and lot. What goes beyond it is curiosity: once that is known, the walk
goes on over the hosts and addresses that are left, MORE of them at most, since the next message may come to one of
these.

What is not known before MAIL is not known here: greylisting, unknown users, full disks. It raises nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from postern_sidecar.dane.certificate import Certificate
from postern_sidecar.dane.records import select
from postern_sidecar.lookup.host import tlsa_name
from postern_sidecar.lookup.hosts import Fault, TLSAState
from postern_sidecar.names import Endpoint

from . import replies
from .budget import Budget
from .client import hinders
from .commands import Drop
from .failure import Verdict
from .levels import Refusal
from .plan import Plan
from .record import outcome, verified
from .report import AddressReport, Contact, HostReport, Outcome, RecordReport, Report, plain
from .transaction import next_hop_of
from .walk import Stop, Walk, begin

if TYPE_CHECKING:
    from collections.abc import Collection

    from postern_sidecar.answers import TLSA
    from postern_sidecar.lookup.hosts import Exchanger, HostFacts, NextHop
    from postern_sidecar.names import Address, Domain

    from .client import Goal
    from .commands import Work
    from .failure import HostFailure
    from .link import Link
    from .surroundings import Surroundings
    from .walk import Known

MORE: Final = 30  # sessions, and addresses, after the outcome is known
MORE_SECONDS: Final = 120.0
SHOWN: Final = 64  # addresses of a host in the report: a DNS answer has room for 2000
FIELD: Final = 256  # characters of a TLSA record: one of a whole certificate is longer
SESSION: Final = "check"  # in log lines, which nobody reads

_OUTCOMES: Final = {"deferred": Outcome.DEFER, "bounced": Outcome.BOUNCE}
_WITHOUT_HOSTS: Final = {Fault.BOGUS: "bogus", Fault.FAILED: "failed", Fault.NULL_MX: "null", Fault.LOOP: "own"}
_LOOKUPS: Final = {Fault.BOGUS: "bogus", Fault.FAILED: "failed"}
NOT_ASKED: Final = "not_asked"
ABSENT: Final = "absent"


def inquire(around: Surroundings, target: Domain | Address, *, connect: bool = True) -> Work[Report]:
    """`connect` False: only DNS and policy count, and a host that may be used is taken to be as good as it should."""
    ready, why = around.ready()
    if not ready:
        return _told(target, Verdict(replies.NOT_VALIDATING(), "dns_selftest", why))
    budget = Budget(around.world.monotonic)
    budget.begin()
    route = around.settings.route(target) if isinstance(target, str) else None
    walk = yield from begin(SESSION, around, target, route, budget)
    if isinstance(walk, Verdict):
        mx = next(word for fault, word in _WITHOUT_HOSTS.items() if fault.value == walk.reason)
        return replace(_told(target, walk), mx=mx)
    return (yield from _Inquiry(walk, connect).run())


def _told(target: Domain | Address, verdict: Verdict) -> Report:
    """There is no host for it; what the submitter would hear."""
    return Report(
        written(target),
        _OUTCOMES[outcome(verdict.reply)],
        reason=verdict.reason,
        detail=plain(verdict.detail),
        reply=plain(replies.shown(verdict.reply)),
    )


@dataclass(slots=True)
class _Inquiry:
    walk: Walk
    connect: bool
    stops: list[Stop] = field(default_factory=list)

    def run(self) -> Work[Report]:
        hop = self.walk.next_hop
        found = yield from self._onward()
        report = _told(hop.domain, self.walk.verdict) if found is None else _taken(hop.domain, found)
        yield from self._look_further()
        return replace(report, way=_way(hop), mx=_mx(hop), hosts=self._hosts())

    def _look_further(self) -> Work[None]:
        budget = self.walk.budget
        budget.sessions = budget.addresses = MORE
        budget.seconds = MORE_SECONDS
        budget.begin()
        while (yield from self._onward()) is not None:
            pass

    def _onward(self) -> Work[Stop | Goal | None]:
        """The next host and address that would do."""
        if self.connect:
            stop = yield from self.walk.onward()
            if stop is not None:
                self.stops.append(stop)
                yield Drop(stop.link, quit=True)
            return stop
        while (goal := (yield from self.walk.next_goal())) is not None:
            hindrance = hinders(goal)
            if hindrance is None:
                return goal
            yield from self.walk.note(hindrance)
        return None

    def _hosts(self) -> tuple[HostReport, ...]:
        """In the order of their turns; then those whose turn did not come."""
        known = self.walk.known
        met = {each.exchanger for each in known}
        left = [exchanger for exchanger in self.walk.next_hop.exchangers if exchanger not in met]
        return (*map(self._host, known), *map(self._unmet, left))

    def _unmet(self, exchanger: Exchanger) -> HostReport:
        name, mx = plain(exchanger.name), _mx(self.walk.next_hop)
        why = "not looked at: it, or one that is preferred to it, is ourselves, or too many came before"
        return HostReport(name, exchanger.preference, exchanger.port, mx, NOT_ASKED, NOT_ASKED, why=why)

    def _host(self, known: Known) -> HostReport:
        exchanger, facts, plan = known.exchanger, known.facts, known.plan
        refused = plan if isinstance(plan, Refusal) else None
        fault = "" if facts.fault is None else facts.fault.value
        owner = tlsa_name(facts.base, exchanger.port) if facts.base is not None else None
        addresses = tuple(self._address(exchanger, Endpoint(each, exchanger.port)) for each in facts.addresses[:SHOWN])
        return HostReport(
            plain(exchanger.name),
            exchanger.preference,
            exchanger.port,
            _mx(self.walk.next_hop),
            _lookup(facts),
            ABSENT if facts.tlsa is TLSAState.NONE else facts.tlsa.value,
            owner=owner or "",
            required=plan.level if isinstance(plan, Plan) else None,
            reason=fault or (refused.reason if refused is not None else ""),
            why=plain(plan.why if isinstance(plan, Plan) else refused.message if refused is not None else facts.detail),
            records=self._records(facts, {address.matched for address in addresses}),
            addresses=addresses,
        )

    def _records(self, facts: HostFacts, matched: Collection[str]) -> tuple[RecordReport, ...]:
        selection = select(facts.records, self.walk.around.settings.outbound.dane.digests)
        considered = (RecordReport(_record(each), matched=_record(each) in matched) for each in selection.considered)
        return (*considered, *(RecordReport(_record(each), why) for each, why in selection.dropped))

    def _address(self, exchanger: Exchanger, endpoint: Endpoint) -> AddressReport:
        for stop in self.stops:
            if (stop.goal.host, stop.goal.endpoint) == (exchanger.name, endpoint):
                return _reached(endpoint, stop.link)
        for failure in self.walk.failures:
            if (failure.host, failure.endpoint) == (exchanger.name, endpoint):
                return _failed(endpoint, failure)
        return AddressReport(*endpoint)


def _taken(target: Domain | Address, found: Stop | Goal) -> Report:
    """Mail would go there."""
    goal, level, note = (
        (found.goal, found.link.level, found.link.note) if isinstance(found, Stop) else (found, None, "")
    )
    detail = "; ".join(filter(None, (goal.plan.why, note)))
    return Report(written(target), Outcome.DELIVER, level or goal.plan.level, detail=plain(detail))


def _reached(endpoint: Endpoint, link: Link) -> AddressReport:
    shaken = link.handshake is not None
    return AddressReport(
        *endpoint,
        Contact.REACHED,
        link.level,
        verified(link) if shaken else "",
        _cipher(link),
        plain(link.peer_dn),
        _cut(link.matched),
        detail=plain(link.note),
    )


def _failed(endpoint: Endpoint, failure: HostFailure) -> AddressReport:
    """`subject`: of what the host showed, whatever it is worth."""
    link, subject = failure.link, ""
    if link is not None and link.handshake is not None and link.handshake.chain:
        subject = Certificate(link.handshake.chain[0]).name
    return AddressReport(
        *endpoint,
        Contact.FAILED,
        cipher="" if link is None else _cipher(link),
        subject=plain(subject),
        reason=failure.reason,
        detail=plain(failure.detail),
    )


def _cipher(link: Link) -> str:
    return "" if link.handshake is None else f"{link.handshake.version}:{link.handshake.cipher}"


def _record(record: TLSA) -> str:
    return _cut(str(record))


def _cut(text: str) -> str:
    return text if len(text) <= FIELD else f"{text[: FIELD - 3]}..."


def _way(hop: NextHop) -> str:
    if hop.routed:
        return "route"
    if not isinstance(hop.domain, str):
        return "literal"
    return "implicit" if hop.implicit else "mx"


def _mx(hop: NextHop) -> str:
    """How far the MX lookup can be believed."""
    if hop.routed or not isinstance(hop.domain, str):
        return NOT_ASKED
    if hop.implicit:
        return ABSENT if hop.secure else "insecure"
    return "secure" if hop.secure else "insecure"


def _lookup(facts: HostFacts) -> str:
    """How far the addresses can be believed."""
    if not isinstance(facts.name, str):
        return NOT_ASKED
    if facts.fault is not None:
        return _LOOKUPS.get(facts.fault, ABSENT)
    return "secure" if facts.secure else "insecure"


def parsed(text: str) -> Domain | Address:
    """What a person writes: a domain, an address literal, or a mail address, whose domain counts. Raises ValueError."""
    where = text.rpartition("@")[2]
    try:
        bare = ip_address(where)
    except ValueError:
        bare = None
    if bare is not None:
        raise ValueError(f"is an address without its brackets; write {written(bare)}")
    try:
        return next_hop_of(where.encode())
    except ValueError:
        raise ValueError("is neither a domain name nor an address literal") from None


def written(target: Domain | Address) -> str:
    """As behind the @ (RFC 5321 4.1.3)."""
    if isinstance(target, str):
        return target
    return f"[IPv6:{target}]" if isinstance(target, IPv6Address) else f"[{target}]"
