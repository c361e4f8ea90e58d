"""A name server for the laboratory's names, on 127.0.0.1:53 of the pod, where every resolv.conf points.

    python nameserver.py '{"pointers": {...}, "hosts": {...}, "failing": [...]}'

UDP only. What the tables lack does not exist (NXDOMAIN); questions about `failing` get SERVFAIL. Without this server
every question fails at once.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import sys
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.reversename
import dns.rrset

ADDRESS = ("127.0.0.1", 53)


class Zone:
    def __init__(self, table: dict[str, Any]) -> None:
        self.pointers = {dns.reversename.from_address(a): dns.name.from_text(n) for a, n in table["pointers"].items()}
        self.hosts = {dns.name.from_text(name): addresses for name, addresses in table["hosts"].items()}
        self.failing = {_name(text) for text in table["failing"]}

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query, recursion_available=True)
        (question,) = query.question
        if question.name in self.failing:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif question.name in self.pointers:
            if question.rdtype == dns.rdatatype.PTR:
                target = self.pointers[question.name].to_text()
                response.answer.append(dns.rrset.from_text(question.name, 60, "IN", "PTR", target))
        elif question.name in self.hosts:
            kinds = {dns.rdatatype.A: 4, dns.rdatatype.AAAA: 6}
            wanted = [
                address
                for address in self.hosts[question.name]
                if ipaddress.ip_address(address).version == kinds.get(question.rdtype)
            ]
            if wanted:
                response.answer.append(dns.rrset.from_text(question.name, 60, "IN", question.rdtype, *wanted))
        else:
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response


def _name(text: str) -> dns.name.Name:
    try:
        return dns.reversename.from_address(text)
    except dns.exception.SyntaxError:
        return dns.name.from_text(text)


def main() -> None:
    zone = Zone(json.loads(sys.argv[1]))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(ADDRESS)
        print("ready", flush=True)
        while True:
            packet, peer = sock.recvfrom(4096)
            query = dns.message.from_wire(packet)
            print("asked", query.question[0].to_text(), flush=True)
            sock.sendto(zone.answer(query).to_wire(), peer)


if __name__ == "__main__":
    main()
