"""One connection's life, from its first byte to the moment when both sides are spliced: a state machine without I/O.

`Life.run` is a generator: it yields commands, gets events (events.py), and returns how it ended. Read it from the
top: it is the picture of design section 4. What it decides: whether the peer must send a header and sent a good one;
who the client is; whether it may come in (limits, rules); whether it talked too early; what it is told if not. It knows
no sockets, no clock, no DNS. It raises nothing: a peer's fault is an `Ended`.

Sources: the PROXY protocol specification of 2026/04/27 sections 2 and 5, RFC 5321 3.1 and 4.3.1 (banner, synchronism).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from postern_sidecar.config.model import Action, OnFailure, Probes, Unknown
from postern_sidecar.proxyproto.header import Command as HeaderCommand
from postern_sidecar.proxyproto.header import Header, HeaderError
from postern_sidecar.proxyproto.reader import HeaderReader
from postern_sidecar.replies import ReplyError, ReplyReader, reply_line

from . import answering
from .events import (
    Admit,
    BackendSent,
    ClientSent,
    Command,
    Connect,
    ConnectFailed,
    CountRule,
    Do,
    End,
    Ended,
    Event,
    Happened,
    HealthKnown,
    Log,
    LookUp,
    Named,
    Outcome,
    SendBackend,
    SendClient,
    Spliced,
    StartTimer,
)
from .filters import SignatureWatch, starts_like_a_header
from .guard import XclientGuard
from .handover import Denied, Handed, Verdict
from .limits import text as limit_text
from .record import session_record
from .rules import variables

if TYPE_CHECKING:
    from postern_sidecar.replies import Reply

    from .client import Client
    from .listener import Listener
    from .rules import Judgement

Step = Generator[Command, Any, Ended | None]
"""A part of a life: it has either ended the session or goes on. What a yield is answered with: events.py."""
Ending = Generator[Command, Any, Ended]

MAX_EARLY = 65536  # octets of a client that are kept before the splice; then it is read no more until then
ENOUGH = 64  # of one that will be refused for them: to see what they are
REFUSED_503 = "Command refused, required Proxy negotiation failed"
NOT_NOW = "service not available, try again later"


@dataclass(slots=True)
class Life:
    """`early` is what the client sent behind its header, or before any banner: kept byte-exact."""

    listener: Listener
    client: Client
    session: str
    early: bytes = b""
    client_closed: bool = False
    probe: bool = False
    paused: bool = False

    def run(self) -> Generator[Command, Any, End]:
        ended = yield from self._identify()
        if ended is None and not self.probe:
            ended = yield from self._admit()
        if ended is not None:
            return ended
        return (yield from self._hand_over())

    # Who is it?

    def _identify(self) -> Step:
        client = self.client
        if client.peer.address in self.listener.required:
            client.proxy_session = True
            return (yield from self._read_header())
        if self.listener.direct:
            return None
        refusal = self.listener.speech.refusal("5.7.1", "connections come through the load balancer here")
        return (yield from self._refuse(Outcome.REFUSED, "others", refusal))

    def _read_header(self) -> Step:
        reader = HeaderReader()
        yield StartTimer(self.listener.inbound.proxy_protocol.timeout.seconds)
        while True:
            event = yield Do.WAIT
            if isinstance(event, ClientSent):
                try:
                    result = reader.feed(event.data)
                except HeaderError as error:
                    return (yield from self._proxy_failed(error.reason.value, error.detail))
                if result is not None:
                    header, self.early = result
                    yield Do.STOP_TIMER
                    return (yield from self._take_header(header))
            elif event is Happened.CLIENT_CLOSED:
                if reader.untouched:
                    return (yield from self._end_probe(Outcome.EMPTY, ""))
                return (yield from self._proxy_failed("incomplete", "closed inside the header"))
            else:  # TIMED_OUT: nothing else has begun yet
                return (yield from self._proxy_failed("timeout", "no whole header in time"))

    def _take_header(self, header: Header) -> Step:
        client, proxy = self.client, self.listener.inbound.proxy_protocol
        if header.command is HeaderCommand.LOCAL:
            client.header = header
            return (yield from self._probed())
        if header.source is None:
            if proxy.unknown is Unknown.USE_PEER:
                client.header = header
                return None
            return (yield from self._proxy_failed("unknown", "the header names no TCP client"))
        if not self.listener.claimable(header.source.address):
            return (yield from self._proxy_failed("source_not_allowed", f"nobody may claim {header.source.address}"))
        client.header = header
        client.sender, client.target = header.source, header.destination
        return None

    def _proxy_failed(self, reason: str, detail: str) -> Step:
        """No header or a bad one: rules may judge and log it, then `onFailure` says what the peer hears."""
        client, speech = self.client, self.listener.speech
        client.proxy_failed = reason
        ended = yield from self._apply_rules()
        if ended is not None:
            return ended
        match self.listener.inbound.proxy_protocol.on_failure:
            case OnFailure.CLOSE:
                reply = b""
            case OnFailure.REFUSE_503 if speech.smtp:
                return (yield from self._refuse_503(detail))
            case _:
                reply = speech.deferral("4.3.2", NOT_NOW)
        return (yield from self._refuse(Outcome.PROXY_FAILED, self.client.proxy_failed, reply, detail=detail))

    def _refuse_503(self, detail: str) -> Step:
        """The behaviour of 2014: a banner, then 503 to all but QUIT."""
        hostname = self.listener.speech.hostname
        yield self._refused("proxy_failed", self.client.proxy_failed, reply_line("503", REFUSED_503), detail)
        yield SendClient(self.listener.speech.greeting())
        yield from answering.converse(answering.quit_only(hostname, REFUSED_503), answering.REFUSE_503, b"")
        return Ended(Outcome.PROXY_FAILED, self.client.proxy_failed)

    # A probe?

    def _probed(self) -> Step:
        """LOCAL: the load balancer asks for itself. Nothing of it counts or is logged as a client."""
        self.probe = True
        room = yield Do.PROBE
        if not room:
            return (yield from self._end_probe(Outcome.PROBE, "too_many"))
        if self.listener.inbound.proxy_protocol.probes is Probes.FORWARD:
            return None
        if self.listener.speech.silent:
            return (yield from self._end_probe(Outcome.PROBE, "closed"))
        up = yield from self._health()
        if up is None:
            return (yield from self._end_probe(Outcome.PROBE, "closed"))
        if not up:
            yield SendClient(self.listener.speech.deferral("4.3.2", NOT_NOW))
            yield from answering.linger()
            return (yield from self._end_probe(Outcome.PROBE, "down"))
        yield SendClient(self.listener.speech.greeting())
        yield from answering.converse(answering.probed(self.listener.speech), answering.PROBE, self.early)
        return (yield from self._end_probe(Outcome.PROBE, "up"))

    def _end_probe(self, outcome: Outcome, result: str) -> Ending:
        """A health check is over; `+probes` logs it."""
        if self.listener.log_probes:
            yield self._log("probe", result=result or outcome.value)
        return Ended(outcome, result)

    def _health(self) -> Generator[Command, Any, bool | None]:
        """Whether the backend is up; unknown is down, and None: whoever asked has left."""
        yield Do.ASK_HEALTH
        yield StartTimer(answering.PROBE.seconds)
        while True:
            event = yield from self._wait()
            if isinstance(event, HealthKnown):
                return event.up
            if event is Happened.TIMED_OUT:
                return False
            if event is Happened.CLIENT_CLOSED:
                return None

    # May it come in?

    def _admit(self) -> Step:
        listener, client = self.listener, self.client
        hit = yield Admit(client.sender.address)
        if hit is not None:
            reply = listener.speech.deferral("4.7.0", limit_text(hit, client.sender.address))
            return (yield from self._refuse(Outcome.LIMITED, hit.kind.value, reply))
        if listener.name_wanted:
            yield LookUp(client.sender.address)
            while listener.name_first and client.host_name is None:
                yield from self._wait()
                if self._gone:
                    return Ended(Outcome.CLIENT_GONE)
        return (yield from self._apply_rules())

    def _apply_rules(self) -> Step:
        rules = self.listener.rules
        if rules is None:
            return None
        judgement = rules.evaluate(variables(self.client))
        for error in judgement.errors:
            yield CountRule(error.rule, error.action.value, error=True)
            yield self._warning(f"rule {error.rule} failed: {error.message}")
        for hit in judgement.hits:
            yield CountRule(hit.rule, hit.action.value)
            if hit.action is Action.LOG:
                yield self._warning(hit.message)
        return (yield from self._obey(judgement))

    def _obey(self, judgement: Judgement) -> Step:
        verdict, speech = judgement.verdict, self.listener.speech
        if verdict is None:
            return None
        if verdict.failed:
            reply = speech.deferral("4.3.0", NOT_NOW)
            return (yield from self._refuse(Outcome.DEFERRED, "rule_error", reply, detail=f"rule {verdict.rule}"))
        if verdict.action is Action.REFUSE:
            reply = speech.refusal("5.7.1", verdict.message or "refused by local policy")
            return (yield from self._refuse(Outcome.REFUSED, "rule", reply, detail=f"rule {verdict.rule}"))
        reply = speech.deferral("4.7.0", verdict.message or NOT_NOW)
        return (yield from self._refuse(Outcome.DEFERRED, "rule", reply, detail=f"rule {verdict.rule}"))

    def _judge_early(self) -> Step:
        """What the client sent before the banner, at the two moments when it can be judged: before the backend is
        troubled, and when the banner is about to be written."""
        if self.probe:
            return None
        speech = self.listener.speech
        if not self.client.proxy_session and self.early and starts_like_a_header(self.early):
            reply, reason = speech.deferral("4.3.2", NOT_NOW), "header_from_untrusted_source"
            return (yield from self._refuse(Outcome.DEFERRED, reason, reply, detail=self._untrusted))
        if self.early and not self.listener.forward_early:
            reply = speech.refusal("5.5.0", "SMTP synchronization error")
            return (yield from self._refuse(Outcome.REFUSED, "early_talker", reply))
        return None

    # Hand it over

    def _hand_over(self) -> Generator[Command, Any, End]:
        ended = yield from self._judge_early()
        if ended is None:
            ended = yield from self._connect()
        if ended is not None:
            return ended
        handover = self.listener.handover
        if handover.talks:
            return (yield from self._talk())
        preamble = handover.preamble(self.client)
        if self.listener.forward_early or self.probe:
            return (yield from self._splice(preamble, b""))
        yield SendBackend(preamble)
        banner = yield from self._banner()
        return banner if isinstance(banner, Ended) else (yield from self._splice(b"", banner))

    def _connect(self) -> Step:
        handover = self.listener.handover
        yield Connect(handover.backend(self.client), handover.source(self.client))
        yield StartTimer(self.listener.inbound.timeouts.backend_connect.seconds)
        while True:
            event = yield from self._wait()
            if event is Happened.CONNECTED:
                yield Do.STOP_TIMER
                return None
            if isinstance(event, ConnectFailed):
                return (yield from self._backend_failed(event.reason, handover.advice(event.reason)))
            if event is Happened.TIMED_OUT:
                return (yield from self._backend_failed("backend_timeout", handover.advice("backend_timeout")))
            if self._gone:
                return Ended(Outcome.CLIENT_GONE)

    def _banner(self) -> Generator[Command, Any, bytes | Ended]:
        """The backend's next bytes, within the time for a banner."""
        yield StartTimer(self.listener.inbound.timeouts.banner.seconds)
        while True:
            event = yield from self._wait()
            if isinstance(event, BackendSent):
                return event.data
            if event is Happened.BACKEND_CLOSED:
                return (yield from self._backend_failed("backend_closed"))
            if event is Happened.TIMED_OUT:
                return (yield from self._backend_failed("backend_timeout"))
            if self._gone:
                return Ended(Outcome.CLIENT_GONE)

    def _talk(self) -> Generator[Command, Any, End]:
        """A hand-over inside the server's own SMTP session."""
        talk, reader = self.listener.handover.talk(self.client), ReplyReader()
        replies: list[Reply] = []
        next(talk)
        while True:
            while not replies:
                data = yield from self._banner()
                if isinstance(data, Ended):
                    return data
                try:
                    replies += reader.feed(data)
                except ReplyError:
                    return (yield from self._backend_failed("backend_protocol"))
            try:
                command = talk.send(replies.pop(0))
            except StopIteration as done:
                return (yield from self._talked(done.value))
            yield SendBackend(command)

    def _talked(self, result: Handed | Denied | Verdict) -> Generator[Command, Any, End]:
        if isinstance(result, Handed):
            return (yield from self._splice(b"", result.banner, guarded=result.guarded))
        if isinstance(result, Verdict):
            return (yield from self._refuse(Outcome.REFUSED, "backend_verdict", bytes(result.reply)))
        reply = self.listener.speech.deferral("4.3.5", "mail server configuration error")
        return (yield from self._refuse(Outcome.BACKEND_FAILED, "handover_refused", reply, detail=result.advice))

    def _splice(self, to_backend: bytes, to_client: bytes, *, guarded: bool = False) -> Generator[Command, Any, End]:
        ended = yield from self._judge_early()
        if ended is not None:
            return ended
        yield Do.STOP_TIMER
        if guarded:
            return Spliced(to_backend, to_client, XclientGuard(), self.early, self.client_closed)
        if self.client.proxy_session:
            return Spliced(to_backend + self.early, to_client, None, b"", self.client_closed)
        watch = SignatureWatch(self.listener.speech.deferral("4.3.2", NOT_NOW), self._untrusted)
        return Spliced(to_backend, to_client, watch, self.early, self.client_closed)

    # What every part needs

    @property
    def _untrusted(self) -> str:
        """What the administrator has to know of a header that nobody asked for."""
        return f"{self.client.peer.address} sent a PROXY header; is it missing in proxyProtocol.requiredFrom?"

    @property
    def _gone(self) -> bool:
        """The client has left, and left nothing that is still to be delivered."""
        return self.client_closed and not (self.early and self.listener.forward_early)

    @property
    def _most_early(self) -> int:
        return MAX_EARLY if self.listener.forward_early else ENOUGH

    def _wait(self) -> Generator[Command, Any, Event]:
        """The next event; what the client sends and what reverse DNS says meanwhile is kept."""
        event: Event = yield Do.WAIT
        if isinstance(event, ClientSent):
            self.early += event.data if self.listener.forward_early else event.data[:ENOUGH]
            if len(self.early) > self._most_early and not self.paused:
                self.paused = True
                yield Do.PAUSE_CLIENT
        elif isinstance(event, Named):
            self.client.host_name = event.host_name
        elif event is Happened.CLIENT_CLOSED:
            self.client_closed = True
        return event

    def _refuse(self, outcome: Outcome, reason: str, reply: bytes, *, detail: str = "") -> Ending:
        """Tell the client no, in a way that it gets to read, and log it. An empty reply is just a close."""
        yield Do.CLOSE_BACKEND
        if not self.probe or self.listener.log_probes:
            yield self._refused("proxy_failed" if outcome is Outcome.PROXY_FAILED else "refused", reason, reply, detail)
        if reply:
            yield SendClient(reply)
        if reply and not self.client_closed:
            if reply.startswith(b"5") and outcome is not Outcome.PROXY_FAILED:
                leave = answering.quit_only(self.listener.speech.hostname, "5.5.1 this session is refused")
                yield from answering.converse(leave, answering.REFUSED, self.early)
            else:
                yield from answering.linger()
        return Ended(outcome, reason)

    def _backend_failed(self, reason: str, detail: str = "") -> Ending:
        if self.client_closed:
            return Ended(Outcome.CLIENT_GONE)
        reply = self.listener.speech.deferral("4.3.2", NOT_NOW)
        return (yield from self._refuse(Outcome.BACKEND_FAILED, reason, reply, detail=detail))

    def _refused(self, event: str, reason: str, reply: bytes, detail: str) -> Log:
        said = reply.rstrip(b"\r\n").decode("ascii", "replace")
        return self._log(event, reason=reason, reply=said, detail=detail)

    def _warning(self, message: str) -> Log:
        return self._log("warning", message=message)

    def _log(self, event: str, **fields: object) -> Log:
        return Log(session_record(event, self.session, self.client, self.listener, fields))
