"""Manifests that are wrong in shape or in meaning, each with exactly the problems that a person is told."""

# ruff: noqa: E501 - a message stands whole, so that it can be searched for

from __future__ import annotations

import pytest

from postern_sidecar import config

HEAD = "apiVersion: postern.dev/v1alpha1\nkind: MailProxyPolicy\nmetadata: {name: edge}\n"


def found(text: str) -> list[str]:
    """Warnings and errors, without the file's name."""
    try:
        problems = config.load((HEAD + text).encode(), "p").warnings
    except config.InvalidPolicy as refused:
        problems = refused.problems
    return [str(problem).removeprefix("p:") for problem in problems]


def listener(fields: str = "", backend: str = "port: 2525, handover: ProxyV2") -> str:
    """A policy with one listener; `fields` begin on line 9."""
    lines = "".join(f"    {line}\n" for line in fields.splitlines())
    return f"spec:\n  inbound:\n  - name: smtp\n    port: 25\n    backend: {{{backend}}}\n{lines}"


IN = "spec.inbound[0]"
SHAPE: list[tuple[str, str, list[str]]] = [
    (
        "unknown field with a near one",
        listener("proxyprotocol: {}"),
        [f"9: {IN}.proxyprotocol: unknown field 'proxyprotocol'; did you mean proxyProtocol?"],
    ),
    (
        "unknown field like no other",
        listener("proxyProtocol:\n  zzz: 1"),
        [
            (
                f"10: {IN}.proxyProtocol.zzz: unknown field 'zzz'; known here: requiredFrom, others, timeout, onFailure, "
                "unknown, probes, allowSources"
            )
        ],
    ),
    (
        "required fields",
        "spec:\n  inbound:\n  - backend: {}\n",
        [
            (
                f"6: {IN}.name: is required and missing; write text: lower-case letters, digits and inner hyphens, "
                "1 to 12 characters"
            ),
            f"6: {IN}.port: is required and missing; write a whole number, 1 to 65535",
            f"6: {IN}.backend.port: is required and missing; write a whole number, 1 to 65535",
            (
                f"6: {IN}.backend.handover: is required and missing; "
                "write one of ProxyV1, ProxyV2, XCLIENT, Transparent, Plain"
            ),
        ],
    ),
    (
        "wrong types",
        listener(
            "address: 1\nprotocol: [SMTP]\nproxyProtocol: on\nlimits: []\ntlsOnConnect: yes\n"
            "timeouts: {idle: 5, banner: null}\nrules: {}\nearlyTalkers: true\nreverseDNS: 1.5"
        ),
        [
            f"9: {IN}.address: is the number 1; write an IP address such as 127.0.0.1 or ::1",
            f"10: {IN}.protocol: is a list; write one of SMTP, IMAP, POP3, ManageSieve, Opaque",
            f"11: {IN}.proxyProtocol: is the text 'on'; write a mapping",
            f"12: {IN}.limits: is a list; write a mapping",
            f"13: {IN}.tlsOnConnect: is the text 'yes'; write true or false: in YAML 1.2 this word is text",
            f"14: {IN}.timeouts.idle: is the number 5; write a duration such as 3s, 500ms or 1m30s",
            f"14: {IN}.timeouts.banner: is empty; write a duration such as 3s, 500ms or 1m30s",
            f"15: {IN}.rules: is a mapping; write a list, each item a mapping with name, when, action",
            f"16: {IN}.earlyTalkers: is true; write one of Refuse, Forward",
            f"17: {IN}.reverseDNS: is the number 1.5; write one of Auto, Always, Never",
        ],
    ),
    (
        "quotes that make text of it",
        listener('tlsOnConnect: "true"\nlimits: {connections: "10", connectionsPerClient: "x"}'),
        [
            f"9: {IN}.tlsOnConnect: is the text 'true'; write true or false: true, without quotes",
            f"10: {IN}.limits.connections: is the text '10'; write a whole number, 1 to 1000000: 10, without quotes",
            f"10: {IN}.limits.connectionsPerClient: is the text 'x'; write a whole number, 1 to 1000000",
        ],
    ),
    (
        "a value that may be absent",
        listener("address: null\ntimeouts: {idle: }\nlimits: {ratePerClient: ~}"),
        [],
    ),
    (
        "enumerations",
        listener("others: 1\nproxyProtocol: {others: refuse, unknown: Zzz}"),
        [
            (
                f"9: {IN}.others: unknown field 'others'; known here: name, port, backend, address, protocol, "
                "tlsOnConnect, earlyTalkers, proxyProtocol, limits, reverseDNS, rules, timeouts"
            ),
            (
                f"10: {IN}.proxyProtocol.others: 'refuse' is not allowed here; did you mean Refuse? "
                "(known here: Direct, Refuse)"
            ),
            f"10: {IN}.proxyProtocol.unknown: 'Zzz' is not allowed here; known here: Refuse, UsePeer",
        ],
    ),
    (
        "bounds",
        listener(
            "limits:\n  connections: 0\n  clientPrefix: {ipv4: 33}\n  overrides:\n  - clients: []\n"
            "    connectionsPerClient: 1"
        ),
        [
            f"10: {IN}.limits.connections: 0 is out of bounds; 1 to 1000000 are allowed",
            f"11: {IN}.limits.clientPrefix.ipv4: 33 is out of bounds; 8 to 32 are allowed",
            f"13: {IN}.limits.overrides[0].clients: has 0 items; 1 to 256 items are allowed",
        ],
    ),
    (
        "too many labels",
        "spec:\n  selector:\n    matchLabels: {"
        + ", ".join(f"l{number}: x" for number in range(65))
        + "}\n  inbound:\n"
        "  - {name: smtp, port: 25, backend: {port: 2525, handover: ProxyV2}}\n",
        ["6: spec.selector.matchLabels: has 65 members; at most 64 members are allowed"],
    ),
    (
        "too many, too long, not the pattern",
        "spec:\n  hostname: " + "x" * 254 + "\n  inbound:\n  - name: SMTP_1\n    port: 25\n"
        "    backend: {port: 2525, handover: Plain, acknowledgeClientHidden: true}\n"
        "  - name: 'smtp\n\n      '\n    port: 26\n    backend: {port: 2525, handover: ProxyV1}\n"
        "  logging: {selectors: [" + ", ".join(["+proxy"] * 17) + "]}\n",
        [
            "5: spec.hostname: has 254 characters; at most 253 characters are allowed",
            (
                f"7: {IN}.name: 'SMTP_1' is not allowed here; write text: lower-case letters, digits and inner hyphens, "
                "1 to 12 characters"
            ),
            (
                "10: spec.inbound[1].name: 'smtp\\n' is not allowed here; write text: lower-case letters, digits and "
                "inner hyphens, 1 to 12 characters"
            ),
            "15: spec.logging.selectors: has 17 items; at most 16 items are allowed",
        ],
    ),
    (
        "scalars",
        listener(
            "address: 300.1.1.1\nproxyProtocol:\n  timeout: 3 s\n  requiredFrom:\n  - 10.0.0.1/8\n  - 10.0.0.0/255.0.0.0\n"
            "  - fe80::%eth0/64\n  - fe80::1%eth0\n  - 10.0.0.0/8/9\n  - 10.0.0.0/08\n  - '*'\n  allowSources: ['*', 10/8]\n"
            "timeouts: {idle: 25h, banner: 1m1x}"
        ),
        [
            f"9: {IN}.address: '300.1.1.1' is not an IP address; write one like 127.0.0.1 or ::1",
            f"11: {IN}.proxyProtocol.timeout: '3 s' is not a duration; write one like 3s, 500ms or 1m30s",
            f"13: {IN}.proxyProtocol.requiredFrom[0]: '10.0.0.1/8' has host bits set; the network is 10.0.0.0/8",
            *(
                f"{line}: {IN}.proxyProtocol.requiredFrom[{line - 13}]: {text!r} is not a network; "
                "write one like 10.0.0.0/8 or fd00::/8"
                for line, text in (
                    (14, "10.0.0.0/255.0.0.0"),
                    (15, "fe80::%eth0/64"),
                    (17, "10.0.0.0/8/9"),
                    (18, "10.0.0.0/08"),
                )
            ),
            f"16: {IN}.proxyProtocol.requiredFrom[3]: 'fe80::1%eth0' has a zone; write the address without it",
            f"20: {IN}.proxyProtocol.allowSources[0]: '*' is not an IP address; write one like 127.0.0.1 or ::1",
            f"20: {IN}.proxyProtocol.allowSources[1]: '10/8' is not a network; write one like 10.0.0.0/8 or fd00::/8",
            f"21: {IN}.timeouts.idle: '25h' is longer than a day; the longest duration is 24h",
            f"21: {IN}.timeouts.banner: '1m1x' is not a duration; write one like 3s, 500ms or 1m30s",
        ],
    ),
    (
        "what is broken here does not hide what is wrong there",
        (
            "spec:\n  hostname: -x\n  selector: {}\n  zzz: 1\n  logging: {selectors: [+proxy, +proxy]}\n  inbound:\n"
            "  - name: a\n    port: 15925\n    backend: {port: 1, handover: Plain}\n"
            "  - name: a\n    port: x\n    backend: {port: 1, handover: Plain}\n"
            "    rules:\n    - {name: x, when: proxy_faild, action: Log}\n    - {name: X, when: proxy_faild, action: Log}\n"
            "  - name: a\n    port: 15925\n    backend: {port: 1, handover: ProxyV1}\n"
        ),
        [
            "5: spec.hostname: '-x' is not a host name; write one like mail.example.net",
            (
                "6: spec.selector: is empty, which in Kubernetes would select every pod; "
                "give matchLabels or matchExpressions, or leave selector out: then it selects none"
            ),
            "7: spec.zzz: unknown field 'zzz'; known here: selector, hostname, priority, inbound, outbound, logging, sidecar",
            "8: spec.logging.selectors[1]: +proxy stands there twice; keep one of the two",
            "11: spec.inbound[0].port: 15925 is the sidecar's admin port; take another port",
            (
                "12: spec.inbound[0].backend.handover: Plain hides the client: to the mail server everybody comes from "
                "loopback, which it may let relay; use ProxyV2, or set backend.acknowledgeClientHidden: true if the server "
                "trusts nobody for its address"
            ),
            "14: spec.inbound[1].port: is the text 'x'; write a whole number, 1 to 65535",
            (
                "17: spec.inbound[1].rules[0].when: line 1, column 1: 'proxy_faild' is not known; did you mean "
                "proxy_failed? (docs/rules.md lists what is known)"
            ),
            (
                "18: spec.inbound[1].rules[1].name: 'X' is not allowed here; write text: lower-case letters, digits and "
                "inner hyphens, 1 to 63 characters"
            ),
            "19: spec.inbound[2].name: spec.inbound[0] has the name a too; give each listener a name of its own",
            "20: spec.inbound[2].port: 15925 is the sidecar's admin port; take another port",
            (
                "20: spec.inbound[2].port: spec.inbound[0] listens on port 15925 of the same address; "
                "take another port, or give the two listeners different addresses"
            ),
        ],
    ),
]


