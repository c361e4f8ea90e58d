"""Cases of the certificate: what DANE-EE overlooks and what DANE-TA demands (RFC 7672 3, RFC 7671 5, RFC 5280)."""

from __future__ import annotations

from .case import DANE, MISMATCH, ONE, Case, Expect, Server, tlsa

OVERLOOKED = "RFC 7672 3.1.1: with DANE-EE the binding is the record's: names and dates are not looked at"
PATH = "RFC 7671 5.2: the chain up to the trust anchor is validated as RFC 5280 6 has it"
NAMES = "RFC 7672 3.2.2: with DANE-TA the certificate must have one of the reference identifiers"
AUGMENT = "RFC 7672 3.1.2: a trust anchor that stands in the DNS with all its data may complete the chain"


def _ee(shape: str, rfc: str = OVERLOOKED, record: str = "3 1 1 leaf") -> Case:
    servers = (Server(shape=shape),)
    return Case(name=f"ee-{shape}", rfc=rfc, records=(*ONE, *tlsa(record)), servers=servers, expect=DANE)


def _ta(shape: str, rfc: str, *, ok: bool = False, record: str = "2 0 1 root", name: str = "") -> Case:
    return Case(
        name=name or f"ta-{shape}",
        rfc=rfc,
        records=(*ONE, *tlsa(record)),
        servers=(Server(shape=shape),),
        expect=DANE if ok else MISMATCH,
    )


def _literal(shape: str, name: str, rfc: str, *records: str, expect: Expect = DANE) -> Case:
    return Case(name=name, rfc=rfc, records=(*ONE, *tlsa(*records)), servers=(Server(shape=shape),), expect=expect)


END_ENTITY = (
    *map(_ee, ("wrong-name", "no-names", "expired", "not-yet-valid", "client-only", "email-only", "self-signed")),
    _ee("self-signed-wreck"),
    _ee("leaf-only", "RFC 7672 3.1.1: no issuer is needed"),
    _ee("leaf-spoilt", "RFC 7671 5.1: nor its signature"),
    _ee("expired-root", OVERLOOKED),
    _ee("intermediate-spoilt", OVERLOOKED, "3 0 1 leaf"),
    _ee("path-too-long", OVERLOOKED, "3 0 2 leaf"),
    _ee("sha1", OVERLOOKED),
    _ee("short-key-authority", OVERLOOKED),
    _ee(
        "leaf-rsa-1024", "RFC 9325 4.5: 2048 bits are advised; what is refused is the client's to say, here below 1024"
    ),
)

NAMES_OF_ANCHORED = (
    _ta("chain", NAMES, ok=True, name="name-host"),
    _ta("domain-name", "RFC 7672 3.2.2: under a secure MX the next-hop domain is one too", ok=True),
    _ta("wrong-name", NAMES),
    _ta("no-names", NAMES),
    _ta("cn-only", "RFC 7672 3.2.3: the CN counts where there is no dNSName", ok=True),
    _ta("cn-beside-san", "RFC 7672 3.2.3: the CN does not count beside a dNSName"),
    _ta("cn-beside-ip", "RFC 7672 3.2.3: only dNSNames make the CN void", ok=True),
    _ta("wildcard", "RFC 7672 3.2.3: a wildcard is the whole left-most label", ok=True),
    _ta("wildcard-partial", "RFC 7672 3.2.3: a wildcard is the whole left-most label, not a part of it"),
    Case(
        name="ta-wildcard-two-labels",
        rfc="RFC 7672 3.2.3: a wildcard stands for one label",
        records=("@ MX 10 mx.deep", "mx.deep A {a1}", *tlsa("2 0 1 root", at="mx.deep")),
        servers=(Server(shape="wildcard-above", host="mx.deep"),),
        expect=MISMATCH,
    ),
    _ta("wildcard-inner", "RFC 7672 3.2.3: a wildcard is the left-most label, not an inner one"),
    _ta("upper-case", "RFC 6125 6.4.1: names are compared without case", ok=True),
    Case(
        name="name-expanded-domain",
        rfc="RFC 7672 3.2.2: the CNAME-expanded next-hop domain is a reference identifier",
        records=("old CNAME new", "new MX 10 mx", "mx A {a1}", *tlsa("2 0 1 root")),
        servers=(Server(host="new"),),
        below="old",
        expect=DANE,
    ),
    Case(
        name="name-original-domain",
        rfc="RFC 7672 3.2.2: and so is the domain before its expansion",
        records=("old CNAME new", "new MX 10 mx", "mx A {a1}", *tlsa("2 0 1 root")),
        servers=(Server(host="old"),),
        below="old",
        expect=DANE,
    ),
    Case(
        name="name-by-sni",
        rfc="RFC 7672 8.1: SNI is the TLSA base domain, by which a server chooses its certificate",
        records=(*ONE, *tlsa("2 0 1 root")),
        servers=(Server(shape="wrong-name", sni={"mx": "chain"}),),
        expect=DANE,
    ),
)

