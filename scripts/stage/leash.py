"""Runs a Python program that ends when its parent does, however that ends: `python leash.py PROGRAM ARGUMENTS...`.

PROGRAM is a module's name or a file's. The parent holds the other end of standard input; the kernel closes it with the
parent's last breath, SIGKILL included, and whoever waits for that here takes the program along. Standard library only.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def wait_for_the_end() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    threading.Thread(target=wait_for_the_end, name="leash", daemon=True).start()
    sys.argv = sys.argv[1:]
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
