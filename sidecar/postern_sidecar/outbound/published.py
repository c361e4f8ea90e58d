"""What DNS publishes for a host, and what the host shows (`postern-sidecar tlsa --verify`; RFC 7671 8, RFC 7672).

    found = yield from visit(around, host, port)
    findings(found, chain, "new.pem", digests, now)

Whoever asks is the host's administrator: every address is visited, the pod's own too, and no certificate is refused
before it was seen. What the records are worth is `dane.zonefile`'s business. Raises nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from postern_sidecar.dane.zonefile import Finding, Severity, line, record, review
from postern_sidecar.lookup.host import host as look_up
from postern_sidecar.lookup.host import tlsa_name
from postern_sidecar.lookup.hosts import TLSAState
from postern_sidecar.names import Endpoint

from .asking import one
from .budget import Budget
from .client import Goal, reach
from .commands import Drop
from .failure import HostFailure
from .plan import Level, Plan, PoolKey
from .report import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from postern_sidecar.config.model import Digest
    from postern_sidecar.lookup.hosts import HostFacts
    from postern_sidecar.names import Domain

    from .commands import Work
    from .surroundings import Surroundings

SMTPS: Final = 465  # RFC 8314 7.3
ADDRESSES: Final = 16
SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Visit:
    """`chain`: DER, as the host sent it, or () and why. `connected`: somebody was there."""

    endpoint: Endpoint
    chain: tuple[bytes, ...] = ()
    why: str = ""
    connected: bool = True


@dataclass(frozen=True, slots=True)
class Published:
    host: Domain
    port: int
    facts: HostFacts
    visits: tuple[Visit, ...] = ()

    @property
    def owner(self) -> str:
        """Of the TLSA records, where they are or where they should be."""
        base = self.facts.base or self.host
        return tlsa_name(base, self.port) or base


def visit(around: Surroundings, host: Domain, port: int = 25) -> Work[Published]:
    """Its DNS, then all of its addresses, ADDRESSES of them at most. On SMTPS, TLS comes first."""
    budget = Budget(around.world.monotonic, ADDRESSES, ADDRESSES, SECONDS)
    budget.begin()
    facts = yield from one(look_up(host, port), budget)
    visits: list[Visit] = []
    for address in facts.addresses[:ADDRESSES]:
        visits.append((yield from _visit(around, facts.base or host, host, Endpoint(address, port), budget)))
    return Published(host, port, facts, tuple(visits))


def _visit(around: Surroundings, sni: Domain, host: Domain, endpoint: Endpoint, budget: Budget) -> Work[Visit]:
    settings = around.settings
    plan = Plan(Level.ENCRYPT, sni, min_version=settings.outbound.tls.min_version)
    key = PoolKey(*endpoint, endpoint.port == SMTPS, True, plan, settings.hostname, "")
    result = yield from reach(Goal("tlsa", host, endpoint, plan, key), budget, pooled=False)
    if isinstance(result, HostFailure):
        why = f"{result.reason}: {result.detail}" if result.detail else result.reason
        return Visit(endpoint, why=why, connected=result.connected)
    yield Drop(result, quit=True)
    return Visit(endpoint, () if result.handshake is None else result.handshake.chain)


def findings(
    found: Published, file: Sequence[bytes], filename: str, digests: Sequence[Digest], now: datetime
) -> Iterator[tuple[str, Finding]]:
    """Each with what it is about: the DNS, an address, or `file`, a chain that is about to be installed."""
    for about, finding in _findings(found, file, filename, digests, now):
        yield about, Finding(finding.severity, plain(finding.text))


def _findings(
    found: Published, file: Sequence[bytes], filename: str, digests: Sequence[Digest], now: datetime
) -> Iterator[tuple[str, Finding]]:
    facts = found.facts
    unpublished = _unpublished(found)
    if unpublished:
        yield "DNS", Finding(Severity.ERROR, unpublished)
    somewhere = any(each.chain for each in found.visits)
    for each in found.visits:
        about = str(each.endpoint.address)
        if not each.chain:
            harmless = somewhere and not each.connected  # from here; a host of two families is often reached by one
            yield about, Finding(Severity.NOTE if harmless else Severity.ERROR, each.why)
        elif not unpublished:
            for finding in review(facts.records, each.chain, _references(found), now, digests):
                yield about, finding
    if not file:
        return
    if not unpublished:
        reviewed = review(facts.records, file, _references(found), now, digests)
        for finding in reviewed:
            yield filename, finding
        if reviewed[0].severity is not Severity.ERROR:
            return
    text = f"publish before it is installed, and wait for twice the TTL: {line(found.owner, record(file[0]))}"
    yield filename, Finding(Severity.NOTE, text)


def _unpublished(found: Published) -> str:
    """Why no sender authenticates the host, or ""."""
    facts = found.facts
    if facts.fault is not None:
        return f"{found.host} has no address: {facts.fault.value}; {facts.detail}"
    match facts.tlsa:
        case TLSAState.NOT_ASKED:
            return f"the addresses of {found.host} are not signed: senders look for no TLSA records (RFC 7672 2.2.2)"
        case TLSAState.NONE:
            return f"there are no TLSA records at {found.owner}, or they are not signed: senders authenticate nobody"
        case TLSAState.BOGUS | TLSAState.FAILED:
            return f"the TLSA lookup fails, so mail with DANE is deferred: {facts.detail}"
    return ""


def _references(found: Published) -> tuple[Domain, ...]:
    """The names that every sender accepts; who got here by a secure MX answer accepts the mail domain's too."""
    return tuple(dict.fromkeys(filter(None, (found.facts.base, found.host))))
