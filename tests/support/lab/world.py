"""The DNS that the laboratory's servers serve: a root of its own, and zones in every state that DNSSEC has.

    world = World()
    world.zone("secure.example")
    world.zone("insecure.example", chain=Chain.UNSIGNED)
    world.zone("expired.example", signatures=Signatures.EXPIRED)
    world.add("secure.example", "MX", "10 mx.secure.example.")
    world.add("mx.secure.example", "A", "198.51.100.1")
    world.spoil("_25._tcp.mx.secure.example", "TLSA")
    server = lab.nsd(world)
    world.replace("mx.secure.example", "A", "198.51.100.2")
    server.reload()

The root, `example.` (NSEC), `org.` (NSEC3) and `net.` (NSEC3 with opt-out) are there from the start. Zones go to a
name server that tells the truth, or to one of those that misbehave. What is spoilt or misanswered is never so at
random.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dns.name
import dns.rdatatype

from .signing import DS, TTL, Chain, Key, RRSets, Signatures, Signer, records, zone_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dns.name import Name
    from dns.rdataset import Rdataset
    from dns.rdatatype import RdataType

TOP = "192.0.2.53"  # NSD with the root and the top level
NSD = "192.0.2.59"  # NSD with the zones below: one that had them and their parents would answer as if there were no cut
DEEP = "192.0.2.60"  # NSD with zones below these
LIAR = "192.0.2.54"  # answers as `World.misanswer` says, else truthfully
TRUTH = "192.0.2.58"  # a second NSD, for LIAR's zones
LAME = "192.0.2.55"  # it is DEEP's, which does not have the zone: REFUSED
SILENT = "192.0.2.56"  # takes questions and says nothing
DEAD = "192.0.2.57"  # nobody listens there

NS_NAMES = {
    TOP: "ns.example.",
    NSD: "ns-zones.example.",
    DEEP: "ns-deep.example.",
    LIAR: "ns-liar.example.",
    LAME: "ns-lame.example.",
    SILENT: "ns-silent.example.",
    DEAD: "ns-dead.example.",
}


@dataclass
class Zone:
    name: Name
    chain: Chain
    ds: DS
    signatures: Signatures
    server: str
    key: Key = field(default_factory=Key)
    serial: int = 1


class World:
    def __init__(self) -> None:
        self.zones: dict[Name, Zone] = {}
        self.misanswers: dict[str, str] = {}  # "name type" -> see `misanswer`
        self._records: dict[tuple[Name, RdataType], tuple[int, tuple[str, ...]]] = {}  # TTL, data as text
        self._spoilt: set[tuple[Name, RdataType]] = set()
        self._changed: set[Name] = set()
        self.zone(".", ds=DS.NONE)
        self.zone("example")
        self.zone("org", chain=Chain.NSEC3)
        self.zone("net", chain=Chain.OPT_OUT)
        for address, name in NS_NAMES.items():
            self.add(name, "A", address)

    def zone(
        self,
        name: str,
        *,
        chain: Chain = Chain.NSEC,
        ds: DS | None = None,
        signatures: Signatures = Signatures.GOOD,
        server: str | None = None,
    ) -> Zone:
        """A zone, delegated from the deepest one there is above it. `ds`: by default good where it is signed. `server`:
        by default one that tells the truth."""
        labels = len(_name(name)) - 1
        server = server or (TOP if labels < 2 else NSD if labels == 2 else DEEP)
        if ds is None:
            ds = DS.NONE if chain is Chain.UNSIGNED else DS.GOOD
        zone = Zone(_name(name), chain, ds, signatures, server)
        self.zones[zone.name] = zone
        self._changed |= {zone.name, self.home(zone.name.parent()).name if zone.name != dns.name.root else zone.name}
        return zone

    def add(self, name: str, kind: str, *texts: str, ttl: int = TTL) -> None:
        """More records at a name, as in a zone file; their names end in dots."""
        key = _name(name), dns.rdatatype.from_text(kind)
        _, before = self._records.get(key, (ttl, ()))
        self._records[key] = ttl, (*before, *texts)
        self._changed.add(self.home(key[0]).name)

    def remove(self, name: str, kind: str) -> None:
        key = _name(name), dns.rdatatype.from_text(kind)
        del self._records[key]
        self._changed.add(self.home(key[0]).name)

    def replace(self, name: str, kind: str, *texts: str, ttl: int = TTL) -> None:
        self.remove(name, kind)
        self.add(name, kind, *texts, ttl=ttl)

    def spoil(self, name: str, kind: str) -> None:
        """The signature over these records does not fit. Of a denial: spoil the NSEC record of that name."""
        key = _name(name), dns.rdatatype.from_text(kind)
        self._spoilt.add(key)
        self._changed.add(self.home(key[0]).name)

    def misanswer(self, name: str, kind: str, how: str) -> None:
        """In a zone of LIAR's: an rcode (SERVFAIL, REFUSED, NOTIMP, FORMERR, NXDOMAIN), or "garbage" (octets that
        are no message), or "forged DATA" (an unsigned record of that type), or "stripped" (the truth without its
        DNSSEC records). For no answer at all, delegate a zone to SILENT. What a zone's server does wrong, a resolver
        remembers for the whole zone."""
        home = self.home(_name(name))
        if home.server != LIAR:
            raise ValueError(f"{home.name} is not served by LIAR")
        self.misanswers[f"{_name(name)} {kind}".lower()] = how

    def home(self, name: Name) -> Zone:
        """The zone that a name is in."""
        while name not in self.zones:
            name = name.parent()
        return self.zones[name]

    @property
    def trust_anchor(self) -> str:
        """The root's DS record, as for `trustAnchors` and Unbound."""
        return f". IN DS {self.zones[dns.name.root].key.ds(dns.name.root, DS.GOOD)}"

    @property
    def root_hints(self) -> list[dict[str, Any]]:
        return [{"name": NS_NAMES[TOP].rstrip("."), "addresses": [TOP]}]

    def embedded(self, **self_test: str) -> dict[str, Any]:
        """`spec.outbound.dns` for the embedded resolver over this root."""
        test = {"selfTest": self_test} if self_test else {}
        return {"trustAnchors": [self.trust_anchor], "rootHints": self.root_hints, **test}

    def served(self, server: str) -> list[Zone]:
        return [zone for zone in self.zones.values() if zone.server == server]

    def take_changed(self) -> list[tuple[Zone, str]]:
        """The zones that have changed since the last call, each with its file and a new serial number."""
        changed, self._changed = self._changed, set()
        contents: dict[Name, RRSets] = {name: {} for name in changed}
        for (name, kind), (ttl, texts) in self._records.items():
            home = self.home(name).name
            if home in contents:
                contents[home][name, kind] = records(dns.rdatatype.to_text(kind), *texts, ttl=ttl)
        return [(self.zones[name], self._file(self.zones[name], contents[name])) for name in sorted(changed)]

    def _file(self, zone: Zone, rrsets: RRSets) -> str:
        zone.serial += 1
        rrsets |= dict(self._frame(zone))
        spoilt = frozenset(key for key in self._spoilt if self.home(key[0]) is zone)
        return zone_file(rrsets, zone.chain, Signer(zone.name, zone.key, zone.signatures, spoilt))

    def _frame(self, zone: Zone) -> Iterator[tuple[tuple[Name, RdataType], Rdataset]]:
        """SOA, NS, delegations and the glue that each needs."""
        server = NS_NAMES[zone.server]
        yield (zone.name, dns.rdatatype.SOA), records("SOA", f"{server} hostmaster.example. {zone.serial} 60 60 600 60")
        yield (zone.name, dns.rdatatype.NS), records("NS", server)
        for child in self.zones.values():
            if child.name == dns.name.root or self.home(child.name.parent()) is not zone:
                continue
            yield (child.name, dns.rdatatype.NS), records("NS", NS_NAMES[child.server])
            if child.ds is not DS.NONE:
                yield (child.name, dns.rdatatype.DS), records("DS", child.key.ds(child.name, child.ds))
        if zone.name == dns.name.root:
            yield (_name(NS_NAMES[TOP]), dns.rdatatype.A), records("A", TOP)


def _name(text: str) -> Name:
    return dns.name.from_text(text).canonicalize()
