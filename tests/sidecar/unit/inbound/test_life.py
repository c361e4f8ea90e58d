"""One connection's life, told as conversations (contracts section 2, design section 4)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from playbook import LOAD_BALANCER, LOCAL, SENDER, STRANGER, TARGET, Playbook, listener
from postern_sidecar.inbound.events import (
    Admit,
    BackendSent,
    ClientSent,
    Connect,
    ConnectFailed,
    Do,
    Ended,
    Happened,
    HealthKnown,
    LookUp,
    Named,
    Outcome,
    SendBackend,
    SendClient,
    Spliced,
    StartTimer,
)
from postern_sidecar.inbound.filters import SIGNATURE_V2, SignatureWatch
from postern_sidecar.inbound.guard import XclientGuard
from postern_sidecar.inbound.life import ENOUGH, MAX_EARLY
from postern_sidecar.inbound.limits import LimitHit, LimitKind
from postern_sidecar.names import Endpoint, HostName, NameStatus
from postern_sidecar.proxyproto import writer

HEADER = writer.v2(SENDER, TARGET)
V1 = writer.v1(SENDER, TARGET)
BANNER = b"220 mx ESMTP\r\n"
BACKEND = Endpoint(ip_address("127.0.0.1"), 2525)
LOCAL_HEADER = SIGNATURE_V2 + b"\x20\x00\x00\x00"
UNSPEC = SIGNATURE_V2 + b"\x21\x00\x00\x00"
NOT_NOW = b"421 4.3.2 mail.example.net service not available, try again later\r\n"
ADMITTED = [Do.STOP_TIMER, Admit(SENDER.address), Connect(BACKEND), StartTimer(5.0)]
TOLD = [Do.SHUT_CLIENT, StartTimer(5.0)]


def refused(reply: bytes) -> list[object]:
    """What every 4xx looks like: said, shut, and time to read it."""
    return [Do.CLOSE_BACKEND, SendClient(reply), *TOLD]


def connected(play: Playbook, header: bytes = HEADER) -> Playbook:
    """Up to the moment when the backend has accepted the connection."""
    play(ClientSent(header))
    play(Happened.CONNECTED)
    return play


# The main road


def test_a_client_behind_a_load_balancer() -> None:
    play = Playbook(listener())
    assert play.began == [StartTimer(3.0)]
    assert play(ClientSent(HEADER)) == ADMITTED
    assert play(Happened.CONNECTED) == [Do.STOP_TIMER, SendBackend(HEADER), StartTimer(300.0)]
    assert play(BackendSent(BANNER)) == [Do.STOP_TIMER]
    assert play.end == Spliced(to_client=BANNER)
    assert (play.client.sender, play.client.target, play.client.proxy_session) == (SENDER, TARGET, True)


def test_a_header_in_pieces_moves_nothing_before_it_is_whole() -> None:
    play = Playbook(listener())
    for octet in HEADER[:-1]:
        assert play(ClientSent(bytes([octet]))) == []
    assert play(ClientSent(HEADER[-1:])) == ADMITTED


def test_version_1_in_version_2_out() -> None:
    play = connected(Playbook(listener()), V1)
    assert play.client.header is not None
    assert play.client.header.version == 1


def test_a_direct_client_is_its_own_identity_and_is_watched() -> None:
    play = Playbook(listener(), STRANGER)
    assert play.began == [Admit(STRANGER.address), Connect(BACKEND), StartTimer(5.0)]
    assert play(Happened.CONNECTED)[1] == SendBackend(writer.v2(STRANGER, LOCAL))
    play(BackendSent(BANNER))
    assert isinstance(play.end, Spliced)
    assert isinstance(play.end.filter, SignatureWatch)


@pytest.mark.parametrize(
    ("handover", "preamble"),
    [
        ("ProxyV1", b"PROXY TCP4 192.0.2.4 198.51.100.25 40211 25\r\n"),
        ("ProxyV2", HEADER),
    ],
)
def test_a_preamble_goes_in_one_write(handover: str, preamble: bytes) -> None:
    play = Playbook(listener(handover=handover))
    play(ClientSent(HEADER))
    assert [c for c in play(Happened.CONNECTED) if isinstance(c, SendBackend)] == [SendBackend(preamble)]


@pytest.mark.parametrize(("sender", "backend"), [("192.0.2.4", "127.0.0.1"), ("2001:db8::4", "::1")])
def test_transparent_connects_from_the_client(sender: str, backend: str) -> None:
    source = Endpoint(ip_address(sender), 40211)
    target = Endpoint(ip_address("198.51.100.25" if "." in sender else "2001:db8::25"), 25)
    play = Playbook(listener(handover="Transparent"))
    assert Connect(Endpoint(ip_address(backend), 2525), source) in play(ClientSent(writer.v2(source, target)))


# Who may connect at all


def test_others_may_be_refused() -> None:
    play = Playbook(listener(proxyProtocol={"others": "Refuse"}), STRANGER)
    reply = b"554 5.7.1 connections come through the load balancer here\r\n"
    assert play.began == [Do.CLOSE_BACKEND, SendClient(reply), StartTimer(5.0)]
    assert play(ClientSent(b"EHLO x\r\n")) == [SendClient(b"503 5.5.1 this session is refused\r\n")]
    assert play(ClientSent(b"QUIT\r\n")) == [SendClient(b"221 mail.example.net closing connection\r\n"), *TOLD]
    play(Happened.CLIENT_CLOSED)
    assert play.end == Ended(Outcome.REFUSED, "others")
    assert play.logged == [("refused", "others")]


def test_who_is_refused_and_leaves_without_quit_is_gone_at_once() -> None:
    play = Playbook(listener(proxyProtocol={"others": "Refuse"}), STRANGER)
    assert play(Happened.CLIENT_CLOSED) == []
    assert play.end == Ended(Outcome.REFUSED, "others")


def test_who_has_left_already_is_not_waited_for() -> None:
    play = Playbook(listener("Opaque", earlyTalkers="Forward", handover="ProxyV2"), STRANGER)
    play(ClientSent(HEADER))
    play(Happened.CLIENT_CLOSED)
    play(Happened.CONNECTED)
    assert play.end == Ended(Outcome.DEFERRED, "header_from_untrusted_source")


def test_an_early_talker_that_had_shut_its_side_is_told_and_not_waited_for() -> None:
    play = Playbook(listener())
    play(ClientSent(HEADER))
    play(Happened.CONNECTED)
    play(ClientSent(b"x"))
    play(Happened.CLIENT_CLOSED)
    assert play.end == Ended(Outcome.CLIENT_GONE)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"EHLO client\r\n", "not_a_header"),
        (b"PROXY TCP4 192.0.2.4\r\n", "v1_syntax"),
        (HEADER[:12] + b"\x31", "v2_version"),
    ],
)
def test_a_bad_header_is_deferred_by_default(header: bytes, reason: str) -> None:
    play = Playbook(listener())
    assert play(ClientSent(header)) == refused(NOT_NOW)
    play(Happened.TIMED_OUT)
    assert play.end == Ended(Outcome.PROXY_FAILED, reason)
    assert play.logged == [("proxy_failed", reason)]
    assert play.records[0]["sender_host_address"] == LOAD_BALANCER.address
    assert play.records[0]["proxy_failed"] is True


@pytest.mark.parametrize(("event", "reason"), [(Happened.TIMED_OUT, "timeout"), (Happened.CLIENT_CLOSED, "incomplete")])
def test_half_a_header_is_none(event: Happened, reason: str) -> None:
    play = Playbook(listener())
    play(ClientSent(HEADER[:20]))
    assert play(event) == refused(NOT_NOW)
    assert play.logged == [("proxy_failed", reason)]


def test_closing_without_a_byte_is_a_check_and_leaves_no_trace() -> None:
    play = Playbook(listener())
    assert play(Happened.CLIENT_CLOSED) == []
    assert play.end == Ended(Outcome.EMPTY)
    assert play.logged == []


def test_a_check_without_a_byte_is_logged_where_probes_are() -> None:
    play = Playbook(listener(selectors=["+probes"]))
    play(Happened.CLIENT_CLOSED)
    assert [(record["result"]) for record in play.records] == ["empty"]


def test_on_failure_close_says_nothing() -> None:
    play = Playbook(listener(proxyProtocol={"onFailure": "Close"}))
    assert play(ClientSent(b"x")) == [Do.CLOSE_BACKEND]
    assert play.end == Ended(Outcome.PROXY_FAILED, "not_a_header")


def test_a_rule_speaks_instead_of_on_failure() -> None:
    play = Playbook(listener(rules=[rule("proxy_failed", "Refuse", "no header")]))
    play(Happened.TIMED_OUT)
    play(ClientSent(b"QUIT\r\n"))
    play(Happened.CLIENT_CLOSED)
    assert play.end == Ended(Outcome.REFUSED, "rule")


def test_on_failure_refuse_503_is_the_conversation_of_2014() -> None:
    play = Playbook(listener(proxyProtocol={"onFailure": "Refuse503"}))
    assert play(Happened.TIMED_OUT) == [SendClient(b"220 mail.example.net ESMTP\r\n"), StartTimer(60.0)]
    denied = SendClient(b"503 Command refused, required Proxy negotiation failed\r\n")
    assert play(ClientSent(b"EHLO localhost\r\nMAIL FROM:<>\r\n")) == [denied, denied]
    assert play(ClientSent(b"quit\r\n")) == [SendClient(b"221 mail.example.net closing connection\r\n"), *TOLD]
    play(Happened.CLIENT_CLOSED)
    assert play.end == Ended(Outcome.PROXY_FAILED, "timeout")


def test_503_is_bounded_in_commands() -> None:
    play = Playbook(listener(proxyProtocol={"onFailure": "Refuse503"}))
    play(Happened.TIMED_OUT)
    said = play(ClientSent(b"NOOP\r\n" * 30))
    assert len([c for c in said if isinstance(c, SendClient)]) == 20
    assert said[-2:] == TOLD


def test_503_is_bounded_in_time() -> None:
    play = Playbook(listener(proxyProtocol={"onFailure": "Refuse503"}))
    play(Happened.TIMED_OUT)
    assert play(Happened.TIMED_OUT) == TOLD


@pytest.mark.parametrize(
    "source", ["127.0.0.1", "127.8.9.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "10.0.9.12"]
)
def test_what_nobody_may_claim(source: str) -> None:
    address = ip_address(source)
    target = Endpoint(ip_address("198.51.100.25" if address.version == 4 else "2001:db8::25"), 25)
    play = Playbook(listener())
    assert play(ClientSent(writer.v2(Endpoint(address, 1), target)))[1:] == refused(NOT_NOW)
    assert play.logged == [("proxy_failed", "source_not_allowed")]
    assert play.client.sender == LOAD_BALANCER


def test_a_mapped_loopback_is_a_loopback() -> None:
    block = ip_address("::ffff:127.0.0.1").packed + ip_address("2001:db8::25").packed + b"\x00\x01\x00\x19"
    play = Playbook(listener())
    play(ClientSent(SIGNATURE_V2 + b"\x21\x21\x00\x24" + block))
    assert play.logged == [("proxy_failed", "source_not_allowed")]


def test_allow_sources_lifts_it_by_network() -> None:
    play = Playbook(listener(proxyProtocol={"allowSources": ["127.0.0.0/8"]}))
    source = Endpoint(ip_address("127.0.0.1"), 1)
    assert Admit(source.address) in play(ClientSent(writer.v2(source, TARGET)))


@pytest.mark.parametrize("header", [UNSPEC, b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"])
def test_unknown_clients_are_refused_by_default(header: bytes) -> None:
    play = Playbook(listener())
    assert play(ClientSent(header))[1:] == refused(NOT_NOW)
    assert play.logged == [("proxy_failed", "unknown")]


def test_unknown_clients_may_count_as_their_peer() -> None:
    play = Playbook(listener(proxyProtocol={"unknown": "UsePeer"}))
    assert Admit(LOAD_BALANCER.address) in play(ClientSent(UNSPEC))
    assert (play.client.sender, play.client.target) == (LOAD_BALANCER, None)


@pytest.mark.parametrize("header", [HEADER, V1])
def test_a_header_from_a_stranger_is_not_believed(header: bytes) -> None:
    play = Playbook(listener(), STRANGER)
    play(ClientSent(header))
    assert play(Happened.CONNECTED) == [Do.STOP_TIMER, SendBackend(writer.v2(STRANGER, LOCAL)), StartTimer(300.0)]
    assert play(BackendSent(BANNER)) == refused(NOT_NOW)
    assert play.logged == [("refused", "header_from_untrusted_source")]
    assert "203.0.113.9" in str(play.records[0]["detail"])
    assert "requiredFrom" in str(play.records[0]["detail"])


# Probes


def probed(play: Playbook, *, up: bool = True) -> list[object]:
    assert play(ClientSent(LOCAL_HEADER)) == [Do.STOP_TIMER, Do.PROBE, Do.ASK_HEALTH, StartTimer(10.0)]
    return list(play(HealthKnown(up)))


def test_a_probe_is_answered_here() -> None:
    play = Playbook(listener())
    assert probed(play) == [SendClient(b"220 mail.example.net ESMTP\r\n"), StartTimer(10.0)]
    assert play(ClientSent(b"EHLO lb\r\nNOOP\r\nRSET\r\nQUIT\r\n")) == [
        SendClient(b"250 mail.example.net\r\n"),
        SendClient(b"250 2.0.0 ok\r\n"),
        SendClient(b"502 5.5.1 this is a health check's session\r\n"),
        SendClient(b"221 mail.example.net closing connection\r\n"),
        *TOLD,
    ]
    play(Happened.CLIENT_CLOSED)
    assert play.end == Ended(Outcome.PROBE, "up")
    assert play.logged == []


def test_an_answered_probe_is_logged_where_probes_are() -> None:
    play = Playbook(listener(selectors=["+probes"]))
    probed(play)
    play(ClientSent(b"QUIT\r\n"))
    play(Happened.CLIENT_CLOSED)
    assert [(record["result"]) for record in play.records] == ["up"]


def test_a_probe_hears_that_the_backend_is_down() -> None:
    play = Playbook(listener())
    assert probed(play, up=False) == [SendClient(NOT_NOW), *TOLD]
    play(Happened.TIMED_OUT)
    assert play.end == Ended(Outcome.PROBE, "down")


def test_an_unknown_backend_is_down() -> None:
    play = Playbook(listener())
    play(ClientSent(LOCAL_HEADER))
    assert SendClient(NOT_NOW) in play(Happened.TIMED_OUT)


def test_a_probe_that_only_connects_says_nothing_of_the_backend() -> None:
    """HAProxy's plain check sends LOCAL and leaves: that is no mail server that is down."""
    play = Playbook(listener())
    play(ClientSent(LOCAL_HEADER))
    assert play(Happened.CLIENT_CLOSED) == []
    assert play.end == Ended(Outcome.PROBE, "closed")


