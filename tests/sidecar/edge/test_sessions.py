"""Sessions through a real sidecar process: what arrives at each side, byte for byte, and how they end."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lab.conversation import Conversation
from sidecar_process import STRANGER, ScriptedServer, SidecarProcess, policy, proxied, reset, smtp

if TYPE_CHECKING:
    from collections.abc import Iterator

SPOKEN = "220 PROXY TCP4 192.0.2.4 198.51.100.25 40211 25"
UNTRUSTED = 'postern_inbound_header_failures_total{listener="in0",reason="header_from_untrusted_source"}'
NOT_NOW = b"421 4.3.2 mail.example.net service not available, try again later\r\n"


def listener(server: ScriptedServer, handover: str = "ProxyV1", **fields: Any) -> dict[str, Any]:
    backend = {"port": server.port, "handover": handover, **fields.pop("backend", {})}
    return {"backend": backend, **fields}


def mute(server: Conversation) -> None:
    server.rest()


@pytest.fixture
def mail() -> Iterator[ScriptedServer]:
    with ScriptedServer(smtp) as server:
        yield server


@pytest.fixture
def sidecar(tmp_path: Path, mail: ScriptedServer) -> Iterator[SidecarProcess]:
    with SidecarProcess(tmp_path, policy(listener(mail))) as process:
        yield process


def test_a_session_from_banner_to_quit(sidecar: SidecarProcess) -> None:
    with proxied(sidecar.client()) as client:
        assert client.line() == SPOKEN
        client.command("EHLO client.example", 250)
        client.command("QUIT", 221)
        assert client.rest() == b""
    sidecar.log.wait_for(
        r"^\S+ \S+ c0001 connect H=\[192\.0\.2\.4\]:40211 I=\[127\.0\.0\.1\]:\d+ "
        r"TGT=\[198\.51\.100\.25\]:25 PRX=127\.0\.0\.1 V=1 HO=ProxyV1$"
    )
    sidecar.log.wait_for(r" c0001 closed H=\[192\.0\.2\.4\]:40211 PRX=127\.0\.0\.1 in=27 out=\d+ D=0\.\d\d\ds$")


def test_a_direct_client_keeps_its_own_address(sidecar: SidecarProcess) -> None:
    with sidecar.client(source=STRANGER) as client:
        assert client.line() == f"220 PROXY TCP4 {STRANGER} 127.0.0.1 {client.address[1]} {sidecar.ports['in0']}"


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_header_from_a_stranger_is_not_believed_however_it_comes(sidecar: SidecarProcess, cut: int) -> None:
    header = b"PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\n"
    with sidecar.client(source=STRANGER) as client:
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert STRANGER in client.line()
        client.send(header[:cut])
        client.send(header[cut:])
        assert client.rest() == NOT_NOW
    sidecar.log.wait_for(r"closed H=\[127\.0\.0\.9\].* R=header_from_untrusted_source detail=.*requiredFrom")
    assert sidecar.metric(UNTRUSTED) == 1


def test_an_early_talker_is_refused(sidecar: SidecarProcess) -> None:
    with proxied(sidecar.client()) as client:
        client.send("EHLO early\r\n")
        assert client.line() == "554 5.5.0 SMTP synchronization error"
        assert client.reply().code == 503


def test_where_early_bytes_are_the_backends_they_arrive_exact(tmp_path: Path) -> None:
    got: list[bytes] = []
    done = threading.Event()

    def swallow(server: Conversation) -> None:
        got.append(server.rest())
        done.set()

    noise = bytes(range(256)) * 300
    with (
        ScriptedServer(swallow) as server,
        SidecarProcess(tmp_path, policy(listener(server, tlsOnConnect=True))) as sidecar,
    ):
        with proxied(sidecar.client()) as client:
            client.send(noise)
            client.sock.shutdown(socket.SHUT_WR)
            assert done.wait(20)
    assert got == [b"PROXY TCP4 192.0.2.4 198.51.100.25 40211 25\r\n" + noise]


def test_half_close_both_ways(tmp_path: Path) -> None:
    """The client has said all; the server answers what it has read, and only then closes."""

    def digest(server: Conversation) -> None:
        server.line()
        server.send(hashlib.sha256(server.rest()).hexdigest())

    body = bytes(1 << 20)
    with (
        ScriptedServer(digest) as server,
        SidecarProcess(tmp_path, policy(listener(server, protocol="Opaque"))) as sidecar,
    ):
        with proxied(sidecar.client()) as client:
            client.send(body)
            client.sock.shutdown(socket.SHUT_WR)
            assert client.rest().decode() == hashlib.sha256(body).hexdigest()


def test_a_slow_reader_costs_no_memory(tmp_path: Path) -> None:
    """The server sends 64 MiB that the client does not read until it was all in flight as far as that goes."""
    begun, size = threading.Event(), 64 << 20

    def flood(server: Conversation) -> None:
        server.line()
        begun.set()
        server.send(bytes(size))

    with (
        ScriptedServer(flood) as server,
        SidecarProcess(tmp_path, policy(listener(server, protocol="Opaque"))) as sidecar,
    ):
        before = sidecar.resident
        with proxied(sidecar.client()) as client:
            assert begun.wait(20)
            first = client.sock.recv(1)
            with proxied(sidecar.client()) as other:  # it serves others meanwhile
                assert other.sock.recv(1) == b"\0"
            grown = sidecar.resident - before
            rest = client.rest()
        assert len(first) + len(rest) == size
        assert grown < 8 << 20


def test_a_backend_that_is_not_there(tmp_path: Path) -> None:
    with ScriptedServer(smtp) as server:
        settings = policy(listener(server))
    with SidecarProcess(tmp_path, settings) as sidecar, proxied(sidecar.client()) as client:
        assert client.rest() == NOT_NOW
        sidecar.log.wait_for(r'refused H=\[192\.0\.2\.4\]:40211 PRX=127\.0\.0\.1 R=backend_refused C="421 4\.3\.2 ')


def test_a_backend_that_never_speaks(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"timeouts": {"banner": "300ms"}}
    with ScriptedServer(mute) as server:
        with (
            SidecarProcess(tmp_path, policy(listener(server, **fields))) as sidecar,
            proxied(sidecar.client()) as client,
        ):
            assert client.rest() == NOT_NOW
            sidecar.log.wait_for("R=backend_timeout")


def test_a_backend_that_dies_in_mid_session(sidecar: SidecarProcess, mail: ScriptedServer) -> None:
    with proxied(sidecar.client()) as client:
        client.line()
        mail.stop()
        assert client.rest() == b""
    sidecar.log.wait_for("closed H=")
    with proxied(sidecar.client()) as client:
        assert client.rest() == NOT_NOW


@pytest.mark.parametrize("moment", ["before", "inside", "behind", "session"])
def test_a_client_that_resets(sidecar: SidecarProcess, moment: str) -> None:
    client = sidecar.client()
    match moment:
        case "inside":
            client.send("PROXY TCP4 192")
        case "behind":
            proxied(client)
        case "session":
            proxied(client).line()
    reset(client)
    with proxied(sidecar.client(), "192.0.2.5") as next_one:
        assert "192.0.2.5" in next_one.line()
    assert sidecar.process.poll() is None


def test_idle_sessions_end(tmp_path: Path, mail: ScriptedServer) -> None:
    fields: dict[str, Any] = {"timeouts": {"idle": "1s"}}
    with SidecarProcess(tmp_path, policy(listener(mail, **fields))) as sidecar, proxied(sidecar.client()) as client:
        assert client.line() == SPOKEN
        assert client.rest() == b""
        sidecar.log.wait_for(r"closed .* R=idle$")


def test_a_half_closed_session_ends(tmp_path: Path) -> None:
    def never(server: Conversation) -> None:
        server.line()
        server.send("hello\r\n")
        threading.Event().wait(20)

    fields: dict[str, Any] = {"protocol": "Opaque", "timeouts": {"halfClosed": "1s"}}
    with ScriptedServer(never) as server, SidecarProcess(tmp_path, policy(listener(server, **fields))) as sidecar:
        with proxied(sidecar.client()) as client:
            client.line()
            client.sock.shutdown(socket.SHUT_WR)
            assert client.rest() == b""
            sidecar.log.wait_for(r"closed .* D=1\.|closed .* D=2\.")


@pytest.mark.parametrize("source", ["127.0.0.1", "0.0.0.0", "224.0.0.1"])
def test_nobody_may_claim(sidecar: SidecarProcess, source: str) -> None:
    with proxied(sidecar.client(), source) as client:
        assert client.rest() == NOT_NOW
    sidecar.log.wait_for("R=source_not_allowed")


def test_checks_leave_no_trace(sidecar: SidecarProcess) -> None:
    for _ in range(5):
        sidecar.client().close()
    with proxied(sidecar.client()) as client:
        client.line()
    sidecar.log.wait_for("c0006 closed")
    assert not sidecar.log.matches(r"c000[1-5]")
    assert sidecar.metric('postern_inbound_connections_total{handover="ProxyV1",listener="in0",outcome="empty"}') == 5


def test_a_client_too_many_is_told_so(tmp_path: Path, mail: ScriptedServer) -> None:
    fields: dict[str, Any] = {"limits": {"connectionsPerClient": 2}}
    with SidecarProcess(tmp_path, policy(listener(mail, **fields))) as sidecar:
        with proxied(sidecar.client()) as one, proxied(sidecar.client()) as two:
            one.line()
            two.line()
            with proxied(sidecar.client()) as three:
                assert three.rest().startswith(
                    b"421 4.7.0 mail.example.net Too many connections at once from 192.0.2.4"
                )
            with proxied(sidecar.client(), "192.0.2.5") as other:
                assert "192.0.2.5" in other.line()
        sidecar.log.wait_for("closed", times=3)
        with proxied(sidecar.client()) as again:
            assert again.line() == SPOKEN


def test_connections_in_all(tmp_path: Path, mail: ScriptedServer) -> None:
    with SidecarProcess(tmp_path, policy(listener(mail, limits={"connections": 2}))) as sidecar:
        with sidecar.client(), proxied(sidecar.client()) as inside:
            inside.line()
            with sidecar.client() as third:
                assert third.rest().startswith(b"421 4.7.0 ")
        sidecar.log.wait_for(r"refused H=\[127\.0\.0\.1\].* R=connections ")


def test_a_rule_speaks(tmp_path: Path, mail: ScriptedServer) -> None:
    rules = [{"name": "net", "when": "in_network(sender_host_address, ['192.0.2.0/24'])", "action": "Refuse"}]
    with SidecarProcess(tmp_path, policy(listener(mail, rules=rules))) as sidecar, proxied(sidecar.client()) as client:
        assert client.line() == "554 5.7.1 refused by local policy"
        client.command("MAIL FROM:<>", 503)
        client.command("QUIT", 221)


@pytest.mark.parametrize("fields", [{"tlsOnConnect": True}, {"protocol": "Opaque"}])
def test_where_we_never_write_every_refusal_is_a_close(
    tmp_path: Path, mail: ScriptedServer, fields: dict[str, Any]
) -> None:
    with SidecarProcess(tmp_path, policy(listener(mail, **fields))) as sidecar:
        with sidecar.client() as client:
            client.send("no header")
            assert client.rest() == b""
        with proxied(sidecar.client(), "127.0.0.1") as client:
            assert client.rest() == b""


def test_an_unread_log_holds_nobody_up(tmp_path: Path, mail: ScriptedServer) -> None:
    """Standard output is a pipe that nobody reads: the reader thread is stopped by not having one."""
    import json
    import os
    import subprocess
    import sys

    from sidecar_process import ROOT

    file = tmp_path / "policy.json"
    file.write_text(json.dumps(policy({**listener(mail), "address": "127.0.0.1"})))
    read, write = os.pipe()
    argv = [sys.executable, "-m", "postern_sidecar", "run", "--config", str(file), "--state-dir", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "sidecar")}
    with subprocess.Popen([*argv, "--admin", "127.0.0.1:0", "--ephemeral-ports"], stdout=write, env=env) as process:
        os.close(write)
        try:
            with open(read, encoding="ascii", closefd=False) as log:
                port = next(int(line.split("port=")[1]) for line in log if "name=in0" in line)
            with Conversation(socket.create_connection(("127.0.0.1", port))) as client:
                client.send("x" * 100)
                client.rest()
            for _ in range(600):  # each is a line of about 200 octets, the pipe holds 64 KiB
                with Conversation(socket.create_connection(("127.0.0.1", port))) as client:
                    client.send("bad\r\n")
                    assert client.rest() == NOT_NOW
        finally:
            process.kill()
            os.close(read)


def test_the_last_word_arrives_although_the_client_talks_on(tmp_path: Path) -> None:
    """The sidecar ends a session while the client's bytes are on their way: no reset may take the reason away."""

    def announcing(server: Conversation) -> None:
        server.send("220 mx\r\n")
        while server.line():
            server.send("250-mx\r\n250 XCLIENT NAME ADDR\r\n")

    backend = {"acknowledgeClientHidden": True, "acknowledgeNoStartTLS": True}
    with ScriptedServer(announcing) as server:
        manifest = policy(listener(server, "Plain", backend=backend))
        with SidecarProcess(tmp_path, manifest) as sidecar, proxied(sidecar.client()) as client:
            client.expect(220)
            client.send("NOOP\n")
            assert client.line() == "521 5.5.2 lines end with CRLF"
            for _ in range(20):
                client.send("x" * 1000)
            client.sock.shutdown(socket.SHUT_WR)
            assert client.rest() == b""
            sidecar.log.wait_for(r"closed .* R=bare_lf$")


def test_keep_alive_on_both_sides(sidecar: SidecarProcess) -> None:
    """proc(5): the timer of a connection with nothing in flight is 02, keep-alive."""
    with proxied(sidecar.client()) as client:
        client.expect(220)
        descriptors = Path(f"/proc/{sidecar.process.pid}/fd")
        inodes = {m[1] for fd in descriptors.iterdir() if (m := re.match(r"socket:\[(\d+)\]", str(fd.readlink())))}
        tables = [Path(f"/proc/{sidecar.process.pid}/net/{name}").read_text("ascii") for name in ("tcp", "tcp6")]
        lines = [line.split() for table in tables for line in table.splitlines()[1:]]
        timers = [line[5].split(":")[0] for line in lines if line[9] in inodes and line[3] == "01"]
    assert timers == ["02", "02"]
