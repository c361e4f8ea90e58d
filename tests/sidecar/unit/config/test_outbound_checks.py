"""`spec.outbound` in manifests that are wrong in shape or in meaning, each with exactly the problems that a person is
told."""

# ruff: noqa: E501 - a message stands whole, so that it can be searched for

from __future__ import annotations

import base64
import textwrap

import pytest

from postern_sidecar import config

HEAD = "apiVersion: postern.dev/v1alpha1\nkind: MailProxyPolicy\nmetadata: {name: edge}\n"
OUT = "spec.outbound"
ADDRESS = "write the address that it answers at"
ONE_OF_TWO = "keep one of the two"


def told(text: str) -> list[str]:
    """Warnings and errors, without the file's name."""
    try:
        problems = config.load((HEAD + text).encode(), "p").warnings
    except config.InvalidPolicy as refused:
        problems = refused.problems
    return [str(problem).removeprefix("p:") for problem in problems]


def outbound(fields: str = "", hostname: str = "mail.example.net", inbound: str = "") -> str:
    """`fields` begin on line 7; `inbound` follows them."""
    body = textwrap.indent(fields, "    ") if fields else "    {}"
    listeners = f"\n  inbound:\n{textwrap.indent(inbound, '  ')}" if inbound else ""
    return f"spec:\n  hostname: {hostname}\n  outbound:\n{body}{listeners}\n"


def pem(der: bytes = b"\x30\x82\x01\x00" + bytes(256), label: str = "CERTIFICATE") -> str:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n"


def bundle(text: str, without_dane: str = "Verify") -> str:
    return outbound(f"tls:\n  withoutDane: {without_dane}\n  caBundle: |\n{textwrap.indent(text, '    ')}")


def listener(port: int, more: str = "", backend: int = 2525) -> str:
    return f"- {{name: a, port: {port}, backend: {{port: {backend}, handover: ProxyV2}}{more}}}"


