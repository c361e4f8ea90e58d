"""Cases of the DNS stage: what MX, address, CNAME and TLSA answers mean (RFC 7672 2, RFC 5321 5.1, RFC 7505)."""

from __future__ import annotations

from lab.signing import Chain, Signatures
from lab.world import LAME, SILENT

from .case import (
    DANE,
    MISMATCH,
    MX,
    NO_CONTACT,
    ONE,
    A,
    Case,
    Server,
    bounced,
    deferred,
    delivered,
    tlsa,
)

EE = tlsa("3 1 1 leaf")
TWO = (*ONE, "@ MX 20 mx2", "mx2 A {a2}")
TWO_SERVERS = (Server(), Server())
MAY = delivered("may")
HALF = delivered("encrypt", half=True)
DNS_ERROR = deferred(r"451 4\.", untouched=(1,))
DELAY = "RFC 7672 2.1.2: where the MX lookup fails for another reason than absence, delivery is delayed"
LOOKUP_FAILED = "RFC 7672 2.1.1: bogus and indeterminate answers are lookup errors, not absence"
TLSA_ERROR = "RFC 7672 2.1.2: where the TLSA lookup fails, the host must not be connected to"

_SIGNED_HOST = (
    "@ MX 10 mx.{name}.secure.example.",
    "mx.{name}.secure.example. A {a1}",
    "_25._tcp.mx.{name}.secure.example. TLSA 3 1 1 leaf",
)


def _unreachable_domain(zone: str) -> Case:
    return Case(name=f"mx-{zone.partition('.')[0]}", zone=zone, rfc=DELAY, records=(*ONE, *EE), expect=DNS_ERROR)


def _alias(*more: str) -> tuple[str, ...]:
    """The MX host is an alias of `real`, in the same zone."""
    return (MX, "mx CNAME real", "real A {a1}", *more)


