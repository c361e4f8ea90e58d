"""The inbound acts: who connects, behind a load balancer.

An act refuses to know on which ground it plays.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from scripts.stage.act import Act, looks, require
from scripts.stage.ground import (
    BUSY,
    CLIENT,
    HASTY,
    NEIGHBOUR,
    RULE,
    UNWANTED,
    UNWANTED_NETWORK,
    Ground,
)

if TYPE_CHECKING:
    from scripts.stage.act import Stage

    from lab.conversation import Conversation

SESSION = re.compile(r"^\S+ \S+ c[0-9a-f]{4,} ")
PROBES_UP = re.compile(r'postern_inbound_probes_total\{.*result="up".* [1-9]')
ALLOWED = 3  # connections, as the policy has it


def deliver(client: Conversation, subject: str) -> str:
    """The server's reply to the message."""
    with client:
        return client.deliver(subject=subject).text


def without_postern(stage: Stage) -> None:
    ground = stage.ground
    reply = deliver(ground.through(CLIENT, past_postern=True), "without Postern")
    line = stage.server_logged(ground.server_names(ground.balancer_address))
    stage.show(ground.server, line, mark=ground.balancer_address)
    received = ground.received(reply)
    stage.show("Received:", received, mark=ground.balancer_address)
    require(CLIENT not in received, "without Postern the client's address should have been lost")


def with_postern(stage: Stage) -> None:
    ground = stage.ground
    reply = deliver(ground.through(CLIENT), "with Postern")
    stage.outcomes["handed_over"] += 1
    connect = stage.logged(rf" connect H=\[{CLIENT}\]")
    stage.show("Postern", connect, mark=f"PRX={ground.balancer_address}", keep="the session")
    stage.show("Postern", stage.logged(rf" closed H=\[{CLIENT}\]"))
    line = stage.server_logged(ground.server_names(CLIENT))
    stage.show(ground.server, line, mark=CLIENT, keep=ground.server)
    received = ground.received(reply)
    stage.show("Received:", received, mark=CLIENT, keep="Received:")
    require(f"PRX={ground.balancer_address} " in connect, "the session's line should name the load balancer")
    require(f"[{CLIENT}]" in received, "the Received header should name the client")


def probes(stage: Stage) -> None:
    ground = stage.ground
    stage.show(ground.balancer.removeprefix("the "), ground.checked(), mark="Health check")
    for text in looks(stage):
        line = next((line for line in text.splitlines() if PROBES_UP.match(line)), "")
        if line:
            break
    stage.show("/metrics", line, mark="probes")
    sessions = len({line.split()[2] for line in ground.sidecar_log.lines if SESSION.search(line)})
    stage.show("Postern", "(nothing: its log has the session above, and no line of a check)")
    require(line != "", "the sidecar should have counted the check that it answered")
    require(
        sessions == stage.outcomes.total(), f"checks should not be in the log as sessions, of which it has {sessions}"
    )


def forged(stage: Stage) -> None:
    header = f"PROXY TCP4 {CLIENT} 198.51.100.25 40211 25"
    heard = refuse(stage, stage.ground.forger, header + "\r\n")
    line = stage.logged(" R=header_from_untrusted_source ")
    stage.show("Postern", line, mark="R=header_from_untrusted_source", keep="a forged header")
    # On a busy machine the banner may be faster than the header: then it is a session, and it ends all the same.
    banner_first = heard.startswith("220 ")
    stage.outcomes["handed_over" if banner_first else "deferred"] += 1
    require("421 4.3.2 " in heard, "a forged header should be deferred")
    event = "closed" if banner_first else "refused"
    require(f" {event} H=[{stage.ground.forger}]" in line, "the log should name who forged it")


def spoofed(stage: Stage) -> None:
    heard = refuse(stage, stage.ground.insider, "PROXY TCP4 127.0.0.1 198.51.100.25 40211 25\r\n")
    stage.outcomes["proxy_failed"] += 1
    line = stage.logged(" R=source_not_allowed ")
    stage.show("Postern", line, mark="R=source_not_allowed", keep="a spoofed client")
    require(heard.startswith("421 4.3.2 "), "a client who claims to be loopback should be deferred")
    require("nobody may claim 127.0.0.1" in line, "the log should say why")


def garbled(stage: Stage) -> None:
    heard = refuse(stage, stage.ground.insider, "EHLO misconfigured.example\r\n")
    stage.outcomes["proxy_failed"] += 1
    line = stage.logged(" R=not_a_header ")
    stage.show("Postern", line, mark="R=not_a_header", keep="no header at all")
    require(heard.startswith("421 4.3.2 "), "a connection without a header should be deferred")


def early(stage: Stage) -> None:
    heard = refuse(stage, stage.ground.insider, f"PROXY TCP4 {HASTY} 198.51.100.25 40211 25\r\nEHLO bot.example\r\n")
    stage.outcomes["refused"] += 1
    line = stage.logged(rf" refused H=\[{HASTY}\]")
    stage.show("Postern", line, mark="R=early_talker")
    require(heard == "554 5.5.0 SMTP synchronization error", "an early talker should be refused")
    require("R=early_talker" in line, "the log should say why")


