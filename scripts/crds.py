"""Copies the authored CRDs to where the chart renders them from, or says whether the copies are current.

    scripts/crds.py            writes charts/postern/files/crds
    scripts/crds.py --check    writes nothing; status 1 where a copy is not its original, or has none

The chart's template adds labels and the keep policy; the text of the schema stands once, in crds/.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AUTHORED = Path("crds")
COPIES = Path("charts/postern/files/crds")


def main(arguments: list[str], root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description="Copy crds/ into the chart.")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where a copy is not current")
    check = parser.parse_args(arguments).check
    stale = [path for path in sorted(_wanted(root) | _present(root)) if not _current(root, path)]
    for path in stale:
        if check:
            print(f"{COPIES / path} is not current; run make crds", file=sys.stderr)
        else:
            _write(root, path)
    return 1 if check and stale else 0


def _wanted(root: Path) -> set[str]:
    return {path.name for path in (root / AUTHORED).glob("*.yaml")}


def _present(root: Path) -> set[str]:
    return {path.name for path in (root / COPIES).glob("*.yaml")}


def _current(root: Path, name: str) -> bool:
    authored, copy = root / AUTHORED / name, root / COPIES / name
    return authored.exists() and copy.exists() and authored.read_bytes() == copy.read_bytes()


def _write(root: Path, name: str) -> None:
    authored, copy = root / AUTHORED / name, root / COPIES / name
    if not authored.exists():
        copy.unlink()
        return
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(authored.read_bytes())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
