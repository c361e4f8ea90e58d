"""The words for what would be right."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import inspect

from postern_sidecar.config.model import Backend, Count, Digest, ListenerName, Logging, Outbound, Protocol, Route, Rule
from postern_sidecar.config.scalars import Date, Duration, HostPort, IPAddress, Network, Pattern, Server, Size, Sources
from postern_sidecar.config.walk import expected


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Count, "a whole number, 1 to 1000000"),
        (int, "a whole number"),
        (Count | None, "a whole number, 1 to 1000000"),
        (bool, "true or false"),
        (str, "text"),
        (ListenerName, "text: lower-case letters, digits and inner hyphens, 1 to 12 characters"),
        (Protocol, "one of SMTP, IMAP, POP3, ManageSieve, Opaque"),
        (Duration, "a duration such as 3s, 500ms or 1m30s"),
        (IPAddress, "an IP address such as 127.0.0.1 or ::1"),
        (Network, "a network such as 10.0.0.0/8 or fd00::/8, or an address"),
        (Sources, "a network such as 10.0.0.0/8 or fd00::/8, an address, or *"),
        (Size, "a size such as 50Mi or 10M"),
        (Date, "a date such as 2027-03-01, in quotes"),
        (Pattern, "a domain such as example.org, *.example.org, or *"),
        (Server, "a server such as 10.0.0.53, 10.0.0.53:5353 or [fd00::53]:53"),
        (HostPort, "a relay such as relay.example.org:587, 192.0.2.1:25 or [2001:db8::1]:25"),
        (Outbound, "a mapping"),
        (Route, "a mapping with domains, via"),
        (Digest, "one of SHA2-256, SHA2-512"),
        (Backend, "a mapping with port, handover"),
        (Logging, "a mapping"),
        (dict[str, Any], "a mapping"),
        (tuple[Rule, ...], "a list, each item a mapping with name, when, action"),
    ],
)
def test_expected(kind: Any, words: str) -> None:
    assert expected(inspect.type_info(kind)) == words
