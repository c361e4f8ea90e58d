"""`python -m bench`, which is `make bench`: makes the path on which the laboratory of the tests is found."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from bench.command import main

sys.exit(main())
