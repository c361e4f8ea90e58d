"""Chains and TLSA records, made of every kind of certificate, and what `postern_sidecar.dane` and OpenSSL say of them.

`generate(random)` makes a `Case` out of a pool of certificates that is made once; `check(case)` compares the two. A
disagreement that is on purpose is explained in `_on_purpose`, and only there.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID

from certificates import ANY_PURPOSE, CLIENT, EXPIRED, NOT_YET_VALID, NOW, SERVER, WEAK, Certified, issue, key
from openssl_dane import Verdict, verify
from postern_sidecar.answers import TLSA
from postern_sidecar.config.model import Digest
from postern_sidecar.dane.chain import authenticate
from postern_sidecar.dane.records import select
from postern_sidecar.dane.verdict import Match, NotAuthenticated, Reason
from postern_sidecar.names import Domain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

HOST = "mx.example.org"
_NAMES = (HOST, "example.org", "a.b.example.org", "example.net", "xn--bcher-kva.example.org", "org")
ORDERS = ((Digest.SHA2_512, Digest.SHA2_256), (Digest.SHA2_256, Digest.SHA2_512), (Digest.SHA2_256,))
_UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")


class Pool(NamedTuple):
    leaves: tuple[Certified, ...]
    all: tuple[Certified, ...]


@functools.cache
def pool() -> Pool:
    roots = _roots()
    intermediates = _intermediates(*roots[:3])
    authorities = [*roots, *intermediates]
    authorities += [issue(f"Second {number}", by=each, ca=True) for number, each in enumerate(authorities)]
    leaves = [issue(HOST, by=each, dns=[HOST]) for each in authorities]
    for by in (intermediates[0], roots[0], None):
        leaves += _leaves(by)
    leaves += [issue(HOST, by=each, dns=["*.example.org"]) for each in roots]
    leaves += [issue(HOST, by=roots[1], dns=[HOST], digest="sha1"), issue(HOST, by=roots[1], dns=[HOST], digest="md5")]
    return Pool(tuple(leaves), (*authorities, *leaves))


def _roots() -> list[Certified]:
    """The first two are sound, the third is the first one's twin: of its name, with another key."""
    return [
        issue("Root", ca=True, bits=["key_cert_sign", "crl_sign"]),
        issue("RSA Root", ca=True, key=key("RSA-2048")),
        issue("Root", ca=True, key=key("EC", 1000)),
        issue("Root", ca=True, valid=EXPIRED),  # its key is the first one's, as after a renewal
        issue("Ed25519 Root", ca=True, key=key("Ed25519")),
        issue("RSA-1024 Root", ca=True, key=key("RSA-1024")),
        issue("Expired Root", ca=True, valid=EXPIRED),
        issue("Future Root", ca=True, valid=NOT_YET_VALID),
        issue("Root without basicConstraints"),
        issue("Root with only keyUsage", bits=["key_cert_sign"]),
        issue("Root that is none", ca=False),
        issue("Root that may not sign", ca=True, bits=["crl_sign"]),
        issue("Root of one level", ca=True, path_length=0),
        issue("Root of two levels", ca=True, path_length=1),
        issue("Client Root", ca=True, purposes=[CLIENT]),
        issue("Server Root", ca=True, purposes=[SERVER, CLIENT]),
        issue("Root for example.org", ca=True, permitted=["example.org"]),
        issue("Root for example.net", ca=True, permitted=["example.net", _directory("example.net")]),
        issue("Root not for mx", ca=True, excluded=["mx.example.org", ip_name("192.0.2.0/24")]),
        issue("Root for directories", ca=True, permitted=[_directory(HOST), ip_name("192.0.2.0/24")]),
        issue("Weak Root", ca=True, key=WEAK),
        issue("Critical Root", ca=True, extensions=[(_UNKNOWN, True)]),
        issue("Uncritical Root", ca=True, extensions=[(_UNKNOWN, False)]),
    ]


