"""The commands `check` and `tlsa` as processes, over scripted DNS and next hops of a few lines: what they print, how
they end, and what they leave behind."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.rcode
import pytest

from certificates import EXPIRED, issue, pem_chain
from next_hop import LEAF, ROOT, Peer, next_hop, server_tls
from postern_sidecar.__main__ import main
from postern_sidecar.config.model import Outbound
from postern_sidecar.dane.zonefile import record
from postern_sidecar.edge import inquiring, tlsa, unbound
from postern_sidecar.edge.addresses import own_addresses
from postern_sidecar.edge.check import AT_ONCE, style_of
from postern_sidecar.edge.hostname import system_hostname
from postern_sidecar.names import endpoint
from postern_sidecar.outbound.tree import Style
from scripted_dns import Reply, nobody, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from postern_sidecar.names import Endpoint
    from scripted_dns import Key

SIDECAR = Path(__file__).parents[3] / "sidecar"
SOA = ["ns.example. root.example. 1 2 3 4 60"]
PROVED: dict[Key, Reply] = {
    (".", "SOA"): Reply(SOA),
    ("broken.example.", "SOA"): Reply(rcode=dns.rcode.SERVFAIL, unchecked=Reply(SOA)),
}
HOST = "mx.example.org"


def spec(resolver: Endpoint, **outbound: Any) -> dict[str, Any]:
    servers = {"resolver": "Servers", "servers": [f"{resolver.address}:{resolver.port}"]}
    dns = {"dns": {**servers, "selfTest": {"bogus": "broken.example"}}}
    return {"hostname": "mail.example.net", "outbound": {**dns, "allowAddresses": ["127.0.0.1"], **outbound}}


def policy(folder: Path, made: dict[str, Any]) -> str:
    file = folder / "policy.json"
    header = {"apiVersion": "postern.dev/v1alpha1", "kind": "MailProxyPolicy", "metadata": {"name": "edge"}}
    file.write_text(json.dumps({**header, "spec": made}))
    return str(file)


def routed(port: int) -> dict[str, Any]:
    return {"routes": [{"domains": ["example.org"], "via": f"{HOST}:{port}"}]}


def published(port: int, *records: str) -> dict[Key, Reply]:
    return {
        **PROVED,
        (f"{HOST}.", "A"): Reply(["127.0.0.1"]),
        (f"_{port}._tcp.{HOST}.", "TLSA"): Reply(records or [str(record(LEAF.der))]),
    }


@dataclass
class Ended:
    status: int
    out: str
    err: str

    @property
    def reports(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


async def run(*arguments: str, **env: str) -> Ended:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "postern_sidecar", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SIDECAR), "PYTHONUTF8": "1", **env},
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


async def unread(*arguments: str) -> tuple[int | None, bytes]:
    """Exit status and standard error, where nobody reads standard output."""
    reading, writing = os.pipe()
    os.close(reading)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "postern_sidecar", *arguments),
        stdout=writing,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SIDECAR)},
    )
    os.close(writing)
    _, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, err


def host(folder: Path, *chain: Any) -> Callable[[Peer], Awaitable[None]]:
    """Takes STARTTLS, and hears QUIT before anything that belongs to a message."""

    async def script(peer: Peer) -> None:
        peer.say(b"220 mx\r\n")
        await peer.hear(b"EHLO mail.example.net\r\n")
        peer.say(b"250-mx\r\n250 STARTTLS\r\n")
        await peer.hear(b"STARTTLS\r\n")
        peer.say(b"220 go\r\n")
        await peer.start_tls(server_tls(folder, *chain))
        await peer.hear(b"EHLO mail.example.net\r\n")
        peer.say(b"250 mx\r\n")
        await peer.hear(b"QUIT\r\n")
        await peer.gone()

    return script


class TestCheck:
    async def test_it_goes_as_far_as_quit(self, tmp_path: Path) -> None:
        async with next_hop(host(tmp_path)) as there, serving(published(there.port)) as server:
            file = policy(tmp_path, spec(server.endpoint, **routed(there.port)))
            ended = await run("check", "--json", "--config", file, "user@example.org")
        assert (ended.status, ended.err) == (0, "")
        (report,) = ended.reports
        assert (report["domain"], report["outcome"], report["level"]) == ("example.org", "deliver", "dane")
        assert report["hosts"][0]["tlsa"][0]["matched"] is True

    async def test_reports_come_in_the_order_of_the_command_line(self, tmp_path: Path) -> None:
        zone: dict[Key, Reply] = {
            **PROVED,
            ("slow.example.", "MX"): Reply(["0 ."], delay=0.9),
            **{(f"n{number}.example.", "MX"): Reply(["0 ."], delay=0.3) for number in range(40)},
        }
        async with serving(zone) as server:
            file = policy(tmp_path, spec(server.endpoint))
            names = ["slow.example", *(f"n{number}.example" for number in range(40))]
            ended = await run("check", "--json", "--config", file, *names)
        assert [report["domain"] for report in ended.reports] == names
        assert ended.status == 1
        assert server.most == AT_ONCE
        assert {report["outcome"] for report in ended.reports} == {"bounce"}

    async def test_no_connect(self, tmp_path: Path) -> None:
        async def script(peer: Peer) -> None:
            raise AssertionError("somebody connected")

        async with next_hop(script) as there, serving(published(there.port)) as server:
            file = policy(tmp_path, spec(server.endpoint, **routed(there.port)))
            ended = await run("check", "--json", "--no-connect", "--config", file, "example.org")
        assert (ended.status, ended.reports[0]["level"]) == (0, "dane")

    async def test_a_resolver_that_strips_is_not_believed(self, tmp_path: Path) -> None:
        async with serving({**PROVED, (".", "SOA"): Reply(SOA, ad=False)}) as server:
            file = policy(tmp_path, spec(server.endpoint))
            ended = await run("check", "--json", "--config", file, "a.example", "b.example")
        assert ended.status == 1
        assert [(each["outcome"], each["reason"]) for each in ended.reports] == [("defer", "dns_selftest")] * 2
        assert "self-test failed, it is not used" in ended.err

    async def test_one_that_nobody_can_prove_is_said(self, tmp_path: Path) -> None:
        dead = Reply(rcode=dns.rcode.SERVFAIL)
        async with serving(
            {**PROVED, ("broken.example.", "SOA"): dead, ("a.example.", "MX"): Reply(["0 ."])}
        ) as server:
            ended = await run("check", "--json", "--config", policy(tmp_path, spec(server.endpoint)), "a.example")
        assert ended.reports[0]["reason"] == "null_mx"
        assert "nobody could say whether a forged answer would fail" in ended.err

    async def test_nobody_reads_to_the_end(self, tmp_path: Path) -> None:
        """`check ... | head -1`"""
        async with serving({**PROVED, ("a.example.", "MX"): Reply(["0 ."])}) as server:
            file = policy(tmp_path, spec(server.endpoint))
            assert await unread("check", "--config", file, "a.example") == (128 + signal.SIGPIPE, b"")

    def test_a_resolver_that_never_answers_is_not_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(inquiring, "PROVED", 0.1)
        with socket.socket(type=socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            file = policy(tmp_path, spec(endpoint(silent.getsockname())))
            assert main(["check", "--json", "--config", file, "a.example"]) == 1
        report = json.loads(capsys.readouterr().out)
        assert (report["reason"], report["detail"]) == (
            "dns_selftest",
            "the resolver has not passed its self-test yet",
        )

    async def test_a_password_that_cannot_be_read(self, tmp_path: Path) -> None:
        async with serving(published(587)) as server:
            route = {"domains": ["example.org"], "via": f"{HOST}:587", "auth": {"secretName": "relay"}}
            file = policy(tmp_path, spec(server.endpoint, routes=[route]))
            ended = await run("check", "--json", "--config", file, "--credentials", str(tmp_path), "example.org")
        assert (ended.status, ended.reports[0]["reason"]) == (1, "auth_credentials")
        assert "relay/username: cannot be read" in ended.err

    async def test_a_terminal_gets_colour_and_a_pipe_none(self, tmp_path: Path) -> None:
        async with serving({**PROVED, ("a.example.", "MX"): Reply(["0 ."])}) as server:
            file = policy(tmp_path, spec(server.endpoint))
            piped = await run("check", "--config", file, "a.example")
            coloured = await on_a_terminal("check", "--config", file, "a.example")
        assert piped.out.splitlines()[:2] == ["a.example: bounce", "├─ null_mx: a.example"]
        assert b"\x1b[31mbounce\x1b[0m" in coloured


async def on_a_terminal(*arguments: str) -> bytes:
    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(SIDECAR), "TERM": "xterm"}
    env.pop("NO_COLOR", None)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "postern_sidecar", *arguments, stdout=theirs, env=env
    )
    os.close(theirs)
    await asyncio.wait_for(process.wait(), 60)
    text = b""
    with suppress(OSError):  # EIO: nobody has the other side open any more
        while data := os.read(ours, 4096):
            text += data
    os.close(ours)
    return text


class Stream(io.TextIOWrapper):
    def __init__(self, encoding: str, *, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize(
    ("encoding", "terminal", "env", "style"),
    [
        ("utf-8", True, {"TERM": "xterm"}, Style(colour=True, boxes=True)),
        ("utf-8", True, {"TERM": "xterm", "NO_COLOR": ""}, Style(colour=True, boxes=True)),
        ("utf-8", True, {"TERM": "xterm", "NO_COLOR": "1"}, Style(colour=False, boxes=True)),
        ("utf-8", True, {"TERM": "dumb"}, Style(colour=False, boxes=True)),
        ("utf-8", False, {"TERM": "xterm"}, Style(colour=False, boxes=True)),
        ("ascii", True, {}, Style(colour=True, boxes=False)),
        ("iso8859-1", False, {}, Style(colour=False, boxes=False)),
        ("cp437", False, {}, Style(colour=False, boxes=True)),
    ],
)
def test_what_a_stream_can_show(
    encoding: str, terminal: bool, env: dict[str, str], style: Style, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert style_of(Stream(encoding, terminal=terminal)) == style


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["check"], "the following arguments are required: DOMAIN"),
            (["check", "a..b"], "'a..b' is neither a domain name nor an address literal"),
            (
                ["check", "example.org", "b\u00fccher..example"],
                "'b\u00fccher..example' is neither a domain name nor an address literal",
            ),
            (["check", "192.0.2.1"], "'192.0.2.1' is an address without its brackets; write [192.0.2.1]"),
            (["check", "[192.0.2.1"], "'[192.0.2.1' is neither a domain name nor an address literal"),
            (["tlsa"], "give a PEM file, or a host after --verify, or both"),
            (["tlsa", "--verify", "192.0.2.1"], "'192.0.2.1' is not a host's name"),
            (["tlsa", "--verify", "mx.example.org:x"], "'mx.example.org:x' is not a host's name"),
            (["tlsa", "x.pem", "--name", "mx.example.org"], "'mx.example.org' is not the name of a TLSA record"),
            (["tlsa", "x.pem", "--name", "_25._tcp."], "'_25._tcp.' is not the name of a TLSA record"),
            (["tlsa", "x.pem", "--name", "_25._tcp.a..b"], "'_25._tcp.a..b' is not the name of a TLSA record"),
            (["tlsa", "x.pem", "--usage", "x"], "argument --usage: invalid int value: 'x'"),
        ],
    )
    def test_it_is_named(self, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert says in capsys.readouterr().err

    def test_no_such_policy(self, capsys: pytest.CaptureFixture[str]) -> None:
        for arguments in (["check", "--config", "nowhere.yaml", "example.org"],
                          ["tlsa", "--verify", HOST, "--config", "nowhere.yaml"]):  # fmt: skip
            assert main(arguments) == 2
            assert "nowhere.yaml: there is no such file" in capsys.readouterr().err

    def test_a_policy_that_is_wrong(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = policy(tmp_path, {"hostname": "mail.example.net", "outbound": {"dns": {"resolver": "Servers"}}})
        assert main(["check", "--config", file, "example.org"]) == 2
        assert "spec.outbound.dns.servers" in capsys.readouterr().err

    def test_a_policy_that_delivers_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        inbound = {"name": "smtp", "port": 25, "backend": {"port": 2525, "handover": "ProxyV2"}}
        assert main(["check", "--config", policy(tmp_path, {"inbound": [inbound]}), "example.org"]) == 2
        assert "has no spec.outbound" in capsys.readouterr().err

    def test_without_unbound(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr(unbound, "FOLDERS", "")
        assert main(["check", "example.org"]) == 2
        assert "install it (Debian: unbound and dns-root-data)" in capsys.readouterr().err

    def test_without_the_root_anchor(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "unbound").write_text("#!/bin/false\n")
        (tmp_path / "unbound").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(unbound, "ANCHOR_FILES", (str(tmp_path / "nothing"),))
        assert main(["check", "example.org"]) == 2
        assert "install it (Debian: dns-root-data)" in capsys.readouterr().err


FROZEN = """#!{python} -IS
import os, signal
with open({fifo!r}, "w") as fifo:
    fifo.write(f"{{os.getpid()}} {{os.getcwd()}}")
