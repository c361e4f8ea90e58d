"""A mail server in the laboratory, and the messages that it delivered."""

from __future__ import annotations

import email
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from email.message import Message

    from .program import Log, Process


class MailServer:
    def __init__(self, process: Process, *, delivered: str = "", maildir: str = "") -> None:
        self.process = process
        self._delivered = delivered  # what the log says once for each message
        self._maildir = maildir

    @property
    def log(self) -> Log:
        return self.process.log

    def kill(self) -> None:
        """All of it at once, in the middle of whatever it does."""
        self.process.kill()

    def received(self, count: int = 1) -> list[Message]:
        """The messages, as delivered, once there are `count`; in no particular order."""
        self.log.wait_for(self._delivered, times=count)
        return [email.message_from_string(text) for text in self.process.read_folder(self._maildir).values()]
