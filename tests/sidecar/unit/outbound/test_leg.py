"""One transaction to one next hop, told as conversations (contracts section 5, design section 5)."""

from __future__ import annotations

from typing import Any

import pytest

from delivery_playbook import DANE, FULL, MATCHING, PLAIN, ZONE, Host, Playbook, settings
from dns_table import table
from postern_sidecar.outbound.body import Fault
from postern_sidecar.outbound.commands import Admit, Lost, Say
from postern_sidecar.outbound.envelope import Sender
from postern_sidecar.outbound.leg import Broken

HELLO = ["EHLO mail.example.net", "STARTTLS", "(tls)", "EHLO mail.example.net"]
MAIL = "MAIL FROM:<a@example.net>"
RCPT = "RCPT TO:<user@example.org>"
OTHER = "RCPT TO:<other@example.org>"
OPENED = [*HELLO, f"{MAIL} | {RCPT}"]
FIRST, SECOND = "192.0.2.1", "192.0.2.2"


# The main road


def test_a_message_that_is_delivered() -> None:
    play = Playbook()
    assert play.rcpt() == "250 ok"
    assert play.said(FIRST) == OPENED
    assert play.start() == "354 go ahead"
    assert play.finish() == ["250 2.0.0 queued"]
    assert play.said(FIRST)[5:] == ["DATA", "(message)"]
    assert (play.outcome["outcome"], play.outcome["level"].value, play.outcome["verified"]) == (
        "delivered",
        "dane",
        "dane",
    )
    assert (len(play.pool), play.closed, play.admitted, play.leg.link) == (1, [], [], None)
    assert play.dialled == [FIRST]


def test_the_next_hops_own_answer_is_the_answer_to_rcpt_with_its_lines() -> None:
    play = Playbook(hosts={FIRST: Host(RCPT=["251-2.1.5 will forward|2.1.5 to him", "550-5.1.1 no|5.1.1 such user"])})
    assert play.rcpt() == "251-2.1.5 will forward|251 2.1.5 to him"
    assert play.rcpt("other@example.org") == "550-5.1.1 no|550 5.1.1 such user"
    assert play.outcome["outcome"] == "bounced"
    assert play.start().startswith("354")
    assert play.finish() == ["250 2.0.0 queued"]


def test_further_recipients_go_to_the_same_session() -> None:
    play = Playbook()
    play.rcpt()
    assert play.rcpt("other@example.org") == "250 ok"
    assert play.said(FIRST) == [*OPENED, OTHER]
    play.start()
    assert play.finish() == ["250 2.0.0 queued"] * 2
    assert [one["recipient"] for one in play.logged("delivery")] == [b"user@example.org", b"other@example.org"]


def test_without_pipelining_each_command_waits_for_its_answer() -> None:
    play = Playbook(hosts={FIRST: Host(EHLO="250-mx|250 STARTTLS")})
    play.deliver()
    assert play.said(FIRST)[4:6] == [MAIL, RCPT]


def test_without_pipelining_nothing_follows_a_refused_mail() -> None:
    play = Playbook(hosts={FIRST: Host(EHLO="250-mx|250 STARTTLS", MAIL="550 5.7.1 not you")})
    assert play.rcpt() == "550 5.7.1 not you"
    assert play.said(FIRST)[4:] == [MAIL]


def test_without_pipelining_a_session_lost_half_way() -> None:
    play = Playbook(hosts={FIRST: Host(EHLO="250-mx|250 STARTTLS", RCPT="lost")})
    assert play.rcpt() == "250 ok"
    assert play.reasons == ["connection_lost"]


# RCPT and MAIL that are refused


def test_a_recipient_that_is_put_off_goes_to_the_next_host() -> None:
    play = Playbook(hosts={FIRST: Host(RCPT="450 4.2.1 busy")})
    assert play.rcpt() == "250 ok"
    assert play.said(SECOND) == OPENED
    assert play.reasons == ["rcpt_deferred"]
    assert len(play.pool) == 1  # the first one's connection is nobody's now


def test_put_off_by_all_the_last_answer_is_passed_on() -> None:
    play = Playbook(hosts={FIRST: Host(RCPT="450 4.2.1 busy"), SECOND: Host(RCPT="452 4.3.1 full")})
    assert play.rcpt() == "452 4.3.1 full"
    assert (play.outcome["outcome"], play.outcome["host"]) == ("deferred", "backup.example.org")


