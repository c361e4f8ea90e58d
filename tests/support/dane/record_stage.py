"""Cases of the TLSA RRset: which records are usable, and which of the usable ones count (RFC 6698 2, RFC 7671 9)."""

from __future__ import annotations

from .case import DANE, MISMATCH, ONE, Case, Expect, Server, deferred, delivered, tlsa

UNUSABLE = "RFC 7672 2.2: secure records of which none is usable: TLS is mandatory, authentication is not done"
ENCRYPT = delivered("encrypt")
AGILITY = "RFC 7671 9: of a usage and selector only the strongest digest counts, and every Full(0)"


def _unusable(name: str, rfc: str, *records: str, shape: str = "chain") -> Case:
    case_records = (*ONE, *tlsa(*records))
    return Case(name=f"unusable-{name}", rfc=rfc, records=case_records, servers=(Server(shape=shape),), expect=ENCRYPT)


def _records(
    name: str, rfc: str, *records: str, expect: Expect = DANE, shape: str = "chain", policy: str = "default"
) -> Case:
    servers = (Server(shape=shape),)
    return Case(name=name, rfc=rfc, records=(*ONE, *tlsa(*records)), servers=servers, expect=expect, policy=policy)


UNUSABLE_RECORDS = (
    _unusable("pkix-ta", "RFC 7672 3.1.3: PKIX-TA(0) is undefined for SMTP: unusable", "0 0 1 root"),
    _unusable("pkix-ee", "RFC 7672 3.1.3: PKIX-EE(1) is undefined for SMTP: unusable", "1 1 1 wrong"),
    _unusable("usage-4", "RFC 7671 4.1: a usage that is not known is unusable", "4 1 1 leaf"),
    _unusable("usage-255", "RFC 7218 2.1: PrivCert is unusable", "255 1 1 leaf"),
    _unusable("selector-2", "RFC 7671 4.1: a selector that is not known is unusable", "3 2 1 leaf"),
    _unusable("matching-3", "RFC 7671 4.1: a matching type that is not known is unusable", "3 1 3 " + "ab" * 32),
    _unusable("matching-255", "RFC 7218 2.3: PrivMatch is unusable", "3 1 255 " + "ab" * 32),
    _unusable("short-digest", "RFC 6698 2.1.3: a SHA2-256 digest has 32 octets", "3 1 1 " + "ab" * 31),
    _unusable("long-digest", "RFC 6698 2.1.3: a SHA2-512 digest has 64 octets", "3 1 2 " + "ab" * 65),
    _unusable("no-data", "RFC 6698 2.1: there must be data", "3 1 1 -"),
    _unusable("no-certificate", "RFC 6698 2.1.4: full data of selector 0 are a certificate", "2 0 0 " + "ab" * 80),
    _unusable("no-key", "RFC 6698 2.1.4: full data of selector 1 are a public key", "2 1 0 " + "ab" * 80),
    _unusable("several", UNUSABLE, "0 0 1 root", "1 1 1 leaf", "3 9 1 leaf", "3 1 1 abcd"),
    _unusable("self-signed", UNUSABLE, "0 0 1 root", shape="self-signed-wreck"),
    Case(
        name="unusable-without-starttls",
        rfc=f"{UNUSABLE}; never in clear",
        records=(*ONE, *tlsa("0 0 1 root")),
        servers=(Server(shape=""),),
        expect=deferred(r"451 4\.7\.4"),
    ),
    Case(
        name="unusable-required",
        rfc="RFC 7672 2.2: mandatory DANE is not satisfied by encryption alone: delay",
        records=(*ONE, *tlsa("0 0 1 root")),
        require=True,
        expect=deferred(),
    ),
    _records("usable-among-unusable", "RFC 7672 2.2: the unusable ones are ignored", "0 0 1 root", "3 1 1 leaf"),
    _records(
        "mismatch-among-unusable",
        "RFC 7672 2.2: one usable record is enough to be bound by it",
        "0 0 1 root",
        "1 1 1 leaf",
        "3 1 1 wrong",
        expect=MISMATCH,
    ),
)

