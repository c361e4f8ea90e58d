"""The resolver of outbound over a real Unbound and a signed DNS: what it says of each kind of zone, when it may be
believed, and what becomes of it when Unbound does."""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from lab import certificate, resolver_steps, trees
from lab.certificate import CERTIFICATE, KEY
from lab.namespaces import POD
from lab.program import Process, Program
from lab.servers.sidecar import SOURCES
from lab.signing import DS, Chain, Signatures
from lab.world import DEAD, SILENT, World

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.laboratory import Lab

pytestmark = pytest.mark.real

TLSA = f"3 1 1 {'ab' * 32}"
QUICK = {"unbound": {"EVERY": 0.2, "PING": 1.0, "FIRST_WAIT": 0.1}}


class Results:
    """What the program said of its steps, and meanwhile."""

    def __init__(self, process: Process) -> None:
        self.process = process
        said = [json.loads(line) for line in process.log.lines if line.startswith("{")]
        self.events = [line["event"] for line in said if "event" in line]
        self.steps = [(line["step"], line["is"]) for line in said if "step" in line]
        self.closed = {"closed": True} in said

    def of(self, *step: Any) -> Any:
        (found,) = [result for taken, result in self.steps if taken == list(step)]
        return found


def run(
    lab: Lab,
    dns: dict[str, Any],
    *steps: Sequence[Any],
    state: str = "/run/postern",
    constants: dict[str, dict[str, Any]] | None = None,
    extra: dict[str, str] | None = None,
    env: dict[str, str] | None = None,
) -> Results:
    order = {"dns": dns, "state": state, "steps": [list(step) for step in steps], "constants": constants or {}}
    program = Program(
        argv=[sys.executable, "-u", resolver_steps.__file__, json.dumps(order)],
        trees=[trees.tree("unbound")],
        files=extra or {},
        env={"PYTHONPATH": str(SOURCES), **(env or {})},
        capabilities=[],
    )
    process = lab.start(program, "resolver")
    assert process.wait(60) == 0, str(process.log)
    return Results(process)


def small_world() -> World:
    world = World()
    world.zone("secure.example")
    world.add("mx.secure.example", "A", "198.51.100.1")
    world.zone("expired.example", signatures=Signatures.EXPIRED)
    world.add("mx.expired.example", "A", "198.51.100.2")
    return world


def all_zones() -> World:
    world = small_world()
    world.add("secure.example", "MX", "10 mx.secure.example.", "20 mx2.secure.example.")
    world.add("mx.secure.example", "AAAA", "2001:db8::1")
    world.add("_25._tcp.mx.secure.example", "TLSA", TLSA, f"2 0 2 {'cd' * 64}")
    world.add("null.secure.example", "MX", "0 .")
    world.add("alias.secure.example", "CNAME", "mx.secure.example.")
    world.add("out.secure.example", "CNAME", "mx.insecure.example.")
    world.add("*.wild.secure.example", "A", "198.51.100.9")
    world.add("star.secure.example", "CNAME", "*.wild.secure.example.")
    world.add("loop.secure.example", "CNAME", "pool.secure.example.")
    world.add("pool.secure.example", "CNAME", "loop.secure.example.")
    world.add("spoilt.secure.example", "A", "198.51.100.3")
    world.spoil("spoilt.secure.example", "A")
    world.zone("nsec3.org", chain=Chain.NSEC3)
    world.add("mx.nsec3.org", "A", "198.51.100.4")
    for zone, how in {
        "insecure.example": {"chain": Chain.UNSIGNED},
        "unsigned.net": {"chain": Chain.UNSIGNED},
        "nods.example": {"ds": DS.NONE},
        "unknown.example": {"ds": DS.UNKNOWN},
        "wrongds.example": {"ds": DS.WRONG},
        "wrong.example": {"signatures": Signatures.WRONG},
        "future.example": {"signatures": Signatures.FUTURE},
        "stripped.example": {"signatures": Signatures.STRIPPED},
    }.items():
        world.zone(zone, **how)  # type: ignore[arg-type]
        world.add(f"mx.{zone}", "A", "198.51.100.5")
    return world


