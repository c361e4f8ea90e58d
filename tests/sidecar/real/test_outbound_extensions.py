"""The relay beside real resolvers and TLS: SMTP's extensions towards the next hop, several recipients at both doors,
AUTH over a route, and the pool of connections (contracts on outbound).

One sidecar and one laboratory for all of it: each test has a destination of its own, whose name says what it is for.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from dane.case import DANE, ONE, Case, Server, tlsa
from dane.doors import DOORS, Client, Door
from lab.danelab import DaneLab
from lab.laboratory import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lab.destinations import Delivered, Visit
    from lab.servers.sidecar import Sidecar

pytestmark = pytest.mark.real

EE = tlsa("3 1 1 leaf")
SHARED = ("@ MX 10 mx.shared.secure.example.",)
EIGHT = b"Subject: eight bits\r\n\r\nGr\xfc\xdfe\r\n.\r\n"


def host(name: str, *more: str, servers: int = 1) -> Case:
    return Case(name=name, rfc="", records=(*ONE, *EE, *more), servers=(Server(),) * servers, expect=DANE)


def routed(name: str, *records: str) -> Case:
    records = ("relay A {a1}", *records)
    return Case(name=f"routed-{name}", rfc="", records=records, servers=(Server(host="relay"),), expect=DANE)


CASES = (
    *map(host, ("modern", "old", "small", "several", "refusing", "reused", "idle")),
    host("old-and-modern", "@ MX 20 mx2", "mx2 A {a2}", *tlsa("3 1 1 leaf@2", at="mx2"), servers=2),
    Case(name="shared", rfc="", records=(*ONE, *tlsa("2 0 1 root")), expect=DANE),
    *(Case(name=f"sharer-{letter}", rfc="", records=SHARED, servers=(), expect=DANE) for letter in "ab"),
    routed("safe", *tlsa("3 1 1 leaf", at="relay")),
    routed("refused", *tlsa("3 1 1 leaf", at="relay")),
    routed("unsafe"),
)
OTHERWISE: dict[str, dict[str, Any]] = {
    "old": {"keywords": ["PIPELINING"]},
    "old-and-modern": {"keywords": ["PIPELINING"]},
    "small": {"keywords": ["SIZE 1000"]},
    "several": {
        "replies": {
            f"RCPT {who}@several.secure.example": said
            for who, said in (("nobody", "550 5.1.1 nobody of that name"), ("busy", "450 4.2.1 later"))
        }
    },
    "refusing": {"replies": {"dot": "554 5.7.1 spam"}},
    "routed-safe": {"tls_keywords": ["AUTH LOGIN PLAIN"]},
    "routed-unsafe": {"tls_keywords": ["AUTH LOGIN PLAIN"]},
    "routed-refused": {"tls_keywords": ["AUTH PLAIN"], "replies": {"AUTH": "535 5.7.8 no"}},
}
"""What their first servers do."""

REUSE = 3
LOGIN = "relay-login"


@dataclasses.dataclass
class Ground:
    lab: DaneLab
    sidecar: Sidecar

    def at(self, name: str, user: str = "user") -> str:
        return f"{user}@{self.lab.setting.cases[name].domain}"

    def address(self, name: str, server: int = 1) -> str:
        return self.lab.setting.address(self.lab.setting.cases[name], server)

    def send(self, door: Door, *recipients: str, **how: Any) -> list[str]:
        """One transaction in a session of its own."""
        return self.send_all(door, [(recipients, how)])[0]

    def send_all(self, door: Door, transactions: Sequence[tuple[Sequence[str], dict[str, Any]]]) -> list[list[str]]:
        """One after the other, in one session."""

        async def send() -> list[list[str]]:
            client = await Client.open(self.lab.lab.pod, door)
            answers = [await client.send(door, recipients, **how) for recipients, how in transactions]
            await client.close()
            return answers

        return asyncio.run(send())

    def messages(self, name: str, server: int = 1) -> list[Delivered]:
        return self.lab.sink.messages(to=self.address(name, server))

    def visit(self, name: str) -> Visit:
        """The first session there that is over; that it is may be waited for."""
        self.lab.sink.log.wait_for(f'"event": "session", "where": "{self.address(name)} ')
        return self.lab.sink.visits(to=self.address(name))[0]

    def delivery(self, recipient: str) -> dict[str, Any]:
        """The log's line of it."""
        found = self.sidecar.log.wait_for(rf'"event":"delivery".*"recipient":"{re.escape(recipient)}"')
        line: dict[str, Any] = json.loads(found.string)
        return line


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with Lab() as lab:
        mine = DaneLab(lab, CASES)
        changed = {}
        for name, how in OTHERWISE.items():
            where = mine.setting.address(mine.setting.cases[name], 1), 25
            changed[where] = dataclasses.replace(mine.setting.table[where], **how)
        mine.sink.update(changed)
        secrets = lab.folder / "credentials"
        (secrets / LOGIN).mkdir(parents=True)
        (secrets / LOGIN / "username").write_text("postern\n")
        (secrets / LOGIN / "password").write_text("a secret\n")
        outbound = mine.outbound("default", "Servers")
        outbound["limits"] = {"reuse": REUSE, "idle": "2s"}
        outbound["routes"] = [
            {"domains": [case.domain], "via": f"relay.{case.domain}", "auth": {"secretName": LOGIN}}
            for case in CASES
            if case.name.startswith("routed")
        ]
        spec = {"outbound": outbound, "logging": {"format": "JSON"}}
        sidecar = lab.sidecar(spec, arguments=["--credentials", str(secrets)])
        sidecar.log.wait_for("self-test passed")
        yield Ground(mine, sidecar)


