"""What one listener decides with: `spec.inbound[]` made ready for sessions. Frozen; a reload makes new ones."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING

from postern_sidecar.config.model import (
    EarlyTalkers,
    Inbound,
    Others,
    Policy,
    ReverseDNS,
    Selector,
)

from .handover import HANDOVERS, Handover
from .networks import NetworkSet
from .rules import Rules
from .speech import Speech

if TYPE_CHECKING:
    from collections.abc import Iterable

    from postern_sidecar.names import Address


@dataclass(frozen=True, slots=True)
class Listener:
    inbound: Inbound
    speech: Speech
    handover: Handover
    required: NetworkSet  # who must send a header
    forbidden: NetworkSet  # sources that nobody may claim
    allowed: NetworkSet  # those that may be claimed all the same
    rules: Rules | None
    name_first: bool  # the client's name is part of a decision or of the identity
    name_wanted: bool  # it is wanted at all
    forward_early: bool  # bytes before the banner are the backend's business
    log_probes: bool

    @property
    def direct(self) -> bool:
        return self.inbound.proxy_protocol.others is Others.DIRECT

    def claimable(self, address: Address) -> bool:
        """Whether a header may name this source: else any pod in `requiredFrom` could claim 127.0.0.1 and relay."""
        return address not in self.forbidden or address in self.allowed


NOBODYS = tuple(ip_network(text) for text in ("127.0.0.0/8", "::1", "0.0.0.0/32", "::", "224.0.0.0/4", "ff00::/8"))
"""Loopback, unspecified, multicast (RFC 6890)."""


def listeners(policy: Policy, hostname: str, own: Iterable[Address]) -> list[Listener]:
    """The policy's listeners. Raises what compiling its rules raises: a checked policy raises nothing."""
    forbidden = NetworkSet((*NOBODYS, *(ip_network(address) for address in own)))
    return [_listener(inbound, policy, hostname, forbidden) for inbound in policy.spec.inbound]


def _listener(inbound: Inbound, policy: Policy, hostname: str, forbidden: NetworkSet) -> Listener:
    handover = HANDOVERS[inbound.backend.handover](inbound, hostname)
    rules = Rules.compile(inbound.rules) if inbound.rules else None
    selectors = policy.spec.logging.selectors
    decides = handover.needs_name or (rules is not None and rules.uses("sender_host_name"))
    wanted = decides or inbound.reverse_dns is ReverseDNS.ALWAYS or Selector.HOST_LOOKUP in selectors
    may = inbound.reverse_dns is not ReverseDNS.NEVER
    proxy = inbound.proxy_protocol
    speech = Speech(inbound.protocol, inbound.tls_on_connect, hostname)
    return Listener(
        inbound=inbound,
        speech=speech,
        handover=handover,
        required=NetworkSet(network for sources in proxy.required_from for network in sources.networks),
        forbidden=forbidden,
        allowed=NetworkSet(network for sources in proxy.allow_sources for network in sources.networks),
        rules=rules,
        name_first=decides and may,
        name_wanted=wanted and may,
        forward_early=not speech.smtp or inbound.early_talkers is EarlyTalkers.FORWARD,
        log_probes=Selector.PROBES in selectors,
    )
