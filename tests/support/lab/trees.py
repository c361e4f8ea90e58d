"""Where the unpacked Debian packages lie, which packages make a tree, and whether a tree is there.

A *tree* is one server's package together with every dependency that this machine lacks, unpacked side by side and
never installed: the laboratory lays it over /usr in a server's own mount namespace. Standard library only, because
`scripts/debian.py` runs before there is a virtual environment.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

PACKAGES: dict[str, tuple[str, ...]] = {
    "dovecot": ("dovecot-imapd", "dovecot-submissiond"),
    "etcd": ("etcd-server",),
    "exim": ("exim4-daemon-heavy",),  # -light has no PROXY support
    "haproxy": ("haproxy",),
    "iproute2": ("iproute2",),
    "nginx": ("nginx", "libnginx-mod-stream"),
    "nsd": ("nsd",),
    "opensmtpd": ("opensmtpd",),
    "openssl": ("openssl",),
    "postfix": ("postfix",),
    "swaks": ("swaks",),
    "unbound": ("unbound", "dns-root-data"),
}

MANIFEST = "packages"  # written last: a tree without it does not count
PREPARE = "scripts/debian.py"


class TreeMissingError(Exception):
    """The tree is not unpacked. The message names the command that does it."""


def release() -> str:
    """The Debian release, as in /etc/os-release: bookworm, trixie."""
    fields = platform.freedesktop_os_release()
    return fields.get("VERSION_CODENAME", fields["ID"])


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "postern" / "debian" / f"{release()}-{platform.machine()}"


def tree(name: str) -> Path:
    """The unpacked tree called `name`, a key of `PACKAGES`."""
    path = cache() / name
    if not (path / MANIFEST).is_file():
        raise TreeMissingError(f"{name} is not unpacked in {path}: run `python3 {PREPARE}` as root")
    return path


def version(name: str) -> tuple[int, ...]:
    """The upstream version of the tree's main package, as numbers: (2, 3, 19, 1)."""
    wanted = {"dovecot": "dovecot-core", "exim": "exim4-daemon-heavy"}.get(name, name)
    for line in (tree(name) / MANIFEST).read_text().split():
        package, _, full = line.partition("=")
        if package == wanted:
            upstream = full.rpartition(":")[2].partition("-")[0].partition("+")[0]
            return tuple(int(part) for part in upstream.split(".") if part.isdigit())
    raise LookupError(f"{wanted} is not in {name}'s manifest")
