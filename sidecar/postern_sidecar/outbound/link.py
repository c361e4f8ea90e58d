"""A connection to a next hop: what is known of it. The bytes go through `channel`, which is the edge's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postern_sidecar.names import Endpoint

    from .plan import Handshake, Level, PoolKey


@dataclass(slots=True, eq=False)
class Link:
    """`channel`: the edge's connection, opaque here. `keywords`: of the last EHLO reply. `level`: achieved; None until
    then. `handshake`: None in clear. `matched`: the TLSA record that the certificate met, as in a zone file.
    `used`: transactions so far. `key`: what it may be pooled under, set with the level. `note`: what the log should say
    of it besides, such as why it is in clear."""

    channel: object
    endpoint: Endpoint
    keywords: dict[bytes, bytes] = field(default_factory=dict)
    level: Level | None = None
    half_dane: bool = False
    handshake: Handshake | None = None
    peer_dn: str = ""
    matched: str = ""
    usage: int = 0
    used: int = 0
    key: PoolKey | None = None
    note: str = ""
