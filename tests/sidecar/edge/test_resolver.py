"""Reverse DNS against a scripted name server on loopback: each answer, each failure, and how long it may take."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.reversename
import dns.rrset
import pytest

from postern_sidecar.edge import resolver as edge
from postern_sidecar.edge.resolver import ReverseResolver
from postern_sidecar.names import HostName, NameStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

CLIENT = "192.0.2.4"
CLIENT6 = "2001:db8::4"
POINTER = dns.reversename.from_address(CLIENT).to_text()
POINTER6 = dns.reversename.from_address(CLIENT6).to_text()
LABEL = "x" * 50

SILENT = "no answer at all"
Table = Mapping[tuple[str, str], "Sequence[str] | dns.rcode.Rcode | str"]
"""(name, type) -> the records, or the code of a failure, or SILENT. What is not there is NXDOMAIN."""


class Scripted(asyncio.DatagramProtocol):
    def __init__(self, table: Table) -> None:
        self.table = table
        self.asked: Counter[tuple[str, str]] = Counter()
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        key = (question.name.to_text(), dns.rdatatype.to_text(question.rdtype))
        self.asked[key] += 1
        response = dns.message.make_response(query, recursion_available=True)
        match self.table.get(key, dns.rcode.NXDOMAIN):
            case str():
                return
            case dns.rcode.Rcode() as failure:
                response.set_rcode(failure)
            case records:
                if records:
                    response.answer.append(dns.rrset.from_text(question.name, 60, "IN", key[1], *records))
        self.transport.sendto(response.to_wire(), addr)


@asynccontextmanager
async def serving(table: Table, monkeypatch: pytest.MonkeyPatch, *first: tuple[str, int]) -> AsyncIterator[Scripted]:
    """A name server that the system's configuration names; `first` are others before it."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: Scripted(table), ("127.0.0.1", 0))
    configure(monkeypatch, *first, transport.get_extra_info("sockname"))
    try:
        yield server
    finally:
        transport.close()


def configure(monkeypatch: pytest.MonkeyPatch, *servers: tuple[str, int]) -> None:
    """Instead of /etc/resolv.conf."""

    def read(self: dns.asyncresolver.Resolver, _: object = None) -> None:
        self.nameservers = [address for address, _ in servers]
        self.nameserver_ports = dict(servers)

    monkeypatch.setattr(dns.asyncresolver.Resolver, "read_resolv_conf", read)


def closed_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


ANSWERS: list[tuple[str, str, Table, HostName]] = [
    (
        "verified",
        CLIENT,
        {(POINTER, "PTR"): ["mx.example."], ("mx.example.", "A"): ["192.0.2.9", CLIENT]},
        HostName(NameStatus.VERIFIED, "mx.example", "mx.example"),
    ),
    (
        "verified over IPv6",
        CLIENT6,
        {(POINTER6, "PTR"): ["mx.example."], ("mx.example.", "AAAA"): [CLIENT6]},
        HostName(NameStatus.VERIFIED, "mx.example", "mx.example"),
    ),
    ("NXDOMAIN", CLIENT, {}, HostName(NameStatus.ABSENT)),
    ("no PTR there", CLIENT, {(POINTER, "PTR"): []}, HostName(NameStatus.ABSENT)),
    ("SERVFAIL", CLIENT, {(POINTER, "PTR"): dns.rcode.SERVFAIL}, HostName(NameStatus.FAILED)),
    ("REFUSED", CLIENT, {(POINTER, "PTR"): dns.rcode.REFUSED}, HostName(NameStatus.FAILED)),
    (
        "another's address",
        CLIENT,
        {(POINTER, "PTR"): ["liar.example."], ("liar.example.", "A"): ["192.0.2.99"]},
        HostName(NameStatus.MISMATCH, None, "liar.example"),
    ),
    (
        "a name that is not",
        CLIENT,
        {(POINTER, "PTR"): ["gone.example."]},
        HostName(NameStatus.MISMATCH, None, "gone.example"),
    ),
    (
        "addresses of the other family only",
        CLIENT,
        {(POINTER, "PTR"): ["mx.example."], ("mx.example.", "A"): [], ("mx.example.", "AAAA"): [CLIENT6]},
        HostName(NameStatus.MISMATCH, None, "mx.example"),
    ),
    (
        "SERVFAIL on the way back",
        CLIENT,
        {(POINTER, "PTR"): ["mx.example."], ("mx.example.", "A"): dns.rcode.SERVFAIL},
        HostName(NameStatus.FAILED, None, "mx.example"),
    ),
    (
        "no host name",
        CLIENT,
        {(POINTER, "PTR"): ["a\\013\\010b.example."]},
        HostName(NameStatus.MISMATCH, None, None),
    ),
]


