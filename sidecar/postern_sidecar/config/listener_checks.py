"""One listener: what its fields mean together (contracts sections 1 and 2). `together` is about several of them.

Every check is named after what it finds. Raises nothing.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from .model import Action, HandoverKind, Inbound, OnFailure, Others, Protocol, ReverseDNS
from .problems import Problem, error, join, warning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from .scalars import Duration, IPAddress

ADMIN_PORT = 15925
_MOST_TIMEOUT = 60.0
_LEAST_TIMEOUT = 3.0  # PP 5: "at least 3 seconds", to cover one TCP retransmit


def listener(inbound: Inbound, path: str) -> Iterator[Problem]:
    for check in _CHECKS:
        yield from check(inbound, path)


def together(listeners: Mapping[int, Inbound]) -> Iterator[Problem]:
    """`listeners` by their index in `spec.inbound`; broken ones may be missing."""
    ports = {inbound.port for inbound in listeners.values()}
    for index, inbound in listeners.items():
        path = join("spec.inbound", index)
        earlier = [(other, known) for other, known in listeners.items() if other < index]
        yield from _name_stands_twice(inbound, path, earlier)
        yield from _port_clashes(inbound, path, earlier)
        yield from _backend_is_a_loop(inbound, path, ports)


def _name_stands_twice(inbound: Inbound, path: str, earlier: Iterable[tuple[int, Inbound]]) -> Iterator[Problem]:
    for index, other in earlier:
        if other.name == inbound.name:
            message = f"spec.inbound[{index}] has the name {inbound.name} too"
            yield error(f"{path}.name", message, "give each listener a name of its own")
            return


def _port_clashes(inbound: Inbound, path: str, earlier: Iterable[tuple[int, Inbound]]) -> Iterator[Problem]:
    where = f"{path}.port"
    if inbound.port == ADMIN_PORT:
        yield error(where, f"{ADMIN_PORT} is the sidecar's admin port", "take another port")
    for index, other in earlier:
        if other.port == inbound.port and overlap(inbound.address, other.address):
            message = f"spec.inbound[{index}] listens on port {inbound.port} of the same address"
            yield error(where, message, "take another port, or give the two listeners different addresses")
            return


def overlap(one: IPAddress | None, other: IPAddress | None) -> bool:
    """Whether a port cannot be listened on at both; None is all addresses."""
    if one is None or other is None or one == other:
        return True
    same_family = one.address.version == other.address.version
    return same_family and (one.address.is_unspecified or other.address.is_unspecified)


def _backend_is_a_loop(inbound: Inbound, path: str, ports: set[int]) -> Iterator[Problem]:
    backend = inbound.backend
    if not dials_loopback(inbound):
        return
    if backend.port == ADMIN_PORT or backend.port in ports:
        what = "the sidecar's admin port" if backend.port == ADMIN_PORT else "a port that the sidecar listens on"
        message = f"{backend.port} is {what}: sessions would go round in a loop"
        yield error(f"{path}.backend.port", message, "give the port that the mail server listens on, such as 2525")


def dials_loopback(inbound: Inbound) -> bool:
    """Whether the mail server, for one family of clients at least, is in this pod."""
    backend = inbound.backend
    addresses = [backend.address, *([backend.address6] if backend.handover is HandoverKind.TRANSPARENT else [])]
    return any(address.address.is_loopback for address in addresses)


def _address_is_nowhere(inbound: Inbound, path: str) -> Iterator[Problem]:
    if inbound.address is None:
        return
    address = inbound.address.address
    if address.is_multicast or (isinstance(address, IPv6Address) and address.is_link_local):
        message = f"nothing can listen on {address}, which is a group's address or lacks its link"
        yield error(f"{path}.address", message, "leave it out to listen on all addresses")


def _backend_is_remote(inbound: Inbound, path: str) -> Iterator[Problem]:
    backend = inbound.backend
    for field, address in (("backend.address", backend.address), ("backend.address6", backend.address6)):
        where = f"{path}.{field}"
        if address.address.is_unspecified or address.address.is_multicast:
            yield error(where, f"{address} is no address of a server", "write a loopback address, such as 127.0.0.1")
        elif not address.address.is_loopback and not backend.acknowledge_remote_backend:
            message = f"{address} is not a loopback address, so the client's identity crosses the network unprotected"
            remedy = "let the mail server listen on loopback, or set backend.acknowledgeRemoteBackend: true"
            yield error(where, message, remedy)


def _backend_family(inbound: Inbound, path: str) -> Iterator[Problem]:
    backend = inbound.backend
    if not isinstance(backend.address6.address, IPv6Address):
        message = f"{backend.address6} is not an IPv6 address"
        yield error(f"{path}.backend.address6", message, "write one like ::1; backend.address is for IPv4 clients")
    if backend.handover is HandoverKind.TRANSPARENT and not isinstance(backend.address.address, IPv4Address):
        message = f"{backend.address} is an IPv6 address, to which no IPv4 client can be connected transparently"
        yield error(f"{path}.backend.address", message, "write one like 127.0.0.1; address6 is for IPv6 clients")


def _client_is_hidden(inbound: Inbound, path: str) -> Iterator[Problem]:
    backend = inbound.backend
    if backend.handover is HandoverKind.PLAIN and not backend.acknowledge_client_hidden:
        message = "Plain hides the client: to the mail server everybody comes from loopback, which it may let relay"
        remedy = "use ProxyV2, or set backend.acknowledgeClientHidden: true if the server trusts nobody for its address"
        yield error(f"{path}.backend.handover", message, remedy)


def _xclient_does_not_fit(inbound: Inbound, path: str) -> Iterator[Problem]:
    if inbound.backend.handover is not HandoverKind.XCLIENT:
        return
    where = f"{path}.backend.handover"
    if inbound.protocol is not Protocol.SMTP:
        message = f"XCLIENT is a command of SMTP, not of {inbound.protocol.value}"
        yield error(where, message, "use ProxyV2, or protocol: SMTP")
    if inbound.tls_on_connect:
        message = "XCLIENT needs clear text, and with tlsOnConnect the client begins with TLS"
        yield error(where, message, "use ProxyV2, or listen without tlsOnConnect")
    if inbound.reverse_dns is ReverseDNS.NEVER:
        message = "XCLIENT hands the client's name over, and with Never it would always be missing"
        yield error(f"{path}.reverseDNS", message, "leave reverseDNS out, or use ProxyV2")


def _refusal_cannot_be_said(inbound: Inbound, path: str) -> Iterator[Problem]:
    """XCLIENT, Refuse503 and rules' replies are SMTP only (contracts section 2)."""
    refuse_503 = inbound.proxy_protocol.on_failure is OnFailure.REFUSE_503
    where = f"{path}.proxyProtocol.onFailure"
    if inbound.protocol is not Protocol.SMTP:
        if refuse_503:
            message = f"Refuse503 is a reply of SMTP, not of {inbound.protocol.value}"
            yield error(where, message, "use Defer421, which is said in the listener's protocol, or Close")
        for index, rule in enumerate(inbound.rules):
            if rule.message and rule.action is not Action.LOG:
                message = f"a message that the client hears is for SMTP; this listener speaks {inbound.protocol.value}"
                remedy = "leave the message out: the client is refused in its own protocol"
                yield error(f"{path}.rules[{index}].message", message, remedy)
    elif inbound.tls_on_connect and refuse_503:
        message = "with tlsOnConnect nothing can be said in clear text, so Refuse503 is just a close"
        yield warning(where, message, "use Close, which says what happens")