def mail(parameters: str) -> str:
    return f"MAIL FROM:<sender@client.test> {parameters}"


# Extensions


@pytest.mark.parametrize("door", DOORS)
def test_eight_bits_arrive_as_they_were_sent(ground: Ground, door: Door) -> None:
    recipient = ground.at("modern", f"eight-{door.lower()}")
    (answer,) = ground.send(door, recipient, mail=mail("BODY=8BITMIME"), message=EIGHT)
    assert answer.startswith("250")
    (message,) = ground.lab.sink.messages(recipient=recipient)
    assert message.mail.endswith("> BODY=8BITMIME")
    assert message.text.endswith("Subject: eight bits\r\n\r\nGr\\xfc\\xdfe\r\n")


@pytest.mark.parametrize("door", DOORS)
def test_an_internationalized_address(ground: Ground, door: Door) -> None:
    recipient = ground.at("modern", f"gr\u00fc\u00dfe-{door.lower()}")
    (answer,) = ground.send(door, recipient, mail=mail("SMTPUTF8"))
    assert answer.startswith("250")
    (message,) = ground.lab.sink.messages(recipient=recipient)
    assert message.mail.endswith("> SMTPUTF8")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("name", "parameters", "reply", "reason"),
    [
        ("old", "BODY=8BITMIME", "554 5.6.3", "8bitmime_missing"),
        ("old", "SMTPUTF8", "553 5.6.7", "smtputf8_missing"),
        ("old", "BODY=8BITMIME SMTPUTF8", "553 5.6.7", "smtputf8_missing"),
        ("small", "SIZE=1001", "552 5.3.4", "size_exceeded"),
    ],
)
def test_what_a_message_needs_and_no_host_has(
    ground: Ground, door: Door, name: str, parameters: str, reply: str, reason: str
) -> None:
    recipient = ground.at(name, f"{reason}-{door.lower()}")
    (answer,) = ground.send(door, recipient, mail=mail(parameters))
    assert answer.startswith(reply)
    assert ground.delivery(recipient)["reason"] == reason
    assert ground.lab.sink.messages(recipient=recipient) == []


@pytest.mark.parametrize("parameters", ["BODY=8BITMIME", "SMTPUTF8"])
def test_the_next_host_may_have_what_the_first_has_not(ground: Ground, parameters: str) -> None:
    (answer,) = ground.send("LMTP", ground.at("old-and-modern"), mail=mail(parameters))
    assert answer.startswith("250")
    assert ground.messages("old-and-modern", 2)[-1].mail.endswith(f"> {parameters}")
    assert ground.messages("old-and-modern", 1) == []


def test_a_message_may_be_as_large_as_a_host_says(ground: Ground) -> None:
    (answer,) = ground.send("SMTP", ground.at("small"), mail=mail("SIZE=1000"))
    assert answer.startswith("250")
    assert ground.messages("small")[-1].mail.endswith("> SIZE=1000")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", ["modern", "old"])
def test_dsn_is_handed_on_or_left_out_and_never_refused(ground: Ground, name: str, door: Door) -> None:
    recipient = ground.at(name, f"dsn-{door.lower()}")
    wanted = f" NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;{recipient}"
    (answer,) = ground.send(door, recipient, mail=mail("RET=HDRS ENVID=4711"), parameters=wanted)
    assert answer.startswith("250")
    (message,) = ground.lab.sink.messages(recipient=recipient)
    assert message.mail.endswith("> RET=HDRS ENVID=4711" if name == "modern" else "<sender@client.test>")
    assert ("DSN parameters dropped" in ground.delivery(recipient).get("detail", "")) == (name == "old")


# Several recipients