SHAPE: list[tuple[str, str, list[str]]] = [
    ("nothing but the section", outbound(), []),
    (
        "null is as good as absent",
        "spec:\n  hostname: a.example\n  outbound:\n  inbound: []\n",
        ["4: spec: has neither a listener nor outbound, so there is nothing to do; give inbound, outbound, or both"],
    ),
    ("no mapping", "spec:\n  hostname: a.example\n  outbound: true\n", [f"6: {OUT}: is true; write a mapping"]),
    (
        "names that are almost right",
        outbound(
            "submission: {lmtpport: 1, barenewline: Reject}\ntls: {minversion: '1.2', cabundle: ''}\n"
            "dns: {trustanchors: [], acknowledgetrustedpath: true, selftest: {}}\nownnames: []\n"
            "dane: {try_: []}"
        ),
        [
            f"7: {OUT}.submission.lmtpport: unknown field 'lmtpport'; did you mean lmtpPort?",
            f"7: {OUT}.submission.barenewline: unknown field 'barenewline'; did you mean bareNewline?",
            f"8: {OUT}.tls.minversion: unknown field 'minversion'; did you mean minVersion?",
            f"8: {OUT}.tls.cabundle: unknown field 'cabundle'; did you mean caBundle?",
            f"9: {OUT}.dns.trustanchors: unknown field 'trustanchors'; did you mean trustAnchors?",
            f"9: {OUT}.dns.acknowledgetrustedpath: unknown field 'acknowledgetrustedpath'; did you mean acknowledgeTrustedPath?",
            f"9: {OUT}.dns.selftest: unknown field 'selftest'; did you mean selfTest?",
            f"10: {OUT}.ownnames: unknown field 'ownnames'; did you mean ownNames?",
            f"11: {OUT}.dane.try_: unknown field 'try_'; did you mean try?",
        ],
    ),
    (
        "every name that is right",
        outbound(
            "submission: {port: 11025, lmtpPort: 11024, bareNewline: Normalize}\n"
            "dane:\n  try: ['*']\n  require: ['*.bank.example']\n"
            "  skip: [{match: broken.example, reason: ticket 4711, until: 2027-03-01, level: Opportunistic}]\n"
            "  digests: [SHA2-256, SHA2-512]\n"
            "tls: {withoutDane: Encrypt, minVersion: '1.3', ocsp: Require, caBundle: ''}\n"
            "dns:\n  resolver: Embedded\n  acknowledgeTrustedPath: false\n"
            "  rootHints: [{name: ns.root.test, addresses: [10.0.0.1, 'fd00::1']}]\n"
            "  stubs: [{zone: corp.example, servers: [127.0.0.1:5353], insecure: true}]\n"
            "  forwards: [{zone: ., servers: [9.9.9.9, '[2620:fe::fe]:853'], tlsName: dns.quad9.net, insecure: false}]\n"
            "  selfTest: {secure: org, bogus: bogus.test}\n"
            "routes:\n- {domains: [corp.example], via: 'relay.corp.example:465', tlsOnConnect: true, auth: {secretName: relay.a-b}}\n"
            "limits: {connections: 1, perDestination: 1, messageSize: 64Ki, reuse: 1, idle: 5m, finalTimeout: 595s}\n"
            "ownNames: [mx.example.net]\nownAddresses: [192.0.2.0/24]\nallowAddresses: [10.0.0.1]"
        ),
        [],
    ),
    (
        "numbers that look like text, and text that looks like numbers",
        outbound(
            "tls: {minVersion: 1.2}\nlimits: {messageSize: 52428800}\n"
            "dane: {skip: [{match: a.example, reason: x, until: 20270301}]}\nsubmission: {port: '25'}"
        ),
        [
            f'7: {OUT}.tls.minVersion: is the number 1.2; write one of 1.2, 1.3: "1.2", in quotes',
            f"8: {OUT}.limits.messageSize: is the number 52428800; write a size such as 50Mi or 10M",
            f"9: {OUT}.dane.skip[0].until: is the number 20270301; write a date such as 2027-03-01, in quotes",
            f"10: {OUT}.submission.port: is the text '25'; write a whole number, 1 to 65535: 25, without quotes",
        ],
    ),
    (
        "a number that is no version",
        outbound("tls: {minVersion: 1.4, ocsp: 1.2}"),
        [
            f"7: {OUT}.tls.minVersion: is the number 1.4; write one of 1.2, 1.3",
            f"7: {OUT}.tls.ocsp: is the number 1.2; write one of Auto, Off, Require",
        ],
    ),
    (
        "required fields",
        outbound("dane: {skip: [{}]}\ndns: {rootHints: [{}], stubs: [{}], forwards: [{}]}\nroutes: [{auth: {}}]"),
        [
            f"7: {OUT}.dane.skip[0].match: is required and missing; write a domain such as example.org, *.example.org, or *",
            f"7: {OUT}.dane.skip[0].reason: is required and missing; write text, 1 to 256 characters",
            f"7: {OUT}.dane.skip[0].until: is required and missing; write a date such as 2027-03-01, in quotes",
            f"8: {OUT}.dns.rootHints[0].name: is required and missing; write text, 1 to 254 characters",
            f"8: {OUT}.dns.rootHints[0].addresses: is required and missing; write a list, each item an IP address such as 127.0.0.1 or ::1",
            *(
                f"8: {OUT}.dns.{field}[0].{name}: is required and missing; write {words}"
                for field in ("stubs", "forwards")
                for name, words in (
                    ("zone", "text, 1 to 254 characters"),
                    ("servers", "a list, each item a server such as 10.0.0.53, 10.0.0.53:5353 or [fd00::53]:53"),
                )
            ),
            f"9: {OUT}.routes[0].domains: is required and missing; write a list, each item a domain such as example.org, *.example.org, or *",
            f"9: {OUT}.routes[0].via: is required and missing; write a relay such as relay.example.org:587, 192.0.2.1:25 or [2001:db8::1]:25",
            f"9: {OUT}.routes[0].auth.secretName: is required and missing; write text: lower-case letters, digits, inner hyphens and dots, 1 to 253 characters",
        ],
    ),
    (
        "scalars",
        outbound(
            "dane:\n  try: ['*.*']\n  require: [a..b]\n  skip: [{match: '', reason: '', until: 2027-02-29}]\n"
            "dns: {servers: [ns.example.org]}\nroutes: [{domains: [x@y], via: ':25', auth: {secretName: ../etc}}]\n"
            "limits: {messageSize: 50MB}\nownNames: [10.0.0.1]\nownAddresses: [10.0.0.1/8]\nallowAddresses: ['*']"
        ),
        [
            f"8: {OUT}.dane.try[0]: '*.*' is not a domain; write one like example.org, *.example.org or *",
            f"9: {OUT}.dane.require[0]: 'a..b' is not a domain; write one like example.org, *.example.org or *",
            f"10: {OUT}.dane.skip[0].match: '' is not a domain; write one like example.org, *.example.org or *",
            f"10: {OUT}.dane.skip[0].reason: has 0 characters; 1 to 256 characters are allowed",
            f"10: {OUT}.dane.skip[0].until: '2027-02-29' is not a date; write one like 2027-03-01",
            f"11: {OUT}.dns.servers[0]: 'ns.example.org' is not a server; write one like 10.0.0.53:53 or [fd00::53]:53",
            f"12: {OUT}.routes[0].domains[0]: 'x@y' is not a domain; write one like example.org, *.example.org or *",
            f"12: {OUT}.routes[0].via: ':25' is not a relay; write one like relay.example.org:587 or [2001:db8::1]:25",
            f"12: {OUT}.routes[0].auth.secretName: '../etc' is not allowed here; write text: lower-case letters, digits, inner hyphens and dots, 1 to 253 characters",
            f"13: {OUT}.limits.messageSize: '50MB' is not a size; write one like 50Mi or 10M",
            f"14: {OUT}.ownNames[0]: '10.0.0.1' is not a domain; write one like example.org, *.example.org or *",
            f"15: {OUT}.ownAddresses[0]: '10.0.0.1/8' has host bits set; the network is 10.0.0.0/8",
            f"16: {OUT}.allowAddresses[0]: '*' is not an IP address; write one like 127.0.0.1 or ::1",
        ],
    ),
    (
        "bounds",
        outbound(
            "submission: {port: 0, lmtpPort: 65536}\ndane: {digests: []}\nroutes: [{domains: [], via: a.example}]\n"
            "limits: {perDestination: 10001, reuse: 0}\ndns: {servers: ["
            + ", ".join(f"10.0.0.{n}" for n in range(9))
            + "]}\n"
            f"tls: {{caBundle: {'x' * 65537}}}"
        ),
        [
            f"7: {OUT}.submission.port: 0 is out of bounds; 1 to 65535 are allowed",
            f"7: {OUT}.submission.lmtpPort: 65536 is out of bounds; 1 to 65535 are allowed",
            f"8: {OUT}.dane.digests: has 0 items; 1 to 2 items are allowed",
            f"9: {OUT}.routes[0].domains: has 0 items; 1 to 1024 items are allowed",
            f"10: {OUT}.limits.perDestination: 10001 is out of bounds; 1 to 10000 are allowed",
            f"10: {OUT}.limits.reuse: 0 is out of bounds; 1 to 1000000 are allowed",
            f"11: {OUT}.dns.servers: has 9 items; at most 8 items are allowed",
            f"12: {OUT}.tls.caBundle: has 65537 characters; at most 65536 characters are allowed",
        ],
    ),
    (
        "what is broken here does not hide what is wrong there",
        (
            "spec:\n  hostname: mail\n  outbound:\n    zzz: 1\n    submission: {port: 11024}\n    dane: {try: [a.b, a.b]}\n"
            "    tls: {minVersion: '1.3'}\n    dns: {servers: [10.0.0.1]}\n    limits: {idle: 0s}\n"
            "    ownNames: ['*']\n    ownAddresses: ['::/0']\n    allowAddresses: ['::1']\n"
            "    routes:\n    - {domains: [a.b, a.b], via: a.b}\n    - {domains: [a.b], via: 0.0.0.0}\n    - {domains: [a.b]}\n"
            "  inbound:\n  - {name: a, port: x, backend: {port: 2, handover: ProxyV1}}\n"
            "  - {name: a, port: 15925, backend: {port: 2, handover: ProxyV1}}\n"
        ),
        [
            "5: spec.hostname: 'mail' is not qualified, and with outbound other servers are greeted with it; write a name that they can look up, such as mail.example.net",
            f"7: {OUT}.zzz: unknown field 'zzz'; known here: submission, dane, tls, dns, routes, limits, ownNames, ownAddresses, allowAddresses",
            f"8: {OUT}.submission.lmtpPort: 11024 is the port for SMTP too; take another port: a client does not say which of the two it speaks",
            f"9: {OUT}.dane.try[1]: a.b stands in {OUT}.dane.try[0] too; {ONE_OF_TWO}",
            f"11: {OUT}.dns.servers: Embedded does not ask these servers; write resolver: Servers to trust them, or forwards for Embedded to ask",
            f"12: {OUT}.limits.idle: is zero; write a duration above zero, such as 5s",
            f"13: {OUT}.ownNames[0]: * would make every host ours, and no mail could leave; name your own hosts",
            f"14: {OUT}.ownAddresses[0]: ::/0 would make every host ours, and no mail could leave; write your own addresses",
            f"15: warning: {OUT}.allowAddresses[0]: ::1 lets mail to x@[127.0.0.1], or to whoever names it in an MX record, come back into this pod, and mail servers let local clients relay; leave it out unless a filter listens there, and nothing else",
            f"17: {OUT}.routes[0].domains[1]: a.b stands in {OUT}.routes[0].domains[0] too; {ONE_OF_TWO}",
            f"18: {OUT}.routes[1].via: 0.0.0.0 is no address of a relay; write the relay's name, or its address",
            f"19: {OUT}.routes[2].via: is required and missing; write a relay such as relay.example.org:587, 192.0.2.1:25 or [2001:db8::1]:25",
            "21: spec.inbound[0].port: is the text 'x'; write a whole number, 1 to 65535",
            "22: spec.inbound[1].port: 15925 is the sidecar's admin port; take another port",
        ],
    ),
    (
        "a section that is sound in a file that is not",
        outbound("submission: {port: 25}\nroutes: [{domains: [a.b], via: 127.0.0.1}]", inbound=listener(25) + "\n- {}")
        + "  priority: x\n",
        [
            f"7: {OUT}.submission.port: spec.inbound[0] listens on port 25 of loopback too; take another port for one of the two",
            f"8: {OUT}.routes[0].via: 25 is a port that the sidecar listens on: mail would go round in a loop; give the relay's own port",
            f"8: {OUT}.routes[0].via: 127.0.0.1 is in this pod, where the mail server may trust whatever comes from here; name a relay elsewhere, or write 127.0.0.1 in {OUT}.allowAddresses",
            *(
                f"11: spec.inbound[1].{name}: is required and missing; write {words}"
                for name, words in (
                    ("name", "text: lower-case letters, digits and inner hyphens, 1 to 12 characters"),
                    ("port", "a whole number, 1 to 65535"),
                    ("backend", "a mapping with port, handover"),
                )
            ),
            "12: spec.priority: is the text 'x'; write a whole number, -1000000 to 1000000",
        ],
    ),
    (
        "a hostname that is no text hides nothing else",
        "spec:\n  hostname: 5\n  outbound: {limits: {idle: 0s}}\n",
        [
            "5: spec.hostname: is the number 5; write text, at most 253 characters",
            f"6: {OUT}.limits.idle: is zero; write a duration above zero, such as 5s",
        ],
    ),
    (
        "a hostname that is missing in a file that is broken",
        "spec:\n  hostname: null\n  outbound: {zzz: 1}\n",
        [
            "5: spec.hostname: is required with outbound and missing; write one like mail.example.net",
            f"6: {OUT}.zzz: unknown field 'zzz'; known here: submission, dane, tls, dns, routes, limits, ownNames, ownAddresses, allowAddresses",
        ],
    ),
]


