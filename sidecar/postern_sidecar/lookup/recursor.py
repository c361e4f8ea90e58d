"""What the embedded resolver is told: a policy's `dns` as the configuration of an Unbound for this sidecar only.

It validates (RFC 4035 5), asks the root and everybody below it itself, and answers on one loopback port. Every value is
parsed and written anew, so that no text of a policy can add a line. `files` raises ValueError, for which a policy that
`config` has judged gives no cause.

Names and trust: without `trust_anchors` the root's anchor is used, kept current in a file of its own (RFC 5011); with
them, they alone. A stub or forward gets its names past Unbound's built-in empty zones (`test.`, `10.in-addr.arpa.`);
`local-zone: nodefault` would do that for exactly such a zone, and not for one below it: hence `transparent`, which does
it for both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from postern_sidecar.config import trust_anchors
from postern_sidecar.names import ROOT, domain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from postern_sidecar.config.model import DNS, Forward, Stub
    from postern_sidecar.config.scalars import Server
    from postern_sidecar.names import Domain

PATH: Final = "spec.outbound.dns"
CONFIGURATION: Final = "unbound.conf"
HINTS: Final = "root.hints"
ANCHOR: Final = "root.key"
PORT_TLS: Final = 853  # RFC 7858 3.1
_HINT_TTL: Final = 3600000  # as in the root's own file
_PLAIN_PATH: Final = re.compile(r'[^"\\\x00-\x1f\x7f]+')

# Memory: a pod's mail needs few names. Time: one question takes as long as Unbound's own attempts do.
_FIXED: Final = """\
do-daemonize: no
username: ""
chroot: ""
pidfile: ""
use-syslog: no
logfile: ""
verbosity: 1
val-log-level: 2
log-time-ascii: no
access-control: 127.0.0.0/8 allow
so-reuseport: no
num-threads: 1
outgoing-range: 512
num-queries-per-thread: 512
outgoing-num-tcp: 32
incoming-num-tcp: 64
msg-cache-size: 4m
rrset-cache-size: 8m
key-cache-size: 2m
neg-cache-size: 1m
infra-cache-numhosts: 4000
edns-buffer-size: 1232
max-udp-size: 1232
module-config: "validator iterator"
hide-identity: yes
hide-version: yes
harden-glue: yes
harden-dnssec-stripped: yes
harden-below-nxdomain: yes
qname-minimisation: yes
aggressive-nsec: yes
val-clean-additional: yes
val-permissive-mode: no
ignore-cd-flag: no
val-bogus-ttl: 10
serve-expired: no
prefetch: yes
prefetch-key: yes
minimal-responses: yes
unwanted-reply-threshold: 10000000
ede: yes
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one Unbound lives. `directory` is its own and holds what `files` names. `hints` and `bundle` are files of
    the system, "" where there is none: the root's servers (used without `root_hints`), and CAs in PEM, without which
    Unbound would take any certificate of a forward over TLS. `ipv6`: the machine has a way out over IPv6."""

    port: int
    directory: str
    hints: str = ""
    bundle: str = ""
    ipv6: bool = True


def needs_root_anchor(dns: DNS) -> bool:
    """It wants the root's anchor as ANCHOR in its directory: no other one stands for the root."""
    return all(trust_anchors.parse(text).owner != ROOT for text in dns.trust_anchors)


def files(dns: DNS, place: Place) -> dict[str, str]:
    """Names and contents of what belongs into the directory. Raises ValueError."""
    texts = {CONFIGURATION: "".join(f"{line}\n" for line in _configuration(dns, place))}
    if dns.root_hints:
        texts[HINTS] = "".join(f"{line}\n" for line in _hints(dns))
    return texts


def _configuration(dns: DNS, place: Place) -> Iterator[str]:
    zones: tuple[Stub | Forward, ...] = (*dns.stubs, *dns.forwards)
    servers = [server for zone in zones for server in zone.servers]
    addresses = [server.endpoint.address for server in servers]
    addresses += [address.address for hint in dns.root_hints for address in hint.addresses]
    yield "server:"
    yield from _FIXED.splitlines()
    yield f"interface: 127.0.0.1@{place.port}"
    yield f"port: {place.port}"
    yield f"directory: {_path(place.directory)}"
    yield f"do-ip6: {_yes(place.ipv6 or any(address.version == 6 for address in addresses))}"
    yield f"do-not-query-localhost: {_yes(not any(address.is_loopback for address in addresses))}"
    yield from _anchors(dns)
    if dns.root_hints:
        yield f'root-hints: "{HINTS}"'
    elif place.hints:
        yield f"root-hints: {_path(place.hints)}"
    if any(forward.tls_name for forward in dns.forwards):
        yield f"tls-cert-bundle: {_path(place.bundle)}"
    for zone in zones:
        name = _zone(zone)
        yield f'local-zone: "{name}" transparent'
        if zone.insecure:
            yield f'domain-insecure: "{name}"'
    yield "remote-control:"
    yield "control-enable: no"
    for stub in dns.stubs:
        yield from _clause("stub", _zone(stub), _at(stub.servers))
    for forward in dns.forwards:
        yield from _forward(forward)


def _anchors(dns: DNS) -> Iterator[str]:
    if needs_root_anchor(dns):
        yield f'auto-trust-anchor-file: "{ANCHOR}"'
    for text in dns.trust_anchors:
        yield f'trust-anchor: "{trust_anchors.parse(text)}"'


def _forward(forward: Forward) -> Iterator[str]:
    if not forward.tls_name:
        yield from _clause("forward", _zone(forward), _at(forward.servers))
        return
    name = _named(forward.tls_name, "forwards[].tlsName")
    yield from _clause("forward", _zone(forward), (f"{at}#{name}" for at in _at(forward.servers, PORT_TLS)))
    yield "forward-tls-upstream: yes"


def _clause(kind: str, zone: str, servers: Iterable[str]) -> Iterator[str]:
    yield f"{kind}-zone:"
    yield f'name: "{zone}"'
    for server in servers:
        yield f'{kind}-addr: "{server}"'


def _at(servers: Iterable[Server], default: int = 53) -> Iterator[str]:
    for server in servers:
        yield f"{server.endpoint.address}@{server.endpoint.port if server.given else default}"


def _zone(zone: Stub | Forward) -> str:
    return f"{_named(zone.zone, 'stubs[].zone')}."


def _named(text: str, field: str) -> Domain:
    """Raises ValueError."""
    try:
        return domain(text)
    except ValueError as error:
        raise ValueError(f"{PATH}.{field}: {text!r} {error}") from None


def _hints(dns: DNS) -> Iterator[str]:
    for hint in dns.root_hints:
        name = f"{_named(hint.name, 'rootHints[].name')}."
        yield f". {_HINT_TTL} IN NS {name}"
        for address in hint.addresses:
            kind = "A" if address.address.version == 4 else "AAAA"
            yield f"{name} {_HINT_TTL} IN {kind} {address.address}"


def _path(path: str) -> str:
    if not _PLAIN_PATH.fullmatch(path):
        raise ValueError(f"{path!r} is no path that the resolver's configuration can name")
    return f'"{path}"'


def _yes(value: bool) -> str:
    return "yes" if value else "no"
