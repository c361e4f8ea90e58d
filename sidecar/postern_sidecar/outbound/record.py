"""What a delivery logs (design section 8): `delivery`, what became of a recipient, and `attempt`, a host that was of no
use on the way there. One attempt is one line.

Values are as they came: escaping and bounds are `logline`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from postern_sidecar.logline import Record

from .plan import Level
from .replies import shown

if TYPE_CHECKING:
    from postern_sidecar.names import Address, Domain, Endpoint
    from postern_sidecar.replies import Reply

    from .envelope import Recipient
    from .failure import HostFailure, Verdict
    from .link import Link


def outcome(reply: Reply) -> str:
    """Of a final reply: 4xx may be tried again."""
    if reply.code < 400:
        return "delivered"
    return "deferred" if reply.code < 500 else "bounced"


def verified(link: Link) -> str:
    """Exim's CV= of a connection in TLS."""
    if link.half_dane:
        return "half-dane"
    return {Level.DANE: "dane", Level.VERIFY: "yes"}.get(link.level or Level.CLEAR, "no")


def delivery(session: str, recipient: Recipient, verdict: Verdict, duration: float, note: str = "") -> Record:
    """`note`: what else is worth a word."""
    noted = "" if verdict.link is None else verdict.link.note
    fields = {
        "outcome": outcome(verdict.reply),
        "recipient": recipient.path,
        **_place(verdict.host, verdict.endpoint),
        **_reached(verdict.link),
        "reply": shown(verdict.reply),
        "reason": verdict.reason,
        "detail": "; ".join(filter(None, (verdict.detail, noted, note))),
        "duration": duration,
    }
    return Record("delivery", session, fields)


def attempt(session: str, failure: HostFailure) -> Record:
    """`level`: what had to be reached there; of a connection that got so far, what was."""
    fields = {
        **_place(failure.host, failure.endpoint),
        "level": failure.level,
        **_reached(failure.link),
        "reason": failure.reason,
        "reply": shown(failure.reply),
        "detail": failure.detail,
    }
    return Record("attempt", session, fields)


def _place(host: Domain | Address | None, endpoint: Endpoint | None) -> dict[str, object]:
    if endpoint is None:
        return {"host": host}
    return {"host": host, "address": endpoint.address, "port": endpoint.port}


def _reached(link: Link | None) -> dict[str, object]:
    """What the connection was, if its level stands."""
    if link is None or link.level is None:
        return {}
    fields: dict[str, object] = {
        "level": link.level,
        "tls_out_dane": "yes" if link.level is Level.DANE else "no",
        "tls_out_tlsa_usage": link.usage,
    }
    if link.handshake is not None:
        fields["tls_out_cipher"] = f"{link.handshake.version}:{link.handshake.cipher}"
        fields["tls_out_peerdn"] = link.peer_dn
        fields["tlsa"] = link.matched
        fields["verified"] = verified(link)
    return fields