@pytest.mark.parametrize(("text", "expected"), [row[1:] for row in SHAPE], ids=[row[0] for row in SHAPE])
def test_shape(text: str, expected: list[str]) -> None:
    found = told(text)
    assert sorted(found) == sorted(expected)
    lines = [int(problem.split(":")[0]) for problem in found]
    assert lines == sorted(lines), "in the order of the file"


UNQUALIFIED = "is not qualified, and with outbound other servers are greeted with it; write a name that they can look up, such as mail.example.net"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hostname: mail.example.net", []),
        ("hostname: a.b", []),
        ("hostname: mail", [f"5: spec.hostname: 'mail' {UNQUALIFIED}"]),
        ("hostname: 192.0.2.1", [f"5: spec.hostname: '192.0.2.1' {UNQUALIFIED}"]),
        ("hostname: '-'", ["5: spec.hostname: '-' is not a host name; write one like mail.example.net"]),
        (
            "hostname: null",
            ["5: spec.hostname: is required with outbound and missing; write one like mail.example.net"],
        ),
        ("priority: 0", ["4: spec.hostname: is required with outbound and missing; write one like mail.example.net"]),
    ],
)
def test_a_hostname_is_needed_to_greet_others(name: str, expected: list[str]) -> None:
    assert told(f"spec:\n  {name}\n  outbound: {{}}\n") == expected
    inbound = "[{name: a, port: 25, backend: {port: 2525, handover: ProxyV2}}]"
    if "'-'" not in name:
        assert told(f"spec:\n  {name}\n  inbound: {inbound}\n") == []


def _doors(field: str, message: str, remedy: str = "take another port", line: int = 7) -> list[str]:
    return [f"{line}: {OUT}.submission.{field}: {message}; {remedy}"]


CLASH = "spec.inbound[0] listens on port {} of loopback too"
OPEN_RELAY = "is a submission port, and whoever connects from outside could relay anywhere; give the port that the mail server listens on, such as 2525"
LOOP = "is a port that the sidecar listens on: mail would go round in a loop; give the relay's own port"
IN_THIS_POD = f"is in this pod, where the mail server may trust whatever comes from here; name a relay elsewhere, or write {{}} in {OUT}.allowAddresses"
ALLOWED = (
    f"warning: {OUT}.allowAddresses[0]: {{}} lets mail to x@[127.0.0.1], or to whoever names it in an MX record, come back into this pod, "
    "and mail servers let local clients relay; leave it out unless a filter listens there, and nothing else"
)
HALF = "take another port for one of the two"

