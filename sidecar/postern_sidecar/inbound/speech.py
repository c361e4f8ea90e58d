"""What a listener says in its own voice: banners, refusals, byes. Pure texts, by `protocol` (contracts section 2).

On tlsOnConnect listeners and on Opaque ones the sidecar never writes text: every saying is empty there, and the caller
just closes. Texts never carry an internal error's words.
"""

from __future__ import annotations

from dataclasses import dataclass

from postern_sidecar.config.model import Protocol
from postern_sidecar.replies import reply_line


@dataclass(frozen=True, slots=True)
class Speech:
    """`hostname` goes into banners and 421s (RFC 5321 4.2.3)."""

    protocol: Protocol
    tls_on_connect: bool
    hostname: str

    @property
    def silent(self) -> bool:
        return self.tls_on_connect or self.protocol is Protocol.OPAQUE

    @property
    def smtp(self) -> bool:
        return self.protocol is Protocol.SMTP and not self.tls_on_connect

    def deferral(self, enhanced: str, text: str) -> bytes:
        """Come back later: 421, or the protocol's bye."""
        return self._say(f"421 {enhanced}", f"{self.hostname} {text}")

    def refusal(self, enhanced: str, text: str) -> bytes:
        """Do not come back: 554, or the protocol's bye."""
        return self._say(f"554 {enhanced}", text)

    def _say(self, code: str, text: str) -> bytes:
        if self.silent:
            return b""
        match self.protocol:
            case Protocol.SMTP:
                return reply_line(code, text)
            case Protocol.IMAP:
                return reply_line("* BYE", text)
            case Protocol.POP3:  # RFC 3206: temporary or permanent
                return reply_line("-ERR [SYS/TEMP]" if code.startswith("4") else "-ERR [SYS/PERM]", text)
            case _:
                return reply_line("BYE", f'"{text.replace(chr(92), "/").replace(chr(34), chr(39))}"')

    def greeting(self) -> bytes:
        """The banner of a session that the sidecar answers itself: a probe, or Refuse503. Never where it is silent."""
        match self.protocol:
            case Protocol.SMTP:
                return reply_line("220", f"{self.hostname} ESMTP")
            case Protocol.IMAP:
                return reply_line("* OK", f"{self.hostname} ready")
            case Protocol.POP3:
                return reply_line("+OK", f"{self.hostname} ready")
            case _:
                return reply_line("OK", f'"{self.hostname} ready"')
