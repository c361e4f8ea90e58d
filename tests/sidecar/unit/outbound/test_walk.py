"""Whose turn it is: order, limits, addresses that are not dialled, and whose answer counts at last."""

from __future__ import annotations

import pytest

from delivery_playbook import DANE, FULL, MATCHING, PLAIN, SHAKEN, ZONE, Host, Playbook, settings
from dns_table import table
from postern_sidecar.outbound.commands import Ask, Dial, Lost

FIRST, SECOND = "192.0.2.1", "192.0.2.2"
REFUSED = Lost("connect_refused", "Connection refused")
OUT_OF_FILES = Lost("no_descriptors")
TIMEOUT = Lost("connect_timeout")


def addresses(number: int, name: str = "mx.example.org", network: str = "192.0.2") -> str:
    return "\n".join(f"{name} A {network}.{last}" for last in range(1, number + 1))


# Order


def test_preferences_first_and_equal_ones_by_chance() -> None:
    zone = table(f"{ZONE}\nexample.org MX 10 aa.example.org\naa.example.org A 192.0.2.3")
    orders = []
    for backwards in (False, True):
        play = Playbook(zone, {name: Host(REFUSED) for name in (FIRST, SECOND, "192.0.2.3")})
        play.chance = lambda hosts, backwards=backwards: hosts.sort(key=repr, reverse=backwards)  # type: ignore[misc]
        play.rcpt()
        orders.append(play.dialled)
    assert orders == [["192.0.2.3", FIRST, SECOND], [FIRST, "192.0.2.3", SECOND]]


def test_every_address_of_a_host_and_families_by_turns() -> None:
    zone = table("example.org MX 1 mx.example.org\nmx.example.org AAAA 2001:db8::1\n" + addresses(2))
    play = Playbook(zone, {"2001:db8::1": Host(REFUSED), FIRST: Host(REFUSED), SECOND: Host()})
    assert play.rcpt() == "250 ok"
    assert play.dialled == ["2001:db8::1", FIRST, SECOND]


def test_hosts_of_one_preference_are_looked_up_at_once_and_others_only_when_it_is_their_turn() -> None:
    play = Playbook(
        table(f"{ZONE}\nexample.org MX 10 aa.example.org\naa.example.org A 192.0.2.3"), {"192.0.2.3": Host()}
    )
    play.rcpt()
    asked = [
        {question.name for question in command.questions} for command in play.commands if hasattr(command, "questions")
    ]
    assert asked[1] == {"aa.example.org", "mx.example.org"}
    assert not any("backup.example.org" in names for names in asked)


def test_a_host_whose_records_have_expired_is_looked_up_again() -> None:
    """It has published TLSA records while the submitter took its time: nothing goes there as if it had none."""
    hosts = "example.org MX 10 aa.example.org\nexample.org MX 10 mx.example.org\naa.example.org A 192.0.2.2"
    before = f"{hosts}\nmx.example.org 60 A 192.0.2.1"
    for pause, level in ((59, "clear"), (61, "dane")):
        play = Playbook(table(before), {SECOND: Host(DATA="lost"), FIRST: Host(TLS=SHAKEN)})
        play.chance = lambda hosts: hosts.sort(key=repr)
        assert play.rcpt() == "250 ok"
        play.dns = table(f"{before}\n_25._tcp.mx.example.org TLSA {MATCHING}")
        play.hosts[FIRST].script["EHLO"] = ["250 mx"] if level == "clear" else [FULL]
        play.now += pause
        assert play.start() == "354 go ahead"
        play.finish()
        assert play.outcome["level"].value == level


def test_so_is_one_with_addresses_left() -> None:
    zone = "example.org MX 10 mx.example.org\nmx.example.org 60 A 192.0.2.1\nmx.example.org 60 A 192.0.2.2"
    for pause, told in ((59, "354 go ahead"), (61, "451 4.7.4 mx.example.org does not offer the TLS that")):
        play = Playbook(table(zone), {name: Host(EHLO="250 mx") for name in (FIRST, SECOND)})
        play.hosts[FIRST].script["DATA"] = ["lost"]
        assert play.rcpt() == "250 ok"
        play.dns = table(f"{zone}\n_25._tcp.mx.example.org TLSA {MATCHING}")
        play.now += pause
        assert play.start().startswith(told)