MX_ANSWERS = (
    *map(_unreachable_domain, ("bogus.example", "expired.example", "future.example", "stripped.example")),
    *map(_unreachable_domain, ("broken-ds.example", "missing.example", "lame.example", "dead.example")),
    Case(name="mx-spoilt", rfc=LOOKUP_FAILED, records=(*ONE, *EE), spoil=("@ MX",), expect=DNS_ERROR),
    Case(
        name="mx-servfail",
        zone="liar.example",
        rfc=DELAY,
        records=(*ONE, *EE),
        misanswer=("@ MX SERVFAIL",),
        expect=DNS_ERROR,
    ),
    Case(
        name="mx-refused",
        zone="liar.example",
        rfc=DELAY,
        records=(*ONE, *EE),
        misanswer=("@ MX REFUSED",),
        expect=DNS_ERROR,
    ),
    Case(
        name="mx-denial-forged",
        zone="liar.example",
        rfc="RFC 7672 2.1.1: a denial that DNSSEC does not prove, in a signed zone, is an error",
        records=(*ONE, *EE),
        misanswer=("@ MX NXDOMAIN",),
        expect=DNS_ERROR,
    ),
    Case(
        name="mx-stripped-by-the-way",
        zone="liar.example",
        rfc="RFC 4033 5: an answer without signatures from a signed zone is bogus",
        records=(*ONE, *EE),
        misanswer=("@ MX stripped",),
        expect=DNS_ERROR,
    ),
    Case(
        name="implicit-mx",
        rfc="RFC 7672 2.2.2: without MX the domain is its own host, and DANE applies to it as to a non-MX destination",
        records=("@ A {a1}", *tlsa("3 1 1 leaf", at="@")),
        servers=(Server(host="@"),),
        expect=delivered("dane", sni="@"),
    ),
    Case(
        name="implicit-mx-mismatch",
        rfc="RFC 7672 2.2.2: an implicit MX host that does not match its TLSA records gets nothing",
        records=("@ A {a1}", *tlsa("3 1 1 wrong", at="@")),
        servers=(Server(host="@"),),
        expect=MISMATCH,
    ),
    Case(
        name="implicit-mx-nsec3",
        zone="nsec3.org",
        rfc="RFC 5155 8.5, RFC 7672 2.2.2: NSEC3 proves that there is no MX",
        records=("@ A {a1}", *tlsa("3 1 1 leaf", at="@")),
        servers=(Server(host="@"),),
        expect=DANE,
    ),
    Case(
        name="implicit-mx-ta",
        rfc="RFC 7672 3.2.2: of a non-MX destination the TLSA base domain is the reference identifier",
        records=("@ A {a1}", *tlsa("2 0 1 root", at="@")),
        servers=(Server(host="@"),),
        expect=DANE,
    ),
    Case(
        name="nxdomain",
        below="nowhere",
        rfc="RFC 5321 5.1: a domain that does not exist is a permanent error",
        records=("@ A {a1}",),
        expect=bounced(r"5\d\d 5\.(1\.2|4\.4)", untouched=(1,)),
    ),
    Case(
        name="nxdomain-insecure",
        zone="insecure.example",
        below="nowhere",
        rfc="RFC 7672 2.1.1: absence is an answer, secure or not",
        records=("@ A {a1}",),
        expect=bounced(r"5\d\d 5\.(1\.2|4\.4)", untouched=(1,)),
    ),
    Case(
        name="neither-mx-nor-address",
        rfc="RFC 5321 5.1: a domain without MX and address is not a mail domain",
        records=('@ TXT "here"',),
        expect=bounced(r"5\d\d 5\.", untouched=(1,)),
    ),
    Case(
        name="null-mx",
        rfc="RFC 7505 4.2: a null MX is a permanent failure, 556 5.1.10",
        records=("@ MX 0 .", "@ A {a1}"),
        expect=bounced(r"556 5\.1\.10", untouched=(1,)),
    ),
    Case(
        name="null-mx-insecure",
        zone="insecure.example",
        rfc="RFC 7505 4.2: DNSSEC is not asked for",
        records=("@ MX 0 .", "@ A {a1}"),
        expect=bounced(r"556 5\.1\.10", untouched=(1,)),
    ),
    Case(
        name="preference-before-dane",
        rfc="RFC 7672 2.2.1: the order of preference is never changed by the presence of TLSA records",
        records=(*TWO, *tlsa("3 1 1 leaf@2", at="mx2")),
        servers=TWO_SERVERS,
        expect=delivered("may", untouched=(2,)),
    ),
    Case(
        name="each-host-its-own",
        rfc="RFC 7672 2.2.1: each MX host is a DANE destination of its own; a mismatch at one leads to the next",
        records=(*TWO, *tlsa("3 1 1 wrong"), *tlsa("3 1 1 leaf@2", at="mx2")),
        servers=TWO_SERVERS,
        expect=delivered("dane", at=2),
    ),
    Case(
        name="next-host-without-tlsa",
        rfc="RFC 7672 2.2: after a host that fails its TLSA records the next is judged by its own, here none",
        records=(*TWO, *tlsa("3 1 1 wrong")),
        servers=TWO_SERVERS,
        expect=delivered("may", at=2),
    ),
    Case(
        name="mx-insecure-host-secure",
        zone="insecure.example",
        rfc="RFC 7672 2.2.1: of an insecure MX answer, signed MX hosts with TLSA records may still be authenticated",
        records=_SIGNED_HOST,
        servers=(Server(host="mx.{name}.secure.example."),),
        expect=HALF,
    ),
    Case(
        name="mx-insecure-host-secure-mismatch",
        zone="insecure.example",
        rfc="RFC 7672 2.2.1: and a mismatch fails as it would under a secure MX",
        records=(*_SIGNED_HOST[:2], "_25._tcp.mx.{name}.secure.example. TLSA 3 1 1 wrong"),
        expect=MISMATCH,
    ),
    Case(
        name="mx-insecure-ta-name-of-domain",
        zone="insecure.example",
        rfc="RFC 7672 3.2.2: under an insecure MX only the MX host's name is a reference identifier",
        records=(*_SIGNED_HOST[:2], "_25._tcp.mx.{name}.secure.example. TLSA 2 0 1 root"),
        servers=(Server(shape="domain-name"),),
        expect=MISMATCH,
    ),
    Case(
        name="mx-insecure-ta-name-of-host",
        zone="insecure.example",
        rfc="RFC 7672 3.2.2: under an insecure MX only the MX host's name is a reference identifier",
        records=(*_SIGNED_HOST[:2], "_25._tcp.mx.{name}.secure.example. TLSA 2 0 1 root"),
        servers=(Server(host="mx.{name}.secure.example."),),
        expect=HALF,
    ),
    Case(
        name="mx-insecure-required",
        zone="insecure.example",
        require=True,
        rfc="RFC 7672 2.2.1: mandatory DANE is not satisfied by an insecure MX: delay",
        records=_SIGNED_HOST,
        servers=(Server(host="mx.{name}.secure.example."),),
        expect=deferred(),
    ),
    Case(
        name="literal",
        rfc="RFC 7672 1.3.2: DANE does not apply to address literals",
        records=(),
        literal=True,
        expect=MAY,
    ),
    Case(
        name="domain-alias",
        rfc="RFC 5321 5.1: an alias is processed as if its target were the initial name",
        records=("@ MX 10 nobody", "old CNAME new", "new MX 10 mx", A, *EE),
        below="old",
        expect=DANE,
    ),
    Case(
        name="domain-dname",
        rfc="RFC 6672 3.4: a name below a DNAME is an alias, here a secure one",
        records=("old DNAME new", "lists.new MX 10 mx", A, *EE),
        below="lists.old",
        expect=DANE,
    ),
    Case(
        name="domain-wildcard",
        rfc="RFC 4592 2.1: a wildcard MX answers for names that do not exist, and can be proved to",
        records=("*.w MX 10 mx", A, *EE),
        below="any.w",
        expect=DANE,
    ),
    Case(
        name="domain-wildcard-nsec3",
        zone="nsec3.org",
        rfc="RFC 5155 8.8: the same, proved by NSEC3",
        records=("*.w MX 10 mx", A, *EE),
        below="any.w",
        expect=DANE,
    ),
)