def test_one_that_is_put_off_by_all_does_not_take_the_next_one_along() -> None:
    play = Playbook(hosts={FIRST: Host(RCPT="450 4.2.1 busy"), SECOND: Host(RCPT=["452 4.2.2 full", "250 ok"])})
    assert play.rcpt() == "452 4.2.2 full"
    assert play.admitted == ["example.org"]
    assert play.rcpt("other@example.org") == "250 ok"
    assert play.said(SECOND) == [*OPENED, OTHER]
    play.start()
    assert play.finish() == ["250 2.0.0 queued"]


def test_the_first_host_waits_until_it_is_known_that_the_second_fails() -> None:
    play = Playbook(hosts={FIRST: Host(RCPT=["450 4.2.1 busy", "250 ok"]), SECOND: Host(Lost("connect_refused"))})
    assert play.rcpt() == "451 4.4.1 backup.example.org does not answer"
    assert play.rcpt("other@example.org") == "250 ok"
    assert play.said(FIRST) == [*OPENED, OTHER]


def test_the_spare_host_is_given_back_where_the_next_refuses_mail_for_good() -> None:
    play = Playbook(hosts={FIRST: Host(RCPT="450 busy"), SECOND: Host(MAIL="550 5.7.1 not you")})
    assert play.rcpt() == "550 5.7.1 not you"
    assert (len(play.pool), play.admitted) == (2, [])


def test_three_hosts_leave_one_spare_at_a_time() -> None:
    zone = ZONE + "\nexample.org MX 30 third.example.org\nthird.example.org A 192.0.2.3"
    hosts = {FIRST: Host(RCPT="450 a"), SECOND: Host(RCPT="450 b"), "192.0.2.3": Host(RCPT="450 c")}
    play = Playbook(table(zone), hosts)
    assert play.rcpt() == "450 c"
    assert len(play.pool) == 2
    play.abandon()
    assert len(play.pool) == 3


def test_once_one_is_accepted_4xx_is_passed_on() -> None:
    play = Playbook(hosts={FIRST: Host(RCPT=["250 ok", "452 4.5.3 too many"])})
    play.rcpt()
    assert play.rcpt("other@example.org") == "452 4.5.3 too many"
    assert play.dialled == [FIRST]


def test_5xx_is_final_and_the_session_goes_on() -> None:
    play = Playbook(hosts={FIRST: Host(RCPT=["550 5.1.1 nobody", "250 ok"])})
    assert play.rcpt() == "550 5.1.1 nobody"
    assert play.rcpt("other@example.org") == "250 ok"
    assert (play.dialled, play.admitted) == ([FIRST], ["example.org"])


def test_421_becomes_451_with_its_code_and_text_and_the_next_host_is_asked() -> None:
    play = Playbook(hosts={FIRST: Host(RCPT="421 4.7.0 go away"), SECOND: Host(RCPT="421 4.3.2 shutting down")})
    assert play.rcpt() == "451 4.3.2 shutting down"
    assert play.closed == [f"drop {FIRST}", f"drop {SECOND}"]
    assert play.reasons == ["rcpt_deferred"] * 2


@pytest.mark.parametrize("odd", ["299 what", "354 go ahead", "100 hm", "650 hm"])
def test_a_reply_that_makes_no_sense_is_451_4_5_0(odd: str) -> None:
    play = Playbook(hosts={FIRST: Host(RCPT=odd), SECOND: Host(Lost("connect_refused"))})
    play.rcpt()
    assert play.logged("attempt")[0]["reply"] == b"451 4.5.0 mx.example.org sent an unexpected reply"
    assert play.logged("attempt")[0]["detail"] == odd
    assert play.closed == [f"drop {FIRST}"]


def test_mail_that_is_put_off_goes_to_the_next_host() -> None:
    play = Playbook(hosts={FIRST: Host(MAIL="451 4.3.0 later", RCPT="503 5.5.1 MAIL first")})
    assert play.rcpt() == "250 ok"
    assert (play.reasons, play.dialled) == (["mail_deferred"], [FIRST, SECOND])


