"""From cases to the laboratory: the world's zones and records, the sink's table, and the policies.

setting = Setting(CASES)
lab.nsd(setting.world); lab.sink(setting.table); lab.sidecar({"outbound": setting.outbound("default", dns)})
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from typing import TYPE_CHECKING, Any

from lab.destinations import Behaviour, Identity
from lab.signing import DS, Chain, Signatures
from lab.world import DEAD, LAME, LIAR, SILENT, World

from .shapes import SHAPES, Shape, root

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from certificates import Certified
    from lab.host import Address

    from .case import Case, Server

ZONES: dict[str, dict[str, Any]] = {
    "secure.example": {},
    "nsec3.org": {"chain": Chain.NSEC3},
    "opt-out.net": {"chain": Chain.OPT_OUT},
    "insecure.example": {"chain": Chain.UNSIGNED},
    "unsigned.net": {"chain": Chain.UNSIGNED},  # its parent opts out
    "unknown.example": {"ds": DS.UNKNOWN},
    "bogus.example": {"signatures": Signatures.WRONG},
    "expired.example": {"signatures": Signatures.EXPIRED},
    "future.example": {"signatures": Signatures.FUTURE},
    "stripped.example": {"signatures": Signatures.STRIPPED},
    "broken-ds.example": {"ds": DS.WRONG},
    "missing.example": {"chain": Chain.UNSIGNED, "ds": DS.GOOD},
    "liar.example": {},  # the zones in it are the liar's
    "loose.example": {"server": LIAR, "chain": Chain.UNSIGNED},
    "lame.example": {"server": LAME},
    "silent.example": {"server": SILENT},
    "dead.example": {"server": DEAD},
}
SELF_TEST = {"secure": "secure.example", "bogus": "bogus.example"}

OWN_ADDRESS = "192.0.2.200"

POLICIES: dict[str, dict[str, Any]] = {
    "default": {},
    "encrypt": {"tls": {"withoutDane": "Encrypt"}},
    "verify": {"tls": {"withoutDane": "Verify"}},  # and its caBundle: the lab's root
    "ocsp-require": {"tls": {"ocsp": "Require"}},
    "ocsp-off": {"tls": {"ocsp": "Off"}},
    "sha2-256-only": {"dane": {"digests": ["SHA2-256"]}},
    "no-try": {"dane": {"try": ["nowhere.example"]}},
    "own-names": {"ownNames": ["*.own.secure.example", "own.secure.example"]},
    "own-addresses": {"ownAddresses": [f"{OWN_ADDRESS}/32"]},
}


class Setting:
    def __init__(self, cases: Iterable[Case]) -> None:
        self.cases = {case.name: case for case in cases}
        self.world = World()
        self.table: dict[Address, Behaviour] = {}
        self.addresses: dict[str, dict[str, str]] = {}  # by case: {"a1": ..., "six1": ...}
        self._pool = _addresses()
        for name, how in ZONES.items():
            self.world.zone(name, **how)
        for case in self.cases.values():
            self._add(case)

    def recipient(self, case: Case) -> str:
        if case.literal:
            return f"user@[{self.addresses[case.name]['a1']}]"
        return f"user@{case.recipient_domain}"

    def address(self, case: Case, server: int) -> str:
        return self.addresses[case.name][f"a{server}"]

    def both(self, case: Case, server: int) -> tuple[str, str]:
        """The server's addresses of both families."""
        return self.address(case, server), self.addresses[case.name][f"six{server}"]

    def outbound(self, policy: str, dns: Mapping[str, Any]) -> dict[str, Any]:
        """`spec.outbound` for the cases of a policy; `dns` as `World.embedded` gives it, or for `Servers`."""
        found = copy.deepcopy(POLICIES[policy])
        found["dns"] = {"selfTest": SELF_TEST, **dns}
        if policy == "verify":
            found["tls"]["caBundle"] = root().pem.decode()
        ours = [case for case in self.cases.values() if case.policy == policy]
        required = [case.recipient_domain for case in ours if case.require]
        skipped = [
            {"match": case.recipient_domain, "reason": case.name, "until": "2099-12-31", "level": case.skip}
            for case in ours
            if case.skip
        ]
        routes = [{"domains": [case.domain], "via": self._filled(case, case.route)} for case in ours if case.route]
        if required:
            found.setdefault("dane", {})["require"] = required
        if skipped:
            found.setdefault("dane", {})["skip"] = skipped
        return {**found, "routes": routes} if routes else found

    def _add(self, case: Case) -> None:
        filled: dict[str, str] = {}
        for number in range(1, max(len(case.servers), 1) + 1):
            filled[f"a{number}"], filled[f"six{number}"] = next(self._pool)
        self.addresses[case.name] = filled
        shapes = [_shape(case, server, number) for number, server in enumerate(case.servers, 1)]
        for number, (server, shape) in enumerate(zip(case.servers, shapes, strict=True), 1):
            if server.listening:
                behaviour = _behaviour(case, server, shape)
                for address in self.both(case, number):
                    self.table[address, server.port] = behaviour
        if case.zone == "liar.example":  # a zone each: a resolver remembers a server's failures by zone
            self.world.zone(case.domain, server=LIAR)
        for name, how in case.zones.items():
            self.world.zone(_absolute(case, name), **how)
        for text in case.records:
            owner, ttl, kind, data = _parse(self._filled(case, text))
            if kind == "TLSA":
                data = _tlsa(data, shapes)
            elif kind in ("MX", "CNAME", "DNAME"):
                rest, _, target = data.rpartition(" ")
                data = f"{rest} {_absolute(case, target)}".strip()
            self.world.add(_absolute(case, owner), kind, data, ttl=ttl)
        for rrset in case.spoil:
            owner, kind = rrset.split()
            self.world.spoil(_absolute(case, owner), kind)
        for text in case.misanswer:
            owner, kind, answer = self._filled(case, text).split(" ", 2)
            self.world.misanswer(_absolute(case, owner), kind, answer)

    def _filled(self, case: Case, text: str) -> str:
        return text.format(**self.addresses[case.name], name=case.name, domain=case.domain)