ADDRESSES = (
    Case(
        name="address-spoilt",
        rfc=f"{LOOKUP_FAILED}; RFC 7672 2.2.2: the host is unreachable",
        records=(*ONE, *EE),
        spoil=("mx A",),
        expect=deferred(r"451 4\.", untouched=(1,)),
    ),
    Case(
        name="address-spoilt-next-host",
        rfc="RFC 7672 2.2.2: a host whose addresses are bogus is skipped, others may be used",
        records=(*TWO, *EE, *tlsa("3 1 1 leaf@2", at="mx2")),
        servers=TWO_SERVERS,
        spoil=("mx A",),
        expect=delivered("dane", at=2, untouched=(1,)),
    ),
    Case(
        name="a-secure-aaaa-spoilt",
        rfc="RFC 7672 2.2.2: the family that validates is used",
        records=(*ONE, "mx AAAA {six1}", *EE),
        spoil=("mx AAAA",),
        expect=DANE,
    ),
    Case(
        name="aaaa-secure-a-spoilt",
        rfc="RFC 7672 2.2.2: the family that validates is used",
        records=(*ONE, "mx AAAA {six1}", *EE),
        spoil=("mx A",),
        expect=DANE,
    ),
    Case(
        name="both-families",
        rfc="RFC 7672 2.2.2: either family is under the host's TLSA records",
        records=(*ONE, "mx AAAA {six1}", *EE),
        expect=DANE,
    ),
    Case(
        name="only-ipv6",
        rfc="RFC 5321 5.2: a host with AAAA records only",
        records=(MX, "mx AAAA {six1}", *EE),
        expect=DANE,
    ),
    Case(
        name="host-without-address",
        rfc="RFC 5321 5.1: an MX that leads to no address is an error",
        records=(MX, 'mx TXT "here"', *EE),
        expect=bounced(r"5\d\d 5\.", untouched=(1,)),
    ),
    Case(
        name="host-without-address-next",
        rfc="RFC 5321 5.1: the next MX host is tried",
        records=(MX, 'mx TXT "here"', "@ MX 20 mx2", "mx2 A {a2}", *tlsa("3 1 1 leaf@2", at="mx2")),
        servers=TWO_SERVERS,
        expect=delivered("dane", at=2),
    ),
    Case(
        name="host-insecure",
        rfc="RFC 7672 2.2.2: of a host with insecure addresses TLSA records are not asked for",
        records=("@ MX 10 mx.{name}.loose.example.", "mx.{name}.loose.example. A {a1}"),
        misanswer=("_25._tcp.mx.{name}.loose.example. TLSA SERVFAIL",),
        expect=MAY,
    ),
    Case(
        name="insecure-with-tlsa",
        zone="insecure.example",
        rfc="RFC 7672 2.1.1: insecure TLSA records are as none",
        records=(*ONE, *tlsa("3 1 1 wrong")),
        expect=MAY,
    ),
    Case(
        name="unsigned-under-opt-out",
        zone="unsigned.net",
        rfc="RFC 5155 6: an unsigned delegation in an opt-out span is insecure",
        records=(*ONE, *tlsa("3 1 1 wrong")),
        expect=MAY,
    ),
    Case(
        name="unknown-algorithm",
        zone="unknown.example",
        rfc="RFC 4035 5.2: a zone whose DS records have only algorithms that nobody knows is insecure",
        records=(*ONE, *tlsa("3 1 1 wrong")),
        expect=MAY,
    ),
    Case(
        name="insecure-clear",
        zone="insecure.example",
        rfc="RFC 7672 2.2: without DANE delivery is as before it: opportunistic",
        records=ONE,
        servers=(Server(shape=""),),
        expect=delivered("clear"),
    ),
    Case(
        name="nsec3-zone",
        zone="nsec3.org",
        rfc="RFC 7672 2.2: NSEC or NSEC3, secure is secure",
        records=(*ONE, *EE),
        expect=DANE,
    ),
    Case(
        name="opt-out-zone",
        zone="opt-out.net",
        rfc="RFC 5155 6: opt-out is about unsigned delegations; the zone's own records are secure",
        records=(*ONE, *EE),
        expect=DANE,
    ),
)

