"""The measurements of the outbound bench, each of one relay at a time.

Time runs until the destination has the last message: a mail server that queues answers long before. A message that is
refused, or that goes over a connection that DANE did not authenticate, fails the run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab import trees
from lab.program import Program

from . import gauges
from .destination import DOMAIN, LONG, SLOW_DOMAIN
from .outbound_results import Delivered

if TYPE_CHECKING:
    from pathlib import Path

    from lab.laboratory import Lab

    from .destination import Destination
    from .relays import Relay

AT_ONCE = 20  # submitters
MESSAGE = 2048  # octets
SAMPLE = 0.05  # seconds between two looks at the memory


@dataclass(frozen=True)
class Sizes:
    messages: int  # to Postern; the others get as many as they do in about that time
    large: int  # messages
    octets: int  # of each of these
    slow: int  # octets of the message to the slow destination
    first: int  # how often a first message is sent


class Deliveries:
    def __init__(self, lab: Lab, destination: Destination, load: Path) -> None:
        self._lab = lab
        self._destination = destination
        self._load = load

    def small(self, relay: Relay, messages: int, *, at_once: int = AT_ONCE) -> Delivered:
        """smtp-source, a session for each message."""
        options = f"{'-L ' if relay.lmtp else ''}-s {min(at_once, messages)} -m {messages} -l {MESSAGE}"
        load = f"smtp-source {options} -f a@example.net -t user@{DOMAIN} 127.0.0.1:{relay.door}"
        client = Program(argv=["sh", "-ec", f"date +%s.%N; {load}"], trees=[trees.tree("postfix")])
        return self._measured(relay, client, messages)

    def large(self, relay: Relay, messages: int, octets: int) -> Delivered:
        """One after another."""
        load = f"{self._load} -s {octets} -t user@{DOMAIN} {messages} 127.0.0.1:{relay.door}"
        return self._measured(relay, Program(argv=["sh", "-ec", f"date +%s.%N; {load} > /dev/null"]), messages)

    def _measured(self, relay: Relay, client: Program, messages: int) -> Delivered:
        arrived = self._destination.arrived
        already, shaken = arrived.counts
        delivered, used = relay.delivered(), relay.group.cpu_seconds()
        process = self._lab.run(client, timeout=LONG)
        wall = arrived.when(already + messages) - float(process.log.lines[0])
        cpu = relay.group.cpu_seconds() - used
        logged = relay.delivered() - delivered
        assert logged == messages, f"{relay.name} has logged {logged} of {messages} deliveries with DANE"
        return Delivered(messages, wall, cpu, arrived.counts[1] - shaken)

    def first(self, relay: Relay) -> float:
        """Seconds: of the first message, with a resolver that knows nothing. The relay has just been started."""
        self._destination.forget()
        return self.small(relay, 1).wall

    def growth(self, relay: Relay, octets: int) -> tuple[int, int]:
        """Octets of memory at rest, and the most while a message passes to the slow destination."""
        at_rest = most = gauges.resident(relay.process)
        argv = [str(self._load), "-s", str(octets), "-t", f"user@{SLOW_DOMAIN}", "1", f"127.0.0.1:{relay.door}"]
        client = self._lab.start(Program(argv=argv), "load")
        while not client.ended_within(SAMPLE):
            most = max(most, gauges.resident(relay.process))
        assert client.wait() == 0, f"the load failed:\n{client.log}"
        took = float(client.log.lines[-1].removeprefix("seconds "))
        assert took > octets / 5e6 / 2, f"the destination was not slow: {took:.1f} s"
        return at_rest, most

    def settle(self) -> None:
        """What idles is closed by then, and what was freed is back."""
        time.sleep(6)