def test_an_answer_without_a_time_to_live_is_used_once() -> None:
    zone = "example.org MX 10 mx.example.org\nmx.example.org 0 A 192.0.2.1\nmx.example.org 0 A 192.0.2.2"
    play = Playbook(table(zone), {FIRST: Host(banner="silent"), SECOND: Host()})
    assert play.rcpt() == "250 ok"
    assert play.dialled == [FIRST, SECOND]
    assert [
        question.name for command in play.commands if isinstance(command, Ask) for question in command.questions
    ] == [
        "example.org",
        *["mx.example.org", "mx.example.org", "_25._tcp.mx.example.org"] * 2,
    ]


# Limits


def test_ten_addresses_a_transaction() -> None:
    zone = table("example.org MX 1 mx.example.org\n" + addresses(12))
    play = Playbook(zone, {f"192.0.2.{last}": Host(REFUSED) for last in range(1, 13)})
    assert play.rcpt() == "451 4.4.1 mx.example.org does not answer"
    assert len(play.dialled) == 10


def test_five_sessions_a_transaction() -> None:
    zone = table("example.org MX 1 mx.example.org\n" + addresses(12))
    play = Playbook(zone, {f"192.0.2.{last}": Host(banner="451 4.3.2 busy") for last in range(1, 13)})
    assert play.rcpt() == "451 4.3.2 busy"
    assert len(play.dialled) == 5


def test_a_connection_of_the_pool_is_a_session() -> None:
    zone = table("example.org MX 1 mx.example.org\n" + addresses(6))
    hosts = {f"192.0.2.{last}": Host(banner="451 4.3.2 busy") for last in range(2, 7)}
    play = Playbook(zone, {FIRST: Host(MAIL=["250 ok", "451 4.3.0 later"]), **hosts})
    play.deliver()
    play.new_leg()
    play.rcpt()
    assert len(play.dialled) == 1 + 4


def test_a_stale_connection_of_the_pool_was_none() -> None:
    zone = table("example.org MX 1 mx.example.org\n" + addresses(6))
    hosts = {f"192.0.2.{last}": Host(banner="451 4.3.2 busy") for last in range(2, 7)}
    play = Playbook(zone, {FIRST: Host(RSET="lost", MAIL=["250 ok", "451 4.3.0 later"]), **hosts})
    play.deliver()
    play.new_leg()
    play.rcpt()
    assert len(play.dialled) == 1 + 5


def test_a_refusal_by_all_that_were_tried_is_no_bounce_if_some_were_not() -> None:
    zone = table("example.org MX 1 mx.example.org\n" + addresses(6))
    play = Playbook(zone, {f"192.0.2.{last}": Host(banner="554 5.7.1 no") for last in range(1, 7)})
    assert play.rcpt() == "451 4.4.1 not every mail server of example.org could be tried in time"
    assert play.outcome["reason"] == "too_many_hosts"


def test_ten_seconds_for_a_connection() -> None:
    play = Playbook(PLAIN, {FIRST: Host(TIMEOUT)})
    assert play.rcpt() == "250 ok"
    assert play.now - 1000 == 10
    assert [command.seconds for command in play.commands if isinstance(command, Dial)] == [10, 10]


# Addresses that did not connect


def test_an_address_that_did_not_connect_is_not_tried_again_for_60_seconds() -> None:
    play = Playbook(table("example.org MX 1 mx.example.org\nmx.example.org A 192.0.2.1"), {FIRST: Host(REFUSED)})
    for _ in range(2):
        assert play.rcpt() == "451 4.4.1 mx.example.org does not answer"
        play.now += 59.5
        play.new_leg()
    assert play.dialled == [FIRST]
    assert play.reasons == ["connect_refused"] * 2
    play.now += 1
    play.rcpt()
    assert play.dialled == [FIRST, FIRST]


