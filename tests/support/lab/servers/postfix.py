"""Postfix in the laboratory, on its own compiled-in paths, under its own users.

The caller brings the lines that matter: services for master.cf, settings for main.cf. What is here is what any
Postfix needs to run in the foreground, to log on standard output and to deliver mail for example.org to one box.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import trees
from ..mailserver import MailServer
from ..program import Program

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..namespaces import Namespaces

MAIN = """\
compatibility_level = 3.6
maillog_file = /dev/stdout
myhostname = mail.example.org
mydestination =
inet_protocols = all
alias_maps =
alias_database =
local_recipient_maps =
virtual_mailbox_domains = example.org
virtual_mailbox_maps = static:box/
virtual_mailbox_base = /var/mail
virtual_uid_maps = static:5000
virtual_gid_maps = static:5000
"""

MASTER = """\
postlog   unix-dgram n - n -   1 postlogd
pickup    unix n - n 60  1 pickup
cleanup   unix n - n -   0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n -   - trivial-rewrite
bounce    unix - - n -   0 bounce
defer     unix - - n -   0 bounce
trace     unix - - n -   0 bounce
verify    unix - - n -   1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n -   - proxymap
proxywrite unix - - n -  1 proxymap
smtp      unix - - n -   - smtp
relay     unix - - n -   - smtp
showq     unix n - n -   - showq
error     unix - - n -   - error
retry     unix - - n -   - error
discard   unix - - n -   - discard
local     unix - n n -   - local
virtual   unix - n n -   - virtual
lmtp      unix - - n -   - lmtp
anvil     unix - - n -   1 anvil
scache    unix - - n -   1 scache
"""

# What `postfix start-fg` makes and checks before it runs `master -i`; its script takes two seconds over it.
QUEUE = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "saved", "trace", "private")
FOLDERS = [
    ("/var/spool/postfix", "root", 0o755),
    ("/var/spool/postfix/pid", "root", 0o755),
    *((f"/var/spool/postfix/{name}", "postfix", 0o700) for name in QUEUE),
    *((f"/var/spool/postfix/{name}", "postfix", 0o777) for name in ("maildrop", "public")),
    ("/var/lib/postfix", "postfix", 0o755),
    ("/var/mail/box", "box", 0o700),
]


def service(port: int, address: str = "127.0.0.1", **settings: str) -> str:
    """An smtpd line of master.cf, for tests that want other settings than the documented ones."""
    where = f"[{address}]" if ":" in address else address
    return f"{where}:{port} inet n - n - - smtpd\n" + "".join(f"  -o {{{k} = {v}}}\n" for k, v in settings.items())


def start(lab: Namespaces, etc: Mapping[str, str], *, master: str, main: str, host: str) -> MailServer:
    program = Program(
        argv=["/usr/lib/postfix/sbin/master", "-i"],
        host=host,
        trees=[trees.tree("postfix")],
        empty=["/run", "/var/spool", "/var/lib", "/var/log", "/var/mail"],
        folders=FOLDERS,
        files={**etc, "/etc/postfix/main.cf": MAIN + main, "/etc/postfix/master.cf": MASTER + master},
    )
    process = lab.start(program, "postfix")
    process.log.wait_for(r"daemon started -- version")
    return MailServer(process, delivered=r"status=sent \(delivered to maildir\)", maildir="/var/mail/box/new")
