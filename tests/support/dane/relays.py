"""Postfix and Exim as clients of the cases: each set up as its documentation has DANE done, each with its own log. What
they did is said in the terms of the table, so that it can be compared.

    observe(dane_lab, postfix(dane_lab), cases) -> {name: Seen}

A case of a policy of Postern's own (`case.policy`) is none of theirs; `require`, `skip` and `route` have counterparts.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lab.servers.postfix import service

from .doors import AT_ONCE, MESSAGE, Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lab.danelab import DaneLab
    from lab.program import Log

    from .case import Case, Expect, Outcome

How = Literal["dane", "half-dane", "tls", "clear"]
SENDER = "MAIL FROM:<box@example.org>"
DONE = 90.0  # seconds for the slowest case

POSTFIX_PORT = 2525
POSTFIX = """\
mynetworks = 127.0.0.0/8
smtp_tls_security_level = dane
smtp_dns_support_level = dnssec
smtp_tls_loglevel = 1
smtp_tls_policy_maps = inline:{{ {policies} }}
transport_maps = inline:{{ {routes} }}
"""
WRAPPED = "wrapped unix - - n - - smtp\n  -o smtp_tls_wrappermode=yes\n"

EXIM_PORT = 2526
EXIM = """\
local_interfaces = 127.0.0.1
daemon_smtp_ports = 2526
smtp_accept_max = 200
smtp_connect_backlog = 200
allow_domain_literals
dns_dnssec_ok = 1
"""
EXIM_ROUTERS = """\
routed:
  driver = manualroute
  domains = lsearch;/etc/exim4/routes
  route_data = ${lookup{$domain}lsearch{/etc/exim4/routes}} bydns
  dnssec_request_domains = *
  transport = ${if match{${lookup{$domain}lsearch{/etc/exim4/routes}}}{::465}{wrapped}{remote}}
  no_more
literal:
  driver = ipliteral
  domains = ! +local_domains
  transport = remote
mx:
  driver = dnslookup
  domains = ! +local_domains
  dnssec_request_domains = *
  transport = remote
  no_more
"""
EXIM_TRANSPORTS = """\
remote:
  driver = smtp
  hosts_try_dane = ${lookup{$domain}lsearch{/etc/exim4/skipped}{}{*}}
  hosts_require_dane = ${lookup{$domain}lsearch{/etc/exim4/required}{*}}
  hosts_require_tls = ${lookup{$domain}lsearch{/etc/exim4/encrypted}{*}}
wrapped:
  driver = smtp
  protocol = smtps
  hosts_try_dane = *
