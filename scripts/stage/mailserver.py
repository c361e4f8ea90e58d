"""The mail server that stands in for Postfix: aiosmtpd, behind Postern on one port and without it on another.

    python mailserver.py FOLDER

Both ports are free ones of 127.0.0.1 and named on standard output. A message goes into FOLDER with a Received header
(RFC 5321 4.4) that names the client as this server knows it: on the first port from the PROXY header that Postern
sends, on the second from the connection.
"""

from __future__ import annotations

import asyncio
import sys
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING

from aiosmtpd import __version__
from aiosmtpd.smtp import SMTP, Envelope, Session

if TYPE_CHECKING:
    from aiosmtpd.proxy_protocol import ProxyData

HOSTNAME = "mail.example.org"


class Handler:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken = 0

    async def handle_PROXY(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, _envelope: Envelope, proxy_data: ProxyData
    ) -> bool:
        return proxy_data.valid

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        self._taken += 1
        client = client_of(session)
        received = (
            f"Received: from {session.host_name} ([{client}])\n\tby {HOSTNAME} (aiosmtpd {__version__}) with ESMTP"
        )
        received += f" id {self._taken}\n\tfor <{envelope.rcpt_tos[0]}>; {formatdate()}\n"
        content = envelope.content if isinstance(envelope.content, bytes) else b""
        name = f"{self._taken}.eml"
        (self._folder / f".{name}").write_bytes(received.encode() + content.replace(b"\r\n", b"\n"))
        (self._folder / f".{name}").rename(self._folder / name)
        say(f"message {self._taken} from <{envelope.mail_from}>, client=[{client}]: stored")
        return f"250 2.0.0 stored as {self._taken}"


def client_of(session: Session) -> str:
    if session.proxy_data is not None:
        return str(session.proxy_data.src_addr)
    return session.peer[0] if session.peer else ""


def say(line: str) -> None:
    print(line, flush=True)


async def serve(folder: Path) -> None:
    loop = asyncio.get_running_loop()
    handler = Handler(folder)
    behind = await loop.create_server(
        lambda: SMTP(handler, hostname=HOSTNAME, proxy_protocol_timeout=5.0), "127.0.0.1", 0
    )
    alone = await loop.create_server(lambda: SMTP(handler, hostname=HOSTNAME), "127.0.0.1", 0)
    ports = [server.sockets[0].getsockname()[1] for server in (behind, alone)]
    say(f"aiosmtpd {__version__} listening behind={ports[0]} alone={ports[1]}")
    await asyncio.gather(behind.serve_forever(), alone.serve_forever())


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
