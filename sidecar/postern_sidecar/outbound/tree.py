"""`postern-sidecar check` for people: a report as a tree, in colour and with lines where the terminal has them.

Decides what a person needs to see first; `--json` has all. Every value is printable ASCII already (`report`). It knows
no terminal: what that can do comes in as a `Style`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .plan import Level
from .report import Contact, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .report import AddressReport, HostReport, RecordReport, Report

RECORD: Final = 32  # characters of a TLSA record


class Tone(enum.Enum):
    """SGR parameters (ECMA-48)."""

    GOOD = "32"
    FAIR = "33"
    BAD = "31"
    DIM = "2"
    STRONG = "1"
    PLAIN = ""


@dataclass(frozen=True, slots=True)
class Style:
    colour: bool = False
    boxes: bool = False  # the encoding has U+2500 and its like

    def paint(self, text: str, tone: Tone) -> str:
        return f"\x1b[{tone.value}m{text}\x1b[0m" if self.colour and tone.value else text


@dataclass(frozen=True, slots=True)
class Node:
    text: str
    children: tuple[Node, ...] = ()


BOXES: Final = "├─ ", "│  ", "└─ ", "   "
PLAIN: Final = "|- ", "|  ", "`- ", "   "

_OUTCOMES: Final = {Outcome.DELIVER: Tone.GOOD, Outcome.DEFER: Tone.FAIR, Outcome.BOUNCE: Tone.BAD}
_LEVELS: Final = {Level.DANE: Tone.GOOD, Level.VERIFY: Tone.GOOD, Level.CLEAR: Tone.BAD}
_SECURITY: Final = {"secure": Tone.GOOD, "bogus": Tone.BAD, "failed": Tone.BAD}
_WAYS: Final = {"implicit": "no MX, it is its own host", "route": "by a route of the policy", "literal": "an address"}


def draw(report: Report, style: Style) -> Iterator[str]:
    """Lines, without their ends."""
    root = _report(report, style)
    yield root.text
    yield from _below(root.children, "", BOXES if style.boxes else PLAIN)


def _below(nodes: Sequence[Node], indent: str, pieces: tuple[str, str, str, str]) -> Iterator[str]:
    branch, line, last, space = pieces
    for number, node in enumerate(nodes, 1):
        at_end = number == len(nodes)
        yield f"{indent}{last if at_end else branch}{node.text}"
        yield from _below(node.children, indent + (space if at_end else line), pieces)


def _report(report: Report, style: Style) -> Node:
    outcome = style.paint(report.outcome.value, _OUTCOMES[report.outcome])
    level = "" if report.level is None else f", level {_level(report.level, style)}"
    text = f"{style.paint(report.domain, Tone.STRONG)}: {outcome}{level}"
    found = [Node(each) for each in (_because(report.reason, report.detail), report.reply) if each]
    if report.mx or report.way:
        found.append(Node(_mx(report, style)))
    return Node(text, (*found, *(_host(host, style) for host in report.hosts)))


def _mx(report: Report, style: Style) -> str:
    way = _WAYS.get(report.way, "")
    answer = "" if report.mx == "not_asked" else f"MX {_security(report.mx, style)}"
    return ": ".join(filter(None, (answer, way)))


def _host(host: HostReport, style: Style) -> Node:
    preference = f" preference {host.preference}" if host.mx != "not_asked" and host.preference else ""
    port = f" port {host.port}" if host.port != 25 else ""
    asked = f"addresses {_security(host.lookup, style)}, TLSA {_security(host.tlsa, style)}"
    known = Node(asked + (f" at {host.owner}" if host.owner else ""))
    records = tuple(Node(_record(record, style)) for record in host.records)
    if host.required is not None:
        wanted = Node(f"required: {_level(host.required, style)}{_behind(host.why)}")
    else:
        wanted = Node(f"{style.paint('not used', Tone.BAD)}: {_because(host.reason, host.why)}")
    addresses = (Node(_address(address, style)) for address in host.addresses)
    return Node(f"{host.name}{preference}{port}", (Node(known.text, records), wanted, *addresses))


def _record(record: RecordReport, style: Style) -> str:
    text = record.text if len(record.text) <= RECORD else f"{record.text[:RECORD]}..."
    if record.why:
        return f"{text}  {style.paint(f'does not count: {record.why}', Tone.FAIR)}"
    return f"{text}  {style.paint('matched', Tone.GOOD)}" if record.matched else text


def _address(address: AddressReport, style: Style) -> str:
    text = str(address.address)
    if address.contact is Contact.NOT_TRIED:
        return f"{text}  {style.paint('not tried', Tone.DIM)}"
    seen = "".join(f"  {part}" for part in (address.cipher, address.subject) if part)
    if address.contact is Contact.FAILED or address.level is None:
        return f"{text}  {style.paint(_because(address.reason, address.detail), Tone.BAD)}{seen}"
    verified = ", half-dane" if address.verified == "half-dane" else ""
    return f"{text}  {_level(address.level, style)}{verified}{seen}{_behind(address.detail)}"


def _level(level: Level, style: Style) -> str:
    return style.paint(level.value, _LEVELS.get(level, Tone.FAIR))


def _security(word: str, style: Style) -> str:
    return style.paint(word.replace("_", " "), _SECURITY.get(word, Tone.PLAIN))


def _because(reason: str, detail: str) -> str:
    return ": ".join(filter(None, (reason, detail)))


def _behind(detail: str) -> str:
    return f" ({detail})" if detail else ""
