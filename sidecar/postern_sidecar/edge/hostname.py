"""The system's host name, where the policy gives none: it goes into banners, replies and our EHLO.

What the kernel has is anything that somebody wrote there. A name that is no host name (RFC 1123, underscores let pass,
since pods have them) becomes `localhost`: an EHLO that a server refuses would hand nobody over.
"""

from __future__ import annotations

import functools
import re
import socket

_NAME = re.compile(r"[A-Za-z0-9_]([-A-Za-z0-9_.]{0,251}[A-Za-z0-9_])?", re.ASCII)


@functools.cache
def system_hostname() -> str:
    return usable(socket.gethostname())


def usable(name: str) -> str:
    return name if _NAME.fullmatch(name) and ".." not in name else "localhost"
