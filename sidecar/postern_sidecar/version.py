"""The version of this distribution. pyproject.toml takes it from here: asking the metadata costs a sidecar 0.8 MiB."""

VERSION = "0.1.0"
