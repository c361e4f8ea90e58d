"""Cases of the delivery: STARTTLS and its failures, levels, OCSP, and whose replies are believed (RFC 7672 2, 5321 4.2,
RFC 3207, contracts on outbound)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .case import DANE, MISMATCH, ONE, Case, Expect, Server, bounced, deferred, delivered, tlsa

if TYPE_CHECKING:
    from collections.abc import Mapping

EE = tlsa("3 1 1 leaf")
TA = tlsa("2 0 1 root")
TWO = (*ONE, "@ MX 20 mx2", "mx2 A {a2}", *EE, *tlsa("3 1 1 leaf@2", at="mx2"))
NO_TLS = deferred(r"451 4\.7\.4")
MANDATORY = "RFC 7672 2.2: with usable TLSA records TLS is mandatory, and clear text never an answer"
UNTRUSTED = "RFC 7672 1.1: what a host says before it is authenticated may be anybody's; it is a failure of that host"
BELIEVED = "RFC 5321 4.2.1: the reply of an authenticated host is passed on"
CLEAR = delivered("clear")


def _dane(name: str, rfc: str, expect: Expect, **server: Any) -> Case:
    return Case(name=name, rfc=rfc, records=(*ONE, *EE), servers=(Server(**server),), expect=expect)


def _next(name: str, rfc: str, **server: Any) -> Case:
    """The first of two hosts fails; the second takes the message."""
    expect = delivered("dane", at=2)
    return Case(name=f"{name}-next-host", rfc=rfc, records=TWO, servers=(Server(**server), Server()), expect=expect)


def _may(name: str, rfc: str, expect: Expect, **server: Any) -> Case:
    return Case(name=f"may-{name}", rfc=rfc, records=ONE, servers=(Server(**server),), expect=expect)


def _reply(name: str, replies: Mapping[str, Any], expect: Expect, rfc: str = BELIEVED) -> Case:
    return _dane(f"reply-{name}", rfc, expect, replies=replies)


STARTTLS = (
    _dane("starttls-missing", MANDATORY, NO_TLS, starttls=False),
    _dane("starttls-none", MANDATORY, NO_TLS, shape=""),
    _dane("starttls-454", MANDATORY, NO_TLS, replies={"STARTTLS": "454 4.7.0 not now"}),
    _dane("starttls-554", f"{MANDATORY}; a 5xx is not believed", NO_TLS, replies={"STARTTLS": "554 5.7.0 never"}),
    _dane(
        "starttls-injection",
        "RFC 3207 4.2: what comes in clear after the 220 is not to be taken for the server's",
        deferred(r"451 4\.7\.5"),
        replies={"STARTTLS": "220 go\n!raw 250-inject.example\r\n250 SIZE\r\n"},
    ),
    _dane("handshake-closed", MANDATORY, MISMATCH, handshake="!close"),
    _dane("handshake-reset", MANDATORY, MISMATCH, handshake="!reset"),
    _dane("handshake-garbage", MANDATORY, MISMATCH, handshake="!raw this is no TLS record at all\r\n"),
    _dane("handshake-old-version", "RFC 8996: TLS 1.1 and older are not to be used", MISMATCH, max="1.1"),
    _dane("tls-1-2", "RFC 7672 8.1: TLS 1.2 will do", DANE, max="1.2"),
    _next("starttls-missing", "RFC 7672 2.2: a host without STARTTLS fails, the next may be better", starttls=False),
    _next("starttls-554", UNTRUSTED, replies={"STARTTLS": "554 5.7.0 never"}),
    _next("handshake-closed", "RFC 7672 2.2: a handshake that fails leads to the next host", handshake="!close"),
)

BEFORE_THE_LEVEL = (
    _dane("banner-554", UNTRUSTED, deferred(), replies={"banner": "554 5.3.2 no mail here"}),
    _dane("banner-421", UNTRUSTED, deferred(r"451 4\."), replies={"banner": "421 4.3.2 busy\n!close"}),
    _dane("banner-closed", UNTRUSTED, deferred(r"451 4\."), replies={"banner": "!close"}),
    _dane("ehlo-550", UNTRUSTED, deferred(), replies={"EHLO": "550 5.7.1 go away", "HELO": "550 5.7.1 go away"}),
    _next("banner-554", UNTRUSTED, replies={"banner": "554 5.3.2 no mail here"}),
    _next("ehlo-421", UNTRUSTED, replies={"EHLO": "421 4.3.2 busy\n!close"}),
    _next("refused", "RFC 5321 5.1: a host that does not answer leads to the next", listening=False),
    _dane("refused", "RFC 5321 4.5.4.1: a host that does not answer: later", deferred(r"451 4\.4\.1"), listening=False),
)

REPLIES = (
    _reply("mail-550", {"MAIL": "550 5.7.1 not from you"}, bounced(r"550 5\.7\.1", check="delivered")),
    _reply("mail-451", {"MAIL": "451 4.7.1 later"}, deferred(r"451 4\.7\.1", check="delivered")),
    _reply("rcpt-550", {"RCPT": "550 5.1.1 nobody"}, bounced(r"550 5\.1\.1", check="delivered")),
    _reply("rcpt-450", {"RCPT": "450 4.2.1 greylisted"}, deferred(r"450 4\.2\.1", check="delivered")),
    _reply("rcpt-421", {"RCPT": "421 4.3.2 closing"}, deferred(r"451 4\.3\.2", check="delivered")),
    _reply("data-554", {"DATA": "554 5.6.0 no"}, bounced(r"554 5\.6\.0", check="delivered")),
    _reply("data-250", {"DATA": "250 2.0.0 what"}, deferred(r"451 4\.5\.0", check="delivered")),
    _reply("dot-550", {"dot": "550 5.7.1 spam"}, bounced(r"550 5\.7\.1", check="delivered")),
    _reply("dot-452", {"dot": "452 4.2.2 full"}, deferred(r"452 4\.2\.2", check="delivered")),
    _reply("dot-421", {"dot": "421 4.3.2 closing"}, deferred(r"451 4\.3\.2", check="delivered")),
    _reply("dot-354", {"dot": "354 more"}, deferred(r"451 4\.5\.0", check="delivered")),
    _reply(
        "dot-lost",
        {"dot": "!close"},
        deferred(r"4\d\d 4\.", check="delivered"),
        "RFC 5321 4.5.4.1: a connection lost after the final dot leaves the outcome unknown: again",
    ),
    _reply(
        "dot-two-lines",
        {"dot": "250-2.0.0 thanks\n250 2.0.0 taken as 4711"},
        DANE,
        "RFC 5321 4.2.1: a reply may have several lines",
    ),
    Case(
        name="rcpt-450-next-host",
        rfc="RFC 5321 5.1: a 4xx to the only RCPT leads to the next host",
        records=TWO,
        servers=(Server(replies={"RCPT": "450 4.2.1 greylisted"}), Server()),
        expect=delivered("dane", at=2),
    ),
    Case(
        name="rcpt-550-no-next-host",
        rfc="RFC 5321 5.1: a 5xx of an authenticated host is final",
        records=TWO,
        servers=(Server(replies={"RCPT": "550 5.1.1 nobody"}), Server()),
        expect=bounced(r"550 5\.1\.1", untouched=(2,), check="delivered"),
    ),
    Case(
        name="message-cut",
        rfc="RFC 5321 4.5.4.1: a connection lost in the message: the message was not taken",
        records=(*ONE, *EE),
        servers=(Server(close_after=1),),
        expect=deferred(r"451 4\.", check="delivered"),
    ),
)

OPPORTUNISTIC = (
    _may("starttls", "RFC 7435 3: what can be encrypted is", delivered("may")),
    _may("wreck", "RFC 7435 3: without authentication", delivered("may"), shape="self-signed-wreck"),
    _may("starttls-454", "RFC 7435 3: else in clear", CLEAR, replies={"STARTTLS": "454 4.7.0 not now"}),
    _may("handshake-closed", "RFC 7435 3: else in clear, on a fresh connection", CLEAR, handshake="!close"),
    _may("no-tls", "RFC 7435 3: else in clear", CLEAR, shape=""),
    _may(
        "banner-554",
        "RFC 5321 3.1: a 554 banner, where every host has one, is the answer",
        bounced(r"554 5\.3\.2"),
        replies={"banner": "554 5.3.2 no mail here"},
    ),
    _may(
        "banner-421",
        "RFC 5321 3.8: 421 is temporary",
        deferred(r"451 4\.3\.2"),
        replies={"banner": "421 4.3.2 busy\n!close"},
    ),
    Case(
        name="may-banner-554-next-host",
        rfc="RFC 5321 5.1: another host may be of another mind",
        records=(*ONE, "@ MX 20 mx2", "mx2 A {a2}"),
        servers=(Server(replies={"banner": "554 5.3.2 no mail here"}), Server()),
        expect=delivered("may", at=2),
    ),
)


def _policy(name: str, rfc: str, expect: Expect, *records: str, shape: str = "chain", **more: Any) -> Case:
    return Case(name=name, rfc=rfc, records=(*ONE, *records), servers=(Server(shape=shape),), expect=expect, **more)


POLICY = (
    _policy("require", "RFC 7672 2.2: mandatory DANE, satisfied", DANE, *EE, require=True),
    _policy("require-ta", "RFC 7672 2.2: mandatory DANE, satisfied", DANE, *TA, require=True),
    _policy("require-none", "RFC 7672 2.2: mandatory DANE without TLSA records: delay", deferred(), require=True),
    _policy("require-mismatch", "RFC 7672 2.2: mandatory DANE", MISMATCH, *tlsa("3 1 1 wrong"), require=True),
    _policy(
        "require-insecure",
        "RFC 7672 2.2: mandatory DANE for an unsigned domain: delay",
        deferred(),
        *EE,
        zone="insecure.example",
        require=True,
    ),
    _policy(
        "skip-encrypt",
        "RFC 7672 1.3.4: local policy may except a host",
        delivered("encrypt"),
        *tlsa("3 1 1 wrong"),
        skip="Encrypt",
    ),
    _policy(
        "skip-encrypt-without-tls",
        "RFC 7672 1.3.4: the exception is encrypted all the same",
        NO_TLS,
        *EE,
        shape="",
        skip="Encrypt",
    ),
    _policy(
        "skip-opportunistic",
        "RFC 7672 1.3.4: local policy may except a host",
        delivered("may"),
        *tlsa("3 1 1 wrong"),
        skip="Opportunistic",
    ),
    _policy(
        "require-before-skip",
        "RFC 7672 2.2: of equally specific ones require counts",
        MISMATCH,
        *tlsa("3 1 1 wrong"),
        require=True,
        skip="Opportunistic",
    ),
    _policy("no-try", "RFC 7672 1.3.4: DANE not tried", delivered("may"), *tlsa("3 1 1 wrong"), policy="no-try"),
    _policy("encrypt", "RFC 7435 3: a floor above opportunistic", delivered("encrypt"), policy="encrypt"),
    _policy("encrypt-without-tls", "RFC 7435 3: a floor above opportunistic", NO_TLS, shape="", policy="encrypt"),
    _policy("encrypt-dane", "RFC 7672 2.2: DANE is above that floor", DANE, *EE, policy="encrypt"),
    _policy("verify", "RFC 6125 6: the host's name, by a trusted authority", delivered("verify"), policy="verify"),
    _policy("verify-wrong-name", "RFC 6125 6: another name", deferred(), shape="wrong-name", policy="verify"),
    _policy("verify-expired", "RFC 5280 6.1.3: out of date", deferred(), shape="expired", policy="verify"),
    _policy("verify-self-signed", "RFC 5280 6.1: nobody trusted", deferred(), shape="self-signed", policy="verify"),
    _policy("verify-without-tls", "RFC 7435 3: a floor", NO_TLS, shape="", policy="verify"),
    _policy(
        "verify-dane-ee",
        "RFC 7672 2.2: DANE takes the place of web PKI",
        DANE,
        *EE,
        shape="self-signed",
        policy="verify",
    ),
    _policy(
        "verify-dane-mismatch",
        "RFC 7672 2.2: a good web certificate does not make a mismatch good",
        MISMATCH,
        *tlsa("3 1 1 wrong"),
        policy="verify",
    ),
)

REVOKED = "RFC 6960 2.2: revoked is revoked, asked for or not required"

OCSP = (
    _policy("ocsp-good", "RFC 6066 8: a staple is asked for with DANE-TA", DANE, *TA, shape="staple-good"),
    _policy("ocsp-revoked", REVOKED, deferred(), *TA, shape="staple-revoked"),
    _policy("ocsp-absent", "RFC 7672 4: servers need not staple", DANE, *TA),
    _policy("ocsp-stale", "RFC 6960 3.2: a stale staple is as none", DANE, *TA, shape="staple-stale"),
    _policy("ocsp-unknown", "RFC 6960 2.2: unknown is not revoked", DANE, *TA, shape="staple-unknown"),
    _policy("ocsp-ee", "RFC 7672 4: with DANE-EE nothing is asked", DANE, *EE, shape="staple-revoked"),
    _policy(
        "ocsp-ee-beside-ta", "Exim, tls_out_tlsa_usage 12: nothing is asked", DANE, *EE, *TA, shape="staple-revoked"
    ),
    _policy("ocsp-off-revoked", "RFC 6066 8: not asked for", DANE, *TA, shape="staple-revoked", policy="ocsp-off"),
    _policy("ocsp-require-good", "RFC 6960 3.2", DANE, *TA, shape="staple-good", policy="ocsp-require"),
    _policy("ocsp-require-absent", "RFC 6960 3.2: none came", deferred(), *TA, policy="ocsp-require"),
    *(
        _policy(
            f"ocsp-require-{how}",
            "RFC 6960 3.2: what makes a response acceptable",
            deferred(),
            *TA,
            shape=f"staple-{how}",
            policy="ocsp-require",
        )
        for how in ("revoked", "stale", "unknown", "forged", "garbage")
    ),
    _policy("ocsp-require-ee", "RFC 7672 4: not where nothing is asked", DANE, *EE, policy="ocsp-require"),
    _policy(
        "ocsp-require-may",
        "RFC 7435 3: judged only where the peer is authenticated",
        delivered("may"),
        policy="ocsp-require",
    ),
)

CASES = (*STARTTLS, *BEFORE_THE_LEVEL, *REPLIES, *OPPORTUNISTIC, *POLICY, *OCSP)
