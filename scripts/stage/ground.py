"""What the acts of the demo need of the ground that they are played on, whichever it is.

`real.Real` has HAProxy and Postfix in network namespaces, `standins.StandIns` a load balancer in Python and aiosmtpd
on loopback. The addresses differ; what is shown does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
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

PATIENCE = 10.0  # seconds for a line of a log: it takes milliseconds


@dataclass(frozen=True)
class Part:
    """One of the programs on the way."""

    name: str
    where: str
    does: str


class Ground(Protocol):
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


def policy(*, required: str, sidecar_port: int, backend_port: int, address: str = "") -> str:
    listen = f"    address: {address}\n" if address else ""
    return f"""\
apiVersion: postern.dev/v1alpha1
kind: MailProxyPolicy
metadata: {{name: edge, namespace: mail}}
spec:
  hostname: mail.example.org
  inbound:
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
