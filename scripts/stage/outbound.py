"""The outbound acts: where a message goes, and over what.

They need a ground that `relays`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from scripts.stage.act import Act, require
from scripts.stage.ground import ROLLED, SAFE, SCHOOL, STRIPPED

if TYPE_CHECKING:
    from scripts.stage.act import Stage

SMTP, LMTP = 11025, 11024
ANNA, BERT, CARL, DORA = f"anna@{SAFE}", f"bert@{SCHOOL}", f"carl@{ROLLED}", f"dora@{STRIPPED}"


def submitted(stage: Stage, port: int, *recipients: str, mark: str) -> str:
    heard = stage.ground.beyond.submit(port, *recipients)
    stage.show("a program", heard, mark=mark)
    return heard


def arrived(stage: Stage, recipient: str, heard: str, *, times: int = 1, keep: str = "") -> None:
    """The log lines of a delivery; what was heard must be what Postfix said, and `CV=dane` on Postern's line."""
    line = stage.logged(rf" => {re.escape(recipient)} ", times=times)
    stage.show("Postern", line, mark="CV=dane", keep=keep)
    sent = stage.ground.beyond.delivered(recipient, times=times)
    stage.show("Postfix", sent.string, mark="status=sent")
    stage.deliveries["delivered dane"] += 1
    require(" CV=dane " in line, "the log should say that the host was authenticated by DANE")
    require(f"queued as {sent[1]}" in heard, "the program should have heard the destination's own answer")


def delivered(stage: Stage) -> None:
    heard = submitted(stage, SMTP, ANNA, mark="queued as")
    tls = rf"postfix/{SAFE}/smtpd\[\d+\]: .* TLS connection established from \S+\[10\.0\.9\.12\]"
    stage.show("Postfix", stage.beyond_logged(tls), mark="TLS connection established")
    arrived(stage, ANNA, heard, keep="a message")


def each_answered(stage: Stage) -> None:
    heard = submitted(stage, LMTP, ANNA, BERT, mark="queued as")
    arrived(stage, ANNA, heard, times=2)
    arrived(stage, BERT, heard)
    final = [line for line in heard.splitlines() if line.startswith("the message")]
    require(len(final) == len(set(final)) == 2, "each recipient should have an answer of its own")


def mismatch(stage: Stage) -> None:
    heard = submitted(stage, SMTP, CARL, mark="451 4.7.5")
    stage.deliveries["deferred none"] += 1
    line = stage.logged(rf" == {re.escape(CARL)} ")
    stage.show("Postern", line, mark="R=tlsa_mismatch", keep="a mismatch")
    end = stage.beyond_logged(rf"postfix/{ROLLED}/smtpd\[\d+\]: disconnect from \S+\[10\.0\.9\.12\]")
    stage.show("Postfix", end, mark="commands=")
    verdict = stage.ground.check(ROLLED)
    stage.show("ask", f"postern-sidecar check --config policy.yaml {ROLLED}\n{verdict}", mark="tlsa_mismatch")
    require("tlsa_mismatch" in verdict, "check should say so too")
    require(heard.startswith(f"RCPT TO:<{CARL}>: 451 4.7.5 "), "the program should keep the message and come back")
    require(" R=tlsa_mismatch " in line, "the log should say why")
    require(" mail=" not in end and " starttls=1 " in end, "the host should not have heard of a message")


def mended(stage: Stage) -> None:
    stage.ground.beyond.publish(ROLLED)
    heard = submitted(stage, SMTP, CARL, mark="queued as")
    arrived(stage, CARL, heard)


def stripped(stage: Stage) -> None:
    heard = submitted(stage, SMTP, DORA, mark="451 4.7.4")
    stage.deliveries["deferred none"] += 1
    line = stage.logged(rf" == {re.escape(DORA)} ")
    stage.show("Postern", line, mark="R=starttls_missing", keep="no STARTTLS")
    log = stage.ground.beyond.stranger_log
    log.wait_for(r"^> \(the end\)$", timeout=stage.ground.patience)
    overheard = "\n".join(line for line in log.lines if line != "ready")
    stage.show("the stranger", overheard, mark="XXXXXXXX")
    require(heard.startswith(f"RCPT TO:<{DORA}>: 451 4.7.4 "), "the program should keep the message and come back")
    require("becomes 250-XXXXXXXX" in overheard, "the stranger should have taken STARTTLS out")
    require("> MAIL" not in overheard, "the stranger should not have heard who writes to whom")


def acts() -> list[Act]:
    return [
        Act(
            "A message goes over TLS that DNSSEC and TLSA records authenticate",
            f"A program in the pod hands it to 127.0.0.1:{SMTP} and hears the destination's own answer.",
            delivered,
        ),
        Act(
            "By LMTP several domains share a message, and each recipient has an answer of its own",
            f"The door for mail servers, 127.0.0.1:{LMTP}. {SCHOOL} vouches for its host by an authority of its own.",
            each_answered,
        ),
        Act(
            "A certificate that no TLSA record stands for gets no mail",
            f"{ROLLED} has a new key, and its zone still has the old one's record: it might be anybody.",
            mismatch,
        ),
        Act(
            "With the record put right, the next message goes through",
            f"{ROLLED} signs and serves its zone again; in the pod nobody lifts a finger.",
            mended,
        ),
        Act(
            "Mail that DANE protects never goes in clear, even if somebody takes STARTTLS away",
            f"A stranger on the way to {STRIPPED} writes STARTTLS over, in order to read along.",
            stripped,
        ),
    ]
