"""Signs a zone for the laboratory, well or in one of the ways that signatures go wrong in practice.

Decides nothing about what a zone holds: that is `world`. Makes RRSIG, DNSKEY, DS, NSEC (RFC 4034, 4035 2) and NSEC3
records (RFC 5155 7.1), with one ECDSAP256SHA256 key a zone that signs everything; dnspython makes no NSEC3 chains, so
both kinds of chain are made here.
"""

from __future__ import annotations

import enum
import functools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dns.dnssec
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dns.name import Name
    from dns.rdataset import Rdataset
    from dns.rdatatype import RdataType
    from dns.rdtypes.ANY.DNSKEY import DNSKEY

DAY = 86400
TTL = 300
HASH = "SHA1"  # RFC 5155 has no other
KSK = 257  # DNSKEY flags: zone key, secure entry point

RRSets = dict[tuple["Name", "RdataType"], "Rdataset"]


class Chain(enum.Enum):
    """How a zone proves that something is not there."""

    UNSIGNED = "unsigned"
    NSEC = "nsec"
    NSEC3 = "nsec3"
    OPT_OUT = "opt-out"  # NSEC3 that leaves unsigned delegations out (RFC 5155 6)


class Signatures(enum.Enum):
    GOOD = "good"
    WRONG = "wrong"  # all but the DNSKEY's do not fit
    EXPIRED = "expired"
    FUTURE = "future"  # not yet valid
    STRIPPED = "stripped"  # all but the DNSKEY's are missing


class DS(enum.Enum):
    """What the parent says."""

    GOOD = "good"
    NONE = "none"
    WRONG = "wrong"  # of another key
    UNKNOWN = "unknown"  # of an algorithm that no validator has: insecure (RFC 4035 5.2)


@dataclass(frozen=True)
class Key:
    private: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @functools.cached_property
    def public(self) -> DNSKEY:
        return dns.dnssec.make_dnskey(self.private.public_key(), "ECDSAP256SHA256", KSK)

    def ds(self, zone: Name, kind: DS) -> str:
        """The data of its DS record, as text."""
        if kind is DS.WRONG:
            return Key().ds(zone, DS.GOOD)
        text = dns.dnssec.make_ds(zone, self.public, "SHA256").to_text()
        if kind is DS.UNKNOWN:
            tag, _, rest = text.split(" ", 2)
            return f"{tag} 200 {rest}"
        return text


@dataclass(frozen=True)
class Signer:
    """One zone's. `spoilt`: the RRsets whose signature alone is wrong."""

    zone: Name
    key: Key
    signatures: Signatures = Signatures.GOOD
    spoilt: frozenset[tuple[Name, RdataType]] = frozenset()

    def sign(self, name: Name, rrset: Rdataset) -> dns.rdata.Rdata | None:
        kind = rrset.rdtype
        exempt = kind == dns.rdatatype.DNSKEY
        if self.signatures is Signatures.STRIPPED and not exempt:
            return None
        start, end = {
            Signatures.EXPIRED: (-30, -10),
            Signatures.FUTURE: (10, 30),
        }.get(self.signatures, (-2, 20))
        now = int(time.time())
        signature = dns.dnssec.sign(
            (name, rrset), self.key.private, self.zone, self.key.public, now + start * DAY, now + end * DAY
        )
        if (self.signatures is Signatures.WRONG and not exempt) or (name, kind) in self.spoilt:
            octets = bytearray(signature.signature)
            octets[10] ^= 1
            return signature.replace(signature=bytes(octets))
        return signature


def records(kind: str, *texts: str, ttl: int = TTL) -> Rdataset:
    """TLSA data may be malformed, which dnspython would refuse: their octets are taken as they are. "-" has none."""
    if kind == "TLSA":
        rdatas = [dns.rdata.GenericRdata(dns.rdataclass.IN, dns.rdatatype.TLSA, _tlsa(text)) for text in texts]
        return dns.rdataset.from_rdata_list(ttl, rdatas)
    return dns.rdataset.from_text("IN", kind, ttl, *texts)


def _tlsa(text: str) -> bytes:
    *numbers, data = text.split(" ")
    return bytes(map(int, numbers)) + (b"" if data == "-" else bytes.fromhex(data))


