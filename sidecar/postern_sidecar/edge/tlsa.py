"""`postern-sidecar tlsa`: TLSA records for a zone file, and a host held against what DNS publishes for it.

The decisions are `dane.zonefile`'s and `outbound.published`'s. Exit codes: 0 a match, or nothing to compare; 1 a
mismatch or a warning; 2 a file or option that is none.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from postern_sidecar.dane import zonefile
from postern_sidecar.dane.records import DANE_TA
from postern_sidecar.dane.zonefile import Severity
from postern_sidecar.names import Domain
from postern_sidecar.outbound.published import Published, findings, visit
from postern_sidecar.outbound.tree import Style, Tone

from . import inquiring
from .check import style_of
from .inquiring import Unusable

if TYPE_CHECKING:
    from pathlib import Path

    from postern_sidecar.config.options import TLSARecords

MAX_SIZE = 1 << 20
"""Octets of a PEM file: some three hundred certificates."""

_TONES = {Severity.OK: Tone.GOOD, Severity.NOTE: Tone.PLAIN, Severity.WARNING: Tone.FAIR, Severity.ERROR: Tone.BAD}
_GOOD = (Severity.OK, Severity.NOTE)


def run(order: TLSARecords) -> int:
    try:
        chain = _certificates(order.certificate) if order.certificate is not None else ()
        written = _written(order, chain) if chain else ""
    except Unusable as reason:
        sys.stderr.write(f"{reason}\n")
        return 2
    if order.verify is None:
        sys.stdout.write(f"{written}\n")
        return 0
    return inquiring.run(_verify(order, chain))


def _certificates(path: Path) -> tuple[bytes, ...]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as problem:
        raise Unusable(f"{path}: cannot be read: {problem.strerror}") from None
    if len(data) > MAX_SIZE:
        raise Unusable(f"{path}: is larger than {MAX_SIZE} octets")
    try:
        return zonefile.certificates(data)
    except ValueError as problem:
        raise Unusable(f"{path}: {problem}") from None


def _written(order: TLSARecords, chain: tuple[bytes, ...]) -> str:
    """For the zone file: of the server's own certificate, which comes first, or of the authority's, which is last."""
    try:
        record = zonefile.record(
            chain[-1] if order.usage == DANE_TA else chain[0], order.usage, order.selector, order.matching
        )
    except ValueError as problem:
        raise Unusable(f"postern-sidecar tlsa: {problem}") from None
    return zonefile.line(order.owner, record) if order.owner is not None else str(record)


async def _verify(order: TLSARecords, chain: tuple[bytes, ...]) -> int:
    style = style_of(sys.stdout)
    wanted = order.verify
    assert wanted is not None  # noqa: S101 - else there is nothing to verify
    assert isinstance(wanted.host, str)  # noqa: S101 - the command line has seen to it
    async with inquiring.desk(inquiring.settings(order.config)) as desk:
        around = desk.surroundings()
        ready, why = around.ready()
        if not ready:
            sys.stderr.write(f"postern-sidecar: nothing that DNS says can be believed: {why}\n")
            return 1
        found = await desk.perform(visit(around, Domain(wanted.host), wanted.port))
    digests = desk.settings.outbound.dane.digests
    filename = str(order.certificate)
    all_found = list(findings(found, chain, filename, digests, datetime.now(UTC)))
    lines = [*_published(found, style)]
    for about, finding in all_found:
        lines.append(f"{about}: {style.paint(finding.severity.value, _TONES[finding.severity])}: {finding.text}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if all(finding.severity in _GOOD for _, finding in all_found) else 1


def _published(found: Published, style: Style) -> list[str]:
    records = [f"   {record}" for record in found.facts.records]
    state = found.facts.tlsa.value.replace("_", " ")
    return [f"{style.paint(f'{found.host} port {found.port}', Tone.STRONG)}: TLSA at {found.owner}, {state}", *records]