@pytest.mark.parametrize(("client", "table", "name"), [pytest.param(*row[1:], id=row[0]) for row in ANSWERS])
async def test_each_answer(client: str, table: Table, name: HostName, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(table, monkeypatch):
        assert await ReverseResolver().name_of(ip_address(client)) == name


@pytest.mark.parametrize("good", range(edge.POINTERS))
async def test_of_many_pointers_any_may_be_the_true_one(good: int, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"mx{number}.example." for number in range(edge.POINTERS)]
    table: Table = {(POINTER, "PTR"): names, (names[good], "A"): [CLIENT]}
    async with serving(table, monkeypatch):
        found = await ReverseResolver().name_of(ip_address(CLIENT))
    assert (found.status, found.name) == (NameStatus.VERIFIED, f"mx{good}.example")


async def test_a_client_cannot_make_us_ask_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"mx{number}.example." for number in range(edge.POINTERS + 10)]
    async with serving({(POINTER, "PTR"): names}, monkeypatch) as server:
        assert (await ReverseResolver().name_of(ip_address(CLIENT))).status is NameStatus.MISMATCH
    assert server.asked.total() == 1 + edge.POINTERS


async def test_an_answer_is_kept_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    table: Table = {(POINTER, "PTR"): ["mx.example."], ("mx.example.", "A"): [CLIENT]}
    async with serving(table, monkeypatch) as server:
        resolver = ReverseResolver()
        first = await resolver.name_of(ip_address(CLIENT))
        assert await resolver.name_of(ip_address(CLIENT)) == first
    assert server.asked.total() == 2


async def test_a_server_that_is_silent_takes_as_long_as_we_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "PATIENCE", 0.2)
    async with serving({(POINTER, "PTR"): SILENT}, monkeypatch) as server:
        began = time.monotonic()
        assert await ReverseResolver().name_of(ip_address(CLIENT)) == HostName(NameStatus.FAILED)
        assert 0.19 <= time.monotonic() - began < 2  # the loop counts whole milliseconds
    assert server.asked


async def test_silence_on_the_way_back_is_within_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "PATIENCE", 0.2)
    async with serving({(POINTER, "PTR"): ["mx.example."], ("mx.example.", "A"): SILENT}, monkeypatch):
        began = time.monotonic()
        assert (await ReverseResolver().name_of(ip_address(CLIENT))).status is NameStatus.FAILED
        assert time.monotonic() - began < 2


async def test_a_server_that_is_down_costs_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    configure(monkeypatch, ("127.0.0.1", closed_port()))
    began = time.monotonic()
    assert await ReverseResolver().name_of(ip_address(CLIENT)) == HostName(NameStatus.FAILED)
    assert time.monotonic() - began < edge.PATIENCE / 2


async def test_a_server_that_is_down_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    table: Table = {(POINTER, "PTR"): ["mx.example."], ("mx.example.", "A"): [CLIENT]}
    async with serving(table, monkeypatch, ("127.0.0.2", closed_port())):
        began = time.monotonic()
        found = await ReverseResolver().name_of(ip_address(CLIENT))
        assert found.status is NameStatus.VERIFIED
        assert time.monotonic() - began < edge.PATIENCE / 2


async def test_more_at_once_than_we_ask_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "AT_ONCE", 2)
    monkeypatch.setattr(edge, "PATIENCE", 0.2)
    async with serving({(POINTER, "PTR"): SILENT}, monkeypatch) as server:
        resolver = ReverseResolver()
        await asyncio.gather(*(resolver.name_of(ip_address(CLIENT)) for _ in range(5)))
    assert server.asked.total() == 2
