"""A message's envelope as it came in, and its recipients: what a next hop is to be told.

RFC 5321 4.1.1, RFC 3461 (DSN), RFC 6152 (8BITMIME), RFC 6531 (SMTPUTF8).

Data only. Addresses are bytes as the submitter wrote them between the angle brackets: nobody rewrites them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postern_sidecar.names import Address, Domain


@dataclass(frozen=True, slots=True)
class Sender:
    """MAIL FROM. `size`: octets declared, 0 for none. `ret` and `envid`: DSN's, b"" for none."""

    path: bytes
    size: int = 0
    eight_bit: bool = False
    smtputf8: bool = False
    ret: bytes = b""
    envid: bytes = b""


@dataclass(frozen=True, slots=True)
class Recipient:
    """RCPT TO. `domain`: of `path`, as A-labels, or the address of an address literal. `notify`, `orcpt`: DSN's."""

    path: bytes
    domain: Domain | Address
    notify: bytes = b""
    orcpt: bytes = b""