DOORS: list[tuple[str, str, list[str]]] = [
    ("the admin port", outbound("submission: {port: 15925}"), _doors("port", "15925 is the sidecar's admin port")),
    (
        "the admin port by LMTP",
        outbound("submission: {lmtpPort: 15925}"),
        _doors("lmtpPort", "15925 is the sidecar's admin port"),
    ),
    (
        "one port for both, a default",
        outbound("submission: {lmtpPort: 11025}"),
        _doors(
            "lmtpPort",
            "11025 is the port for SMTP too",
            "take another port: a client does not say which of the two it speaks",
        ),
    ),
    (
        "a listener on all addresses, both defaults",
        outbound(inbound=listener(11025)),
        _doors("port", CLASH.format(11025), HALF, 6),
    ),
    ("a listener by LMTP", outbound(inbound=listener(11024)), _doors("lmtpPort", CLASH.format(11024), HALF, 6)),
    *(
        (
            f"a listener on {address}",
            outbound(inbound=listener(11025, f", address: '{address}'")),
            _doors("port", CLASH.format(11025), HALF, 6),
        )
        for address in ("127.0.0.1", "::1", "0.0.0.0", "::")
    ),
    *(
        (f"a listener on {address}", outbound(inbound=listener(11025, f", address: '{address}'")), [])
        for address in ("192.0.2.1", "fd00::1", "127.0.0.2")
    ),
    (
        "a backend that is a door",
        outbound(inbound=listener(25, backend=11025)),
        [f"9: spec.inbound[0].backend.port: 11025 {OPEN_RELAY}"],
    ),
    (
        "a backend that is the LMTP door",
        outbound(inbound=listener(25, backend=11024)),
        [f"9: spec.inbound[0].backend.port: 11024 {OPEN_RELAY}"],
    ),
    (
        "a backend elsewhere at such a port",
        outbound(
            inbound="- {name: a, port: 25, backend: {port: 11025, handover: ProxyV2, address: 10.0.0.9, acknowledgeRemoteBackend: true}}"
        ),
        [],
    ),
    (
        "a backend that is a door for IPv6 clients only",
        outbound(
            inbound="- {name: a, port: 25, backend: {port: 11025, handover: Transparent, address: 10.0.0.9, acknowledgeRemoteBackend: true}}"
        ),
        [f"9: spec.inbound[0].backend.port: 11025 {OPEN_RELAY}"],
    ),
    ("other ports", outbound("submission: {port: 25, lmtpPort: 24}", inbound=listener(11025, backend=11024)), []),
]

DANE: list[tuple[str, str, list[str]]] = [
    (
        "a skip within require",
        outbound("dane: {require: ['*.a.example'], skip: [{match: b.a.example, reason: x, until: 2027-03-01}]}"),
        [],
    ),
    (
        "a skip that never counts",
        outbound(
            "dane:\n  require: ['*', '*.A.example', '*.a.example']\n  skip:\n  - {match: '*.a.example.', reason: x, until: 2027-03-01}"
        ),
        [
            f"8: {OUT}.dane.require[2]: *.a.example stands in {OUT}.dane.require[1] too; {ONE_OF_TWO}",
            f"10: warning: {OUT}.dane.skip[0].match: *.a.example. stands in {OUT}.dane.require[1], which wins; take it out there, or skip something more specific",
        ],
    ),
    (
        "a skip twice",
        outbound(
            "dane:\n  skip:\n  - {match: a.b, reason: x, until: 2027-03-01}\n  - {match: A.b, reason: y, until: 2028-03-01}"
        ),
        [f"10: {OUT}.dane.skip[1].match: A.b stands in {OUT}.dane.skip[0] too; {ONE_OF_TWO}"],
    ),
    ("a skip that is over", outbound("dane: {skip: [{match: a.b, reason: x, until: 1999-12-31}]}"), []),
    ("require without try", outbound("dane: {try: [], require: [a.b]}"), []),
    (
        "DANE is off",
        outbound("dane: {try: []}"),
        [
            f"7: warning: {OUT}.dane.try: is empty, and so is require: DANE is off, and whoever is on the way can read and take all mail; leave it out"
        ],
    ),
    (
        "digests twice",
        outbound("dane: {digests: [SHA2-512, SHA2-512]}"),
        [f"7: {OUT}.dane.digests: SHA2-512 stands there twice; {ONE_OF_TWO}"],
    ),
    ("the digest that everybody has", outbound("dane: {digests: [SHA2-256]}"), []),
    (
        "without the digest that everybody has",
        outbound("dane: {digests: [SHA2-512]}"),
        [
            (
                f"7: warning: {OUT}.dane.digests: leaves SHA2-256 out: where nothing else is published, mail goes to hosts that were not authenticated; "
                "write it last, or leave digests out"
            )
        ],
    ),
]

