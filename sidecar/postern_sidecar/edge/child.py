"""A process of our own: started on a leash, and ended for certain.

The kernel kills it with this process, however that ends; it has no rights that this one lacks, none of its descriptors,
and of its environment the few variables that a program needs to be found and run.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

GRACE: Final = 3.0  # seconds between SIGTERM and SIGKILL
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38


async def start(command: Sequence[str], directory: Path) -> asyncio.subprocess.Process:
    """Its standard error is a pipe. Raises OSError."""
    keep = ("PATH", "LD_LIBRARY_PATH", "TZ")
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        cwd=directory,
        env={name: os.environ[name] for name in keep if name in os.environ},
        start_new_session=True,  # Ctrl-C is ours
        preexec_fn=_leash(),
    )


def _leash() -> Callable[[], None]:
    """What the child does first: it dies with the thread that started it, and never has more rights than that."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def prepare() -> None:
        zero = ctypes.c_ulong(0)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero)
        libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), zero, zero, zero)
        if os.getppid() != parent:  # it was gone before the child could ask
            os._exit(1)

    return prepare


async def end(process: asyncio.subprocess.Process, exited: asyncio.Future[int]) -> None:
    for kill in (process.terminate, process.kill):
        if not exited.done():
            with contextlib.suppress(ProcessLookupError):
                kill()
            await asyncio.wait({exited}, timeout=GRACE)
