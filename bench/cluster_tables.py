"""The operator as its image starts it, with one thing added: at SIGUSR2 it writes down how large its tables are.

`python -m bench.cluster_tables ARGUMENTS` is `postern-operator ARGUMENTS`. POSTERN_TABLES names the file: JSON,
{"tables": {"module.Class.attribute": entries}, "objects": all that the garbage collector knows, "blocks": of memory}.
Every dict, set, list and deque that an object of the operator holds directly is a table, those of a class summed up;
so are the objects of each class.
"""

from __future__ import annotations

import collections
import gc
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = (dict, set, frozenset, list, tuple, collections.deque)
PACKAGE = "postern_operator."


def sizes() -> dict[str, int]:
    found: collections.Counter[str] = collections.Counter()
    for each in gc.get_objects():
        kind = type(each)
        module: object = kind.__module__
        if isinstance(module, str) and module.startswith(PACKAGE):  # of a type itself it is a descriptor
            where = f"{module.removeprefix(PACKAGE)}.{kind.__name__}"
            found[where] += 1
            for name, value in _fields(each):
                if isinstance(value, KINDS):
                    found[f"{where}.{name}"] += len(value)
    return dict(found)


def _fields(each: object) -> Iterator[tuple[str, object]]:
    yield from getattr(each, "__dict__", {}).items()
    for kind in type(each).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(each, name):
                yield name, getattr(each, name)


def write(*_: object) -> None:
    gc.collect()
    found = {"tables": sizes(), "objects": len(gc.get_objects()), "blocks": sys.getallocatedblocks()}
    target = Path(os.environ["POSTERN_TABLES"])
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(found))
    partial.rename(target)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, write)
    from postern_operator.__main__ import main

    sys.exit(main())
