"""What the command line asks of the process, as data: where and for how long. What to do is the manifest's business."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postern_sidecar.names import Address, Domain

    from .scalars import HostPort


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


@dataclass(frozen=True, slots=True)
class Check:
    """`config`: None for the defaults. `credentials`: as in Options. `connect`: False judges the DNS only."""

    targets: tuple[Domain | Address, ...]
    config: Path | None = None
    credentials: Path | None = None
    json: bool = False
    connect: bool = True


@dataclass(frozen=True, slots=True)
class TLSARecords:
    """`certificate`: a PEM file. `owner`: of the record that is written. `verify`: the host to compare with its DNS;
    `config`: for the resolver."""

    certificate: Path | None = None
    usage: int = 3
    selector: int = 1
    matching: int = 1
    owner: Domain | None = None
    verify: HostPort | None = None
    config: Path | None = None
