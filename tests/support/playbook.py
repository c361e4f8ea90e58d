"""A protocol test as the conversation itself: what happens to a session, and what it does about it.

`Playbook(listener)` begins a life; calling it with an event returns the commands up to the next wait. Log lines are
collected apart (`logged`), because most steps are not about them. What a yield is answered with comes from `answers`.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import msgspec

from postern_sidecar.config.model import Policy
from postern_sidecar.inbound.client import Client
from postern_sidecar.inbound.events import Admit, Command, CountRule, Do, End, Event, Log
from postern_sidecar.inbound.life import Life
from postern_sidecar.inbound.listener import Listener, listeners
from postern_sidecar.names import Endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

LOAD_BALANCER = Endpoint(ip_address("10.0.3.7"), 40000)
STRANGER = Endpoint(ip_address("203.0.113.9"), 50000)
LOCAL = Endpoint(ip_address("10.0.9.12"), 25)
SENDER = Endpoint(ip_address("192.0.2.4"), 40211)
TARGET = Endpoint(ip_address("198.51.100.25"), 25)


def listener(
    protocol: str = "SMTP", handover: str = "ProxyV2", *, backend: Mapping[str, Any] = {}, **fields: Any
) -> Listener:
    """A listener for 10.0.0.0/8 as load balancers, with the fields of `spec.inbound[0]` given as in a manifest."""
    proxy = {"requiredFrom": ["10.0.0.0/8"], **fields.pop("proxyProtocol", {})}
    entry = {
        "name": "smtp",
        "port": 25,
        "protocol": protocol,
        "backend": {"port": 2525, "handover": handover, **backend},
        "proxyProtocol": proxy,
        **fields,
    }
    logging = {"selectors": entry.pop("selectors", ["+proxy"])}
    manifest = {
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "MailProxyPolicy",
        "metadata": {"name": "test"},
        "spec": {"hostname": "mail.example.net", "inbound": [entry], "logging": logging},
    }
    policy = msgspec.convert(manifest, Policy, dec_hook=lambda kind, value: kind(value))
    return listeners(policy, "mail.example.net", [LOCAL.address])[0]


class Playbook:
    def __init__(self, listening: Listener, peer: Endpoint = LOAD_BALANCER, **answers: object) -> None:
        self.answers = {"admit": None, "probe": True, **answers}
        self.client = Client(peer, LOCAL, peer)
        self.life = Life(listening, self.client, "c1")
        self.logged: list[tuple[str, str]] = []
        self.records: list[dict[str, object]] = []
        self.rules: list[CountRule] = []
        self.end: End | None = None
        self._run = self.life.run()
        self.began = self(None)

    def __call__(self, event: Event | None) -> list[Command]:
        """What the session does about `event`, up to its next wait or its end."""
        assert self.end is None, f"{event} after the end"
        done: list[Command] = []
        answer: object = event
        try:
            while (command := self._run.send(answer)) is not Do.WAIT:
                answer = self._answer(command, done)
        except StopIteration as stop:
            self.end = stop.value
        return done

    def _answer(self, command: Command, done: list[Command]) -> object:
        match command:
            case Log(record):
                detail = record.fields.get("reason") or record.fields.get("message") or ""
                self.logged.append((record.event, str(detail)))
                self.records.append(dict(record.fields))
                return None
            case CountRule():
                self.rules.append(command)
                return None
        done.append(command)
        if isinstance(command, Admit):
            return self.answers["admit"]
        return self.answers["probe"] if command is Do.PROBE else None
