"""A name server whose refusal is heard.

dnspython asks over an unconnected UDP socket, which the kernel tells nothing of an ICMP "port unreachable": a resolver
that is down costs the whole time that a question may take, on every client. Over a connected one it is an OSError at
once, and dnspython goes on with the next server, or gives up where there is none.

Imported with the first question, since it imports dnspython.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import dns.asyncquery
import dns.inet
import dns.nameserver

if TYPE_CHECKING:
    from dns.message import Message


class RefusableNameserver(dns.nameserver.Do53Nameserver):
    async def async_query(
        self,
        request: dns.message.QueryMessage,
        timeout: float,
        source: str | None,
        source_port: int,
        max_size: bool,
        backend: Any,  # dnspython says nothing of its type
        one_rr_per_rrset: bool = False,
        ignore_trailing: bool = False,
    ) -> Message:
        """Raises OSError where the server refuses, and what dnspython's own raises."""
        if max_size:  # over TCP a refusal is heard anyway
            return await super().async_query(
                request, timeout, source, source_port, max_size, backend, one_rr_per_rrset, ignore_trailing
            )
        family = dns.inet.af_for_address(self.address)
        to = (self.address, self.port)
        async with await backend.make_socket(family, socket.SOCK_DGRAM, destination=to) as sock:
            return await dns.asyncquery.udp(
                request,
                self.address,
                timeout,
                self.port,
                one_rr_per_rrset=one_rr_per_rrset,
                ignore_trailing=ignore_trailing,
                raise_on_truncation=True,
                ignore_errors=True,
                ignore_unexpected=True,
                sock=sock,
            )
