"""The part of one transaction that goes to one next hop: recipients of one domain, or of one route.

    reply = yield from leg.recipient(recipient)     the next hop's own answer to RCPT
    reply = yield from leg.start()                  354, or what DATA is answered instead
    ... the door writes the message and the final dot into leg.link.channel ...
    replies = yield from leg.finish()               one a recipient that was accepted, in that order
    replies = yield from leg.fail(why)              instead, where the message broke off: no final dot goes out
    yield from leg.abandon()                        instead of all of these: RSET, or an end without DATA

RFC 5321 4.1, 4.2.5, 5.1; contracts section 5 "Codes" and "Time". The first recipient finds the way: it waits for a
place among the transactions to this destination, looks the next hop up and walks on from host to host until one takes
MAIL and RCPT. A RCPT that is put off (4xx) walks on too, as long as none is accepted. Where the session is lost before
the message begins, the next host hears MAIL and every accepted RCPT again; if it refuses one, DATA gets 451.

What it promises: 250 for a recipient only if the next hop said 250 behind the final dot; what is lost behind the dot is
answered 451, with a text that says that nobody knows. It knows neither sockets nor clocks, and not how the message gets
to the next hop. It raises nothing; replies are data.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import budget as limits
from . import opening, record, replies
from .body import Fault
from .budget import Budget
from .commands import Admit, Drop, Leave, Log, Lost, Say
from .course import Course, keep, spoilt
from .failure import Verdict
from .transaction import OTHER_NEXT_HOP
from .walk import begin

if TYPE_CHECKING:
    from postern_sidecar.names import Address, Domain
    from postern_sidecar.replies import Reply

    from .commands import Work
    from .envelope import Recipient, Sender
    from .link import Link
    from .surroundings import Surroundings
    from .walk import Stop


class Broken(enum.Enum):
    """Why a message stopped half-way, where that was not the submitter's fault (`body.Fault`)."""

    STALLED = "data_timeout"  # the next hop read nothing for 30 s
    LOST = "connection_lost"  # it is gone, or it spoke before its turn


