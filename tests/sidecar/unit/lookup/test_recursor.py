"""The embedded resolver's configuration: what a policy says, whole and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from postern_sidecar.config.model import DNS, Forward, RootHint, Stub
from postern_sidecar.config.scalars import IPAddress, Server
from postern_sidecar.lookup.recursor import CONFIGURATION, HINTS, Place, files, needs_root_anchor

PLACE = Place(port=5300, directory="/run/postern/unbound", hints="/usr/share/dns/root.hints", bundle="/etc/ca.pem")
DS = ". IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D"


def lines(dns: DNS | None = None, place: Place = PLACE) -> list[str]:
    return files(dns or DNS(), place)[CONFIGURATION].splitlines()


def servers(*texts: str) -> tuple[Server, ...]:
    return tuple(map(Server, texts))


def stub(zone: str, *texts: str, insecure: bool = False) -> DNS:
    return DNS(stubs=(Stub(zone=zone, servers=servers(*texts or ("10.0.0.53",)), insecure=insecure),))


def forward(zone: str, *texts: str, **more: Any) -> DNS:
    return DNS(forwards=(Forward(zone=zone, servers=servers(*texts), **more),))


def test_it_validates_and_answers_on_loopback_alone() -> None:
    text = lines()
    assert 'module-config: "validator iterator"' in text
    assert [line for line in text if line.startswith(("interface:", "port:"))] == [
        "interface: 127.0.0.1@5300",
        "port: 5300",
    ]
    assert "val-permissive-mode: no" in text
    assert "so-reuseport: no" in text  # or another process could share the port


def test_every_option_stands_once() -> None:
    server = lines()[1 : lines().index("remote-control:")]
    names = [line.partition(":")[0] for line in server]
    assert sorted(names) == sorted(set(names))


def test_without_trust_anchors_the_roots_is_followed() -> None:
    assert needs_root_anchor(DNS())
    assert 'auto-trust-anchor-file: "root.key"' in lines()
    assert not [line for line in lines() if line.startswith("trust-anchor:")]


def test_an_island_of_trust_stands_beside_the_root() -> None:
    dns = DNS(trust_anchors=(f"corp{DS}",))
    assert needs_root_anchor(dns)
    assert {'auto-trust-anchor-file: "root.key"', f'trust-anchor: "corp{DS}"'} <= set(lines(dns))


def test_the_roots_trust_anchor_stands_alone_and_in_one_spelling() -> None:
    dns = DNS(trust_anchors=(DS.lower().replace(" in ", "  3600 IN "),))
    assert not needs_root_anchor(dns)
    assert f'trust-anchor: "{DS}"' in lines(dns)
    assert not [line for line in lines(dns) if line.startswith("auto-trust-anchor-file:")]


def test_the_systems_root_hints_if_there_are_any() -> None:
    assert 'root-hints: "/usr/share/dns/root.hints"' in lines()
    assert not [line for line in lines(place=Place(5300, "/run")) if line.startswith("root-hints:")]
    assert HINTS not in files(DNS(), PLACE)


def test_root_hints_become_a_file() -> None:
    hint = RootHint(name="ns.example", addresses=(IPAddress("192.0.2.53"), IPAddress("2001:db8::53")))
    made = files(DNS(root_hints=(hint,)), PLACE)
    assert made[HINTS].splitlines() == [
        ". 3600000 IN NS ns.example.",
        "ns.example. 3600000 IN A 192.0.2.53",
        "ns.example. 3600000 IN AAAA 2001:db8::53",
    ]
    assert 'root-hints: "root.hints"' in made[CONFIGURATION].splitlines()
    assert PLACE.hints not in made[CONFIGURATION]


@pytest.mark.parametrize("insecure", [True, False])
def test_a_stub(insecure: bool) -> None:
    text = lines(stub("Corp.Test.", "10.0.0.53", "[fd00::53]:5353", insecure=insecure))
    at = text.index("stub-zone:")
    assert text[at:] == [
        "stub-zone:",
        'name: "corp.test."',
        'stub-addr: "10.0.0.53@53"',
        'stub-addr: "fd00::53@5353"',
    ]
    assert 'local-zone: "corp.test." transparent' in text
    assert ('domain-insecure: "corp.test."' in text) is insecure


def test_a_forward_for_everything() -> None:
    text = lines(forward(".", "10.0.0.1:5300", insecure=True))
    assert text[text.index("forward-zone:") :] == ["forward-zone:", 'name: "."', 'forward-addr: "10.0.0.1@5300"']
    assert 'domain-insecure: "."' in text
    assert not [line for line in text if line.startswith("tls-cert-bundle:")]


def test_a_forward_over_tls_is_checked_against_its_name() -> None:
    text = lines(forward("example", "192.0.2.1", "192.0.2.2:8853", tls_name="Dns.Example.net"))
    assert text[text.index("forward-zone:") :] == [
        "forward-zone:",
        'name: "example."',
        'forward-addr: "192.0.2.1@853#dns.example.net"',
        'forward-addr: "192.0.2.2@8853#dns.example.net"',
        "forward-tls-upstream: yes",
    ]
    assert 'tls-cert-bundle: "/etc/ca.pem"' in text


def test_without_cas_there_is_no_forward_over_tls() -> None:
    with pytest.raises(ValueError, match="no path"):
        files(forward("example", "192.0.2.1", tls_name="dns.example.net"), Place(5300, "/run"))


@pytest.mark.parametrize(
    ("dns", "ipv6", "wanted"),
    [
        (DNS(), True, "yes"),
        (DNS(), False, "no"),
        (stub("corp.test", "10.0.0.53"), False, "no"),
        (stub("corp.test", "fd00::53"), False, "yes"),
        (DNS(root_hints=(RootHint(name="ns.example", addresses=(IPAddress("fd00::53"),)),)), False, "yes"),
    ],
)
def test_ipv6_where_there_is_a_way_or_a_server(dns: DNS, ipv6: bool, wanted: str) -> None:
    assert f"do-ip6: {wanted}" in lines(dns, Place(5300, "/run", ipv6=ipv6))


@pytest.mark.parametrize(
    ("dns", "forbidden"),
    [
        (DNS(), "yes"),  # a delegation to 127.0.0.1 is nobody's honest one
        (stub("corp.test", "10.0.0.53"), "yes"),
        (stub("corp.test", "127.0.0.1:5353"), "no"),
        (forward(".", "::1"), "no"),
        (DNS(root_hints=(RootHint(name="ns.example", addresses=(IPAddress("127.0.0.2"),)),)), "no"),
    ],
)
def test_loopback_is_asked_only_where_the_policy_does(dns: DNS, forbidden: str) -> None:
    assert f"do-not-query-localhost: {forbidden}" in lines(dns)


HOSTILE = 'x"\nlocal-data: "y'


@pytest.mark.parametrize(
    "dns",
    [
        stub(HOSTILE),
        stub("a b"),
        forward(HOSTILE, "192.0.2.1"),
        forward("example", "192.0.2.1", tls_name=HOSTILE),
        DNS(root_hints=(RootHint(name=HOSTILE, addresses=(IPAddress("192.0.2.1"),)),)),
        DNS(trust_anchors=(f'{DS}"\nlocal-data: "y',)),
        DNS(trust_anchors=(HOSTILE,)),
    ],
)
def test_no_text_adds_a_line(dns: DNS) -> None:
    with pytest.raises(ValueError, match=r"is no|does not|is not"):
        files(dns, PLACE)


@pytest.mark.parametrize("path", ['/run/"', "/run/\n", "/run/\\", ""])
def test_a_path_that_would_end_its_quotes_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="no path"):
        files(DNS(), Place(5300, path))
