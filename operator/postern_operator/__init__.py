"""Postern's operator: policies to sidecar configuration, pods to injected pods."""
