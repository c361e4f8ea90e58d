"""Every reason that Postern gives in Kubernetes, as a closed list: of conditions, of skipped pods, of Events.

The values are a contract (they stand in statuses, metrics, Events and documentation). Raises nothing.
"""

from __future__ import annotations

import enum


class Skip(enum.Enum):
    """Why a pod that reached the webhook, or that a policy selects, has no sidecar."""

    OPTED_OUT = "OptedOut"
    NO_POLICY = "NoPolicy"
    POLICY_INVALID = "PolicyInvalid"
    HOST_NETWORK = "HostNetwork"
    WINDOWS_POD = "WindowsPod"
    MIRROR_POD = "MirrorPod"
    RESERVED_PORT = "ReservedPort"
    SYSCTL_CONFLICT = "SysctlConflict"
    NAME_CONFLICT = "NameConflict"
    INTERNAL_ERROR = "InternalError"


class Condition(enum.Enum):
    """Types of `status.conditions`."""

    ACCEPTED = "Accepted"
    PROGRAMMED = "Programmed"
    SIDECARS_OUTDATED = "SidecarsOutdated"


class Accepted(enum.Enum):
    ACCEPTED = "Accepted"
    INVALID = "Invalid"
    CONFLICTED = "Conflicted"


class Programmed(enum.Enum):
    """The negative ones in their order: the first that holds is told."""

    PROGRAMMED = "Programmed"
    NOT_ACCEPTED = "NotAccepted"
    NAMESPACE_NOT_ENABLED = "NamespaceNotEnabled"
    CONFIG_MAP_CONFLICT = "ConfigMapConflict"
    SIDECAR_REJECTED = "SidecarRejected"
    RESTART_REQUIRED = "RestartRequired"
    NOT_INJECTED = "NotInjected"
    UNREACHABLE = "Unreachable"
    PENDING = "Pending"


class Eviction(enum.Enum):
    """Told in an Event about the pod's owner, and in no condition."""

    EVICTED = "PodEvicted"


class Outdated(enum.Enum):
    """Reasons of `SidecarsOutdated`."""

    UP_TO_DATE = "UpToDate"
    OLDER_SIDECARS = "OlderSidecars"
