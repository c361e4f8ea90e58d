"""Real senders of headers: HAProxy in both versions, nginx, over both families; what reaches Postfix, and the log."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING, Any, Literal

import pytest

from lab.certificate import BOTH
from lab.conversation import Conversation
from lab.namespaces import BALANCER, BALANCER6, POD, POD6
from lab.policies import listener
from lab.servers import postfix
from lab.servers.balancers import Forward

if TYPE_CHECKING:
    from lab.laboratory import Lab

pytestmark = pytest.mark.real

PROXIED = postfix.service(2525, smtpd_upstream_proxy_protocol="haproxy")
FAMILIES = [("192.0.2.10", BALANCER, POD), ("2001:db8::10", BALANCER6, POD6)]
TLVS = "proxy-v2-options unique-id,authority,ssl,ssl-cipher,crc32c"


@pytest.mark.parametrize(("client", "balancer", "pod"), FAMILIES, ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(("sender", "version"), [("haproxy", "v1"), ("haproxy", "v2"), ("nginx", "v1")])
def test_a_sender_names_the_client(
    lab: Lab, sender: str, version: Literal["v1", "v2"], client: str, balancer: str, pod: str
) -> None:
    server = lab.postfix(master=PROXIED, main="smtpd_client_port_logging = yes\n")
    sidecar = lab.sidecar({"inbound": [listener()]})
    forward = Forward(bind=(balancer, 25), to=(pod, 25), send=version)
    (lab.haproxy if sender == "haproxy" else lab.nginx)(forward)
    with lab.outside.talk((balancer, 25), source=client) as talk:
        talk.deliver()
        port = talk.address[1]
    server.log.wait_for(rf"smtpd\[\d+\]: connect from unknown\[{client}\]:{port}$")
    (message,) = server.received()
    assert f"{client}]" in message["Received"]
    line = rf" connect H=\[{client}\]:{port} I=\[{pod}\]:25 TGT=\[{balancer}\]:25 PRX={balancer} "
    sidecar.log.wait_for(rf"{line}V={version[1]} HO=ProxyV2$")


def over_tls(lab: Lab, version: ssl.TLSVersion) -> Conversation:
    """A client that speaks TLS of this version to HAProxy, which ends it there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    sock = lab.outside.connect((BALANCER, 25), source="192.0.2.10")
    return Conversation(context.wrap_socket(sock, server_hostname="mx.example.org"))


def test_what_haproxy_says_of_tls_is_in_rules_and_logs(lab: Lab) -> None:
    server = lab.postfix(master=PROXIED)
    rules = [
        {
            "name": "old-tls",
            "when": "proxy_tls && proxy_tls_version == 'TLSv1.2'",
            "action": "Refuse",
            "message": "${proxy_tls_version} for ${proxy_authority} is too old",
        }
    ]
    sidecar = lab.sidecar({"inbound": [listener(rules=rules)], "logging": {"format": "JSON"}})
    lab.haproxy(
        Forward(
            bind=(BALANCER, 25),
            to=(POD, 25),
            accept=f"ssl crt {BOTH}",
            settings="  unique-id-format %ci-%[str(a)]",
            options=TLVS,
        )
    )
    with over_tls(lab, ssl.TLSVersion.TLSv1_3) as client:
        client.deliver()
    line = json.loads(sidecar.log.wait_for(r'^.*"event":"connect".*$')[0])
    assert line["proxy_authority"] == "mx.example.org"
    assert line["proxy_tls"] is True
    assert line["proxy_tls_verified"] is False
    assert (line["proxy_tls_version"], line["proxy_tls_cipher"]) == ("TLSv1.3", "TLS_AES_256_GCM_SHA384")
    assert bytes.fromhex(line["proxy_tlv_unique_id"]) == b"192.0.2.10-a"
    with over_tls(lab, ssl.TLSVersion.TLSv1_2) as client:
        assert client.reply() == (554, "5.7.1 TLSv1.2 for mx.example.org is too old")
    assert len(server.log.matches(r"smtpd\[\d+\]: connect from")) == 1


SESSION: dict[str, Any] = {
    "time": str,
    "session": str,
    "listener": "smtp",
    "sender_host_name": "client.example.net",
    "sender_host_address": "192.0.2.10",
    "sender_host_port": int,
    "received_ip_address": POD,
    "received_port": 25,
    "handover": "ProxyV2",
    "proxy_session": True,
    "proxy_host_address": BALANCER,
    "proxy_host_port": int,
    "proxy_target_address": BALANCER,
    "proxy_target_port": 25,
    "header_version": 1,
}
DIRECT = {
    **{key: SESSION[key] for key in ("time", "session", "listener", "sender_host_port", "received_port", "handover")},
    "sender_host_address": "192.0.2.11",
    "received_ip_address": POD,
}
FAILED = {
    **{key: value for key, value in DIRECT.items() if key != "sender_host_address"},
    "event": "proxy_failed",
    "sender_host_address": BALANCER,
    "proxy_session": True,
    "proxy_failed": True,
    "proxy_host_address": BALANCER,
    "proxy_host_port": int,
    "reason": "not_a_header",
    "reply": "421 4.3.2 mail.example.org service not available, try again later",
    "detail": str,
}
CLOSED = {"event": "closed", "bytes_in": int, "bytes_out": int, "duration": float}


def shape(line: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """The line, with types in place of the values that only have to be of a type."""
    return {key: type(value) if isinstance(like.get(key), type) else value for key, value in line.items()}


def test_json_lines_key_by_key(lab: Lab) -> None:
    lab.nameserver({"192.0.2.10": "client.example.net"})
    lab.postfix(master=PROXIED)
    sidecar = lab.sidecar(
        {"inbound": [listener()], "logging": {"format": "JSON", "selectors": ["+proxy", "+host_lookup"]}}
    )
    lab.haproxy(Forward(bind=(BALANCER, 25), to=(POD, 25), send="v1"))
    before = len(sidecar.log.lines)
    with lab.outside.talk((BALANCER, 25), source="192.0.2.10") as client:
        client.deliver()
        port = client.address[1]
    sidecar.log.wait_for(r'"event":"closed"')
    with lab.outside.talk((POD, 25), source="192.0.2.11") as client:
        client.deliver()
    sidecar.log.wait_for(r'"event":"closed"', times=2)
    with lab.outside.talk((POD, 25), source=BALANCER) as client:
        client.send("EHLO nobody\r\n")
        client.expect(421)
    sidecar.log.wait_for(r'"event":"proxy_failed"')
    lines = [json.loads(line) for line in sidecar.log.lines[before:]]
    expected = [
        {**SESSION, "event": "connect"},
        {**SESSION, **CLOSED},
        {**DIRECT, "event": "connect"},
        {**DIRECT, **CLOSED},
        FAILED,
    ]
    assert [shape(line, like) for line, like in zip(lines, expected, strict=True)] == expected
    assert lines[0]["sender_host_port"] == port
    assert all("null" not in line for line in sidecar.log.lines)
    assert len({line["session"] for line in lines}) == 3
