"""`spec.outbound`: what its fields mean together, and with the listeners (contracts sections 1 and 5).

`SECTIONS` are the pieces that can be judged alone, for a file that is broken elsewhere; `outbound` judges all of it.
Resolvers are `config.dns_checks`, routes `config.route_checks`. Every check is named after what it finds. Imported only
for a policy that has the section. Raises nothing.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, Any, NamedTuple

from . import dns_checks, route_checks
from .listener_checks import ADMIN_PORT, dials_loopback, overlap
from .model import (
    DNS,
    Dane,
    Digest,
    Inbound,
    Outbound,
    OutboundLimits,
    OutboundTLS,
    Submission,
    WithoutDane,
)
from .problems import Problem, error, shown, warning
from .route_checks import LOOPBACK, stands_twice
from .scalars import Network, Pattern, Size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PATH = "spec.outbound"
_LEAST_MESSAGE, _MOST_MESSAGE = Size("64Ki"), Size("1Gi")  # RFC 5321 4.5.3.1.7: at least 64K octets
_MOST_IDLE = 300.0  # RFC 5321 4.5.3.2.7: a server waits at least five minutes for a command
_MOST_FINAL = 595.0  # Postfix's lmtp_data_done_timeout is 600s
_CERTIFICATE = "CERTIFICATE"
_BEGIN, _END, _DASHES = "-----BEGIN ", "-----END ", "-----"


def outbound(chosen: Outbound, listeners: Mapping[int, Inbound]) -> Iterator[Problem]:
    """`listeners` by their index in `spec.inbound`; broken ones may be missing."""
    for section in SECTIONS:
        yield from section.check(getattr(chosen, section.attribute))
    for index, route in enumerate(chosen.routes):
        yield from route_checks.route(route, f"{PATH}.routes[{index}]")
    yield from route_checks.together(chosen, listeners)
    yield from _door_clashes(chosen.submission, listeners)
    yield from _backend_is_a_door(chosen.submission, listeners)


def _doors(chosen: Submission) -> tuple[tuple[str, int], ...]:
    return ("port", chosen.port), ("lmtpPort", chosen.lmtp_port)


def submission(chosen: Submission) -> Iterator[Problem]:
    path = f"{PATH}.submission"
    for field, port in _doors(chosen):
        if port == ADMIN_PORT:
            yield error(f"{path}.{field}", f"{ADMIN_PORT} is the sidecar's admin port", "take another port")
    if chosen.port == chosen.lmtp_port:
        message = f"{chosen.port} is the port for SMTP too"
        yield error(f"{path}.lmtpPort", message, "take another port: a client does not say which of the two it speaks")


def _door_clashes(chosen: Submission, listeners: Mapping[int, Inbound]) -> Iterator[Problem]:
    for field, port in _doors(chosen):
        for index, inbound in listeners.items():
            if inbound.port == port and any(overlap(inbound.address, address) for address in LOOPBACK):
                message = f"spec.inbound[{index}] listens on port {port} of loopback too"
                yield error(f"{PATH}.submission.{field}", message, "take another port for one of the two")


def _backend_is_a_door(chosen: Submission, listeners: Mapping[int, Inbound]) -> Iterator[Problem]:
    for index, inbound in listeners.items():
        port = inbound.backend.port
        if port in (chosen.port, chosen.lmtp_port) and dials_loopback(inbound):
            message = f"{port} is a submission port, and whoever connects from outside could relay anywhere"
            remedy = "give the port that the mail server listens on, such as 2525"
            yield error(f"spec.inbound[{index}].backend.port", message, remedy)


def dane(chosen: Dane) -> Iterator[Problem]:
    path = f"{PATH}.dane"
    yield from stands_twice(chosen.try_, f"{path}.try")
    yield from stands_twice(chosen.require, f"{path}.require")
    yield from _skip_never_counts(chosen, path)
    if not chosen.try_ and not chosen.require:
        message = "is empty, and so is require: DANE is off, and whoever is on the way can read and take all mail"
        yield warning(f"{path}.try", message, "leave it out")
    yield from _digests(chosen, f"{path}.digests")


def _skip_never_counts(chosen: Dane, path: str) -> Iterator[Problem]:
    first: dict[Pattern, str] = {
        pattern: f"{path}.require[{index}]" for index, pattern in reversed(list(enumerate(chosen.require)))
    }
    for index, skip in enumerate(chosen.skip):
        where = f"{path}.skip[{index}]"
        there = first.setdefault(skip.match, where)
        if there.startswith(f"{path}.require"):
            message = f"{skip.match} stands in {there}, which wins"
            yield warning(f"{where}.match", message, "take it out there, or skip something more specific")
        elif there != where:
            yield error(f"{where}.match", f"{skip.match} stands in {there} too", "keep one of the two")


def _digests(chosen: Dane, path: str) -> Iterator[Problem]:
    if len(set(chosen.digests)) < len(chosen.digests):
        yield error(path, f"{chosen.digests[0].value} stands there twice", "keep one of the two")
    elif Digest.SHA2_256 not in chosen.digests:
        message = "leaves SHA2-256 out: where nothing else is published, mail goes to hosts that were not authenticated"
        yield warning(path, message, "write it last, or leave digests out")


def tls(chosen: OutboundTLS) -> Iterator[Problem]:
    path = f"{PATH}.tls"
    if not chosen.ca_bundle:
        return
    try:
        _certificates(chosen.ca_bundle)
    except ValueError as problem:
        message, _, remedy = str(problem).rpartition("; ")
        yield error(f"{path}.caBundle", message, remedy)
    if chosen.without_dane is not WithoutDane.VERIFY:
        message = f"is read for withoutDane: Verify only, and it is {chosen.without_dane.value}"
        yield warning(f"{path}.caBundle", message, "leave it out, or set withoutDane: Verify")


def _certificates(pem: str) -> None:
    """Text outside the blocks is a comment, as in every system's bundle (RFC 7468 2). Raises ValueError."""
    label, body, count = "", "", 0
    for number, line in enumerate(map(str.strip, pem.splitlines()), 1):
        marker = line.endswith(_DASHES)
        if marker and line.startswith(_BEGIN):
            if label:
                raise ValueError(f"has a block within a block in its line {number}; write the END line before it")
            label, body = line[len(_BEGIN) : -len(_DASHES)], ""
            _refuse_other_blocks(label)
        elif marker and line.startswith(_END) and label:
            if not _is_certificate(body):
                raise ValueError(f"has a damaged certificate that ends in its line {number}; copy it again, whole")
            label, count = "", count + 1
        elif label:
            body += line
    if label:
        raise ValueError("ends within a certificate; copy it again, whole")
    if not count:
        raise ValueError(f"holds no certificate; write PEM, which begins with {_BEGIN}{_CERTIFICATE}{_DASHES}")


