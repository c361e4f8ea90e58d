"""Exim (Debian's heavy build, the one with PROXY support and DANE) in the laboratory; the caller brings main options,
and for mail to elsewhere a router and a transport."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import trees
from ..mailserver import MailServer
from ..program import Program

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..namespaces import Namespaces

BEFORE = """\
primary_hostname = mail.example.org
domainlist local_domains = example.org
acl_smtp_rcpt = recipient
log_file_path = /var/log/exim4/%slog
keep_environment =
"""

AFTER = """\

begin acl
recipient:
  accept domains = +local_domains
  accept hosts = {relayed}
  deny   message = relay not permitted

begin routers
{routers}
box:
  driver = accept
  transport = box

begin transports
{transports}
box:
  driver = appendfile
  maildir_format
  directory = /var/mail/box
  user = box

begin retry
* * F,2h,15m
"""

# The daemon closes its standard output, so its log goes through a pipe in the file system that `cat` holds open.
COMMAND = """\
mkfifo -m 666 /var/log/exim4/mainlog
cat <>/var/log/exim4/mainlog &
exec exim4 -bdf
"""


def start(
    lab: Namespaces, etc: Mapping[str, str], *, main: str, routers: str, transports: str, host: str
) -> MailServer:
    after = AFTER.format(routers=routers, transports=transports, relayed="127.0.0.1" if routers else ":")
    program = Program(
        argv=["sh", "-c", COMMAND],
        host=host,
        trees=[trees.tree("exim")],
        empty=["/run", "/var/spool", "/var/lib", "/var/log", "/var/mail"],
        folders=[
            ("/run/exim4", "Debian-exim", 0o755),
            ("/var/spool/exim4", "Debian-exim", 0o750),
            ("/var/log/exim4", "Debian-exim", 0o755),
            ("/var/mail/box", "box", 0o700),
        ],
        files={**etc, "/etc/exim4/exim4.conf": BEFORE + main + after},
    )
    process = lab.start(program, "exim")
    process.log.wait_for(r"daemon started: .* listening for SMTP")
    return MailServer(process, delivered=r" => .* T=box", maildir="/var/mail/box/new")