STATES = {
    ("", "SOA"): "secure",
    ("secure.example", "MX"): "secure",
    ("null.secure.example", "MX"): "secure",
    ("mx.secure.example", "A"): "secure",
    ("mx.secure.example", "AAAA"): "secure",
    ("_25._tcp.mx.secure.example", "TLSA"): "secure",
    ("alias.secure.example", "A"): "secure",
    ("alias.secure.example", "CNAME"): "secure",
    ("star.secure.example", "A"): "secure",
    ("x.wild.secure.example", "A"): "secure",
    ("mx.nsec3.org", "A"): "secure",
    ("out.secure.example", "A"): "insecure",
    ("out.secure.example", "CNAME"): "secure",
    ("mx.insecure.example", "A"): "insecure",
    ("mx.unsigned.net", "A"): "insecure",
    ("mx.nods.example", "A"): "insecure",
    ("mx.unknown.example", "A"): "insecure",
    ("mx.wrongds.example", "A"): "bogus",
    ("mx.wrong.example", "A"): "bogus",
    ("mx.expired.example", "A"): "bogus",
    ("mx.future.example", "A"): "bogus",
    ("mx.stripped.example", "A"): "bogus",
    ("spoilt.secure.example", "A"): "bogus",
    ("loop.secure.example", "A"): "failed",
}
ABSENT = {  # denied by a validated proof, and the whole name
    ("_25._tcp.mx.nsec3.org", "TLSA"): (True, True),
    ("mx.nsec3.org", "AAAA"): (True, False),
    ("_25._tcp.nowhere.secure.example", "TLSA"): (True, True),
    ("mx.secure.example", "MX"): (True, False),
    ("mx.insecure.example", "AAAA"): (False, False),
    ("no.insecure.example", "A"): (False, True),
    ("nowhere.net", "A"): (False, True),  # opt-out proves nothing
    ("nowhere", "A"): (True, True),
}


def test_what_each_kind_of_zone_is(lab: Lab) -> None:
    world = all_zones()
    lab.nsd(world)
    asked = [("ask", *key) for key in (*STATES, *ABSENT)]
    results = run(lab, world.embedded(secure=".", bogus="expired.example"), ("tested",), *asked)
    assert results.of("tested") == [True, "ok", "passed"]
    assert {key: results.of("ask", *key)["state"] for key in STATES} == STATES
    denials = {key: results.of("ask", *key) for key in ABSENT}
    assert {key: (found["denied"], found["nxdomain"]) for key, found in denials.items()} == ABSENT
    assert {found["state"] for found in denials.values()} == {"absent"}
    assert sorted(results.of("ask", "secure.example", "MX")["records"]) == [
        [10, "mx.secure.example"],
        [20, "mx2.secure.example"],
    ]
    assert results.of("ask", "null.secure.example", "MX")["records"] == [[0, ""]]
    tlsa = results.of("ask", "_25._tcp.mx.secure.example", "TLSA")["records"]
    assert sorted(tlsa) == [f"2 0 2 {'cd' * 64}", TLSA]
    assert results.of("ask", "alias.secure.example", "A")["name"] == "mx.secure.example"
    assert results.of("ask", "star.secure.example", "A")["name"] == "*.wild.secure.example"
    assert "expired" in results.of("ask", "mx.expired.example", "A")["detail"]
    assert all(0 < results.of("ask", *key)["ttl"] <= 100 for key in STATES if STATES[key] in ("secure", "insecure"))
    assert results.closed


@pytest.mark.parametrize("server", [SILENT, DEAD])
def test_a_zone_whose_servers_do_not_answer(lab: Lab, server: str) -> None:
    world = small_world()
    world.zone("away.example", server=server)
    lab.nsd(world)
    soon = {"asker": {"PATIENCE": 1.0}}
    steps = ("tested",), ("ask", "mx.away.example", "A"), ("ask", "mx.secure.example", "A")
    results = run(lab, world.embedded(bogus="expired.example"), *steps, constants=soon)
    away = results.of("ask", "mx.away.example", "A")
    assert (away["state"], away["detail"]) == ("failed", "no answer in 1 s")
    assert results.of("ask", "mx.secure.example", "A")["state"] == "secure"


UNSIGNED_SERVER = """\
import socket, dns.flags, dns.message, dns.rrset
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.1", 5399))
    print("ready", flush=True)
    while True:
        packet, peer = sock.recvfrom(4096)
        query = dns.message.from_wire(packet)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        name = query.question[0].name
        if query.question[0].rdtype == 1:
            response.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "10.1.2.3"))
        else:
            zone = ".".join(str(name).split(".")[-3:])
            response.authority.append(dns.rrset.from_text(zone, 60, "IN", "SOA", "ns.x. root.x. 1 60 60 60 60"))
        sock.sendto(response.to_wire(), peer)
"""


