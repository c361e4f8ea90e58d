"""The session that a transaction is open on, and how it gets to another one.

`at` is where MAIL was accepted; `open` walks on to the next host that takes MAIL, and says every RCPT there. A
connection from the pool that turns out to be dead is replaced by a fresh one to the same address, once, since nothing
of the message went over it. It does not judge what RCPT and DATA are answered: that is `outbound.leg`'s. Raises
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import opening, replies
from .budget import RCPT_PHASE
from .commands import Drop, Keep
from .failure import Verdict
from .opening import exchange, open_on

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from postern_sidecar.replies import Reply

    from .commands import Lost, Work
    from .envelope import Recipient, Sender
    from .link import Link
    from .walk import Stop, Walk


def keep(link: Link) -> Work[None]:
    """For others. It has been used, so the next transaction begins with RSET."""
    link.used += 1
    yield Keep(link)


@dataclass(slots=True)
class Course:
    """`refused`: MAIL was, for good: no other host is asked."""

    sender: Sender
    walk: Walk
    at: Stop | None = None
    refused: Verdict | None = None

    def open(self, recipients: Sequence[Recipient]) -> Work[tuple[Reply, ...]]:
        """The answers to each RCPT, by the next host that takes MAIL; () where there is none, or MAIL is refused."""
        while (stop := (yield from self.walk.onward())) is not None:
            answers = yield from self._open(stop, recipients)
            if answers or self.refused is not None:
                return answers
        return ()

    def _open(self, stop: Stop, recipients: Sequence[Recipient]) -> Work[tuple[Reply, ...]]:
        link = stop.link
        lacking = opening.missing(self.sender, link.keywords)
        if lacking is not None:
            reason, text = lacking
            yield from keep(link)
            yield from self.walk.note(stop.goal.failure(reason, text(stop.goal.host), link=link))
            return ()
        opened = yield from open_on(link, self.sender, recipients, self.walk.budget)
        if opened.mail is not None and opened.mail.code not in replies.OK:
            yield from self._mail_refused(stop, opened.mail, opened.lost)
            return ()
        if link.used and opened.stale:
            yield Drop(link)
            fresh = yield from self.walk.afresh(stop)
            return () if fresh is None else (yield from self._open(fresh, recipients))
        if opened.lost is not None:
            yield from self._lost(stop, opened.lost)
            return ()
        self.at = stop
        return opened.recipients

    def _mail_refused(self, stop: Stop, answer: Reply, lost: Lost | None) -> Work[None]:
        """`lost`: it hung up on the RCPT behind it, as after a 421."""
        verdict = self.heard(stop, answer, ())
        if lost is None:
            yield from self.done_with(stop, answer)
        else:
            yield Drop(stop.link)
        if verdict.reply.code >= 500:
            self.refused = verdict
        else:
            yield from self.walk.note(stop.goal.failure("mail_deferred", verdict.reply, link=stop.link))

    # The open transaction

    def say(self, stop: Stop, line: bytes, seconds: float = RCPT_PHASE) -> Work[Reply | None]:
        """None: the session is lost, and `at` with it."""
        answers, lost = yield from exchange(stop.link, [line], self.walk.budget, seconds)
        if lost is None:
            return answers[0]
        yield from self._lost(stop, lost)
        return None

    def heard(self, stop: Stop, answer: Reply, expected: Collection[int]) -> Verdict:
        """What the submitter is told of it."""
        reply = replies.passed_on(answer, expected, stop.goal.host)
        odd = reply.code == 451 and answer.code not in (421, 451)
        reason, detail = ("unexpected_reply", replies.shown(answer).decode("utf-8", "replace")) if odd else ("", "")
        return Verdict(reply, reason, detail, stop.goal.host, stop.goal.endpoint, stop.link)

    def done_with(self, stop: Stop, answer: Reply) -> Work[None]:
        """After this answer the transaction is over here; others may use the connection, if it makes sense still."""
        if spoilt(answer):
            yield Drop(stop.link)
        else:
            yield from keep(stop.link)

    def leave(self) -> Stop | None:
        """Whoever takes it ends it."""
        stop, self.at = self.at, None
        return stop

    def _lost(self, stop: Stop, lost: Lost) -> Work[None]:
        self.at = None
        yield Drop(stop.link)
        reply = replies.CONNECTION_LOST(stop.goal.host)
        yield from self.walk.note(stop.goal.failure(lost.reason, reply, lost.detail, stop.link))


def spoilt(answer: Reply) -> bool:
    """It announces the end of the session (421), or nobody knows any more where in it we are."""
    return answer.code == replies.SHUTTING_DOWN or not (answer.code in replies.RCPT_OK or replies.negative(answer))
