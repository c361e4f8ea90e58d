"""Where the programs of a control plane lie, and whether they are there. What is missing is not made here, but by
`scripts/controlplane.py`. Standard library only: that script runs before there is a virtual environment.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lab import trees

VERSION = "1.36.3"
ASSETS = "KUBEBUILDER_ASSETS"  # a folder with kube-apiserver, etcd and kubectl, as envtest unpacks it
PREPARE = "scripts/controlplane.py"
ETCD = "usr/bin/etcd"  # in the tree `etcd`


class BinaryMissingError(Exception):
    """The program is not there. The message names the command that brings it."""


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "postern" / f"kubernetes-{VERSION}"


def assets() -> Path | None:
    """The contributor's own folder."""
    folder = os.environ.get(ASSETS)
    return Path(folder) if folder else None


def candidates(name: str) -> list[Path]:
    """Where `name` is looked for, in this order. helm and kubectl of the machine are not among them: another version's
    output would be another test."""
    places = [folder / name] if (folder := assets()) else []
    places.append(trees.cache() / "etcd" / ETCD if name == "etcd" else cache() / name)
    return places


def find(name: str) -> Path | None:
    return next((place for place in candidates(name) if shutil.which(place)), None)


def binary(name: str) -> Path:
    """Raises BinaryMissingError."""
    if found := find(name):
        return found
    places = " or ".join(str(place) for place in candidates(name))
    raise BinaryMissingError(f"{name} is not at {places}: run `python3 {PREPARE}`")
