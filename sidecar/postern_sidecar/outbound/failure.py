"""A host that could not be used, as data, and what the submitter is told when none could (contracts section 5).

The last host's answer counts, but 4.7.x before a connection that failed: a man in the middle must not hide the one by
the other. A permanent answer of a host, not about a recipient, counts only where every host gave one; what was not
tried might have taken the mail. Raises nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from postern_sidecar.names import Address, Domain, Endpoint
    from postern_sidecar.replies import Reply

    from .link import Link
    from .plan import Level


@dataclass(frozen=True, slots=True)
class HostFailure:
    """`host` as the MX answer or the route names it. `reason`: one of docs/logging.md's. `reply`: what the submitter is
    told if this was the last one. `detail`: for the log; a peer's words in it are not escaped yet. `endpoint`: None
    where it never came to a connection, `level`: what had to be reached there. `link`: the connection that it happened
    on, as far as it got. `connected`: False where nothing answered at all."""

    host: Domain | Address
    reason: str
    reply: Reply
    detail: str = ""
    endpoint: Endpoint | None = None
    level: Level | None = None
    link: Link | None = None
    connected: bool = True

    @property
    def permanent(self) -> bool:
        return self.reply.code >= 500


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a recipient is told. `reason`: "" where a next hop's own reply says it all. The rest is for the log, as in
    HostFailure."""

    reply: Reply
    reason: str = ""
    detail: str = ""
    host: Domain | Address | None = None
    endpoint: Endpoint | None = None
    link: Link | None = None


def decisive(failures: Sequence[HostFailure], *, complete: bool) -> HostFailure | None:
    """The one whose reply the submitter gets. `complete`: all hosts and addresses were tried. None: only permanent
    answers came, but not from all."""
    temporary = [failure for failure in failures if not failure.permanent]
    if not temporary:
        return failures[-1] if failures and complete else None
    last = temporary[-1]
    if last.connected:
        return last
    return next((one for one in reversed(temporary) if one.reply.enhanced.startswith(b"4.7.")), last)
