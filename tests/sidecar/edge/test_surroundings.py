"""What the edge learns of its surroundings: addresses, host name, the file and its copy, an exposed mail server."""

from __future__ import annotations

import asyncio
import json
import stat
from ipaddress import ip_address
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from postern_sidecar import config
from postern_sidecar.app import Sidecar
from postern_sidecar.config.options import Options
from postern_sidecar.edge import exposed, state, watch
from postern_sidecar.edge.addresses import own_addresses
from postern_sidecar.edge.current import load_at_start
from postern_sidecar.edge.exposed import exposed_addresses
from postern_sidecar.edge.hostname import usable
from sidecar_process import policy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from postern_sidecar.names import Address

FIB_TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.0.9.0/24 2 0 2
        |-- 10.0.9.0
           /24 link UNICAST
        |-- 10.0.9.12
           /32 host LOCAL
        |-- 10.0.9.255
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.0
           /8 host LOCAL
        |-- 127.0.0.1
           /32 host LOCAL
"""
IF_INET6 = """fd000000000000000000000000000012 02 40 00 80     eth0
fe80000000000000000000000000000c 02 40 20 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
"""


def addresses(*texts: str) -> frozenset[Address]:
    return frozenset(map(ip_address, texts))


@pytest.mark.parametrize(
    ("files", "own"),
    [
        (
            {"fib_trie": FIB_TRIE, "if_inet6": IF_INET6},
            addresses("10.0.9.12", "127.0.0.1", "fd00::12", "fe80::c", "::1"),
        ),
        ({"fib_trie": FIB_TRIE}, addresses("10.0.9.12", "127.0.0.1")),
        ({"if_inet6": IF_INET6}, addresses("fd00::12", "fe80::c", "::1")),
        ({}, addresses()),
    ],
    ids=["both families", "IPv4 alone", "IPv6 alone", "nothing to read"],
)
def test_our_own_addresses(tmp_path: Path, files: dict[str, str], own: frozenset[Address]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert own_addresses(tmp_path) == own


def test_our_own_addresses_here() -> None:
    assert ip_address("127.0.0.1") in own_addresses()


@pytest.mark.parametrize(
    ("name", "used"),
    [
        ("mx-0", "mx-0"),
        ("Mail.example.net", "Mail.example.net"),
        ("my_host", "my_host"),
        ("", "localhost"),
        ("(none)", "localhost"),
        ("two words", "localhost"),
        ("a\r\nQUIT", "localhost"),
        ("mx\n", "localhost"),
        ("m\udcfcx", "localhost"),
        ("-mx", "localhost"),
        ("mx.", "localhost"),
        ("a..b", "localhost"),
        ("x" * 254, "localhost"),
    ],
)
def test_the_system_s_name_where_it_is_one(name: str, used: str) -> None:
    assert usable(name) == used


# The file


def write(path: Path) -> None:
    path.write_text("another text")


def replace(path: Path) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(path.read_bytes())
    new.replace(path)


def swap(path: Path) -> None:
    """As the kubelet does, two links above the file."""
    old, new = path.parent / "..1", path.parent / "..2"
    for folder in (old, new):
        folder.mkdir()
        (folder / path.name).write_bytes(path.read_bytes())
    (path.parent / "..data").symlink_to(new)
    path.unlink()
    path.symlink_to(f"..data/{path.name}")


@pytest.mark.parametrize("change", [write, replace, swap])
async def test_each_change_is_seen_once(
    tmp_path: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "INTERVAL", 0.001)
    path = tmp_path / "policy.json"
    path.write_text("a text")
    seen, calls = watch.stamp(path), asyncio.Queue[bytes]()

    async def changed() -> None:
        calls.put_nowait(path.read_bytes())

    watching = asyncio.create_task(watch.watch(path, seen, changed))
    try:
        change(path)
        assert await asyncio.wait_for(calls.get(), 10) == path.read_bytes()
        path.unlink()  # gone is no change; back is one
        path.write_text("it is back")
        assert await asyncio.wait_for(calls.get(), 10) == b"it is back"
        assert calls.empty()
    finally:
        watching.cancel()


def test_a_missing_file_has_no_stamp(tmp_path: Path) -> None:
    assert watch.stamp(tmp_path / "nowhere") is None


def test_what_changes_while_it_is_read_at_start_is_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy({"backend": {"port": 1, "handover": "ProxyV1"}})))

    def read(file: Path) -> bytes:
        data = config_read(file)
        replace(file)
        return data

    config_read = config.read
    monkeypatch.setattr(config, "read", read)
    loaded = load_at_start(Options(config=path, state_dir=tmp_path))
    assert loaded.seen is not None
    assert loaded.seen != watch.stamp(path)


# Its copy


def test_the_copy_is_whole_and_nobody_elses(tmp_path: Path) -> None:
    directory = tmp_path / "run" / "postern"
    assert state.last_accepted(directory) is None
    state.keep(directory, b"one")
    state.keep(directory, b"two")
    assert state.last_accepted(directory) == b"two"
    assert [path.name for path in directory.iterdir()] == [state.LAST_ACCEPTED]
    assert stat.S_IMODE((directory / state.LAST_ACCEPTED).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("which", ["temporary", "copy"])
def test_no_link_is_followed_to_write(tmp_path: Path, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the process has the same number each time, so the temporary file's name can be guessed."""
    monkeypatch.setattr("os.getpid", lambda: 1)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / (f".{state.LAST_ACCEPTED}.1" if which == "temporary" else state.LAST_ACCEPTED)).symlink_to(victim)
    state.keep(tmp_path, b"policy")
    assert victim.read_text() == "mine"
    assert state.last_accepted(tmp_path) == b"policy"