WHOLE = "copy it again, whole"
TLS: list[tuple[str, str, list[str]]] = [
    ("new versions", outbound("tls: {minVersion: '1.3'}"), []),
    (
        "a bundle",
        bundle("# Our CA\n" + pem() + "\nanother\n" + pem(b"\x30\x81\x80" + bytes(128))),
        [],
    ),
    (
        "a bundle that is never read",
        bundle(pem(), "Encrypt"),
        [
            f"9: warning: {OUT}.tls.caBundle: is read for withoutDane: Verify only, and it is Encrypt; leave it out, or set withoutDane: Verify"
        ],
    ),
    *(
        (name, bundle(text), [f"9: {OUT}.tls.caBundle: {message}"])
        for name, text, message in (
            ("no PEM", "MIIB", "holds no certificate; write PEM, which begins with -----BEGIN CERTIFICATE-----"),
            (
                "a private key",
                pem() + pem(label="EC PRIVATE KEY"),
                "holds a private key; take it out and replace it: whoever may read policies has it now",
            ),
            (
                "a private key without a kind",
                pem(label="PRIVATE KEY"),
                "holds a private key; take it out and replace it: whoever may read policies has it now",
            ),
            (
                "OpenSSL's own kind",
                pem(label="TRUSTED CERTIFICATE"),
                "holds a block 'TRUSTED CERTIFICATE'; write certificates only, as CERTIFICATE",
            ),
            ("no end", pem()[:-26], f"ends within a certificate; {WHOLE}"),
            ("cut off", pem() + pem()[:200], f"ends within a certificate; {WHOLE}"),
            (
                "a block within a block",
                pem()[:-26] + pem(),
                "has a block within a block in its line 7; write the END line before it",
            ),
            (
                "not base64",
                pem().replace("AAAA", "A*AA", 1),
                f"has a damaged certificate that ends in its line 7; {WHOLE}",
            ),
            (
                "a line is missing",
                "".join(pem().splitlines(keepends=True)[:3] + pem().splitlines(keepends=True)[4:]),
                f"has a damaged certificate that ends in its line 6; {WHOLE}",
            ),
            ("no DER", pem(b"hello"), f"has a damaged certificate that ends in its line 3; {WHOLE}"),
            ("empty DER", pem(b"\x30"), f"has a damaged certificate that ends in its line 3; {WHOLE}"),
            ("short DER", pem(b"\x30\x02\x05\x00"), f"has a damaged certificate that ends in its line 3; {WHOLE}"),
            ("an empty block", pem(b""), f"has a damaged certificate that ends in its line 2; {WHOLE}"),
            (
                "an end alone",
                "-----END CERTIFICATE-----",
                "holds no certificate; write PEM, which begins with -----BEGIN CERTIFICATE-----",
            ),
        )
    ),
]

