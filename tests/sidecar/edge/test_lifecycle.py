"""A running sidecar's start, reloads, drain and end, from outside: signals, the file, the admin port, exit codes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from sidecar_process import ROOT, ScriptedServer, SidecarProcess, policy, proxied, smtp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lab.conversation import Conversation

SHUTDOWN = "421 4.3.2 mail.example.net shutting down, try again"


@pytest.fixture
def mail() -> Iterator[ScriptedServer]:
    with ScriptedServer(smtp) as server:
        yield server


def listener(server: ScriptedServer, **fields: Any) -> dict[str, Any]:
    return {"backend": {"port": server.port, "handover": "ProxyV1"}, **fields}


def config_of(sidecar: SidecarProcess) -> dict[str, Any]:
    status, text = sidecar.get("/config")
    assert status == 200
    answer: dict[str, Any] = json.loads(text)
    return answer


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "postern_sidecar", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT / "sidecar")},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


# Start


def test_what_the_admin_port_says(tmp_path: Path, mail: ScriptedServer) -> None:
    with SidecarProcess(tmp_path, policy(listener(mail))) as sidecar:
        assert sidecar.get("/healthz")[0] == 200
        assert sidecar.get("/readyz")[0] == 200
        config = config_of(sidecar)
        assert set(config) == {"hash", "loadedAt", "version", "source", "error"}
        assert (config["source"], config["error"]) == ("file", None)
        assert f"hash={config['hash']}" in str(sidecar.log)


def test_a_bad_file_starts_nothing(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(
        "apiVersion: postern.dev/v1alpha1\nkind: MailProxyPolicy\nmetadata: {name: x}\nspec: {inbund: []}\n"
    )
    result = run("run", "--config", str(file), "--state-dir", str(tmp_path), cwd=tmp_path)
    assert result.returncode == 2
    assert "policy.yaml:4: spec.inbund" in result.stderr
    assert "inbound" in result.stderr
    assert result.stdout == ""


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    result = run("run", "--config", "nowhere.yaml", "--state-dir", str(tmp_path), cwd=tmp_path)
    assert result.returncode == 2
    assert "nowhere.yaml" in result.stderr


def test_a_taken_port_is_named_and_nothing_is_left(tmp_path: Path, mail: ScriptedServer) -> None:
    manifest = policy({"port": mail.port, "backend": {"port": 1, "handover": "ProxyV1"}})
    (tmp_path / "p.json").write_text(json.dumps(manifest))
    result = run("run", "--config", "p.json", "--state-dir", str(tmp_path), "--admin", "127.0.0.1:0", cwd=tmp_path)
    assert result.returncode == 1
    assert f"port {mail.port}: another process has it" in result.stderr
    assert "spec.inbound[name=in0].port" in result.stderr


def test_a_port_that_needs_permission_names_the_remedy(tmp_path: Path, mail: ScriptedServer) -> None:
    """In a network namespace of its own, where ports under 1024 are root's, as a user without any capability."""
    (tmp_path / "p.json").write_text(json.dumps(policy(listener(mail, port=25))))
    code = (
        "import ctypes, os, runpy, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.unshare(0x10000000 | 0x40000000) == 0, os.strerror(ctypes.get_errno())\n"  # NEWUSER, NEWNET
        "sys.argv = ['postern-sidecar', 'run', '--config', 'p.json', '--state-dir', '.', '--admin', '127.0.0.1:0']\n"
        "assert libc.prctl(24, 10, 0, 0, 0) == 0\n"  # PR_CAPBSET_DROP, CAP_NET_BIND_SERVICE
        "os.execv(sys.executable, [sys.executable, '-m', 'postern_sidecar', *sys.argv[1:]])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "sidecar")},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert result.returncode == 1, result.stderr
    assert "ip_unprivileged_port_start=25" in result.stderr


def test_the_last_accepted_file_carries_over_a_bad_one(tmp_path: Path, mail: ScriptedServer) -> None:
    with SidecarProcess(tmp_path, policy(listener(mail))) as sidecar:
        accepted = config_of(sidecar)["hash"]
        kept = sidecar.state / "last-accepted"
        assert stat.S_IMODE(kept.stat().st_mode) & 0o077 == 0 or stat.S_IMODE(sidecar.state.stat().st_mode) == 0o700
        sidecar.signal(signal.SIGTERM)
        assert sidecar.wait() == 0
    with SidecarProcess(tmp_path, b'{"kind": "Pod"}') as sidecar:
        config = config_of(sidecar)
        assert (config["source"], config["hash"]) == ("lastAccepted", accepted)
        assert "kind" in config["error"]["message"]
        sidecar.log.wait_for("config_refused")
        assert sidecar.metric("postern_config_last_reload_successful") == 0
        with proxied(sidecar.client()) as client:
            client.expect(220)


# Reload


def test_new_connections_get_the_new_file_and_running_ones_keep_theirs(tmp_path: Path, mail: ScriptedServer) -> None:
    with SidecarProcess(tmp_path, policy(listener(mail))) as sidecar, proxied(sidecar.client()) as old:
        old.expect(220)
        closed = [{"name": "shut", "when": "true", "action": "Refuse", "message": "closed today"}]
        sidecar.write(policy(listener(mail, rules=closed)))
        sidecar.log.wait_for(" config hash=", times=2)
        with proxied(sidecar.client()) as new:
            assert new.line() == "554 5.7.1 closed today"
        old.command("NOOP", 250)


def test_the_kubelets_symlink_swap_is_seen(tmp_path: Path, mail: ScriptedServer) -> None:
    """A ConfigMap volume: policy.json -> ..data/policy.json, ..data -> a dated folder that is replaced."""
    first, second = policy(listener(mail)), policy(listener(mail, earlyTalkers="Forward"))
    for name, manifest in (("..1", first), ("..2", second)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.json").write_text(json.dumps(manifest))
    with SidecarProcess(tmp_path, first) as sidecar:
        (tmp_path / "..data").symlink_to("..1")
        sidecar.file.unlink()
        sidecar.file.symlink_to("..data/policy.json")
        sidecar.log.wait_for(" config hash=", times=2)
        (tmp_path / "..data_tmp").symlink_to("..2")
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")
        sidecar.log.wait_for(" config hash=", times=3)


def test_sighup_reads_the_file_at_once(tmp_path: Path, mail: ScriptedServer) -> None:
    with SidecarProcess(tmp_path, policy(listener(mail))) as sidecar:
        sidecar.signal(signal.SIGHUP)
        sidecar.log.wait_for(" config hash=", times=2)


def test_sighup_while_it_starts_ends_nothing(tmp_path: Path, mail: ScriptedServer) -> None:
    """The file is a pipe, so the start waits where the test wants it to."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    argv = ["run", "--config", str(pipe), "--state-dir", str(tmp_path), "--admin", "127.0.0.1:0", "--ephemeral-ports"]
    process = subprocess.Popen(
        [sys.executable, "-m", "postern_sidecar", *argv],
        env={**os.environ, "PYTHONPATH": str(ROOT / "sidecar")},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            with pipe.open("w") as writing:  # waits for the reader
                process.send_signal(signal.SIGHUP)
                writing.write(json.dumps(policy(listener(mail))))
            assert process.stdout is not None
            assert any(" listening name=in0" in line for line in process.stdout)
        finally:
            process.kill()


def test_listeners_come_and_go_without_dropping_others(tmp_path: Path, mail: ScriptedServer) -> None:
    with SidecarProcess(tmp_path, policy(listener(mail), listener(mail))) as sidecar:
        first, second = sidecar.ports["in0"], sidecar.ports["in1"]
        with proxied(sidecar.client("in0")) as stays, proxied(sidecar.client("in1")) as leaves:
            stays.expect(220)
            leaves.expect(220)
            sidecar.write(policy(listener(mail), listener(mail, name="third", port=9999)))
            sidecar.log.wait_for(" config hash=", times=2)
            sidecar.find_ports()
            assert sidecar.ports["in0"] == first
            with proxied(sidecar.client("third")) as new:
                new.expect(220)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", second), 20)
            stays.command("NOOP", 250)
            leaves.command("NOOP", 250)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def test_a_listener_changes_its_address_and_keeps_its_port(tmp_path: Path, mail: ScriptedServer) -> None:
    """Both cannot listen at once: the old one makes way, its sessions stay. Where the file is refused it is back."""
    port = free_port()
    here = policy(listener(mail, address="127.0.0.1", port=port))
    everywhere = listener(mail, port=port)
    unheard_of = listener(mail, address="192.0.2.200", port=free_port())
    with SidecarProcess(tmp_path, here, ephemeral=False) as sidecar, proxied(sidecar.client()) as old:
        old.expect(220)
        sidecar.write(policy(everywhere, unheard_of))
        sidecar.log.wait_for(r"config_refused .*192\.0\.2\.200")
        with proxied(sidecar.client()) as client:
            client.expect(220)
        sidecar.write(policy(everywhere))
        sidecar.log.wait_for(rf" listening name=in0 address=(::|0\.0\.0\.0) port={port}")
        with proxied(sidecar.client()) as client:
            client.expect(220)
        old.command("NOOP", 250)


def test_two_listeners_swap_their_names(tmp_path: Path) -> None:
    def one(server: Conversation) -> None:
        server.line()
        server.send("220 one\r\n")

    def two(server: Conversation) -> None:
        server.line()
        server.send("220 two\r\n")

    with ScriptedServer(one) as first, ScriptedServer(two) as second:
        before = policy(listener(first), listener(second))
        after = policy(listener(first, name="in1"), listener(second, name="in0"))
        with SidecarProcess(tmp_path, before) as sidecar:
            ports = dict(sidecar.ports)
            sidecar.write(after)
            sidecar.log.wait_for(" config hash=", times=2)
            sidecar.find_ports()
            assert (sidecar.ports["in0"], sidecar.ports["in1"]) == (ports["in1"], ports["in0"])
            with proxied(sidecar.client("in0")) as client:
                assert client.line() == "220 two"
            sample = 'postern_inbound_connections_total{handover="ProxyV1",listener="in0",outcome="handed_over"}'
            assert sidecar.metric(sample) == 1


def test_garbage_a_hundred_times_under_load_loses_no_session(tmp_path: Path, mail: ScriptedServer) -> None:
    good = policy(listener(mail))
    stop = threading.Event()
    with SidecarProcess(tmp_path, good) as sidecar:

        def load() -> int:
            sessions = 0
            while not stop.is_set():
                with proxied(sidecar.client()) as client:
                    client.expect(220)
                    client.command("EHLO x", 250)
                    client.command("QUIT", 221)
                sessions += 1
            return sessions

        with ThreadPoolExecutor(4) as pool:
            loads = [pool.submit(load) for _ in range(4)]
            try:
                for number in range(100):
                    sidecar.write(os.urandom(200) if number % 2 else b'{"kind":')
                    sidecar.signal(signal.SIGHUP)
                    sidecar.log.wait_for("config_refused", times=number + 1)
            finally:
                stop.set()
            assert sum(done.result() for done in loads) > 100
        config = config_of(sidecar)
        assert config["error"]["message"]
        assert config["source"] == "file"
        sidecar.write(good)
        sidecar.log.wait_for(" config hash=", times=2)
        assert config_of(sidecar)["error"] is None


def test_a_port_that_cannot_be_had_refuses_the_file_whole(tmp_path: Path, mail: ScriptedServer) -> None:
    with SidecarProcess(tmp_path, policy(listener(mail))) as sidecar:
        refused = policy(listener(mail, earlyTalkers="Forward"), listener(mail, address="192.0.2.200"))
        sidecar.write(refused)
        sidecar.log.wait_for(r"config_refused .*spec\.inbound\[name=in1\]\.port.*192\.0\.2\.200")
        with proxied(sidecar.client()) as client:
            client.send("EHLO early\r\n")
            assert client.line().startswith("554 ")


# Drain and the end


def test_a_drain_accepts_a_while_and_lets_sessions_end(tmp_path: Path, mail: ScriptedServer) -> None:
    with SidecarProcess(tmp_path, policy(listener(mail)), "--drain-delay", "1") as sidecar:
        with proxied(sidecar.client()) as client:
            client.expect(220)
            assert run("drain", "--state-dir", str(sidecar.state), cwd=tmp_path).returncode == 0
            assert sidecar.get("/readyz")[0] == 503
            assert sidecar.get("/healthz")[0] == 200
            with proxied(sidecar.client()) as late:
                late.expect(220)
                late.command("QUIT", 221)
            assert sidecar.get("/drained?timeout=0.1")[0] == 503
            with ThreadPoolExecutor(1) as pool:
                drained = pool.submit(sidecar.get, "/drained")
                sidecar.log.wait_for("drain")
                client.command("QUIT", 221)
                client.close()
                assert drained.result()[0] == 200
        with pytest.raises(ConnectionRefusedError):
            sidecar.client()
        assert sidecar.process.poll() is None
        sidecar.signal(signal.SIGTERM)
        assert sidecar.wait() == 0


def test_drain_without_a_sidecar_says_so(tmp_path: Path) -> None:
    result = run("drain", "--state-dir", str(tmp_path), cwd=tmp_path)
    assert result.returncode == 1
    assert str(tmp_path) in result.stderr


def test_sigterm_without_sessions_is_immediate(tmp_path: Path, mail: ScriptedServer) -> None:
    with SidecarProcess(tmp_path, policy(listener(mail))) as sidecar:
        sidecar.signal(signal.SIGTERM)
        assert sidecar.wait() == 0


def test_a_second_signal_does_not_wait(tmp_path: Path, mail: ScriptedServer) -> None:
    with SidecarProcess(tmp_path, policy(listener(mail)), "--grace", "600") as sidecar:
        with proxied(sidecar.client()) as client:
            client.expect(220)
            sidecar.signal(signal.SIGINT)
            sidecar.log.wait_for("stopping")
            sidecar.signal(signal.SIGINT)
            assert sidecar.wait() == 0


def test_after_the_grace_a_clear_text_session_is_told_to_come_back(tmp_path: Path, mail: ScriptedServer) -> None:
    with SidecarProcess(tmp_path, policy(listener(mail)), "--grace", "0") as sidecar:
        with proxied(sidecar.client()) as client:
            client.expect(220)
            sidecar.signal(signal.SIGTERM)
            assert client.line() == SHUTDOWN
            assert client.line() == ""
        assert sidecar.wait() == 0
        assert sidecar.log.matches(r"closed .* R=shutdown$")


def test_a_session_that_waits_for_a_reply_gets_it(tmp_path: Path) -> None:
    """The grace is over while the server thinks about a message: its answer still comes, and then 421."""
    told = threading.Event()

    def slow(server: Conversation) -> None:
        server.line()
        server.send("220 mx\r\n")
        while (line := server.line()) != ".":
            if line == "DATA":
                server.send("354 go\r\n")
        told.wait(20)
        server.send("250 queued\r\n")
        server.rest()

    with ScriptedServer(slow) as server, SidecarProcess(tmp_path, policy(listener(server)), "--grace", "0") as sidecar:
        with proxied(sidecar.client()) as client, proxied(sidecar.client(), "192.0.2.77") as idle:
            client.expect(220)
            idle.expect(220)
            client.command("DATA", 354)
            client.send("body\r\n.\r\n")
            sidecar.signal(signal.SIGTERM)
            assert idle.line() == SHUTDOWN  # so the grace is over, and this one waits on
            told.set()
            assert client.line() == "250 queued"
            assert client.line() == SHUTDOWN
        assert sidecar.wait() == 0


def test_what_cannot_be_spoken_to_is_closed_when_it_is_quiet(tmp_path: Path) -> None:
    def tls(server: Conversation) -> None:
        server.line()
        server.send(b"\x16\x03\x03\x00\x02hi")
        server.rest()

    with (
        ScriptedServer(tls) as server,
        SidecarProcess(tmp_path, policy(listener(server, tlsOnConnect=True)), "--grace", "0") as sidecar,
    ):
        with proxied(sidecar.client()) as client:
            assert client.sock.recv(7) == b"\x16\x03\x03\x00\x02hi"
            sidecar.signal(signal.SIGTERM)
            assert client.rest() == b""
        assert sidecar.wait() == 0


def deaf(client: Conversation) -> None:
    """It was refused, and reads its last word without ever leaving."""
    client.send("no header\r\n")
    client.expect(421)


def half_gone(client: Conversation) -> None:
    """Its server has ended its side, and the client stays."""
    proxied(client).expect(220)
    assert client.line() == ""


@pytest.mark.parametrize("lingers", [deaf, half_gone])
def test_whoever_can_be_told_nothing_more_holds_no_drain_up(
    tmp_path: Path, lingers: Callable[[Conversation], None]
) -> None:
    """Nothing may be written to them any more, and the sessions beside them are ended all the same."""
    sessions = itertools.count()

    def half(server: Conversation) -> None:
        server.line()
        server.send("220 mx\r\n")
        if lingers is half_gone and not next(sessions):
            server.sock.shutdown(socket.SHUT_WR)
        server.rest()

    with ScriptedServer(half) as server, SidecarProcess(tmp_path, policy(listener(server)), "--grace", "0") as sidecar:
        with sidecar.client() as client:
            lingers(client)
            with proxied(sidecar.client(), "192.0.2.77") as other:
                other.expect(220)
                sidecar.signal(signal.SIGTERM)
                assert other.line() == SHUTDOWN
            assert client.rest() == b""
        assert sidecar.wait() == 0
    assert "Traceback" not in str(sidecar.errors)


# Descriptors


def test_out_of_descriptors_nobody_is_dropped_and_health_answers(tmp_path: Path, mail: ScriptedServer) -> None:
    """Room for a few sessions only: those that come later wait in the kernel's queue and get their turn."""
    with SidecarProcess(tmp_path, policy(listener(mail)), files=100) as sidecar:
        clients = [proxied(sidecar.client(), f"192.0.2.{number}") for number in range(40)]
        sidecar.log.wait_for("descriptors")
        assert sidecar.get("/healthz")[0] == 200
        *others, last = clients
        for client in others:
            client.close()
        with last:
            assert "192.0.2.39" in last.line()


def test_no_room_at_all_is_said_at_start(tmp_path: Path, mail: ScriptedServer) -> None:
    with SidecarProcess(tmp_path, policy(listener(mail)), files=64, listens=False) as sidecar:
        assert sidecar.wait() == 1
        sidecar.errors.wait_for("ulimit -n")
