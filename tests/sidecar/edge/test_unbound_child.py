"""The supervision of Unbound, with a stand-in that misbehaves as told: started, watched, started again, ended."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from postern_sidecar.config.model import DNS
from postern_sidecar.edge import child, unbound, unboundlog
from postern_sidecar.edge.unbound import MissingError, Unbound
from postern_sidecar.edge.unboundlog import UnboundLog
from scripted_dns import Reply, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from postern_sidecar.names import Endpoint

SERVES = "[1795377542] unbound[15286:0] info: start of service (unbound 1.17.1)."
STAND_IN = r"""
    import json, os, re, socket, sys, time
    orders = json.loads(open({orders!r}).read())
    here = os.path.dirname({orders!r})
    number = len([name for name in os.listdir(here) if name.startswith("life-")])
    order = orders[min(number, len(orders) - 1)]
    text = open(sys.argv[-1]).read()
    open(os.path.join(here, f"life-{{number}}"), "w").write(json.dumps({{
        "argv": sys.argv[1:], "pid": os.getpid(), "cwd": os.getcwd(), "env": dict(os.environ),
        "session": os.getsid(0) == os.getpid(), "anchor": os.path.exists("root.key") and open("root.key").read(),
        "privileges": re.search("NoNewPrivs:\t1", open("/proc/self/status").read()) is not None,
    }}))
    for line in order.get("lines", []):
        sys.stderr.buffer.write(line.encode("utf-8", "surrogateescape"))
    sys.stderr.flush()
    if "status" in order:
        sys.exit(order["status"])
    if order.get("deaf"):
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    port = int(re.search(r"^port: (\d+)$", text, re.M)[1])
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", port))
    if order.get("serves", True):
        print({serves!r}, file=sys.stderr, flush=True)
    answers = order.get("answers", 1 << 30)
    while True:
        query, peer = sock.recvfrom(4096)
        if answers > 0:
            sock.sendto(query[:2] + b"\x81\x85" + query[4:10] + b"\0\0" + query[12:-11], peer)
        answers -= 1
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(unbound, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(unbound, "EVERY", 0.05)
    monkeypatch.setattr(unbound, "PING", 20.0)
    monkeypatch.setattr(child, "GRACE", 0.3)
    anchor = tmp_path / "system.key"
    anchor.write_text("anchor of the system\n")
    monkeypatch.setattr(unbound, "ANCHOR_FILES", (str(tmp_path / "nothing"), str(anchor)))


class Scene:
    """A folder with the stand-in, and what the supervision said."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *orders: dict[str, Any]) -> None:
        self.folder = folder / "scene"
        self.folder.mkdir()
        (self.folder / "orders").write_text(json.dumps(orders))
        program = self.folder / "unbound"
        text = textwrap.dedent(STAND_IN).format(orders=str(self.folder / "orders"), serves=SERVES)
        program.write_text(f"#!{sys.executable} -IS\n{text}")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{self.folder}:{os.environ['PATH']}")
        monkeypatch.setenv("POSTERN_SECRET", "x")
        self.state = folder / "state" / "unbound"
        self.said: list[str] = []
        self.ups: list[Endpoint] = []
        self.downs: list[str] = []

    def tell(self, put: Callable[[Any], None]) -> Callable[[Any], None]:
        def told(what: Any) -> None:
            put(what)
            self.changed.set()

        return told

    async def down(self, monkeypatch: pytest.MonkeyPatch, **impatience: float) -> None:
        """Waits until the first one is down, with that little patience for it. The next one has all the time in the
        world, or a busy machine would see a third."""
        with monkeypatch.context() as patch:
            for name, seconds in impatience.items():
                patch.setattr(unbound, name, seconds)
            await self.until(lambda: bool(self.downs))

    @asynccontextmanager
    async def running(self, directory: Path | str | None = "") -> AsyncIterator[Unbound]:
        self.changed = asyncio.Event()
        where = self.state if isinstance(directory, str) else directory
        supervised = Unbound(
            DNS(),
            where,
            on_up=self.tell(self.ups.append),
            on_down=self.tell(self.downs.append),
            say=self.tell(self.said.append),
        )
        task = asyncio.ensure_future(supervised.run())
        try:
            yield supervised
        finally:
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def life(self, number: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / f"life-{number}").read_text())
        return found

    def alive(self, number: int = 0) -> bool:
        return exists(self.life(number)["pid"])


def exists(pid: int) -> bool:
    """And is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


async def test_how_it_is_started_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, monkeypatch, {})
    async with scene.running() as supervised:
        await scene.until(lambda: bool(scene.ups))
        life = scene.life()
        assert life["argv"] == ["-d", "-p", "-c", str(scene.state / "unbound.conf")]
        assert (life["pid"], life["cwd"], life["session"]) == (supervised.pid, str(scene.state), True)
        assert life["privileges"]
        assert life["anchor"] == "anchor of the system\n"
        assert "POSTERN_SECRET" not in life["env"]
        assert stat.S_IMODE(scene.state.stat().st_mode) == 0o700
        assert f"port: {scene.ups[0].port}\n" in (scene.state / "unbound.conf").read_text()
        assert (scene.downs, supervised.restarts) == ([], 0)
    assert not scene.alive()
    assert supervised.pid is None