def test_cluster_local_and_an_unsigned_corp_test_under_a_root_that_denies_them(lab: Lab) -> None:
    world = small_world()
    lab.nsd(world)
    lab.python(UNSIGNED_SERVER, name="unsigned").log.wait_for("ready")
    there = {"servers": ["127.0.0.1:5399"], "insecure": True}
    zones = ["cluster.local", "corp.test", "9.0.10.in-addr.arpa"]
    names = ["dns.cluster.local", "mail.corp.test", "12.9.0.10.in-addr.arpa"]
    dns = world.embedded(bogus="expired.example") | {"stubs": [{"zone": zone, **there} for zone in zones]}
    others = [("ask", "nobody.local", "A"), ("ask", "mx.secure.example", "A"), ("ask", "test", "SOA")]
    results = run(lab, dns, ("tested",), *(("ask", name, "A") for name in names), *others)
    for name in names:
        assert results.of("ask", name, "A")["state"] == "insecure", name
        assert results.of("ask", name, "A")["records"] == ["10.1.2.3"]
    assert results.of("ask", "nobody.local", "A")["nxdomain"]
    assert results.of("ask", "mx.secure.example", "A")["state"] == "secure"


def test_through_a_forwarder_it_validates_itself(lab: Lab) -> None:
    world = small_world()
    lab.nsd(world)
    lab.unbound(world, port=5300, anchor=False)
    dns = world.embedded(bogus="expired.example") | {"forwards": [{"zone": ".", "servers": ["127.0.0.1:5300"]}]}
    results = run(lab, dns, ("tested",), ("ask", "mx.secure.example", "A"), ("ask", "mx.expired.example", "A"))
    assert results.of("tested") == [True, "ok", "passed"]
    assert results.of("ask", "mx.secure.example", "A")["state"] == "secure"
    assert results.of("ask", "mx.expired.example", "A")["state"] == "bogus"


@pytest.mark.parametrize(("name", "state"), [("mail.example.org", "secure"), ("other.example.org", "failed")])
def test_a_forwarder_over_tls_has_to_have_its_name(lab: Lab, name: str, state: str) -> None:
    world = small_world()
    lab.nsd(world)
    keys = f"    tls-service-pem: {CERTIFICATE}\n    tls-service-key: {KEY}\n    tls-port: 8853"
    lab.unbound(world, port=8853, anchor=False, extra=keys)
    over_tls = {"zone": "secure.example", "servers": ["127.0.0.1:8853"], "tlsName": name}
    dns = world.embedded(bogus="expired.example") | {"forwards": [over_tls]}
    results = run(
        lab,
        dns,
        ("tested",),
        ("ask", "mx.secure.example", "A"),
        constants={"asker": {"PATIENCE": 3.0}},
        extra=certificate.files(lab),
        env={"SSL_CERT_FILE": CERTIFICATE},
    )
    assert results.of("tested") == [True, "ok", "passed"]
    assert results.of("ask", "mx.secure.example", "A")["state"] == state


def test_a_root_whose_signatures_are_out_of_date_fails_the_self_test(lab: Lab) -> None:
    """As on a machine whose clock is a year off."""
    world = small_world()
    for zone in world.zones.values():
        zone.signatures = Signatures.EXPIRED
    lab.nsd(world)
    results = run(lab, world.embedded(bogus="expired.example"), ("tested",), ("ask", "mx.secure.example", "A"))
    ready, why, verdict = results.of("tested")
    assert (ready, verdict) == (False, "failed")
    assert "SOA ." in why
    assert any("self-test failed" in event for event in results.events)
    assert results.of("ask", "mx.secure.example", "A")["state"] == "failed"


def test_a_broken_name_out_of_reach_leaves_it_unproved(lab: Lab) -> None:
    world = small_world()
    world.zone("away.example", server=DEAD)
    lab.nsd(world)
    soon = {"asker": {"PATIENCE": 1.0}}
    steps = ("tested",), ("ask", "mx.secure.example", "A")
    results = run(lab, world.embedded(bogus="away.example"), *steps, constants=soon)
    assert results.of("tested") == [True, "ok", "unproved"]
    assert results.of("ask", "mx.secure.example", "A")["state"] == "secure"