ALIASES = (
    Case(
        name="alias-tlsa-at-target",
        rfc="RFC 7672 2.2.3: the base domain is the fully expanded name where it has TLSA records; it is the SNI",
        records=_alias(*tlsa("2 0 1 root", at="real")),
        servers=(Server(host="real"),),
        expect=delivered("dane", sni="real"),
    ),
    Case(
        name="alias-tlsa-at-original",
        rfc="RFC 7672 2.2.3: where the expanded name has none, the original name is the base domain",
        records=_alias(*tlsa("2 0 1 root")),
        expect=delivered("dane", sni="mx"),
    ),
    Case(
        name="alias-tlsa-at-both",
        rfc="RFC 7672 2.2.3: the expanded name comes first; what the original has does not count then",
        records=_alias(*tlsa("3 1 1 leaf", at="real"), *tlsa("3 1 1 wrong")),
        expect=delivered("dane", sni="real"),
    ),
    Case(
        name="alias-wrong-at-target",
        rfc="RFC 7672 2.2.3: records at the expanded name that do not match are not made good by the original's",
        records=_alias(*tlsa("3 1 1 wrong", at="real"), *EE),
        expect=MISMATCH,
    ),
    Case(
        name="alias-error-at-target",
        rfc=f"{TLSA_ERROR}; it does not fall through to the original name",
        records=_alias(*tlsa("3 1 1 leaf", at="real"), *EE),
        spoil=("_25._tcp.real TLSA",),
        expect=NO_CONTACT,
    ),
    Case(
        name="alias-of-two-links",
        rfc="RFC 7672 2.1.3: an alias may lead to an alias",
        records=(MX, "mx CNAME middle", "middle CNAME real", "real A {a1}", *tlsa("3 1 1 leaf", at="real")),
        expect=DANE,
    ),
    Case(
        name="alias-by-dname",
        rfc="RFC 6672 3.4: a DNAME above the host makes an alias",
        records=("@ MX 10 mx.old", "old DNAME new", "mx.new A {a1}", *tlsa("3 1 1 leaf", at="mx.new")),
        expect=DANE,
    ),
    Case(
        name="alias-to-secure-zone",
        rfc="RFC 7672 2.2.3: the chain may lead through zones, if each is secure",
        records=(MX, "mx CNAME real.{name}.nsec3.org.", "real.{name}.nsec3.org. A {a1}", *EE),
        expect=DANE,
    ),
    Case(
        name="alias-to-insecure-tlsa-at-original",
        rfc="RFC 7672 2.2.2: a secure CNAME to an insecure address: TLSA records are sought at the original name",
        records=(MX, "mx CNAME real.{name}.insecure.example.", "real.{name}.insecure.example. A {a1}", *EE),
        expect=delivered("dane", sni="mx"),
    ),
    Case(
        name="alias-to-insecure-mismatch",
        rfc="RFC 7672 2.2.2: and these are binding",
        records=(
            MX,
            "mx CNAME real.{name}.insecure.example.",
            "real.{name}.insecure.example. A {a1}",
            *tlsa("3 1 1 wrong"),
        ),
        expect=MISMATCH,
    ),
    Case(
        name="alias-to-insecure-without-tlsa",
        rfc="RFC 7672 2.2.2: none there: no DANE",
        records=(MX, "mx CNAME real.{name}.insecure.example.", "real.{name}.insecure.example. A {a1}"),
        expect=MAY,
    ),
    Case(
        name="alias-insecure-to-secure",
        rfc="RFC 7672 2.2.2: an insecure CNAME makes the address insecure, wherever it leads: no DANE",
        records=(
            "@ MX 10 mx.{name}.insecure.example.",
            "mx.{name}.insecure.example. CNAME mx.{name}.secure.example.",
            A,
            *tlsa("3 1 1 wrong"),
        ),
        expect=MAY,
    ),
    Case(
        name="alias-loop",
        rfc="RFC 7672 2.1.3: a loop of aliases is a failed lookup",
        records=(MX, "mx CNAME other", "other CNAME mx"),
        expect=deferred(r"451 4\.", untouched=(1,)),
    ),
    Case(
        name="domain-alias-loop",
        rfc="RFC 7672 2.1.3: a loop of aliases is a failed lookup",
        records=("a CNAME b", "b CNAME a"),
        below="a",
        expect=deferred(r"451 4\.", untouched=(1,)),
    ),
    Case(
        name="alias-spoilt",
        rfc="RFC 7672 2.1.1: a bogus link makes the whole answer bogus",
        records=_alias(*EE),
        spoil=("mx CNAME",),
        expect=deferred(r"451 4\.", untouched=(1,)),
    ),
    Case(
        name="domain-alias-insecure",
        zone="insecure.example",
        rfc="RFC 7672 2.2.1: an insecure alias of the domain makes the MX answer insecure: half-dane at most",
        records=(
            "old CNAME {name}.secure.example.",
            "{name}.secure.example. MX 10 mx.{name}.secure.example.",
            "mx.{name}.secure.example. A {a1}",
            "_25._tcp.mx.{name}.secure.example. TLSA 3 1 1 leaf",
        ),
        below="old",
        expect=HALF,
    ),
)

