"""docs/submission.md, word for word: each mail server and program with its snippet hands its mail to a sidecar with the
page's policy, on an internet of the laboratory's own, and it arrives by DANE.

What is asserted is what the destination logged, and that the submitter heard just that.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from lab.servers.postfix import service
from lab.signed import Domain, SignedDomains
from lab.snippets import README, SUBMISSION, all_snippets, snippet

if TYPE_CHECKING:
    from lab.laboratory import Lab
    from lab.servers.sidecar import Sidecar

pytestmark = pytest.mark.real

DOMAINS = (
    Domain("example.org", "198.51.100.25"),
    Domain("example.com", "198.51.100.26", usage=2),
    Domain("one.example", "198.51.100.27"),
    Domain("two.example", "198.51.100.28", usage=2),
)
SOMEONE, OTHER = "someone@example.org", "other@example.com"  # whom the programs write to
ANNA, BERT = "anna@one.example", "bert@two.example"
POLICY = {"outbound-policy"}
POSTFIX = {"postfix-lmtp-door": "127.0.0.1:11024", "postfix-smtp-door": "127.0.0.1:11025"}
EXIM = {"exim-lmtp-router", "exim-lmtp-transport"}
PROGRAMS = {"python-smtp-door": (SOMEONE,), "python-lmtp-door": (SOMEONE, OTHER), "python-readme": (SOMEONE,)}

RELAYING = "mynetworks = 127.0.0.0/8\n"
LISTENING = "local_interfaces = 127.0.0.1\ndaemon_smtp_ports = 2525\n"


class Relay:
    """The sidecar with the policy of the page, and what it delivers to."""

    def __init__(self, lab: Lab) -> None:
        self.destinations = SignedDomains(lab, DOMAINS)
        self.sidecar: Sidecar = lab.sidecar(text=snippet("outbound-policy"), internet=self.destinations.world)
        self.sidecar.log.wait_for(" dns .*self-test passed")

    def took(self, recipient: str) -> str:
        """The destination's queue ID of a message that arrived, which it got by DANE."""
        queue_id = self.destinations.delivered(recipient)[1]
        line = rf" => {re.escape(recipient)} .* CV=dane .* C=\"250 2\.0\.0 Ok: queued as {queue_id}\""
        self.sidecar.log.wait_for(line)
        return queue_id


@pytest.fixture
def relay(lab: Lab) -> Relay:
    return Relay(lab)


def submit(lab: Lab, *recipients: str) -> None:
    """A client's message to the mail server in the pod."""
    with lab.pod.talk(("127.0.0.1", 2525)) as client:
        client.expect(220)
        client.command("EHLO client.test", 250)
        client.command("MAIL FROM:<sender@example.net>", 250)
        for recipient in recipients:
            client.command(f"RCPT TO:<{recipient}>", 250)
        client.command("DATA", 354)
        client.command("Subject: a test\r\n\r\nHello.\r\n.", 250)
        client.command("QUIT", 221)


@pytest.mark.parametrize("door", POSTFIX)
def test_postfix_hands_its_mail_over(lab: Lab, relay: Relay, door: str) -> None:
    """One message for two domains: none is put off, by either door."""
    postfix = lab.postfix(master=service(2525), main=RELAYING + snippet(door))
    submit(lab, ANNA, BERT)
    address, _, port = POSTFIX[door].partition(":")
    for recipient in (ANNA, BERT):
        heard = rf"250 2\.0\.0 Ok: queued as {relay.took(recipient)}"
        relayed = rf"relay={re.escape(address)}\[{re.escape(address)}\]:{port}, .* status=sent \({heard}\)"
        postfix.log.wait_for(rf" to=<{recipient}>, {relayed}")
    assert not postfix.log.matches("status=deferred|warning|error:")


def test_what_postfix_hears_of_a_mismatch_it_keeps(lab: Lab, relay: Relay) -> None:
    relay.destinations.publish("two.example", f"3 1 1 {'ab' * 32}")
    postfix = lab.postfix(master=service(2525), main=RELAYING + snippet("postfix-lmtp-door"))
    submit(lab, ANNA, BERT)
    relay.took(ANNA)
    postfix.log.wait_for(rf" to=<{BERT}>, .* dsn=4\.7\.5, status=deferred \(host 127\.0\.0\.1\S* said: 451 4\.7\.5 ")
    assert not relay.destinations.postfix.log.matches(rf"to=<{BERT}>")


def test_exim_hands_its_mail_over(lab: Lab, relay: Relay) -> None:
    router, transport = snippet("exim-lmtp-router"), snippet("exim-lmtp-transport")
    exim = lab.exim(main=LISTENING, routers=router, transports=transport)
    submit(lab, ANNA, BERT)
    for recipient in (ANNA, BERT):
        relayed = r"R=postern T=postern_lmtp H=127\.0\.0\.1 \[127\.0\.0\.1\]"
        exim.log.wait_for(rf" [=-]> {recipient} {relayed}.* C=\"250 2\.0\.0 Ok: queued as {relay.took(recipient)}\"")
    assert not exim.log.matches(" == | \\*\\* ")


def test_exim_keeps_its_own_mail(lab: Lab, relay: Relay) -> None:
    """The router is for what is not local."""
    exim = lab.exim(main=LISTENING, routers=snippet("exim-lmtp-router"), transports=snippet("exim-lmtp-transport"))
    submit(lab, "box@example.org")
    exim.received()
    assert not relay.sidecar.log.matches(" => ")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_hands_its_mail_over(lab: Lab, relay: Relay, program: str) -> None:
    running = lab.python(snippet(program))
    assert running.wait() == 0, str(running.log)
    ids = {recipient: relay.took(recipient) for recipient in PROGRAMS[program]}
    if program == "python-lmtp-door":
        assert running.log.lines == [f"{each} 250 b'2.0.0 Ok: queued as {ids[each]}'" for each in PROGRAMS[program]]
    elif program == "python-smtp-door":
        assert running.log.lines == ["refused: {}"]
    else:
        assert running.log.lines == []


def test_every_snippet_of_the_page_is_run_here() -> None:
    assert set(all_snippets(SUBMISSION, README)) == POLICY | POSTFIX.keys() | EXIM | PROGRAMS.keys()