def test_killed_it_comes_back_and_is_tested_anew(lab: Lab) -> None:
    world = small_world()
    lab.nsd(world)
    results = run(
        lab,
        world.embedded(bogus="expired.example"),
        ("tested",),
        ("signal", int(signal.SIGKILL)),
        ("restarted", 1),
        ("ready",),
        ("ask", "mx.secure.example", "A"),
        constants=QUICK,
    )
    assert results.of("ask", "mx.secure.example", "A")["state"] == "secure"
    assert any("was killed by signal 9" in event for event in results.events)
    assert sum("self-test passed" in event for event in results.events) == 2


def test_frozen_it_fails_questions_in_time_and_is_replaced(lab: Lab) -> None:
    world = small_world()
    lab.nsd(world)
    results = run(
        lab,
        world.embedded(bogus="expired.example"),
        ("tested",),
        ("signal", int(signal.SIGSTOP)),
        ("ask", "mx.secure.example", "A"),
        ("restarted", 1),
        ("ready",),
        ("ask", "mx.secure.example", "AAAA"),
        constants=QUICK,
    )
    frozen = results.of("ask", "mx.secure.example", "A")
    assert frozen["state"] == "failed"
    assert frozen["seconds"] < 11
    assert results.of("ask", "mx.secure.example", "AAAA")["denied"]
    assert any("does not answer" in event for event in results.events)


def test_an_anchor_file_that_cannot_be_read_is_replaced(lab: Lab) -> None:
    """Unbound keeps it itself, and a machine may stop while it writes."""
    world = small_world()
    lab.nsd(world)
    broken = lab.folder / "state"
    (broken / "unbound").mkdir(parents=True)
    (broken / "unbound" / "root.key").write_text("not a key\n")
    dns = {key: value for key, value in world.embedded().items() if key != "trustAnchors"}
    anchor = {"/etc/root.key": f"{world.trust_anchor}\n"}
    files = {"unbound": {"FIRST_WAIT": 0.1, "ANCHOR_FILES": ["/etc/root.key"]}}
    dns["selfTest"] = {"bogus": "expired.example"}
    results = run(
        lab, dns, ("ready",), ("ask", "mx.secure.example", "A"), state=str(broken), constants=files, extra=anchor
    )
    assert results.of("ask", "mx.secure.example", "A")["state"] == "secure"
    assert any("before it served" in event for event in results.events)


def servers(*texts: str, bogus: str = "expired.example") -> dict[str, Any]:
    return {"resolver": "Servers", "servers": list(texts), "selfTest": {"bogus": bogus}}


def test_listed_servers_that_validate_are_believed(lab: Lab) -> None:
    world = small_world()
    lab.nsd(world)
    lab.unbound(world)
    results = run(lab, servers("127.0.0.1"), ("tested",), ("ask", "mx.secure.example", "A"))
    assert results.of("tested") == [True, "ok", "passed"]
    assert results.of("ask", "mx.secure.example", "A")["state"] == "secure"


def test_listed_servers_that_do_not_validate_are_not_asked(lab: Lab) -> None:
    world = small_world()
    lab.nsd(world)
    lab.unbound(world, anchor=False)
    results = run(lab, servers("127.0.0.1"), ("tested",), ("ask", "mx.secure.example", "A"))
    ready, why, verdict = results.of("tested")
    assert (ready, verdict) == (False, "failed")
    assert why in results.of("ask", "mx.secure.example", "A")["detail"]


def test_of_listed_servers_those_that_validate_are_asked(lab: Lab) -> None:
    world = small_world()
    lab.nsd(world)
    lab.unbound(world, anchor=False)
    lab.unbound(world, port=5300, extra=f"    interface: {POD}\n    access-control: 10.0.0.0/8 allow")
    asked = ("mx.secure.example", "A"), ("mx.expired.example", "A")
    results = run(lab, servers("127.0.0.1", "127.0.0.1:5300"), ("tested",), *(("ask", *each) for each in asked))
    assert results.of("tested") == [True, "ok", "passed"]
    assert [results.of("ask", *each)["state"] for each in asked] == ["secure", "bogus"]
    assert any("port 53: self-test failed, it is not used" in event for event in results.events)
