"""Reverse DNS of clients, confirmed forwards, by dnspython over the system's resolver. Bounded in time and number.

Absence, contradiction and failure stay three different answers (`NameStatus`): XCLIENT says them in three words. Names
are absolute; search lists are never applied. dnspython is imported with the first question.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from postern_sidecar.names import Address, HostName, NameStatus, unmapped

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as DNSResolver

PATIENCE = 5.0  # seconds for PTR and its confirmation together
AT_ONCE = 512
CACHED = 2048
POINTERS = 4  # of a host with many PTRs, as many are tried
MAX_NAME = 255


class ReverseResolver:
    """Answers are cached for their TTL, at most CACHED of them."""

    def __init__(self) -> None:
        self._resolver: DNSResolver | None = None
        self._asking = 0

    async def name_of(self, address: Address) -> HostName:
        """Never raises: what cannot be found out is FAILED."""
        if self._asking >= AT_ONCE:
            return HostName(NameStatus.FAILED)
        self._asking += 1
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._ask(address)
        except TimeoutError:
            return HostName(NameStatus.FAILED)
        finally:
            self._asking -= 1

    async def _ask(self, address: Address) -> HostName:
        import dns.exception
        import dns.name
        import dns.resolver
        import dns.reversename

        absent = (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer)
        try:
            resolver = self._system()
            pointers = await resolver.resolve(dns.reversename.from_address(str(address)), "PTR", search=False)
        except absent:
            return HostName(NameStatus.ABSENT)
        except (dns.exception.DNSException, OSError):
            return HostName(NameStatus.FAILED)
        names = [record.target for record in pointers][:POINTERS]
        failed = False
        for name in names:
            try:
                if address in await self._addresses(resolver, name, "A" if address.version == 4 else "AAAA"):
                    return HostName(NameStatus.VERIFIED, _text(name), _text(names[0]))
            except absent:
                continue
            except (dns.exception.DNSException, OSError):
                failed = True
        return HostName(NameStatus.FAILED if failed else NameStatus.MISMATCH, None, _text(names[0]))

    async def _addresses(self, resolver: DNSResolver, name: Any, kind: str) -> set[Address]:
        answer = await resolver.resolve(name, kind, search=False)
        return {unmapped(ip_address(record.address)) for record in answer}

    def _system(self) -> DNSResolver:
        """The pod's resolv.conf, read once. Raises dnspython's NoResolverConfiguration."""
        if self._resolver is None:
            import dns.asyncresolver
            import dns.resolver

            from .nameserver import RefusableNameserver

            resolver = dns.asyncresolver.Resolver()
            resolver.nameservers = [
                RefusableNameserver(address, resolver.nameserver_ports.get(address, resolver.port))
                for address in map(str, resolver.nameservers)
            ]
            resolver.cache = dns.resolver.LRUCache(CACHED)
            resolver.lifetime = PATIENCE
            self._resolver = resolver
        return self._resolver


def _text(name: Any) -> str | None:
    """A host name as text without the last dot; None where it is no host name (a PTR is the client's word)."""
    text = str(name.to_text(omit_final_dot=True))
    clean = text.isascii() and all(c.isalnum() or c in "-._" for c in text)
    return text if clean and 0 < len(text) <= MAX_NAME else None