while True:
    signal.pause()
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_told_to_end_it_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """An Unbound that has started, and will never serve."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "unbound").write_text(FROZEN.format(python=sys.executable, fifo=str(fifo)))
    (tmp_path / "unbound").chmod(0o755)
    (tmp_path / "policy.yaml").write_text(
        "apiVersion: postern.dev/v1alpha1\nkind: MailProxyPolicy\nmetadata: {name: edge}\n"
        "spec: {hostname: mail.example.net, outbound: {dns: {trustAnchors: "
        f"['. IN DS 20326 8 2 {'ab' * 32}']}}}}}}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "postern_sidecar", "check", "--config", str(tmp_path / "policy.yaml"), "example.org"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SIDECAR), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's job with & ignores it
    )
    child, _, folder = fifo.read_text().partition(" ")
    assert Path(folder).is_dir()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (status, b"", b"")
    assert not Path(folder).exists()
    assert not Path(f"/proc/{child}").exists()


class TestRecords:
    """`tlsa CERT.pem`"""

    def file(self, folder: Path) -> str:
        path = folder / "chain.pem"
        path.write_bytes(LEAF.key_pem + pem_chain(LEAF, ROOT))
        return str(path)

    async def test_nobody_reads_them(self, tmp_path: Path) -> None:
        assert await unread("tlsa", self.file(tmp_path)) == (128 + signal.SIGPIPE, b"")

    @pytest.mark.parametrize(
        ("options", "of"),
        [
            ([], record(LEAF.der, 3, 1, 1)),
            (["--usage", "3", "--selector", "0", "--matching", "2"], record(LEAF.der, 3, 0, 2)),
            (["--usage", "2"], record(ROOT.der, 2, 1, 1)),
            (["--usage", "2", "--selector", "0", "--matching", "0"], record(ROOT.der, 2, 0, 0)),
        ],
    )
    def test_of_the_first_certificate_or_the_last(
        self, tmp_path: Path, options: list[str], of: object, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["tlsa", self.file(tmp_path), *options]) == 0
        assert capsys.readouterr().out == f"{of}\n"

    def test_with_its_name(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["tlsa", self.file(tmp_path), "--name", "_25._tcp.MX.example.org."]) == 0
        assert capsys.readouterr().out == f"_25._tcp.mx.example.org. IN TLSA {record(LEAF.der)}\n"

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--usage", "1"], "usage is 3 (DANE-EE) or 2 (DANE-TA)"),
            (["--selector", "2"], "selector is 1"),
            (["--matching", "3"], "matching is 1"),
        ],
    )
    def test_numbers_that_mean_nothing(
        self, tmp_path: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["tlsa", self.file(tmp_path), *options]) == 2
        assert says in capsys.readouterr().err

    def test_files_that_are_none(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["tlsa", str(tmp_path / "nothing.pem")]) == 2
        assert "nothing.pem: cannot be read: No such file or directory" in capsys.readouterr().err
        (tmp_path / "text.pem").write_text("text")
        assert main(["tlsa", str(tmp_path / "text.pem")]) == 2
        assert "text.pem: is not PEM with a certificate in it" in capsys.readouterr().err
        (tmp_path / "large.pem").write_bytes(b"\n" * (tlsa.MAX_SIZE + 1))
        assert main(["tlsa", str(tmp_path / "large.pem")]) == 2
        assert f"large.pem: is larger than {tlsa.MAX_SIZE} octets" in capsys.readouterr().err


class TestVerify:
    """`tlsa --verify HOST:port [CERT.pem]`"""

    async def verify(self, folder: Path, records: list[str], *chain: Any, file: Any = None) -> Ended:
        async with next_hop(host(folder, *chain)) as there, serving(published(there.port, *records)) as server:
            arguments = ["--config", policy(folder, spec(server.endpoint)), "--verify", f"{HOST}:{there.port}"]
            if file is not None:
                (folder / "new.pem").write_bytes(file.pem)
                arguments.append(str(folder / "new.pem"))
            return await run("tlsa", *arguments)

    async def test_a_match(self, tmp_path: Path) -> None:
        ended = await self.verify(tmp_path, [])
        assert (ended.status, ended.err) == (0, "")
        first, second, third = ended.out.splitlines()
        assert first.startswith(f"{HOST} port ")
        assert first.endswith(f"._tcp.{HOST}, secure")
        assert second == f"   {record(LEAF.der)}"
        assert third.startswith("127.0.0.1: ok: match: 3 1 1 ")

    async def test_a_mismatch(self, tmp_path: Path) -> None:
        ended = await self.verify(tmp_path, [f"3 1 1 {'ab' * 32}"])
        assert ended.status == 1
        assert "127.0.0.1: error: mismatch: " in ended.out

    async def test_a_warning_is_no_match(self, tmp_path: Path) -> None:
        ended = await self.verify(tmp_path, [str(record(LEAF.der, 3, 0, 1))])
        assert ended.status == 1
        assert "ok: match" in ended.out
        assert "warning: 3 0 1" in ended.out

    async def test_an_expired_certificate_of_an_authority(self, tmp_path: Path) -> None:
        late = issue(HOST, by=ROOT, dns=[HOST], valid=EXPIRED)
        ended = await self.verify(tmp_path, [str(record(ROOT.der, 2, 1, 1))], late, ROOT)
        assert ended.status == 1
        assert "error: mismatch: certificate_expired" in ended.out

    async def test_a_file_that_would_break_it(self, tmp_path: Path) -> None:
        ended = await self.verify(tmp_path, [], file=issue("next", dns=[HOST]))
        assert ended.status == 1
        assert f"{tmp_path / 'new.pem'}: error: mismatch: " in ended.out
        assert f"._tcp.{HOST}. IN TLSA 3 1 1 " in ended.out

    async def test_a_file_that_would_not(self, tmp_path: Path) -> None:
        ended = await self.verify(tmp_path, [], file=LEAF)
        assert ended.status == 0
        assert f"{tmp_path / 'new.pem'}: ok: match: " in ended.out

    async def test_a_resolver_that_is_not_there(self, tmp_path: Path) -> None:
        ended = await run("tlsa", "--config", policy(tmp_path, spec(nobody())), "--verify", HOST)
        assert (ended.status, ended.out) == (1, "")
        assert "nothing that DNS says can be believed: self-test failed" in ended.err


def test_without_a_policy_the_defaults_hold_and_own_addresses_are_known_always(tmp_path: Path) -> None:
    chosen = inquiring.settings(None)
    assert chosen.outbound == Outbound()
    assert chosen.hostname == system_hostname()
    read = inquiring.settings(Path(policy(tmp_path, spec(nobody()))))
    assert read.hostname == "mail.example.net"
    assert chosen.own == read.own == own_addresses() != frozenset()