def _refuse_other_blocks(label: str) -> None:
    if label.endswith("PRIVATE KEY"):
        raise ValueError("holds a private key; take it out and replace it: whoever may read policies has it now")
    if label != _CERTIFICATE:
        raise ValueError(f"holds a block {shown(label)}; write certificates only, as {_CERTIFICATE}")


def _is_certificate(body: str) -> bool:
    """DER in base64: a SEQUENCE as long as it says (X.690 8.1.3)."""
    try:
        der = binascii.a2b_base64(body, strict_mode=True)
    except ValueError:
        return False
    octets = der[1] & 0x7F if len(der) > 1 and der[1] & 0x80 else 0
    return der[:1] == b"\x30" and octets in (1, 2) and int.from_bytes(der[2 : 2 + octets]) == len(der) - 2 - octets


def limits(chosen: OutboundLimits) -> Iterator[Problem]:
    path = f"{PATH}.limits"
    for field, duration in (("idle", chosen.idle), ("finalTimeout", chosen.final_timeout)):
        if duration.seconds <= 0:
            yield error(f"{path}.{field}", "is zero", "write a duration above zero, such as 5s")
    if chosen.idle.seconds > _MOST_IDLE:
        message = f"{chosen.idle} is out of bounds"
        yield error(f"{path}.idle", message, "at most 5m are allowed: no server need wait longer for a command")
    if chosen.final_timeout.seconds > _MOST_FINAL:
        message = f"{chosen.final_timeout} is longer than Postfix waits for us, 600s, and then it sends the mail again"
        yield warning(f"{path}.finalTimeout", message, "leave it out, or give every submitter a longer timeout")
    if not _LEAST_MESSAGE.octets <= chosen.message_size.octets <= _MOST_MESSAGE.octets:
        message = f"{chosen.message_size} is out of bounds"
        yield error(f"{path}.messageSize", message, f"{_LEAST_MESSAGE} to {_MOST_MESSAGE} are allowed")


def own_names(chosen: tuple[Pattern, ...]) -> Iterator[Problem]:
    path = f"{PATH}.ownNames"
    yield from stands_twice(chosen, path)
    for index, pattern in enumerate(chosen):
        if str(pattern) == "*":
            yield error(
                f"{path}[{index}]", "* would make every host ours, and no mail could leave", "name your own hosts"
            )


def own_addresses(chosen: tuple[Network, ...]) -> Iterator[Problem]:
    for index, given in enumerate(chosen):
        if any(network.prefixlen == 0 for network in given.networks):
            message = f"{given} would make every host ours, and no mail could leave"
            yield error(f"{PATH}.ownAddresses[{index}]", message, "write your own addresses")


def allow_addresses(chosen: tuple[Network, ...]) -> Iterator[Problem]:
    for index, given in enumerate(chosen):
        loopback = any(address.address in network for address in LOOPBACK for network in given.networks)
        if loopback or any(network.is_loopback for network in given.networks):
            message = (
                f"{given} lets mail to x@[127.0.0.1], or to whoever names it in an MX record, come back into this pod, "
                "and mail servers let local clients relay"
            )
            remedy = "leave it out unless a filter listens there, and nothing else"
            yield warning(f"{PATH}.allowAddresses[{index}]", message, remedy)


class Section(NamedTuple):
    """A field of `Outbound`: its name in the file and in the struct."""

    name: str
    attribute: str
    kind: Any
    check: Callable[[Any], Iterator[Problem]]


SECTIONS = (
    Section("submission", "submission", Submission, submission),
    Section("dane", "dane", Dane, dane),
    Section("tls", "tls", OutboundTLS, tls),
    Section("dns", "dns", DNS, dns_checks.dns),
    Section("limits", "limits", OutboundLimits, limits),
    Section("ownNames", "own_names", tuple[Pattern, ...], own_names),
    Section("ownAddresses", "own_addresses", tuple[Network, ...], own_addresses),
    Section("allowAddresses", "allow_addresses", tuple[Network, ...], allow_addresses),
)