def test_a_probe_may_be_early() -> None:
    play = Playbook(listener())
    play(ClientSent(LOCAL_HEADER + b"EHLO lb\r\n"))
    play(ClientSent(b"QUIT\r\n"))
    assert SendClient(b"221 mail.example.net closing connection\r\n") in play(HealthKnown(True))


def test_probes_have_a_limit() -> None:
    play = Playbook(listener(), probe=False)
    play(ClientSent(LOCAL_HEADER))
    assert play.end == Ended(Outcome.PROBE, "too_many")


@pytest.mark.parametrize("fields", [{"tlsOnConnect": True}, {"protocol": "Opaque"}])
def test_where_we_never_write_a_probe_is_a_close(fields: dict[str, object]) -> None:
    play = Playbook(listener(**fields))  # type: ignore[arg-type]
    play(ClientSent(LOCAL_HEADER))
    assert play.end == Ended(Outcome.PROBE, "closed")


@pytest.mark.parametrize(
    ("protocol", "conversation"),
    [
        (
            "IMAP",
            [
                (b"", b"* OK mail.example.net ready\r\n"),
                (b"a NOOP\r\n", b"a OK done\r\n"),
                (b"b SELECT x\r\n", b"b BAD this is a health check's session\r\n"),
                (b"\r\n", b"* BAD this is a health check's session\r\n"),
                (b"c LOGOUT\r\n", b"* BYE mail.example.net\r\nc OK done\r\n"),
            ],
        ),
        (
            "POP3",
            [
                (b"", b"+OK mail.example.net ready\r\n"),
                (b"NOOP\r\n", b"-ERR this is a health check's session\r\n"),
                (b"QUIT\r\n", b"+OK mail.example.net done\r\n"),
            ],
        ),
        (
            "ManageSieve",
            [
                (b"", b'OK "mail.example.net ready"\r\n'),
                (b'HAVESPACE "x" 1\r\n', b'NO "this is a health check session"\r\n'),
                (b"LOGOUT\r\n", b'OK "mail.example.net done"\r\n'),
            ],
        ),
    ],
)
def test_probes_of_other_protocols(protocol: str, conversation: list[tuple[bytes, bytes]]) -> None:
    play = Playbook(listener(protocol))
    said = probed(play)
    for line, reply in conversation:
        if line:
            said = list(play(ClientSent(line)))
        assert SendClient(reply) in said