def refuse(stage: Stage, source: str, words: str) -> str:
    """Says `words` straight to the sidecar; what comes back until it closes, or up to a 554, line by line."""
    stage.show("they say", words.rstrip("\r\n").replace("\r\n", "\n"))
    with stage.ground.straight(source) as client:
        client.send(words)
        heard = [client.line()]
        if heard[0].startswith("220"):
            heard.append(client.line())
        if heard[0].startswith("554"):  # this session goes on; after 421 the sidecar has closed
            client.send("QUIT\r\n")
        client.rest()
    stage.show("they hear", "\n".join(heard))
    return "\n".join(heard)


def limited(stage: Stage) -> None:
    heard = [greeted(stage.ground.through(BUSY)) for _ in range(ALLOWED + 1)]
    stage.outcomes["handed_over"] += ALLOWED
    stage.outcomes["limited"] += 1
    for line in heard[:-1]:
        stage.show(BUSY, line)
    stage.show(BUSY, heard[-1], mark="421 4.7.0", keep="a limited client")
    line = stage.logged(rf" refused H=\[{BUSY}\]")
    stage.show("Postern", line, mark="R=rate_per_client", keep=" ")
    neighbour = greeted(stage.ground.through(NEIGHBOUR))
    stage.outcomes["handed_over"] += 1
    stage.show(NEIGHBOUR, neighbour)
    require(all(line.startswith("220 ") for line in heard[:-1]), f"{ALLOWED} connections should be allowed")
    require(heard[-1].startswith("421 4.7.0 "), "one more should be told to come back later")
    require(BUSY in heard[-1], "the text should name the client that is counted")
    require(" R=rate_per_client " in line, "the log should say why")
    require(neighbour.startswith("220 "), "another client behind the same load balancer should be served")


def greeted(client: Conversation) -> str:
    """The first line; where the session goes on, it is ended politely."""
    with client:
        line = client.line()
        if line.startswith(("220", "554")):  # after 421 the sidecar has closed
            client.command("QUIT", 221)
        return line


def reloaded(stage: Stage) -> None:
    ground = stage.ground
    session = ground.through(UNWANTED)
    stage.outcomes["handed_over"] += 1
    stage.show("Postern", stage.logged(rf" connect H=\[{UNWANTED}\]"))
    stage.page.evidence("policy", RULE)
    ground.write_policy(ground.policy + RULE)
    stage.show("Postern", stage.logged(" config hash=", times=2))
    heard = greeted(ground.through(UNWANTED))
    stage.outcomes["refused"] += 1
    stage.show(UNWANTED, heard, mark="554 5.7.1")
    stage.show("Postern", stage.logged(rf" refused H=\[{UNWANTED}\]"), mark='detail="rule unwanted"')
    received = ground.received(deliver(session, "begun before the rule"))
    stage.show("Received:", received.splitlines()[0], mark=UNWANTED)
    require(heard == f"554 5.7.1 No mail from {UNWANTED}, please write to postmaster", "the rule should refuse")
    require(UNWANTED in received, "the session that ran before the rule should end well")


def garbage(stage: Stage) -> None:
    ground = stage.ground
    ground.write_policy(ground.policy.replace("ratePerClient", "ratePerCleint"))
    line = stage.logged(" config_refused ")
    stage.show("Postern", line, mark="did you mean ratePerClient?")
    heard = greeted(ground.through(UNWANTED))
    stage.outcomes["refused"] += 1
    stage.show(UNWANTED, heard, mark="554 5.7.1")
    ground.write_policy(ground.policy + RULE)
    require("did you mean ratePerClient?" in line, "the log should say what is wrong with the file")
    require(heard.startswith("554 5.7.1 "), "the rule of the last good file should still be in force")


def acts(ground: Ground) -> list[Act]:
    balancer, server = ground.balancer, ground.server
    return [
        Act(
            f"Without Postern, {server} sees {balancer} and not the client",
            f"{CLIENT} sends a message through {balancer}, straight to {server}: all clients look like this one.",
            without_postern,
        ),
        Act(
            f"With Postern, {server} sees the client",
            f"The same client sends another, through {balancer} and Postern, which tells {server} who it is.",
            with_postern,
        ),
        Act(
            "Health checks are answered, and are no clients",
            f"All the while, {balancer} checks with a LOCAL header. Postern answers from the health of {server}.",
            probes,
        ),
        Act(
            "A header from outside is never believed",
            f"{ground.forger} gets past {balancer} and sends a header of its own, to pass for {CLIENT}.",
            forged,
        ),
        Act(
            "Nobody may claim to be 127.0.0.1, not even from the load balancers' network",
            f"{ground.insider} may send headers. It claims to be loopback, which mail servers let relay.",
            spoofed,
        ),
        Act(
            "A load balancer that forgets its header is put off, and told about in the log",
            f"{ground.insider} is set up without PROXY. A 4xx, because a 5xx would bounce mail for a missing setting.",
            garbled,
        ),
        Act(
            "A client that talks before the banner is refused",
            f"{HASTY} cannot wait, and sends EHLO on the heels of the load balancer's header.",
            early,
        ),
        Act(
            "Limits count the real client, not the load balancer",
            f"{BUSY} connects {ALLOWED + 1} times; {ALLOWED} a minute are allowed. Its neighbour comes the same way.",
            limited,
        ),
        Act(
            "A rule comes into force at once, and running sessions stay as they were",
            f"{UNWANTED} has a session open while a rule against {UNWANTED_NETWORK} is added to the file.",
            reloaded,
        ),
        Act(
            "A broken file is refused whole, and the last good one stays",
            "Somebody's finger slips: ratePerCleint.",
            garbage,
        ),
    ]
