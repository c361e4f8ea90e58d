"""What the command line asks of the process, as data: where and for how long. What to do is the manifest's business."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """Times are in seconds.

    `admin`: address and port; "" and None are all addresses of both families, None on ADMIN_PORT. `grace`: how long a
    session may go on after SIGTERM. `drain_delay`: how long a draining sidecar still accepts, until every balancer has
    heard of it. `ephemeral_ports`: bind port 0 everywhere; the event `listening` names the real ones. `credentials`: a
    directory, for outbound.
    """

    config: Path = Path("/etc/postern/policy.json")
    admin: tuple[str, int] | None = None
    state_dir: Path = Path("/run/postern")
    grace: float = 20.0
    drain_delay: float = 5.0
    ephemeral_ports: bool = False
    credentials: Path | None = None