def test_mail_that_is_put_off_by_all() -> None:
    play = Playbook(hosts={FIRST: Host(MAIL="451 4.3.0 later"), SECOND: Host(MAIL="421 4.3.2 closing")})
    assert play.rcpt() == "451 4.3.2 closing"
    assert play.rcpt("other@example.org") == "451 4.3.2 closing"
    assert (play.admitted, play.closed) == ([], [f"drop {SECOND}"])


@pytest.mark.parametrize(
    ("said", "told"), [("421 4.3.2 closing", "451 4.3.2 closing"), ("554 5.7.1 no", "554 5.7.1 no")]
)
def test_a_host_that_answers_mail_and_hangs_up_is_heard(said: str, told: str) -> None:
    play = Playbook(hosts={FIRST: Host(MAIL=said, RCPT="lost"), SECOND: Host(MAIL=said, RCPT="lost")})
    assert play.rcpt() == told
    assert (play.closed[0], len(play.pool)) == (f"drop {FIRST}", 0)


def test_mail_refused_for_good_is_everybodys_answer() -> None:
    play = Playbook(hosts={FIRST: Host(MAIL="550 5.7.1 not you", RCPT="503 5.5.1 no")})
    assert play.rcpt() == "550 5.7.1 not you"
    assert play.rcpt("other@example.org") == "550 5.7.1 not you"
    assert (play.dialled, play.admitted, len(play.pool)) == ([FIRST], [], 1)


# Sessions that are lost


def test_lost_before_anything_was_accepted_the_next_host_is_asked() -> None:
    play = Playbook(hosts={FIRST: Host(MAIL="lost")})
    assert play.rcpt() == "250 ok"
    assert play.reasons == ["connection_lost"]


def test_lost_between_recipients_all_of_them_are_repeated() -> None:
    play = Playbook(hosts={FIRST: Host(RCPT=["250 ok", "lost"])})
    play.rcpt()
    assert play.rcpt("other@example.org") == "250 ok"
    assert play.said(SECOND) == [*HELLO, f"{MAIL} | {RCPT} | {OTHER}"]
    play.start()
    assert play.finish() == ["250 2.0.0 queued"] * 2


def test_421_behind_an_accepted_recipient_moves_the_transaction() -> None:
    play = Playbook(hosts={FIRST: Host(RCPT=["250 ok", "421 4.3.2 closing"])})
    play.rcpt()
    assert play.rcpt("other@example.org") == "451 4.3.2 closing"
    assert play.start() == "354 go ahead"
    assert play.said(SECOND) == [*OPENED, "DATA"]


def test_lost_at_data_the_next_host_hears_it_all() -> None:
    play = Playbook(hosts={FIRST: Host(DATA="lost")})
    play.rcpt()
    assert play.start() == "354 go ahead"
    assert play.said(SECOND) == [*OPENED, "DATA"]
    assert play.finish() == ["250 2.0.0 queued"]
    assert play.outcome["host"] == "backup.example.org"


def test_421_in_the_replay_ends_that_session_too() -> None:
    play = Playbook(hosts={FIRST: Host(RCPT=["250 ok", "lost"]), SECOND: Host(RCPT=["421 4.3.2 closing", "250 ok"])})
    play.rcpt()
    assert play.rcpt("other@example.org").startswith("451 4.4.2 ")
    assert (play.closed, len(play.pool)) == ([f"drop {FIRST}", f"drop {SECOND}"], 0)


@pytest.mark.parametrize("answer", ["450 4.2.1 later", "550 5.1.1 nobody"])
def test_refused_in_the_replay_data_gets_451(answer: str) -> None:
    play = Playbook(hosts={FIRST: Host(DATA="lost"), SECOND: Host(RCPT=answer)})
    play.rcpt()
    assert play.start().startswith("451 4.4.2 ")
    assert (play.outcome["outcome"], play.outcome["reason"]) == ("deferred", "replay_refused")
    assert (play.admitted, len(play.pool)) == ([], 1)


def test_mail_refused_in_the_replay_is_no_bounce() -> None:
    play = Playbook(hosts={FIRST: Host(DATA="lost"), SECOND: Host(MAIL="550 5.7.1 not you")})
    play.rcpt()
    assert play.start().startswith("451 4.4.2 ")


