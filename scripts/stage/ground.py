"""What the acts of the demo need of the ground that they are played on, whichever it is.

`real.Real` has HAProxy, Postfix, NSD and Unbound in network namespaces, `standins.StandIns` a load balancer in Python
and aiosmtpd on loopback, and no outbound half. The addresses differ; what is shown inbound does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator, Sequence

    from lab.conversation import Conversation
    from lab.program import Log

# Addresses that RFC 5737 keeps for documentation: they are nobody's.
CLIENT = "192.0.2.10"
BUSY = "192.0.2.20"
NEIGHBOUR = "192.0.2.21"
HASTY = "192.0.2.30"
UNWANTED = "198.51.100.7"
UNWANTED_NETWORK = "198.51.100.0/24"

SAFE = "safe.example"  # DANE-EE
SCHOOL = "school.example"  # DANE-TA
ROLLED = "rolled.example"  # a new key, and the old one's record
STRIPPED = "stripped.example"  # a stranger takes STARTTLS out on the way

PATIENCE = 10.0  # seconds for a line of a log: it takes milliseconds


@dataclass(frozen=True)
class Part:
    """One of the programs on the way."""

    name: str
    where: str
    does: str
    outbound: bool = False


class Beyond(Protocol):
    """What lies beyond the pod: mail domains with DANE, and somebody on the way to one of them."""

    @property
    def log(self) -> Log:
        """Of the mail server of all these domains. Its lines name the domain that was connected to."""

    @property
    def stranger_log(self) -> Log:
        """What somebody between Postern and STRIPPED's host hears ("> ...") and changes."""

    def submit(self, port: int, *recipients: str) -> str:
        """A program in the pod sends a message to that door; each answer that it hears, a line each."""

    def delivered(self, recipient: str, *, times: int = 1) -> re.Match[str]:
        """The mail server's line on the message of that number for a recipient; group 1 is its queue ID."""

    def publish(self, domain: str, *tlsa: str) -> None:
        """Other TLSA records; without any, the right one."""


class Ground(Protocol):
    relays: bool  # whether there is an outbound half
    balancer: str  # how sentences name it
    server: str
    balancer_address: str  # where its connections come from
    forger: str  # an address outside requiredFrom
    insider: str  # one inside
    notes: Sequence[str]  # paragraphs: what to know before one believes it
    policy: str  # the file's text, as the sidecar runs it
    patience: float  # seconds to wait for a line of a log

    def start(self) -> Iterator[Part]:
        """Each part once it serves."""

    def close(self) -> None:
        """Ends everything and leaves nothing behind."""

    def through(self, client: str, *, past_postern: bool = False) -> Conversation:
        """A client's connection to the load balancer; `past_postern` to the port that leads straight to the server."""

    def straight(self, source: str) -> Conversation:
        """A connection to the sidecar's own port, past the load balancer."""

    def checked(self) -> str:
        """What the load balancer says of its last health check; waits for the first."""

    @property
    def sidecar_log(self) -> Log: ...

    @property
    def server_log(self) -> Log: ...

    def server_names(self, client: str) -> str:
        """A pattern for the line in which the server's log names its client."""

    def received(self, reply: str) -> str:
        """The Received header, folded as it is, of the message that the server took with that reply."""

    def metrics(self) -> str: ...

    def write_policy(self, text: str) -> None:
        """Replaces the file, at once and whole."""

    def check(self, domain: str) -> str:
        """What `postern-sidecar check` says of a domain, where `relays` is true."""

    @property
    def beyond(self) -> Beyond:
        """Where `relays` is true."""


def policy(*, required: str, sidecar_port: int, backend_port: int, address: str = "", outbound: str = "") -> str:
    """`outbound`: that section's lines. Rules may be added at the end."""
    listen = f"    address: {address}\n" if address else ""
    return f"""\
apiVersion: postern.dev/v1alpha1
kind: MailProxyPolicy
metadata: {{name: edge, namespace: mail}}
spec:
  hostname: mail.example.org
{outbound}  inbound:
  - name: smtp
{listen}    port: {sidecar_port}
    backend: {{port: {backend_port}, handover: ProxyV2}}
    proxyProtocol:
      requiredFrom: [{required}]
    limits:
      ratePerClient: {{connections: 3, per: 60s}}
"""


RULE = f"""\
    rules:
    - name: unwanted
      when: 'in_network(sender_host_address, ["{UNWANTED_NETWORK}"])'
      action: Refuse
      message: 'No mail from ${{sender_host_address}}, please write to postmaster'
"""