def test_remembered_addresses_count_among_the_ten() -> None:
    zone = table("example.org MX 1 mx.example.org\n" + addresses(12))
    play = Playbook(zone, {f"192.0.2.{last}": Host(REFUSED) for last in range(1, 13)})
    play.rcpt()
    play.new_leg()
    play.rcpt()
    assert len(play.dialled) == 10


@pytest.mark.parametrize(
    ("lost", "already", "remembered"),
    [(TIMEOUT, 0.0, 1), (TIMEOUT, 115.0, 0), (REFUSED, 115.0, 1), (OUT_OF_FILES, 0.0, 0)],
)
def test_only_what_says_something_of_the_address_is_remembered(lost: Lost, already: float, remembered: int) -> None:
    play = Playbook(table("example.org MX 1 mx.example.org\nmx.example.org A 192.0.2.1"), {FIRST: Host(lost)})
    play.leg._budget.seconds -= already
    play.rcpt()
    assert len(play.unreachable) == remembered


def test_no_descriptor_is_nobodys_fault_but_ours() -> None:
    play = Playbook(table("example.org MX 1 mx.example.org\nmx.example.org A 192.0.2.1"), {FIRST: Host(OUT_OF_FILES)})
    assert play.rcpt() == "451 4.3.2 no file descriptor is left here, try again"
    assert play.reasons == ["no_descriptors"]