TLSA = (
    Case(name="tlsa-spoilt", rfc=TLSA_ERROR, records=(*ONE, *EE), spoil=("_25._tcp.mx TLSA",), expect=NO_CONTACT),
    Case(
        name="tlsa-spoilt-next-host",
        rfc=f"{TLSA_ERROR}; the next may",
        records=(*TWO, *EE, *tlsa("3 1 1 leaf@2", at="mx2")),
        servers=TWO_SERVERS,
        spoil=("_25._tcp.mx TLSA",),
        expect=delivered("dane", at=2, untouched=(1,)),
    ),
    *(
        Case(
            name=f"tlsa-{rcode.lower()}",
            zone="liar.example",
            rfc=TLSA_ERROR,
            records=(*ONE, *EE),
            misanswer=(f"_25._tcp.mx TLSA {rcode}",),
            expect=NO_CONTACT,
        )
        for rcode in ("SERVFAIL", "REFUSED", "NOTIMP", "FORMERR")
    ),
    Case(
        name="tlsa-garbage",
        zone="liar.example",
        rfc=TLSA_ERROR,
        records=(*ONE, *EE),
        misanswer=("_25._tcp.mx TLSA garbage",),
        expect=NO_CONTACT,
    ),
    Case(
        name="tlsa-denial-forged",
        zone="liar.example",
        rfc="RFC 7672 2.1.2: an attacker who hides TLSA records must not get the mail in clear",
        records=(*ONE, *EE),
        misanswer=("_25._tcp.mx TLSA NXDOMAIN",),
        expect=NO_CONTACT,
    ),
    Case(
        name="tlsa-forged",
        zone="liar.example",
        rfc="RFC 6698 4.1: TLSA records that do not validate must not be used",
        records=(*ONE, *EE),
        misanswer=("_25._tcp.mx TLSA forged 3 1 1 " + "ab" * 32,),
        expect=NO_CONTACT,
    ),
    Case(
        name="tlsa-stripped",
        zone="liar.example",
        rfc="RFC 6698 4.1: TLSA records that do not validate must not be used",
        records=(*ONE, *EE),
        misanswer=("_25._tcp.mx TLSA stripped",),
        expect=NO_CONTACT,
    ),
    Case(
        name="tlsa-zone-lame",
        rfc=TLSA_ERROR,
        records=ONE,
        zones={"_tcp.mx": {"server": LAME}},
        expect=NO_CONTACT,
    ),
    Case(
        name="tlsa-zone-silent",
        rfc=f"{TLSA_ERROR}; a time-out is such a failure",
        records=ONE,
        zones={"_tcp.mx": {"server": SILENT}},
        expect=NO_CONTACT,
    ),
    Case(
        name="tlsa-zone-expired",
        rfc=TLSA_ERROR,
        records=(*ONE, *EE),
        zones={"_tcp.mx": {"signatures": Signatures.EXPIRED}},
        expect=NO_CONTACT,
    ),
    Case(
        name="tlsa-zone-insecure",
        rfc="RFC 7672 2.1.1: TLSA records in an unsigned zone below a signed one are as none",
        records=(*ONE, *tlsa("3 1 1 wrong")),
        zones={"_tcp.mx": {"chain": Chain.UNSIGNED}},
        expect=MAY,
    ),
    Case(
        name="tlsa-none",
        rfc="RFC 7672 2.2: a secure denial of TLSA records: opportunistic TLS",
        records=ONE,
        expect=MAY,
    ),
    Case(
        name="tlsa-none-nsec3",
        zone="nsec3.org",
        rfc="RFC 5155 8.4: the same, proved by NSEC3",
        records=ONE,
        expect=MAY,
    ),
    Case(
        name="tlsa-none-clear",
        rfc="RFC 7672 2.2: a secure denial of TLSA records: clear text is allowed",
        records=ONE,
        servers=(Server(shape=""),),
        expect=delivered("clear"),
    ),
    Case(
        name="tlsa-alias",
        rfc="RFC 7672 2.2.3: TLSA records may be an alias; the base domain stays what was asked about",
        records=(*ONE, "_25._tcp.mx CNAME roll", "roll TLSA 2 0 1 root"),
        expect=delivered("dane", sni="mx"),
    ),
    Case(
        name="tlsa-alias-to-secure-zone",
        rfc="RFC 7672 2.2.3: also into another zone that is secure",
        records=(*ONE, "_25._tcp.mx CNAME {name}.nsec3.org.", "{name}.nsec3.org. TLSA 3 1 1 leaf"),
        expect=DANE,
    ),
    Case(
        name="tlsa-alias-to-insecure-zone",
        rfc="RFC 7672 2.2.3: an insecure link makes the TLSA records insecure: as none",
        records=(*ONE, "_25._tcp.mx CNAME {name}.insecure.example.", "{name}.insecure.example. TLSA 3 1 1 wrong"),
        expect=MAY,
    ),
    Case(
        name="tlsa-alias-to-bogus-zone",
        rfc="RFC 7672 2.1.1: a bogus link is an error",
        records=(*ONE, "_25._tcp.mx CNAME {name}.bogus.example.", "{name}.bogus.example. TLSA 3 1 1 leaf"),
        expect=NO_CONTACT,
    ),
    Case(
        name="tlsa-alias-dangling",
        rfc="RFC 7672 2.1.1: an alias to nothing, securely: no TLSA records",
        records=(*ONE, "_25._tcp.mx CNAME nothing"),
        expect=MAY,
    ),
    Case(
        name="tlsa-alias-loop",
        rfc="RFC 7672 2.1.3: a loop of aliases is a failed lookup",
        records=(*ONE, "_25._tcp.mx CNAME round", "round CNAME _25._tcp.mx"),
        expect=NO_CONTACT,
    ),
    Case(
        name="tlsa-wildcard",
        rfc="RFC 7671 A, RFC 4592: one wildcard for all ports of a host",
        records=(*ONE, "*._tcp.mx TLSA 3 1 1 leaf"),
        expect=DANE,
    ),
    Case(
        name="tlsa-wildcard-alias",
        rfc="RFC 7671 A: a wildcard may own an alias",
        records=(*ONE, "*._tcp.mx CNAME roll", "roll TLSA 3 1 1 leaf"),
        expect=DANE,
    ),
    Case(
        name="tlsa-of-another-port",
        rfc="RFC 7672 2.2.3: the TLSA name has the port that is connected to, here 25",
        records=(*ONE, "_465._tcp.mx TLSA 3 1 1 wrong"),
        expect=MAY,
    ),
    Case(
        name="tlsa-of-the-domain",
        rfc="RFC 7672 2.2.1: the TLSA records are the MX host's, not the domain's",
        records=(*ONE, *tlsa("3 1 1 wrong", at="@")),
        expect=MAY,
    ),
)