def _intermediates(root: Certified, rsa_root: Certified, twin: Certified) -> list[Certified]:
    """The first is sound."""
    return [
        issue("Intermediate", by=root, ca=True, path_length=1),
        issue("Intermediate", by=rsa_root, ca=True),  # cross-signed: the same name and key
        issue("Intermediate", by=twin, ca=True, key=key("EC", 1001)),
        issue("Root", by=root, ca=True, key=key("EC", 1002), identifiers=True),  # self-issued: new keys
        issue("Root", by=root, ca=True, key=key("EC", 1002), identifiers=True, path_length=0),
        issue("Expired Intermediate", by=root, ca=True, valid=EXPIRED),
        issue("Future Intermediate", by=root, ca=True, valid=NOT_YET_VALID),
        issue("Intermediate that is none", by=root, ca=False),
        issue("Intermediate without basicConstraints", by=root),
        issue("Intermediate with only keyUsage", by=root, bits=["key_cert_sign"]),
        issue("Intermediate that may not sign", by=root, ca=True, bits=["digital_signature"]),
        issue("Client Intermediate", by=root, ca=True, purposes=[CLIENT]),
        issue("Intermediate for any", by=root, ca=True, purposes=[ANY_PURPOSE]),
        issue("SHA-1 Intermediate", by=rsa_root, ca=True, digest="sha1"),
        issue("Weak Intermediate", by=root, ca=True, key=WEAK),
        issue("Spoilt Intermediate", by=root, ca=True, spoilt=True),
        issue("Critical Intermediate", by=root, ca=True, extensions=[(_UNKNOWN, True)]),
        issue("Intermediate for example.org", by=root, ca=True, permitted=[".example.org"]),
    ]


def _leaves(by: Certified | None) -> list[Certified]:
    def leaf(common_name: str | None = "Server", dns: Sequence[str] = (HOST,), **shape: object) -> Certified:
        return issue(common_name, by=by, dns=dns, **shape)  # type: ignore[arg-type]  # the factory's own options

    two = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in (HOST, "example.net")])
    return [
        leaf(),
        leaf(key=key("RSA-2048")),
        leaf(key=key("Ed25519")),
        leaf(key=WEAK),
        leaf(ca=True),
        leaf(ca=False),
        leaf(valid=EXPIRED),
        leaf(valid=NOT_YET_VALID),
        leaf(spoilt=True),
        leaf(extensions=[(_UNKNOWN, True)]),
        leaf(purposes=[SERVER]),
        leaf(purposes=[CLIENT]),
        leaf(purposes=[ANY_PURPOSE]),
        leaf(bits=["digital_signature"]),
        leaf(bits=["key_agreement"]),
        leaf(bits=["key_cert_sign"]),
        leaf(None),
        leaf(HOST, ()),
        leaf(HOST.upper(), ()),
        leaf("*.example.org", ()),
        leaf("Some server", ()),
        leaf(None, ()),
        leaf(subject=two, dns=()),
        leaf(HOST, ["example.net"]),
        leaf(HOST, (), san=[ip_name("192.0.2.1")]),
        leaf(HOST, (), san=[ip_name("198.51.100.1")]),
        leaf(HOST, (), san=[x509.RFC822Name("postmaster@example.org")]),
        *(leaf("Server", names) for names in _PRESENTED),
    ]


_PRESENTED = (
    ["example.org"],
    ["example.net", HOST],
    [HOST.upper()],
    [HOST + "."],
    ["." + HOST],
    ["*.example.org"],
    ["*.EXAMPLE.org"],
    ["*.*.example.org"],
    ["m*.example.org"],
    ["*x.example.org"],
    ["mx.*.org"],
    ["*.org"],
    ["*"],
    ["*.mx.example.org"],
    ["xn--bcher-kva.example.org"],
    ["mx.example.org\0.example.net"],
    [" mx.example.org"],
    [""],
    [f"h{number}.example.org" for number in range(50)],
)


