"""The fenced blocks of docs/backends.md that carry a name, so that the tests run what the page says and nothing else.

<!-- snippet: postfix-proxyv2 -->
```
...
```
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "backends.md"

_BLOCK = re.compile(r"^<!-- snippet: (\S+) -->\n+```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def all_snippets() -> dict[str, str]:
    blocks = _BLOCK.findall(PAGE.read_text())
    names = [name for name, _ in blocks]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{PAGE.name} has more than one snippet called {', '.join(sorted(doubled))}")
    return dict(blocks)


def snippet(name: str) -> str:
    return all_snippets()[name]
