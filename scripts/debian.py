#!/usr/bin/env python3
"""Fetches the mail servers and load balancers that the tests run, without installing any of them.

    python3 scripts/debian.py [NAME...]     all trees, or the named ones
    python3 scripts/debian.py --list        what there is and what is ready

Each is downloaded with apt and unpacked into ${XDG_CACHE_HOME:-~/.cache}/postern/debian/<release>/<name>, together
with those of its dependencies that this machine lacks. Nothing is registered with dpkg, no maintainer script runs, no
service starts, no port opens. Remove that folder and every trace is gone.

Safe to repeat (what is there stays), to interrupt (a tree appears whole or not at all) and to run twice at once.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from typing import TYPE_CHECKING

from lab import trees

if TYPE_CHECKING:
    from collections.abc import Iterator

DPKG_STATUS = Path("/var/lib/dpkg/status")
APT = ("apt-get", "-q", "-o", "APT::Sandbox::User=root")  # the target folder is root's alone


class PreparationError(Exception):
    """Said to the user as it stands."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(trees.PACKAGES))
    parser.add_argument("--list", action="store_true", help="show what is ready")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(trees.PACKAGES):
        parser.error(f"no such tree: {', '.join(sorted(unknown))}")
    names = arguments.names or list(trees.PACKAGES)
    if arguments.list:
        for name in names:
            print(f"{name:10} {'ready' if is_current(name) else 'missing'}  {trees.cache() / name}")
        return 0
    try:
        prepare(names)
    except PreparationError as problem:
        print(f"scripts/debian.py: {problem}", file=sys.stderr)
        return 1
    return 0


def prepare(names: list[str]) -> None:
    if not [name for name in names if not is_current(name)]:
        return
    if os.geteuid() != 0:
        missing = " ".join(name for name in names if not is_current(name))
        raise PreparationError(
            f"the tests with real mail servers need root and: {missing}\nRun: sudo python3 scripts/debian.py"
        )
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise PreparationError(
            "the tests with real mail servers take them from Debian 12 or 13: there is no apt-get here"
        )
    with only_one(trees.cache()):
        wanted = [name for name in names if not is_current(name)]
        if not wanted:  # the other run did it
            return
        print(f"Unpacking {', '.join(wanted)} into {trees.cache()}")
        print("(downloaded with apt, not installed; about 4 s each, once)", flush=True)
        for name in wanted:
            unpack(name)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Holds the cache's lock, and clears what an interrupted run left."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another run is unpacking: waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in folder.glob(".new-*"):
            shutil.rmtree(leftover)
        yield


def is_current(name: str) -> bool:
    """Unpacked, and no package came or went since: one that was installed then may be needed in the tree now."""
    manifest = trees.cache() / name / trees.MANIFEST
    return manifest.is_file() and manifest.stat().st_mtime_ns == DPKG_STATUS.stat().st_mtime_ns


def unpack(name: str) -> None:
    started = time.monotonic()
    seen = DPKG_STATUS.stat()
    packages = closure(trees.PACKAGES[name])
    target = trees.cache() / name
    manifest = target / trees.MANIFEST
    if manifest.is_file() and manifest.read_text().split() == packages:
        os.utime(manifest, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        return
    with tempfile.TemporaryDirectory(prefix=".new-", dir=trees.cache()) as scratch:
        debs, new = Path(scratch, "debs"), Path(scratch, "tree")
        debs.mkdir()
        new.mkdir(mode=0o755)
        run(*APT, "download", *packages, cwd=debs)
        for deb in sorted(debs.glob("*.deb")):
            run("dpkg-deb", "-x", str(deb), str(new))
        merge_usr(new)
        manifest = new / trees.MANIFEST
        manifest.write_text("\n".join(packages) + "\n")
        os.utime(manifest, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        if target.exists():
            target.rename(Path(scratch, "old"))
        new.rename(target)
    print(f"  {name}: {len(packages)} packages, {time.monotonic() - started:.1f} s", flush=True)


def closure(packages: tuple[str, ...]) -> list[str]:
    """`name=version` of the packages, and of whatever apt would have to install or upgrade for them."""
    plan = simulate(packages)
    if plan is None:
        print("No package lists for these: apt-get update", flush=True)
        run(*APT, "update")
        plan = simulate(packages)
    if plan is None:
        raise PreparationError(f"apt knows no package {' or '.join(packages)} on {trees.release()}")
    for package in packages:
        plan.setdefault(package, "")  # installed here already: unpacked all the same
    return sorted(f"{name}={version}" if version else name for name, version in plan.items())


def simulate(packages: tuple[str, ...]) -> dict[str, str] | None:
    """What apt would install, from its own dry run; None where it does not know a package."""
    result = subprocess.run(
        [*APT, "install", "--simulate", "--no-install-recommends", *packages],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if "Unable to locate package" in result.stderr or "has no installation candidate" in result.stderr:
        return None
    if result.returncode != 0:
        raise PreparationError(f"apt cannot plan {' '.join(packages)}:\n{result.stderr.strip()}")
    return dict(re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", result.stdout, re.MULTILINE))


def merge_usr(root: Path) -> None:
    """Packages of Debian 12 still ship files in /lib and /sbin, which every machine has as links into /usr."""
    for top in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if (root / top).is_dir():
            (root / "usr" / top).mkdir(parents=True, exist_ok=True)
            run("cp", "-a", f"{root / top}/.", str(root / "usr" / top))
            shutil.rmtree(root / top)


def run(*command: str, cwd: Path | None = None) -> None:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise PreparationError(f"{' '.join(command)} failed:\n{result.stderr.strip() or result.stdout.strip()}")


if __name__ == "__main__":
    sys.exit(main())