@pytest.mark.parametrize(("text", "expected"), [row[1:] for row in SHAPE], ids=[row[0] for row in SHAPE])
def test_shape(text: str, expected: list[str]) -> None:
    told = found(text)
    assert sorted(told) == sorted(expected)
    lines = [int(problem.split(":")[0]) for problem in told]
    assert lines == sorted(lines), "in the order of the file"


MEANING: list[tuple[str, str, list[str]]] = [
    ("nothing to say", listener(), []),
    (
        "no listener",
        "spec: {inbound: []}\n",
        ["4: spec: has neither a listener nor outbound, so there is nothing to do; give inbound, outbound, or both"],
    ),
    (
        "Plain",
        listener(backend="port: 2525, handover: Plain"),
        [
            (
                f"8: {IN}.backend.handover: Plain hides the client: to the mail server everybody comes from loopback, which "
                "it may let relay; use ProxyV2, or set backend.acknowledgeClientHidden: true if the server trusts nobody "
                "for its address"
            )
        ],
    ),
    ("Plain, acknowledged", listener(backend="port: 2525, handover: Plain, acknowledgeClientHidden: true"), []),
    (
        "XCLIENT with everything that it cannot do",
        listener("protocol: IMAP\ntlsOnConnect: true\nreverseDNS: Never", "port: 2525, handover: XCLIENT"),
        [
            f"8: {IN}.backend.handover: XCLIENT is a command of SMTP, not of IMAP; use ProxyV2, or protocol: SMTP",
            (
                f"8: {IN}.backend.handover: XCLIENT needs clear text, and with tlsOnConnect the client begins with TLS; "
                "use ProxyV2, or listen without tlsOnConnect"
            ),
            (
                f"11: {IN}.reverseDNS: XCLIENT hands the client's name over, and with Never it would always be missing; "
                "leave reverseDNS out, or use ProxyV2"
            ),
        ],
    ),
    ("XCLIENT", listener(backend="port: 2525, handover: XCLIENT"), []),
    (
        "replies of SMTP in another protocol",
        listener(
            "protocol: POP3\nproxyProtocol: {onFailure: Refuse503}\nrules:\n"
            "- {name: a, when: 'true', action: Refuse, message: no}\n- {name: b, when: 'true', action: Defer}\n"
            "- {name: c, when: 'true', action: Log, message: yes}"
        ),
        [
            (
                f"10: {IN}.proxyProtocol.onFailure: Refuse503 is a reply of SMTP, not of POP3; "
                "use Defer421, which is said in the listener's protocol, or Close"
            ),
            (
                f"12: {IN}.rules[0].message: a message that the client hears is for SMTP; this listener speaks POP3; "
                "leave the message out: the client is refused in its own protocol"
            ),
        ],
    ),
    (
        "Refuse503 in clear text on a TLS port",
        listener("tlsOnConnect: true\nproxyProtocol: {onFailure: Refuse503}"),
        [
            (
                f"10: warning: {IN}.proxyProtocol.onFailure: with tlsOnConnect nothing can be said in clear text, so "
                "Refuse503 is just a close; use Close, which says what happens"
            )
        ],
    ),
    ("Refuse503", listener("proxyProtocol: {onFailure: Refuse503}"), []),
    (
        "timeouts",
        listener(
            "proxyProtocol: {timeout: 2999ms}\ntimeouts: {idle: 0s, backendConnect: 0ms, banner: 0m, halfClosed: 0h}\n"
            "limits:\n  ratePerClient: {connections: 1, per: 0s}\n  overrides:\n"
            "  - {clients: [192.0.2.1], ratePerClient: {connections: 1, per: 0s}}"
        ),
        [
            (
                f"9: {IN}.proxyProtocol.timeout: 2999ms is out of bounds; 3s to 60s are allowed: less would not cover one "
                "lost packet, more would hold a connection for nobody"
            ),
            *(
                f"{line}: {IN}.{field}: is zero; write a duration above zero, such as 5s"
                for line, field in (
                    (10, "timeouts.idle"),
                    (10, "timeouts.backendConnect"),
                    (10, "timeouts.banner"),
                    (10, "timeouts.halfClosed"),
                    (12, "limits.ratePerClient.per"),
                    (14, "limits.overrides[0].ratePerClient.per"),
                )
            ),
        ],
    ),
    ("the longest timeout", listener("proxyProtocol: {timeout: 1m}"), []),
    (
        "a longer timeout",
        listener("proxyProtocol: {timeout: 1m1ms}"),
        [
            (
                f"9: {IN}.proxyProtocol.timeout: 1m1ms is out of bounds; 3s to 60s are allowed: less would not cover one "
                "lost packet, more would hold a connection for nobody"
            )
        ],
    ),
    (
        "a backend elsewhere",
        listener(backend="port: 25, handover: ProxyV2, address: 10.0.0.9, address6: 'fd00::9'"),
        [
            (
                f"8: {IN}.backend.address: 10.0.0.9 is not a loopback address, so the client's identity crosses the network "
                "unprotected; let the mail server listen on loopback, or set backend.acknowledgeRemoteBackend: true"
            ),
            (
                f"8: {IN}.backend.address6: fd00::9 is not a loopback address, so the client's identity crosses the network "
                "unprotected; let the mail server listen on loopback, or set backend.acknowledgeRemoteBackend: true"
            ),
        ],
    ),
    (
        "a backend elsewhere, acknowledged",
        listener(backend="port: 25, handover: ProxyV2, address: 10.0.0.9, acknowledgeRemoteBackend: true"),
        [],
    ),
    (
        "a listener without its link",
        listener("address: 'fe80::1'"),
        [
            (
                f"9: {IN}.address: nothing can listen on fe80::1, which is a group's address or lacks its link; "
                "leave it out to listen on all addresses"
            )
        ],
    ),
    (
        "a listener on a group",
        listener("address: 224.0.0.1"),
        [
            (
                f"9: {IN}.address: nothing can listen on 224.0.0.1, which is a group's address or lacks its link; "
                "leave it out to listen on all addresses"
            )
        ],
    ),
    ("a listener on one address", listener("address: 192.0.2.1"), []),
    (
        "a backend nowhere",
        listener(backend="port: 25, handover: ProxyV2, address: 0.0.0.0, address6: 'ff02::1'"),
        [
            f"8: {IN}.backend.address: 0.0.0.0 is no address of a server; write a loopback address, such as 127.0.0.1",
            f"8: {IN}.backend.address6: ff02::1 is no address of a server; write a loopback address, such as 127.0.0.1",
        ],
    ),
    (
        "address families",
        listener(backend="port: 2525, handover: Transparent, address: '::1', address6: 127.0.0.1"),
        [
            (
                f"8: {IN}.backend.address6: 127.0.0.1 is not an IPv6 address; "
                "write one like ::1; backend.address is for IPv4 clients"
            ),
            (
                f"8: {IN}.backend.address: ::1 is an IPv6 address, to which no IPv4 client can be connected transparently; "
                "write one like 127.0.0.1; address6 is for IPv6 clients"
            ),
        ],
    ),
    ("an IPv6 backend", listener(backend="port: 2525, handover: ProxyV2, address: '::1'"), []),
    (
        "a loop",
        listener(backend="port: 25, handover: ProxyV2, address: 127.8.8.8"),
        [
            (
                f"8: {IN}.backend.port: 25 is a port that the sidecar listens on: sessions would go round in a loop; "
                "give the port that the mail server listens on, such as 2525"
            )
        ],
    ),
    (
        "a loop for IPv6 clients only",
        listener(
            backend="port: 25, handover: Transparent, address: 10.0.0.9, address6: '::1', acknowledgeRemoteBackend: true"
        ),
        [
            (
                f"8: {IN}.backend.port: 25 is a port that the sidecar listens on: sessions would go round in a loop; "
                "give the port that the mail server listens on, such as 2525"
            )
        ],
    ),
    (
        "the admin port as a backend",
        listener(backend="port: 15925, handover: ProxyV2"),
        [
            (
                f"8: {IN}.backend.port: 15925 is the sidecar's admin port: sessions would go round in a loop; "
                "give the port that the mail server listens on, such as 2525"
            )
        ],
    ),
    (
        "overrides",
        listener(
            "limits:\n  overrides:\n  - clients: [192.0.2.1, 192.0.2.0/24, 192.0.2.1/32]\n    connectionsPerClient: 1\n"
            "  - clients: ['::ffff:192.0.2.0/120']\n"
        ),
        [
            (
                f"11: {IN}.limits.overrides[0].clients[2]: 192.0.2.1/32 stands in {IN}.limits.overrides[0].clients[0] too; "
                "keep one of the two: only the first would count"
            ),
            f"13: {IN}.limits.overrides[1]: sets nothing; give connectionsPerClient or ratePerClient",
            (
                f"13: {IN}.limits.overrides[1].clients[0]: ::ffff:192.0.2.0/120 stands in "
                f"{IN}.limits.overrides[0].clients[1] too; keep one of the two: only the first would count"
            ),
        ],
    ),
    *(
        (
            f"requiredFrom {network}",
            listener(f"proxyProtocol: {{requiredFrom: [10.0.0.0/8, '{network}']}}"),
            [
                (
                    f"9: warning: {IN}.proxyProtocol.requiredFrom[1]: {network} believes anybody: whoever reaches the port "
                    "may claim any address, and programs in the pod can no longer connect without a header; "
                    "name the load balancer's networks"
                )
            ],
        )
        for network in ("*", "0.0.0.0/0", "::/0")
    ),
    *(
        (
            f"allowSources {network}",
            listener(f"proxyProtocol: {{allowSources: [10.0.0.1, '{network}']}}"),
            [
                (
                    f"9: warning: {IN}.proxyProtocol.allowSources[1]: {network} lets everybody in requiredFrom claim to be "
                    "local, and mail servers let local clients relay; "
                    "leave it out unless requiredFrom names only what you control"
                )
            ],
        )
        for network in ("127.0.0.0/8", "::1", "0.0.0.0/0")
    ),
    (
        "nobody may come in",
        listener("proxyProtocol: {others: Refuse}"),
        [
            (
                f"9: warning: {IN}.proxyProtocol.others: Refuse with an empty requiredFrom refuses everybody; "
                "name the load balancer's networks in requiredFrom"
            )
        ],
    ),
    (
        "rules",
        listener(
            "reverseDNS: Never\nrules:\n- {name: a, when: 'sender_host_name == ''''', action: Log}\n"
            "- {name: a, when: proxy_session +, action: Log, message: '${nothing} ${sender_host_adress} ${'}\n"
            "- {name: b, when: sender_host_port, action: Log}"
        ),
        [
            (
                f"11: {IN}.rules[0].when: looks at sender_host_name, which reverseDNS: Never keeps empty; "
                "leave reverseDNS out, or the name"
            ),
            (
                f"12: {IN}.rules[1].name: rules[0] has the name a too; "
                "give each rule a name of its own: logs and metrics show it"
            ),
            (
                f"12: {IN}.rules[1].when: line 1, column 16: Syntax error: mismatched input '<EOF>'; "
                "CEL is like C: && || ! == 'text'"
            ),
            f"12: {IN}.rules[1].message: unknown variable 'nothing'; docs/rules.md lists what is known",
            (
                f"12: {IN}.rules[1].message: unknown variable 'sender_host_adress'; did you mean sender_host_address? "
                "(docs/rules.md lists what is known)"
            ),
            f"12: {IN}.rules[1].message: ${{ without its }}; close it, or write $${{ for the two characters",
            (
                f"13: {IN}.rules[2].when: the result is of type int, not bool; "
                "compare it with something, so that it is true or false"
            ),
        ],
    ),
    (
        "a name that no rule looks at",
        listener("reverseDNS: Never\nrules: [{name: a, when: proxy_failed, action: Log}]"),
        [],
    ),
    (
        "selector",
        (
            "spec:\n  selector:\n    matchLabels: {app.kubernetes.io/name: postfix, 'a b': x, Ä/b: y, x/: '-', z: ''}\n"
            "    matchExpressions:\n    - {key: a, operator: In}\n    - {key: a, operator: Exists, values: [x]}\n"
            "    - {key: a, operator: NotIn, values: [x]}\n    - {key: a, operator: DoesNotExist}\n"
            "  inbound: [{name: a, port: 1, backend: {port: 2, handover: ProxyV1}}]\n"
        ),
        [
            "6: spec.selector.matchLabels['a b']: 'a b' is not a label's key; write one like app or app.kubernetes.io/name",
            (
                "6: spec.selector.matchLabels['\\xc4/b']: '\\xc4/b' is not a label's key; "
                "write one like app or app.kubernetes.io/name"
            ),
            "6: spec.selector.matchLabels['x/']: 'x/' is not a label's key; write one like app or app.kubernetes.io/name",
            (
                "6: spec.selector.matchLabels['x/']: '-' is not a label's value; "
                "at most 63 letters, digits and inner - _ . are allowed"
            ),
            "8: spec.selector.matchExpressions[0].values: In needs values; give at least one",
            "9: spec.selector.matchExpressions[1].values: Exists takes no values; leave values out",
        ],
    ),
]