def test_a_forwarded_probe_hands_over_the_load_balancer_and_counts_nothing() -> None:
    play = Playbook(listener(proxyProtocol={"probes": "Forward"}))
    assert play(ClientSent(LOCAL_HEADER)) == [Do.STOP_TIMER, Do.PROBE, Connect(BACKEND), StartTimer(5.0)]
    play(Happened.CONNECTED)
    assert play.end == Spliced(to_backend=writer.v2(LOAD_BALANCER, LOCAL))
    assert play.logged == []


def test_a_forwarded_probe_that_fails_is_no_news() -> None:
    play = Playbook(listener(proxyProtocol={"probes": "Forward"}))
    play(ClientSent(LOCAL_HEADER))
    assert play(ConnectFailed("backend_refused")) == refused(NOT_NOW)
    assert play.logged == []


# Early talkers


def test_an_early_talker_is_refused_before_the_backend_is_troubled() -> None:
    play = Playbook(listener())
    reply = b"554 5.5.0 SMTP synchronization error\r\n"
    assert play(ClientSent(HEADER + b"EHLO x\r\n")) == [
        Do.STOP_TIMER,
        Admit(SENDER.address),
        Do.CLOSE_BACKEND,
        SendClient(reply),
        StartTimer(5.0),
        SendClient(b"503 5.5.1 this session is refused\r\n"),
    ]
    assert play.logged == [("refused", "early_talker")]
    play(ClientSent(b"QUIT\r\n"))
    play(Happened.CLIENT_CLOSED)
    assert play.end == Ended(Outcome.REFUSED, "early_talker")


