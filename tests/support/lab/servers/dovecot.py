"""Dovecot (submission and IMAP) in the laboratory; the caller brings the listeners. One user: box, password `secret`.

Its settings changed their names with 2.4 (Debian 13): this module brings the frame for either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import trees
from ..certificate import CERTIFICATE, KEY
from ..mailserver import MailServer
from ..program import Program

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..namespaces import Namespaces

BEFORE_2_3 = """\
protocols = imap submission
log_path = /dev/stderr
ssl_cert = <CERTIFICATE
ssl_key = <KEY
mail_location = maildir:/var/mail/box
first_valid_uid = 1
passdb {
  driver = static
  args = password=secret
}
userdb {
  driver = static
  args = uid=box gid=box home=/var/mail/box
}
"""

BEFORE_2_4 = """\
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
protocols {
  imap = yes
  submission = yes
}
log_path = /dev/stderr
ssl_server_cert_file = CERTIFICATE
ssl_server_key_file = KEY
mail_driver = maildir
mail_path = /var/mail/box
first_valid_uid = 1
passdb static {
  password = secret
}
userdb static {
  fields {
    uid = box
    gid = box
    home = /var/mail/box
  }
}
"""


def syntax() -> str:
    """Which of the two languages the unpacked Dovecot speaks: "2.3" or "2.4"."""
    return "2.3" if trees.version("dovecot") < (2, 4) else "2.4"


def start(lab: Namespaces, etc: Mapping[str, str], *, listeners: str, host: str) -> MailServer:
    before = BEFORE_2_3 if syntax() == "2.3" else BEFORE_2_4
    before = before.replace("CERTIFICATE", CERTIFICATE).replace("KEY", KEY)
    program = Program(
        argv=["dovecot", "-F"],
        host=host,
        trees=[trees.tree("dovecot")],
        empty=["/run", "/var/lib", "/var/mail"],
        folders=[
            ("/run/dovecot", "root", 0o755),
            ("/var/lib/dovecot", "root", 0o755),
            ("/var/mail/box", "box", 0o700),
        ],
        files={**etc, "/etc/dovecot/dovecot.conf": before + listeners},
    )
    process = lab.start(program, "dovecot")
    process.log.wait_for(r"starting up for imap")
    return MailServer(process)