def test_who_connects_after_all_is_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another delivery failed while this one was on its way."""
    play = Playbook(PLAIN)
    dial = play._dial

    def meanwhile(command: Dial) -> object:
        play.unreachable.remember(command.to, "connect_timeout", play.now)
        return dial(command)

    monkeypatch.setattr(play, "_dial", meanwhile)
    play.rcpt()
    assert len(play.unreachable) == 0


def test_a_session_that_is_lost_says_nothing_of_the_address() -> None:
    play = Playbook(PLAIN, {FIRST: Host(banner="lost")})
    play.rcpt()
    assert len(play.unreachable) == 0


# Our own, and others that are not dialled


def test_an_own_address_cuts_the_list_from_its_preference_on() -> None:
    zone = table(f"{ZONE}\nexample.org MX 20 zz.example.org\nzz.example.org A 192.0.2.3")
    play = Playbook(zone, {FIRST: Host(REFUSED)}, configured=settings(own=("192.0.2.3",)))
    assert play.rcpt() == "451 4.4.1 mx.example.org does not answer"
    assert play.dialled == [FIRST]  # neither ourselves nor the backup that is no better than we are


def test_we_are_the_best_host() -> None:
    play = Playbook(PLAIN, configured=settings(ownAddresses=["192.0.2.0/31"]))
    assert play.rcpt() == "554 5.4.6 mail for example.org would come back here"
    assert (play.dialled, play.outcome["reason"]) == ([], "mail_loop")


def test_we_are_the_domain_itself() -> None:
    play = Playbook(table("example.org A 192.0.2.1"), configured=settings(own=(FIRST,)))
    assert play.rcpt().startswith("554 5.4.6 ")


def test_own_names_cut_the_list_too() -> None:
    play = Playbook(PLAIN, configured=settings(ownNames=["mx.example.org"]))
    assert play.rcpt().startswith("554 5.4.6 ")


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "224.0.0.1"])
def test_some_addresses_are_never_dialled(address: str) -> None:
    play = Playbook(target=f"[{address}]")
    assert play.rcpt(f"user@[{address}]").startswith("554 5.4.6 ")
    assert (play.dialled, play.reasons) == ([], ["address_not_allowed"])


def test_addresses_that_are_not_dialled_count_among_the_ten() -> None:
    """Or a domain with thirty hosts of 512 such addresses each would be 15,000 lines in the log for one message."""
    zone = table("example.org MX 1 mx.example.org\n" + addresses(12, network="127.0.0"))
    play = Playbook(zone)
    assert play.rcpt() == "451 4.4.1 not every mail server of example.org could be tried in time"
    assert play.reasons == ["address_not_allowed"] * 10


def test_a_host_with_a_loopback_address_beside_a_real_one() -> None:
    zone = table("example.org MX 1 mx.example.org\nmx.example.org A 127.0.0.1\nmx.example.org A 192.0.2.1")
    play = Playbook(zone)
    assert play.rcpt() == "250 ok"
    assert play.dialled == [FIRST]


def test_a_route_to_an_own_address_needs_to_be_allowed() -> None:
    routes = [{"domains": ["*"], "via": "192.0.2.1:2525"}]
    play = Playbook(PLAIN, configured=settings(own=(FIRST,), routes=routes))
    assert play.rcpt().startswith("554 5.4.6 ")
    play = Playbook(PLAIN, configured=settings(own=(FIRST,), routes=routes, allowAddresses=[FIRST]))
    assert play.rcpt() == "250 ok"


def test_a_relay_that_is_ourselves_among_others_is_the_others() -> None:
    routes = [{"domains": ["*"], "via": "mx.example.org"}]
    zone = table("mx.example.org A 192.0.2.1\nmx.example.org A 192.0.2.2")
    play = Playbook(zone, configured=settings(own=(FIRST,), routes=routes))
    assert play.rcpt() == "250 ok"
    assert play.dialled == [SECOND]


# Hosts that the DNS says nothing good of


def test_a_host_without_an_address_is_passed_over() -> None:
    play = Playbook(table("example.org MX 1 gone.example.org\n" + ZONE))
    assert play.rcpt() == "250 ok"
    assert play.reasons == ["no_such_domain"]


def test_a_host_whose_addresses_cannot_be_looked_up_is_passed_over() -> None:
    play = Playbook(table(ZONE, failing=["mx.example.org"]))
    assert play.rcpt() == "250 ok"
    assert (play.reasons, play.dialled) == (["dns_failed"], [SECOND])
    play = Playbook(table(ZONE, failing=["mx.example.org", "backup.example.org"]))
    assert play.rcpt().startswith("451 4.4.3 ")


def test_a_relay_that_does_not_exist_is_the_policys_fault_and_bounces_nothing() -> None:
    routes = [{"domains": ["*"], "via": "relay.example.org"}]
    assert Playbook(PLAIN, configured=settings(routes=routes)).rcpt().startswith("451 4.4.3 ")


def test_a_tlsa_lookup_that_fails_means_do_not_use_this_host() -> None:
    play = Playbook(table(ZONE, failing=["_25._tcp.mx.example.org"]))
    assert play.rcpt() == "250 ok"
    assert (play.reasons, play.dialled) == (["tlsa_failed"], [SECOND])
    play = Playbook(table(ZONE, bogus=["_25._tcp.mx.example.org", "_25._tcp.backup.example.org"]))
    assert play.rcpt().startswith("451 4.7.5 ")
    assert play.dialled == []


def test_dane_required_and_not_there() -> None:
    play = Playbook(PLAIN, configured=settings(dane={"require": ["example.org"]}))
    assert play.rcpt().startswith("451 4.7.5 ")
    assert (play.dialled, play.outcome["outcome"]) == ([], "deferred")


# Whose answer it is


def test_4_7_x_counts_before_a_connection_that_failed() -> None:
    play = Playbook(DANE, {FIRST: Host(TLS=Lost("tls_failed")), SECOND: Host(REFUSED)})
    assert play.rcpt().startswith("451 4.7.5 mx.example.org ")
    assert play.outcome["host"] == "mx.example.org"


def test_else_the_last_hosts() -> None:
    play = Playbook(DANE, {FIRST: Host(TLS=Lost("tls_failed")), SECOND: Host(RCPT="450 4.2.1 busy")})
    assert play.rcpt() == "450 4.2.1 busy"
    play = Playbook(PLAIN, {FIRST: Host(RCPT="450 4.2.1 busy"), SECOND: Host(REFUSED)})
    assert play.rcpt() == "451 4.4.1 backup.example.org does not answer"


def test_the_day_is_utcs() -> None:
    skip = {"match": "example.org", "reason": "ticket 4711", "until": "2026-06-01", "level": "Opportunistic"}
    play = Playbook(DANE, configured=settings(dane={"skip": [skip]}))
    play.deliver()
    assert play.outcome["level"].value == "may"
    play = Playbook(DANE, configured=settings(dane={"skip": [{**skip, "until": "2026-05-31"}]}))
    play.deliver()
    assert play.outcome["level"].value == "dane"