@pytest.mark.parametrize("before_connected", [True, False])
def test_an_early_talker_is_judged_when_the_banner_is_due(before_connected: bool) -> None:
    play = Playbook(listener())
    play(ClientSent(HEADER))
    if before_connected:
        play(ClientSent(b"EHLO x\r\n"))
    play(Happened.CONNECTED)
    if not before_connected:
        play(ClientSent(b"EHLO x\r\n"))
    assert SendClient(b"554 5.5.0 SMTP synchronization error\r\n") in play(BackendSent(BANNER))
    play(Happened.TIMED_OUT)
    play(Happened.TIMED_OUT)
    assert play.end == Ended(Outcome.REFUSED, "early_talker")


def test_a_second_header_is_an_early_talker() -> None:
    play = Playbook(listener())
    play(ClientSent(HEADER + HEADER))
    assert play.logged == [("refused", "early_talker")]


@pytest.mark.parametrize(
    "fields", [{"earlyTalkers": "Forward"}, {"tlsOnConnect": True}, {"protocol": "IMAP"}, {"protocol": "Opaque"}]
)
def test_early_bytes_are_kept_exact(fields: dict[str, object]) -> None:
    early = bytes(range(256))
    play = Playbook(listener(**fields))  # type: ignore[arg-type]
    play(ClientSent(HEADER + early[:100]))
    play(ClientSent(early[100:]))
    play(Happened.CONNECTED)
    assert play.end == Spliced(to_backend=HEADER + early)


