"""Mail domains with DANE where nothing is our own but the relay: signed zones at NSD, mailboxes at one Postfix.

    domains = SignedDomains(lab, [Domain("one.example", "198.51.100.25"), Domain("two.example", "198.51.100.26", 2)])
    lab.sidecar({"outbound": {"dns": domains.dns}})    # or {"outbound": {}}, internet=domains.world
    ...
    domains.delivered("anna@one.example")

Each domain has one MX host, `mx.` and its name, and a certificate for it: DANE-EE (3 1 1) by a key of its own, DANE-TA
(2 0 1) by an authority of its own, which the host sends along. TLSA records may be kept for no time at all, so that
what `publish` changes counts at once.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from certificates import Certified, issue

from .servers import postfix
from .signing import Signatures
from .world import World

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .laboratory import Lab

BROKEN = "dnssec-failed.org"  # what the self-test needs to see fail, by default


@dataclass(frozen=True)
class Domain:
    name: str
    address: str  # where its Postfix listens, port 25
    usage: int = 3
    reached_at: str = ""  # where DNS says that it listens, if that is another

    @property
    def host(self) -> str:
        return f"mx.{self.name}"

    @cached_property
    def chain(self) -> tuple[Certified, ...]:
        """Leaf first."""
        if self.usage == 3:
            return (issue(self.host, dns=[self.host]),)
        authority = issue(f"{self.name} CA", ca=True, bits=["key_cert_sign", "crl_sign"])
        return issue(self.host, by=authority, dns=[self.host]), authority

    @property
    def tlsa(self) -> str:
        """The record that is right."""
        if self.usage == 3:
            return f"3 1 1 {hashlib.sha256(self.chain[0].spki).hexdigest()}"
        return f"2 0 1 {hashlib.sha256(self.chain[-1].der).hexdigest()}"

    @property
    def tlsa_name(self) -> str:
        return f"_25._tcp.{self.host}"


class SignedDomains:
    def __init__(self, lab: Lab, domains: Iterable[Domain]) -> None:
        self._domains = {domain.name: domain for domain in domains}
        self.world = World()
        self.world.zone(BROKEN, signatures=Signatures.WRONG)
        for domain in self._domains.values():
            self._add(domain)
        self.names = lab.nsd(self.world)
        self.postfix = lab.postfix(
            master="".join(map(_service, self._domains.values())),
            main=f"smtpd_tls_loglevel = 1\nrelay_domains = {' '.join(self._domains)}\nrelay_transport = virtual\n",
            files={_path(domain): _key_and_chain(domain) for domain in self._domains.values()},
            host="outside",
        )

    @property
    def dns(self) -> dict[str, Any]:
        """`spec.outbound.dns` for the embedded resolver."""
        return self.world.embedded()

    def publish(self, name: str, *tlsa: str) -> None:
        """Other TLSA records for a domain's host; without any, the right one."""
        domain = self._domains[name]
        self.world.replace(domain.tlsa_name, "TLSA", *(tlsa or [domain.tlsa]), ttl=0)
        self.names.reload()

    def delivered(self, recipient: str, *, times: int = 1) -> re.Match[str]:
        """Postfix's line on a message, of several the last, that lies in the recipient's mailbox; group 1 is its queue
        ID."""
        line = rf" ([0-9A-F]+): to=<{re.escape(recipient)}>.* status=sent \(delivered to "
        return self.postfix.log.wait_for(line, times=times)

    def _add(self, domain: Domain) -> None:
        self.world.zone(domain.name)
        self.world.add(domain.name, "MX", f"10 {domain.host}.")
        self.world.add(domain.host, "A", domain.reached_at or domain.address)
        self.world.add(domain.tlsa_name, "TLSA", domain.tlsa, ttl=0)


def _path(domain: Domain) -> str:
    return f"/etc/ssl/{domain.host}.pem"


def _key_and_chain(domain: Domain) -> str:
    return domain.chain[0].key_pem.decode() + b"".join(each.pem for each in domain.chain).decode()


def _service(domain: Domain) -> str:
    """Its log lines begin with `postfix/` and the domain's name."""
    return postfix.service(
        25,
        domain.address,
        myhostname=domain.host,
        syslog_name=f"postfix/{domain.name}",
        smtpd_tls_security_level="may",
        smtpd_tls_chain_files=_path(domain),
    )
