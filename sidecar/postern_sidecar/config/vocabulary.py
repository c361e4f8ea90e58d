"""The names that rules and message templates may use, their types, and what they mean (design section 8).

Exim's names, those of 2014 and their later aliases. What is absent is "", 0 or false. Expressions compile against this
list, `inbound.rules` fills it, docs/rules.md explains it; tests hold the three together.
"""

from __future__ import annotations

Variable = str | int | bool

VARIABLES: dict[str, type[str] | type[int] | type[bool]] = {
    "sender_host_address": str,
    "sender_host_port": int,
    "sender_host_name": str,
    "received_ip_address": str,
    "received_port": int,
    "proxy_session": bool,
    "proxy_failed": bool,
    "proxy_host_address": str,
    "proxy_host_port": int,
    "proxy_target_address": str,
    "proxy_target_port": int,
    "proxy_local_address": str,
    "proxy_local_port": int,
    "proxy_external_address": str,
    "proxy_external_port": int,
    "proxy_authority": str,
    "proxy_tls": bool,
    "proxy_tls_verified": bool,
    "proxy_tls_version": str,
    "proxy_tls_cipher": str,
    "proxy_tls_cn": str,
    "proxy_tls_sig_alg": str,
    "proxy_tls_key_alg": str,
    "proxy_tls_group": str,
    "proxy_tls_sig_scheme": str,
    "proxy_tls_client_cert_sha256": str,
    "proxy_tlv_alpn": str,
    "proxy_tlv_unique_id": str,
    "proxy_tlv_netns": str,
    "proxy_tlv_aws_vpce_id": str,
    "proxy_tlv_azure_link_id": int,
    "proxy_tlv_gcp_psc_id": str,
}

ALIASES = {
    "proxy_local_address": "proxy_host_address",
    "proxy_local_port": "proxy_host_port",
    "proxy_external_address": "proxy_target_address",
    "proxy_external_port": "proxy_target_port",
}
"""Exim's names since 4.87 -> those of 2014, which Postern keeps."""

ABSENT: dict[str, Variable] = {name: kind() for name, kind in VARIABLES.items()}
FUNCTIONS = ("in_network",)
