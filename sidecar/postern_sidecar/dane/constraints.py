"""For which names an authority may speak: nameConstraints (RFC 5280 4.2.1.10, 6.1.4).

dNSName, directoryName and iPAddress subtrees are judged. A certificate that has a name of another type which is
constrained above it is refused: what cannot be judged is not allowed. Stricter than OpenSSL in one thing: the name that
we look for is judged too, so that "*.example.org" is no way around an excluded "mx.example.org".
Names times subtrees are bounded (`MAX_COMPARISONS`; OpenSSL bounds them too): both are the peer's to multiply.
Raises NotAuthenticated.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509.oid import NameOID

from .certificate import name_key
from .names import presented_names
from .verdict import NotAuthenticated, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from postern_sidecar.names import Domain

    from .certificate import Certificate

MAX_COMPARISONS = 1 << 14
_SOME_MAILBOX = x509.RFC822Name("some@mailbox.invalid")  # mail addresses are not judged, so that any stands for all


def require_permitted(path: Sequence[Certificate], name: Domain) -> None:
    """Every certificate of the path has only names that all above it may speak for; so does the leaf by `name`.
    `path` begins with the leaf. Self-issued certificates in the middle are passed over (RFC 5280 6.1.3 (b))."""
    comparisons = 0
    for depth, authority in enumerate(path):
        constraints = authority.extension(x509.NameConstraints)
        if depth == 0 or constraints is None:
            continue
        for below, certificate in enumerate(path[:depth]):
            if below and certificate.self_issued:
                continue
            names = [*_names(certificate, leaf=not below), *([] if below else [x509.DNSName(name)])]
            subtrees = len(constraints.permitted_subtrees or ()) + len(constraints.excluded_subtrees or ())
            comparisons += len(names) * subtrees
            if comparisons > MAX_COMPARISONS:
                raise NotAuthenticated(Reason.CONSTRAINTS, f"more than {MAX_COMPARISONS} names to compare")
            _judge(names, constraints, authority)


def _names(certificate: Certificate, *, leaf: bool) -> list[x509.GeneralName]:
    """A leaf's common names are host names where it has no dNSName: names.py would take them for one."""
    found: list[x509.GeneralName] = []
    if certificate.subject.rdns:
        found.append(x509.DirectoryName(certificate.subject))
    alternative = certificate.extension(x509.SubjectAlternativeName)
    found += alternative or ()
    if leaf and not any(isinstance(name, x509.DNSName) for name in found):
        found += [x509.DNSName(name) for name in presented_names(certificate) if _host(name)]
    if certificate.subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS):
        found.append(_SOME_MAILBOX)
    return found


def _host(name: str) -> bool:
    """A common name that could be a host's: "Postfix on mx" is not."""
    return name.isascii() and "." in name and not any(character.isspace() for character in name)


def _judge(names: Iterable[x509.GeneralName], constraints: x509.NameConstraints, authority: Certificate) -> None:
    permitted = constraints.permitted_subtrees or ()
    excluded = constraints.excluded_subtrees or ()
    for name in names:
        allowed = [subtree for subtree in permitted if type(subtree) is type(name)]
        refused = [subtree for subtree in excluded if type(subtree) is type(name)]
        if allowed and not any(_inside(name, subtree, otherwise=False) for subtree in allowed):
            raise NotAuthenticated(Reason.CONSTRAINTS, f"{authority.name} is not permitted to speak for {name.value}")
        if any(_inside(name, subtree, otherwise=True) for subtree in refused):
            raise NotAuthenticated(Reason.CONSTRAINTS, f"{authority.name} is excluded from speaking for {name.value}")


def _inside(name: x509.GeneralName, subtree: x509.GeneralName, *, otherwise: bool) -> bool:
    """`otherwise`: what to say of types that are not judged here."""
    if isinstance(name, x509.DNSName) and isinstance(subtree, x509.DNSName):
        host, base = name.value.lower(), subtree.value.lower()
        return host == base or not base or host.endswith(base if base.startswith(".") else f".{base}")
    if isinstance(name, x509.DirectoryName) and isinstance(subtree, x509.DirectoryName):
        base_rdns = subtree.value.rdns
        return name_key(name.value.rdns[: len(base_rdns)]) == name_key(base_rdns)
    if isinstance(name, x509.IPAddress) and isinstance(subtree, x509.IPAddress):
        network = subtree.value
        return isinstance(network, IPv4Network | IPv6Network) and name.value in network
    return otherwise