def test_no_host_left_for_the_replay() -> None:
    play = Playbook(hosts={FIRST: Host(RCPT=["250 ok", "lost"]), SECOND: Host(Lost("connect_refused"))})
    play.rcpt()
    assert play.rcpt("other@example.org") == "451 4.4.1 backup.example.org does not answer"
    assert play.rcpt("third@example.org") == "451 4.4.1 backup.example.org does not answer"
    assert play.admitted == ["example.org"]  # for the one that was accepted
    assert play.start() == "451 4.4.1 backup.example.org does not answer"
    assert play.admitted == []


def test_no_354_within_60_seconds_is_a_lost_session() -> None:
    play = Playbook(hosts={FIRST: Host(DATA="silent")})
    play.rcpt()
    before = play.now
    assert play.start() == "354 go ahead"
    assert play.now - before == 60
    assert play.reasons == ["reply_timeout"]


def test_data_and_its_replay_end_before_postfix_gives_up() -> None:
    play = Playbook(hosts={FIRST: Host(DATA="silent"), SECOND: Host(DATA="silent")})
    play.rcpt()
    before = play.now
    assert play.start().startswith("451 4.4.2 ")
    assert play.now - before == 110


# What DATA is answered


@pytest.mark.parametrize(
    ("said", "told", "outcome"),
    [
        ("554 5.6.0 no", "554 5.6.0 no", "bounced"),
        ("451 4.3.0 later", "451 4.3.0 later", "deferred"),
        ("421 4.3.2 closing", "451 4.3.2 closing", "deferred"),
        ("250 ok", "451 4.5.0 mx.example.org sent an unexpected reply", "deferred"),
    ],
)
def test_data_refused(said: str, told: str, outcome: str) -> None:
    play = Playbook(hosts={FIRST: Host(DATA=said)})
    play.rcpt()
    play.rcpt("other@example.org")
    assert play.start() == told
    assert [one["outcome"] for one in play.logged("delivery")] == [outcome] * 2
    assert (play.closed, play.admitted, play.leg.link) == ([f"drop {FIRST}"], [], None)


# The final reply


@pytest.mark.parametrize(
    ("said", "told", "closed"),
    [
        ("550-5.7.1 spam|5.7.1 really", "550-5.7.1 spam|550 5.7.1 really", "quit"),
        ("452 4.3.1 full", "452 4.3.1 full", "quit"),
        ("421 4.3.2 closing", "451 4.3.2 closing", "drop"),
        ("354 more", "451 4.5.0 mx.example.org sent an unexpected reply", "drop"),
        ("251 2.0.0 odd", "451 4.5.0 mx.example.org sent an unexpected reply", "quit"),
    ],
)
def test_the_final_reply_is_passed_on(said: str, told: str, closed: str) -> None:
    play = Playbook(hosts={FIRST: Host(end=said)})
    assert play.deliver() == [told]
    assert play.closed == [f"{closed} {FIRST}"]
    assert len(play.pool) == 0


@pytest.mark.parametrize(("said", "reason"), [("lost", "connection_lost"), ("silent", "reply_timeout")])
def test_lost_behind_the_final_dot_nobody_knows(said: str, reason: str) -> None:
    play = Playbook(hosts={FIRST: Host(end=said)})
    (told,) = play.deliver()
    assert told.startswith("451 4.4.2 ")
    assert "unknown, it may have been delivered" in told
    assert (play.outcome["outcome"], play.outcome["reason"], play.closed) == ("deferred", reason, [f"drop {FIRST}"])
    assert play.dialled == [FIRST]  # never to a second host


def test_the_final_reply_has_570_seconds_or_what_the_policy_says() -> None:
    for configured, seconds in ((settings(), 570), (settings(limits={"finalTimeout": "300s"}), 300)):
        play = Playbook(hosts={FIRST: Host(end="silent")}, configured=configured)
        play.deliver()
        assert play.now - 1000 == seconds


# A message that does not get to its end


