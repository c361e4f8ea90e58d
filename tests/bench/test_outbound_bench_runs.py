"""The outbound bench works: its tables are whole, its destination takes mail over TLS only and counts it.

How fast anything is, no test asks: that depends on the machine.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bench.destination import LIBRARIES
from bench.ground import compiled

from certificates import issue
from lab.conversation import Conversation

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]
RELAYS = [
    "Postern",
    "Postern, LMTP door",
    "Postern, a connection each",
    "Postfix",
    "Postfix, tmpfs",
    "Postfix, tuned, tmpfs",
    "Exim",
    "Exim, tmpfs",
]


def test_a_quick_run_measures_everything(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    run = subprocess.run(
        [sys.executable, "-m", "bench", "outbound", "--quick", "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    results: dict[str, Any] = json.loads(file.read_text())["outbound"]
    (only,) = results["rounds"]
    assert list(only["small"]) == RELAYS
    assert all(each["wall"] > 0 and each["cpu"] > 0 for each in only["small"].values())
    fresh = only["small"]["Postern, a connection each"]
    assert fresh["handshakes"] == fresh["messages"]
    assert only["small"]["Postern"]["handshakes"] < only["small"]["Postern"]["messages"]
    footprint = results["footprint"]
    assert footprint["at_rest"] > footprint["started"] > footprint["unbound"] > 0
    assert len(re.findall(r"^(?:met|NOT MET) ", run.stdout, re.MULTILINE)) == 6
    assert re.search(r"^\| Postern +\| +no \| +[\d,]+ \|", run.stdout, re.MULTILINE)
    assert re.search(r"^\| Postfix +\| +yes \| +[\d,]+ \|", run.stdout, re.MULTILINE)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("mx", tmp_path_factory.mktemp("bench"), *LIBRARIES)


class Mx:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.port = int(self._line().removeprefix("listening on "))

    def handshakes(self, messages: int) -> int:
        """As it tells them with so many messages; what it tells before is of fewer."""
        while True:
            _, count, handshakes, _ = self._line().split()
            if int(count) == messages:
                return int(handshakes)
            assert int(count) < messages

    def talk(self) -> Conversation:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Conversation(sock)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@pytest.fixture
def mx(program: Path, tmp_path: Path) -> Iterator[Mx]:
    leaf = issue("mx.bench.example", dns=["mx.bench.example"])
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(leaf.pem)
    key.write_bytes(leaf.key_pem)
    argv = [str(program), str(chain), str(key), "127.0.0.1:0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        yield Mx(process)
        process.terminate()


def secure(talk: Conversation) -> None:
    talk.expect(220)
    assert "STARTTLS" in talk.command("EHLO a", 250).text
    talk.starttls()
    assert "STARTTLS" not in talk.command("EHLO a", 250).text


def test_the_destination_takes_no_mail_in_clear_text(mx: Mx) -> None:
    with mx.talk() as talk:
        talk.expect(220)
        talk.command("MAIL FROM:<>", 530)
    with mx.talk() as talk:
        secure(talk)
        assert isinstance(talk.sock, ssl.SSLSocket)
        assert talk.sock.version() == "TLSv1.3"
        talk.command("MAIL FROM:<>", 250)


def test_the_destination_finds_the_end_in_any_fragmentation(mx: Mx) -> None:
    with mx.talk() as talk:
        secure(talk)
        for _ in range(2):
            talk.command("MAIL FROM:<>", 250)
            talk.command("DATA", 354)
            for octet in ".x\r\n..\r\n.\n\r\n.\r\n":
                talk.send(octet)
            talk.expect(250)
        talk.command("QUIT", 221)
    assert mx.handshakes(2) == 1


def test_the_destination_takes_what_is_pipelined(mx: Mx) -> None:
    """An empty message, and the next one behind its final dot."""
    with mx.talk() as talk:
        secure(talk)
        talk.send("MAIL FROM:<>\r\nRCPT TO:<b@bench.example>\r\nDATA\r\n")
        assert [talk.reply().code for _ in range(3)] == [250, 250, 354]
        talk.send(".\r\nRSET\r\nMAIL FROM:<>\r\nDATA\r\na\r\n.\r\nQUIT\r\n")
        assert [talk.reply().code for _ in range(6)] == [250, 250, 250, 354, 250, 221]
    assert mx.handshakes(2) == 1
