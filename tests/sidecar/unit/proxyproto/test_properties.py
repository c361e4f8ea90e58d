"""Whatever is written is read, however it is cut; whatever is accepted the recogniser accepts; and the fuzz target."""

from __future__ import annotations

import importlib.util
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import proxy_checks
from postern_sidecar.names import Address, Endpoint, unmapped
from postern_sidecar.proxyproto import v1, v2, writer
from postern_sidecar.proxyproto.chain import split
from postern_sidecar.proxyproto.header import Command, Family, Header, Reason, Transport
from proxy_checks import check_answer, feed
from proxy_recogniser import recognise

if TYPE_CHECKING:
    from types import ModuleType

ports = st.integers(0, 65535)
ipv4 = st.integers(0, 2**32 - 1).map(IPv4Address)
ipv6 = st.integers(0, 2**128 - 1).map(IPv6Address)
addresses: st.SearchStrategy[Address] = st.one_of(ipv4, ipv6.map(unmapped))
endpoints = st.builds(Endpoint, addresses, ports)
endpoints4 = st.builds(Endpoint, ipv4, ports)
kinds = st.integers(0, 255).filter(lambda kind: kind != 3)
tlvs = st.lists(
    st.builds(lambda kind, value: bytes([kind]) + len(value).to_bytes(2) + value, kinds, st.binary(max_size=128)),
    max_size=6,
).map(b"".join)
behind = st.binary(max_size=40)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted(cut % (len(data) + 1) for cut in cuts)
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


cuts = st.lists(st.integers(0, 4200), max_size=12)


@given(endpoints, endpoints, behind, cuts)
def test_handover_headers_are_read_back(source: Endpoint, destination: Endpoint, rest: bytes, where: list[int]) -> None:
    for version, header in ((1, writer.v1(source, destination)), (2, writer.v2(source, destination))):
        answer, leftover, _ = feed(pieces(header + rest, where))
        assert isinstance(answer, Header)
        assert (answer.version, answer.command, answer.transport) == (version, Command.PROXY, Transport.STREAM)
        assert (answer.source, answer.destination, leftover) == (source, destination, rest)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    chain = draw(tlvs)
    family, transport = draw(st.sampled_from(Family)), draw(st.sampled_from(Transport))
    if transport is not Transport.STREAM or family in (Family.UNSPEC, Family.UNIX):
        return Header(2, Command.PROXY, family, transport, tlvs=chain)
    ends = endpoints4 if family is Family.INET else endpoints
    return Header(2, Command.PROXY, family, transport, draw(ends), draw(ends), chain)


@given(headers(), st.binary(max_size=216), behind, cuts)
def test_any_header_is_read_back(header: Header, opaque: bytes, rest: bytes, where: list[int]) -> None:
    data = writer.encode(header, addresses=opaque[: v2.BLOCK_SIZES[header.family]])
    assert feed(pieces(data + rest, where))[:2] == (header, rest)
    check_answer(data + rest)


@given(headers(), st.integers(0, 8 * 4096))
def test_checksum_finds_every_flipped_bit_of_addresses_and_values(header: Header, bit: int) -> None:
    """Not of types and lengths: those may hide the checksum itself, whatever the receiver does."""
    data = bytearray(writer.encode(header, crc32c=True))
    start = 16 + v2.BLOCK_SIZES[header.family]
    places = [*range(16, start), *(at for _, value, end in split(bytes(data), start) for at in range(value, end))]
    assert isinstance(feed([bytes(data)]).answer, Header)
    data[places[bit // 8 % len(places)]] ^= 1 << bit % 8
    assert feed([bytes(data)]).answer is Reason.CRC32C


@given(st.sampled_from([b"", b"PROXY ", b"PROXY TCP6 ", v2.SIGNATURE, v2.SIGNATURE + b"\x21\x11\0"]), st.binary(), cuts)
@example(b"PROXY TCP6 ", b":: ::1 0 0\r\n", [])
def test_any_octets_get_the_same_answer_from_both(start: bytes, rest: bytes, where: list[int]) -> None:
    whole = check_answer(start + rest)
    assert feed(pieces(start + rest, where))[:2] == whole[:2]


ipv6_texts = st.one_of(
    st.text("0123456789abcdefABCDEF:.", max_size=45),
    st.lists(st.sampled_from(["", "0", "1", "ffff", "FFFF", "00001", "1.2.3.4", "01.2.3.4", ":"]), max_size=10).map(
        ":".join
    ),
)


@given(ipv6_texts, ipv6_texts)
def test_spellings_of_ipv6(source: str, destination: str) -> None:
    check_answer(f"PROXY TCP6 {source} {destination} 1 2\r\n".encode())
    check_answer(f"PROXY TCP6 {source} ::1 1 2\r\n".encode())


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    path = Path(__file__).parents[4] / "bench" / "fuzz_proxyproto.py"
    spec = importlib.util.spec_from_file_location("fuzz_proxyproto", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_fuzzing_finds_nothing_and_reaches_everything(fuzz: ModuleType) -> None:
    answers = fuzz.run(count=15_000, seed=20261122)
    assert answers.total() == 15_000
    for reason in Reason:
        assert answers[f"refused {reason.value}"] > 0, f"no mutation leads to {reason}"
    for accepted in ("v1 PROXY", "v2 PROXY", "v2 LOCAL"):
        assert answers[f"accepted {accepted}"] > 500


def lenient_v1(data: bytes) -> Any:
    return v1.UNKNOWN, len(data)


def forgetful_v2(data: bytes) -> Any:
    """The classic over-read: pipelined octets vanish."""
    answer = PARSE_V2(data)
    return answer and (answer[0], len(data))


def greedy_v2(data: bytes) -> Any:
    """Waits for one octet more than there is."""
    return PARSE_V2(data[:-1])


PARSE_V2 = v2.parse


@pytest.mark.parametrize(("module", "broken"), [(v1, lenient_v1), (v2, forgetful_v2), (v2, greedy_v2)])
def test_fuzzing_finds_broken_readers(
    fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch, module: ModuleType, broken: Any
) -> None:
    monkeypatch.setattr(module, "parse", broken)
    with pytest.raises(AssertionError) as caught:
        fuzz.run(count=2_000, seed=1)
    assert "input: " in caught.value.__notes__[0]


def test_fuzzing_finds_an_unbounded_buffer(fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v2, "parse", lambda _data: None)
    monkeypatch.setattr(proxy_checks, "MAX_HEADER", 16)
    with pytest.raises(AssertionError, match="holds more than a header"):
        fuzz.run(count=2_000, seed=1)


def test_recogniser_refuses_what_it_should() -> None:
    """The second opinion is only worth something if it is one: its own few cases."""
    good = b"PROXY TCP4 192.0.2.10 198.51.100.25 40000 25\r\n"
    found = recognise(good + b"EHLO")
    assert found is not None
    assert found == (len(good), False, (4, 0xC000020A, 40000), (4, 0xC6336419, 25))
    for bad in (good[:-1], good.replace(b"10", b"010"), good.replace(b"TCP4", b"TCP6"), b"", good[1:]):
        assert recognise(bad) is None