@pytest.mark.parametrize(
    ("why", "told", "outcome"),
    [
        (Fault.BARE_NEWLINE, "550 5.5.2 ", "bounced"),
        (Fault.TOO_BIG, "552 5.3.4 ", "bounced"),
        (Fault.LOOP, "554 5.4.6 ", "bounced"),
        (Fault.GONE, "451 4.4.2 ", "deferred"),
        (Broken.STALLED, "451 4.4.2 mx.example.org stopped reading", "deferred"),
        (Broken.LOST, "451 4.4.2 the connection to mx.example.org was lost", "deferred"),
    ],
)
def test_broken_off(why: Fault | Broken, told: str, outcome: str) -> None:
    play = Playbook()
    play.rcpt()
    play.rcpt("other@example.org")
    play.start()
    answers = play.fail(why)
    assert len(answers) == 2
    assert all(answer.startswith(told) for answer in answers)
    assert [(one["outcome"], one["reason"]) for one in play.logged("delivery")] == [(outcome, why.value)] * 2
    assert (play.closed, play.admitted) == ([f"drop {FIRST}"], [])  # without the final dot, and without QUIT


@pytest.mark.parametrize(
    ("early", "told"),
    [
        ("552 5.3.4 too big", "552 5.3.4 too big"),
        ("421 4.3.2 closing", "451 4.3.2 closing"),
        ("250 2.0.0 queued", "451 4.5.0 mx.example.org sent an unexpected reply"),
    ],
)
def test_a_reply_in_the_middle_of_the_message(early: str, told: str) -> None:
    play = Playbook()
    play.rcpt()
    play.start()
    assert play.fail(Broken.LOST, early) == [told]
    assert play.closed == [f"drop {FIRST}"]


# A transaction that is given up


def test_abandoned_before_data_the_connection_is_kept_and_begins_with_rset() -> None:
    play = Playbook()
    play.rcpt()
    play.abandon()
    assert (len(play.pool), play.admitted, play.closed) == (1, [], [])
    play.new_leg()
    play.deliver()
    assert play.said(FIRST) == [*OPENED, f"RSET | {MAIL} | {RCPT}", "DATA", "(message)"]
    assert play.dialled == [FIRST]


def test_abandoned_before_anything_began() -> None:
    play = Playbook()
    play.abandon()
    assert play.commands == []


def test_abandoned_in_the_middle_of_a_message_it_is_closed() -> None:
    play = Playbook()
    play.rcpt()
    play.start()
    play.abandon()
    assert (play.closed, play.admitted, len(play.pool)) == ([f"drop {FIRST}"], [], 0)


# Connections of the pool


def test_a_used_connection_carries_the_next_message() -> None:
    play = Playbook()
    play.deliver()
    play.new_leg()
    assert play.deliver() == ["250 2.0.0 queued"]
    assert play.dialled == [FIRST]
    assert play.logged("delivery")[1]["level"].value == "dane"


def test_without_pipelining_rset_goes_first() -> None:
    play = Playbook(hosts={FIRST: Host(EHLO="250-mx|250 STARTTLS")})
    play.deliver()
    play.new_leg()
    play.deliver()
    assert play.said(FIRST)[8:11] == ["RSET", MAIL, RCPT]


@pytest.mark.parametrize(
    "stale", [{"RSET": "lost"}, {"RSET": "421 4.4.2 idle"}, {"MAIL": ["250 ok", "lost", "250 ok"]}]
)
def test_a_stale_connection_is_replaced_by_a_fresh_one_once(stale: dict[str, Any]) -> None:
    play = Playbook(hosts={FIRST: Host(**stale)})
    play.deliver()
    play.new_leg()
    assert play.deliver() == ["250 2.0.0 queued"]
    assert (play.dialled, play.reasons) == ([FIRST, FIRST], [])


def test_a_stale_connection_whose_host_has_gone() -> None:
    play = Playbook(hosts={FIRST: Host(RSET="lost")})
    play.deliver()
    play.hosts[FIRST].connect = Lost("connect_refused")
    play.new_leg()
    assert play.deliver() == ["250 2.0.0 queued"]
    assert play.dialled == [FIRST, FIRST, SECOND]


def test_the_fresh_one_is_not_replaced_again() -> None:
    play = Playbook(hosts={FIRST: Host(RSET="lost", MAIL=["250 ok", "lost"])})
    play.deliver()
    play.new_leg()
    assert play.deliver() == ["250 2.0.0 queued"]
    assert (play.dialled, play.reasons) == ([FIRST, FIRST, SECOND], ["connection_lost"])