def test_what_is_kept_early_has_a_bound() -> None:
    play = Playbook(listener(tlsOnConnect=True))
    play(ClientSent(HEADER))
    assert play(ClientSent(b"x" * MAX_EARLY)) == []
    assert play(ClientSent(b"x")) == [Do.PAUSE_CLIENT]
    assert play(ClientSent(b"x")) == []


def test_of_an_early_talker_that_will_be_refused_little_is_kept() -> None:
    play = Playbook(listener())
    play(ClientSent(HEADER))
    assert play(ClientSent(b"x" * 250_000)) == []
    assert play(ClientSent(b"x")) == [Do.PAUSE_CLIENT]
    assert len(play.life.early) == ENOUGH + 1


def test_who_sends_and_shuts_is_still_served_where_early_bytes_are_the_backends() -> None:
    play = Playbook(listener("Opaque"))
    play(ClientSent(HEADER + b"whole request"))
    play(Happened.CLIENT_CLOSED)
    play(Happened.CONNECTED)
    assert play.end == Spliced(to_backend=HEADER + b"whole request", client_closed=True)


# Limits


@pytest.mark.parametrize(
    ("protocol", "start"),
    [
        ("SMTP", b"421 4.7.0 mail.example.net "),
        ("IMAP", b"* BYE mail."),
        ("POP3", b"-ERR [SYS/TEMP] "),
        ("ManageSieve", b'BYE "mail.'),
    ],
)
def test_a_limited_client_is_told_in_its_own_protocol(protocol: str, start: bytes) -> None:
    hit = LimitHit(LimitKind.CONNECTIONS_PER_CLIENT, 20, 21.0, prefix=32)
    play = Playbook(listener(protocol), admit=hit)
    said = [c.data for c in play(ClientSent(HEADER)) if isinstance(c, SendClient)]
    assert len(said) == 1
    assert said[0].startswith(start)
    assert b"192.0.2.4" in said[0]
    play(Happened.CLIENT_CLOSED)
    assert play.end == Ended(Outcome.LIMITED, "connections_per_client")
    assert play.logged == [("refused", "connections_per_client")]