FORGED = "is not on loopback, and anybody on the way to it can forge that an answer is validated; use Embedded, or set acknowledgeTrustedPath: true if nobody can"
FOR_EMBEDDED = "is for Embedded; Servers answer as they are set up themselves; leave it out, or leave resolver out"
NOT_SECURE = "never comes back secure; leave insecure out, or let selfTest.secure name a signed zone elsewhere"
DS = ". IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D"
DNS: list[tuple[str, str, list[str]]] = [
    (
        "Servers without any",
        outbound("dns: {resolver: Servers}"),
        [
            f"7: {OUT}.dns.servers: Servers needs the resolvers to ask; give at least one, such as 127.0.0.1:53, or leave resolver out"
        ],
    ),
    ("Servers on loopback", outbound("dns: {resolver: Servers, servers: [127.0.0.1, '[::1]:5353', 127.0.0.53]}"), []),
    (
        "Servers elsewhere",
        outbound("dns: {resolver: Servers, servers: [127.0.0.1, 10.0.0.53, 'fd00::53']}"),
        [f"7: {OUT}.dns.servers[1]: 10.0.0.53 {FORGED}", f"7: {OUT}.dns.servers[2]: fd00::53 {FORGED}"],
    ),
    (
        "Servers elsewhere, acknowledged",
        outbound("dns: {resolver: Servers, servers: [10.0.0.53], acknowledgeTrustedPath: true}"),
        [],
    ),
    (
        "servers for Embedded",
        outbound("dns: {servers: [10.0.0.53]}"),
        [
            f"7: {OUT}.dns.servers: Embedded does not ask these servers; write resolver: Servers to trust them, or forwards for Embedded to ask"
        ],
    ),
    (
        "what Servers never read",
        outbound(
            f"dns:\n  resolver: Servers\n  servers: [127.0.0.1]\n  trustAnchors: ['{DS}']\n  rootHints: [{{name: a.test, addresses: [10.0.0.1]}}]\n"
            "  stubs: [{zone: a, servers: [10.0.0.1]}]\n  forwards: [{zone: b, servers: [10.0.0.1]}]"
        ),
        [
            f"{line}: {OUT}.dns.{name}: {FOR_EMBEDDED}"
            for line, name in ((10, "trustAnchors"), (11, "rootHints"), (12, "stubs"), (13, "forwards"))
        ],
    ),
    (
        "servers that are nowhere, or there twice",
        outbound(
            "dns:\n  rootHints: [{name: a.test, addresses: [0.0.0.0, 10.0.0.1, 10.0.0.1]}]\n"
            "  stubs: [{zone: a, servers: ['ff02::1', '[fd00::1]:53', '[fd00:0::1]:53']}]\n"
            "  forwards: [{zone: b, servers: ['::', 10.0.0.1, '10.0.0.1:53', 10.0.0.1]}]"
        ),
        [
            f"8: {OUT}.dns.rootHints[0].addresses[0]: 0.0.0.0 is no address of a server; {ADDRESS}",
            f"8: {OUT}.dns.rootHints[0].addresses[2]: 10.0.0.1 stands in {OUT}.dns.rootHints[0].addresses[1] too; {ONE_OF_TWO}",
            f"9: {OUT}.dns.stubs[0].servers[0]: ff02::1 is no address of a server; {ADDRESS}",
            f"9: {OUT}.dns.stubs[0].servers[2]: [fd00:0::1]:53 stands in {OUT}.dns.stubs[0].servers[1] too; {ONE_OF_TWO}",
            f"10: {OUT}.dns.forwards[0].servers[0]: :: is no address of a server; {ADDRESS}",
            f"10: {OUT}.dns.forwards[0].servers[3]: 10.0.0.1 stands in {OUT}.dns.forwards[0].servers[1] too; {ONE_OF_TWO}",
        ],
    ),
    (
        "servers that are nowhere for Servers",
        outbound("dns: {resolver: Servers, servers: [127.0.0.1, 0.0.0.0, 127.0.0.1], acknowledgeTrustedPath: true}"),
        [
            f"7: {OUT}.dns.servers[1]: 0.0.0.0 is no address of a server; {ADDRESS}",
            f"7: {OUT}.dns.servers[2]: 127.0.0.1 stands in {OUT}.dns.servers[0] too; {ONE_OF_TWO}",
        ],
    ),
    ("a trust anchor", outbound(f"dns: {{trustAnchors: ['{DS}']}}"), []),
    (
        "no trust anchor",
        outbound(f"dns:\n  trustAnchors:\n  - {DS[:-2]}\n  - {DS}\n  - '; {DS}'"),
        [
            f"9: {OUT}.dns.trustAnchors[0]: '{DS.split()[-1][:-2]}' is no digest of type 2; write 64 hexadecimal digits",
            (
                f"11: {OUT}.dns.trustAnchors[2]: '; {DS[:73]}...' does not begin with a zone's name; "
                "write a DS or DNSKEY line as a zone file has it, such as . IN DS 20326 8 2 E06D44B8..."
            ),
        ],
    ),
    (
        "root hints",
        outbound(
            "dns:\n  rootHints:\n"
            + "".join(
                f"  - {{name: '{name}', addresses: [10.0.0.1]}}\n"
                for name in (".", "a b", "10.0.0.1", "a.test", "A.test.")
            )
        ),
        [
            *(
                f"{line}: {OUT}.dns.rootHints[{line - 9}].name: {name!r} is no server's name; write one like a.root-servers.net"
                for line, name in ((9, "."), (10, "a b"), (11, "10.0.0.1"))
            ),
            f"13: {OUT}.dns.rootHints[4].name: A.test. stands in {OUT}.dns.rootHints[3] too; write all its addresses in one place",
        ],
    ),
    (
        "zones",
        outbound(
            "dns:\n  stubs:\n  - {zone: corp.example, servers: [10.0.0.1]}\n  - {zone: Corp.Example., servers: [10.0.0.1]}\n  - {zone: 'a b', servers: [10.0.0.1]}\n"
            "  - {zone: 10.in-addr.arpa, servers: [10.0.0.1]}\n"
            "  forwards:\n  - {zone: ., servers: [10.0.0.1]}\n  - {zone: corp.example, servers: [10.0.0.1]}\n  - {zone: 10.0.0.1, servers: [10.0.0.1]}\n"
        ),
        [
            f"10: {OUT}.dns.stubs[1].zone: Corp.Example. stands in {OUT}.dns.stubs[0] too; keep one of the two: a zone is asked for in one place",
            f"11: {OUT}.dns.stubs[2].zone: 'a b' is no zone's name; write one like corp.example, or . for all names",
            f"15: {OUT}.dns.forwards[1].zone: corp.example stands in {OUT}.dns.stubs[0] too; keep one of the two: a zone is asked for in one place",
            f"16: {OUT}.dns.forwards[2].zone: '10.0.0.1' is no zone's name; write one like corp.example, or . for all names",
        ],
    ),
    ("forwards of everything, in clear text", outbound("dns: {forwards: [{zone: ., servers: [192.0.2.53]}]}"), []),
    *(
        (
            f"tlsName {name!r}",
            outbound(f"dns: {{forwards: [{{zone: ., servers: [192.0.2.53], tlsName: {name!r}}}]}}"),
            [
                f"7: {OUT}.dns.forwards[0].tlsName: {name!a} is no host name, which the server's certificate would have; write one like dns.example.net"
            ]
            if bad
            else [],
        )
        for name, bad in (
            ("dns.example.net", False),
            ("dns_1.example.net", True),
            (".", True),
            ("192.0.2.53", True),
            ("a#b", True),
            ("bücher.example", True),
        )
    ),
    *(
        (
            f"selfTest {field} {name!r}",
            outbound(f"dns: {{selfTest: {{{field}: {name!r}}}}}"),
            [
                f"7: {OUT}.dns.selfTest.{field}: {name!r} is no domain that could be looked up; write one like example.org"
            ]
            if bad
            else [],
        )
        for field, name, bad in (
            ("secure", "org", False),
            ("secure", "a b", True),
            ("bogus", "192.0.2.1", True),
            ("bogus", "bogus.test", False),
        )
    ),
    (
        "a name that is both",
        outbound("dns: {selfTest: {secure: A.example, bogus: a.example.}}"),
        [
            f"7: {OUT}.dns.selfTest.bogus: a.example. cannot both come back secure and fail; give a name whose signatures are broken, such as dnssec-failed.org"
        ],
    ),
    (
        "the root as bogus",
        outbound("dns: {selfTest: {bogus: .}}"),
        [
            f"7: {OUT}.dns.selfTest.bogus: '.' is no domain that could be looked up; write one like example.org",
            f"7: {OUT}.dns.selfTest.bogus: . cannot both come back secure and fail; give a name whose signatures are broken, such as dnssec-failed.org",
        ],
    ),
    (
        "insecure zones beside the self-test",
        outbound(
            "dns: {stubs: [{zone: cluster.local, servers: [10.0.0.10], insecure: true}], selfTest: {secure: local}}"
        ),
        [],
    ),
    *(
        (
            f"a self-test within the insecure zone {zone}",
            outbound(
                f"dns: {{forwards: [{{zone: {zone}, servers: [10.0.0.10], insecure: true}}], selfTest: {{secure: a.b.example}}}}"
            ),
            [f"7: {OUT}.dns.forwards[0].insecure: nothing in {zone} is validated then, so a.b.example {NOT_SECURE}"],
        )
        for zone in (".", "example", "b.example", "A.b.example")
    ),
    (
        "the default self-test and another anchor than the root's",
        outbound(f"dns: {{trustAnchors: ['corp{DS}']}}"),
        [],
    ),
    ("two anchors", outbound(f"dns: {{trustAnchors: ['corp{DS}', '{DS}']}}"), []),
    (
        "an island of trust",
        outbound(
            f"dns: {{forwards: [{{zone: ., servers: [10.0.0.10], insecure: true}}], trustAnchors: ['corp.{DS[1:]}'], selfTest: {{secure: corp}}}}"
        ),
        [],
    ),
]

KEEP_ROUTE = "keep one of the two: a domain has one route"
NO_NAME = (
    "has no name, so neither DANE nor a certificate can say who would hear the password; write the relay's name in via"
)
NOTHING_TO_VERIFY = "has no name to verify, and withoutDane is Verify: its mail would never go; write the relay's name"
NEVER_SENT = "AUTH needs DANE or a verified certificate, and here there is neither: all its mail is deferred; let dane.try have the relay's name, or set tls.withoutDane: Verify"


