"""The way to a session at a level: what is believed before it is reached, and what happens where it is not
(contracts section 5 "Levels", "Before the level is reached", RFC 3207, RFC 4954, RFC 5321 3.2)."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp

from certificates import NOW, issue
from delivery_playbook import DANE, FULL, LEAF, PLAIN, SHAKEN, STRANGER, ZONE, Host, Playbook, settings
from dns_table import Table, table
from postern_sidecar.outbound import client
from postern_sidecar.outbound.commands import Lost, Secure
from postern_sidecar.outbound.settings import Credentials

FIRST, SECOND = "192.0.2.1", "192.0.2.2"
HELLO = "EHLO mail.example.net"
IN_TLS = [HELLO, "STARTTLS", "(tls)", HELLO]
OPEN = "MAIL FROM:<a@example.net> | RCPT TO:<user@example.org>"
ONE = table("example.org MX 10 mx.example.org\nmx.example.org A 192.0.2.1")
UNUSABLE = table(ZONE + "\n_25._tcp.mx.example.org TLSA 3 1 1 00\n_25._tcp.backup.example.org TLSA 3 1 1 00")
AUTHORITY = issue("Root", ca=True)
BY_AUTHORITY = table(
    f"{ZONE}\n_25._tcp.mx.example.org TLSA 2 0 0 {AUTHORITY.der.hex()}"
    f"\n_25._tcp.backup.example.org TLSA 2 0 0 {AUTHORITY.der.hex()}"
)
ISSUED = issue("mx.example.org", by=AUTHORITY, dns=["mx.example.org", "backup.example.org"])
SHAKEN_BY_AUTHORITY = replace(SHAKEN, chain=(ISSUED.der,))
VERIFY: dict[str, Any] = {"tls": {"withoutDane": "Verify"}}

MANDATORY = [
    pytest.param(DANE, {}, id="dane"),
    pytest.param(PLAIN, VERIFY, id="verify"),
    pytest.param(PLAIN, {"tls": {"withoutDane": "Encrypt"}}, id="encrypt"),
    pytest.param(UNUSABLE, {}, id="unusable"),
    pytest.param(DANE, {"dane": {"skip": [{"match": "*", "reason": "x", "until": "2099-01-01"}]}}, id="skip"),
]


def levels(play: Playbook) -> str:
    return str(play.logged("delivery")[-1]["level"].value)


# Mandatory levels: nothing is believed before


@pytest.mark.parametrize(("dns", "policy"), MANDATORY)
@pytest.mark.parametrize(
    ("script", "reason", "told"),
    [
        ({"banner": "554 5.7.1 go away"}, "banner_refused", "4.7.5"),
        ({"banner": "421 4.3.2 busy"}, "banner_refused", "4.7.5"),
        ({"EHLO": "550 5.7.1 go away"}, "ehlo_refused", "4.7.5"),
        ({"EHLO": "500 5.5.1 what"}, "ehlo_refused", "4.7.5"),
        ({"EHLO": "250-mx|250 PIPELINING"}, "starttls_missing", "4.7.4"),
        ({"STARTTLS": "454 4.7.0 not now"}, "starttls_refused", "4.7.4"),
        ({"STARTTLS": "554 5.7.1 never"}, "starttls_refused", "4.7.4"),
        ({"banner": "silent"}, "reply_timeout", "4.4.2"),
        ({"EHLO": "lost"}, "connection_lost", "4.4.2"),
        ({"STARTTLS": "lost"}, "connection_lost", "4.4.2"),
    ],
)
def test_before_the_level_is_reached_nothing_is_believed(
    dns: Table, policy: dict[str, Any], script: dict[str, Any], reason: str, told: str
) -> None:
    play = Playbook(dns, {FIRST: Host(**script)}, configured=settings(**policy))
    assert play.rcpt() == "250 ok"
    assert (play.reasons, play.dialled) == ([reason], [FIRST, SECOND])
    play = Playbook(dns, {FIRST: Host(**script), SECOND: Host(**script)}, configured=settings(**policy))
    assert play.rcpt().startswith(f"451 {told} ")
    assert play.closed == [f"drop {FIRST}", f"drop {SECOND}"]
    assert not any(line.startswith("MAIL") for host in play.hosts.values() for line in host.said)


@pytest.mark.parametrize(("dns", "policy"), MANDATORY)
@pytest.mark.parametrize("reason", ["tls_failed", "tls_timeout", "starttls_injection", "connection_lost"])
def test_a_handshake_that_fails_is_never_followed_by_clear_text(
    dns: Table, policy: dict[str, Any], reason: str
) -> None:
    broken = Lost(reason, "alert")
    play = Playbook(dns, {FIRST: Host(TLS=broken), SECOND: Host(TLS=broken)}, configured=settings(**policy))
    assert play.rcpt().startswith("451 4.7.5 ")
    assert (play.reasons, play.dialled) == ([reason] * 2, [FIRST, SECOND])


@pytest.mark.parametrize(("dns", "policy"), MANDATORY)
def test_a_handshake_is_followed_by_ehlo_and_only_then_by_mail(dns: Table, policy: dict[str, Any]) -> None:
    play = Playbook(dns, configured=settings(**policy))
    assert play.rcpt() == "250 ok"
    assert play.said(FIRST) == [*IN_TLS, OPEN]


def test_once_the_level_is_reached_a_host_is_believed() -> None:
    hosts = {name: Host(EHLO=[FULL, "550 5.7.1 not you"]) for name in (FIRST, SECOND)}
    play = Playbook(DANE, hosts)
    assert play.rcpt() == "550 5.7.1 not you"


# DANE


def test_dane() -> None:
    play = Playbook(DANE)
    play.deliver()
    assert levels(play) == "dane"
    assert play.outcome["tlsa"] == f"3 0 0 {LEAF.der.hex()}"
    assert (play.outcome["tls_out_dane"], play.outcome["tls_out_tlsa_usage"], play.outcome["verified"]) == (
        "yes",
        8,
        "dane",
    )


def test_a_mismatch_is_a_host_that_cannot_be_used() -> None:
    play = Playbook(DANE, {FIRST: Host(TLS=STRANGER)})
    play.deliver()
    assert (play.reasons, play.dialled, levels(play)) == (["tlsa_mismatch"], [FIRST, SECOND], "dane")
    play = Playbook(DANE, {FIRST: Host(TLS=STRANGER), SECOND: Host(TLS=STRANGER)})
    assert play.rcpt().startswith("451 4.7.5 ")
    assert (play.outcome["outcome"], play.outcome["reason"]) == ("deferred", "tlsa_mismatch")


def test_half_dane_is_authenticated_and_not_called_dane() -> None:
    half = replace(DANE, insecure=frozenset({"example.org MX"}))
    play = Playbook(half)
    play.deliver()
    assert (levels(play), play.outcome["verified"], play.outcome["tls_out_dane"]) == ("encrypt", "half-dane", "no")
    play = Playbook(half, {FIRST: Host(TLS=STRANGER), SECOND: Host(TLS=STRANGER)})
    assert play.rcpt().startswith("451 4.7.5 ")


def test_unusable_records_mean_encryption_without_authentication() -> None:
    play = Playbook(UNUSABLE, {FIRST: Host(TLS=STRANGER)})
    play.deliver()
    assert (levels(play), play.outcome["verified"], play.outcome["tls_out_peerdn"]) == (
        "encrypt",
        "no",
        "CN=other.example",
    )


# Verify


def test_verify() -> None:
    named = replace(SHAKEN, chain=(issue("x", dns=["example.org"]).der,))
    play = Playbook(PLAIN, {FIRST: Host(TLS=named)}, configured=settings(**VERIFY))
    play.deliver()
    assert (levels(play), play.outcome["verified"]) == ("verify", "yes")


@pytest.mark.parametrize(
    ("handshake", "reason"),
    [
        (replace(SHAKEN, trust="self-signed certificate"), "certificate_untrusted"),
        (replace(SHAKEN, chain=()), "certificate_untrusted"),
        (STRANGER, "certificate_name"),
    ],
)
def test_verify_needs_an_authority_and_a_name(handshake: object, reason: str) -> None:
    hosts = {name: Host(TLS=handshake) for name in (FIRST, SECOND)}  # type: ignore[arg-type]
    play = Playbook(PLAIN, hosts, configured=settings(**VERIFY))
    assert play.rcpt().startswith("451 4.7.5 ")
    assert play.reasons == [reason] * 2


# May


def test_may_takes_any_certificate_or_none() -> None:
    play = Playbook(ONE, {FIRST: Host(TLS=replace(STRANGER, chain=()))})
    play.deliver()
    assert (levels(play), play.outcome["verified"], play.outcome["tls_out_peerdn"]) == ("may", "no", "")


def test_may_without_starttls_goes_on_in_clear() -> None:
    play = Playbook(ONE, {FIRST: Host(EHLO="250-mx|250 PIPELINING")})
    play.deliver()
    assert play.said(FIRST)[:2] == [HELLO, OPEN]
    assert (levels(play), play.dialled, "verified" in play.outcome) == ("clear", [FIRST], False)
    assert play.outcome["detail"] == "in clear: STARTTLS is not announced"


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (Host(STARTTLS="454 4.7.0 not now"), "starttls_refused"),
        (Host(STARTTLS="lost"), "connection_lost"),
        (Host(TLS=Lost("tls_failed", "no shared cipher")), "tls_failed"),
        (Host(TLS=Lost("starttls_injection")), "starttls_injection"),
        (Host(EHLO=[FULL, "lost", FULL]), "connection_lost"),
    ],
)
def test_may_falls_back_to_one_fresh_connection_in_clear_and_says_why(host: Host, reason: str) -> None:
    play = Playbook(ONE, {FIRST: host})
    play.deliver()
    assert (play.dialled, play.closed, levels(play)) == (
        [FIRST, FIRST],
        [f"drop {FIRST}", f"kept no more {FIRST}"],
        "clear",
    )
    assert play.reasons == [reason]
    assert play.outcome["detail"].startswith(f"in clear: {reason}")
    assert play.said(FIRST)[-4:] == [HELLO, OPEN, "DATA", "(message)"]


def test_the_next_message_tries_tls_again() -> None:
    play = Playbook(ONE, {FIRST: Host(STARTTLS=["454 4.7.0 not now", "220 go"])})
    play.deliver()
    assert len(play.pool) == 0
    play.new_leg()
    play.deliver()
    assert levels(play) == "may"


@pytest.mark.parametrize(("padding", "kept"), [(0, 1), (client.LIGHT - len(LEAF.der), 1), (client.LIGHT, 0)])
def test_a_connection_that_weighs_much_is_not_kept(padding: int, kept: int) -> None:
    play = Playbook(ONE, {FIRST: Host(TLS=replace(SHAKEN, chain=(LEAF.der,), staple=bytes(padding)))})
    play.deliver()
    assert len(play.pool) == kept


def test_of_keywords_only_those_that_matter_are_kept() -> None:
    play = Playbook(ONE, {FIRST: Host(EHLO=FULL.replace("|", f"|{'X' * 2000}|", 1))})
    play.deliver()
    (link,) = play.pool.clear()
    assert b"PIPELINING" in link.keywords
    assert client.KEYWORDS.issuperset(link.keywords)


def test_the_connection_in_clear_may_fail_too() -> None:
    play = Playbook(ONE, {FIRST: Host(TLS=Lost("tls_failed"), banner=["220 mx", "554 5.7.1 no"])})
    assert play.rcpt() == "554 5.7.1 no"
    assert (play.reasons, play.dialled) == (["tls_failed", "banner_refused"], [FIRST, FIRST])


def test_no_time_for_a_connection_in_clear() -> None:
    play = Playbook(ONE, {FIRST: Host(STARTTLS="silent", banner="silent")})
    play.hosts[FIRST].script["banner"] = ["220 mx"]
    play.hosts[FIRST].tls = Lost("tls_timeout")
    play.leg._budget.sessions = 1
    assert play.rcpt().startswith("451 4.4.2 ")
    assert play.dialled == [FIRST]


def test_a_refusal_inside_tls_is_no_reason_to_go_on_in_clear() -> None:
    play = Playbook(ONE, {FIRST: Host(EHLO=[FULL, "550 5.7.1 not you"])})
    assert play.rcpt() == "550 5.7.1 not you"
    assert play.dialled == [FIRST]


@pytest.mark.parametrize("script", [{"banner": "554 5.7.1 go away"}, {"EHLO": "550 5.7.1 go away"}])
def test_may_5xx_means_next_host_and_is_passed_on_only_if_all_say_so(script: dict[str, Any]) -> None:
    assert Playbook(PLAIN, {FIRST: Host(**script)}).rcpt() == "250 ok"
    refusing = {FIRST: Host(**script), SECOND: Host(**script)}
    assert Playbook(PLAIN, refusing).rcpt() == "550 5.7.1 go away".replace("550", next(iter(script.values()))[:3])
    mixed = Playbook(PLAIN, {FIRST: Host(banner="451 4.3.2 later"), SECOND: Host(**script)})
    assert mixed.rcpt() == "451 4.3.2 later"


def test_may_421_in_the_banner_becomes_451() -> None:
    assert Playbook(ONE, {FIRST: Host(banner="421 4.3.2 busy")}).rcpt() == "451 4.3.2 busy"


def test_a_banner_that_is_no_welcome_is_451_4_5_0() -> None:
    assert Playbook(ONE, {FIRST: Host(banner="250 ok")}).rcpt().startswith("451 4.5.0 ")


# HELO


def test_helo_where_nothing_more_is_needed() -> None:
    play = Playbook(ONE, {FIRST: Host(EHLO="502 5.5.1 what", HELO="250 hi")})
    play.deliver()
    assert play.said(FIRST)[:3] == [HELLO, "HELO mail.example.net", "MAIL FROM:<a@example.net>"]
    assert levels(play) == "clear"


@pytest.mark.parametrize(
    ("helo", "told"),
    [("550 5.7.1 no", "550 5.7.1 no"), ("lost", "451 4.4.2 the connection to mx.example.org was lost")],
)
def test_helo_may_be_refused_too(helo: str, told: str) -> None:
    assert Playbook(ONE, {FIRST: Host(EHLO="500 what", HELO=helo)}).rcpt() == told


def test_no_helo_in_tls() -> None:
    play = Playbook(ONE, {FIRST: Host(EHLO=[FULL, "500 5.5.1 what"])})
    assert play.rcpt() == "500 5.5.1 what"
    assert play.said(FIRST) == IN_TLS


def test_no_helo_for_a_message_that_needs_an_extension() -> None:
    play = Playbook(ONE, {FIRST: Host(EHLO="500 5.5.1 what")})
    play.new_leg(replace(play.leg.sender, eight_bit=True))
    assert play.rcpt() == "500 5.5.1 what"
    assert play.said(FIRST) == [HELLO]


# Routes: TLS on connect, and AUTH


def routed(port: int = 465, **host: Any) -> Playbook:
    routes = [{"domains": ["*"], "via": f"mx.example.org:{port}", "auth": {"secretName": "relay"}}]
    record = f"_{port}._tcp.mx.example.org TLSA 3 0 0 {LEAF.der.hex()}"
    configured = settings({"relay": Credentials("user", "secret")}, routes=routes)
    return Playbook(table(f"{ZONE}\n{record}"), {FIRST: Host(**host)}, configured=configured)


AUTH = "250-mx|AUTH LOGIN PLAIN|250 STARTTLS"
PLAIN_LINE = "AUTH PLAIN " + b64encode(b"\0user\0secret").decode()


def test_tls_on_connect_comes_before_the_banner() -> None:
    play = routed(EHLO=AUTH, AUTH="235 2.7.0 hello")
    play.deliver()
    assert play.said(FIRST)[:3] == ["(tls)", HELLO, PLAIN_LINE]
    assert levels(play) == "dane"


@pytest.mark.parametrize("host", [{"TLS": STRANGER}, {"TLS": Lost("tls_failed")}, {"banner": "lost"}])
def test_tls_on_connect_that_fails(host: dict[str, Any]) -> None:
    play = routed(**host)
    assert play.rcpt().startswith("451 4.")
    assert play.dialled == [FIRST]


def test_tls_on_connect_at_may_has_nothing_to_fall_back_to() -> None:
    routes = [{"domains": ["*"], "via": "mx.example.org:465"}]
    play = Playbook(PLAIN, {FIRST: Host(TLS=Lost("tls_failed"))}, configured=settings(routes=routes))
    assert play.rcpt().startswith("451 4.7.5 ")
    assert play.dialled == [FIRST]


def test_plain_is_preferred_and_login_will_do() -> None:
    play = routed(587, EHLO=AUTH, AUTH="235 2.7.0 hello")
    play.deliver()
    assert play.said(FIRST)[:5] == [*IN_TLS, PLAIN_LINE]
    play = routed(587, EHLO="250-mx|AUTH login|250 STARTTLS", AUTH="334 VXNlcg", dXNlcg="334 x")
    play.hosts[FIRST].script |= {"dXNlcg==": ["334 UGFzcw"], "c2VjcmV0": ["235 2.7.0 hello"]}
    play.deliver()
    assert play.said(FIRST)[4:7] == ["AUTH LOGIN", "dXNlcg==", "c2VjcmV0"]


def test_a_long_password_waits_to_be_asked_for() -> None:
    play = routed(587, EHLO=AUTH, AUTH="334 ")
    password = "x" * 400
    play.configured = replace(play.configured, credentials={"relay": Credentials("user", password)})
    response = b64encode(b"\0user\0" + password.encode()).decode()
    play.hosts[FIRST].script[response] = ["235 2.7.0 hello"]
    play.new_leg()
    play.deliver()
    assert play.said(FIRST)[4:6] == ["AUTH PLAIN", response]


@pytest.mark.parametrize(
    ("host", "reason", "told"),
    [
        ({"EHLO": AUTH, "AUTH": "535 5.7.8 secret is wrong"}, "auth_refused", "451 4.7.8 "),
        ({"EHLO": AUTH, "AUTH": "lost"}, "connection_lost", "451 4.7.8 "),
        ({"EHLO": "250-mx|AUTH CRAM-MD5|250 STARTTLS"}, "auth_missing", "451 4.7.8 "),
    ],
)
def test_auth_that_fails_bounces_nothing_and_tells_nothing(host: dict[str, Any], reason: str, told: str) -> None:
    play = routed(587, **host)
    assert play.rcpt().startswith(told)
    assert play.reasons == [reason]
    assert "secret" not in repr(play.records)
    assert b64encode(b"\0user\0secret").decode() not in repr(play.records)


def test_no_password_below_dane_and_verify() -> None:
    routes = [{"domains": ["*"], "via": "mx.example.org:587", "auth": {"secretName": "relay"}}]
    policies: tuple[dict[str, Any], ...] = ({}, {"tls": {"withoutDane": "Encrypt"}})
    for policy in policies:
        configured = settings({"relay": Credentials("user", "secret")}, routes=routes, **policy)
        play = Playbook(PLAIN, configured=configured)
        assert play.rcpt().startswith("451 4.7.5 ")
        assert (play.dialled, play.reasons) == ([], ["auth_level"])


def test_credentials_that_cannot_be_read() -> None:
    play = routed(587)
    play.configured = replace(play.configured, credentials={})
    play.new_leg()
    assert play.rcpt().startswith("451 4.3.5 ")
    assert (play.dialled, play.reasons) == ([], ["auth_credentials"])


def test_a_session_of_the_old_password_is_not_used_with_the_new_one() -> None:
    """A reload has read the Secret again."""
    play = routed(587, EHLO=AUTH, AUTH="235 2.7.0 hello")
    play.deliver()
    play.new_leg()
    play.deliver()
    assert play.dialled == [FIRST]
    play.configured = replace(play.configured, credentials={"relay": Credentials("user", "new")})
    play.new_leg()
    play.deliver()
    assert play.dialled == [FIRST, FIRST]


# OCSP


def stapled(policy: str, dns: Table = BY_AUTHORITY, **fields: object) -> Playbook:
    handshake = replace(SHAKEN_BY_AUTHORITY, **fields)  # type: ignore[arg-type]
    hosts = {name: Host(TLS=handshake) for name in (FIRST, SECOND)}
    return Playbook(dns, hosts, configured=settings(tls={"ocsp": policy}))


def test_a_staple_that_must_come() -> None:
    play = stapled("Require")
    assert play.rcpt().startswith("451 4.7.5 ")
    assert play.reasons == ["ocsp_absent"] * 2
    play = stapled("Require", staple=b"no staple")
    assert play.rcpt().startswith("451 4.7.5 ")
    assert play.reasons == ["ocsp_invalid"] * 2


def test_a_staple_that_does_not_come_is_logged_under_auto() -> None:
    play = stapled("Auto")
    play.deliver()
    assert (levels(play), play.outcome["detail"]) == ("dane", "OCSP staple absent")


def test_ocsp_off_and_below_verify_nothing_is_judged() -> None:
    play = stapled("Off")
    play.deliver()
    assert play.outcome["detail"] == ""
    play = stapled("Require", PLAIN)
    play.deliver()
    assert (levels(play), play.outcome["detail"]) == ("may", "")


def staple(status: ocsp.OCSPCertStatus) -> bytes:
    now = NOW.replace(tzinfo=None)
    revoked = now if status is ocsp.OCSPCertStatus.REVOKED else None
    key = AUTHORITY.key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    builder = ocsp.OCSPResponseBuilder().add_response(
        ISSUED.certificate, AUTHORITY.certificate, hashes.SHA256(), status, now, now + timedelta(days=1), revoked, None
    )
    responder = builder.responder_id(ocsp.OCSPResponderEncoding.NAME, AUTHORITY.certificate)
    return responder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("policy", ["Auto", "Require"])
def test_a_good_staple_by_an_authority_that_stands_only_in_dns(policy: str) -> None:
    play = stapled(policy, staple=staple(ocsp.OCSPCertStatus.GOOD))
    play.deliver()
    assert (levels(play), play.outcome["detail"]) == ("dane", "")


@pytest.mark.parametrize("policy", ["Auto", "Require"])
def test_a_certificate_that_was_revoked(policy: str) -> None:
    play = stapled(policy, staple=staple(ocsp.OCSPCertStatus.REVOKED))
    assert play.rcpt().startswith("451 4.7.5 ")
    assert play.reasons == ["ocsp_revoked"] * 2


# Time


def test_every_step_has_its_time() -> None:
    play = Playbook(ONE, {FIRST: Host(banner="silent")})
    play.rcpt()
    assert play.now - 1000 == 30
    play = Playbook(ONE, {FIRST: Host(EHLO="silent")})
    play.rcpt()
    assert play.now - 1000 == 30
    play = Playbook(DANE, {FIRST: Host(STARTTLS="silent")})
    play.rcpt()
    assert play.now - 1000 == 30
    secured = [command.seconds for command in play.commands if isinstance(command, Secure)]
    assert secured == [30]
