"""The operator's settings, as the chart's ConfigMap gives them: one YAML or JSON file, unknown names refused.

Everything has the default that the chart has; a test holds the two together. Raises InvalidSettings.
"""

from __future__ import annotations

import difflib
import enum
import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta


class InvalidSettings(Exception):  # noqa: N818 - it is the file that is wrong
    """The text names the file, the place and the remedy."""


class FailurePolicy(enum.Enum):
    IGNORE = "Ignore"
    FAIL = "Fail"


class CertificateMode(enum.Enum):
    OPERATOR = "Operator"
    CERT_MANAGER = "CertManager"


class _Base(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True):
    pass


class Sidecar(_Base, frozen=True):
    """What injected containers look like. `run_as_user`: None lets the platform choose (OpenShift)."""

    image: str = "postern-sidecar:latest"
    image_pull_policy: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    resources: dict[str, Any] = msgspec.field(
        default_factory=lambda: {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"cpu": "1", "memory": "256Mi"},
        }
    )
    run_as_user: int | None = 65532
    admin_port: Annotated[int, Meta(ge=1, le=65535)] = 15925
    allowed_images: tuple[str, ...] = ()  # prefixes for spec.sidecar.image; none: refused
    allow_transparent: bool = False


class Webhook(_Base, frozen=True):
    """`configuration` is the MutatingWebhookConfiguration's name. `host`: of `webhook.url`, else "": one more name in
    the certificate. `certificates_dir`: where the pair is read from in CertManager mode."""

    configuration: str = "postern"
    service: str = "postern-webhook"
    host: str = ""
    address: str = ""  # all
    port: Annotated[int, Meta(ge=0, le=65535)] = 10250
    failure_policy: FailurePolicy = FailurePolicy.IGNORE
    certificates: CertificateMode = CertificateMode.OPERATOR
    certificates_dir: str = "/etc/postern-operator/tls"
    secret: str = "postern-webhook-tls"  # noqa: S105 - its name


class Settings(_Base, frozen=True):
    """`namespace` is the release's. `health_address` and `health_port`: live, ready and metrics."""

    namespace: str = "postern-system"
    service_account: str = "postern-operator"
    lease: str = "postern-operator"
    watch_namespaces: tuple[str, ...] = ()  # none: all
    health_address: str = ""
    health_port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    evict_uninjected: bool = False
    sidecar: Sidecar = Sidecar()
    webhook: Webhook = Webhook()


def parsed(data: bytes, filename: str) -> Settings:
    """YAML or JSON. Raises InvalidSettings."""
    try:
        return msgspec.yaml.decode(data, type=Settings) if data.strip() else Settings()
    except msgspec.ValidationError as problem:
        raise InvalidSettings(f"{filename}: {_explained(str(problem))}") from None
    except (msgspec.DecodeError, ValueError) as problem:
        raise InvalidSettings(f"{filename}: not YAML: {' '.join(str(problem).split())}") from None


_AT = re.compile(r"(?P<what>.*) - at `\$\.?(?P<where>.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)


def _explained(problem: str) -> str:
    """msgspec's sentence with the field in front; for a name that is none, those that there are."""
    at = _AT.fullmatch(problem)
    what, where = (at["what"], at["where"]) if at else (problem, "")
    unknown = _UNKNOWN.fullmatch(what)
    if unknown is None:
        return (
            f"{where or 'the whole'}: {what[:1].lower()}{what[1:]}; values.yaml of the chart says what may stand here"
        )
    fields = {"": Settings, "sidecar": Sidecar, "webhook": Webhook}.get(where)
    names = fields.__struct_encode_fields__ if fields else ()
    close = difflib.get_close_matches(unknown["name"], names, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
    place = f"{where}.{unknown['name']}" if where else unknown["name"]
    return f"{place}: there is no such setting; {remedy}"