def _timeout_out_of_bounds(inbound: Inbound, path: str) -> Iterator[Problem]:
    timeout = inbound.proxy_protocol.timeout
    if not _LEAST_TIMEOUT <= timeout.seconds <= _MOST_TIMEOUT:
        message = f"{timeout} is out of bounds"
        remedy = "3s to 60s are allowed: less would not cover one lost packet, more would hold a connection for nobody"
        yield error(f"{path}.proxyProtocol.timeout", message, remedy)


def _duration_is_zero(inbound: Inbound, path: str) -> Iterator[Problem]:
    timeouts = inbound.timeouts
    named: list[tuple[str, Duration | None]] = [
        ("timeouts.idle", timeouts.idle),
        ("timeouts.backendConnect", timeouts.backend_connect),
        ("timeouts.banner", timeouts.banner),
        ("timeouts.halfClosed", timeouts.half_closed),
    ]
    if inbound.limits.rate_per_client is not None:
        named.append(("limits.ratePerClient.per", inbound.limits.rate_per_client.per))
    for index, override in enumerate(inbound.limits.overrides):
        if override.rate_per_client is not None:
            named.append((f"limits.overrides[{index}].ratePerClient.per", override.rate_per_client.per))
    for field, duration in named:
        if duration is not None and duration.seconds <= 0:
            yield error(f"{path}.{field}", "is zero", "write a duration above zero, such as 5s")


def _override_stands_twice(inbound: Inbound, path: str) -> Iterator[Problem]:
    known: dict[object, str] = {}
    for index, override in enumerate(inbound.limits.overrides):
        where = f"{path}.limits.overrides[{index}]"
        if override.connections_per_client is None and override.rate_per_client is None:
            yield error(where, "sets nothing", "give connectionsPerClient or ratePerClient")
        for number, network in enumerate(override.clients):
            at = f"{where}.clients[{number}]"
            first = known.setdefault(network.networks, at)
            if first != at:
                yield error(at, f"{network} stands in {first} too", "keep one of the two: only the first would count")


def _gives_away(inbound: Inbound, path: str) -> Iterator[Problem]:
    proxy = inbound.proxy_protocol
    for index, sources in enumerate(proxy.required_from):
        if any(network.prefixlen == 0 for network in sources.networks):
            message = (
                f"{sources} believes anybody: whoever reaches the port may claim any address, "
                "and programs in the pod can no longer connect without a header"
            )
            remedy = "name the load balancer's networks"
            yield warning(f"{path}.proxyProtocol.requiredFrom[{index}]", message, remedy)
    for index, allowed in enumerate(proxy.allow_sources):
        if any(network.is_loopback or network.prefixlen == 0 for network in allowed.networks):
            message = (
                f"{allowed} lets everybody in requiredFrom claim to be local, and mail servers let local clients relay"
            )
            remedy = "leave it out unless requiredFrom names only what you control"
            yield warning(f"{path}.proxyProtocol.allowSources[{index}]", message, remedy)
    if proxy.others is Others.REFUSE and not proxy.required_from:
        message = "Refuse with an empty requiredFrom refuses everybody"
        yield warning(f"{path}.proxyProtocol.others", message, "name the load balancer's networks in requiredFrom")


_CHECKS: tuple[Callable[[Inbound, str], Iterator[Problem]], ...] = (
    _address_is_nowhere,
    _backend_is_remote,
    _backend_family,
    _client_is_hidden,
    _xclient_does_not_fit,
    _refusal_cannot_be_said,
    _timeout_out_of_bounds,
    _duration_is_zero,
    _override_stands_twice,
    _gives_away,
)