@pytest.mark.parametrize(("text", "expected"), [row[1:] for row in MEANING], ids=[row[0] for row in MEANING])
def test_meaning(text: str, expected: list[str]) -> None:
    assert sorted(found(text)) == sorted(expected)


CLASH = "spec.inbound[1].port: spec.inbound[0] listens on port 25 of the same address"


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        (None, None, True),
        (None, "10.0.0.1", True),
        ("::1", None, True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("0.0.0.0", "10.0.0.2", True),
        ("10.0.0.2", "0.0.0.0", True),
        ("0.0.0.0", "::", False),
        ("::", "::1", True),
        ("0.0.0.0", "::1", False),
    ],
)
def test_the_same_port_clashes_where_addresses_overlap(one: str | None, other: str | None, clash: bool) -> None:
    backend = "port: 25, backend: {port: 2525, handover: ProxyV2}"
    addresses = [f", address: '{address}'" if address else "" for address in (one, other)]
    told = found(
        f"spec:\n  inbound:\n  - {{name: a, {backend}{addresses[0]}}}\n  - {{name: b, {backend}{addresses[1]}}}\n"
    )
    remedy = "take another port, or give the two listeners different addresses"
    assert told == ([f"7: {CLASH}; {remedy}"] if clash else [])


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("name: a", None),
        ("name: a.b-c.9", None),
        (f"name: {'a' * 63}", None),
        (f"name: {'a' * 64}", "metadata.name"),
        ("name: A", "metadata.name"),
        ("name: -a", "metadata.name"),
        ("name: 5", "metadata.name"),
        ("name: 'a\n\n\n'", "metadata.name"),
        ("labels: {}", "metadata.name"),
        ("name: a, namespace: mail", None),
        ("name: a, namespace: a.b", "metadata.namespace"),
        ("name: a, namespace: 1", "metadata.namespace"),
    ],
)
def test_metadata(metadata: str, expected: str | None) -> None:
    text = f"apiVersion: postern.dev/v1alpha1\nkind: MailProxyPolicy\nmetadata: {{{metadata}}}\n{listener()}"
    try:
        assert config.load(text.encode()).warnings == ()
        told = None
    except config.InvalidPolicy as refused:
        (told,) = (problem.path for problem in refused.problems)
    assert told == expected


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("mail.example.net", True),
        ("MAIL", True),
        ("1.example", True),
        ("a" * 63, True),
        ("a" * 64, False),
        ("a..b", False),
        ("a.", False),
        ("-a", False),
        ("a_b", False),
        ("", False),
        ("mail.example.net 250", False),
    ],
)
def test_hostname(name: str, good: bool) -> None:
    told = found(
        f"spec:\n  hostname: '{name}'\n  inbound: [{{name: a, port: 1, backend: {{port: 2, handover: ProxyV1}}}}]\n"
    )
    expected = f"5: spec.hostname: {name!r} is not a host name; write one like mail.example.net"
    assert told == ([] if good else [expected])


def test_long_values_are_cut_in_messages() -> None:
    (told,) = found(listener(f"protocol: {'x' * 500}"))
    assert len(told) < 200
    assert "'xxx" in told
    assert "xxx...' is not allowed here" in told
