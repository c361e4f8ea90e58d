"""Ending sessions when the time for a drain is over, in the order that loses least (contracts section 2, Drain).

First those in clear text where nothing is outstanding: the client hears 421 and comes back. Then the encrypted ones,
where nothing can be said, once the server spoke last and a second has passed. A session that waits for a reply comes
last: its message may be the one that is being accepted right now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postern_sidecar.inbound.speech import Speech

    from .splice import Splice

QUIET = 1.0  # seconds after the server's last word
LAST = 8.0  # seconds after the grace, when what is left is ended: the kubelet kills 10 s after it
_WAITS_FOR_CLIENT = (b"354", b"334")  # DATA and AUTH: the server spoke, and the client owes it more


def press(splice: Splice, speech: Speech, now: float, since: float) -> None:
    """End the session if its moment has come; `since`: when the grace was over. Safe to call again and again."""
    if splice.reason:
        return
    if now - since >= LAST:
        splice.expire("shutdown")
    elif not splice.server_last or splice.head.startswith(_WAITS_FOR_CLIENT):
        return
    elif speech.smtp and splice.head[:3].isdigit():
        splice.dismiss(speech.deferral("4.3.2", "shutting down, try again"), "shutdown")
    elif now - splice.last >= QUIET:
        splice.dismiss(b"", "shutdown")