def test_on_tls_ports_a_limit_is_a_close() -> None:
    play = Playbook(listener(tlsOnConnect=True), admit=LimitHit(LimitKind.RATE_PER_CLIENT, 5, 6.0))
    assert play(ClientSent(HEADER)) == [Do.STOP_TIMER, Admit(SENDER.address), Do.CLOSE_BACKEND]
    assert play.end == Ended(Outcome.LIMITED, "rate_per_client")


def test_the_last_reply_is_not_waited_for_for_ever() -> None:
    play = Playbook(listener())
    play(ClientSent(b"bad"))
    for _ in range(16):
        assert play(ClientSent(b"x" * 4096)) == []
    play(ClientSent(b"x"))
    assert play.end == Ended(Outcome.PROXY_FAILED, "not_a_header")


@pytest.mark.parametrize("flood", [b"A\r\n" * 400, b"A" * 1100])
def test_a_refused_client_has_a_kilobyte(flood: bytes) -> None:
    play = Playbook(listener(proxyProtocol={"others": "Refuse"}), STRANGER)
    assert play(ClientSent(flood))[-2:] == TOLD


# Rules

NAMED = "sender_host_name == 'bad.example'"


def rule(when: str, action: str, message: str = "") -> dict[str, str]:
    return {"name": "r", "when": when, "action": action, "message": message}


def test_a_rule_refuses_with_its_message() -> None:
    play = Playbook(listener(rules=[rule("sender_host_port > 0", "Refuse", "no ${sender_host_address}")]))
    said = play(ClientSent(HEADER))
    assert SendClient(b"554 5.7.1 no 192.0.2.4\r\n") in said
    assert play.logged == [("refused", "rule")]
    assert [(r.rule, r.action, r.error) for r in play.rules] == [("r", "Refuse", False)]


def test_a_rule_defers() -> None:
    play = Playbook(listener(rules=[rule("proxy_session", "Defer")]))
    assert SendClient(b"421 4.7.0 mail.example.net service not available, try again later\r\n") in play(
        ClientSent(HEADER)
    )


def test_a_rule_logs_and_lets_in() -> None:
    play = Playbook(listener(rules=[rule("true", "Log", "via ${proxy_host_address}")]))
    assert play(ClientSent(HEADER)) == ADMITTED
    assert play.logged == [("warning", "via 10.0.3.7")]


def test_a_rule_that_fails_defers() -> None:
    play = Playbook(listener(rules=[rule("1 / (sender_host_port - 40211) > 0", "Refuse")]))
    assert SendClient(b"421 4.3.0 mail.example.net service not available, try again later\r\n") in play(
        ClientSent(HEADER)
    )
    assert ("refused", "rule_error") in play.logged


def test_rules_see_a_failed_header() -> None:
    play = Playbook(listener(rules=[rule("proxy_failed", "Refuse", "no header")]))
    assert SendClient(b"554 5.7.1 no header\r\n") in play(Happened.TIMED_OUT)


def test_a_rule_about_the_name_waits_for_it() -> None:
    play = Playbook(listener(rules=[rule(NAMED, "Refuse")]))
    assert play(ClientSent(HEADER)) == [Do.STOP_TIMER, Admit(SENDER.address), LookUp(SENDER.address)]
    name = HostName(NameStatus.VERIFIED, "bad.example", "bad.example")
    assert SendClient(b"554 5.7.1 refused by local policy\r\n") in play(Named(name))


def test_a_client_that_leaves_meanwhile_is_gone() -> None:
    play = Playbook(listener(rules=[rule(NAMED, "Refuse")]))
    play(ClientSent(HEADER))
    play(Happened.CLIENT_CLOSED)
    assert play.end == Ended(Outcome.CLIENT_GONE)


