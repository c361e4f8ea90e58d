"""`spec.outbound.routes`: which route a domain takes, and whether its relay can be reached at the level that it needs
(contracts sections 1 and 5). `route` is about one, `together` about all and what they run into. Every check is named
after what it finds. Raises nothing.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from .listener_checks import ADMIN_PORT, overlap
from .model import Inbound, Outbound, Route, WithoutDane
from .problems import Problem, error, warning
from .scalars import IPAddress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from postern_sidecar.names import Address

    from .scalars import Network, Pattern

PATH = "spec.outbound.routes"
_BROADCAST = IPv4Address("255.255.255.255")
LOOPBACK = (IPAddress("127.0.0.1"), IPAddress("::1"))
"""Where the doors are."""


def route(chosen: Route, path: str) -> Iterator[Problem]:
    yield from stands_twice(chosen.domains, f"{path}.domains")
    host = chosen.via.host
    if isinstance(host, str):
        return
    if host.is_unspecified or host.is_multicast or host == _BROADCAST:
        yield error(f"{path}.via", f"{chosen.via} is no address of a relay", "write the relay's name, or its address")
    elif chosen.auth is not None:
        message = f"{chosen.via} has no name, so neither DANE nor a certificate can say who would hear the password"
        yield error(f"{path}.auth", message, "write the relay's name in via")


def stands_twice(patterns: Iterable[Pattern], path: str) -> Iterator[Problem]:
    first: dict[Pattern, int] = {}
    for index, pattern in enumerate(patterns):
        if first.setdefault(pattern, index) != index:
            yield error(f"{path}[{index}]", f"{pattern} stands in {path}[{first[pattern]}] too", "keep one of the two")


def together(outbound: Outbound, listeners: Mapping[int, Inbound]) -> Iterator[Problem]:
    """`listeners` by their index in `spec.inbound`; broken ones may be missing."""
    yield from _two_routes_for_one_domain(outbound.routes)
    for index, chosen in enumerate(outbound.routes):
        path = f"{PATH}[{index}]"
        yield from _relay_is_a_loop(chosen, path, outbound, listeners)
        yield from _relay_is_not_dialled(chosen, path, outbound)
        yield from _required_dane_cannot_be(chosen, path, outbound)
        yield from _nothing_to_verify(chosen, path, outbound)
        yield from _password_is_never_sent(chosen, path, outbound)


def _two_routes_for_one_domain(routes: Iterable[Route]) -> Iterator[Problem]:
    first: dict[Pattern, tuple[int, str]] = {}
    for index, chosen in enumerate(routes):
        for number, pattern in enumerate(chosen.domains):
            where = f"{PATH}[{index}].domains[{number}]"
            earlier, there = first.setdefault(pattern, (index, where))
            if earlier != index:
                message = f"{pattern} stands in {there} too"
                yield error(where, message, "keep one of the two: a domain has one route")


def _dialled(chosen: Route) -> tuple[Address, ...]:
    """What is known of where `via` leads before DNS is asked."""
    host = chosen.via.host
    if isinstance(host, str):
        local = host == "localhost" or host.endswith(".localhost")  # RFC 6761 6.3
        return tuple(address.address for address in LOOPBACK) if local else ()
    return (host,)


def _relay_is_a_loop(
    chosen: Route, path: str, outbound: Outbound, listeners: Mapping[int, Inbound]
) -> Iterator[Problem]:
    port = chosen.via.port
    submission = outbound.submission
    for address in _dialled(chosen):
        ours = address.is_loopback or _within(address, outbound.own_addresses)
        known = [ADMIN_PORT] if ours else []
        known += [submission.port, submission.lmtp_port] if address.is_loopback else []
        for inbound in listeners.values():
            here = inbound.address is not None and inbound.address.address == address
            if here or (ours and overlap(inbound.address, IPAddress(str(address)))):
                known.append(inbound.port)
        if port in known:
            message = f"{port} is a port that the sidecar listens on: mail would go round in a loop"
            yield error(f"{path}.via", message, "give the relay's own port")
            return


def _relay_is_not_dialled(chosen: Route, path: str, outbound: Outbound) -> Iterator[Problem]:
    """Loopback and own addresses would let mail re-enter the pod's server as trusted (contracts section 5)."""
    dialled = _dialled(chosen)
    ours = [address for address in dialled if address.is_loopback or _within(address, outbound.own_addresses)]
    found = ours or [address for address in dialled if address.is_link_local]
    if found and not any(_within(address, outbound.allow_addresses) for address in found):
        why = "in this pod, where the mail server may trust whatever comes from here"
        if not ours:
            why = "link-local, where the node's own services are"
        remedy = f"name a relay elsewhere, or write {found[0]} in spec.outbound.allowAddresses"
        yield error(f"{path}.via", f"{chosen.via} is {why}", remedy)


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for given in networks for network in given.networks)


def _required_dane_cannot_be(chosen: Route, path: str, outbound: Outbound) -> Iterator[Problem]:
    if isinstance(chosen.via.host, str):
        return
    dane = outbound.dane
    for pattern in chosen.domains:
        skipped = any(_meet(skip.match, pattern) for skip in dane.skip)
        required = next((require for require in dane.require if _covers(require, pattern)), None)
        if required is not None and not skipped:
            message = f"{chosen.via} has no DANE, and dane.require has {required}: mail for {pattern} would never go"
            yield error(f"{path}.via", message, "write the relay's name")
            return


def _nothing_to_verify(chosen: Route, path: str, outbound: Outbound) -> Iterator[Problem]:
    if outbound.tls.without_dane is WithoutDane.VERIFY and not isinstance(chosen.via.host, str):
        message = f"{chosen.via} has no name to verify, and withoutDane is Verify: its mail would never go"
        yield error(f"{path}.via", message, "write the relay's name")


def _password_is_never_sent(chosen: Route, path: str, outbound: Outbound) -> Iterator[Problem]:
    """AUTH only at level dane or verify (contracts section 1)."""
    host = chosen.via.host
    if chosen.auth is None or not isinstance(host, str) or outbound.tls.without_dane is WithoutDane.VERIFY:
        return
    wanted = (*outbound.dane.try_, *outbound.dane.require)
    if not any(want.fits(host) is not None or _meet(want, pattern) for want in wanted for pattern in chosen.domains):
        message = "AUTH needs DANE or a verified certificate, and here there is neither: all its mail is deferred"
        remedy = "let dane.try have the relay's name, or set tls.withoutDane: Verify"
        yield warning(f"{path}.auth", message, remedy)


def _covers(wide: Pattern, narrow: Pattern) -> bool:
    """Whether every domain of `narrow` is one of `wide`."""
    return wide == narrow or (wide.below and wide.fits(narrow.name) is not None)


def _meet(one: Pattern, other: Pattern) -> bool:
    """Whether some domain is one of both."""
    return _covers(one, other) or _covers(other, one)