def _route(via: str, more: str = "", domains: str = "a.example") -> str:
    return f"routes: [{{domains: ['{domains}'], via: '{via}'{more}}}]"


ROUTES: list[tuple[str, str, list[str]]] = [
    (
        "the same pattern in two routes",
        outbound(
            "routes:\n- {domains: ['*.a.b', a.b], via: x.example}\n- {domains: [c.b, '*.A.b.'], via: y.example}\n- {domains: ['*'], via: z.example}"
        ),
        [f"9: {OUT}.routes[1].domains[1]: *.A.b. stands in {OUT}.routes[0].domains[0] too; {KEEP_ROUTE}"],
    ),
    *(
        (
            f"via {address}",
            outbound(_route(address)),
            [f"7: {OUT}.routes[0].via: {address} is no address of a relay; write the relay's name, or its address"],
        )
        for address in ("0.0.0.0", "::", "224.0.0.1:25", "[ff02::1]:25", "255.255.255.255")
    ),
    ("an address", outbound(_route("192.0.2.1:587")), []),
    *(
        (
            f"AUTH to an address, {level}",
            outbound(_route("192.0.2.1", ", auth: {secretName: s}") + f"\ntls: {{withoutDane: {level}}}"),
            [f"7: {OUT}.routes[0].auth: 192.0.2.1 {NO_NAME}"],
        )
        for level in ("Opportunistic", "Encrypt")
    ),
    (
        "AUTH to an address, and DANE elsewhere",
        outbound(_route("192.0.2.1", ", auth: {secretName: s}") + "\ndane: {try: [b.example]}"),
        [f"7: {OUT}.routes[0].auth: 192.0.2.1 {NO_NAME}"],
    ),
    ("no AUTH, and DANE elsewhere", outbound(_route("relay.example") + "\ndane: {try: [b.example]}"), []),
    (
        "AUTH to an address, and nothing to verify",
        outbound(_route("192.0.2.1", ", auth: {secretName: s}") + "\ntls: {withoutDane: Verify}"),
        [f"7: {OUT}.routes[0].auth: 192.0.2.1 {NO_NAME}", f"7: {OUT}.routes[0].via: 192.0.2.1 {NOTHING_TO_VERIFY}"],
    ),
    ("a name to verify", outbound(_route("relay.example") + "\ntls: {withoutDane: Verify}"), []),
    *(
        (
            f"via link-local {address}",
            outbound(_route(via)),
            [
                f"7: {OUT}.routes[0].via: {via} is link-local, where the node's own services are; name a relay elsewhere, or write {address} in {OUT}.allowAddresses"
            ],
        )
        for via, address in (("169.254.169.254", "169.254.169.254"), ("[fe80::1]:587", "fe80::1"))
    ),
    ("link-local, allowed", outbound(_route("169.254.1.1") + "\nallowAddresses: [169.254.1.1]"), []),
    *(
        (
            f"via {via}",
            outbound(_route(f"{via}:2525")),
            [f"7: {OUT}.routes[0].via: {via}:2525 {IN_THIS_POD.format(address)}"],
        )
        for via, address in (
            ("127.0.0.1", "127.0.0.1"),
            ("127.8.8.8", "127.8.8.8"),
            ("[::1]", "::1"),
            ("[::ffff:127.0.0.1]", "127.0.0.1"),
            ("localhost", "127.0.0.1"),
            ("a.LOCALHOST.", "127.0.0.1"),
        )
    ),
    ("via a name like localhost", outbound(_route("notlocalhost")), []),
    (
        "loopback, allowed",
        outbound(_route("127.0.0.1:10025") + "\nallowAddresses: [127.0.0.1]"),
        [f"8: {ALLOWED.format('127.0.0.1')}"],
    ),
    (
        "localhost, allowed",
        outbound(_route("localhost:10025") + "\nallowAddresses: ['::1']"),
        [f"8: {ALLOWED.format('::1')}"],
    ),
    (
        "another loopback address, allowed",
        outbound(_route("127.0.0.1:10025") + "\nallowAddresses: [127.0.0.2]"),
        [
            f"7: {OUT}.routes[0].via: 127.0.0.1:10025 {IN_THIS_POD.format('127.0.0.1')}",
            f"8: {ALLOWED.format('127.0.0.2')}",
        ],
    ),
    (
        "an own address",
        outbound(_route("192.0.2.7") + "\nownAddresses: [192.0.2.0/24]"),
        [f"7: {OUT}.routes[0].via: 192.0.2.7 {IN_THIS_POD.format('192.0.2.7')}"],
    ),
    (
        "an own address, allowed",
        outbound(_route("192.0.2.7") + "\nownAddresses: [192.0.2.0/24]\nallowAddresses: [192.0.2.7]"),
        [],
    ),
    *(
        (
            f"round to {port}",
            outbound(_route(f"127.0.0.1:{port}") + "\nallowAddresses: [127.0.0.1]", inbound=listener(25)),
            [f"7: {OUT}.routes[0].via: {port} {LOOP}", f"8: {ALLOWED.format('127.0.0.1')}"],
        )
        for port in (11025, 11024, 15925, 25)
    ),
    (
        "round by name",
        outbound(_route("localhost:11025") + "\nallowAddresses: [127.0.0.1]"),
        [f"7: {OUT}.routes[0].via: 11025 {LOOP}", f"8: {ALLOWED.format('127.0.0.1')}"],
    ),
    (
        "not round: a listener on another address",
        outbound(
            _route("127.0.0.1:25") + "\nallowAddresses: [127.0.0.1]", inbound=listener(25, ", address: 192.0.2.1")
        ),
        [f"8: {ALLOWED.format('127.0.0.1')}"],
    ),
    (
        "round to a listener's own address",
        outbound(_route("192.0.2.1:25"), inbound=listener(25, ", address: 192.0.2.1")),
        [f"7: {OUT}.routes[0].via: 25 {LOOP}"],
    ),
    (
        "round to an own address",
        outbound(
            _route("192.0.2.1:25") + "\nownAddresses: [192.0.2.1]\nallowAddresses: [192.0.2.1]", inbound=listener(25)
        ),
        [f"7: {OUT}.routes[0].via: 25 {LOOP}"],
    ),
    ("the same ports elsewhere", outbound(_route("192.0.2.1:11025"), inbound=listener(11026)), []),
    (
        "an own address has no doors",
        outbound(_route("192.0.2.1:11025") + "\nownAddresses: [192.0.2.1]\nallowAddresses: [192.0.2.1]"),
        [],
    ),
    *(
        (
            f"require {require} and an address for {domains}",
            outbound(_route("192.0.2.1", domains=domains) + f"\ndane: {{require: ['{require}']}}"),
            [
                f"7: {OUT}.routes[0].via: 192.0.2.1 has no DANE, and dane.require has {require}: mail for {domains} would never go; write the relay's name"
            ]
            if never
            else [],
        )
        for require, domains, never in (
            ("*", "*", True),
            ("*", "a.b", True),
            ("*.b", "a.b", True),
            ("*.b", "*.a.b", True),
            ("*.b", "*.b", True),
            ("a.b", "A.b", True),
            ("*.b", "b", False),
            ("*.a.b", "*.b", False),
            ("a.b", "*.b", False),
            ("a.b", "c.b", False),
        )
    ),
    (
        "require, an address, and a skip",
        outbound(
            _route("192.0.2.1", domains="*.b")
            + "\ndane: {require: ['*'], skip: [{match: a.b, reason: x, until: 2027-03-01}]}"
        ),
        [],
    ),
    (
        "require, an address, and a skip elsewhere",
        outbound(
            _route("192.0.2.1", domains="*.b")
            + "\ndane: {require: ['*'], skip: [{match: a.c, reason: x, until: 2027-03-01}]}"
        ),
        [
            f"7: {OUT}.routes[0].via: 192.0.2.1 has no DANE, and dane.require has *: mail for *.b would never go; write the relay's name"
        ],
    ),
    ("require and a name", outbound(_route("relay.example") + "\ndane: {require: ['*']}"), []),
    *(
        (
            f"AUTH with {name}",
            outbound(_route("relay.example:587", ", auth: {secretName: s}") + f"\n{settings}"),
            [f"7: warning: {OUT}.routes[0].auth: {NEVER_SENT}"] if warns else [],
        )
        for name, settings, warns in (
            ("defaults", "ownNames: []", False),
            ("try elsewhere", "dane: {try: [b.example]}", True),
            ("try elsewhere and Verify", "dane: {try: [b.example]}\ntls: {withoutDane: Verify}", False),
            ("try elsewhere and Encrypt", "dane: {try: [b.example]}\ntls: {withoutDane: Encrypt}", True),
            ("try of the relay", "dane: {try: [relay.example]}", False),
            ("try of its domain", "dane: {try: [a.example]}", False),
            ("require of the relay", "dane: {try: [b.example], require: ['*.example']}", False),
        )
    ),
]