ROUTES = (
    Case(
        name="route",
        rfc="RFC 7672 2.2.2: a next hop that the administrator names is a non-MX destination, and trusted",
        records=("@ MX 10 nobody", "relay A {a1}", "_2525._tcp.relay TLSA 3 1 1 leaf"),
        servers=(Server(host="relay", port=2525),),
        route="relay.{domain}:2525",
        expect=delivered("dane", sni="relay"),
    ),
    Case(
        name="route-other-port",
        rfc="RFC 7672 2.2.3: the port of the TLSA name is the one that is connected to",
        records=("relay A {a1}", "_25._tcp.relay TLSA 3 1 1 wrong"),
        servers=(Server(host="relay", port=2525),),
        route="relay.{domain}:2525",
        expect=MAY,
    ),
    Case(
        name="route-of-an-insecure-domain",
        zone="insecure.example",
        rfc="RFC 7672 2.2.2: of a routed domain only the relay's name counts",
        records=("relay.{name}.secure.example. A {a1}", "_25._tcp.relay.{name}.secure.example. TLSA 3 1 1 leaf"),
        servers=(Server(host="relay"),),
        route="relay.{name}.secure.example",
        expect=DANE,
    ),
    Case(
        name="route-tls-on-connect",
        rfc="RFC 8314 3.3, RFC 6698 3: TLS at once on port 465, and the TLSA records of that port",
        records=("relay A {a1}", "_465._tcp.relay TLSA 3 1 1 leaf", "_25._tcp.relay TLSA 3 1 1 wrong"),
        servers=(Server(host="relay", port=465, implicit=True),),
        route="relay.{domain}:465",
        expect=delivered("dane", sni="relay"),
    ),
    Case(
        name="route-mismatch",
        rfc="RFC 7672 2.2.2: a routed next hop that does not match gets nothing",
        records=("relay A {a1}", "_25._tcp.relay TLSA 3 1 1 wrong"),
        servers=(Server(host="relay"),),
        route="relay.{domain}",
        expect=MISMATCH,
    ),
)

