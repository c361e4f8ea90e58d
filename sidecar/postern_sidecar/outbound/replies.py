"""What the submitter is told: our own replies in one table, and a next hop's as it is passed on.

RFC 5321 4.2, RFC 3463 (enhanced codes), contracts section 5 "Codes". 421 is only for our own shutdown: Postfix suspends
a whole transport on it. Nothing that a peer said goes into a reply of ours, and what is passed on is printable ASCII in
lines of at most 512 octets. Raises nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from postern_sidecar.lookup.hosts import Fault
from postern_sidecar.replies import Reply

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_TEXT: Final = 512 - len("250-\r\n")  # RFC 5321 4.5.3.1.5
SHUTTING_DOWN: Final = 421

OK: Final = frozenset({250})
RCPT_OK: Final = frozenset({250, 251})  # RFC 5321 4.3.2
DATA_OK: Final = frozenset({354})


class Text(NamedTuple):
    """A reply of ours; `{}` stands for what it is about: a domain or a host."""

    code: int
    enhanced: str
    text: str

    def __call__(self, *about: object) -> Reply:
        words = self.text.format(*about)
        return Reply(self.code, (printable(f"{self.enhanced} {words}".encode()),))


# The DNS stage
NULL_MX: Final = Text(556, "5.1.10", "{} accepts no mail (null MX)")
NO_SUCH_DOMAIN: Final = Text(550, "5.1.2", "{} does not exist")
NO_ADDRESS: Final = Text(550, "5.4.4", "{} has no mail server with an address")
LOOP: Final = Text(554, "5.4.6", "mail for {} would come back here")
DNS_FAILED: Final = Text(451, "4.4.3", "the mail servers of {} cannot be looked up now")
INVALID_DOMAIN: Final = Text(553, "5.1.3", "{} is neither a domain name nor an address")
FORBIDDEN: Final = Text(554, "5.4.6", "{} is an address that mail is not sent to from here")
NOT_VALIDATING: Final = Text(451, "4.7.5", "DNSSEC validation is not proved to work, so nothing is sent")

# A host
NOT_SECURED: Final = Text(451, "4.7.5", "{} cannot be authenticated as its DNS or the policy demands")
NO_STARTTLS: Final = Text(451, "4.7.4", "{} does not offer the TLS that its DNS or the policy demands")
NOT_CONNECTED: Final = Text(451, "4.4.1", "{} does not answer")
NO_DESCRIPTORS: Final = Text(451, "4.3.2", "no file descriptor is left here, try again")
CONNECTION_LOST: Final = Text(451, "4.4.2", "the connection to {} was lost")
UNEXPECTED: Final = Text(451, "4.5.0", "{} sent an unexpected reply")
NO_8BITMIME: Final = Text(554, "5.6.3", "{} takes no 8-bit message, and this one is not converted")
NO_SMTPUTF8: Final = Text(553, "5.6.7", "{} takes no internationalized address")
TOO_LARGE: Final = Text(552, "5.3.4", "{} takes no message of that size")
NO_CREDENTIALS: Final = Text(451, "4.3.5", "the credentials for {} cannot be read")
NOT_AUTHENTICATED: Final = Text(451, "4.7.8", "{} does not accept our credentials")

# A transaction
BUSY: Final = Text(451, "4.4.5", "too many messages are on their way to {}")
NO_TIME: Final = Text(451, "4.4.1", "not every mail server of {} could be tried in time")
REPLAY_REFUSED: Final = Text(451, "4.4.2", "the connection to {} was lost, and no other mail server takes it all")
UNKNOWN: Final = Text(
    451, "4.4.2", "the connection to {} was lost after the message was sent: unknown, it may have been delivered"
)
STALLED: Final = Text(451, "4.4.2", "{} stopped reading the message")

FAULTS: Final = {
    Fault.NULL_MX: NULL_MX,
    Fault.NO_SUCH_DOMAIN: NO_SUCH_DOMAIN,
    Fault.NO_ADDRESS: NO_ADDRESS,
    Fault.LOOP: LOOP,
    Fault.BOGUS: DNS_FAILED,
    Fault.FAILED: DNS_FAILED,
    Fault.INVALID: INVALID_DOMAIN,
}


def printable(text: bytes) -> bytes:
    """Printable ASCII as it is, any other octet as \\xNN, as much of it as a line has room for."""
    if text.isascii() and text.isalnum():
        return text[:MAX_TEXT]
    pieces = (b"%c" % octet if 0x20 <= octet <= 0x7E else b"\\x%02x" % octet for octet in text[:MAX_TEXT])
    return b"".join(pieces)[:MAX_TEXT]


def negative(reply: Reply) -> bool:
    """A refusal that means something: 4xx and 5xx."""
    return 400 <= reply.code <= 599


def passed_on(reply: Reply, expected: Collection[int], host: object) -> Reply:
    """A next hop's reply as the submitter gets it, with its lines and its enhanced codes. 421 is 451; a reply that is
    neither `expected` nor negative is a 451 of ours."""
    if reply.code not in expected and not negative(reply):
        return UNEXPECTED(host)
    code = 451 if reply.code == SHUTTING_DOWN else reply.code
    return Reply(code, tuple(map(printable, reply.lines)))


def shown(reply: Reply) -> bytes:
    """On one line, for logs."""
    return b"%03d %s" % (reply.code, b" ".join(line.strip() for line in reply.lines))