@dataclass(slots=True)
class Leg:
    """`target`: the domain or address behind the first recipient's @. `accepted`: recipients so far, in their order."""

    around: Surroundings
    sender: Sender
    target: Domain | Address
    session: str
    accepted: list[Recipient] = field(default_factory=list)
    _began: list[float] = field(default_factory=list)  # of each accepted one, monotonic
    _budget: Budget = field(init=False)
    _course: Course | None = None
    _settled: Verdict | None = None  # there is no host left, and everybody is told so
    _admitted: str = ""
    _in_data: bool = False

    def __post_init__(self) -> None:
        self._budget = Budget(self.around.world.monotonic)

    @property
    def link(self) -> Link | None:
        """Where the message goes; as long as there is one, a transaction is open on it."""
        return None if self._course is None or self._course.at is None else self._course.at.link

    # RCPT

    def recipient(self, recipient: Recipient) -> Work[Reply]:
        """The answer to RCPT."""
        began = self.around.world.monotonic()
        self._budget.begin()
        verdict = yield from self._answered(recipient)
        self._budget.pause()
        if verdict.reply.code < 400:
            self.accepted.append(recipient)
            self._began.append(began)
            return verdict.reply
        yield self._log(recipient, verdict, began)
        if self._settled is not None and not self.accepted:
            yield from self._leave()
        return verdict.reply

    def _answered(self, recipient: Recipient) -> Work[Verdict]:
        ready, why = self.around.ready()
        if not ready:
            return Verdict(replies.NOT_VALIDATING(), "dns_selftest", why)
        if self._settled is not None:
            return self._settled
        course = self._course
        if course is None:
            found = yield from self._set_out()
            if isinstance(found, Verdict):
                self._settled = found
                return found
            course = self._course = found
        elif recipient.domain != self.target and not course.walk.same_rules(recipient.domain):
            return Verdict(OTHER_NEXT_HOP, "other_next_hop")
        return (yield from self._offer(course, recipient))

    def _set_out(self) -> Work[Course | Verdict]:
        """A place among the others, and a next hop."""
        settings, target = self.around.settings, self.target
        route = settings.route(target) if isinstance(target, str) else None
        destination = str(target) if route is None else f"via {route.via.text}"
        admitted = yield Admit(destination, self._budget.left)
        if not admitted:
            return Verdict(replies.BUSY(target), "per_destination")
        self._admitted = destination
        extended = self.sender.eight_bit or self.sender.smtputf8
        walk = yield from begin(self.session, self.around, target, route, self._budget, extended=extended)
        return walk if isinstance(walk, Verdict) else Course(self.sender, walk)

    def _offer(self, course: Course, recipient: Recipient) -> Work[Verdict]:
        """To the host where we are, then from one to the next, until there is an answer that stands."""
        answer: Reply | None = None
        spare: Stop | None = None  # it put this recipient off; the next one may fare better there
        if course.at is not None:
            line = opening.rcpt(recipient, course.at.link.keywords)
            answer = yield from course.say(course.at, line)
        while answer is None or self._moves_on(answer):
            if answer is not None:
                spare = yield from self._pass_by(course, answer, spare)
            answer = yield from self._reopen(course, [*self.accepted, recipient])
            if answer is None:
                return (yield from self._stranded(course, spare))
        if spare is not None:
            yield from keep(spare.link)
        return (yield from self._heard(course, answer))

    def _moves_on(self, answer: Reply) -> bool:
        """Another host may take the recipient, and none is bound to this one yet."""
        return not self.accepted and answer.code not in replies.RCPT_OK and not 500 <= answer.code <= 599

    def _pass_by(self, course: Course, answer: Reply, spare: Stop | None) -> Work[Stop | None]:
        """On to the next host; what is left behind waits until it is known whether there is one."""
        stop = course.leave()
        assert stop is not None  # noqa: S101 - the answer came from there
        verdict = course.heard(stop, answer, replies.RCPT_OK)
        yield from course.walk.note(stop.goal.failure("rcpt_deferred", verdict.reply, verdict.detail, stop.link))
        if spare is not None:
            yield from keep(spare.link)
        if not spoilt(answer):
            return stop
        yield Drop(stop.link)
        return None

    def _reopen(self, course: Course, recipients: list[Recipient]) -> Work[Reply | None]:
        """The next host's answer to the last of `recipients`, where it takes those that were accepted before."""
        answers = yield from course.open(recipients)
        if not answers:
            if course.refused is not None:
                self._settled = self._torn() if self.accepted else course.refused
            return None
        if all(answer.code in replies.RCPT_OK for answer in answers[: len(self.accepted)]):
            return answers[-1]
        stop = course.leave()
        assert stop is not None  # noqa: S101 - it has just been opened
        yield from course.done_with(stop, next(filter(spoilt, answers), answers[-1]))
        self._settled = self._torn()
        return None

    def _torn(self) -> Verdict:
        return Verdict(replies.REPLAY_REFUSED(self.target), "replay_refused")

    def _stranded(self, course: Course, spare: Stop | None) -> Work[Verdict]:
        """No host is left but the one that put this recipient off: there the next one is asked."""
        if self._settled is None and spare is not None:
            course.at = spare
            return course.walk.verdict
        if spare is not None:
            yield from keep(spare.link)
        self._settled = self._settled or course.walk.verdict
        return self._settled

    def _heard(self, course: Course, answer: Reply) -> Work[Verdict]:
        """An answer to RCPT that stands."""
        stop = course.at
        assert stop is not None  # noqa: S101 - the answer came from there
        if spoilt(answer):
            course.leave()
            yield Drop(stop.link)
        return course.heard(stop, answer, replies.RCPT_OK)

    # DATA

    def start(self) -> Work[Reply]:
        """354, or the answer for every accepted recipient. At least one was."""
        self._budget.seconds = limits.DATA_PHASE
        self._budget.begin()
        verdict = yield from self._data()
        self._budget.pause()
        if verdict.reply.code in replies.DATA_OK:
            self._in_data = True
            return verdict.reply
        return (yield from self._end(verdict))[0]

    def _data(self) -> Work[Verdict]:
        course = self._course
        assert course is not None  # noqa: S101 - a recipient was accepted
        while self._settled is None:
            stop = course.at
            if stop is not None:
                answer = yield from course.say(stop, b"DATA\r\n", limits.DATA)
                if answer is not None:
                    return course.heard(stop, answer, replies.DATA_OK)
            elif (yield from self._reopen(course, self.accepted)) is None:
                return (yield from self._stranded(course, None))
        return self._settled

    # The end

    def finish(self) -> Work[tuple[Reply, ...]]:
        """The answer for each accepted recipient, once the whole message is on its way."""
        course, stop = self._in_transfer()
        seconds = self.around.settings.outbound.limits.final_timeout.seconds
        answer: list[Reply] | Lost = yield Say(stop.link, b"", 1, seconds)
        if isinstance(answer, Lost):
            verdict = self._of(stop, replies.UNKNOWN(stop.goal.host), answer.reason, answer.detail)
            return (yield from self._end(verdict))
        verdict = course.heard(stop, answer[0], replies.OK)
        if verdict.reply.code in replies.OK:
            course.leave()
            yield from keep(stop.link)
        return (yield from self._end(verdict, quit=not spoilt(answer[0])))

    def fail(self, why: Fault | Broken) -> Work[tuple[Reply, ...]]:
        """The answer for each accepted recipient, where the message does not get to its end."""
        course, stop = self._in_transfer()
        if isinstance(why, Fault):
            verdict = self._of(stop, why.reply, why.value)
        elif why is Broken.STALLED:
            verdict = self._of(stop, replies.STALLED(stop.goal.host), why.value)
        else:
            early: list[Reply] | Lost = yield Say(stop.link, b"", 1, limits.EARLY)
            if isinstance(early, Lost):
                verdict = self._of(stop, replies.CONNECTION_LOST(stop.goal.host), early.reason, early.detail)
            else:  # a 250 for half a message is none
                verdict = course.heard(stop, early[0], ())
        return (yield from self._end(verdict))

    def abandon(self) -> Work[None]:
        """Nothing will be sent; others may use the connection, unless a message has begun on it."""
        stop = None if self._course is None else self._course.leave()
        if stop is not None:
            if self._in_data:
                yield Drop(stop.link)
            else:
                yield from keep(stop.link)
        yield from self._leave()

    def _in_transfer(self) -> tuple[Course, Stop]:
        course = self._course
        assert course is not None  # noqa: S101 - DATA was answered 354
        assert course.at is not None  # noqa: S101
        return course, course.at

    def _end(self, verdict: Verdict, *, quit: bool = False) -> Work[tuple[Reply, ...]]:  # noqa: A002 - SMTP's word
        """All accepted recipients are told the same."""
        stop = None if self._course is None else self._course.leave()
        if stop is not None:
            yield Drop(stop.link, quit)
        for recipient, began in zip(self.accepted, self._began, strict=True):
            yield self._log(recipient, verdict, began)
        yield from self._leave()
        return (verdict.reply,) * len(self.accepted)

    def _leave(self) -> Work[None]:
        if self._admitted:
            yield Leave(self._admitted)
            self._admitted = ""

    # Logs

    def _of(self, stop: Stop, reply: Reply, reason: str, detail: str = "") -> Verdict:
        return Verdict(reply, reason, detail, stop.goal.host, stop.goal.endpoint, stop.link)

    def _log(self, recipient: Recipient, verdict: Verdict, began: float) -> Log:
        note = ""
        if verdict.link is not None and opening.dsn_dropped(self.sender, recipient, verdict.link.keywords):
            note = "DSN parameters dropped"
        duration = self.around.world.monotonic() - began
        return Log(record.delivery(self.session, recipient, verdict, duration, note))