CUT = "RFC 5321 5.1: MX hosts of the relay's own preference, and worse ones, are not used: that would be a loop"
LOOP = bounced(r"554 5\.4\.6", untouched=(1,))

LOOPS = (
    Case(
        name="own-name-best",
        rfc=CUT,
        records=("@ MX 10 own.secure.example.", "@ MX 20 mx", A),
        policy="own-names",
        expect=LOOP,
    ),
    Case(
        name="own-name-cut",
        rfc=CUT,
        records=(*ONE, "@ MX 20 mx.own.secure.example.", "@ MX 30 mx2", "mx2 A {a2}"),
        servers=(Server(listening=False), Server()),
        policy="own-names",
        expect=deferred(r"451 4\.4\.1", untouched=(2,)),
    ),
    Case(
        name="own-address",
        rfc=CUT,
        records=("@ MX 10 us", "us A 192.0.2.200", "@ MX 20 mx", A),
        policy="own-addresses",
        expect=LOOP,
    ),
    Case(
        name="loopback",
        rfc="RFC 5321 5.1: an address that leads back here is not dialled",
        records=(MX, "mx A 127.0.0.1"),
        expect=LOOP,
    ),
    Case(
        name="unspecified",
        rfc="RFC 5321 5.1: an address that leads back here is not dialled",
        records=(MX, "mx A 0.0.0.0", "mx AAAA ::"),
        expect=LOOP,
    ),
)

CASES = (*MX_ANSWERS, *ADDRESSES, *ALIASES, *TLSA, *ROUTES, *LOOPS)
