"""A program in the pod that sends a message and prints each answer that it hears: `python submit.py PORT RECIPIENT...`.

By LMTP if the port is Postern's LMTP door. Standard library only, as any program would do it.
"""

from __future__ import annotations

import smtplib
import sys

LMTP = 11024
MESSAGE = "From: <app@example.org>\r\nSubject: the demo\r\n\r\nHello.\r\n.\r\n"


def main() -> None:
    port, recipients = int(sys.argv[1]), sys.argv[2:]
    with (smtplib.LMTP if port == LMTP else smtplib.SMTP)("127.0.0.1", port) as postern:
        postern.ehlo_or_helo_if_needed()
        postern.mail("app@example.org")
        taken = [
            recipient for recipient in recipients if heard(f"RCPT TO:<{recipient}>", postern.rcpt(recipient)) < 300
        ]
        if taken:
            postern.docmd("DATA")
            postern.send(MESSAGE)
        for recipient in taken if port == LMTP else taken[:1]:
            heard(f"the message, <{recipient}>" if port == LMTP else "the message", postern.getreply())


def heard(what: str, reply: tuple[int, bytes]) -> int:
    code, text = reply
    print(f"{what}: {code} {text.decode()}")
    return code


if __name__ == "__main__":
    main()
