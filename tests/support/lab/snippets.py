"""The fenced blocks of the documentation that carry a name, so that the tests run what a page says and nothing else.

<!-- snippet: postfix-proxyv2 -->
```
...
```
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BACKENDS, SUBMISSION, README = "docs/backends.md", "docs/submission.md", "README.md"

_BLOCK = re.compile(r"^<!-- snippet: (\S+) -->\n+```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def all_snippets(*pages: str) -> dict[str, str]:
    """Of these pages, or of all."""
    blocks = [block for page in pages or (BACKENDS, SUBMISSION, README) for block in _BLOCK.findall(_text(page))]
    names = [name for name, _ in blocks]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"there is more than one snippet called {', '.join(sorted(doubled))}")
    return dict(blocks)


def snippet(name: str) -> str:
    return all_snippets()[name]


def _text(page: str) -> str:
    return (ROOT / page).read_text()