async def test_one_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, monkeypatch, {"deaf": True})
    async with scene.running():
        await scene.until(lambda: bool(scene.ups))
    assert not scene.alive()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_killed_or_frozen_another_takes_its_place(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "GRACE", 60.0)  # of which a frozen one gets none
    if number is signal.SIGKILL:
        monkeypatch.setattr(unbound, "EVERY", 60.0)  # its end is noticed without a look whether it answers
    scene = Scene(tmp_path, monkeypatch, {})
    async with scene.running() as supervised:
        await scene.until(lambda: bool(scene.ups))
        os.kill(scene.life()["pid"], number)
        await scene.down(monkeypatch, PING=0.1)
        await scene.until(lambda: len(scene.ups) == 2)
        assert supervised.restarts == 1
        assert not scene.alive()
        assert scene.alive(1)
        why = "was killed by signal 9" if number is signal.SIGKILL else "does not answer on 127.0.0.1 port"
        assert why in scene.downs[0]
        assert scene.said[0] == f"unbound {scene.downs[0]}; starting it again in 0.01 s"
    assert not scene.alive(1)


async def test_one_that_no_longer_answers_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, monkeypatch, {"answers": 3}, {})
    async with scene.running():
        await scene.until(lambda: bool(scene.ups))
        await scene.down(monkeypatch, PING=0.1)
        await scene.until(lambda: len(scene.ups) == 2)
    assert "does not answer" in scene.downs[0]


async def test_it_is_not_up_before_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers on its port before that may be anybody."""
    scene = Scene(tmp_path, monkeypatch, {"serves": False}, {})
    async with scene.running():
        await scene.down(monkeypatch, START=0.2)
        await scene.until(lambda: bool(scene.ups))
    assert len(scene.downs) == 1


async def test_its_last_words_and_a_fresh_anchor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "[1] unbound[2:0] fatal error: could not set up\n"
    scene = Scene(tmp_path, monkeypatch, {"status": 1, "lines": [words]}, {})
    scene.state.mkdir(parents=True)
    (scene.state / "root.key").write_text("broken")
    async with scene.running():
        await scene.until(lambda: bool(scene.ups))
    assert scene.life()["anchor"] == "broken"
    assert scene.life(1)["anchor"] == "anchor of the system\n"
    assert scene.said == [
        "unbound: could not set up",
        "unbound ended with status 1 before it served; starting it again in 0.01 s",
    ]


async def test_the_anchor_that_it_keeps_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, monkeypatch, {})
    scene.state.mkdir(parents=True)
    scene.state.chmod(0o755)
    (scene.state / "root.key").write_text("kept")
    async with scene.running():
        await scene.until(lambda: bool(scene.ups))
        os.kill(scene.life()["pid"], signal.SIGKILL)
        await scene.until(lambda: len(scene.ups) == 2)
    assert scene.life(1)["anchor"] == "kept"
    assert stat.S_IMODE(scene.state.stat().st_mode) == 0o700


async def test_a_port_that_another_took_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers, and is not believed for a moment."""
    scene = Scene(tmp_path, monkeypatch, {})
    async with serving({("localhost.", "A"): Reply(["127.0.0.1"])}) as thief:
        ports = iter([thief.endpoint.port, unbound.free_port()])
        monkeypatch.setattr(unbound, "free_port", lambda: next(ports))
        async with scene.running() as supervised:
            await scene.until(lambda: bool(scene.ups))
            assert supervised.restarts == 1
    assert scene.ups[0].port != thief.endpoint.port
    assert scene.downs == ["ended with status 1 before it served"]
    assert not thief.asked


async def test_the_waits_grow_and_end_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unbound, "LONGEST_WAIT", 0.03)
    scene = Scene(tmp_path, monkeypatch, {"status": 3})
    async with scene.running() as supervised:
        await scene.until(lambda: len(scene.said) == 4)
        assert supervised.restarts == 3
    assert [line.rpartition(" in ")[2] for line in scene.said] == ["0.01 s", "0.02 s", "0.03 s", "0.03 s"]


async def test_after_a_long_life_the_wait_is_short_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unbound, "STABLE", 0.0)
    scene = Scene(tmp_path, monkeypatch, {"status": 3})
    async with scene.running():
        await scene.until(lambda: len(scene.said) == 3)
    assert {line.rpartition(" in ")[2] for line in scene.said} == {"0.01 s"}


FAILURE = "[1] unbound[2:0] info: validation failure <{}. A IN>: signature expired\n"