"""
EXIM_RESOLVER = "nameserver 127.0.0.1\noptions trust-ad\n"


@dataclass(frozen=True)
class Seen:
    """`how` the connection was that took the message, and which server of the case it led to."""

    outcome: Outcome
    how: How | None = None
    at: int | None = None


@dataclass(frozen=True)
class Relay:
    """`settled`: a pattern for its last word on a recipient, whose group 1 is a key of `outcomes`. `how`: by its log it
    authenticated this address for this recipient, through a secure or an insecure MX; None if it did not."""

    port: int
    log: Log
    settled: str
    outcomes: Mapping[str, Outcome]
    how: Callable[[Log, str, str], How | None]


def wanted(expect: Expect) -> Seen:
    """What the table has, in these terms."""
    how: dict[str | None, How | None] = {None: None, "dane": "dane", "clear": "clear"}
    return Seen(expect.outcome, "half-dane" if expect.half else how.get(expect.level, "tls"), expect.at)


def postfix(dane_lab: DaneLab) -> Relay:
    cases = _applicable(dane_lab)
    levels = {"Encrypt": "encrypt", "Opportunistic": "may"}
    policies = [f"{{ {case.recipient_domain} = {levels[case.skip]} }}" for case in cases if case.skip]
    policies += [f"{{ {case.recipient_domain} = dane-only }}" for case in cases if case.require]
    routes = [f"{{ {domain} = {_postfix_route(*route)} }}" for domain, route in _routes(cases).items()]
    main = POSTFIX.format(policies=", ".join(policies), routes=", ".join(routes))
    server = dane_lab.lab.postfix(master=service(POSTFIX_PORT) + WRAPPED, main=main)

    def how(log: Log, address: str, _recipient: str) -> How | None:
        found = log.matches(rf" (\w+) TLS connection established to \S+\[{re.escape(address)}\]:")
        words: dict[str, How] = {"Verified": "dane", "Trusted": "half-dane"}  # no authority is trusted otherwise
        return words.get(found[-1][1]) if found else None

    outcomes: dict[str, Outcome] = {"sent": "delivered", "deferred": "deferred", "bounced": "bounced"}
    return Relay(POSTFIX_PORT, server.log, r"to=<{}>,.*status=(\w+) ", outcomes, how)


def exim(dane_lab: DaneLab) -> Relay:
    cases = _applicable(dane_lab)

    def listed(domains: Iterable[str]) -> str:
        return "".join(f"{domain}: *\n" for domain in domains)

    skipped = [case for case in cases if case.skip and not case.require]
    files = {
        "/etc/resolv.conf": EXIM_RESOLVER,
        "/etc/exim4/routes": "".join(f"{d}: {host}::{port}\n" for d, (host, port) in _routes(cases).items()),
        "/etc/exim4/skipped": listed(case.recipient_domain for case in skipped),
        "/etc/exim4/required": listed(case.recipient_domain for case in cases if case.require),
        "/etc/exim4/encrypted": listed(case.recipient_domain for case in skipped if case.skip == "Encrypt"),
    }
    server = dane_lab.lab.exim(main=EXIM, routers=EXIM_ROUTERS, transports=EXIM_TRANSPORTS, files=files)

    def how(log: Log, address: str, recipient: str) -> How | None:
        found = log.matches(rf"=> {re.escape(recipient)} .*H=\S+ \[{re.escape(address)}\].* CV=dane")
        return "dane" if found else None

    outcomes: dict[str, Outcome] = {"=>": "delivered", "==": "deferred", "**": "bounced"}
    return Relay(EXIM_PORT, server.log, r" (=>|==|\*\*) {}[ :]", outcomes, how)


def observe(dane_lab: DaneLab, relay: Relay, cases: Sequence[Case]) -> dict[str, Seen]:
    """What it does with a message for each, all at once."""
    setting = dane_lab.setting
    recipients = {case.name: setting.recipient(case).replace("user@", f"peer{relay.port}@") for case in cases}
    submit(dane_lab, relay.port, recipients.values())
    found = {}
    for case in cases:
        recipient = recipients[case.name]
        settled = relay.log.wait_for(relay.settled.replace("{}", re.escape(recipient)), timeout=DONE)
        outcome = relay.outcomes[settled[1]]
        taken = [each for each in dane_lab.sink.messages(recipient=recipient) if each.reply.startswith("250")]
        if outcome != "delivered" or not taken:
            found[case.name] = Seen(outcome)
            continue
        (message,) = taken
        address = message.where.split(" ")[0]
        (at,) = [n for n in range(1, len(case.servers) + 1) if address in setting.both(case, n)]
        without: How = "clear" if message.tls is None else "tls"
        found[case.name] = Seen(outcome, relay.how(relay.log, address, recipient) or without, at)
    return found


def submit(dane_lab: DaneLab, port: int, recipients: Iterable[str]) -> None:
    """A message to each."""
    asyncio.run(_submit(dane_lab, port, recipients))


async def _submit(dane_lab: DaneLab, port: int, recipients: Iterable[str]) -> None:
    places = asyncio.Semaphore(AT_ONCE)

    async def submit(recipient: str) -> None:
        async with places:
            client = await Client.open(dane_lab.lab.pod, "SMTP", port)
            (answer,) = await client.send("SMTP", [recipient], mail=SENDER, message=MESSAGE)
            assert answer.startswith("250"), answer
            await client.close()

    await asyncio.gather(*map(submit, recipients))


def _applicable(dane_lab: DaneLab) -> list[Case]:
    return [case for case in dane_lab.setting.cases.values() if case.policy == "default"]


def _routes(cases: Iterable[Case]) -> dict[str, tuple[str, int]]:
    """The next hop of each routed domain, and its port."""
    found = {}
    for case in cases:
        if case.route:
            host, _, port = case.route.format(name=case.name, domain=case.domain).partition(":")
            found[case.domain] = host, int(port or 25)
    return found


def _postfix_route(host: str, port: int) -> str:
    return f"{'wrapped' if port == 465 else 'smtp'}:[{host}]:{port}"
