"""Somebody on the way to a mail server: `python stranger.py ADDRESS SERVER` passes SMTP on between port 25 of both.

What the client says goes to the server, and "> ..." to standard output. What the server says goes to the client with
STARTTLS written over, as boxes that want to read along do it; what was written over is printed too. Standard library
only.
"""

from __future__ import annotations

import socket
import sys
import threading

PORT = 25
WANTED = b"STARTTLS"
INSTEAD = b"XXXXXXXX"


def main() -> None:
    address, server = sys.argv[1:]
    with socket.create_server((address, PORT)) as listening:
        print("ready", flush=True)
        while True:
            client, _ = listening.accept()
            threading.Thread(target=between, args=(client, server), daemon=True).start()


def between(client: socket.socket, server: str) -> None:
    with client, socket.create_connection((server, PORT)) as far:
        back = threading.Thread(target=answers, args=(far, client), daemon=True)
        back.start()
        for line in client.makefile("rb"):
            print(f"> {line.decode(errors='backslashreplace').rstrip()}", flush=True)
            far.sendall(line)
        print("> (the end)", flush=True)
        far.shutdown(socket.SHUT_WR)
        back.join()


def answers(far: socket.socket, client: socket.socket) -> None:
    for line in far.makefile("rb"):
        if WANTED in line:
            print(f"{line.decode().rstrip()} becomes {line.replace(WANTED, INSTEAD).decode().rstrip()}", flush=True)
        client.sendall(line.replace(WANTED, INSTEAD))


if __name__ == "__main__":
    main()