async def test_what_of_its_lines_is_worth_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "[1] unbound[2:0] notice: init module 0: validator\n",
        "[1] unbound[2:0] info: average recursion processing time 0.005250 sec\n",
        FAILURE.format("mx.example"),
        FAILURE.format("dnssec-failed.org"),  # which the self-test asks for
        "[1] unbound[2:0] error: a\tb\udcff\n",
        "/run/unbound.conf:3: error: unknown keyword 'x'\n",
        "\n",
        "[1] unbound[2:0] warning: " + "y" * 10_000 + "\n",
    ]
    scene = Scene(tmp_path, monkeypatch, {"lines": lines})
    async with scene.running():
        await scene.until(lambda: bool(scene.ups))
    said = [line for line in scene.said if "y" * 100 not in line]
    assert said == [
        "unbound: validation failure <mx.example. A IN>: signature expired",
        "unbound: a\tb\\xff",
        "unbound: /run/unbound.conf:3: error: unknown keyword 'x'",
    ]
    assert max(map(len, scene.said)) <= len("unbound: ") + unboundlog.LINE


async def test_a_flood_of_lines_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "[1] unbound[2:0] error: again\n"
    scene = Scene(tmp_path, monkeypatch, {"lines": [line] * 500})
    async with scene.running():
        await scene.until(lambda: bool(scene.ups))
    assert scene.said == ["unbound: again"] * unboundlog.LINES


def test_the_next_minute_says_how_many_were_left_out() -> None:
    said: list[str] = []
    lines = UnboundLog(said.append, "<x.")
    for now in (100.0, 159.9):
        for _ in range(15):
            lines.take("error", now)
    assert said == ["unbound: error"] * 20
    lines.take("news", 160.0)
    assert said[20:] == ["unbound said 10 lines more", "unbound: news"]


async def test_a_directory_of_its_own_where_the_wanted_one_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path, monkeypatch, {})
    (tmp_path / "file").write_text("")
    for wanted in (None, tmp_path / "file" / "unbound"):
        scene.ups.clear()
        async with scene.running(wanted):
            await scene.until(lambda: bool(scene.ups))
        numbers = [int(path.name[5:]) for path in scene.folder.glob("life-*")]
        assert not os.access(scene.life(max(numbers))["cwd"], os.F_OK)


async def test_without_a_place_to_write_to_it_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, monkeypatch, {})
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryDirectory", denied)
        async with scene.running(None):
            await scene.until(lambda: bool(scene.said))
            assert "cannot be started: [Errno 30] Read-only file system: '/tmp/x'" in scene.said[0]
            patch.undo()
            await scene.until(lambda: bool(scene.ups))


def denied(prefix: str) -> tempfile.TemporaryDirectory[str]:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/tmp/x")


async def test_without_the_program_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, monkeypatch, {})
    monkeypatch.setattr(unbound, "PROGRAM", "unbound-that-nobody-has")
    with pytest.raises(MissingError):
        unbound.find()
    async with scene.running():
        await scene.until(lambda: bool(scene.said))
    assert (
        "cannot be started: there is no program `unbound-that-nobody-has`: install it (Debian: unbound" in scene.said[0]
    )


async def test_without_a_trust_anchor_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, monkeypatch, {})
    monkeypatch.setattr(unbound, "ANCHOR_FILES", (str(tmp_path / "nothing"),))
    async with scene.running():
        await scene.until(lambda: bool(scene.said))
    assert "no trust anchor of the root" in scene.said[0]
    assert "dns-root-data" in scene.said[0]


def test_a_free_port_is_free_for_both() -> None:
    port = unbound.free_port()
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", port))
        udp.bind(("127.0.0.1", port))


def test_where_no_port_is_free_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    class Taken(socket.socket):
        def bind(self, address: Any) -> None:
            if self.type == socket.SOCK_DGRAM:
                raise OSError(errno.EADDRINUSE, "taken")
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Taken)
    with pytest.raises(OSError, match="no port of 127"):
        unbound.free_port()


PARENT = """\
import asyncio, sys
from pathlib import Path
from postern_sidecar.config.model import DNS
from postern_sidecar.edge import child, unbound, unboundlog
unbound.ANCHOR_FILES = (sys.argv[2],)
say = lambda what: print(what, flush=True)
asyncio.run(unbound.Unbound(DNS(), Path(sys.argv[1]), on_up=say, on_down=say, say=say).run())
"""


def test_it_dies_with_the_sidecar_however_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, monkeypatch, {})
    sources = str(Path(unbound.__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(scene.state), unbound.ANCHOR_FILES[1]],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": sources},
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()  # it is up
        pid = scene.life()["pid"]
        assert exists(pid)
        handle = os.pidfd_open(pid)
        parent.kill()
        parent.wait()
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    assert poll.poll(10_000)
    os.close(handle)
    assert not exists(pid)
