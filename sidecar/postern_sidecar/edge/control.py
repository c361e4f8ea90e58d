"""The control socket: how `postern-sidecar drain`, the preStop command, reaches the sidecar of its container.

A Unix socket in the state directory, mode 0600 from its first moment, so that whoever may not read the directory's
files may not drain either. One line, one answer, and the connection is closed:

    drain   ->  ok
    ...     ->  error: what is wrong

What a sidecar that died has left there is replaced; a socket that still answers, a symbolic link and any other file are
not (`ControlError`, an OSError). `serve` is the sidecar's side, on asyncio; `send_drain` is the command's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

SOCKET: Final = "control.sock"
MAX_LINE: Final = 64
TIME: Final = 5.0  # seconds; for a line to come, and for the command to wait for its answer
_MAX_PATH: Final = 107  # unix(7): sun_path has 108 bytes with its NUL


class ControlError(OSError):
    """The socket cannot be made; the text says why and what to do."""


@contextlib.asynccontextmanager
async def serve(path: Path, on_drain: Callable[[], None]) -> AsyncIterator[None]:
    """Take commands inside the block. Raises ControlError, and OSError where the directory cannot be written."""
    sock = _listen(path)
    own = _inode(path)
    control = _Control(on_drain)
    server = await asyncio.start_unix_server(control.accept, sock=sock, limit=MAX_LINE)
    try:
        yield
    finally:
        server.close()
        await control.close()
        if _inode(path) == own:  # not that of a sidecar that has taken over
            _remove(path)


def send_drain(state_dir: Path) -> int:
    """The command: 0 if the sidecar drains now, else 1 and a line on standard error."""
    path = state_dir / SOCKET
    try:
        answer = _ask(path, b"drain\n")
    except OSError as error:
        sys.stderr.write(f"postern-sidecar drain: {_why_not(path, error)}\n")
        return 1
    if answer == b"ok\n":
        return 0
    said = answer.decode("ascii", "backslashreplace").strip() or "it closed the connection"
    sys.stderr.write(f"postern-sidecar drain: the sidecar did not take it: {said}\n")
    return 1


def _ask(path: Path, line: bytes) -> bytes:
    """Raises OSError, of which TimeoutError is one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIME)
        _at(path, sock.connect)
        sock.sendall(line)
        answer = b""
        while not answer.endswith(b"\n") and len(answer) < MAX_LINE and (data := sock.recv(MAX_LINE)):
            answer += data
        return answer


def _why_not(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTSOCK, errno.ENOTDIR):
        return f"no sidecar listens on {path}; is it running, and with this --state-dir?"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"no permission for {path}; run it as the sidecar's own user"
    if isinstance(error, TimeoutError):
        return f"the sidecar did not answer on {path} within {TIME:g} s"
    return f"{path}: {error.strerror or error}"


def _at(path: Path, act: Callable[[str], None]) -> None:
    """`bind` or `connect`; a path that does not fit the kernel's structure is taken by way of its directory."""
    if len(os.fsencode(path)) <= _MAX_PATH:
        act(str(path))
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        act(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


def _listen(path: Path) -> socket.socket:
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        before = os.umask(0o177)  # a chmod after bind would leave a moment, and would follow a link
        try:
            _at(path, sock.bind)
        finally:
            os.umask(before)
        sock.listen()
    except BaseException:
        sock.close()
        raise
    return sock


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _clear(path: Path) -> None:
    """Remove the socket of a sidecar that is no more. Raises ControlError."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ControlError(errno.EEXIST, f"{path} is there and is no socket; remove it or choose another --state-dir")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        try:
            _at(path, sock.connect)
        except ConnectionRefusedError:
            _remove(path)  # what this cannot do, bind will say
            return
        except BlockingIOError:  # its queue is full: it lives
            pass
    raise ControlError(errno.EADDRINUSE, f"another sidecar listens on {path}; give each its own --state-dir")


class _Control:
    def __init__(self, on_drain: Callable[[], None]) -> None:
        self._on_drain = on_drain
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._command(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            task.get_loop().call_exception_handler({"message": "the control socket failed", "exception": bug})

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _command(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(TIME):
                writer.write(self._answer(await reader.readuntil(b"\n")))
                writer.close()
                await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # it left, or said nothing in its time
        finally:
            writer.transport.abort()

    def _answer(self, line: bytes) -> bytes:
        if line != b"drain\n":
            return b"error: the only command is drain\n"
        self._on_drain()
        return b"ok\n"
