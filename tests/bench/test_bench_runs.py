"""The bench works: its table is whole, its sink takes mail from nobody but the client, and a broken hop fails the run.

How fast anything is, no test asks: that depends on the machine.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bench.ground import compiled

from postern_sidecar.names import Endpoint
from postern_sidecar.proxyproto import writer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]
WAYS = ["nothing", "HAProxy", "Postern"]
HERE = Endpoint(IPv4Address("127.0.0.1"), 25)
HEADER = writer.v2(Endpoint(IPv4Address("192.0.2.1"), 1234), HERE)


def test_a_quick_run_measures_everything(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    run = subprocess.run(
        [sys.executable, "-m", "bench", "inbound", "--quick", "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr
    results: dict[str, Any] = json.loads(file.read_text())["inbound"]
    (only,) = results["rounds"]
    for measured in ("sessions", "bulk", "latency"):
        assert list(only[measured]) == WAYS
        assert all(figure > 0 for way in WAYS[1:] for figure in only[measured][way].values())
    assert results["memory"]["Postern"]["with_rules"] > results["memory"]["Postern"]["at_rest"] > 0
    assert len(re.findall(r"^(?:met|NOT MET) ", run.stdout, re.MULTILINE)) == 6
    assert re.search(r"^\| sessions/s +\|( +[\d,]+ \|){3} +[\d.]+ \|$", run.stdout, re.MULTILINE)


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The sink's port; it takes mail of 192.0.2.1."""
    program = compiled("sink", tmp_path_factory.mktemp("bench"))
    with subprocess.Popen([str(program), "192.0.2.1", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline().removeprefix("listening on "))
        process.terminate()


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def test_the_sink_takes_mail_in_any_fragmentation(sink: int) -> None:
    with connect(sink) as sock, sock.makefile("rb") as replies:
        for octet in HEADER:
            sock.send(bytes([octet]))
        assert replies.readline().startswith(b"220")
        for command, code in ((b"EHLO a\r\n", b"250"), (b"MAIL FROM:<>\r\n", b"250"), (b"DATA\r\n", b"354")):
            for octet in command:
                sock.send(bytes([octet]))
            assert replies.readline().startswith(code)
        for octet in b".x\r\n..\r\n.\n\r\n.\r\n":
            sock.send(bytes([octet]))
        assert replies.readline() == b"250 2.0.0 taken\r\n"
        sock.send(b"QUIT\r\n")
        assert replies.readline().startswith(b"221")
        assert replies.read() == b""


LOST = {
    "another client": writer.v2(Endpoint(IPv4Address("192.0.2.2"), 1234), HERE),
    "the balancer itself": writer.v2(HERE, HERE),
    "LOCAL": HEADER[:12] + b"\x20" + HEADER[13:],
    "version 1": writer.v1(Endpoint(IPv4Address("192.0.2.1"), 1234), HERE),
    "no header": b"EHLO there\r\nMAIL FROM:<>\r\n",
}


@pytest.mark.parametrize("opening", LOST.values(), ids=LOST)
def test_the_sink_takes_nothing_where_the_client_was_lost(sink: int, opening: bytes) -> None:
    with connect(sink) as sock:
        sock.send(opening)
        with contextlib.suppress(ConnectionResetError):  # it had not read everything when it closed
            assert sock.recv(1) == b""


def test_a_lost_client_fails_the_load(sink: int, tmp_path: Path) -> None:
    load = compiled("load", tmp_path)
    good = subprocess.run([load, "-p", "192.0.2.1", "3", f"127.0.0.1:{sink}"], capture_output=True, check=False)
    assert (good.returncode, len(good.stdout.splitlines())) == (0, 4)
    bad = subprocess.run([load, "-p", "192.0.2.9", "3", f"127.0.0.1:{sink}"], capture_output=True, check=False)
    assert (bad.returncode, bad.stdout) == (1, b"")
