"""What `postern-sidecar check` found out of a domain, as data and as JSON (design section 8; for users: docs/check.md).

Data only: `inquiry` fills it, `tree` draws it. Whatever comes from peers or the DNS is printable ASCII here already,
and no field is longer than a line of SMTP.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .replies import printable

if TYPE_CHECKING:
    from postern_sidecar.names import Address

    from .plan import Level


class Outcome(enum.Enum):
    """What would become of a message."""

    DELIVER = "deliver"
    DEFER = "defer"
    BOUNCE = "bounce"


class Contact(enum.Enum):
    """What became of an address."""

    REACHED = "reached"  # at the level that is demanded there
    FAILED = "failed"
    NOT_TRIED = "not_tried"


@dataclass(frozen=True, slots=True)
class RecordReport:
    """A TLSA record, as in a zone file. `why`: it does not count. `matched`: an address showed what it names."""

    text: str
    why: str = ""
    matched: bool = False

    def json(self) -> dict[str, object]:
        return {"record": self.text, "usable": not self.why, "why": self.why, "matched": self.matched}


@dataclass(frozen=True, slots=True)
class AddressReport:
    """`level`: reached. `verified`: Exim's CV=: yes, dane, half-dane, no; "" in clear. `cipher`, `subject`: of the
    handshake, if there was one. `matched`: the TLSA record. `reason`: of a failure, one of docs/logging.md's."""

    address: Address
    port: int
    contact: Contact = Contact.NOT_TRIED
    level: Level | None = None
    verified: str = ""
    cipher: str = ""
    subject: str = ""
    matched: str = ""
    reason: str = ""
    detail: str = ""

    def json(self) -> dict[str, object]:
        return {
            "address": str(self.address),
            "port": self.port,
            "contact": self.contact.value,
            "level": _value(self.level),
            "verified": self.verified,
            "cipher": self.cipher,
            "subject": self.subject,
            "matched": self.matched,
            "reason": self.reason,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class HostReport:
    """`mx`, `lookup`, `tlsa`: how far each lookup can be believed, in the words of docs/check.md. `owner`: the name of
    the TLSA records. `required`: the level that must be reached, None where the host must not be used; then `reason`
    says why. `why`: for people, why it is not dane, or what failed."""

    name: str
    preference: int
    port: int
    mx: str
    lookup: str
    tlsa: str
    owner: str = ""
    required: Level | None = None
    reason: str = ""
    why: str = ""
    records: tuple[RecordReport, ...] = ()
    addresses: tuple[AddressReport, ...] = ()

    def json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "preference": self.preference,
            "port": self.port,
            "security": {"mx": self.mx, "addresses": self.lookup, "tlsa": self.tlsa},
            "required": _value(self.required),
            "reason": self.reason,
            "why": self.why,
            "tlsa_name": self.owner,
            "tlsa": [record.json() for record in self.records],
            "addresses": [address.json() for address in self.addresses],
        }


@dataclass(frozen=True, slots=True)
class Report:
    """`level`: of the host that would take the mail; without connecting, what would be required there. `reason`: where
    it would not be delivered, one of docs/logging.md's; `reply`: what the submitter would hear then. `way`: how its
    hosts are found: mx, implicit, route, literal; `mx`: whether the answer to that can be believed."""

    domain: str
    outcome: Outcome
    level: Level | None = None
    reason: str = ""
    detail: str = ""
    reply: str = ""
    way: str = ""
    mx: str = ""
    hosts: tuple[HostReport, ...] = ()

    def json(self) -> dict[str, object]:
        return {
            "domain": self.domain,
            "outcome": self.outcome.value,
            "level": _value(self.level),
            "reason": self.reason,
            "detail": self.detail,
            "reply": self.reply,
            "way": self.way,
            "mx": self.mx,
            "hosts": [host.json() for host in self.hosts],
        }


def _value(level: Level | None) -> str | None:
    return None if level is None else level.value


def plain(text: object) -> str:
    """Printable ASCII, of bounded length."""
    octets = text if isinstance(text, bytes) else str(text).encode("utf-8", "backslashreplace")
    return printable(octets).decode("ascii")