def test_a_name_for_the_log_alone_holds_nobody_up() -> None:
    play = Playbook(listener(selectors=["+proxy", "+host_lookup"]))
    assert play(ClientSent(HEADER)) == [Do.STOP_TIMER, Admit(SENDER.address), LookUp(SENDER.address), *ADMITTED[2:]]


def test_never_means_never() -> None:
    play = Playbook(listener(reverseDNS="Never", selectors=["+host_lookup"]))
    assert play(ClientSent(HEADER)) == ADMITTED


# The backend


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([ConnectFailed("backend_refused")], "backend_refused"),
        ([Happened.TIMED_OUT], "backend_timeout"),
        ([Happened.CONNECTED, Happened.BACKEND_CLOSED], "backend_closed"),
        ([Happened.CONNECTED, Happened.TIMED_OUT], "backend_timeout"),
    ],
)
def test_a_backend_that_fails_is_a_421_and_a_log_line(events: list[object], reason: str) -> None:
    play = Playbook(listener())
    play(ClientSent(HEADER))
    said = [play(event) for event in events][-1]  # type: ignore[arg-type]
    assert said == refused(NOT_NOW)
    play(Happened.CLIENT_CLOSED)
    assert play.end == Ended(Outcome.BACKEND_FAILED, reason)
    assert play.logged == [("refused", reason)]


@pytest.mark.parametrize("events", [[], [Happened.CONNECTED]])
def test_a_client_that_leaves_while_the_backend_is_asked(events: list[Happened]) -> None:
    play = Playbook(listener())
    play(ClientSent(HEADER))
    for event in events:
        play(event)
    play(Happened.CLIENT_CLOSED)
    assert play.end == Ended(Outcome.CLIENT_GONE)


def test_a_client_that_left_is_not_the_backends_fault() -> None:
    play = Playbook(listener("Opaque"))
    play(ClientSent(HEADER + b"x"))
    play(Happened.CLIENT_CLOSED)
    play(ConnectFailed("backend_refused"))
    assert play.end == Ended(Outcome.CLIENT_GONE)


# XCLIENT and Plain: the talk

ANNOUNCED = b"250-mx\r\n250 XCLIENT NAME ADDR PORT\r\n"
NAME = Named(HostName(NameStatus.ABSENT))


def talking(play: Playbook) -> Playbook:
    play(ClientSent(HEADER))
    play(NAME)
    play(Happened.CONNECTED)
    return play


def test_xclient_hands_over_before_the_banner_is_seen() -> None:
    play = Playbook(listener(handover="XCLIENT"))
    assert play(ClientSent(HEADER)) == [Do.STOP_TIMER, Admit(SENDER.address), LookUp(SENDER.address)]
    assert play(NAME) == ADMITTED[2:]
    assert play(Happened.CONNECTED) == [Do.STOP_TIMER, StartTimer(300.0)]
    assert play(BackendSent(BANNER)) == [SendBackend(b"EHLO mail.example.net\r\n"), StartTimer(300.0)]
    assert play(BackendSent(ANNOUNCED)) == [
        SendBackend(b"XCLIENT NAME=[UNAVAILABLE] PORT=40211 ADDR=192.0.2.4\r\n"),
        StartTimer(300.0),
    ]
    play(BackendSent(b"220 mx after\r\n"))
    assert play(BackendSent(b"250 mx\r\n")) == [Do.STOP_TIMER]
    assert play.end == Spliced(to_client=b"220 mx after\r\n")


def test_replies_in_pieces() -> None:
    play = talking(Playbook(listener(handover="XCLIENT")))
    assert play(BackendSent(BANNER[:5])) == [StartTimer(300.0)]
    assert play(BackendSent(BANNER[5:]))[0] == SendBackend(b"EHLO mail.example.net\r\n")


def test_a_guarded_session_has_the_guard() -> None:
    play = talking(Playbook(listener(handover="XCLIENT", backend={"acknowledgeNoStartTLS": True})))
    for reply in (BANNER, ANNOUNCED, BANNER, ANNOUNCED):
        play(BackendSent(reply))
    assert isinstance(play.end, Spliced)
    assert isinstance(play.end.filter, XclientGuard)


def test_a_refused_hand_over_says_what_the_backend_must_allow() -> None:
    play = talking(Playbook(listener(handover="XCLIENT")))
    play(BackendSent(BANNER))
    assert play(BackendSent(b"250 mx\r\n")) == refused(
        b"421 4.3.5 mail.example.net mail server configuration error\r\n"
    )
    assert play.logged == [("refused", "handover_refused")]
    assert "smtpd_authorized_xclient_hosts" in str(play.records[0]["detail"])


