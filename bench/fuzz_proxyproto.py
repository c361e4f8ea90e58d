"""Fuzz the PROXY protocol reader: mutated headers, cut anywhere, against an independently written recogniser.

Every input goes through the reader whole and in random pieces. A run fails at the first input on which the reader
raises anything but HeaderError, holds more than a header, depends on the cuts, disagrees with the recogniser, or
accepts what does not encode to the same octets again. The seed makes a run repeatable.

    python bench/fuzz_proxyproto.py [--count 1000000] [--seed 1]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from random import Random

sys.path.extend(str(Path(__file__).resolve().parents[1] / part) for part in ("sidecar", "tests/support"))

from postern_sidecar.names import Address, Endpoint
from postern_sidecar.proxyproto.crc32c import crc32c
from postern_sidecar.proxyproto.header import Command, Family, Header, Reason, Transport
from postern_sidecar.proxyproto.writer import encode
from proxy_checks import check_answer, feed

AWS_HEALTH_CHECK = bytes.fromhex("0d0a0d0a000d0a515549540a20110054030004bce5951f04004a") + bytes(74)
KNOWN_TYPES = (0x01, 0x02, 0x03, 0x04, 0x05, 0x20, 0x30, 0xE0, 0xEA, 0xEE)
TELLING = b"\0\x01\x02\x03\x04\x05\x0f\x10\x11\x20\x21\xff\r\n 0159:.aFxTCPU\t+-_%"
UNKNOWN_TEXTS = (b"", b" ", b" ::1 ::1 1 1", b" \0\xff", b" " + b"x" * 91, b" " + b"x" * 92)


def original(random: Random) -> bytes:
    """A valid header."""
    pick = random.random()
    if pick < 0.05:
        return AWS_HEALTH_CHECK
    if pick < 0.10:
        return b"PROXY UNKNOWN" + random.choice(UNKNOWN_TEXTS) + b"\r\n"
    family = random.choice((Family.INET, Family.INET6))
    source, destination = (Endpoint(_address(random, family), random.randrange(65536)) for _ in range(2))
    if pick < 0.35:
        line = encode(Header(1, Command.PROXY, family, Transport.STREAM, source, destination))
        return _respelled(random, line) if family is Family.INET6 else line
    tlvs = b"".join(_tlv(random) for _ in range(random.choice((0, 0, 1, 2, 5))))
    if pick < 0.80:
        header = Header(2, Command.PROXY, family, Transport.STREAM, source, destination, tlvs)
    else:
        command, family = random.choice(list(Command)), random.choice(list(Family))
        header = Header(2, command, family, random.choice((Transport.UNSPEC, Transport.DGRAM)), tlvs=tlvs)
    return encode(header, crc32c=random.random() < 0.3, addresses=random.randbytes(12))


def _address(random: Random, family: Family) -> Address:
    if family is Family.INET or random.random() < 0.2:
        return IPv4Address(random.getrandbits(32))
    return IPv6Address(random.getrandbits(128) & random.choice((-1, 0xFFFF << 112 | 0xFFFF, 0xFFFF << 64)))


def _respelled(random: Random, line: bytes) -> bytes:
    """A TCP6 line, perhaps with upper-case addresses or one with a dotted tail."""
    fields = (line.upper() if random.random() < 0.3 else line).split(b" ")
    if random.random() < 0.3:
        start = random.choice(("::ffff:", "::", "2001:db8::", "1:2:3:4:5:6:"))
        fields[2] = f"{start}{_address(random, Family.INET)}".encode()
    return b" ".join(fields)


def _tlv(random: Random) -> bytes:
    kind = random.choice(KNOWN_TYPES) if random.random() < 0.8 else random.randrange(256)
    size = random.choice((0, 1, 4, 5, 8, 128, 129)) if random.random() < 0.9 else random.randrange(3000)
    return bytes([kind]) + size.to_bytes(2) + random.randbytes(size)


def mutated(random: Random, data: bytes) -> bytes:
    """The header with up to three things wrong; one in ten checksums is made right again afterwards."""
    for _ in range(random.choice((0, 1, 1, 1, 2, 3))):
        at = random.randrange(len(data) + 1) if random.random() < 0.5 else random.randrange(min(len(data), 20) + 1)
        data = random.choice(_MUTATIONS)(random, data, at)
    if random.random() < 0.1 and (start := data.find(b"\x03\0\x04")) >= 0 and len(data) >= start + 7:
        zeroed = data[: start + 3] + bytes(4) + data[start + 7 :]
        data = (
            zeroed[: start + 3] + crc32c(zeroed[: 16 + int.from_bytes(data[14:16])]).to_bytes(4) + zeroed[start + 7 :]
        )
    return data


def _replace(random: Random, data: bytes, at: int) -> bytes:
    return data[:at] + bytes([random.choice(TELLING)]) + data[at + 1 :]


def _flip(random: Random, data: bytes, at: int) -> bytes:
    return data[:at] + bytes(octet ^ 1 << random.randrange(8) for octet in data[at : at + 1]) + data[at + 1 :]


def _insert(random: Random, data: bytes, at: int) -> bytes:
    return data[:at] + bytes([random.choice(TELLING)]) + data[at:]


def _delete(random: Random, data: bytes, at: int) -> bytes:
    return data[:at] + data[at + random.choice((1, 1, 1, 2, 7)) :]


def _cut(_random: Random, data: bytes, at: int) -> bytes:
    return data[:at]


def _repeat(random: Random, data: bytes, at: int) -> bytes:
    return data[:at] + data[max(0, at - random.randrange(1, 12)) :]


def _append(random: Random, data: bytes, _at: int) -> bytes:
    return data + random.choice((b"EHLO there\r\n", b"\r\n", b"\0", data, b"\x03\0\x04\0\0\0\0"))


def _lengthen(random: Random, data: bytes, _at: int) -> bytes:
    """The length field made to say what is there, or something near it."""
    length = max(0, len(data) - 16 + random.choice((-1, 0, 0, 0, 1, 4080)))
    return data[:14] + (length & 0xFFFF).to_bytes(2) + data[16:]


_MUTATIONS = (_replace, _replace, _flip, _flip, _insert, _delete, _cut, _repeat, _append, _lengthen)


def run(count: int, seed: int) -> Counter[str]:
    """How often each answer was given. Raises AssertionError, or whatever the reader raised, at the first failure."""
    random = Random(seed)
    answers: Counter[str] = Counter()
    for _ in range(count):
        data = mutated(random, original(random))
        try:
            whole = check_answer(data)
            cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.randrange(1, 4)))
            pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
            assert feed(pieces)[:2] == whole[:2], f"cut into {pieces!r} it is something else"
        except Exception as error:
            error.add_note(f"input: {data.hex()}")
            raise
        if isinstance(whole.answer, Reason):
            answers[f"refused {whole.answer.value}"] += 1
        else:
            answers[f"accepted v{whole.answer.version} {whole.answer.command.name}"] += 1
    return answers


def main() -> None:
    """Print what became of the inputs; a failure is a traceback that names the input."""
    parser = argparse.ArgumentParser(description="Fuzz the PROXY protocol reader.")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    answers = run(options.count, options.seed)
    for answer, times in sorted(answers.items()):
        print(f"{times:>9}  {answer}")
    print(f"{answers.total():>9}  in {time.monotonic() - began:.1f} s, seed {options.seed}, no disagreement")


if __name__ == "__main__":
    main()