def ip_name(text: str) -> x509.IPAddress:
    return x509.IPAddress(ip_network(text) if "/" in text else ip_address(text))


def _directory(common_name: str) -> x509.DirectoryName:
    return x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))


@dataclass(frozen=True)
class Case:
    chain: tuple[bytes, ...]
    records: tuple[TLSA, ...]
    references: tuple[Domain, ...]
    digests: tuple[Digest, ...]

    def __str__(self) -> str:
        """For whoever has to find out why the two disagree."""
        sent = (x509.load_der_x509_certificate(der) for der in self.chain)
        lines = [f"{each.subject.rfc4514_string()} by {each.issuer.rfc4514_string()}" for each in sent]
        return "\n".join((*lines, *map(str, self.records), *self.references, *(each.value for each in self.digests)))


def generate(random: Random) -> Case:
    """Mostly what servers do, with a fault or two."""
    leaf = random.choice(pool().leaves)
    above = list(leaf.path[1:])
    pick = random.random()
    if pick < 0.15 and above:
        above.pop(random.randrange(len(above)))
    elif pick < 0.3:
        above = []
    elif pick < 0.5:
        random.shuffle(above)
    if random.random() < 0.3:
        for _ in range(random.randrange(1, 4)):
            above.insert(random.randrange(len(above) + 1), random.choice(pool().all).der)
    chain = [leaf.der, *above]
    if random.random() < 0.03:
        random.shuffle(chain)
    records = [_record(random, leaf) for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5)))]
    references = random.sample(_NAMES, random.choice((0, 0, 1, 2)))
    if random.random() < 0.8 or not references:
        references.insert(random.randrange(len(references) + 1), HOST)
    return Case(tuple(chain), tuple(records), tuple(map(Domain, dict.fromkeys(references))), random.choice(ORDERS))


def _record(random: Random, leaf: Certified) -> TLSA:
    """Of a certificate on the leaf's way up, or of another; one in ten is damaged."""
    way = [leaf]
    while way[-1].issuer is not None:
        way.append(way[-1].issuer)
    about = random.choice(way) if random.random() < 0.85 else random.choice(pool().all)
    likely = 3 if about is leaf else 2
    usage = likely if random.random() < 0.7 else random.choice((2, 3, 2, 3, 0, 1, 4, 255))
    selector = random.choice((0, 1)) if random.random() < 0.97 else 2
    matching = random.choice((0, 1, 1, 2)) if random.random() < 0.97 else random.choice((3, 255))
    made = record(about, usage, selector, matching)
    return made if random.random() < 0.9 else _damaged(random, made)


def _damaged(random: Random, tlsa: TLSA) -> TLSA:
    damage = random.randrange(4)
    if damage == 0:
        return tlsa._replace(data=tlsa.data[:-1])
    if damage == 1:
        return tlsa._replace(data=tlsa.data + b"\0")
    if damage == 2 or tlsa.matching not in (1, 2):  # who may read what a flipped octet makes of a certificate?
        return tlsa._replace(data=b"")
    at = random.randrange(len(tlsa.data))
    return tlsa._replace(data=tlsa.data[:at] + bytes([tlsa.data[at] ^ 1 << random.randrange(8)]) + tlsa.data[at + 1 :])


def record(about: Certified, usage: int, selector: int, matching: int) -> TLSA:
    """The TLSA record of a certificate."""
    data = about.spki if selector == 1 else about.der
    if matching == 1:
        data = hashlib.sha256(data).digest()
    elif matching == 2:
        data = hashlib.sha512(data).digest()
    return TLSA(usage, selector, matching, data)


# X509_V_ERR_* by what we call them.
_WORDS = {
    Reason.TLSA_MISMATCH: {65},  # DANE_NO_MATCH
    Reason.EXPIRED: {10},
    Reason.NOT_YET_VALID: {9},
    Reason.NAME: {62},
    Reason.CHAIN: {7, 25, 34, 79},  # signature, pathLen, critical extension, no CA
    Reason.PURPOSE: {26},
    Reason.CONSTRAINTS: {47, 48},
    Reason.WEAK: {66, 67, 68},  # the server's key, an authority's, a signature's digest
    Reason.MALFORMED: set[int](),
}