def test_the_servers_verdict_is_passed_on_word_for_word() -> None:
    play = talking(Playbook(listener(handover="XCLIENT")))
    play(BackendSent(BANNER))
    play(BackendSent(ANNOUNCED))
    assert SendClient(b"554-5.7.1 listed\r\n554 5.7.1 go\r\n") in play(
        BackendSent(b"554-5.7.1 listed\r\n554 5.7.1 go\r\n")
    )
    assert play.logged == [("refused", "backend_verdict")]


def test_a_server_that_talks_no_smtp() -> None:
    play = talking(Playbook(listener(handover="XCLIENT")))
    assert play(BackendSent(b"* OK imap\r\n")) == refused(NOT_NOW)
    assert play.logged == [("refused", "backend_protocol")]


def test_a_server_that_closes_during_the_talk() -> None:
    play = talking(Playbook(listener(handover="XCLIENT")))
    assert play(Happened.BACKEND_CLOSED) == refused(NOT_NOW)
    play(Happened.CLIENT_CLOSED)
    assert play.end == Ended(Outcome.BACKEND_FAILED, "backend_closed")


def test_an_early_talker_during_the_talk() -> None:
    play = talking(Playbook(listener(handover="XCLIENT")))
    play(ClientSent(b"EHLO x\r\n"))
    for reply in (BANNER, ANNOUNCED, BANNER):
        play(BackendSent(reply))
    assert SendClient(b"554 5.5.0 SMTP synchronization error\r\n") in play(BackendSent(b"250 mx\r\n"))


def test_early_bytes_pass_the_guard() -> None:
    settings = {"handover": "XCLIENT", "backend": {"acknowledgeNoStartTLS": True}, "earlyTalkers": "Forward"}
    play = talking(Playbook(listener(**settings)))  # type: ignore[arg-type]
    play(ClientSent(b"XCLIENT ADDR=127.0.0.1\r\n"))
    for reply in (BANNER, ANNOUNCED, BANNER, ANNOUNCED):
        play(BackendSent(reply))
    assert isinstance(play.end, Spliced)
    assert (play.end.early, play.end.to_backend) == (b"XCLIENT ADDR=127.0.0.1\r\n", b"")


def test_plain_smtp_asks_before_it_lets_anybody_through() -> None:
    play = Playbook(listener(handover="Plain", backend={"acknowledgeClientHidden": True}))
    play(ClientSent(HEADER))
    assert play(Happened.CONNECTED) == [Do.STOP_TIMER, StartTimer(300.0)]
    assert play(BackendSent(BANNER))[0] == SendBackend(b"EHLO mail.example.net\r\n")
    play(BackendSent(b"250 mx\r\n"))
    assert play.end == Spliced(to_client=BANNER)


def test_plain_elsewhere_is_plain() -> None:
    play = Playbook(listener("IMAP", handover="Plain", backend={"acknowledgeClientHidden": True}))
    play(ClientSent(HEADER))
    play(Happened.CONNECTED)
    assert play.end == Spliced()


def test_the_hand_over_registry_is_whole() -> None:
    from postern_sidecar.config.model import HandoverKind
    from postern_sidecar.inbound.handover import HANDOVERS, Handover

    assert set(HANDOVERS) == set(HandoverKind)
    with pytest.raises(NotImplementedError):
        Handover(listener().inbound, "x").talk(Playbook(listener()).client)


def test_what_a_header_carried_beside_addresses_is_logged() -> None:
    authority = b"\x02\x00\x0bexample.org"
    block = SENDER.address.packed + TARGET.address.packed + b"\x9d\x13\x00\x19" + authority
    play = Playbook(listener(rules=[rule("true", "Log", "x")]))
    play(ClientSent(SIGNATURE_V2 + b"\x21\x11" + len(block).to_bytes(2, "big") + block))
    assert play.records[0]["proxy_authority"] == b"example.org"  # as sent: the log escapes it


def test_on_pop3_a_refusal_is_permanent_and_a_deferral_is_not() -> None:
    speech = listener("POP3").speech
    assert speech.refusal("5.7.1", "no").startswith(b"-ERR [SYS/PERM] no")
    assert speech.deferral("4.3.2", "wait").startswith(b"-ERR [SYS/TEMP] mail.example.net wait")
