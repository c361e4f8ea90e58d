"""Where the mail of the outbound bench goes: a signed zone, the resolver that validates it, and the server behind it.

    outside: NSD (the zones, 192.0.2.0/24), mx (198.51.100.25 and, slow, .26), on the cores of the rest
    pod:     Unbound on 127.0.0.1:53, on those too; X, a relay or a mail server, on a core of its own

Everything runs in the tests' laboratory. Both destinations have a TLSA record 3 1 1 for their certificate, ECDSA P-256.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import certificates
from lab.program import Program
from lab.signing import Signatures
from lab.world import World

from .ground import CONGESTION, compiled

if TYPE_CHECKING:
    from pathlib import Path

    from lab.laboratory import Lab
    from lab.program import Process

DOMAIN, SLOW_DOMAIN = "bench.example", "slow.example"
ADDRESSES = {DOMAIN: "198.51.100.25", SLOW_DOMAIN: "198.51.100.26"}
SLOW = 5_000_000  # octets a second
SELF_TEST = {"secure": DOMAIN, "bogus": "bogus.example"}
LIBRARIES = ("-l:libssl.so.3", "-l:libcrypto.so.3")
LONG = 300.0  # seconds


class Arrived:
    """What a sink has said of its messages."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def counts(self) -> tuple[int, int]:
        """Messages and handshakes so far."""
        said = self._process.log.matches(r"^taken (\d+) (\d+) ")
        return (int(said[-1][1]), int(said[-1][2])) if said else (0, 0)

    def when(self, messages: int) -> float:
        """Waits until there are so many; the time of the last."""
        said = self._process.log.wait_for(rf"^taken {messages} \d+ ([\d.]+)$", timeout=LONG)
        return float(said[1])


class Destination:
    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._program = compiled("mx", lab.folder, *LIBRARIES)
        for host in ("outside", "pod"):  # no pacing; every kernel lets a namespace have it
            lab.run(Program(argv=["sh", "-c", f"echo reno > {CONGESTION}"], host=host))
        self.world = World()
        self.world.zone("bogus.example", signatures=Signatures.WRONG)
        identities = {domain: self._publish(domain) for domain in ADDRESSES}
        lab.nsd(self.world)
        self._resolver = lab.unbound(self.world)
        self.arrived = self._serve(DOMAIN, identities[DOMAIN])
        self.slow = self._serve(SLOW_DOMAIN, identities[SLOW_DOMAIN], "-r", str(SLOW))

    def forget(self) -> None:
        """The resolver, without anything that it knew."""
        self._resolver.kill()
        self._resolver = self._lab.unbound(self.world)

    def _publish(self, domain: str) -> tuple[Path, Path]:
        """Its zone. Returns the server's certificate and key."""
        mx = f"mx.{domain}"
        leaf = certificates.issue(mx, dns=[mx])
        self.world.zone(domain)
        self.world.add(domain, "MX", f"10 {mx}.")
        self.world.add(mx, "A", ADDRESSES[domain])
        self.world.add(f"_25._tcp.{mx}", "TLSA", f"3 1 1 {hashlib.sha256(leaf.spki).hexdigest()}")
        chain, key = self._lab.folder / f"{domain}.crt", self._lab.folder / f"{domain}.key"
        chain.write_bytes(leaf.pem)
        key.write_bytes(leaf.key_pem)
        return chain, key

    def _serve(self, domain: str, identity: tuple[Path, Path], *options: str) -> Arrived:
        argv = [str(self._program), *options, *map(str, identity), f"{ADDRESSES[domain]}:25"]
        process = self._lab.start(Program(argv=argv, host="outside"), f"mx of {domain}")
        process.log.wait_for(r"^listening on \d+$")
        return Arrived(process)
