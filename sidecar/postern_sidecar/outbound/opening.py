"""MAIL and RCPT as a next hop hears them, in as few writes as it allows.

Which extensions a message cannot do without (contracts section 5, "Extensions"): 8BITMIME (RFC 6152), SMTPUTF8
(RFC 6531), and a SIZE that is large enough (RFC 1870). DSN's parameters are left out where a host does not know them
(RFC 3461 4: a client must not send them then); nobody is refused for that. With PIPELINING (RFC 2920) all goes in one
write, with RSET before it on a connection that was used before. Paths and parameters come from `outbound.transaction`,
which lets no control octet pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import replies
from .budget import RCPT_PHASE
from .commands import Lost, Say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from postern_sidecar.replies import Reply

    from .budget import Budget
    from .commands import Work
    from .envelope import Recipient, Sender
    from .link import Link


def missing(sender: Sender, keywords: dict[bytes, bytes]) -> tuple[str, replies.Text] | None:
    """What the message needs and the host has not: a reason for the log, and the reply if no host has it."""
    if sender.smtputf8 and b"SMTPUTF8" not in keywords:
        return "smtputf8_missing", replies.NO_SMTPUTF8
    if sender.eight_bit and b"8BITMIME" not in keywords:
        return "8bitmime_missing", replies.NO_8BITMIME
    most = keywords.get(b"SIZE", b"")
    if most.isdigit() and len(most) <= 20 and 0 < int(most) < sender.size:  # 0 and none: no fixed limit
        return "size_exceeded", replies.TOO_LARGE
    return None


def dsn_dropped(sender: Sender, recipient: Recipient, keywords: dict[bytes, bytes]) -> bool:
    asked = sender.ret or sender.envid or recipient.notify or recipient.orcpt
    return bool(asked) and b"DSN" not in keywords


def mail(sender: Sender, keywords: dict[bytes, bytes]) -> bytes:
    line = b"MAIL FROM:<%s>" % sender.path
    if sender.size and b"SIZE" in keywords:
        line += b" SIZE=%d" % sender.size
    if sender.eight_bit:
        line += b" BODY=8BITMIME"
    if sender.smtputf8:
        line += b" SMTPUTF8"
    if b"DSN" in keywords:
        line += _parameter(b"RET", sender.ret) + _parameter(b"ENVID", sender.envid)
    return line + b"\r\n"


def rcpt(recipient: Recipient, keywords: dict[bytes, bytes]) -> bytes:
    line = b"RCPT TO:<%s>" % recipient.path
    if b"DSN" in keywords:
        line += _parameter(b"NOTIFY", recipient.notify) + _parameter(b"ORCPT", recipient.orcpt)
    return line + b"\r\n"


def _parameter(name: bytes, value: bytes) -> bytes:
    return b" %s=%s" % (name, value) if value else b""


@dataclass(frozen=True, slots=True)
class Opened:
    """`mail`: the reply to MAIL; None where it did not come to that. `recipients`: to each RCPT. `lost`: the connection
    was, behind these replies."""

    mail: Reply | None
    recipients: tuple[Reply, ...] = ()
    lost: Lost | None = None

    @property
    def stale(self) -> bool:
        """On a connection that was used before: it had died unseen, and nothing of this message went over it."""
        return self.lost is not None or self.mail is None


def open_on(link: Link, sender: Sender, recipients: Sequence[Recipient], budget: Budget) -> Work[Opened]:
    """A transaction on a connection, up to its last RCPT."""
    keywords = link.keywords
    before = [b"RSET\r\n"] if link.used else []
    lines = [*before, mail(sender, keywords), *(rcpt(recipient, keywords) for recipient in recipients)]
    answers, lost = yield from exchange(link, lines, budget, must=len(before) + 1)
    if before:
        if not answers or answers[0].code != 250:
            return Opened(None, (), lost)
        answers = answers[1:]
    return Opened(answers[0] if answers else None, tuple(answers[1:]), lost)


def exchange(
    link: Link, lines: Sequence[bytes], budget: Budget, seconds: float = RCPT_PHASE, *, must: int = 0
) -> Work[tuple[list[Reply], Lost | None]]:
    """The replies to `lines`, one by one: each leaves the next less time. Without PIPELINING it ends early where one of
    the first `must` is refused."""
    pipelined = b"PIPELINING" in link.keywords
    answers: list[Reply] = []
    for number, line in enumerate(lines):
        data = line if not pipelined else b"".join(lines) if not number else b""
        answer: list[Reply] | Lost = yield Say(link, data, 1, budget.within(seconds))
        if isinstance(answer, Lost):
            return answers, answer
        answers += answer
        if not pipelined and number < must and answer[0].code != 250:
            break
    return answers, None
