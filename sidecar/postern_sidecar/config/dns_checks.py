"""`spec.outbound.dns`: who validates, whom it asks, and whether what it is told to trust can be read (contracts
sections 1 and 5). Every check is named after what it finds. Raises nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from postern_sidecar.names import ROOT, Domain, domain

from . import trust_anchors
from .model import DNS, Forward, ResolverKind, Stub
from .problems import Problem, error, shown
from .scalars import IPAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .scalars import Server

PATH = "spec.outbound.dns"
_LETTERS_DIGITS_HYPHENS = re.compile(r"[A-Za-z0-9.-]+", re.ASCII)


def dns(chosen: DNS) -> Iterator[Problem]:
    for check in _CHECKS:
        yield from check(chosen)


def _servers_are_missing(chosen: DNS) -> Iterator[Problem]:
    if chosen.resolver is ResolverKind.SERVERS and not chosen.servers:
        message = "Servers needs the resolvers to ask"
        yield error(f"{PATH}.servers", message, "give at least one, such as 127.0.0.1:53, or leave resolver out")


def _servers_are_never_asked(chosen: DNS) -> Iterator[Problem]:
    if chosen.resolver is ResolverKind.EMBEDDED and chosen.servers:
        message = "Embedded does not ask these servers"
        yield error(
            f"{PATH}.servers", message, "write resolver: Servers to trust them, or forwards for Embedded to ask"
        )


def _path_is_not_trusted(chosen: DNS) -> Iterator[Problem]:
    """The AD bit is not signed: whoever is on the path can set it."""
    for index, server in enumerate(chosen.servers if chosen.resolver is ResolverKind.SERVERS else ()):
        if not server.endpoint.address.is_loopback and not chosen.acknowledge_trusted_path:
            message = f"{server} is not on loopback, and anybody on the way to it can forge that an answer is validated"
            remedy = "use Embedded, or set acknowledgeTrustedPath: true if nobody can"
            yield error(f"{PATH}.servers[{index}]", message, remedy)


def _embedded_alone_reads_it(chosen: DNS) -> Iterator[Problem]:
    if chosen.resolver is ResolverKind.EMBEDDED:
        return
    named = (
        ("trustAnchors", chosen.trust_anchors),
        ("rootHints", chosen.root_hints),
        ("stubs", chosen.stubs),
        ("forwards", chosen.forwards),
    )
    for field, value in named:
        if value:
            message = f"is for Embedded; {chosen.resolver.value} answer as they are set up themselves"
            yield error(f"{PATH}.{field}", message, "leave it out, or leave resolver out")


def _server_is_nowhere(chosen: DNS) -> Iterator[Problem]:
    yield from _nowhere(chosen.servers, f"{PATH}.servers")
    for field, zones in _zones(chosen):
        for index, zone in enumerate(zones):
            yield from _nowhere(zone.servers, f"{PATH}.{field}[{index}].servers")
    for index, hint in enumerate(chosen.root_hints):
        yield from _nowhere(hint.addresses, f"{PATH}.rootHints[{index}].addresses")


def _nowhere(servers: Iterable[Server | IPAddress], path: str) -> Iterator[Problem]:
    first: dict[object, int] = {}
    for index, server in enumerate(servers):
        where = f"{path}[{index}]"
        address = server.address if isinstance(server, IPAddress) else server.endpoint.address
        if address.is_unspecified or address.is_multicast:
            yield error(where, f"{server} is no address of a server", "write the address that it answers at")
        elif first.setdefault(server, index) != index:
            yield error(where, f"{server} stands in {path}[{first[server]}] too", "keep one of the two")


def _zones(chosen: DNS) -> tuple[tuple[str, tuple[Stub | Forward, ...]], ...]:
    return ("stubs", chosen.stubs), ("forwards", chosen.forwards)


def _trust_anchor_does_not_parse(chosen: DNS) -> Iterator[Problem]:
    for index, text in enumerate(chosen.trust_anchors):
        try:
            trust_anchors.parse(text)
        except ValueError as problem:
            message, _, remedy = str(problem).rpartition("; ")
            yield error(f"{PATH}.trustAnchors[{index}]", message, remedy)


def _root_hint_is_no_host(chosen: DNS) -> Iterator[Problem]:
    first: dict[Domain, int] = {}
    for index, hint in enumerate(chosen.root_hints):
        where = f"{PATH}.rootHints[{index}].name"
        name = _name(hint.name)
        if not name:
            yield error(where, f"{shown(hint.name)} is no server's name", "write one like a.root-servers.net")
        elif first.setdefault(name, index) != index:
            message = f"{hint.name} stands in {PATH}.rootHints[{first[name]}] too"
            yield error(where, message, "write all its addresses in one place")


def _zone_is_no_domain(chosen: DNS) -> Iterator[Problem]:
    first: dict[Domain, str] = {}
    for field, zones in _zones(chosen):
        for index, zone in enumerate(zones):
            where = f"{PATH}.{field}[{index}]"
            name = _name(zone.zone)
            if name is None:
                message = f"{shown(zone.zone)} is no zone's name"
                yield error(f"{where}.zone", message, "write one like corp.example, or . for all names")
            elif first.setdefault(name, where) != where:
                message = f"{zone.zone} stands in {first[name]} too"
                yield error(f"{where}.zone", message, "keep one of the two: a zone is asked for in one place")


def _tls_name_is_no_host(chosen: DNS) -> Iterator[Problem]:
    for index, forward in enumerate(chosen.forwards):
        name = forward.tls_name
        if name and not (_LETTERS_DIGITS_HYPHENS.fullmatch(name) and _name(name)):
            message = f"{shown(name)} is no host name, which the server's certificate would have"
            yield error(f"{PATH}.forwards[{index}].tlsName", message, "write one like dns.example.net")


def _self_test_has_no_names(chosen: DNS) -> Iterator[Problem]:
    test = chosen.self_test
    secure, bogus = _name(test.secure), _name(test.bogus)
    for field, text, name in (("secure", test.secure, secure), ("bogus", test.bogus, bogus)):
        if name is None or (field == "bogus" and name == ROOT):
            message = f"{shown(text)} is no domain that could be looked up"
            yield error(f"{PATH}.selfTest.{field}", message, "write one like example.org")
    if secure is not None and secure == bogus:
        message = f"{test.bogus} cannot both come back secure and fail"
        yield error(
            f"{PATH}.selfTest.bogus", message, "give a name whose signatures are broken, such as dnssec-failed.org"
        )


def _self_test_cannot_pass(chosen: DNS) -> Iterator[Problem]:
    """A trust anchor at or below an insecure zone is the nearer one."""
    name = _name(chosen.self_test.secure)
    if name is None or _anchored(chosen, name):
        return
    for field, zones in _zones(chosen):
        for index, zone in enumerate(zones):
            above = _name(zone.zone)
            if zone.insecure and above is not None and _below(name, above):
                message = (
                    f"nothing in {zone.zone} is validated then, so {chosen.self_test.secure} never comes back secure"
                )
                remedy = "leave insecure out, or let selfTest.secure name a signed zone elsewhere"
                yield error(f"{PATH}.{field}[{index}].insecure", message, remedy)


def _anchored(chosen: DNS, name: Domain) -> bool:
    """An anchor of the policy is at or above it; one that cannot be read is another check's."""
    try:
        owners = [trust_anchors.parse(text).owner for text in chosen.trust_anchors]
    except ValueError:
        return True
    return any(_below(name, owner) for owner in owners)


def _below(name: Domain, zone: Domain) -> bool:
    """At it, too."""
    return zone in (ROOT, name) or name.endswith(f".{zone}")


def _name(text: str) -> Domain | None:
    """None: it is no domain, or an address."""
    try:
        name = domain(text)
    except ValueError:
        return None
    return None if name.rpartition(".")[2].isdigit() else name


_CHECKS: tuple[Callable[[DNS], Iterator[Problem]], ...] = (
    _servers_are_missing,
    _servers_are_never_asked,
    _path_is_not_trusted,
    _embedded_alone_reads_it,
    _server_is_nowhere,
    _trust_anchor_does_not_parse,
    _root_hint_is_no_host,
    _zone_is_no_domain,
    _tls_name_is_no_host,
    _self_test_has_no_names,
    _self_test_cannot_pass,
)
