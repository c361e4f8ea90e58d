"""`postern-operator`: the console script, ahead of the operator.

It knows `version`; everything else is refused with a sentence that says why, and status 2, so that nobody mistakes an
empty program for a running one.
"""

from __future__ import annotations

import sys
from importlib.metadata import version

USAGE = "usage: postern-operator version"
NOT_YET = (
    "postern-operator: the operator comes with a later release; this one has the sidecar (postern-sidecar). "
    "CHANGELOG.md says what is in which."
)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, or 2 for everything that is not there."""
    words = sys.argv[1:] if arguments is None else arguments
    if words == ["version"]:
        print(version("postern"))
        return 0
    print(f"{NOT_YET}\n{USAGE}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
