"""The Secrets that routes name, as files: `username` and `password` in a directory of the Secret's name (contracts 1).

What cannot be read is missing from the result and one warning names the file; AUTH on its routes is then deferred. A
warning has no octet of what a file holds. Read again at each reload, so a Secret that was rotated counts from then on.
Raises nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from postern_sidecar.outbound.settings import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from postern_sidecar.config.model import Route

DIRECTORY = Path("/etc/postern/credentials")
MAX_SIZE = 4096
"""Octets of a file: RFC 4954 4.3 ends an AUTH line, which holds both in base64, at 12288."""

_REMEDY = "mail over routes with the Secret {} is deferred until it is read again, with the configuration"


def load(directory: Path | None, routes: Iterable[Route], warn: Callable[[str], object]) -> dict[str, Credentials]:
    """By the Secret's name. `directory`: None is where a cluster mounts them."""
    known: dict[str, Credentials] = {}
    for name in dict.fromkeys(route.auth.secret_name for route in routes if route.auth is not None):
        folder = (directory or DIRECTORY) / name
        texts = []
        for file in (folder / "username", folder / "password"):
            try:
                texts.append(_text(file))
            except ValueError as problem:
                warn(f"{file}: {problem}; {_REMEDY.format(name)}")
        if len(texts) == 2:
            known[name] = Credentials(*texts)
    return known


def _text(file: Path) -> str:
    """Without the line end that `echo` and editors leave. Raises ValueError: why there is none."""
    try:
        with open(file, "rb", opener=_at_once) as opened:
            data = opened.read(MAX_SIZE + 1) or b""
    except OSError as problem:
        raise ValueError(f"cannot be read: {problem.strerror}") from None
    if len(data) > MAX_SIZE:
        raise ValueError(f"is larger than {MAX_SIZE} octets")
    try:
        text = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    if not text:
        raise ValueError("is empty")
    if "\0" in text:  # the separator of SASL PLAIN (RFC 4616 2)
        raise ValueError("has a NUL octet")
    return text


def _at_once(file: str, flags: int) -> int:
    """A FIFO counts as empty, and holds nobody up."""
    return os.open(file, flags | os.O_NONBLOCK)