def test_a_copy_that_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / state.LAST_ACCEPTED).mkdir()
    with pytest.raises(OSError, match="directory"):
        state.keep(tmp_path, b"policy")
    assert [path.name for path in tmp_path.iterdir()] == [state.LAST_ACCEPTED]


# A mail server that can be reached past us


async def test_an_open_port_is_found_and_a_closed_one_is_not() -> None:
    async def bye(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(bye, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await exposed._accepts(ip_address("127.0.0.1"), port)
        assert not await exposed._accepts(ip_address("127.0.0.9"), port)


def test_what_is_exposed_is_said_once_and_again_after_a_reload() -> None:
    one, two = [ip_address("10.0.9.12")], [ip_address("10.0.9.12"), ip_address("fd00::12")]
    exposure = exposed.Exposure()
    looks = [("a", []), ("a", one), ("a", one), ("b", one), ("a", two), ("a", []), ("a", two)]
    assert [exposure.news(*look) for look in looks] == [False, True, False, True, True, False, True]
    exposure.forget()
    assert exposure.news("a", two)


async def test_loopback_is_no_exposure_and_the_rest_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def accepts(address: Address, port: int) -> bool:
        asked.append((str(address), port))
        return address.version == 4

    monkeypatch.setattr(exposed, "_accepts", accepts)
    own = addresses("127.0.0.1", "::1", "10.0.9.12", "fd00::12", "fe80::c")
    assert await exposed_addresses(2525, own) == [ip_address("10.0.9.12")]
    assert sorted(asked) == [("10.0.9.12", 2525), ("fd00::12", 2525)]


@pytest.mark.parametrize(
    ("closed", "draining", "answer"),
    [
        ([], None, (True, "ok")),
        (["smtp"], None, (False, "not listening: smtp")),
        (["smtp", "imap"], None, (False, "not listening: smtp, imap")),
        (["smtp", "imap"], 1.0, (True, "ok")),  # as a drain wants it
    ],
)
def test_healthy_means_listening(closed: list[str], draining: float | None, answer: tuple[bool, str]) -> None:
    def port(name: str) -> SimpleNamespace:
        inbound = SimpleNamespace(name=name)
        return SimpleNamespace(closing=name in closed, listener=SimpleNamespace(inbound=inbound))

    sidecar = SimpleNamespace(ports={name: port(name) for name in ("smtp", "imap")}, draining_since=draining)
    assert Sidecar.healthy(cast("Sidecar", sidecar)) == answer
