#!/usr/bin/env python3
"""`make demo`: real mail through a load balancer, postern-sidecar and a mail server, and what each of them says of it.

    python scripts/demo.py [--stand-ins]

It ends by itself with a summary: exit status 0 if all that it claims held, 1 if not, 130 after Ctrl-C. HAProxy and
Postfix are the real ones where the laboratory of the tests can be set up; elsewhere, or with `--stand-ins`, something
small stands in for them, and the demo says what is different. What is in this file is the path to the rest of it.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load there is nothing to tidy up
    sys.path[:0] = [str(ROOT), str(ROOT / "sidecar"), str(ROOT / "tests" / "support")]

    from scripts.stage.show import main

    sys.exit(main())