def test_the_fresh_one_is_fresh_though_the_pool_has_more() -> None:
    play = Playbook()
    play.rcpt()
    first = play.leg
    play.new_leg()
    play.deliver()
    play.leg = first
    play.start()
    play.finish()
    assert len(play.pool) == 2
    play.hosts[FIRST].script["RSET"] = ["lost"]
    play.new_leg()
    assert play.deliver() == ["250 2.0.0 queued"]
    assert (play.dialled, play.reasons) == ([FIRST] * 3, [])
    assert len(play.pool) == 2


def test_another_tlsa_set_is_another_connection() -> None:
    play = Playbook()
    play.deliver()
    play.dns = table(f"{ZONE}\n_25._tcp.mx.example.org TLSA {MATCHING}\n_25._tcp.mx.example.org TLSA 3 1 1 {'00' * 32}")
    play.new_leg()
    play.deliver()
    assert play.dialled == [FIRST, FIRST]


# A place among the others, and a resolver that validates


def test_no_place_among_the_transactions_to_a_destination() -> None:
    play = Playbook()
    play.room = False
    assert play.rcpt().startswith("451 4.4.5 ")
    assert play.commands[0] == Admit("example.org", 120.0)
    assert (play.dialled, play.outcome["reason"]) == ([], "per_destination")


def test_every_recipient_is_put_off_while_the_resolver_is_not_proved() -> None:
    play = Playbook()
    play.is_ready = (False, "dnssec-failed.org was answered")
    assert play.rcpt().startswith("451 4.7.5 ")
    assert [type(command).__name__ for command in play.commands] == ["Log"]
    assert play.outcome["detail"] == "dnssec-failed.org was answered"
    play.is_ready = (True, "")
    assert play.rcpt() == "250 ok"
    play.is_ready = (False, "")
    assert play.rcpt("other@example.org").startswith("451 4.7.5 ")


# Extensions


@pytest.mark.parametrize(
    ("sender", "lacking", "told"),
    [
        (Sender(b"a@example.net", eight_bit=True), "8BITMIME", "554 5.6.3 "),
        (Sender(b"a@example.net", smtputf8=True), "SMTPUTF8", "553 5.6.7 "),
        (Sender(b"a@example.net", size=1001), "nothing", "552 5.3.4 "),
    ],
)
def test_a_host_that_lacks_what_the_message_needs(sender: Sender, lacking: str, told: str) -> None:
    less = FULL.replace(f"{lacking}|", "")
    play = Playbook(
        hosts={FIRST: Host(EHLO=less), SECOND: Host(EHLO=FULL.replace("SIZE 1000", "SIZE 0"))}, sender=sender
    )
    assert play.rcpt() == "250 ok"
    assert play.said(FIRST) == HELLO
    play = Playbook(hosts={FIRST: Host(EHLO=less), SECOND: Host(EHLO=less)}, sender=sender)
    assert play.rcpt().startswith(told)
    assert play.outcome["outcome"] == "bounced"


def test_lacking_is_no_bounce_while_another_host_might_have_it() -> None:
    less = FULL.replace("8BITMIME|", "")
    hosts = {FIRST: Host(Lost("connect_refused")), SECOND: Host(EHLO=less)}
    play = Playbook(hosts=hosts, sender=Sender(b"a@example.net", eight_bit=True))
    assert play.rcpt() == "451 4.4.1 mx.example.org does not answer"


def test_parameters_as_the_host_knows_them() -> None:
    sender = Sender(b"a@example.net", 1000, eight_bit=True, smtputf8=True, ret=b"HDRS", envid=b"QQ1")
    play = Playbook(sender=sender)
    play.rcpt(notify=b"FAILURE", orcpt=b"rfc822;u@example.org")
    mail, rcpt = play.said(FIRST)[4].split(" | ")
    assert mail == f"{MAIL} SIZE=1000 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ1"
    assert rcpt == f"{RCPT} NOTIFY=FAILURE ORCPT=rfc822;u@example.org"


def test_dsn_is_dropped_and_logged_where_a_host_does_not_know_it() -> None:
    sender = Sender(b"", 1000, ret=b"HDRS", envid=b"QQ1")
    play = Playbook(hosts={FIRST: Host(EHLO="250-mx|PIPELINING|250 STARTTLS")}, sender=sender)
    play.rcpt(notify=b"FAILURE")
    assert play.said(FIRST)[4] == f"MAIL FROM:<> | {RCPT}"
    play.start()
    play.finish()
    assert play.outcome["detail"] == "DSN parameters dropped"