def zone_file(rrsets: Mapping[tuple[Name, RdataType], Rdataset], chain: Chain, signer: Signer) -> str:
    """The zone with all that DNSSEC adds, as a master file. `rrsets` hold the zone's own, its delegations (NS, DS) and
    their glue."""
    apex = signer.zone
    everything: RRSets = dict(rrsets)
    lines = []
    if chain is not Chain.UNSIGNED:
        everything[apex, dns.rdatatype.DNSKEY] = records("DNSKEY", signer.key.public.to_text())
        if chain is not Chain.NSEC:
            everything[apex, dns.rdatatype.NSEC3PARAM] = records("NSEC3PARAM", "1 0 0 -")
        everything |= dict(_chain(apex, _types(apex, everything), chain))
        cuts = _cuts(apex, everything)
        for (name, kind), rrset in everything.items():
            if _is_ours(name, kind, cuts):
                signature = signer.sign(name, rrset)
                if signature is not None:
                    lines.append(f"{name} {rrset.ttl} IN RRSIG {signature.to_text()}")
    for (name, kind), rrset in everything.items():
        lines += [f"{name} {rrset.ttl} IN {dns.rdatatype.to_text(kind)} {rdata.to_text()}" for rdata in rrset]
    return "\n".join(lines) + "\n"


def _cuts(apex: Name, rrsets: RRSets) -> frozenset[Name]:
    return frozenset(name for name, kind in rrsets if kind == dns.rdatatype.NS and name != apex)


def _is_glue(name: Name, cuts: frozenset[Name]) -> bool:
    return any(name != cut and name.is_subdomain(cut) for cut in cuts)


def _is_ours(name: Name, kind: RdataType, cuts: frozenset[Name]) -> bool:
    """Signed are all but glue and the NS records of a delegation (RFC 4035 2.2)."""
    if name in cuts:
        return kind in (dns.rdatatype.DS, dns.rdatatype.NSEC)
    return not _is_glue(name, cuts)


def _types(apex: Name, rrsets: RRSets) -> dict[Name, set[RdataType]]:
    """What there is at each name that denial speaks of."""
    cuts = _cuts(apex, rrsets)
    found: dict[Name, set[RdataType]] = {}
    for name, kind in rrsets:
        if not _is_glue(name, cuts):
            found.setdefault(name, set()).add(kind)
    return found


def _chain(
    apex: Name, types: dict[Name, set[RdataType]], chain: Chain
) -> Iterator[tuple[tuple[Name, RdataType], Rdataset]]:
    return _nsec(types) if chain is Chain.NSEC else _nsec3(apex, types, opt_out=chain is Chain.OPT_OUT)


def _bitmap(kinds: set[RdataType]) -> str:
    return " ".join(dns.rdatatype.to_text(kind) for kind in sorted(kinds))


def _nsec(types: dict[Name, set[RdataType]]) -> Iterator[tuple[tuple[Name, RdataType], Rdataset]]:
    names = sorted(types)
    for name, following in zip(names, [*names[1:], names[0]], strict=True):
        kinds = types[name] | {dns.rdatatype.NSEC, dns.rdatatype.RRSIG}
        yield (name, dns.rdatatype.NSEC), records("NSEC", f"{following} {_bitmap(kinds)}")


def _nsec3(
    apex: Name, types: dict[Name, set[RdataType]], *, opt_out: bool
) -> Iterator[tuple[tuple[Name, RdataType], Rdataset]]:
    covered: dict[Name, set[RdataType]] = {}
    for name, kinds in types.items():
        if opt_out and name != apex and dns.rdatatype.NS in kinds and dns.rdatatype.DS not in kinds:
            continue
        # A delegation without DS has nothing that is signed (RFC 5155 7.1).
        unsigned = name != apex and dns.rdatatype.NS in kinds and dns.rdatatype.DS not in kinds
        covered[name] = kinds if unsigned else kinds | {dns.rdatatype.RRSIG}
        while (name := name.parent()) != apex and name.is_subdomain(apex):
            covered.setdefault(name, set())  # an empty non-terminal
    hashed = sorted((dns.dnssec.nsec3_hash(name, "", 0, HASH), name) for name in covered)
    for (digest, name), (following, _) in zip(hashed, [*hashed[1:], hashed[0]], strict=True):
        owner = dns.name.from_text(digest, apex)
        text = f"1 {int(opt_out)} 0 - {following} {_bitmap(covered[name])}"
        yield (owner, dns.rdatatype.NSEC3), records("NSEC3", text)
