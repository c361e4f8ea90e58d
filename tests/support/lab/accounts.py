"""The /etc of every program in the laboratory: its users, and names that come from no network."""

from __future__ import annotations

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


def etc() -> dict[str, str]:
    """The files. Names other than our own come from `Lab.nameserver`; without it no question has an answer."""
    return {
        "/etc/passwd": "".join(f"{n}:x:{i}:{GROUPS.get(n, 65534)}::/var/empty:/bin/sh\n" for n, i in USERS.items()),
        "/etc/group": "".join(f"{name}:x:{number}:\n" for name, number in GROUPS.items()),
        "/etc/shadow": "".join(f"{name}:!:19000::::::\n" for name in USERS),
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
        "/etc/resolv.conf": "nameserver 127.0.0.1\noptions attempts:1\n",
        "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n10.0.9.12 mail.example.org mail\n",
        "/etc/hostname": "mail\n",
        "/etc/mailname": "mail.example.org\n",
    }
