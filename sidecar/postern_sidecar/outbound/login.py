"""AUTH to a relay (RFC 4954): PLAIN (RFC 4616), or LOGIN for servers that know no better.

Only `outbound.client` calls it, after the level is reached. The password is in no detail, reply or record: what the
server says of it is logged by its code alone, since a hostile one could repeat it.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from . import budget as limits
from .commands import Lost, Say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from postern_sidecar.replies import Reply

    from .budget import Budget
    from .commands import Work
    from .link import Link
    from .settings import Credentials

MAX_LINE: Final = 512  # RFC 4954 3: with a longer one the initial response waits to be asked for


@dataclass(frozen=True, slots=True)
class Failed:
    reason: str
    detail: str


def log_in(link: Link, credentials: Credentials, budget: Budget) -> Work[Failed | None]:
    """None: it is done."""
    mechanisms = link.keywords.get(b"AUTH", b"").upper().split()
    user, password = credentials.username.encode(), credentials.password.encode()
    if b"PLAIN" in mechanisms:
        response = b64encode(b"\0%s\0%s" % (user, password))
        line = b"AUTH PLAIN %s\r\n" % response
        steps = [line] if len(line) <= MAX_LINE else [b"AUTH PLAIN\r\n", response + b"\r\n"]
    elif b"LOGIN" in mechanisms:
        steps = [b"AUTH LOGIN\r\n", b64encode(user) + b"\r\n", b64encode(password) + b"\r\n"]
    else:
        return Failed("auth_missing", "neither PLAIN nor LOGIN is announced")
    return (yield from _converse(link, steps, budget))


def _converse(link: Link, steps: Sequence[bytes], budget: Budget) -> Work[Failed | None]:
    """334 asks for the next step, 235 ends it."""
    for number, step in enumerate(steps, 1):
        answer: list[Reply] | Lost = yield Say(link, step, 1, budget.within(limits.GREETING))
        if isinstance(answer, Lost):
            return Failed(answer.reason, "during AUTH")
        if answer[0].code != (235 if number == len(steps) else 334):
            return Failed("auth_refused", f"{answer[0].code:03d} to step {number} of AUTH")
    return None
