"""A certificate for mail.example.org, signed by itself, made once in a test run, in every server's /etc."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from . import trees
from .program import Program

if TYPE_CHECKING:
    from .namespaces import Namespaces

CERTIFICATE = "/etc/ssl/mail.crt"
KEY = "/etc/ssl/mail.key"
BOTH = "/etc/ssl/mail.pem"  # as HAProxy wants them

POSTFIX = f"smtpd_tls_security_level = may\nsmtpd_tls_cert_file = {CERTIFICATE}\nsmtpd_tls_key_file = {KEY}\n"

COMMAND = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/stdout -out /dev/stdout"
    " -days 7 -subj /CN=mail.example.org -addext subjectAltName=DNS:mail.example.org"
)

_made: dict[str, str] = {}


def files(lab: Namespaces) -> dict[str, str]:
    if not _made:
        output = str(lab.run(Program(argv=COMMAND.split(), trees=[trees.tree("openssl")])).log)
        for place, kind in ((CERTIFICATE, "CERTIFICATE"), (KEY, "PRIVATE KEY")):
            block = re.search(rf"-----BEGIN {kind}-----.*?-----END {kind}-----", output, re.DOTALL)
            if block is None:
                raise RuntimeError(f"openssl made no {kind.lower()}:\n{output}")
            _made[place] = block[0] + "\n"
        _made[BOTH] = _made[CERTIFICATE] + _made[KEY]
    return _made