ANCHORED = (
    _ta(
        "chain", "RFC 7671 5.2: an intermediate authority may be the anchor", ok=True, record="2 0 1 int", name="ta-int"
    ),
    _ta("chain", "RFC 7671 5.2: an intermediate's key too", ok=True, record="2 1 2 int", name="ta-int-key"),
    _ta("leaf-only", "RFC 7671 5.2.2: a digest cannot match an anchor that is not sent", record="2 0 1 root"),
    _ta("no-root", "RFC 7671 5.2.2: a digest cannot match an anchor that is not sent", record="2 1 1 root"),
    _ta(
        "no-root",
        "RFC 7671 5.2: what is above the anchor is not needed",
        ok=True,
        record="2 0 1 int",
        name="ta-no-root-int",
    ),
    _ta("no-intermediate", "RFC 5280 6.1: the chain has a gap"),
    _ta("unordered", "RFC 7671 5.2: the path is built, whatever the order", ok=True),
    _ta("padded", "RFC 7671 5.2: certificates that are not in the path are passed over", ok=True),
    _ta(
        "padded",
        "RFC 7671 5.2: an authority that is sent but issued nothing is no anchor",
        record="2 0 1 other",
        name="ta-padded-other",
    ),
    _ta("chain", "RFC 7671 5.2: the leaf itself is no trust anchor", record="2 0 1 leaf", name="ta-leaf"),
    _ta("expired", PATH),
    _ta("not-yet-valid", PATH),
    _ta("client-only", "RFC 5280 4.2.1.12: a purpose other than serverAuth"),
    _ta("email-only", "RFC 5280 4.2.1.12: a purpose other than serverAuth"),
    _ta("server-purpose", "RFC 5280 4.2.1.12: serverAuth", ok=True),
    _ta("leaf-spoilt", PATH),
    _ta("intermediate-spoilt", PATH),
    _ta("expired-intermediate", PATH),
    _ta("expired-root", PATH),
    _ta(
        "expired-root",
        "RFC 7671 5.2: nothing above the anchor is looked at",
        ok=True,
        record="2 0 1 int",
        name="ta-below-expired-root",
    ),
    _ta("intermediate-no-ca", "RFC 5280 4.2.1.9: an issuer must be an authority"),
    _ta("intermediate-no-basic-constraints", "RFC 5280 4.2.1.9: an issuer must be an authority"),
    _ta("intermediate-no-cert-sign", "RFC 5280 4.2.1.3: an issuer's key must be one for certificates"),
    _ta("intermediate-client-only", "RFC 5280 4.2.1.12: as OpenSSL reads purposes of authorities"),
    _ta("root-no-ca", "RFC 5280 4.2.1.9: an issuer must be an authority"),
    _ta("path-too-long", "RFC 5280 4.2.1.9: pathLenConstraint"),
    _ta("name-excluded", "RFC 5280 4.2.1.10: name constraints"),
    _ta("name-permitted", "RFC 5280 4.2.1.10: name constraints", ok=True),
    _ta("sha1", "RFC 9155 2: SHA-1 is not to be used in signatures"),
    _ta("short-key-authority", "RFC 9325 4.5: an authority's key of 512 bits"),
    _ta("leaf-rsa-1024", "RFC 9325 4.5: 2048 bits are advised; below 1024 it is refused", ok=True),
    _ta("self-signed", NAMES, record="2 0 1 leaf"),
    _literal("no-root", "ta-root-in-dns", AUGMENT, "2 0 0 root"),
    _literal("leaf-only", "ta-int-in-dns", AUGMENT, "2 0 0 int"),
    _literal("leaf-only", "ta-both-in-dns", AUGMENT, "2 0 0 int", "2 0 0 root"),
    _literal("no-root", "ta-key-in-dns", f"{AUGMENT}; a bare key too", "2 1 0 root"),
    _literal("leaf-only", "ta-int-key-in-dns", f"{AUGMENT}; a bare key too", "2 1 0 int"),
    _literal("leaf-only", "ta-gap-above-leaf", "RFC 5280 6.1: the chain has a gap", "2 0 0 root", expect=MISMATCH),
    _literal("wrong-name", "ta-in-dns-wrong-name", NAMES, "2 0 0 root", expect=MISMATCH),
)

CASES = (*END_ENTITY, *NAMES_OF_ANCHORED, *ANCHORED)