# Next hops


@pytest.mark.parametrize(
    ("zone", "broken", "told", "reason"),
    [
        ("example.org MX 0 .", "", "556 5.1.10 example.org accepts no mail (null MX)", "null_mx"),
        ("", "", "550 5.1.2 example.org does not exist", "no_such_domain"),
        ("example.org MX 1 mx.example.org", "", "550 5.4.4 example.org has no mail server with an address", "no_such"),
        (ZONE, "example.org MX", "451 4.4.3 the mail servers of example.org cannot be looked up now", "dns_"),
    ],
)
def test_a_domain_that_leads_nowhere(zone: str, broken: str, told: str, reason: str) -> None:
    play = Playbook(table(zone, bogus=[broken]))
    assert play.rcpt() == told
    assert (play.dialled, play.admitted) == ([], [])
    assert play.outcome["reason"].startswith(reason)
    assert play.rcpt("other@example.org") == told


def test_address_literals() -> None:
    play = Playbook(PLAIN, target="[192.0.2.2]")
    assert play.rcpt("user@[192.0.2.2]") == "250 ok"
    assert (play.dialled, play.admitted) == ([SECOND], ["192.0.2.2"])


def test_a_route_serves_several_domains() -> None:
    routes = [{"domains": ["example.org", "example.com"], "via": "backup.example.org:587"}]
    play = Playbook(DANE, configured=settings(routes=routes))
    assert play.rcpt() == "250 ok"
    assert play.rcpt("user@example.com") == "250 ok"
    assert (play.dialled, play.admitted) == ([SECOND], ["via backup.example.org:587"])


def test_domains_of_one_route_with_different_demands_do_not_share_a_transaction() -> None:
    routes = [{"domains": ["example.org", "example.com"], "via": "backup.example.org:587"}]
    play = Playbook(PLAIN, configured=settings(routes=routes, dane={"require": ["example.com"]}))
    assert play.rcpt() == "250 ok"
    assert play.rcpt("user@example.com").startswith("452 4.5.3 ")
    play.start()
    assert play.finish() == ["250 2.0.0 queued"]


# Time


def test_the_whole_rcpt_phase_has_120_seconds() -> None:
    play = Playbook(hosts={FIRST: Host(RCPT="silent"), SECOND: Host(RCPT="silent")})
    assert play.rcpt().startswith("451 4.4.2 ")
    assert play.now - 1000 == 120
    assert play.dialled == [FIRST]


@pytest.mark.parametrize("ehlo", [FULL, "250-mx|250 STARTTLS"])
def test_a_host_that_answers_drop_by_drop_has_no_more(ehlo: str) -> None:
    play = Playbook(hosts={FIRST: Host(EHLO=ehlo, MAIL="after 100: 250 ok", RCPT="after 100: 250 ok")})
    assert play.rcpt().startswith("451 4.4.2 ")
    assert play.now - 1000 == 120


def test_lookups_take_of_the_same_time() -> None:
    """MX, addresses and TLSA, then the first host: 100 s have gone by when the second one is looked up."""
    play = Playbook(PLAIN, {FIRST: Host(banner="after 25: 554 no")})
    play.lookup = 25.0
    assert play.rcpt() == "451 4.4.1 not every mail server of example.org could be tried in time"
    assert play.now - 1000 == 120
    assert play.dialled == [FIRST]


def test_what_one_recipient_took_the_next_one_has_not() -> None:
    play = Playbook(hosts={FIRST: Host(Lost("connect_timeout")), SECOND: Host(RCPT=["250 ok", "silent"])})
    play.rcpt()
    play.rcpt("other@example.org")
    assert play.now - 1000 == 120


def test_the_submitters_own_pauses_do_not_count() -> None:
    play = Playbook(hosts={FIRST: Host(RCPT=["250 ok", "silent"])})
    play.rcpt()
    play.now += 1000
    before = play.now
    play.rcpt("other@example.org")
    assert play.now - before == 120
    assert [command.seconds for command in play.commands if isinstance(command, Say)][-1] == 120