MATCHING = (
    *(
        _records(f"ee-{selector}-{matching}", f"RFC 6698 2.1: 3 {selector} {matching}", f"3 {selector} {matching} leaf")
        for selector in (0, 1)
        for matching in (0, 1, 2)
    ),
    *(
        _records(
            f"ee-{selector}-{matching}-mismatch",
            "RFC 7672 3.1: no record matches: the host is not authenticated, nothing is sent to it",
            f"3 {selector} {matching} other",
            expect=MISMATCH,
        )
        for selector in (0, 1)
        for matching in (0, 1, 2)
    ),
    *(
        _records(f"ta-{selector}-{matching}", f"RFC 6698 2.1: 2 {selector} {matching}", f"2 {selector} {matching} root")
        for selector in (0, 1)
        for matching in (0, 1, 2)
    ),
    *(
        _records(
            f"ta-{selector}-{matching}-mismatch",
            "RFC 7672 3.1.2: the chain has no such trust anchor",
            f"2 {selector} {matching} other",
            expect=MISMATCH,
        )
        for selector in (0, 1)
        for matching in (0, 1, 2)
    ),
    _records("any-of-several", "RFC 6698 2.1: any record that matches will do", "3 1 1 wrong", "3 1 1 leaf"),
    _records("roll-over", "RFC 7671 8.1: the old key and the new one are both published", "3 1 1 leaf", "3 1 1 other"),
    _records("ee-beside-ta", "RFC 7672 3.1: usages may be mixed; the end entity matches", "2 0 1 other", "3 1 1 leaf"),
    _records("ta-beside-ee", "RFC 7672 3.1: usages may be mixed; the anchor matches", "2 0 1 root", "3 1 1 wrong"),
    _records("neither-ee-nor-ta", "RFC 7672 3.1: usages may be mixed", "2 0 1 other", "3 1 1 wrong", expect=MISMATCH),
    _records(
        "ee-of-issuer",
        "RFC 7672 3.1.1: DANE-EE matches the server's own certificate, not its issuer's",
        "3 0 1 int",
        expect=MISMATCH,
    ),
    _records("ee-rsa", "RFC 7672 3.1.1: keys of other kinds", "3 1 1 leaf", shape="leaf-rsa"),
    _records("ee-ed25519", "RFC 7672 3.1.1: keys of other kinds", "3 1 2 leaf", shape="leaf-ed25519"),
)

DIGESTS = (
    _records("agility-weak-right", AGILITY, "3 1 1 leaf", "3 1 2 wrong", expect=MISMATCH),
    _records("agility-strong-right", AGILITY, "3 1 1 wrong", "3 1 2 leaf"),
    _records("agility-strong-unusable", f"{AGILITY}; unusable ones do not", "3 1 1 leaf", "3 1 2 abcd"),
    _records("agility-other-selector", f"{AGILITY}; each selector for itself", "3 1 1 leaf", "3 0 2 wrong"),
    _records("agility-full", AGILITY, "3 1 0 leaf", "3 1 2 wrong"),
    _records("agility-ta", AGILITY, "2 0 1 root", "2 0 2 other", expect=MISMATCH),
    _records("agility-other-usage", f"{AGILITY}; each usage for itself", "2 0 1 root", "3 1 2 wrong"),
    _records(
        "agility-by-policy",
        "RFC 7671 9: which digest is the strongest is the client's to say",
        "3 1 1 leaf",
        "3 1 2 wrong",
        policy="sha2-256-only",
    ),
    _records(
        "digest-not-supported",
        f"{UNUSABLE}; a digest that the client does not support is one of them",
        "3 1 2 leaf",
        policy="sha2-256-only",
        expect=ENCRYPT,
    ),
)

CASES = (*UNUSABLE_RECORDS, *MATCHING, *DIGESTS)
