"""What is beyond the pod on the real ground: a signed DNS, and the mail domains that it speaks of."""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING

from scripts.stage import stranger, submit
from scripts.stage.ground import PATIENCE, ROLLED, SAFE, SCHOOL, STRIPPED

from lab.program import Program
from lab.signed import Domain, SignedDomains

if TYPE_CHECKING:
    import re

    from lab.laboratory import Lab
    from lab.program import Log

STRANGER = "203.0.113.80"
BEHIND = "198.51.100.28"  # whom the stranger passes it on to
DOMAINS = (
    Domain(SAFE, "198.51.100.25"),
    Domain(SCHOOL, "198.51.100.26", usage=2),
    Domain(ROLLED, "198.51.100.27"),
    Domain(STRIPPED, BEHIND, reached_at=STRANGER),
)
OLD_KEY = f"3 1 1 {hashlib.sha256(b'the key that was there until yesterday').hexdigest()}"


class Destinations:
    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._domains = SignedDomains(lab, DOMAINS)
        self._domains.publish(ROLLED, OLD_KEY)
        between = Program(argv=[sys.executable, "-u", stranger.__file__, STRANGER, BEHIND], host="outside")
        self._stranger = lab.start(between, "stranger")
        self.stranger_log.wait_for("^ready$")

    def section(self) -> str:
        """`spec.outbound`, for the policy."""
        dns = self._domains.dns
        (anchor,), (hint,) = dns["trustAnchors"], dns["rootHints"]
        return f"""\
  outbound:
    dns:                        # the demo's own root; without this section it is the internet's
      trustAnchors:
      - {anchor}
      rootHints: [{{name: {hint["name"]}, addresses: [{", ".join(hint["addresses"])}]}}]
"""

    @property
    def log(self) -> Log:
        return self._domains.postfix.log

    @property
    def stranger_log(self) -> Log:
        return self._stranger.log

    def submit(self, port: int, *recipients: str) -> str:
        program = Program(argv=[sys.executable, "-u", submit.__file__, str(port), *recipients])
        return str(self._lab.run(program, timeout=PATIENCE).log)

    def delivered(self, recipient: str, *, times: int = 1) -> re.Match[str]:
        return self._domains.delivered(recipient, times=times)

    def publish(self, domain: str, *tlsa: str) -> None:
        self._domains.publish(domain, *tlsa)
