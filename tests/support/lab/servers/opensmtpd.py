"""OpenSMTPD in the laboratory; the caller brings the `listen` lines of smtpd.conf."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import trees
from ..mailserver import MailServer
from ..program import Program

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..namespaces import Namespaces

AFTER = """\

table boxes { "@" = box }
action "box" maildir "/var/mail/box" virtual <boxes>
match from any for domain "example.org" action "box"
"""


def start(lab: Namespaces, etc: Mapping[str, str], *, listen: str, port: int, host: str) -> MailServer:
    program = Program(
        argv=["smtpd", "-d", "-f", "/etc/smtpd.conf"],
        host=host,
        trees=[trees.tree("opensmtpd")],
        empty=["/run", "/var/spool", "/var/lib", "/var/log", "/var/mail"],
        folders=[
            ("/var/spool/smtpd", "root", 0o711),
            ("/var/lib/opensmtpd/empty", "root", 0o755),
            ("/var/empty", "root", 0o755),
            ("/var/mail/box", "box", 0o700),
        ],
        files={**etc, "/etc/smtpd.conf": listen + AFTER},
    )
    process = lab.start(program, "opensmtpd")
    lab.wait_for_port(process, port, host)  # it says nothing when it is ready
    return MailServer(process, delivered=r"mda delivery .*result=Ok", maildir="/var/mail/box/new")