LIMITS: list[tuple[str, str, list[str]]] = [
    (
        "zeros",
        outbound("limits: {idle: 0s, finalTimeout: 0ms}"),
        [
            f"7: {OUT}.limits.{field}: is zero; write a duration above zero, such as 5s"
            for field in ("idle", "finalTimeout")
        ],
    ),
    (
        "a long idle",
        outbound("limits: {idle: 5m1ms}"),
        [
            f"7: {OUT}.limits.idle: 5m1ms is out of bounds; at most 5m are allowed: no server need wait longer for a command"
        ],
    ),
    (
        "a long final timeout",
        outbound("limits: {finalTimeout: 595001ms}"),
        [
            (
                f"7: warning: {OUT}.limits.finalTimeout: 595001ms is longer than Postfix waits for us, 600s, and then it sends the mail again; "
                "leave it out, or give every submitter a longer timeout"
            )
        ],
    ),
    ("the largest message", outbound("limits: {messageSize: 1Gi}"), []),
    ("the smallest message", outbound("limits: {messageSize: '65536'}"), []),
    *(
        (
            f"messages of {size}",
            outbound(f"limits: {{messageSize: '{size}'}}"),
            [f"7: {OUT}.limits.messageSize: {size} is out of bounds; 64Ki to 1Gi are allowed"],
        )
        for size in ("0", "65535", "1073741825", "99999999999999999999")
    ),
    (
        "own names",
        outbound("ownNames: [mx.example.net, '*.example.net', MX.example.net]"),
        [f"7: {OUT}.ownNames[2]: MX.example.net stands in {OUT}.ownNames[0] too; {ONE_OF_TWO}"],
    ),
    (
        "all addresses are ours",
        outbound("ownAddresses: [192.0.2.1, 0.0.0.0/0]"),
        [
            f"7: {OUT}.ownAddresses[1]: 0.0.0.0/0 would make every host ours, and no mail could leave; write your own addresses"
        ],
    ),
    *(
        (f"allowAddresses {network}", outbound(f"allowAddresses: ['{network}']"), [f"7: {ALLOWED.format(network)}"])
        for network in ("127.0.0.0/8", "127.9.9.9", "0.0.0.0/0", "::/0", "::1", "::/127")
    ),
    *(
        (f"allowAddresses {network}", outbound(f"allowAddresses: ['{network}']"), [])
        for network in ("10.0.0.0/8", "fd00::/8", "128.0.0.0/1")
    ),
]

MEANING = [*DOORS, *DANE, *TLS, *DNS, *ROUTES, *LIMITS]


@pytest.mark.parametrize(("text", "expected"), [row[1:] for row in MEANING], ids=[row[0] for row in MEANING])
def test_meaning(text: str, expected: list[str]) -> None:
    assert sorted(told(text)) == sorted(expected)


def test_many_begin_lines_take_no_time() -> None:
    """64 KiB of them: a search for each one's end would take seconds."""
    (problem,) = told(bundle("-----BEGIN CERTIFICATE-----\n" * 2000))
    assert problem == f"9: {OUT}.tls.caBundle: has a block within a block in its line 2; write the END line before it"
