"""What the DNS stage finds out, as data: where mail for a domain goes, and how far each host of it is known.

The questions are asked in `exchangers` (RFC 5321 5.1, RFC 7505) and `host` (RFC 7672 2.2). Whether a host may be used,
and at what level, is `outbound.levels`' business.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postern_sidecar.answers import TLSA
    from postern_sidecar.names import Address, Domain


@dataclass(frozen=True, slots=True)
class Exchanger:
    """One host to try. `name` is an address where mail goes to an address literal or a route names one: no DANE
    then."""

    name: Domain | Address
    preference: int = 0
    port: int = 25


@dataclass(frozen=True, slots=True)
class NextHop:
    """Where mail for `domain` goes, in the order of preference; equal preferences are in no order yet.

    `domain` is an address for an address literal. `expanded`: what `domain` is an alias of, else `domain` itself.
    `secure`: the MX answer (or its denial) was validated along the whole way, or a route names the host. `implicit`:
    there is no MX, the domain is its own host. `routed`: `spec.outbound.routes` says so."""

    domain: Domain | Address
    expanded: Domain | Address
    secure: bool
    exchangers: tuple[Exchanger, ...]
    implicit: bool = False
    routed: bool = False


class Fault(enum.Enum):
    """Why mail cannot be sent on, or not now. `outbound.replies` has the reply of each."""

    NULL_MX = "null_mx"  # RFC 7505: it takes no mail
    NO_SUCH_DOMAIN = "no_such_domain"  # NXDOMAIN
    NO_ADDRESS = "no_address"  # neither MX nor address, or only MX hosts without one
    LOOP = "mail_loop"  # we are the best MX (RFC 5321 5.1)
    BOGUS = "dns_bogus"
    FAILED = "dns_failed"
    INVALID = "invalid_domain"  # no name, no address literal


@dataclass(frozen=True, slots=True)
class NoNextHop:
    """`detail` names the question that went wrong."""

    fault: Fault
    detail: str = ""


class TLSAState(enum.Enum):
    """What is known of a host's TLSA records (RFC 7672 2.2)."""

    SECURE = "secure"  # there are some, validated; whether one is usable is `dane.records`' question
    NONE = "none"  # there are none, or none that count: insecure records are as none (row 19)
    NOT_ASKED = "not_asked"  # the addresses are insecure (row 12), or DANE is not wanted here
    BOGUS = "bogus"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One host: its addresses in the order to try them (families take turns, RFC 8305 4), and its TLSA records.

    `name` and `expanded` are the address where the exchanger is one; else `expanded` is what `name` is an alias of.
    `secure`: all of `addresses` were validated. `base` is the TLSA base domain (RFC 7672 2.2.3), which is also the SNI:
    the expanded name, or the original one; None where no TLSA record counts. `tlsa_ttl`: seconds that all of this may
    be believed. `fault`: why there is no address: NO_ADDRESS, NO_SUCH_DOMAIN, BOGUS, FAILED. `detail`: the question
    behind a fault or a failed TLSA lookup."""

    name: Domain | Address
    expanded: Domain | Address
    addresses: tuple[Address, ...] = ()
    secure: bool = False
    base: Domain | None = None
    tlsa: TLSAState = TLSAState.NOT_ASKED
    records: tuple[TLSA, ...] = ()
    tlsa_ttl: int = 0
    fault: Fault | None = None
    detail: str = ""
