"""Whether a certificate is for one of the names that we would accept (RFC 7672 3.2.2, 3.2.3, RFC 6125 6.4).

dNSNames of the subjectAltName; the common name only where there is no dNSName. A wildcard is a whole left-most label,
stands for exactly one, and needs two labels below it (`*.example.com`, never `*.com`). Comparison is of A-labels,
ASCII case ignored, whole: a NUL or a final dot is a different name. OpenSSL's wildcard covers no label with an
underscore in it; here it does, since such hosts exist. Raises NotAuthenticated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509.oid import NameOID

from .verdict import NotAuthenticated, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from postern_sidecar.names import Domain

    from .certificate import Certificate

_SHOWN = 4


def match(certificate: Certificate, references: Sequence[Domain]) -> Domain:
    """The first reference identifier that the certificate has."""
    presented = frozenset(map(_lower, presented_names(certificate)))
    for reference in references:
        if reference in presented or _wildcard(reference) in presented:
            return reference
    wanted = " or ".join(references) or "any name"
    shown = ", ".join(sorted(presented)[:_SHOWN]) + (", ..." if len(presented) > _SHOWN else "")
    raise NotAuthenticated(Reason.NAME, f"the certificate is for {shown or 'no name'}, not for {wanted}")


def presented_names(certificate: Certificate) -> list[str]:
    """What the certificate says that its server is called."""
    alternative = certificate.extension(x509.SubjectAlternativeName)
    names = alternative.get_values_for_type(x509.DNSName) if alternative is not None else []
    return names or [
        str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    ]


def _lower(name: str) -> str:
    """Only ASCII: no other letter becomes one by folding (U+212A KELVIN SIGN is no k)."""
    return name.lower() if name.isascii() else name


def _wildcard(reference: Domain) -> str | None:
    """The one wildcard that covers the reference."""
    below = reference.partition(".")[2]
    return f"*.{below}" if "." in below else None