def _addresses() -> Iterator[tuple[str, str]]:
    four = itertools.chain(
        (f"198.51.100.{number}" for number in range(1, 255)), (f"203.0.113.{number}" for number in range(1, 255))
    )
    return ((address, f"2001:db8:25::{number:x}") for number, address in enumerate(four, 1))


def _absolute(case: Case, name: str) -> str:
    if name.endswith("."):
        return name
    return f"{case.domain}." if name == "@" else f"{name}.{case.domain}."


def _parse(text: str) -> tuple[str, int, str, str]:
    """owner [TTL] type data"""
    owner, rest = text.split(" ", 1)
    ttl, rest = rest.split(" ", 1) if rest[0].isdigit() else ("300", rest)
    kind, data = rest.split(" ", 1)
    return owner, int(ttl), kind, data


def _shape(case: Case, server: Server, number: int) -> Shape | None:
    return SHAPES[server.shape](_host(case, server, number), case.recipient_domain) if server.shape else None


def _host(case: Case, server: Server, number: int) -> str:
    name = server.host or f"mx{number if number > 1 else ''}"
    return _absolute(case, name.format(name=case.name)).rstrip(".")


def _behaviour(case: Case, server: Server, shape: Shape | None) -> Behaviour:
    sni = {}
    for name, other in server.sni.items():
        host = _absolute(case, name).rstrip(".")
        sni[host] = Identity.of(*SHAPES[other](host, case.domain).sent)
    return Behaviour(
        identity=None if shape is None else Identity.of(*shape.sent, staple=shape.staple),
        replies=server.replies,
        starttls=server.starttls,
        handshake=server.handshake,
        max=server.max,
        close_after=server.close_after,
        implicit=server.implicit,
        sni=sni,
    )


def _tlsa(data: str, shapes: list[Shape | None]) -> str:
    *numbers, what = data.split()
    usage, selector, matching = numbers
    if what == "-":
        return data
    name, _, server = what.partition("@")
    shape = shapes[int(server or 1) - 1] or SHAPES["chain"]("nobody", "nobody")
    if what == "wrong":
        return f"{usage} {selector} {matching} {_digest(b'wrong', matching).hex()}"
    if name in shape.named:
        return f"{usage} {selector} {matching} {association(shape.named[name], int(selector), matching).hex()}"
    return f"{usage} {selector} {matching} {bytes.fromhex(what).hex()}"


def association(certificate: Certified, selector: int, matching: str | int) -> bytes:
    """The data of a TLSA record that matches this certificate (RFC 6698 2.1.4)."""
    return _digest(certificate.spki if selector == 1 else certificate.der, str(matching))


def _digest(octets: bytes, matching: str) -> bytes:
    return {"1": hashlib.sha256, "2": hashlib.sha512}[matching](octets).digest() if matching in "12" else octets
