"""The /etc of every program in the laboratory: its users, and names that come from no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Each server's own users under the names that Debian's packages give them; `box` owns the delivered mail.
USERS = {
    "root": 0,
    "daemon": 1,
    "mail": 8,
    "www-data": 33,
    "postfix": 2001,
    "Debian-exim": 2002,
    "opensmtpd": 2003,
    "opensmtpq": 2004,
    "dovecot": 2005,
    "dovenull": 2006,
    "haproxy": 2007,
    "box": 5000,
    "nobody": 65534,
}
GROUPS = {**{name: uid for name, uid in USERS.items() if name != "nobody"}, "postdrop": 2101, "nogroup": 65534}


def etc(hosts: Mapping[str, str], nameserver: str) -> dict[str, str]:
    """The files. `hosts` maps addresses to names; where nobody listens on `nameserver`, nothing else resolves."""
    names = {"127.0.0.1": "localhost", "::1": "localhost", "10.0.9.12": "mail.example.org mail", **hosts}
    return {
        "/etc/passwd": "".join(f"{n}:x:{i}:{GROUPS.get(n, 65534)}::/var/empty:/bin/sh\n" for n, i in USERS.items()),
        "/etc/group": "".join(f"{name}:x:{number}:\n" for name, number in GROUPS.items()),
        "/etc/shadow": "".join(f"{name}:!:19000::::::\n" for name in USERS),
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
        "/etc/resolv.conf": f"nameserver {nameserver}\noptions attempts:1\n",
        "/etc/hosts": "".join(f"{address} {name}\n" for address, name in names.items()),
        "/etc/hostname": "mail\n",
        "/etc/mailname": "mail.example.org\n",
    }