@pytest.mark.parametrize("door", DOORS)
def test_recipients_of_one_host_have_answers_of_their_own(ground: Ground, door: Door) -> None:
    users = ("first", "nobody", "busy", "second")
    answers = ground.send(door, *(ground.at("several", user) for user in users))
    assert [answer[:9] for answer in answers] == ["250 2.0.0", "550 5.1.1", "450 4.2.1", "250 2.0.0"]
    assert ground.messages("several")[-1].rcpt == [ground.at("several", "first"), ground.at("several", "second")]


def test_at_the_smtp_door_a_second_next_hop_has_to_wait(ground: Ground) -> None:
    recipients = [ground.at("modern", "one-hop"), ground.at("several", "other-hop"), ground.at("modern", "same-hop")]
    answers = ground.send("SMTP", *recipients)
    assert [answer[:9] for answer in answers] == ["250 2.0.0", "452 4.5.3", "250 2.0.0"]
    assert ground.lab.sink.messages(recipient=recipients[1]) == []
    (message,) = ground.lab.sink.messages(recipient=recipients[0])
    assert message.rcpt == [recipients[0], recipients[2]]


def test_at_the_lmtp_door_each_next_hop_answers_for_its_own(ground: Ground) -> None:
    names = ("modern", "refusing", "old", "several", "refusing", "small")
    recipients = [ground.at(name, f"mixed-{number}") for number, name in enumerate(names)]
    answers = ground.send("LMTP", *recipients, ground.at("several", "nobody"))
    codes = [answer[:9] for answer in answers]
    assert codes == ["250 2.0.0", "554 5.7.1", "250 2.0.0", "250 2.0.0", "554 5.7.1", "250 2.0.0", "550 5.1.1"]
    for name, recipient in zip(names, recipients, strict=True):
        (message,) = ground.lab.sink.messages(recipient=recipient)
        assert message.where == f"{ground.address(name)} 25"


# AUTH


def test_a_password_goes_to_an_authenticated_relay(ground: Ground) -> None:
    (answer,) = ground.send("SMTP", ground.at("routed-safe"))
    assert answer.startswith("250")
    commands = ground.visit("routed-safe").commands
    assert [line.split(" ")[0] for line in commands[:5]] == ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL"]
    assert base64.b64decode(commands[3].removeprefix("AUTH PLAIN ")) == b"\0postern\0a secret"


def test_a_password_goes_to_nobody_else(ground: Ground) -> None:
    """It would be encrypted there, to anybody."""
    (answer,) = ground.send("SMTP", ground.at("routed-unsafe"))
    assert answer.startswith("451 4.7.5")
    heard = [line for visit in ground.lab.sink.visits(to=ground.address("routed-unsafe")) for line in visit.commands]
    assert not [line for line in heard if line.startswith(("AUTH", "MAIL"))]


def test_a_relay_that_refuses_the_password_gets_no_mail(ground: Ground) -> None:
    (answer,) = ground.send("SMTP", ground.at("routed-refused"))
    assert answer.startswith("451 4.7.8")
    assert ground.delivery(ground.at("routed-refused"))["reason"] == "auth_refused"
    assert "MAIL" not in " ".join(ground.visit("routed-refused").commands)
    assert "secret" not in str(ground.sidecar.log)


# The pool


def test_a_connection_carries_as_many_messages_as_it_may(ground: Ground) -> None:
    transactions: list[tuple[list[str], dict[str, Any]]] = [([ground.at("reused")], {})] * (REUSE + 1)
    answers = ground.send_all("SMTP", transactions)
    assert [answer[:3] for (answer,) in answers] == ["250"] * (REUSE + 1)
    sessions = [message.session for message in ground.messages("reused")]
    assert sessions == [sessions[0]] * REUSE + [sessions[-1]]
    assert sessions[0] != sessions[-1]
    verbs = [line.split(" ")[0] for line in ground.visit("reused").commands]
    assert verbs == ["EHLO", "STARTTLS", "EHLO", "MAIL", "RCPT", "DATA", *["RSET", "MAIL", "RCPT", "DATA"] * 2, "QUIT"]


def test_both_doors_share_it(ground: Ground) -> None:
    for door in DOORS:
        ground.send(door, ground.at("idle"))
    assert len({message.session for message in ground.messages("idle")}) == 1
    assert ground.visit("idle").end == "QUIT"  # after its idle time


def test_domains_with_names_of_their_own_share_none(ground: Ground) -> None:
    """RFC 7672 3.2.2: the domain is a name that the certificate may have, so what was authenticated for one is not for
    another."""
    for name in ("sharer-a", "sharer-b", "sharer-a", "sharer-b"):
        (answer,) = ground.send("SMTP", ground.at(name))
        assert answer.startswith("250")
    sessions = [message.session for message in ground.messages("shared")]
    assert sessions[0] == sessions[2] != sessions[1] == sessions[3]
