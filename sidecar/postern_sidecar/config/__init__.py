"""A policy's file format, shared with the operator: read it, judge it, deliver it.

`load` reads a manifest or raises `InvalidPolicy` with all that is wrong; `check` judges a policy that was read;
`normalized` is what the operator delivers. Knows no Kubernetes, opens no socket. The YAML and CEL libraries are
imported only for files and rules that need them.
"""

from .checks import check
from .listener_checks import ADMIN_PORT
from .model import Policy
from .normalize import config_hash, normalized
from .problems import InvalidPolicy, Problem, Severity, Unreadable
from .source import Loaded, load, read

__all__ = [
    "ADMIN_PORT",
    "InvalidPolicy",
    "Loaded",
    "Policy",
    "Problem",
    "Severity",
    "Unreadable",
    "check",
    "config_hash",
    "load",
    "normalized",
    "read",
]
