"""The control socket: the command and the sidecar's side of it, over real sockets on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from postern_sidecar.edge import control
from postern_sidecar.edge.control import SOCKET, ControlError, send_drain, serve

if TYPE_CHECKING:
    from pathlib import Path


class Drains:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


async def ask(path: Path, sent: bytes, *, eof: bool = False) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(sent)
    if eof:
        writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def stale(path: Path) -> None:
    """What a sidecar that was killed leaves behind."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


async def test_the_command_drains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drains = Drains()
    async with serve(tmp_path / SOCKET, drains):
        for times in (1, 2):
            assert await asyncio.to_thread(send_drain, tmp_path) == 0
            assert drains.count == times
    assert capsys.readouterr() == ("", "")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("sent", "answer", "eof"),
    [
        (b"drain\n", b"ok\n", False),
        (b"drain\nmore\n", b"ok\n", False),
        (b"drain\r\n", b"error: the only command is drain\n", False),
        (b"stop\n", b"error: the only command is drain\n", False),
        (b"drain", b"", True),
        (b"", b"", True),
        (b"x" * 1000, b"", False),
    ],
)
async def test_the_protocol(tmp_path: Path, sent: bytes, answer: bytes, eof: bool) -> None:
    drains = Drains()
    async with serve(tmp_path / SOCKET, drains):
        try:
            assert await ask(tmp_path / SOCKET, sent, eof=eof) == answer
        except ConnectionResetError:  # what was too much is not read
            assert answer == b""
    assert drains.count == (answer == b"ok\n")


async def test_only_its_user_may(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with serve(tmp_path / SOCKET, Drains()):
            assert stat.S_IMODE((tmp_path / SOCKET).lstat().st_mode) == 0o600
            assert os.umask(0) == 0  # put back as it was
    finally:
        os.umask(before)


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    stale(tmp_path / SOCKET)
    async with serve(tmp_path / SOCKET, Drains()):
        assert await ask(tmp_path / SOCKET, b"drain\n") == b"ok\n"


async def test_one_that_lives_is_not(tmp_path: Path) -> None:
    drains = Drains()
    async with serve(tmp_path / SOCKET, drains):
        with pytest.raises(ControlError, match=r"another sidecar listens on .*--state-dir"):
            async with serve(tmp_path / SOCKET, Drains()):
                pass
        assert await ask(tmp_path / SOCKET, b"drain\n") == b"ok\n"
    assert drains.count == 1


async def test_one_that_lives_and_is_busy_is_not_either(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as stack:
        busy.bind(str(tmp_path / SOCKET))
        busy.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            with contextlib.suppress(BlockingIOError):
                waiting.connect(str(tmp_path / SOCKET))
        with pytest.raises(ControlError, match="another sidecar"):
            async with serve(tmp_path / SOCKET, Drains()):
                pass


@pytest.mark.parametrize("kind", ["file", "link to a file", "link to a socket", "dangling link", "directory"])
async def test_nothing_else_is_touched(tmp_path: Path, kind: str) -> None:
    path, victim = tmp_path / SOCKET, tmp_path / "victim"
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "link to a file":
            victim.write_text("precious")
            victim.chmod(0o644)
            path.symlink_to(victim)
        case "link to a socket":
            stale(victim)
            path.symlink_to(victim)
        case "dangling link":
            path.symlink_to(victim)
    before = {name: os.lstat(tmp_path / name) for name in names(tmp_path)}
    with pytest.raises(ControlError, match="is no socket; remove it"):
        async with serve(path, Drains()):
            pass
    after = {name: os.lstat(tmp_path / name) for name in names(tmp_path)}
    assert {name: (s.st_ino, s.st_mode) for name, s in after.items()} == {
        name: (s.st_ino, s.st_mode) for name, s in before.items()
    }


async def test_a_successors_socket_stays(tmp_path: Path) -> None:
    async with serve(tmp_path / SOCKET, Drains()):
        (tmp_path / SOCKET).unlink()
        stale(tmp_path / SOCKET)
    assert names(tmp_path) == [SOCKET]


async def test_a_directory_deeper_than_a_socket_address(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    drains = Drains()
    for _ in range(2):
        async with serve(deep / SOCKET, drains):
            assert await asyncio.to_thread(send_drain, deep) == 0
    assert drains.count == 2


async def test_who_says_nothing_has_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "TIME", 0.01)
    async with serve(tmp_path / SOCKET, Drains()):
        assert await ask(tmp_path / SOCKET, b"dra") == b""


async def test_ending_does_not_wait_for_who_says_nothing(tmp_path: Path) -> None:
    async with serve(tmp_path / SOCKET, Drains()):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / SOCKET))
        assert await ask(tmp_path / SOCKET, b"drain\n") == b"ok\n"  # so the silent one has been accepted
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


class TestCommand:
    """Each failure: exit status 1 and one line that says what to do."""

    def failed(self, state_dir: Path, capsys: pytest.CaptureFixture[str]) -> str:
        assert send_drain(state_dir) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("postern-sidecar drain: ")
        assert err.count("\n") == 1
        return str(err)

    def test_nobody_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        expected = f"no sidecar listens on {tmp_path / SOCKET}; is it running, and with this --state-dir?\n"
        assert self.failed(tmp_path, capsys).endswith(expected)

    def test_nobody_there_any_more(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        stale(tmp_path / SOCKET)
        assert "no sidecar listens on" in self.failed(tmp_path, capsys)

    def test_no_directory(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no sidecar listens on" in self.failed(tmp_path / "missing", capsys)
        assert "no sidecar listens on" in self.failed(tmp_path / ("m" * 120), capsys)

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (PermissionError(13, "denied"), "run it as the sidecar's own user"),
            (OSError(24, "Too many open files"), "Too many open files"),
        ],
    )
    def test_other_reasons(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        error: OSError,
        said: str,
    ) -> None:
        def fails(path: Path, line: bytes) -> bytes:
            raise error

        monkeypatch.setattr(control, "_ask", fails)
        assert said in self.failed(tmp_path, capsys)

    def test_no_answer(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(control, "TIME", 0.01)
        with socket.socket(socket.AF_UNIX) as hung:
            hung.bind(str(tmp_path / SOCKET))
            hung.listen()
            assert "did not answer" in self.failed(tmp_path, capsys)

    async def test_another_answer(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        def refuses() -> None:
            raise RuntimeError

        told: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.set_result(context["exception"]))
        async with serve(tmp_path / SOCKET, refuses):
            assert "it closed the connection" in await asyncio.to_thread(self.failed, tmp_path, capsys)
            assert isinstance(await told, RuntimeError)