def check(case: Case) -> str:
    """What both said. Raises AssertionError where they disagree and should not."""
    theirs = verify(case.chain, case.records, case.references, NOW, case.digests)
    selection = select(case.records, case.digests)
    assert theirs.usable == tuple(each in selection.usable for each in case.records), "not the same are usable"
    if theirs.error is None:
        assert not selection.considered, "not the same are considered"
        return "no usable record"
    try:
        ours: Match | NotAuthenticated = authenticate(case.chain, selection.considered, case.references, NOW)
    except NotAuthenticated as error:
        ours = error
    if _agree(ours, theirs):
        if isinstance(ours, Match):
            return f"authenticated by usage {ours.record.usage} at depth {ours.depth}"
        return f"refused {ours.reason.value}"
    explained = _on_purpose(case, ours, theirs)
    assert explained, f"Postern: {ours!r}; OpenSSL: {theirs!r}"
    return f"on purpose: {explained}"


def _agree(ours: Match | NotAuthenticated, theirs: Verdict) -> bool:
    if isinstance(ours, Match):
        return (0, ours.depth, ours.record) == (theirs.error, theirs.depth, theirs.record)
    return theirs.error in _WORDS[ours.reason]


def _on_purpose(case: Case, ours: Match | NotAuthenticated, theirs: Verdict) -> str:
    """Why they may disagree, or ""."""
    if isinstance(ours, Match):
        # OpenSSL takes the first certificate of an issuer's name and never another. With those of the way that Postern
        # found, and no others, it has to come to the same.
        return "OpenSSL tried another authority of the name" if _on_another_way(case, ours) else ""
    if theirs.error == 0:
        # OpenSSL looks at no digest at the top of a way to a bare key, and not at the strength of that key.
        if theirs.record is not None and theirs.record[:3] == (2, 1, 0) and ours.reason is Reason.WEAK:
            return "too weak a signature by, or strength of, a bare key"
        # OpenSSL compares an excluded name with what the certificate says, "*.example.org", not with the server's.
        if ours.reason is Reason.CONSTRAINTS and "excluded" in ours.detail:
            return "a wildcard over an excluded name"
        return ""
    # Both refuse. OpenSSL looks at signatures last, Postern at them and at bare keys first; and of several ways OpenSSL
    # knows one.
    if any(words in ours.detail for words in ("does not verify", "is signed with", "the trust anchor in DNS has")):
        return "refused for something before the signature"
    return "refused on another way" if _on_another_way(case, ours) else ""


def _on_another_way(case: Case, ours: Match | NotAuthenticated) -> bool:
    """OpenSSL says the same if it is shown a part of the authorities, in another order. It puts what stands in DNS
    before what was sent, so that a 2 0 0 cannot give way: its digest can."""
    considered = select(case.records, case.digests).considered
    matching = max((each.matching for each in considered if each[:2] == (2, 0) and each.matching), default=1)
    hashing = hashlib.sha512 if matching == 2 else hashlib.sha256

    def yielding(tlsa: TLSA) -> TLSA:
        full = tlsa[:3] == (2, 0, 0)
        return tlsa._replace(matching=matching, data=hashing(tlsa.data).digest()) if full else tlsa

    records = [yielding(each) for each in considered]
    if isinstance(ours, Match):
        ours = replace(ours, record=yielding(ours.record))
        records = [ours.record]
    in_dns = [each.data for each in considered if each[:3] == (2, 0, 0)]
    others = [der for der in dict.fromkeys((*case.chain, *in_dns)) if der != case.chain[0]]
    return any(
        _agree(ours, verify((case.chain[0], *way), records, case.references, NOW, case.digests))
        for length in range(min(len(others), 4) + 1)
        for way in permutations(others, length)
    )
