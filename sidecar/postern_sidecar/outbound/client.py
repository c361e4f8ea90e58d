"""The way to a session at a level, at one address: from nothing to a connection that mail may go over.

Before the level is reached nothing is believed (contracts section 5): where TLS is mandatory, whatever refuses it or
us is a failure of this host, 451 4.7.5, or 4.7.4 where STARTTLS is missing or refused; a stranger on the way could have
said it. At `may` there is nothing to be believed for, so a host's own 4xx or 5xx stands for it; and where STARTTLS is
refused or the handshake fails, one fresh connection to the same address goes on in clear, logged.

RFC 5321 3.1, 3.2, 4.1.1.1; RFC 3207 (after the handshake all is forgotten, EHLO is said again); RFC 4954 by
`outbound.login`. It knows one address and one plan; whose turn it is and what is sent over the connection is
`outbound.walk`'s and `outbound.leg`'s. It raises nothing: a failure is a HostFailure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from . import budget as limits
from . import login, record, replies
from .commands import NO_DESCRIPTORS, Dial, Drop, Log, Lost, Say, Secure, TakePooled
from .failure import HostFailure
from .plan import Level
from .trust import NotTrusted, judge

if TYPE_CHECKING:
    from postern_sidecar.names import Address, Domain, Endpoint
    from postern_sidecar.replies import Reply

    from .budget import Budget
    from .commands import Work
    from .link import Link
    from .plan import Handshake, Plan, PoolKey
    from .settings import Credentials

EHLO_REFUSED: Final = "ehlo_refused"
KEYWORDS: Final = frozenset({b"STARTTLS", b"AUTH", b"PIPELINING", b"SIZE", b"8BITMIME", b"SMTPUTF8", b"DSN"})
"""What of an EHLO reply anybody here looks at. The others could be 256 KiB, as long as the connection is kept."""
LIGHT: Final = 32_768  # octets of certificates and staple; a connection with more, and OpenSSL's copy, is not kept idle


@dataclass(frozen=True, slots=True)
class Goal:
    """`credentials`: None where no AUTH is wanted. `extended`: without EHLO the host is of no use for this message."""

    session: str
    host: Domain | Address
    endpoint: Endpoint
    plan: Plan
    key: PoolKey
    credentials: Credentials | None = None
    extended: bool = False

    def failure(
        self, reason: str, reply: Reply, detail: str = "", link: Link | None = None, *, connected: bool = True
    ) -> HostFailure:
        return HostFailure(
            self.host, reason, reply, detail, self.endpoint, self.plan.level, link=link, connected=connected
        )


def hinders(goal: Goal) -> HostFailure | None:
    """What is known to be wrong before anybody connects."""
    if not goal.key.credentials:
        return None
    if goal.plan.level not in (Level.DANE, Level.VERIFY):
        detail = f"AUTH needs level dane or verify, this is {goal.plan.level.value}: {goal.plan.why}"
        return goal.failure("auth_level", replies.NOT_SECURED(goal.host), detail)
    if goal.credentials is None:
        return goal.failure("auth_credentials", replies.NO_CREDENTIALS(goal.host), goal.key.credentials)
    return None


def reach(goal: Goal, budget: Budget, *, pooled: bool = True) -> Work[Link | HostFailure]:
    """A connection at the level of the plan. `pooled`: an idle one will do."""
    hindrance = hinders(goal)
    if hindrance is not None:
        return hindrance
    if pooled:
        link: Link | None = yield TakePooled(goal.key)
        if link is not None:
            budget.sessions -= 1
            return link
    approach = Approach(goal, budget)
    result = yield from approach.run()
    if not isinstance(result, HostFailure) or not approach.clear_may_follow or not budget.another_session:
        return result
    yield Log(record.attempt(goal.session, result))
    return (yield from Approach(goal, budget, in_clear=f"{result.reason} {result.detail}".strip()).run())


def _heavy(handshake: Handshake | None) -> bool:
    return handshake is not None and sum(map(len, handshake.chain)) + len(handshake.staple) > LIGHT


@dataclass(slots=True)
class Approach:
    """One connection. `in_clear`: why TLS is not tried; "" where it is. `clear_may_follow`: it failed at TLS, which
    the plan can do without."""

    goal: Goal
    budget: Budget
    in_clear: str = ""
    clear_may_follow: bool = False

    def run(self) -> Work[Link | HostFailure]:
        goal = self.goal
        dialled: Link | Lost = yield Dial(goal.endpoint, self.budget.within(limits.CONNECT))
        if isinstance(dialled, Lost):
            ours = dialled.reason == NO_DESCRIPTORS
            reply = replies.NO_DESCRIPTORS() if ours else replies.NOT_CONNECTED(goal.host)
            return goal.failure(dialled.reason, reply, dialled.detail, connected=False)
        self.budget.sessions -= 1
        failure = yield from self._greet(dialled)
        if failure is None:
            failure = yield from self._authenticate(dialled)
        if failure is not None:
            yield Drop(dialled)
            return failure
        if not self.in_clear and not _heavy(dialled.handshake):  # in clear: the next message tries TLS again
            dialled.key = goal.key
        return dialled

    # From the banner to the level

    def _greet(self, link: Link) -> Work[HostFailure | None]:
        plan = self.goal.plan
        if self.goal.key.implicit_tls:
            failure = yield from self._secure(link)
            if failure is None:
                failure = yield from self._banner(link)
            return failure or (yield from self._hello(link))
        failure = yield from self._banner(link)
        if failure is None:
            failure = yield from self._hello(link)
        if failure is not None:
            return failure
        if self.in_clear:
            link.level, link.note = Level.CLEAR, f"in clear: {self.in_clear}"
            return None
        if b"STARTTLS" in link.keywords:
            return (yield from self._start_tls(link))
        if plan.mandatory:
            return self._failed("starttls_missing", replies.NO_STARTTLS(self.goal.host), "not announced", link)
        link.level, link.note = Level.CLEAR, "in clear: STARTTLS is not announced"
        return None

    def _banner(self, link: Link) -> Work[HostFailure | None]:
        answer = yield from self._say(link, b"", limits.GREETING)
        if isinstance(answer, HostFailure):
            return answer
        return None if answer.code == 220 else self._refused("banner_refused", answer, link)

    def _hello(self, link: Link) -> Work[HostFailure | None]:
        name = self.goal.key.ehlo.encode("ascii")
        answer = yield from self._say(link, b"EHLO %s\r\n" % name, limits.GREETING)
        if isinstance(answer, HostFailure):
            return answer
        if answer.code == 250:
            link.keywords = {word: value for word, value in answer.keywords.items() if word in KEYWORDS}
            return None
        if 500 <= answer.code <= 509 and self._plain_will_do(link):  # RFC 5321 3.2: it does not know EHLO
            answer = yield from self._say(link, b"HELO %s\r\n" % name, limits.GREETING)
            if isinstance(answer, HostFailure) or answer.code == 250:
                return answer if isinstance(answer, HostFailure) else None
        return self._refused(EHLO_REFUSED, answer, link)

    def _plain_will_do(self, link: Link) -> bool:
        """Neither TLS nor any extension is needed here. In TLS it knew EHLO a moment ago."""
        return not self.goal.plan.mandatory and link.handshake is None and not self.goal.extended

    def _start_tls(self, link: Link) -> Work[HostFailure | None]:
        self.clear_may_follow = not self.goal.plan.mandatory
        answer = yield from self._say(link, b"STARTTLS\r\n", limits.TLS)
        if isinstance(answer, HostFailure):
            return answer
        if answer.code != 220:
            said = replies.shown(answer).decode("utf-8", "replace")
            return self._failed("starttls_refused", replies.NO_STARTTLS(self.goal.host), said, link)
        failure = yield from self._secure(link)
        if failure is not None:
            return failure
        failure = yield from self._hello(link)  # in TLS 1.3 a server that refuses the handshake is heard only now
        if failure is not None and failure.reason == EHLO_REFUSED:
            self.clear_may_follow = False
        return failure

    def _secure(self, link: Link) -> Work[HostFailure | None]:
        plan = self.goal.plan
        shaken: Handshake | Lost = yield Secure(link, plan, self.budget.within(limits.TLS))
        not_secured = replies.NOT_SECURED(self.goal.host)
        if isinstance(shaken, Lost):
            return self._failed(shaken.reason, not_secured, shaken.detail, link)
        link.handshake, link.half_dane, link.usage = shaken, plan.half_dane, plan.usage
        try:
            trusted = judge(plan, shaken)
        except NotTrusted as verdict:
            return self._failed(verdict.reason, not_secured, verdict.detail, link)
        link.level, link.matched = plan.level, trusted.matched
        link.peer_dn, link.note = trusted.subject, trusted.note
        return None

    # AUTH

    def _authenticate(self, link: Link) -> Work[HostFailure | None]:
        credentials = self.goal.credentials
        if credentials is None:
            return None
        failed = yield from login.log_in(link, credentials, self.budget)
        if failed is None:
            return None
        return self._failed(failed.reason, replies.NOT_AUTHENTICATED(self.goal.host), failed.detail, link)

    # What every part needs

    def _say(self, link: Link, data: bytes, seconds: float) -> Work[Reply | HostFailure]:
        answer: list[Reply] | Lost = yield Say(link, data, 1, self.budget.within(seconds))
        if isinstance(answer, Lost):
            return self._failed(answer.reason, replies.CONNECTION_LOST(self.goal.host), answer.detail, link)
        return answer[0]

    def _refused(self, reason: str, answer: Reply, link: Link) -> HostFailure:
        """A reply instead of a welcome: believed where it comes over what the plan demands, and at `may`."""
        said = replies.shown(answer).decode("utf-8", "replace")
        if self.goal.plan.mandatory and link.level is None:
            return self._failed(reason, replies.NOT_SECURED(self.goal.host), said, link)
        return self._failed(reason, replies.passed_on(answer, (), self.goal.host), said, link)

    def _failed(self, reason: str, reply: Reply, detail: str, link: Link) -> HostFailure:
        return self.goal.failure(reason, reply, detail, link)
